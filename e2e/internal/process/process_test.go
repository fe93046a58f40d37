package process_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/e2e/internal/process"
)

// role makes this test binary play a part of a test instead of testing.
const role = "PROCESS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "sleeper":
		fmt.Println("sleeping", os.Getenv("PROCESS_TEST_DROPPED"))
		time.Sleep(time.Hour) // until it is killed
	case "parent":
		child := start(nil, "sleeper", os.Stderr)
		fmt.Println(child.PID())
		<-child.Done()
	case "generous parent":
		child, err := process.Start(process.Spec{
			Path: os.Args[0], Env: []string{role + "=sleeper"}, Stdout: os.Stderr, Outlive: true,
		})
		if err != nil {
			panic(err)
		}
		fmt.Println(child.PID())
		<-child.Done()
	default:
		goleak.VerifyTestMain(m)
	}
}

func TestChildDiesWithUs(t *testing.T) {
	pid := orphan(t, "parent")
	for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("child %d outlives its parent", pid)
		}
	}
}

func TestChildOutlivesUs(t *testing.T) {
	pid := orphan(t, "generous parent")
	if !alive(pid) {
		t.Fatalf("child %d did not outlive its parent", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// orphan starts a parent, kills it once its child runs, and returns the child.
// The kernel sends Pdeathsig before the parent can be waited for.
func orphan(t *testing.T, as string) int {
	t.Helper()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), role+"="+as)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if !alive(pid) {
		t.Fatalf("child %d does not run", pid)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // "signal: killed"
	return pid
}

func TestEnds(t *testing.T) {
	t.Setenv("PROCESS_TEST_DROPPED", "inherited")
	for name, end := range map[string]func(*process.Process) error{
		"kill":      (*process.Process).Kill,
		"terminate": func(p *process.Process) error { return p.Terminate(10 * time.Second) },
		"terminate a stopped process": func(p *process.Process) error {
			if err := p.Signal(syscall.SIGSTOP); err != nil {
				return err
			}
			return p.Terminate(10 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			p := start(t, "sleeper", &out)
			if !p.Running() || p.ExitCode() != -1 {
				t.Fatalf("state is %s", p.State())
			}
			for range 2 { // ending what has ended is no error
				if err := end(p); err != nil && !strings.Contains(err.Error(), "process already finished") {
					t.Fatal(err)
				}
			}
			if p.Running() || alive(p.PID()) {
				t.Fatal("it still runs")
			}
			if strings.Contains(out.String(), "inherited") {
				t.Fatal("a dropped variable was inherited")
			}
		})
	}
}

func TestStartSaysWhat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	if _, err := process.Start(process.Spec{Path: path}); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("error is %v", err)
	}
}

func start(t *testing.T, as string, stdout io.Writer) *process.Process {
	p, err := process.Start(process.Spec{
		Path: os.Args[0], Env: []string{role + "=" + as}, DropEnv: []string{"PROCESS_TEST_"}, Stdout: stdout,
	})
	if err != nil {
		if t == nil {
			panic(err)
		}
		t.Fatal(err)
	}
	return p
}

// alive reports whether the process exists and is no zombie: whoever inherits
// an orphan may take its time to bury it.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return !bytes.HasPrefix(state, []byte("Z"))
}
