package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// A member that hangs (SIGSTOP) is nothing to the clients of the others, gets no new ones, and is used and compared again when it goes on.
func TestAHungMember(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	hung := follower(t, c)
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--sample-reads=1"}})
	allMembers(t, p)
	if _, err := c.Put(t.Context(), "/hung/key", "v"); err != nil {
		t.Fatal(err)
	}
	var others []*clientv3.Client
	served := map[uint64]int{}
	for range 6 { // round robin: two each
		client := connect(t, p.ClientURL)
		id, err := servedBy(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		if served[id]++; id != hung.ID {
			others = append(others, client)
		}
	}
	if len(served) != 3 || len(others) != 4 {
		t.Fatalf("six connections were served by %v, want two by each member", served)
	}

	if err := hung.Pause(); err != nil {
		t.Fatal(err)
	}
	clients := startGetters(others)
	eventually(t, 30*time.Second, "new connections to go to the other members only", func() bool { return goElsewhere(t, p, hung.ID) })
	asked := count(t, p, "parallax_shadow_checks_total", `verdict="inconclusive"`)
	clients.some(t, 1000)
	slowest := clients.stop(t)
	// A direct client of these members would not have to wait either: 2 s is what kube-apiserver gives a health check.
	if slowest > 2*time.Second {
		t.Errorf("a client of another member waited %v for an answer", slowest)
	}
	eventually(t, 30*time.Second, "checks without the hung member to be counted as inconclusive", func() bool {
		_, _ = others[0].Put(t.Context(), "/hung/key", "v")
		return count(t, p, "parallax_shadow_checks_total", `verdict="inconclusive"`) > asked
	})

	reads := func() float64 {
		return count(t, p, "parallax_shadow_member_reads_total", fmt.Sprintf(`member="%x"`, hung.ID), `answer="ok"`)
	}
	before, consistent := reads(), count(t, p, "parallax_shadow_checks_total", `verdict="consistent"`)
	if err := hung.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the member to be used again", func() bool {
		id, err := newConnection(t, p)
		return err == nil && id == hung.ID
	})
	eventually(t, 60*time.Second, "the member to be compared again", func() bool {
		if _, err := others[0].Put(t.Context(), "/hung/key", "w"); err != nil {
			t.Fatal(err)
		}
		return reads() > before && count(t, p, "parallax_shadow_checks_total", `verdict="consistent"`) > consistent
	})
	silent(t, p)
}

// One endpoint is enough to check all members, unless told otherwise.
func TestDiscoverMembers(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	for _, discover := range []bool{true, false} {
		p := parallax.StartT(t, parallax.Options{
			Endpoints: c.Endpoints()[:1], Race: true, Flags: []string{fmt.Sprintf("--discover-members=%v", discover)},
		})
		client := connect(t, p.ClientURL)
		write := func() {
			if _, err := client.Put(t.Context(), "/discover", "v"); err != nil {
				t.Fatal(err)
			}
		}
		if discover {
			allMembers(t, p)
			write()
			for _, m := range c.Members {
				eventually(t, 10*time.Second, m.Name+" to be read", func() bool {
					return count(t, p, "parallax_shadow_member_reads_total", fmt.Sprintf(`member="%x"`, m.ID), `answer="ok"`) > 0
				})
			}
			continue
		}
		eventually(t, 10*time.Second, "a check of too few members", func() bool {
			write()
			return count(t, p, "parallax_shadow_checks_total", `verdict="inconclusive"`) > 0
		})
		if n := count(t, p, "parallax_shadow_member_reads_total"); n != 0 {
			t.Errorf("%v reads of members, of which only one is known", n)
		}
	}
}

// follower returns a member that does not lead: without the leader, direct clients would have to wait, too.
func follower(t *testing.T, c *cluster.Cluster) *cluster.Member {
	t.Helper()
	leader, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Members {
		if m != leader {
			return m
		}
	}
	t.Fatal("every member leads")
	return nil
}

// servedBy returns the member at the other end of a client's connection.
func servedBy(ctx context.Context, c *clientv3.Client) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	got, err := c.Get(ctx, "/hung/key", clientv3.WithSerializable())
	if err != nil {
		return 0, err
	}
	return got.Header.MemberId, nil
}

// newConnection tells which member serves a connection that is opened now.
func newConnection(t *testing.T, p *parallax.Process) (uint64, error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{p.ClientURL}, Logger: zap.NewNop()})
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	return servedBy(t.Context(), c)
}

// goElsewhere opens twice as many connections as there are members.
func goElsewhere(t *testing.T, p *parallax.Process, not uint64) bool {
	for range 6 {
		if id, err := newConnection(t, p); err != nil || id == not {
			return false
		}
	}
	return true
}

// getters are clients that get, linearizably, as fast as they can, and remember the slowest answer.
type getters struct {
	*checkers
	mu      sync.Mutex
	slowest time.Duration
}

func startGetters(clients []*clientv3.Client) *getters {
	g := &getters{checkers: newCheckers()}
	for _, c := range clients {
		g.group.Go(func() error { return g.run(c) })
	}
	return g
}

func (g *getters) run(c *clientv3.Client) error {
	for g.ctx.Err() == nil {
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		got, err := c.Get(ctx, "/hung/key")
		cancel()
		if err != nil || len(got.Kvs) != 1 {
			return fmt.Errorf("get: %v, %w", got, err)
		}
		g.rounds.Add(1)
		g.mu.Lock()
		g.slowest = max(g.slowest, time.Since(begin))
		g.mu.Unlock()
	}
	return nil
}

func (g *getters) stop(t *testing.T) time.Duration {
	t.Helper()
	g.checkers.stop(t)
	return g.slowest
}
