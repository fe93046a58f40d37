package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a scripted cluster with everything that looks at it.
type world struct {
	*membertest.Cluster
	*Probe
	t        testing.TB
	records  *book // of the divergence log
	log      *book // of the operational one
	registry *prometheus.Registry
}

// book is written by one, and read by a test.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// newWorld of n members. set changes the probe before it runs.
func newWorld(t *testing.T, n int, set func(*world)) *world {
	w := &world{
		Cluster: membertest.Start(t, n, 100), t: t, records: &book{}, log: &book{}, registry: prometheus.NewRegistry(),
	}
	logger := slog.New(slog.NewTextHandler(w.log, nil))
	for _, m := range w.Cluster.Members {
		m.Change(func(m *membertest.Member) { m.RaftIndex, m.Applied = 1000, 1000 })
	}
	w.Probe = &Probe{
		Members:  &member.Set{Endpoints: w.URLs(), Interval: 100 * time.Millisecond, Logger: logger},
		Log:      divergence.New(divergence.Config{Sink: w.records}),
		Metrics:  NewMetrics(w.registry),
		Logger:   logger,
		Interval: 20 * time.Millisecond, IdleInterval: 20 * time.Millisecond,
		LeaseInterval: 50 * time.Millisecond, MembershipInterval: 50 * time.Millisecond,
	}
	if set != nil {
		set(w)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{w.Probe.Members.Run, w.Run, w.Log.Run} {
		wg.Go(func() { _ = run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		w.Log.Close()
	})
	return w
}

// change a member, by its place.
func (w *world) change(i int, f func(*membertest.Member)) { w.Cluster.Members[i].Change(f) }

// put is a write that all members apply, but the revision of those that skip it
// stays.
func (w *world) put(skip ...int) {
	for i, m := range w.Cluster.Members {
		m.Change(func(m *membertest.Member) {
			m.RaftIndex++
			m.Applied++
			if !slices.Contains(skip, i) {
				m.Revision++
			}
		})
	}
}

// write until the test, or stop, ends.
func (w *world) write(pause time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(pause); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				w.put()
			}
		}
	})
	stop = func() { cancel(); wg.Wait() }
	w.t.Cleanup(stop)
	return stop
}

func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// value of a metric, summed over the series with these label values.
func (w *world) value(name string, labels ...string) float64 {
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetValue())
			}
			if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(has, l) }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// rounds of a rule with a verdict.
func (w *world) rounds(rule string, v verdict) float64 {
	return w.value("parallax_probe_rounds_total", rule, string(v))
}

// live waits until all members were seen, and has them all show a write.
func (w *world) live() {
	w.t.Helper()
	before := w.value("parallax_probe_looks_total")
	until(w.t, "a look", func() bool {
		return len(w.Probe.Members.Snapshot().Members) == len(w.Cluster.Members) && w.value("parallax_probe_looks_total") >= before+2
	})
	w.put()
}

// compared waits until a rule has compared all members a few times from now on.
func (w *world) compared(rule string) {
	w.t.Helper()
	before := w.rounds(rule, consistent)
	until(w.t, rule+" to compare", func() bool { return w.rounds(rule, consistent) >= before+3 })
}

// event of the divergence log, as far as the tests look at it.
type event struct {
	Event   string
	Kind    string
	Rule    string
	Subject string
	Basis   string
	Differs []struct{ ID string }
	Groups  []struct{ Members []struct{ ID string } }
	Gap     int64
}

func (w *world) events() []event {
	var all []event
	for line := range strings.Lines(w.records.String()) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatalf("%v: %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

// await an event of the log.
func (w *world) await(what string, is func(event) bool) {
	w.t.Helper()
	until(w.t, what, func() bool { return slices.ContainsFunc(w.events(), is) })
}

// differs tells whether exactly these members are named.
func (e event) differs(ids ...string) bool {
	var named []string
	for _, m := range e.Differs {
		named = append(named, m.ID)
	}
	return slices.Equal(named, ids)
}

// silent fails the test if anything was reported.
func (w *world) silent() {
	w.t.Helper()
	if all := w.records.String(); all != "" {
		w.t.Errorf("a healthy cluster was accused: %s", all)
	}
	if open := w.Log.OpenCluster(); len(open) > 0 {
		w.t.Errorf("a healthy cluster was accused: %+v", open)
	}
}
