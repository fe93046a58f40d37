package osstat_test

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/etcd-parallax/parallax/e2e/bench/osstat"
)

// A busy child costs CPU, an idle one none, and both are found as our children.
func TestCPUOfChildren(t *testing.T) {
	busy, idle := start(t, "while :; do :; done"), start(t, "read forever")
	children, err := osstat.WithChildren(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{os.Getpid(), busy, idle} {
		if !slices.Contains(children, pid) {
			t.Errorf("%d is missing among %v", pid, children)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		spent, err := osstat.CPU(busy)
		if err != nil {
			t.Fatal(err)
		}
		if spent > 100*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a busy process used only %v", spent)
		}
	}
	spent, err := osstat.CPU(idle)
	if err != nil || spent > 50*time.Millisecond {
		t.Errorf("an idle process used %v, %v", spent, err)
	}
	both, err := osstat.CPU(busy, idle)
	if err != nil || both < 100*time.Millisecond {
		t.Errorf("both used %v, %v", both, err)
	}
	if _, err := osstat.CPU(1<<22 + 1); err == nil {
		t.Error("a process that does not exist has CPU time")
	}
}

// What a process had once at its height is forgotten when it is told so.
func TestPeakCanBeReset(t *testing.T) {
	pid := os.Getpid()
	block := make([]byte, 64<<20)
	for i := range block {
		block[i] = 1
	}
	grown, err := osstat.ReadMemory(pid)
	if err != nil || grown.Peak < int64(len(block)) {
		t.Fatalf("memory is %+v, %v", grown, err)
	}
	runtime.KeepAlive(block)
	debug.FreeOSMemory()
	if err := osstat.ResetPeak(pid); err != nil {
		t.Skipf("this kernel cannot reset the peak: %v", err)
	}
	if m, err := osstat.ReadMemory(pid); err != nil || m.Peak > grown.Peak-32<<20 {
		t.Errorf("memory was %+v, and after the reset is %+v, %v", grown, m, err)
	}
}

func start(t *testing.T, script string) int {
	cmd := exec.Command("bash", "-c", script)
	stdin, err := cmd.StdinPipe() // reading it lasts until we close it
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed"
	})
	return cmd.Process.Pid
}

func TestThisMachine(t *testing.T) {
	m := osstat.ThisMachine()
	if m.Cores < 1 || m.Kernel == "unknown" || m.MemoryGB < 0.1 || m.Go == "" {
		t.Errorf("%+v", m)
	}
}
