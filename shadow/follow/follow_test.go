package follow

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func (r *rig) outcomes(o outcome) int {
	return int(testutil.ToFloat64(r.Metrics.findings.WithLabelValues(string(o))))
}

func (r *rig) drops(w why) int {
	return int(testutil.ToFloat64(r.Metrics.drops.WithLabelValues(string(w))))
}

// The member C skips one write. The key that was written differs from then on; what was written before does not; what was written
// after has moved.
func TestASkippedWriteIsFollowed(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 10)
	r.apply(op{key: "/a/00003", value: "new"}, 2)
	began := r.stores[0].revision
	r.apply(op{key: "/b/00001", value: "later"})
	r.serve()
	r.run()
	r.Found(r.cluster.ID, []byte("/a/00003"), r.lowest())
	r.until("the end", func() bool { return r.outcomes(followed) == 1 })
	got := r.book.all()
	if len(got) != 2 || got[0].Extent != nil || got[0].Since == nil {
		t.Fatalf("%+v: want since when at first, and then all", got)
	}
	if want := (record.Since{Revision: began}); *got[1].Since != want {
		t.Errorf("since %+v, want %+v", *got[1].Since, want)
	}
	if got[1].Layer != record.LayerApply {
		t.Errorf("layer %q", got[1].Layer)
	}
	want := &record.Extent{
		Revision: r.lowest(), Complete: true, KeysCompared: 11, KeysDiffering: 2, ShiftedOnly: 1,
		ByPrefix:    []record.Prefix{record.NewPrefix([]byte("/a/"), 1), record.NewPrefix([]byte("/b/"), 1)},
		ExampleKeys: []record.Key{record.NewKey("/a/00003"), record.NewKey("/b/00001")},
	}
	if d := cmp.Diff(want, got[1].Extent); d != "" {
		t.Error(d)
	}
	r.Found(r.cluster.ID, []byte("/a/00003"), r.lowest())
	r.Found(r.cluster.ID, []byte("/b/00001"), r.lowest()) // which has moved, and lies in the extent
	if l, ok := r.queue.pop(time.Now()); ok {
		t.Errorf("%q, of which all was learned a moment ago, is followed", l.key)
	}
}

// A value is another one in the backend of C, in history too.
func TestADamagedRecordIsFollowed(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 5)
	r.stores[2].history["/a/00002"][0].Value = []byte("damaged")
	how, got := r.one("/a/00002")
	if how != followed || got.Since.Revision != 4 || got.Layer != record.LayerStorage || got.Extent.KeysDiffering != 1 {
		t.Errorf("%s: %+v, since %+v, extent %+v", how, got, got.Since, got.Extent)
	}
}

// C skips one of many writes to one key: at each revision it holds the next of them, so that its value alone differs, and where the
// values do not, nothing does.
func TestASkippedWriteToABusyKeyIsNotTakenForDamage(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 5)
	r.apply(op{key: "/busy", value: "0"})
	r.apply(op{key: "/busy", value: "1"}, 2)
	for i := range 10 {
		r.apply(op{key: "/busy", value: fmt.Sprint(i + 2)})
	}
	if how, got := r.one("/busy"); how != partly || got.Layer != "" || got.Extent.KeysDiffering != 1 {
		t.Errorf("%s: layer %q, extent %+v", how, got.Layer, got.Extent)
	}
	r.fresh()
	r.apply(op{key: "/a", value: "0"})
	r.apply(op{key: "/b", value: "same"})
	for _, s := range r.stores[:2] { // one txn
		next := s.revision + 1
		s.write(op{key: "/a", value: "1"}, next)
		s.write(op{key: "/b", value: "same"}, next)
	}
	for range 10 {
		r.apply(op{key: "/b", value: "same"})
	}
	if how, got := r.one("/a"); how != partly || got.Layer != "" || got.Extent.KeysDiffering != 1 {
		t.Errorf("%s: layer %q, extent %+v", how, got.Layer, got.Extent)
	}
	r.rules = []string{record.RuleREV}
	if how, got := r.one("/a"); how != followed || got.Layer != record.LayerApply {
		t.Errorf("%s: layer %q", how, got.Layer)
	}
}

func TestWhatDoesNotDifferIsNotFollowed(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 5)
	if how, _ := r.one("/a/00002"); how != gone {
		t.Error(how)
	}
	r.stores[2].compact(5) // of one member nobody knows
	if how, _ := r.one("/a/00002"); how != gone {
		t.Error(how)
	}
	r.cluster.Members[1].Stop()
	if how, _ := r.one("/a/00002"); how != unanswered {
		t.Error(how)
	}
	if how := r.follow(t.Context(), lead{cluster: 7, key: []byte("/a/00002"), revision: 3}); how != gone {
		t.Error("a finding of another cluster: ", how)
	}
	if got := r.book.all(); len(got) > 0 {
		t.Errorf("told of a key that does not differ: %+v", got)
	}
}

// Where nobody tells a revision, nothing is read: what is not pinned proves nothing.
func TestNothingIsReadWithoutARevision(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 5)
	r.serve()
	for _, m := range r.cluster.Members {
		m.Change(func(m *membertest.Member) { m.StatusErr = membertest.ErrFutureRev })
	}
	if how := r.follow(t.Context(), lead{cluster: r.cluster.ID, key: []byte("/a/00002"), revision: 1}); how != unanswered {
		t.Error(how)
	}
	for _, m := range r.cluster.Members {
		m.Lock()
		if m.Reads > 0 {
			t.Errorf("%d reads", m.Reads)
		}
		m.Unlock()
	}
}

func TestFoundNeverBlocks(t *testing.T) {
	r := newRig(t) // and nobody runs it
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			for j := range 100 {
				r.Found(r.cluster.ID, fmt.Appendf(nil, "%d/%d", i, j), 5)
				r.Found(r.cluster.ID, fmt.Appendf(nil, "%d/%d", i, j), 5)
			}
		})
	}
	all.Wait()
	r.Found(r.cluster.ID, make([]byte, longestKey+1), 5)
	if n := len(r.queue.leads); n != mostWaiting {
		t.Errorf("%d wait", n)
	}
	// A second sighting of a key that was displaced meanwhile is a new one.
	if n := r.drops(dropQueue); n < 1000-mostWaiting || n > 2000-mostWaiting || r.drops(dropKeySize) != 1 {
		t.Errorf("%d dropped", n)
	}
	r.Found(r.cluster.ID, []byte("newest"), 5)
	if l, _ := r.queue.pop(time.Now()); string(l.key) != "newest" {
		t.Errorf("%q is followed before the newest", l.key)
	}
}

func TestWhatCouldNotBeLearnedIsTriedAgainLessAndLess(t *testing.T) {
	q, now, l := newQueue(), time.Unix(0, 0), lead{cluster: 1, key: []byte("a")}
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		q.add(l, now)
		if _, ok := q.pop(now); !ok {
			t.Fatal("not followed")
		}
		q.soon(l, now)
		if q.add(l, now.Add(want*time.Minute-1)); len(q.leads) > 0 {
			t.Fatalf("followed before %d min", want)
		}
		now = now.Add(want * time.Minute)
	}
	q.add(l, now)
	q.leave(l, now) // learned
	if now = now.Add(again); len(q.leads) > 0 {
		t.Fatal("what is learned waits")
	}
	q.add(l, now)
	_, _ = q.pop(now)
	q.soon(l, now)
	if q.add(l, now.Add(sooner)); len(q.leads) != 1 {
		t.Error("failures of long ago are remembered")
	}
}

func TestAPausedFollowerReadsNothing(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 5)
	r.apply(op{key: "/a/00003", value: "new"}, 2)
	r.apply(op{key: "/z"})
	r.serve()
	r.stores[0].hook(func(req *pb.RangeRequest) { // in the middle
		if len(req.GetRangeEnd()) > 0 {
			r.halted.Store(true)
		}
	})
	if how := r.follow(t.Context(), lead{cluster: r.cluster.ID, key: []byte("/a/00003"), revision: r.lowest()}); how != paused {
		t.Fatal(how)
	}
	before := r.asked()
	r.Found(r.cluster.ID, []byte("/a/00003"), r.lowest())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, ok := r.next(ctx); ok {
		t.Error("a finding is followed while paused")
	}
	r.run()
	if how, _ := r.one("/a/00003"); how != paused || r.asked() != before {
		t.Errorf("%s, and %d reads while paused", how, r.asked()-before)
	}
	r.stores[0].hook(nil)
	r.halted.Store(false)
	r.until("it to be followed", func() bool { return r.outcomes(followed) == 1 })
}

// A member comes back from a restart, maybe from a backup: what was learned so far says nothing of it.
func TestARestartVoidsWhatWasLearned(t *testing.T) {
	for _, at := range []string{"since", "extent"} {
		t.Run(at, func(t *testing.T) {
			r := newRig(t)
			r.fill("/a/", 20)
			r.apply(op{key: "/a/00003", value: "new"}, 2)
			r.fill("/b/", 20)
			r.serve()
			var once sync.Once
			r.stores[1].hook(func(req *pb.RangeRequest) {
				if many := len(req.GetRangeEnd()) > 0; many != (at == "extent") || !many && req.GetRevision() == r.lowest() {
					return
				}
				once.Do(func() {
					c := r.Members.Snapshot().Members[2]
					epoch := c.Epoch()
					r.cluster.Members[2].Restart(t)
					r.until("its new connection", func() bool { _, err := c.Revision(t.Context()); return err == nil && c.Epoch() != epoch })
				})
			})
			how, got := r.one("/a/00003")
			if how != void || got.Extent != nil || got.Layer != "" || at == "since" && got.Since != nil {
				t.Fatalf("%s: %+v", how, got)
			}
			r.Ask.Poison.Forgive() // C may have been lost over a read
			r.run()                // and from anew
			r.Found(r.cluster.ID, []byte("/a/00003"), r.lowest())
			r.until("it to be followed", func() bool { return r.outcomes(followed) == 1 })
		})
	}
}

// A range in which a member was lost is not read, and the keys around it are.
func TestAPoisonedRangeIsNotRead(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 50)
	r.apply(op{key: "/a/00010", value: "new"}, 2)
	r.apply(op{key: "/z"})
	r.rules = []string{record.RuleREV}
	r.serve()
	poisoned := []byte("/a/00033")
	r.stores[1].hook(func(req *pb.RangeRequest) {
		if string(req.GetKey()) == string(poisoned) {
			go r.cluster.Members[1].Stop()
			<-t.Context().Done()
		}
	})
	m := r.Members.Snapshot().Members[1]
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r.until("the range to be poisoned", func() bool {
		q := judge.Question{Key: poisoned, Revision: 10}
		r.Ask.All(ctx, r.Members.Snapshot().Members[1:2], q, true)
		return r.Ask.Poison.Covers(q)
	})
	r.stores[1].hook(nil)
	r.cluster.Members[1].Listen(t, r.cluster.Members[1].Addr())
	r.until("the member to be back", func() bool { _, err := m.Revision(ctx); return err == nil })
	before := len(r.stores[0].asked())
	how, got := r.one("/a/00010")
	if how != followed || got.Extent == nil || got.Extent.Complete || got.Extent.KeysCompared < 20 || got.Extent.KeysDiffering != 1 {
		t.Errorf("%s: %+v", how, got.Extent)
	}
	for _, req := range r.stores[0].asked()[before:] {
		if (judge.Question{Key: req.GetKey(), End: req.GetRangeEnd()}).Covers(poisoned) {
			t.Errorf("%q to %q was read", req.GetKey(), req.GetRangeEnd())
		}
	}
}

func TestTheBudgetHolds(t *testing.T) {
	r := newRig(t)
	r.fill("/a/some/quite/long/directory/", 60)
	r.apply(op{key: "/a/some/quite/long/directory/00010", value: "new"}, 2)
	r.apply(op{key: "/z"})
	r.serve()
	r.Ask.Budget = Budget
	begin := time.Now()
	how, _ := r.one("/a/some/quite/long/directory/00010")
	took := time.Since(begin).Seconds()
	if how != followed {
		t.Error(how)
	}
	for i := range r.stores {
		reads := 0.0
		for k := judge.OK; k <= judge.Paused; k++ {
			reads += testutil.ToFloat64(r.Metrics.reads.WithLabelValues(fmt.Sprint(i+1), string(k.Reason())))
		}
		if most := took*Budget().Reads + Budget().Reads/10; reads > most || reads < 5 {
			t.Errorf("%v reads of one member in %v s", reads, took)
		}
	}
}

// Whatever is asked has a closed end, or is one key, and is pinned.
func (r *rig) formIsRight() {
	r.t.Helper()
	for _, s := range r.stores {
		for _, req := range s.asked() {
			if req.GetRevision() < oldestPinned || !req.GetSerializable() || slices.Equal(req.GetRangeEnd(), []byte{0}) {
				r.t.Fatalf("%v", req)
			}
		}
	}
}
