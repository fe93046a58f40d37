package sweep

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

// run until a condition on the progress holds.
func (b *bench) run(t *testing.T, enough func(Progress) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	b.Progress = func(p Progress) {
		if enough(p) {
			cancel()
		}
	}
	var running sync.WaitGroup
	running.Go(func() { _ = b.Run(ctx) })
	running.Wait()
	if ctx.Err() == context.DeadlineExceeded {
		t.Fatal("not within 30 s")
	}
}

func gauge(t *testing.T, r *prometheus.Registry, name string) float64 {
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// A restart goes on where it was, and what it did before counts.
func TestARestartGoesOn(t *testing.T) {
	b := newBench(t)
	b.hold(kvs(numbered(5000), 10))
	b.DataDir = t.TempDir()
	b.run(t, func(p Progress) bool { return p.Keys > 2000 })
	began := readPosition(t, b.DataDir)
	if began.Keys < 2000 || began.Keys >= 5000 || len(began.Next) == 0 || !began.Verified.Equal(began.Began) {
		t.Fatalf("%+v", began)
	}
	for _, s := range b.stores {
		s.mu.Lock()
		s.read = map[string]int{}
		s.mu.Unlock()
	}
	b.Sweep = &Sweep{Members: b.Members, Ask: b.Ask, Report: b.Report, DataDir: b.DataDir}
	b.run(t, func(Progress) bool { return b.wasRead("/k/04999") })
	if n := len(b.stores[0].read); n > 3100 || b.stores[0].read["/k/00000"] > 1 {
		t.Errorf("%d keys were read after the restart", n)
	}
}

func (b *bench) wasRead(key string) bool {
	s := b.stores[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read[key] > 0
}

func readPosition(t *testing.T, dir string) position {
	t.Helper()
	pos, err := read(filepath.Join(dir, positionFile))
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

// A sweep that came to the end says since when every key is verified.
func TestACompleteSweep(t *testing.T) {
	b := newBench(t)
	b.hold(kvs(numbered(2000), 10))
	b.stores[1].change("/k/01000", spoil)
	b.DataDir = t.TempDir()
	registry := prometheus.NewRegistry()
	b.Metrics = NewMetrics(registry)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = b.Run(ctx) })
	for deadline := time.Now().Add(20 * time.Second); gauge(t, registry, "parallax_sweep_completed_total") == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no sweep was completed in 20 s")
		}
	}
	cancel()
	running.Wait()
	pos := readPosition(t, b.DataDir)
	if pos.Total != 2000 || len(pos.Next) != 0 || !pos.Verified.Equal(pos.Began) {
		t.Errorf("%+v", pos)
	}
	for name, want := range map[string]float64{
		"parallax_sweep_keys_total": 2000, "parallax_sweep_differing_keys_total": 1, "parallax_sweep_progress": 1, "parallax_sweep_paused": 0,
	} {
		if got := gauge(t, registry, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if age := gauge(t, registry, "parallax_sweep_oldest_unverified_age_seconds"); age <= 0 || age > 60 {
		t.Errorf("the oldest unverified key is %v s old", age)
	}
}

// A file that cannot be used is said and left alone.
func TestABadPositionIsNotUsed(t *testing.T) {
	b := newBench(t)
	good := b.load()
	for name, content := range map[string]string{
		"garbage": "\x00\xff", "of another cluster": `{"schema":"parallax.sweep/v1","cluster_id":"abc","began":"2026-01-01T00:00:00Z","verified":"2026-01-01T00:00:00Z","next":"YQ=="}`,
		"of the future":   `{"schema":"parallax.sweep/v1","cluster_id":"64","began":"2926-01-01T00:00:00Z","verified":"2026-01-01T00:00:00Z"}`,
		"of another kind": `{"schema":"parallax.sweep/v2"}`, "cut short": `{"schema":"parallax.sweep/v1","clus`, "too large": strings.Repeat(" ", largestPosition+1),
	} {
		t.Run(name, func(t *testing.T) {
			var said strings.Builder
			b.DataDir, b.Logger = t.TempDir(), slog.New(slog.NewTextHandler(&said, nil))
			if err := os.WriteFile(filepath.Join(b.DataDir, positionFile), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			pos := b.load()
			if pos.Next != nil || pos.Cluster != good.Cluster || !strings.Contains(said.String(), "begins anew") {
				t.Errorf("%+v, said %q", pos, said.String())
			}
		})
	}
}

// Pages are due evenly over the interval.
func TestPace(t *testing.T) {
	s := &Sweep{Interval: 100 * time.Hour}
	began := time.Unix(1_000_000, 0)
	for _, c := range []struct {
		keys, total int64
		want        time.Duration
	}{{0, 1000, 0}, {100, 1000, 9*time.Hour + 30*time.Minute}, {1000, 1000, 95 * time.Hour}, {5000, 1000, 95 * time.Hour}} {
		if got := s.due(&position{Began: began, Keys: c.keys, Total: c.total}).Sub(began); got != c.want {
			t.Errorf("%d keys of %d are due after %v, want %v", c.keys, c.total, got, c.want)
		}
	}
	if !s.due(&position{Began: began, Keys: 7}).IsZero() {
		t.Error("the first sweep waits")
	}
}

// A sweep that spreads over its interval starts at once when it is told to.
func TestStart(t *testing.T) {
	b := newBench(t)
	b.hold(kvs(numbered(3000), 10))
	b.DataDir, b.Interval = t.TempDir(), 1000*time.Hour
	pos := b.load()
	pos.Total = 3000
	b.save(&pos)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	slow := make(chan struct{}, 1000)
	b.Progress = func(Progress) { slow <- struct{}{} }
	running.Go(func() { _ = b.Run(ctx) })
	<-slow
	b.Start()
	for deadline := time.Now().Add(20 * time.Second); !b.wasRead("/k/02999"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not at the end in 20 s")
		}
	}
	cancel()
	running.Wait()
}

// While there is a reason, nothing is read.
func TestHold(t *testing.T) {
	b := newBench(t)
	b.hold(kvs(numbered(1000), 10))
	var held, reads atomic.Int64
	held.Store(1)
	b.Hold = func() string {
		if held.Load() > 0 {
			return "alarm"
		}
		return ""
	}
	b.stores[0].before = func(*pb.RangeRequest) error { reads.Add(1); return nil }
	b.run(t, func(p Progress) bool {
		if p.Stalled == judge.Reason("alarm") {
			if reads.Load() != 0 {
				t.Error("it was read meanwhile")
			}
			held.Store(0)
		}
		return p.Keys == 1000
	})
}
