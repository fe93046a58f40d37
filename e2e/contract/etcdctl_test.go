package contract

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

// All of etcdctl is compared in plain by the package above: here it is that it comes through, however it connects.
func etcdctlPoints() []point { return []point{{name: "etcdctl", run: etcdctl}} }

func etcdctl(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	path, err := binary.Builder{}.Etcdctl(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k := key(t, "etcdctl")
	for _, args := range [][]string{
		{"put", k, "value"},
		{"get", k},
		{"get", k, "--rev=1000000"},
		{"del", k},
		{"endpoint", "status", "--write-out=fields"},
		{"endpoint", "health"},
	} {
		stdout, stderr, state := runEtcdctl(t, path, p, args)
		clean := strings.NewReplacer(k, "KEY", p.url, "ENDPOINT").Replace
		switch {
		case args[0] == "endpoint" && args[1] == "status":
			var kept []string // what no other point moves
			for line := range strings.Lines(stdout) {
				if strings.Contains(line, "ID") || strings.Contains(line, "Version") || strings.Contains(line, "Leader") {
					kept = append(kept, line)
				}
			}
			stdout = strings.Join(kept, "")
		case args[0] == "endpoint":
			stdout, _, _ = strings.Cut(stdout, "took") // and how long
		}
		// Errors are told with a line of the log, which has the time in it and an address of memory.
		stderr = stderr[strings.LastIndex(strings.TrimRight(stderr, "\n"), "\n")+1:]
		saw.say("%v: %s %q %q", args[0], state, clean(stdout), clean(stderr))
	}
	if all := strings.Join(saw.lines, "\n"); strings.Count(all, "exit status 0") != 5 || !strings.Contains(all, "future revision") || !strings.Contains(all, "is healthy") {
		t.Errorf("saw %s", all)
	}
	return saw
}

func runEtcdctl(t *testing.T, path string, p *plumbing, args []string) (stdout, stderr, state string) {
	t.Helper()
	// The kernel kills the child when the thread that forked it ends: see internal/process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(patient(t), path, slices.Concat([]string{"--endpoints=" + p.url}, p.files, args)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ETCDCTL_") })
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // its error is the exit code
	return out.String(), errs.String(), cmd.ProcessState.String()
}
