package follow

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// damage makes C hold other values than the others.
func (r *rig) damage(keys ...string) {
	for _, key := range keys {
		h := r.stores[2].history[key]
		h[len(h)-1].Value = []byte("damaged")
	}
}

// longestWalk of any range that was asked for, by keys.
func (r *rig) longestWalk() int64 {
	n := int64(0)
	for _, s := range r.stores {
		n = max(n, slices.Max(s.walked))
	}
	return n
}

func examplesOf(f divergence.Followed) []string {
	var keys []string
	for _, k := range f.Extent.ExampleKeys {
		keys = append(keys, k.Key)
	}
	return keys
}

// In a directory of very many keys the neighbors are compared, and no read walks over much more than them.
func TestADenseDirectory(t *testing.T) {
	r := newRig(t)
	for _, s := range r.stores { // one revision, as a txn would
		for i := range 30_000 {
			s.keys = append(s.keys, fmt.Appendf(nil, "/dense/%05d", i))
		}
		for i, key := range s.keys {
			s.history[string(key)] = nil
			s.write(op{key: string(key), value: "v"}, int64(2+i/10_000))
		}
	}
	near := []string{"/dense/12300", "/dense/12345", "/dense/12399"}
	r.damage(append(near, "/dense/00001", "/dense/29999")...)
	how, got := r.one("/dense/12345")
	if how != partly && how != followed || got.Extent == nil || got.Extent.Complete || !slices.Equal(examplesOf(got), near) {
		t.Fatalf("%s: %+v", how, got.Extent)
	}
	if n := got.Extent.KeysCompared; n < 1000 || n > 2*farKeys {
		t.Errorf("%d keys compared", n)
	}
	if n := r.longestWalk(); n > 11_000 {
		t.Errorf("a read walked over %d keys", n)
	}
	r.formIsRight()
	for _, s := range r.stores {
		s.walked = []int64{0}
	}
	r.damage("/dense/12349")
	if _, got = r.one("/dense/12349"); got.Extent.KeysDiffering != 4 {
		t.Errorf("%+v", got.Extent)
	}
	if n := r.longestWalk(); n > wideSpan {
		t.Errorf("what is dense was counted once more: %d keys", n)
	}
}

// The neighbors to the left and to the right that fit are compared, where the whole directory does not.
func TestNeighborsToBothSides(t *testing.T) {
	for _, key := range []string{"/a/02000", "/a/01999", "/a/00000"} {
		r := newRig(t)
		r.fill("/a/", 4000)
		r.apply(op{key: "/b/1"})
		at, _ := strconv.Atoi(key[len("/a/"):])
		var all []string
		for i := max(0, at-100); i <= min(at+100, 3999); i++ {
			all = append(all, fmt.Sprintf("/a/%05d", i))
		}
		r.damage(all...)
		how, got := r.one(key)
		if how != followed || got.Extent.KeysDiffering != int64(len(all)) || got.Extent.Complete {
			t.Errorf("%q: %s: %+v", key, how, got.Extent)
		}
		if n := r.longestWalk(); n > 4001 {
			t.Errorf("%q: a read walked over %d keys", key, n)
		}
		r.formIsRight()
	}
}

// A sibling with very many keys under it is counted by one member, and not by halves either.
func TestADenseSibling(t *testing.T) {
	r := newRig(t)
	r.fill("/a/5", 1)
	for _, s := range r.stores {
		for i := range 10_000 {
			s.keys = append(s.keys, fmt.Appendf(nil, "/a/6/%05d", i))
		}
		for _, key := range s.keys[1:] {
			s.write(op{key: string(key)}, 3)
		}
	}
	r.damage("/a/500000")
	if how, got := r.one("/a/500000"); how != followed || got.Extent.KeysCompared != 1 {
		t.Errorf("%s: %+v", how, got.Extent)
	}
	long := 0
	for _, s := range r.stores {
		for _, n := range s.walked {
			if n >= wideSpan {
				long++
			}
		}
	}
	if long != 2 {
		t.Errorf("%d reads walked over all of it: one for both sides, and one for its own is what it takes", long)
	}
}

func TestMiddle(t *testing.T) {
	for _, c := range [][3]string{
		{"a", "c", "b"}, {"/a/1", "/a/3", "/a/2"}, {"a", "b", "a\x80"}, {"a", "a\x01", "a\x00\x80"}, {"b", "ab", "a\xb1"}, {"a", "a", ""}, {"a", "a\x00", ""},
	} {
		if got := middle([]byte(c[0]), []byte(c[1])); string(got) != c[2] {
			t.Errorf("between %q and %q: %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

func TestLargeValuesComeInSmallPages(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 40)
	for _, s := range r.stores {
		for i := 20; i < 40; i++ {
			s.history[fmt.Sprintf("/a/%05d", i)][0].Value = make([]byte, 1<<19)
		}
	}
	r.damage("/a/00001", "/a/00003")
	_, got := r.one("/a/00003") // which is small: that others are not shows in the first page
	if got.Extent.KeysDiffering != 2 || got.Extent.KeysCompared < 20 || got.Extent.Complete {
		t.Errorf("%+v", got.Extent)
	}
	if n := testutil.ToFloat64(r.Metrics.bytes.WithLabelValues("1")); n > mostBytes+member.MaxAnswer { // one answer more, at most
		t.Errorf("%v bytes", n)
	}
}

func TestSpans(t *testing.T) {
	for prefix, want := range map[string]string{"": string(top), "/a/": "/a0", "a\xff": "b", "\xff\xff": string(top)} {
		if s := under([]byte(prefix)); string(s.hi) != want || s.empty() {
			t.Errorf("%q up to %q, want %q", prefix, s.hi, want)
		}
	}
	for _, key := range []string{"\x00", "\xff", "\xff\xff\x01", "a", "/a/b"} {
		r := newRig(t)
		for _, k := range []string{key, key + "\x00", key + "x", "\x01", "m"} {
			r.apply(op{key: k, value: "v"})
		}
		r.damage(key)
		how, got := r.one(key)
		if how != followed || got.Extent.KeysDiffering != 1 {
			t.Errorf("%q: %s %+v", key, how, got.Extent)
		}
		if !got.Extent.Complete || got.Extent.KeysCompared != 5 {
			t.Errorf("%q: %+v", key, got.Extent)
		}
	}
}

// What takes a member longer to count than it has is not asked a second time, and does not keep what is nearer from being compared.
func TestWhatCannotBeCountedInTimeIsNotAskedAgain(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 20)
	r.apply(op{key: "/b/1"})
	r.damage("/a/00003")
	asked := 0
	r.stores[0].hook(func(req *pb.RangeRequest) {
		if whole := under([]byte("/")); string(req.GetKey()) == string(whole.lo) && string(req.GetRangeEnd()) == string(whole.hi) {
			asked++
			<-time.After(1100 * time.Millisecond)
		}
	})
	for range 2 {
		how, got := r.one("/a/00003")
		if how != followed || asked != 1 || got.Extent.KeysCompared != 21 {
			t.Fatalf("%s: asked %d times, %+v", how, asked, got.Extent)
		}
	}
}

// Where the user may not read everything, what it may read is compared.
func TestOnlyWhatIsPermittedIsCompared(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 20)
	r.fill("/b/", 20)
	r.damage("/a/00003")
	for i, s := range r.stores {
		s.on(r.cluster.Members[i])
		r.cluster.Members[i].Change(func(m *membertest.Member) {
			m.Range = func(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
				if !strings.HasPrefix(string(req.GetKey()), "/a/") || string(req.GetRangeEnd()) > "/a0" {
					return nil, rpctypes.ErrGRPCPermissionDenied
				}
				return s.serve(ctx, req)
			}
		})
	}
	how := r.follow(t.Context(), lead{cluster: r.cluster.ID, key: []byte("/a/00003"), revision: r.lowest()})
	if e := r.book.all()[1].Extent; how != followed || e.Complete || e.KeysCompared != 20 || e.KeysDiffering != 1 {
		t.Errorf("%s: %+v", how, e)
	}
}

// Nobody's keys lie there.
func TestAKeyBeyondTheTop(t *testing.T) {
	r := newRig(t)
	r.apply(op{key: string(top), value: "v"})
	r.damage(string(top))
	if how, got := r.one(string(top)); how != followed || got.Extent != nil || got.Since.CompactedBefore != 2 {
		t.Errorf("%s: %+v", how, got)
	}
}

// A key that is said to differ was seen to in two rounds.
func TestAFleetingDifferenceIsNotCounted(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 20)
	r.damage("/a/00003")
	n := 0
	r.stores[1].hook(func(req *pb.RangeRequest) {
		if len(req.GetRangeEnd()) == 0 || req.GetLimit() == 1 {
			return
		}
		n++
		s := r.stores[1]
		s.mu.Lock()
		defer s.mu.Unlock()
		s.history["/a/00007"][0].Lease = int64(n % 2) // in the first round of each page
	})
	how, got := r.one("/a/00003")
	if how != partly || got.Extent != nil {
		t.Errorf("%s: %+v", how, got.Extent)
	}
}
