// Package process runs child processes that do not outlive the process which
// started them, unless that is asked for.
package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Spec says what to run.
type Spec struct {
	Path string
	Args []string

	// Env is added to the environment of this process.
	Env []string

	// DropEnv are prefixes of variables that are not inherited: a variable
	// that configures the program behind the test's back makes tests lie.
	DropEnv []string

	Stdout, Stderr io.Writer

	// Outlive leaves the child running when we die. Its output must be files
	// then: a pipe would end with us.
	Outlive bool
}

// Process is a started child process.
type Process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; readable once done is closed
}

// Start starts a child. It leads a process group of its own, so that a ^C in
// the terminal reaches only us, and the kernel kills it when we die (but see Outlive).
func Start(spec Spec) (*Process, error) {
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Env = append(environ(spec.DropEnv), spec.Env...)
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if !spec.Outlive {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	p := &Process{name: filepath.Base(spec.Path), cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	return p, nil
}

// run owns the child from its start to its end. Pdeathsig fires when the
// *thread* that forked ends (https://go.dev/issue/27505), and the runtime ends
// threads as it likes: so this thread is ours until the child is gone.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	p.err = p.cmd.Wait()
	close(p.done)
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and its output is written.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ExitCode returns the exit code, -1 when a signal ended the process or when
// it still runs.
func (p *Process) ExitCode() int {
	if p.Running() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// Signaled returns the signal that ended the process, 0 if none did.
func (p *Process) Signaled() syscall.Signal {
	if p.Running() {
		return 0
	}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return status.Signal()
	}
	return 0
}

// State describes how the process ended, e.g. "exit status 1".
func (p *Process) State() string {
	if p.Running() {
		return "running"
	}
	return p.cmd.ProcessState.String()
}

// Signal sends a signal; to a process that has ended it is an error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %v to %s (pid %d): %w", sig, p.name, p.PID(), err)
	}
	return nil
}

// Kill ends the process with SIGKILL and waits for it. Killing a process that
// has ended is no error.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// Terminate ends the process with SIGTERM and waits for it. A process that has
// not ended within the grace period is killed, and that is an error.
func (p *Process) Terminate(grace time.Duration) error {
	// A process stopped with SIGSTOP would never see the SIGTERM.
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGCONT} {
		if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return errors.Join(fmt.Errorf("%s (pid %d) still ran %v after SIGTERM and was killed", p.name, p.PID(), grace), p.Kill())
	}
}

func environ(drop []string) []string {
	var kept []string
next:
	for _, variable := range os.Environ() {
		for _, prefix := range drop {
			if strings.HasPrefix(variable, prefix) {
				continue next
			}
		}
		kept = append(kept, variable)
	}
	return kept
}
