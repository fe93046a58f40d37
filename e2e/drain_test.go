package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/internal/loopback"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// restarts is how many there are, and whether their time is to be measured: without the race detector, which makes a start
// take three times as long.
func restarts(t testing.TB) (rounds int, measure bool) {
	t.Helper()
	text, measure := os.LookupEnv("PARALLAX_RESTARTS")
	if !measure {
		return 2, false
	}
	rounds, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("PARALLAX_RESTARTS: %v", err)
	}
	return rounds, true
}

// A restart of Parallax under load loses no acknowledged write and repeats none, watches go on where they were, and
// clients are without an answer for about as long as it takes to start a process: not for as long as a watch lasts.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	_, measure := restarts(t)
	path, err := binary.Builder{}.Parallax(t.Context(), !measure && binary.CanRace())
	if err != nil {
		t.Fatal(err)
	}
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	url := freeURL(t, "http")
	start := func() *parallax.Process {
		// It is told to be far more patient than what is wanted here.
		return startBuilt(t, path, url, parallax.Options{Endpoints: c.Endpoints(), NotReady: true, Flags: []string{"--shutdown-timeout=20s"}})
	}
	p := start()
	underLoad(t, c, url, func() (exited time.Time) {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		ended(t, p, 10*time.Second) // half the patience
		exited = time.Now()
		p = start()
		return exited
	})
}

// What a restart of etcd itself costs the same clients, to compare with.
func TestRestartOfEtcdUnderLoad(t *testing.T) {
	if _, measure := restarts(t); !measure {
		t.Skip("PARALLAX_RESTARTS is not set: this tells nothing about Parallax")
	}
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36, Size: 1})
	m := c.Members[0]
	underLoad(t, c, m.ClientURL, func() (exited time.Time) {
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
		exited = time.Now()
		if err := m.Launch(t.Context()); err != nil {
			t.Fatal(err)
		}
		return exited
	})
}

// underLoad restarts what listens at url again and again. restart returns right after the start.
func underLoad(t *testing.T, c *cluster.Cluster, url string, restart func() (exited time.Time)) {
	t.Helper()
	await(t, url)
	rounds, _ := restarts(t)
	loads := map[string]*callers{"impatient": startCallers(t, url, "/impatient", 2, impatient), "ordinary": startCallers(t, url, "/ordinary", 2)}
	figures := make(figures)
	for range rounds {
		told := time.Now()
		exited := restart()
		listening := await(t, url)
		figures.note("from SIGTERM to exit", exited.Sub(told))
		figures.note("from exit to listening", listening.Sub(exited))
		for kind, l := range loads {
			l.goesOn(t)
			for _, caller := range l.each {
				left, back := caller.conns.endAfter(told), caller.conns.beginAfter(exited)
				if left.IsZero() || back.IsZero() {
					t.Fatalf("a client of %s did not come back by a new connection", caller.prefix)
				}
				last, first := caller.around(exited)
				figures.note(kind+": from SIGTERM to the end of the connection", left.Sub(told))
				figures.note(kind+": from listening to the new connection", back.Sub(listening))
				figures.note(kind+": from the new connection to the first answer", first.Sub(back))
				figures.note(kind+": without an answer", first.Sub(last))
				figures.note(kind+": … less the time from exit to the new connection", first.Sub(last)-back.Sub(exited))
			}
		}
	}
	for _, l := range loads {
		l.check(t, c.Client())
	}
	figures.log(t)
	// Waiting for the watches would take 20 s; a hundred times what it takes on an idle machine is not worth a red test.
	if worst := slices.Max(figures["impatient: from SIGTERM to the end of the connection"]); worst > 5*time.Second {
		t.Errorf("after SIGTERM a connection lasted %v", worst)
	}
}

// figures are times that were measured, by what they are. They are told, and not judged: the cores may be busy with other tests.
type figures map[string][]time.Duration

func (f figures) note(what string, d time.Duration) { f[what] = append(f[what], d) }

func (f figures) log(t *testing.T) {
	t.Helper()
	for _, what := range slices.Sorted(maps.Keys(f)) {
		all := slices.Sorted(slices.Values(f[what]))
		t.Logf("%-75s median %8v  max %8v  (%d)", what, all[len(all)/2].Round(100*time.Microsecond), all[len(all)-1].Round(100*time.Microsecond), len(all))
	}
}

// With a successor on the port, a restart is not noticed: no call fails, no client waits, no watch misses an event, and
// whoever comes is let in.
func TestSuccessorUnderLoad(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	ca := authority(t)
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			url := freeURL(t, scheme)
			opts := parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--reuse-port", "--shutdown-timeout=2s"}}
			var secure []func(*clientv3.Config)
			if scheme == "https" {
				opts.Flags = append(opts.Flags, certify(t, ca, url)...)
				secure = append(secure, believe(t, ca))
			}
			p := startAt(t, url, opts)
			l := startCallers(t, url, "/successor-"+scheme, 3, secure...)
			began := time.Now()
			newcomers := startNewcomers(t, url, secure...)
			var handed []time.Time
			rounds, _ := restarts(t)
			for range rounds {
				next := startAt(t, url, opts)
				handed = append(handed, time.Now())
				if err := p.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				l.goesOn(t) // while the predecessor is there for the watches
				ended(t, p, 30*time.Second)
				l.goesOn(t)
				p = next
			}
			newcomers.stop(t)
			l.check(t, c.Client())
			for _, f := range l.failures() {
				t.Error(f)
			}
			figures := make(figures)
			for _, caller := range l.each {
				figures.note("longest time without an answer before", caller.longest(began, handed[0]))
				for _, at := range handed {
					figures.note("… in the second after a SIGTERM", caller.longest(at, at.Add(time.Second)))
					figures.note("from SIGTERM to the end of the connection with the watch", caller.conns.endAfter(at).Sub(at))
				}
			}
			figures.log(t)
		})
	}
}

// newcomers are clients that come, write, and go.
func startNewcomers(t *testing.T, url string, change ...func(*clientv3.Config)) *checkers {
	t.Helper()
	w := newCheckers()
	w.group.Go(func() error {
		for n := 0; w.ctx.Err() == nil; n++ {
			if err := comeAndGo(url, fmt.Sprintf("/newcomer/%d", n), change...); err != nil {
				return fmt.Errorf("newcomer %d: %w", n, err)
			}
			w.rounds.Add(1)
		}
		return nil
	})
	t.Cleanup(func() {
		w.cancel()
		_ = w.group.Wait() // the test that minds has waited
	})
	return w
}

func comeAndGo(url, key string, change ...func(*clientv3.Config)) error {
	config := clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop()}
	for _, c := range change {
		c(&config)
	}
	client, err := clientv3.New(config)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_, err = client.Put(ctx, key, "v")
	return err
}

// freeURL is one at which Parallax can listen, that stays the same over its restarts.
func freeURL(t testing.TB, scheme string) string {
	t.Helper()
	const port = 23790
	ip, err := loopback.Address(port)
	if err != nil {
		t.Fatal(err)
	}
	return loopback.URL(scheme, ip, port)
}

func at(url string, opts parallax.Options) parallax.Options {
	opts.Observer = true // no listener but the one of the flag; that of the admin is on an address of its own
	opts.Flags = append([]string{"--listen-client-urls=" + url}, opts.Flags...)
	return opts
}

// startAt starts a Parallax that serves clients at url.
func startAt(t testing.TB, url string, opts parallax.Options) *parallax.Process {
	t.Helper()
	return parallax.StartT(t, at(url, opts))
}

// startBuilt does it without asking the go tool first, which takes longer than the start.
func startBuilt(t testing.TB, path, url string, opts parallax.Options) *parallax.Process {
	t.Helper()
	p, err := parallax.StartBuilt(t.Context(), path, at(url, opts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close parallax: %v", err)
		}
	})
	return p
}

// await returns when somebody listens at url, and when that was.
func await(t testing.TB, url string) time.Time {
	t.Helper()
	_, address, _ := strings.Cut(url, "://")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			return time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
