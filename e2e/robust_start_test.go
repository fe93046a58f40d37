package e2e

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/fault"
	"github.com/etcd-parallax/parallax/e2e/internal/loopback"
	"github.com/etcd-parallax/parallax/e2e/internal/process"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// GUARANTEE G2: Only a mistake in syntax, client listener or TLS stops the start; unreachable members, an unusable data dir, log or
// admin port are reported and retried while clients are served.
func TestG2MembersThatComeLater(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	if err := c.StopAll(); err != nil {
		t.Fatal(err)
	}
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, NotReady: true})
	eventually(t, 20*time.Second, "the admin listener", func() bool { return status(t, p.AdminURL+"/livez") == 200 })
	if got := status(t, p.AdminURL+"/readyz"); got != 503 {
		t.Errorf("readyz is %d without any member, want 503", got)
	}
	if _, err := newConnection(t, p); err == nil {
		t.Error("a client was served without any member")
	}
	logs(t, p, "no endpoint can be reached")

	client := connect(t, p.ClientURL) // has to find its way by itself
	if err := c.StartAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	allMembers(t, p)
	if _, err := client.Put(t.Context(), "/later", "v"); err != nil {
		t.Errorf("a client that had come before the members: %v", err)
	}
	eventually(t, 10*time.Second, "a check", func() bool {
		return count(t, p, "parallax_shadow_checks_total", `verdict="consistent"`) > 0
	})
}

func TestG2BusyAdminPort(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36, Size: 1})
	busy := listen(t)
	// The harness has its own admin address, too: there it can be asked how it is.
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--listen-admin-urls=http://" + busy.Addr().String()}})
	logs(t, p, "admin listener failed", busy.Addr().String(), "address already in use")
	served(t, p)
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "the freed address to be served", func() bool {
		return status(t, "http://"+busy.Addr().String()+"/readyz") == 200
	})
}

func TestG2UnwritableDivergenceLog(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	folder := filepath.Join(t.TempDir(), "not-there")
	file := filepath.Join(folder, "divergence.log")
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--divergence-log=" + file}})
	allMembers(t, p)
	differ(t, c, p)
	logs(t, p, "divergence log cannot be written", file)
	served(t, p)

	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "the record that waited", func() bool {
		text, _ := os.ReadFile(file)
		return bytes.Contains(text, []byte("/differs"))
	})
	logs(t, p, "divergence log can be written again")
	if n := len(p.Records()); n != 0 {
		t.Errorf("%d records on stdout", n)
	}
}

// The reader of stdout goes away: records cannot be written, and clients are served on.
func TestG2ReaderOfStdoutGone(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	path, err := binary.Builder{}.Parallax(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	ip, err := loopback.Address(23790, 23791)
	if err != nil {
		t.Fatal(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := newGrowing()
	child, err := process.Start(process.Spec{
		Path: path, Args: []string{"serve", "--endpoints=" + strings.Join(c.Endpoints(), ","),
			"--listen-client-urls=" + loopback.URL("http", ip, 23790), "--listen-admin-urls=" + loopback.URL("http", ip, 23791)},
		DropEnv: []string{"PARALLAX_"}, Stdout: writer, Stderr: stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Kill() })
	_, _ = writer.Close(), reader.Close()
	p := &parallax.Process{ClientURL: loopback.URL("http", ip, 23790), AdminURL: loopback.URL("http", ip, 23791)}
	eventually(t, 20*time.Second, "readiness", func() bool { return status(t, p.AdminURL+"/readyz") == 200 })
	allMembers(t, p)
	differ(t, c, p)
	if !stderr.wait("divergence log cannot be written", 20*time.Second) {
		t.Errorf("not reported:\n%s", stderr)
	}
	served(t, p)
	if err := child.Terminate(10 * time.Second); err != nil || child.ExitCode() != 0 {
		t.Errorf("%s, %v; it said\n%s", child.State(), err, stderr)
	}
	if strings.Contains(stderr.String(), "DATA RACE") {
		t.Errorf("a data race:\n%s", stderr)
	}
}

func TestBusyClientListener(t *testing.T) {
	t.Parallel()
	busy := listen(t)
	p, err := parallax.Start(t.Context(), parallax.Options{
		Endpoints: []string{"http://127.0.0.1:1"}, Race: true, NotReady: true, Flags: []string{"--listen-client-urls=http://" + busy.Addr().String()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }() // which minds the exit code
	ended(t, p, 20*time.Second)
	text := string(p.Log())
	if p.ExitCode() != 1 || !strings.Contains(text, busy.Addr().String()) || !strings.Contains(text, "address already in use") ||
		!strings.Contains(text, "--listen-client-urls") {
		t.Errorf("exit code %d, want 1, and which address and what to do:\n%s", p.ExitCode(), text)
	}
}

// An observer has no clients: it is ready, knows the members, and has nothing to complain about.
func TestObserver(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints()[:1], Race: true, Observer: true})
	allMembers(t, p)
	if got := status(t, p.AdminURL+"/readyz"); got != 200 {
		t.Errorf("readyz is %d", got)
	}
	if text := string(p.Log()); strings.Contains(text, "level=ERROR") || strings.Contains(text, "level=WARN") || !strings.Contains(text, "without clients") {
		t.Errorf("it says:\n%s", text)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	silent(t, p)
}

// differ makes a member differ by the transaction of etcd issue 18667, and waits until Parallax has seen it.
func differ(t *testing.T, c *cluster.Cluster, p *parallax.Process) {
	t.Helper()
	if err := fault.Txn18667(t.Context(), c.Members[0].Client(), "/none", "/other", "v"); err != nil {
		t.Fatal(err)
	}
	client := connect(t, p.ClientURL)
	eventually(t, 20*time.Second, "a divergent verdict", func() bool {
		if _, err := client.Put(t.Context(), "/differs", "v"); err != nil {
			t.Fatal(err)
		}
		return count(t, p, "parallax_shadow_checks_total", `verdict="divergent"`) > 0
	})
}

// served checks that clients are.
func served(t *testing.T, p *parallax.Process) {
	t.Helper()
	client := connect(t, p.ClientURL)
	for range 20 {
		put, err := client.Put(t.Context(), "/served", "v")
		if err != nil {
			t.Fatal(err)
		}
		got, err := client.Get(t.Context(), "/served", clientv3.WithSerializable())
		if err != nil || len(got.Kvs) != 1 || got.Kvs[0].ModRevision != put.Header.Revision {
			t.Fatalf("put at %d, got %v, %v", put.Header.Revision, got, err)
		}
	}
}

// logs waits until a line of the log has all these words.
func logs(t *testing.T, p *parallax.Process, words ...string) {
	t.Helper()
	eventually(t, 20*time.Second, "a log line with "+strings.Join(words, ", "), func() bool {
	lines:
		for line := range strings.Lines(string(p.Log())) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return true
		}
		return false
	})
}

func ended(t *testing.T, p *parallax.Process, within time.Duration) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(within):
		t.Fatalf("it still runs after %v:\n%s", within, p.Log())
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
