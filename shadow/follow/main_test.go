package follow

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a follower of a cluster of three fake members, each with a store.
type rig struct {
	*Follower
	t       *testing.T
	cluster *membertest.Cluster
	stores  []*store
	book    *book
	halted  atomic.Bool
	rules   []string
}

// book is the log.
type book struct {
	mu  sync.Mutex
	got []entry
}

type entry struct {
	key string
	divergence.Followed
}

func (b *book) Follow(_ uint64, key []byte, f divergence.Followed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, entry{string(key), f})
}

func (b *book) all() []entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, cluster: membertest.Start(t, 3, 1), book: &book{}}
	set := &member.Set{Endpoints: r.cluster.URLs(), Interval: 50 * time.Millisecond}
	metrics := NewMetrics(prometheus.NewRegistry())
	r.Follower = &Follower{
		Members: set, Log: r.book, Metrics: metrics,
		Rules: func(uint64) []string { return r.rules },
		Ask: &ask.Asker{
			Budget: func() ask.Budget { return ask.Budget{Reads: 1e6, Bytes: 1e9} }, Guard: func(f func()) { f() }, Paused: r.halted.Load,
			Poison: &ask.Poison{Changed: func(int) {}}, Asked: metrics.Asked, Answered: metrics.Answered,
		},
	}
	r.init()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = set.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	r.until("three members", func() bool { return len(set.Snapshot().Members) == 3 })
	r.fresh()
	return r
}

// run the follower until the test ends.
func (r *rig) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	r.t.Cleanup(func() { cancel(); running.Wait() })
}

// fresh gives the members empty stores.
func (r *rig) fresh() {
	r.stores = []*store{newStore(), newStore(), newStore()}
	r.serve()
}

// serve what the stores hold now.
func (r *rig) serve() {
	for i, s := range r.stores {
		s.on(r.cluster.Members[i])
	}
}

// apply an entry on all members but those that skip it.
func (r *rig) apply(o op, skip ...int) {
	for i, s := range r.stores {
		if !slices.Contains(skip, i) {
			s.apply(o)
		}
	}
}

// fill puts n keys with a prefix.
func (r *rig) fill(prefix string, n int) {
	for i := range n {
		r.apply(op{key: fmt.Sprintf("%s%05d", prefix, i), value: "v"})
	}
}

func (r *rig) lowest() int64 {
	return min(r.stores[0].revision, r.stores[1].revision, r.stores[2].revision)
}

// one follows a key at once, and returns what was learned in the end.
func (r *rig) one(key string) (outcome, divergence.Followed) {
	r.t.Helper()
	r.serve()
	before := len(r.book.all())
	how := r.follow(r.t.Context(), lead{cluster: r.cluster.ID, key: []byte(key), revision: r.lowest()})
	var last divergence.Followed
	for _, e := range r.book.all()[before:] {
		if e.key != key {
			r.t.Errorf("%q was told of, %q was followed", e.key, key)
		}
		last = e.Followed
	}
	return how, last
}

func (r *rig) until(what string, cond func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func (r *rig) asked() int {
	n := 0
	for _, s := range r.stores {
		n += len(s.asked())
	}
	return n
}
