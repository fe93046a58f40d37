package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

// asDemo makes this test binary the demo.
const asDemo = "PARALLAX_DEMO"

func TestMain(m *testing.M) {
	if os.Getenv(asDemo) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

var lastLine = regexp.MustCompile(`(?m)^demo: divergence named in \d+ ms\n\z`)

func TestTheStoryEndsWell(t *testing.T) {
	t.Parallel()
	d := start(t)
	out, code := d.wait(t)
	if code != 0 || !lastLine.MatchString(out) {
		t.Errorf("exit code %d, last line %q", code, last(out))
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colors though it is no terminal")
	}
	for _, want := range []string{"Error: etcdserver: mvcc: required revision is a future revision", "is healthy", `{"schema":`, "0 errors"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not said", want)
		}
	}
	d.nothingLeft(t)
}

// The control: where the bug is mended, the demo says so.
func TestWithoutTheBugNothingIsNamed(t *testing.T) {
	t.Parallel()
	d := start(t, "--etcd", binary.Etcd37)
	out, code := d.wait(t)
	if want := "demo: nothing to name, the members of etcd " + binary.Etcd37 + " agree"; code != 1 || last(out) != want {
		t.Errorf("exit code %d, last line %q, want %q", code, last(out), want)
	}
	if !strings.Contains(out, "0 divergent, 0 inconclusive; 0 records") {
		t.Error("that Parallax is silent is not said")
	}
	d.nothingLeft(t)
}

func TestKeptMembersOutliveTheDemo(t *testing.T) {
	t.Parallel()
	d := start(t, "--keep")
	out, code := d.wait(t)
	stop := regexp.MustCompile(`(?m)^ *\$ (kill -9 .*; rm -rf .*)$`).FindStringSubmatch(out)
	if code != 0 || !lastLine.MatchString(out) || stop == nil {
		d.kill(t)
		t.Fatalf("exit code %d, last line %q, the command to stop %q", code, last(out), stop)
	}
	if n := len(d.processes(t)); n != 4 {
		t.Errorf("%d processes run, want 3 members and Parallax", n)
	}
	admin := regexp.MustCompile(`ADMIN=(http://\S+)`).FindStringSubmatch(out)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	if resp, err := client.Get(admin[1] + "/readyz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("/readyz of the kept Parallax: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	if said, err := exec.Command("sh", "-c", stop[1]).CombinedOutput(); err != nil {
		d.kill(t)
		t.Errorf("%s: %v %s", stop[1], err, said)
	}
	d.nothingLeft(t)
}

func TestInterruptLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--keep"}} {
		d := start(t, args...)
		d.readUntil(t, "4. ")
		if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		out, code := d.wait(t)
		if want := "demo: interrupt signal received"; code != 1 || last(out) != want {
			t.Errorf("exit code %d, last line %q, want %q", code, last(out), want)
		}
		d.nothingLeft(t)
	}
}

// A Parallax that checks no writes does not see what the demo is about.
func TestADivergenceThatIsNotNamedFails(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	opts := options{etcd: binary.Etcd36, patience: time.Second, flags: []string{"--sample-writes=0", "--sample-reads=1"}}
	code := demo(t.Context(), opts, newTerminal(file))
	out, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	if want := "demo: not named within 1s"; code != 1 || !strings.HasPrefix(last(string(out)), want) {
		t.Errorf("exit code %d, last line %q, want %q", code, last(string(out)), want)
	}
	if !bytes.Contains(out, []byte("serving clients")) {
		t.Error("Parallax's log is not shown")
	}
}

// running is a demo in a process of its own, with a folder for temporary files
// that also marks its children.
type running struct {
	cmd *exec.Cmd
	out *bufio.Reader
	tmp string
	had strings.Builder
}

func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	d := &running{tmp: t.TempDir()}
	d.cmd = exec.CommandContext(ctx, os.Args[0], args...)
	d.cmd.Env = append(os.Environ(), asDemo+"=1", "TMPDIR="+d.tmp)
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	d.cmd.Stderr = os.Stderr
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.out = bufio.NewReader(out)
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("demo %v said:\n%s", args, d.had.String())
		}
	})
	return d
}

// readUntil reads until a line begins with a text.
func (d *running) readUntil(t *testing.T, begin string) {
	t.Helper()
	for {
		line, err := d.out.ReadString('\n')
		d.had.WriteString(line)
		if err != nil {
			t.Fatalf("no line begins with %q: %v", begin, err)
		}
		if strings.HasPrefix(line, begin) {
			return
		}
	}
}

func (d *running) wait(t *testing.T) (out string, exitCode int) {
	t.Helper()
	if _, err := io.Copy(&d.had, d.out); err != nil {
		t.Error(err)
	}
	_ = d.cmd.Wait() // the exit code tells
	return d.had.String(), d.cmd.ProcessState.ExitCode()
}

// processes returns those that the demo left.
func (d *running) processes(t *testing.T) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil || len(files) == 0 {
		t.Fatalf("no processes in /proc: %v", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file) // empty for a zombie
		if err == nil && bytes.Contains(content, []byte("TMPDIR="+d.tmp+"\x00")) {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

// kill ends what the demo should not have left, so that the next test starts clean.
func (d *running) kill(t *testing.T) {
	if pids := d.processes(t); len(pids) > 0 {
		_ = exec.Command("kill", append([]string{"-9"}, pids...)...).Run() // they may have ended
	}
}

func (d *running) nothingLeft(t *testing.T) {
	t.Helper()
	// A SIGKILL is delivered a moment after kill has returned.
	deadline := time.Now().Add(10 * time.Second)
	for len(d.processes(t)) > 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if pids := d.processes(t); len(pids) > 0 {
		d.kill(t)
		t.Errorf("processes left: %v", pids)
	}
	if left, err := os.ReadDir(d.tmp); err != nil || len(left) > 0 {
		t.Errorf("folders left: %v, %v", left, err)
	}
}

func last(out string) string {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	return lines[len(lines)-1]
}
