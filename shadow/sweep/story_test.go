package sweep

import (
	"bytes"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func numbered(n int) []string {
	var keys []string
	for i := range n {
		keys = append(keys, fmt.Sprintf("/k/%05d", i))
	}
	return keys
}

// at calls f once, when a member is asked for a page that begins like a key, and may hold it.
func (s *store) at(key string, f func()) {
	var once atomic.Bool
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = func(req *pb.RangeRequest) error {
		q := judge.Question{Key: req.GetKey(), End: req.GetRangeEnd()}
		if bytes.HasPrefix(q.Key, []byte(key[:min(len(key), 3)])) && q.Meets(judge.Question{Key: []byte(key)}) && once.CompareAndSwap(false, true) {
			f()
		}
		return nil
	}
}

// change a key at one member.
func (s *store) change(key string, f func(kv *mvccpb.KeyValue)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find([]byte(key))
	kv := proto.Clone(s.kvs[i]).(*mvccpb.KeyValue)
	f(kv)
	s.kvs[i] = kv
}

// kill a member, and start it again.
func kill(t *testing.T, m *membertest.Member) (done chan struct{}) {
	done = make(chan struct{})
	go func() { defer close(done); m.Restart(t) }()
	t.Cleanup(func() { <-done })
	return done
}

func spoil(kv *mvccpb.KeyValue) { kv.Value = []byte("spoiled") }

func (b *bench) wants(t *testing.T, r Result, keys int, differing ...string) {
	t.Helper()
	if r.Keys != int64(keys) || r.GapCount != 0 || len(r.Away) != 0 || !slices.Equal(b.differing(), differing) {
		t.Errorf("%+v; differing %q, want %q", r, b.differing(), differing)
	}
}

func TestAnEmptyStoreIsConsistent(t *testing.T) {
	b := newBench(t)
	b.wants(t, b.once(t, "", ""), 0)
	for _, m := range b.cluster.Members {
		m.Change(func(m *membertest.Member) { m.Revision = 1 }) // nothing was ever written
	}
	b.wants(t, b.once(t, "", ""), 0)
}

func TestFromAKeyAndWithinAPrefix(t *testing.T) {
	b := newBench(t)
	b.hold(kvs([]string{"/a", "/b/1", "/b/2", "/b/3", "/b/\xff\xff", "/c"}, 1))
	for _, k := range []string{"/a", "/b/1", "/b/3", "/c"} {
		b.stores[1].change(k, spoil)
	}
	b.wants(t, b.once(t, "", "/b/"), 4, "/b/1", "/b/3")
	b.found = nil
	b.wants(t, b.once(t, "/b/2", "/b/"), 3, "/b/3")
	b.found = nil
	b.wants(t, b.once(t, "/b/2", ""), 4, "/b/3", "/c")
	b.found = nil
	b.wants(t, b.once(t, "/d", "/b/"), 0)
}

// A compaction in the middle costs a new revision, and nothing else.
func TestCompactedUnderneath(t *testing.T) {
	b := newBench(t)
	b.hold(kvs(numbered(3000), 10))
	b.stores[2].change("/k/02500", spoil)
	b.stores[0].at("/k/01500", func() {
		for i, s := range b.stores {
			b.cluster.Members[i].Change(func(m *membertest.Member) { m.Revision = 200 })
			s.mu.Lock()
			s.compacted = 150
			s.mu.Unlock()
		}
	})
	b.wants(t, b.once(t, "", ""), 3000, "/k/02500")
}

// What is written while it is swept is no difference, wherever it arrives first.
func TestWritesUnderneath(t *testing.T) {
	b := newBench(t)
	all := kvs(numbered(3000), 10)
	for i, kv := range all {
		kv.ModRevision = int64(i % 300) // every third is not there yet
	}
	b.hold(all)
	b.stores[1].change("/k/02900", spoil) // at revision 200
	for i, s := range b.stores {
		member := b.cluster.Members[i]
		s.before = func(*pb.RangeRequest) error {
			member.Change(func(m *membertest.Member) { m.Revision = min(300, m.Revision+int64(7*i+5)) })
			return nil
		}
	}
	r := b.once(t, "", "")
	if len(b.found) > 1 || r.GapCount != 0 || len(r.Away) != 0 || len(b.found) == 1 && string(b.found[0].Key) != "/k/02900" {
		t.Errorf("%+v, %q", r, b.differing())
	}
}

// A member that restarts is a moment away, and what it answers then counts again.
func TestAMemberRestarts(t *testing.T) {
	b := newBench(t)
	b.hold(kvs(numbered(3000), 10))
	b.stores[1].change("/k/02900", spoil)
	b.stores[1].at("/k/01500", func() { kill(t, b.cluster.Members[2]) })
	r := b.once(t, "", "")
	if r.GapCount > 1 { // a page that was being read when the connection broke
		t.Errorf("%+v", r.Gaps)
	}
	if got := b.differing(); !slices.Equal(got, []string{"/k/02900"}) {
		t.Errorf("%q", got)
	}
}

// Members that stay away are named, and the others compared.
func TestAMemberStaysAway(t *testing.T) {
	b := newBench(t)
	b.Patience = 1
	b.hold(kvs(numbered(1000), 10))
	b.stores[0].change("/k/00900", spoil)
	b.cluster.Members[2].Stop()
	r := b.once(t, "", "")
	if len(r.Away) != 1 || r.Away[0].ID != 3 || len(r.Members) != 2 || !slices.Equal(b.differing(), []string{"/k/00900"}) {
		t.Errorf("%+v, %q", r, b.differing())
	}
	b.cluster.Members[1].Stop()
	if r, err := b.Once(t.Context(), nil, nil); err == nil || r.Next == nil {
		t.Errorf("one member is left: %+v, %v", r, err)
	}
}

// A member whose revision stands still agrees with all at the revisions that it
// has. That is no proof of health.
func TestAMemberStaysBehind(t *testing.T) {
	b := newBench(t)
	b.LagBudget = 200 * time.Millisecond
	b.hold(kvs(numbered(100), 10))
	b.cluster.Members[1].Change(func(m *membertest.Member) { m.Revision = 90 })
	r := b.once(t, "", "")
	if len(r.Away) != 1 || r.Away[0].ID != 2 || r.Away[0].Reason != judge.FutureRev.Reason() || r.Revision != 90 {
		t.Errorf("%+v", r)
	}
}

// A member that does not hold to its answer accuses nobody.
func TestAnUnstableAnswerIsAGap(t *testing.T) {
	b := newBench(t)
	b.hold(kvs(numbered(100), 10))
	n := byte(0)
	b.stores[2].before = func(*pb.RangeRequest) error {
		n++
		b.stores[2].change("/k/00050", func(kv *mvccpb.KeyValue) { kv.Value = []byte{n} })
		return nil
	}
	r := b.once(t, "", "")
	if r.GapCount != 1 || r.Gaps[0].Reason != judge.Unstable || len(b.found) != 0 || r.Keys != 100 {
		t.Errorf("%+v, %d found", r, len(b.found))
	}
}

// What is poisoned is passed over, and said.
func TestAPoisonedRangeIsPassedOver(t *testing.T) {
	b := newBench(t)
	b.hold(kvs(numbered(2000), 10))
	b.stores[0].change("/k/00700", spoil)
	b.stores[0].change("/k/01999", spoil)
	b.stores[1].at("/k/00700", func() { <-kill(t, b.cluster.Members[1]) }) // in the middle of the read
	r := b.once(t, "", "")
	if r.GapCount != 1 || r.Gaps[0].Reason != judge.Poisoned.Reason() || !slices.Equal(b.differing(), []string{"/k/01999"}) {
		t.Errorf("%+v, %q", r, b.differing())
	}
	q := judge.Question{Key: []byte("/k/00700")}
	if !b.Ask.Poison.Covers(q) {
		t.Error("it is read again")
	}
	if g := r.Gaps[0]; r.Keys < 900 {
		t.Errorf("only %d keys were compared, the gap is [%q, %q)", r.Keys, g.From, g.To)
	}
}

// Where nobody knows how many keys there are, what is poisoned is only what was read.
func TestAMemberIsLostOverAFarEnd(t *testing.T) {
	b := newBench(t)
	b.hold(kvs(numbered(5000), 10))
	b.stores[2].change("/k/04000", spoil)
	var once atomic.Bool
	for i, s := range b.stores {
		s.before = func(req *pb.RangeRequest) error {
			q := judge.Question{Key: req.GetKey(), End: req.GetRangeEnd()}
			if len(q.Key) == 1 && q.Covers([]byte("/k/00000")) && once.CompareAndSwap(false, true) {
				<-kill(t, b.cluster.Members[i])
			}
			return nil
		}
	}
	r := b.once(t, "", "")
	if r.GapCount != 1 || r.Gaps[0].Reason != judge.Poisoned.Reason() || r.Keys < 4900 || !slices.Equal(b.differing(), []string{"/k/04000"}) {
		t.Errorf("%+v, %q", r, b.differing())
	}
	if !b.Ask.Poison.Covers(judge.Question{Key: []byte("/k/00000")}) || b.Ask.Poison.Covers(judge.Question{Key: []byte("/k/02000")}) {
		t.Error("the wrong keys are poisoned")
	}
}

// Values of many sizes, keys as large as etcd takes, and more than fits into one answer.
func TestSizes(t *testing.T) {
	b := newBench(t)
	all := kvs(numbered(300), 10)
	for i, kv := range all {
		switch {
		case i%50 == 7:
			kv.Value = bytes.Repeat([]byte{1}, 1<<20)
		case i > 291:
			kv.Value = bytes.Repeat([]byte{2}, 3<<19)
		}
	}
	for i := range 3 {
		key := append([]byte("/large/"), bytes.Repeat([]byte{'x'}, 1<<20)...)
		all = append(all, &mvccpb.KeyValue{Key: append(key, byte('0'+i)), ModRevision: 3, CreateRevision: 3, Version: 1})
	}
	b.hold(all)
	b.stores[1].change("/k/00295", spoil)
	large := string(all[len(all)-2].Key)
	b.stores[2].change(large, spoil)
	b.wants(t, b.once(t, "", ""), 303, "/k/00295", large)
}
