package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// A member that hangs keeps its connections for a while, and then loses them, while there is another to go to; and it gets new ones when it
// is well. With --move-clients=false it loses none.
func TestMoveFromAHungMember(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	hung := follower(t, c)
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shadow=false"}})
	still := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shadow=false", "--move-clients=false"}})
	for _, m := range c.Members {
		becomes(t, p, m, "serving")
		becomes(t, still, m, "serving")
	}
	guests, others := invite(t, p.ClientURL, 6), invite(t, still.ClientURL, 3)
	victims, bound := of(guests, hung.ID), of(others, hung.ID)
	if len(victims) != 2 || len(bound) != 1 {
		t.Fatalf("%d and %d connections lead to one member of three, want 2 of 6 and 1 of 3", len(victims), len(bound))
	}

	// Not answering for some seconds is not hanging: that does a defrag, too.
	paused := time.Now()
	suspend(t, hung)
	becomes(t, p, hung, "unfit")
	if !goElsewhere(t, p, hung.ID) {
		t.Error("new connections go to the member that does not answer")
	}
	t.Logf("new connections go elsewhere %v after the SIGSTOP", time.Since(paused))
	resume(t, hung)
	becomes(t, p, hung, "serving")
	hears(t, slices.Concat(guests, others), "after a pause")

	paused = time.Now()
	suspend(t, hung)
	eventually(t, 60*time.Second, "the connections of the hung member to end", func() bool {
		return !slices.ContainsFunc(victims, (*guest).stayed)
	})
	for _, v := range victims {
		took := v.conns.endAfter(paused).Sub(paused)
		if t.Logf("a connection was ended %v after the SIGSTOP", took); took < 8*time.Second {
			t.Errorf("a connection was ended %v after the SIGSTOP, by which time the member may just be slow", took)
		}
		eventually(t, 20*time.Second, "the client to be served by another member", func() bool {
			id, err := servedBy(t.Context(), v.client)
			return err == nil && id != hung.ID
		})
	}
	hears(t, guests, "while one hangs") // also the watches that were moved
	becomes(t, still, hung, "lost")
	time.Sleep(twoLooks)
	if n := moved(t, p); n != 2 {
		t.Errorf("%v connections were moved, want those 2", n)
	}
	if n := moved(t, still); n != 0 || !bound[0].stayed() {
		t.Errorf("%v connections were moved with --move-clients=false", n)
	}

	resume(t, hung)
	eventually(t, 30*time.Second, "new connections to the member that is well again", func() bool {
		id, err := newConnection(t, p)
		return err == nil && id == hung.ID
	})
	for i, g := range slices.Concat(guests, others) {
		if g.member != hung.ID && !g.stayed() {
			t.Errorf("guest %d, of a member that was well, lost its connection", i)
		}
	}
	if got := bound[0].next(t); got != "while one hangs" {
		t.Errorf("the client that was not moved hears %q", got)
	}
}

// Where no member is well nobody is moved: the clients wait, as they would without a proxy.
func TestNobodyIsMovedWhereNobodyIsWell(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd35})
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shadow=false"}})
	guests := invite(t, p.ClientURL, 3)
	hears(t, guests, "before")
	for _, m := range c.Members[1:] {
		suspend(t, m)
	}
	for _, m := range c.Members {
		becomes(t, p, m, "lost") // also the one that runs: it has no leader
	}
	time.Sleep(twoLooks)
	if n := moved(t, p); n != 0 {
		t.Errorf("%v connections were moved", n)
	}
	for i, g := range guests {
		if !g.stayed() {
			t.Errorf("guest %d lost its connection", i)
		}
	}
	for _, m := range c.Members[1:] {
		resume(t, m)
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	hears(t, guests, "after") // on a busy machine the first two are well before the third, and its guests are moved then
}

// A member that is cut off from the others answers pings and serializable reads, and nothing else. Its clients are moved; and so are those of one
// that was removed meanwhile, and does not know.
func TestMoveFromALeaderlessMember(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd37})
	alone := follower(t, c)
	network := split(t, c)
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shadow=false"}})
	for _, m := range c.Members {
		becomes(t, p, m, "serving")
	}
	guests := invite(t, p.ClientURL, 6)
	victims := of(guests, alone.ID)
	hears(t, guests, "before")

	cut := time.Now()
	network.cut(alone.ID)
	leave(t, victims, alone, cut, 4*time.Second) // 5 s without a leader, said in whole looks
	hears(t, guests, "while one is alone")
	network.cut(0)
	becomes(t, p, alone, "serving")
	again := of(invite(t, p.ClientURL, 3), alone.ID)
	if len(again) != 1 {
		t.Fatalf("of three new clients %d are served by the member that is back, want one", len(again))
	}

	cut = time.Now()
	network.cut(alone.ID)
	eventually(t, 30*time.Second, "the others to agree to its removal", func() bool { // not before they were together for five seconds
		ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
		defer cancel()
		_, err := c.Client().MemberRemove(ctx, alone.ID)
		return err == nil || errors.Is(err, rpctypes.ErrMemberNotFound)
	})
	leave(t, again, alone, cut, 0)
	if !goElsewhere(t, p, alone.ID) {
		t.Error("new connections go to a member that was removed")
	}
	hears(t, guests, "without it")
	for i, g := range guests {
		if g.member != alone.ID && !g.stayed() {
			t.Errorf("guest %d, of a member that was well, lost its connection", i)
		}
	}
}

// A learner gets connections only when nobody else can be reached, and loses them as soon as a voter is well.
func TestMoveFromALearner(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36, Size: 1})
	voter := c.Members[0]
	learner, err := c.Add(t.Context(), "", true)
	if err != nil {
		t.Fatal(err)
	}
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shadow=false"}})
	becomes(t, p, learner, "lost")
	if !goElsewhere(t, p, learner.ID) {
		t.Error("new connections go to a learner")
	}
	if err := voter.Kill(); err != nil {
		t.Fatal(err)
	}
	client, conns := observed(t, p.ClientURL)
	if id, err := servedBy(t.Context(), client); err != nil || id != learner.ID {
		t.Fatalf("served by %x, %v, want the learner: nobody else is there", id, err)
	}
	began := time.Now()
	if err := voter.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the client to be moved to the voter", func() bool {
		id, err := servedBy(t.Context(), client)
		return err == nil && id == voter.ID
	})
	if conns.endAfter(began).IsZero() || moved(t, p) != 1 {
		t.Errorf("%v connections were moved, want one", moved(t, p))
	}
}

// Rebalancing gives a member its share that had none, and no call fails for it.
func TestRebalance(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	late := follower(t, c)
	if err := late.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--rebalance-clients"}})
	becomes(t, p, late, "unfit")
	l := startCallers(t, p.ClientURL, "/balance", 12)
	connected := func(m *cluster.Member) float64 {
		return count(t, p, "parallax_proxy_member_connections", fmt.Sprintf("endpoint=%q", m.ClientURL))
	}
	if n := connected(late); n != 0 {
		t.Fatalf("the member that is stopped has %v connections", n)
	}
	if err := late.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "connections to be even", func() bool {
		// A share is 4, and one more is not worth a move.
		return !slices.ContainsFunc(c.Members, func(m *cluster.Member) bool { return connected(m) < 2 || connected(m) > 5 })
	})
	n := moved(t, p)
	time.Sleep(twoLooks)
	if again := moved(t, p); again != n || n > 12 {
		t.Errorf("%v connections of 12 were moved, and then %v: it does not come to rest", n, again)
	}
	l.goesOn(t)
	l.check(t, c.Client())
	if failures := l.failures(); len(failures) > 0 {
		t.Errorf("%d calls failed for %v moves: %v", len(failures), n, failures)
	}
}

// The preferred endpoint has all clients while it is well, and gets new ones again when it is back.
func TestPreferEndpoint(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	local := c.Members[1]
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shadow=false", "--prefer-endpoint=" + local.ClientURL}})
	guests := invite(t, p.ClientURL, 4)
	if n := len(of(guests, local.ID)); n != 4 {
		t.Errorf("%d of 4 clients are on the preferred endpoint", n)
	}
	if err := local.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	hears(t, guests, "elsewhere")
	if !goElsewhere(t, p, local.ID) {
		t.Error("a member that is stopped serves")
	}
	if err := local.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	becomes(t, p, local, "serving")
	if n := len(of(invite(t, p.ClientURL, 4), local.ID)); n != 4 {
		t.Errorf("%d of 4 new clients are on the preferred endpoint, which is back", n)
	}
	if log := string(p.Log()); strings.Contains(log, "no endpoint can be reached") {
		t.Errorf("a client found nobody:\n%s", log)
	}
}
