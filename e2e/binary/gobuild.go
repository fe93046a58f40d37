package binary

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Progress is one step of a build.
type Progress struct {
	// Target is what is built, e.g. "etcd 3.6.16".
	Target string

	// Compiled counts the packages compiled so far. Those that the build
	// cache has are never compiled, so it may end below Packages.
	Compiled, Packages int

	Elapsed time.Duration

	// Done is set in the last step of a build that succeeded.
	Done bool
}

func (p Progress) String() string {
	if p.Done {
		return fmt.Sprintf("built %s in %v", p.Target, p.Elapsed.Round(100*time.Millisecond))
	}
	return fmt.Sprintf("building %s: %d of at most %d packages, %v", p.Target, p.Compiled, p.Packages, p.Elapsed.Round(time.Second))
}

type goBuild struct {
	title  string
	dir    string
	output string
	pkg    string
	flags  []string
	env    []string
}

// run builds, and reports a package as soon as the go tool names it.
func (b goBuild) run(ctx context.Context, report func(Progress)) error {
	if err := os.MkdirAll(filepath.Dir(b.output), 0o755); err != nil {
		return err
	}
	start := time.Now()
	progress := Progress{Target: b.title}
	step := func() {
		if report != nil {
			progress.Elapsed = time.Since(start)
			report(progress)
		}
	}
	args := append([]string{"build", "-v", "-o", b.output}, b.flags...)
	cmd := b.command(ctx, append(args, b.pkg)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build %s: %w", b.title, err)
	}
	var said bytes.Buffer
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		line := lines.Text()
		if strings.ContainsAny(line, " \t") || strings.HasPrefix(line, "#") {
			said.WriteString(line + "\n") // a message, not the name of a package
			continue
		}
		if progress.Packages == 0 && report != nil {
			progress.Packages = b.packages(ctx)
		}
		progress.Compiled++
		step()
	}
	_, _ = io.Copy(&said, stderr) // if a line was too long for the scanner
	if err := cmd.Wait(); err != nil {
		return errors.Join(fmt.Errorf("build %s in %s: %w\n%s", b.title, b.dir, err, said.Bytes()), lines.Err())
	}
	if progress.Done = true; progress.Compiled > 0 {
		step()
	}
	return nil
}

// packages returns how many packages there are to compile, 0 when the go tool
// does not say: the number is only for the eyes.
func (b goBuild) packages(ctx context.Context) int {
	out, err := b.command(ctx, "list", "-deps", b.pkg).Output()
	if err != nil {
		return 0
	}
	return bytes.Count(out, []byte("\n"))
}

func (b goBuild) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), b.env...)
	// An interrupted go tool ends its compilers, a killed one leaves them.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// lock serializes builds of all test processes on this machine: side by side
// they would compile the same packages twice. Waiting ends with ctx.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil // closing unlocks
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("lock %s, held by another build: %w", file.Name(), ctx.Err())
		case <-tick.C:
		}
	}
}
