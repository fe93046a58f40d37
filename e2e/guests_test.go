package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// guest is a client with one connection and a watch on it.
type guest struct {
	client *clientv3.Client
	conns  *connections
	watch  clientv3.WatchChan
	member uint64 // that served it first
	since  time.Time
}

// invite connects n guests, one after the other.
func invite(t *testing.T, url string, n int) (guests []*guest) {
	t.Helper()
	for range n {
		g := &guest{since: time.Now()}
		g.client, g.conns = observed(t, url)
		var err error
		if g.member, err = servedBy(t.Context(), g.client); err != nil {
			t.Fatal(err)
		}
		g.watch = g.client.Watch(t.Context(), "/guest", clientv3.WithCreatedNotify())
		if r := <-g.watch; !r.Created {
			t.Fatalf("watch: %v", r)
		}
		guests = append(guests, g)
	}
	return guests
}

// of are the guests that a member served first.
func of(guests []*guest, id uint64) (some []*guest) {
	for _, g := range guests {
		if g.member == id {
			some = append(some, g)
		}
	}
	return some
}

// stayed: the guest is still on its first connection.
func (g *guest) stayed() bool { return g.conns.endAfter(g.since).IsZero() }

// next returns the value of the next event of the watch.
func (g *guest) next(t *testing.T) string {
	t.Helper()
	for limit := time.After(30 * time.Second); ; {
		select {
		case r := <-g.watch:
			if r.Err() != nil {
				t.Fatalf("the watch ended: %v", r.Err())
			}
			if len(r.Events) == 1 {
				return string(r.Events[0].Kv.Value)
			}
			if len(r.Events) > 1 {
				t.Fatalf("one event was expected: %v", r.Events)
			}
		case <-limit:
			t.Fatal("the watch is silent")
		}
	}
}

// hears writes through a guest what all of them watch, and wants each to hear of it, once.
func hears(t *testing.T, guests []*guest, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	if _, err := guests[0].client.Put(ctx, "/guest", value); err != nil {
		t.Fatalf("put %s: %v", value, err)
	}
	for i, g := range guests {
		if got := g.next(t); got != value {
			t.Errorf("guest %d hears %q, want %q", i, got, value)
		}
	}
}

// becomes waits for what Parallax holds a member to be.
func becomes(t *testing.T, p *parallax.Process, m *cluster.Member, state string) {
	t.Helper()
	eventually(t, 60*time.Second, m.Name+" to be "+state, func() bool {
		return count(t, p, "parallax_endpoint_health", fmt.Sprintf("endpoint=%q", m.ClientURL), fmt.Sprintf("state=%q", state)) == 1
	})
}

// moved is how many connections Parallax has moved.
func moved(t *testing.T, p *parallax.Process) float64 {
	t.Helper()
	return count(t, p, "parallax_proxy_moved_total")
}

// long enough for what would be wrong to happen: connections are looked at once a second.
const twoLooks = 2500 * time.Millisecond

// leave waits until the connections of guests have ended, not earlier than that.
func leave(t *testing.T, guests []*guest, m *cluster.Member, since time.Time, least time.Duration) {
	t.Helper()
	if len(guests) == 0 {
		t.Fatalf("%s has no clients", m.Name)
	}
	eventually(t, 60*time.Second, "the connections of "+m.Name+" to end", func() bool { return !slices.ContainsFunc(guests, (*guest).stayed) })
	for _, g := range guests {
		if took := g.conns.endAfter(since).Sub(since); took < least {
			t.Errorf("a connection was ended after %v, want at least %v", took, least)
		} else {
			t.Logf("a connection was ended after %v", took)
		}
	}
}

func suspend(t *testing.T, m *cluster.Member) {
	t.Helper()
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
}

func resume(t *testing.T, m *cluster.Member) {
	t.Helper()
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
}
