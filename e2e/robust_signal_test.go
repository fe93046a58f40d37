package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// SIGTERM under load: Parallax ends in order, in time, and every write that a client was told of is there.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	// So long that a stop which waits for a watch, which has no end, is told from one that waits for answers.
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shutdown-timeout=60s"}})
	ctx, cancel := context.WithCancel(t.Context())
	acked := map[string]int64{} // key → revision
	var mu sync.Mutex
	var writers sync.WaitGroup
	for i := range 8 {
		client := connect(t, p.ClientURL)
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("/stop/%d/%d", i, n)
				put, err := client.Put(ctx, key, key)
				if err != nil {
					return // Parallax has ended: whether this one was written, nobody was told
				}
				mu.Lock()
				acked[key] = put.Header.Revision
				mu.Unlock()
			}
		})
	}
	many := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	eventually(t, 30*time.Second, "some load", func() bool { return many() > 500 })
	watcher := connect(t, p.ClientURL)
	if r := <-watcher.Watch(ctx, "/stop/", clientv3.WithPrefix(), clientv3.WithCreatedNotify()); !r.Created {
		t.Fatalf("watch: %v", r)
	}
	eventually(t, 10*time.Second, "more load", func() bool { return many() > 800 })
	begin := time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended(t, p, 20*time.Second)
	if took := time.Since(begin); p.ExitCode() != 0 {
		t.Errorf("ended after %v with exit code %d:\n%s", took, p.ExitCode(), p.Log())
	}
	cancel()
	writers.Wait()

	got, err := c.Client().Get(t.Context(), "/stop/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]int64{}
	for _, kv := range got.Kvs {
		held[string(kv.Key)] = kv.ModRevision
	}
	for key, revision := range acked {
		if held[key] != revision {
			t.Errorf("%s was acknowledged at revision %d, and is at %d", key, revision, held[key])
		}
	}
}

// A call that is never answered does not keep Parallax from ending in time, and with exit code 0.
func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36, Size: 1})
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shutdown-timeout=2s"}})
	unanswered(t, c, p)
	begin := time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// What follows the drain (records, admin listener, log) has bounds of its own.
	ended(t, p, 10*time.Second)
	if took := time.Since(begin); took < 2*time.Second || p.ExitCode() != 0 {
		t.Errorf("ended after %v with exit code %d, want 0, and 2 s of patience:\n%s", took, p.ExitCode(), p.Log())
	}
	logs(t, p, "connections were still open when --shutdown-timeout was over")
}

// A second SIGTERM does not wait for anybody.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36, Size: 1})
	p, err := parallax.Start(t.Context(), parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shutdown-timeout=5m"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }() // which minds the exit code
	unanswered(t, c, p)
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	logs(t, p, "stopping")
	select {
	case <-p.Done():
		t.Fatalf("it did not wait for the call:\n%s", p.Log())
	case <-time.After(500 * time.Millisecond):
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended(t, p, 5*time.Second)
	if p.ExitCode() != 143 {
		t.Errorf("the exit code is %d, want 143:\n%s", p.ExitCode(), p.Log())
	}
}

// unanswered leaves a client waiting for the answer of a member that hangs.
func unanswered(t *testing.T, c *cluster.Cluster, p *parallax.Process) {
	t.Helper()
	client := connect(t, p.ClientURL)
	if _, err := client.Put(t.Context(), "/unanswered", "v"); err != nil {
		t.Fatal(err)
	}
	if err := c.Members[0].Pause(); err != nil {
		t.Fatal(err)
	}
	up := count(t, p, "parallax_proxy_bytes_total", `direction="up"`)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = client.Get(ctx, "/unanswered")
	}()
	t.Cleanup(func() { cancel(); <-asked })
	eventually(t, 10*time.Second, "the call to be under way", func() bool {
		return count(t, p, "parallax_proxy_bytes_total", `direction="up"`) > up
	})
}

// SIGHUP takes rates from the file; a bad file changes nothing; the pause file stops shadow reads, and only these.
func TestReloadAndPause(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	dir := t.TempDir()
	file, pause := filepath.Join(dir, "parallax.yaml"), filepath.Join(dir, "pause")
	write(t, file, "sample-writes: 0\n")
	p := parallax.StartT(t, parallax.Options{
		Endpoints: c.Endpoints(), Race: true, Flags: []string{"--config=" + file, "--shadow-pause-file=" + pause},
	})
	allMembers(t, p)
	client := connect(t, p.ClientURL)
	puts := 0
	put := func() {
		t.Helper()
		if _, err := client.Put(t.Context(), "/reload", fmt.Sprint(puts)); err != nil {
			t.Fatal(err)
		}
		puts++
	}
	reads := func() float64 { return count(t, p, "parallax_shadow_member_reads_total") }
	calls := func(outcome string) float64 {
		return count(t, p, "parallax_shadow_calls_total", `kind="write"`, fmt.Sprintf("outcome=%q", outcome))
	}
	unread := func() { // ten puts, and nobody is asked about them
		t.Helper()
		before := reads()
		for range 10 {
			put()
		}
		time.Sleep(300 * time.Millisecond) // a check follows its put within 20 ms, but there is nothing to wait for
		if n := reads(); n != before {
			t.Errorf("%v shadow reads, want none", n-before)
		}
	}
	sampledOut := func() {
		t.Helper()
		was := calls("share")
		unread()
		eventually(t, 10*time.Second, "the puts to be counted as sampled out", func() bool { return calls("share") == was+10 })
	}
	some := func() {
		t.Helper()
		before := reads()
		eventually(t, 20*time.Second, "shadow reads", func() bool { put(); return reads() > before })
		quiet(t, p)
	}
	sampledOut()
	hangup(t, p, file, "sample-writes: 1\n", "configuration reloaded")
	some()
	hangup(t, p, file, "sample-writes: 2\n", "configuration not reloaded")
	some()
	hangup(t, p, file, "no-such-option: 1\n", "no-such-option")
	some()

	write(t, pause, "")
	logs(t, p, "shadow paused")
	unread()
	if err := os.Remove(pause); err != nil {
		t.Fatal(err)
	}
	logs(t, p, "shadow goes on")
	some()
	hangup(t, p, file, "sample-writes: 0\nshadow-queue: 7\n", "shadow-queue") // reloaded, and said to need a restart
	sampledOut()
	silent(t, p)
}

func hangup(t *testing.T, p *parallax.Process, file, content, says string) {
	t.Helper()
	write(t, file, content)
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	logs(t, p, says)
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// status of an HTTP answer; 0 when there is none.
func status(t *testing.T, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true // an idle connection would be found as a leak
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}
