package e2e

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
	"github.com/etcd-parallax/parallax/proxy"
	"github.com/etcd-parallax/parallax/proxy/tap"
	"github.com/etcd-parallax/parallax/shadow"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// GUARANTEE G2: No fault, delay or overload of the shadow changes, delays or ends client traffic.
func TestG2FullQueue(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	p := parallax.StartT(t, parallax.Options{
		Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shadow-queue=1", "--shadow-max-reads-per-second=1", "--sample-reads=1"},
	})
	allMembers(t, p)
	w := startCheckers(t, p.ClientURL, "/full", 6)
	eventually(t, 30*time.Second, "calls that are dropped because the queue is full", func() bool {
		return count(t, p, "parallax_shadow_dropped_total", `reason="queue"`) > 0
	})
	w.some(t, 200)
	w.stop(t)

	// Everything is counted: what was not sampled, and what was and came to nothing.
	m := metrics(t, p)
	calls := parallax.Sum(m, "parallax_shadow_calls_total")
	if busy := parallax.Sum(m, "parallax_shadow_calls_total", `outcome="busy"`); busy == 0 || busy > calls {
		t.Errorf("%v calls of %v were more than the shadow decodes, want some: %v", busy, calls, checks(t, p))
	}
	// Of a round's seven calls, six ask or tell something about keys.
	if least := float64(6 * w.rounds.Load()); calls < least {
		t.Errorf("%v calls are counted, want at least %v", calls, least)
	}
	if ended := parallax.Sum(m, "parallax_proxy_tap_ended_total"); ended != 0 {
		t.Errorf("%v taps have ended", ended)
	}
	silent(t, p)
}

// GUARANTEE G2: a panic in what listens ends the listening of that connection, and not the connection.
func TestG2PanickingObserver(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36, Size: 1})
	for _, where := range []string{"Request", "Response", "Observe"} {
		observer := &panicking{where: where}
		registry := prometheus.NewRegistry()
		p := &proxy.Proxy{Endpoints: c.Endpoints(), Observer: observer, Metrics: proxy.NewMetrics(registry)}
		w := startCheckers(t, serveProxy(t, p), "/panic/"+where, 2)
		w.some(t, 20)
		w.stop(t)
		if n := observer.panics.Load(); n != 2 {
			t.Errorf("%s panicked %d times, want once for each of the two connections", where, n)
		}
		if n := counted(t, registry, "parallax_proxy_tap_ended_total", "reason", string(tap.ReasonPanic)); n != 2 {
			t.Errorf("%s: %v taps ended by a panic, want 2", where, n)
		}
	}
}

// panicking is an Observer of which one method panics.
type panicking struct {
	where  string
	panics atomic.Int64
}

func (p *panicking) here(where string) {
	if p.where == where {
		p.panics.Add(1)
		panic("of the test, in " + where)
	}
}

func (p *panicking) Request(string) int {
	p.here("Request")
	return 1 << 20
}

func (p *panicking) Response(string, []byte) tap.Limits {
	p.here("Response")
	return tap.Limits{Bytes: 1 << 20}
}

func (p *panicking) Observe(tap.Call) { p.here("Observe") }

// GUARANTEE G2: a panic of a worker of the shadow is counted, and the next check is done.
func TestG2PanickingShadow(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	registry := prometheus.NewRegistry()
	members := &member.Set{Endpoints: c.Endpoints()}
	s := &shadow.Shadow{
		Members: members, Metrics: shadow.NewMetrics(registry),
		Recheck: time.Hour, // of findings, of which there are none
		Log:     nil,       // so that each consistent verdict panics
	}
	s.Init(shadow.Rates{ReadsPerSecond: 50, BytesPerSecond: 1 << 20, Reads: 1, Writes: 1})
	ctx, cancel := context.WithCancel(context.Background())
	var running errgroup.Group
	running.Go(func() error { return members.Run(ctx) })
	running.Go(func() error { return s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		_ = running.Wait() // they end only with their context
	})
	eventually(t, 20*time.Second, "the members to be known", func() bool { return len(members.Snapshot().Members) == 3 })

	p := &proxy.Proxy{Endpoints: c.Endpoints(), Observer: listener{s}, Epoch: members.Epoch}
	w := startCheckers(t, serveProxy(t, p), "/panic", 2)
	panics := func() float64 { return counted(t, registry, "parallax_shadow_dropped_total", "reason", "panic") }
	// More than there are workers: they live on.
	eventually(t, 20*time.Second, "panics of the shadow", func() bool { return panics() > 10 })
	w.some(t, 20)
	w.stop(t)
}

// listener joins proxy and shadow, as cmd/parallax does.
type listener struct{ *shadow.Shadow }

func (l listener) Response(method string, request []byte) tap.Limits {
	return tap.Limits{Bytes: l.Answer(method, request)}
}

func (l listener) Observe(c tap.Call) {
	l.Shadow.Observe(shadow.Call{
		Method: c.Method, Endpoint: c.Endpoint, Epoch: c.Epoch, Request: c.Request, Responses: c.Responses, Truncated: c.Truncated, Code: c.Code,
	})
}

// serveProxy runs a proxy in this process until the test ends, and returns where.
func serveProxy(t *testing.T, p *proxy.Proxy) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	served := make(chan error, 1)
	go func() { served <- p.Serve(&proxy.Listener{Listener: l}) }()
	t.Cleanup(func() {
		p.Close()
		if err := <-served; !errors.Is(err, proxy.ErrClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return "http://" + l.Addr().String()
}

// counted reads a counter of one label.
func counted(t *testing.T, r *prometheus.Registry, name, label, value string) (sum float64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

// allMembers waits until the shadow can ask all three members.
func allMembers(t *testing.T, p *parallax.Process) {
	t.Helper()
	eventually(t, 20*time.Second, "all members to be asked", func() bool {
		m := metrics(t, p)
		return parallax.Sum(m, "parallax_member_up") == 3 && parallax.Sum(m, "parallax_members", `role="unasked"`) == 0
	})
}
