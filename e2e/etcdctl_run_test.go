package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// etcdctlAt is etcdctl with one endpoint, working in a folder of its own.
type etcdctlAt struct {
	path, endpoint, dir string
}

// step is one call of etcdctl.
type step struct {
	args  []string
	stdin string

	// live: the answer depends on the moment. It is compared with what the same member answers directly at the same time.
	live bool

	// feed is for calls that do not end by themselves: each text is sent to stdin once stdout has what the one before waits for. After
	// the last one the end of stdin or, without -i, an interrupt ends the call.
	feed []feed
}

type feed struct {
	send  string   // to stdin
	run   []string // or another etcdctl command, to its end
	until string   // stdout has this
}

// said is what one call of etcdctl said.
type said struct {
	command, endpoint string
	stdout, stderr    string
	end               string // "exit status 1"
	files             string // that it wrote
	live              bool
}

const etcdctlTimeout = 20 * time.Second // of one call, on cores that are busy

func (e etcdctlAt) run(t *testing.T, s step) said {
	t.Helper()
	// The kernel kills the child when the thread that forked it ends: see internal/process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(t.Context(), e.path, s.args...)
	cmd.Dir = e.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ETCDCTL_") }), "ETCDCTL_ENDPOINTS="+e.endpoint)
	stdout, stderr := newGrowing(), newGrowing()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(etcdctlTimeout, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_, _ = io.WriteString(stdin, s.stdin) // a command that fails early does not read it
	for _, f := range s.feed {
		if f.run != nil {
			e.run(t, step{args: f.run})
		}
		_, _ = io.WriteString(stdin, f.send)
		if !stdout.wait(f.until, etcdctlTimeout) {
			t.Errorf("etcdctl %v: stdout never had %q", s.args, f.until)
			break
		}
	}
	if s.feed != nil && !slices.Contains(s.args, "-i") {
		_ = cmd.Process.Signal(os.Interrupt)
	}
	_ = stdin.Close()
	_ = cmd.Wait() // its error is the exit code, or the signal
	return said{
		command: strings.Join(s.args, " "), endpoint: e.endpoint, live: s.live,
		stdout: stdout.String(), stderr: stderr.String(), end: cmd.ProcessState.String(), files: e.files(t),
	}
}

// files tells what the command wrote, and removes it.
func (e etcdctlAt) files(t *testing.T) (list string) {
	t.Helper()
	written, err := filepath.Glob(filepath.Join(e.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range written {
		list += filepath.Base(path) + " " + snapshot(t, path) + "\n"
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// snapshot tells what is in a snapshot. Two snapshots in a row differ also directly: each commits a transaction, which moves pages.
// So its bytes are held against the hash that the member sent behind them, and what it says against the other snapshot.
func snapshot(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pages := content[:max(0, len(content)-sha256.Size)]
	sum := sha256.Sum256(pages)
	if !bytes.Equal(sum[:], content[len(pages):]) {
		return fmt.Sprintf("of %d bytes is damaged", len(content))
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	hash := sha256.New()
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				_, _ = fmt.Fprintf(hash, "%q %q %q\n", name, k, v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("of %d bytes with the content %x", len(content), hash.Sum(nil))
}

// growing is output that can be waited for.
type growing struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed by the next write
}

func newGrowing() *growing { return &growing{more: make(chan struct{})} }

func (g *growing) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.more)
	g.more = make(chan struct{})
	return g.text.Write(b)
}

func (g *growing) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}

func (g *growing) wait(text string, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		g.mu.Lock()
		found, more := bytes.Contains(g.text.Bytes(), []byte(text)), g.more
		g.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-more:
		case <-timer.C:
			return false
		}
	}
}
