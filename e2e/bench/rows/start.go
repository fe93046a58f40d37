package rows

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/etcd-parallax/parallax/e2e/bench/osstat"
	"github.com/etcd-parallax/parallax/e2e/internal/process"
)

const (
	readyTimeout = 15 * time.Second
	// stopGrace is long enough for an orderly end, and no row is judged by it.
	stopGrace = 3 * time.Second
)

// ErrNoProgram means that a Debian package is missing.
var ErrNoProgram = errors.New("not installed")

// Running is a row that serves.
type Running struct {
	// Addr is where clients connect; PIDs are the proxy's processes, none of the direct way.
	Addr string
	PIDs []int

	process *process.Process
	log     string
}

// IsDirect tells that there is no proxy.
func (r Row) IsDirect() bool { return r.spec == nil }

// Find returns ErrNoProgram when the row needs one that is not there.
func (r Row) Find() error {
	if r.Program == "" {
		return nil
	}
	if _, err := os.Stat(Path(r.Program)); err != nil {
		return fmt.Errorf("%s is %w, apt-get install %s", r.Program, ErrNoProgram, r.Package)
	}
	return nil
}

// Start starts the row, and returns when it accepts connections.
func (r Row) Start(ctx context.Context, s Site) (*Running, error) {
	member := s.Member
	if r.Three {
		member = s.MemberOfThree
	}
	if r.IsDirect() {
		return &Running{Addr: member}, nil
	}
	dir, err := os.MkdirTemp(s.Dir, r.Name+"-")
	if err != nil {
		return nil, err
	}
	p := place{listen: net.JoinHostPort(s.IP, strconv.Itoa(s.Port())), member: member, dir: dir}
	spec, err := r.spec(s, p)
	if err != nil {
		return nil, err
	}
	run := &Running{Addr: p.listen, log: filepath.Join(dir, "log")}
	log, err := os.Create(run.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	spec.Stdout, spec.Stderr = log, log
	spec.DropEnv = append(spec.DropEnv, "ETCD_", "PARALLAX_", "GOMAXPROCS", "GOGC", "GOMEMLIMIT")
	if run.process, err = process.Start(spec); err != nil {
		return nil, err
	}
	processes := 1
	if r.Workers {
		processes += s.Threads
	}
	if err := run.waitReady(ctx, processes); err != nil {
		return nil, errors.Join(fmt.Errorf("%w, it said:\n%s", err, run.Log()), run.Stop())
	}
	return run, nil
}

// waitReady returns when somebody listens and so many processes work.
func (r *Running) waitReady(ctx context.Context, processes int) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := r.probe(ctx, processes)
		if err == nil {
			return nil
		}
		select {
		case <-r.process.Done():
			return fmt.Errorf("ended before it was ready: %s", r.process.State())
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w, last: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func (r *Running) probe(ctx context.Context, processes int) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.Addr)
	if err != nil {
		return err
	}
	conn.Close()
	if r.PIDs, err = osstat.WithChildren(r.process.PID()); err == nil && len(r.PIDs) != processes {
		return fmt.Errorf("%d processes, want %d", len(r.PIDs), processes)
	}
	return err
}

// Alive returns an error when the proxy has died.
func (r *Running) Alive() error {
	if r.process == nil || r.process.Running() {
		return nil
	}
	return fmt.Errorf("the proxy died: %s, it said:\n%s", r.process.State(), r.Log())
}

// Log returns the end of what the process said.
func (r *Running) Log() []byte {
	content, err := os.ReadFile(r.log)
	if err != nil {
		return []byte(err.Error())
	}
	return content[max(0, len(content)-2000):]
}

// Stop ends the process and its children, in order if it can.
func (r *Running) Stop() error {
	if r.process == nil {
		return nil
	}
	// A proxy that still drains clients after the grace period is killed;
	// that is its own affair, and no fault of the bench.
	_ = r.process.Terminate(stopGrace)
	// The children are in its process group, whose number is its own.
	if err := syscall.Kill(-r.process.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// Path of a program, also of one that Debian keeps away from ordinary users.
func Path(program string) string {
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	return filepath.Join("/usr/sbin", program)
}

func writeFile(path, content string) error { return os.WriteFile(path, []byte(content), 0o600) }
