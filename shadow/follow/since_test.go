package follow

import (
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
	"github.com/etcd-parallax/parallax/shadow/judge"
)

// The boundary that is found is one, whatever the history; and it is found within a number of reads that grows with the logarithm of
// its distance.
func TestBoundary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const newest = 300
		compacted := rapid.Int64Range(0, newest).Draw(t, "compacted")
		differs := map[int64]bool{newest: true}
		flips := rapid.SliceOfN(rapid.Int64Range(1, newest), 0, 4).Draw(t, "flips")
		for r := int64(newest - 1); r > 0; r-- {
			differs[r] = differs[r+1]
			for _, f := range flips {
				if f == r {
					differs[r] = !differs[r]
				}
			}
		}
		asked := 0
		first, readable, k := boundary(newest, func(r int64) judge.Kind {
			asked++
			switch {
			case r < oldestPinned || r >= newest:
				t.Fatalf("revision %d was asked for", r)
			case r < compacted:
				return judge.Compacted
			case differs[r]:
				return differing
			}
			return judge.OK
		})
		switch {
		case k != judge.OK || !differs[first]:
			t.Fatalf("%v at %d, where they differ: %v", k, first, differs[first])
		case readable && (differs[first-1] || first-1 < compacted):
			t.Fatalf("%d was said to be the first", first)
		case !readable && first != max(compacted, oldestPinned):
			t.Fatalf("%d was said to be the oldest that can be read, %d is", first, compacted)
		case asked > 20:
			t.Fatalf("asked %d times", asked)
		}
	})
}

func TestABoundaryNextToTheEndOfNumbers(t *testing.T) {
	for _, want := range []int64{2, 3, 1 << 40, 1<<62 + 12345, 1<<63 - 2} {
		asked := 0
		first, _, k := boundary(1<<63-1, func(r int64) judge.Kind {
			if asked++; asked > 130 {
				t.Fatal("no end")
			}
			if r >= want {
				return differing
			}
			return judge.OK
		})
		if first != want || k != judge.OK {
			t.Errorf("%d, want %d", first, want)
		}
	}
}

func TestASearchEndsWithAnAnswerThatTellsNothing(t *testing.T) {
	for _, want := range []judge.Kind{judge.EpochChanged, judge.Unreachable, judge.FutureRev, judge.Poisoned, judge.Paused} {
		if _, _, k := boundary(100, func(int64) judge.Kind { return want }); k != want {
			t.Errorf("%s, want %s", k.Reason(), want.Reason())
		}
	}
}

func TestADifferenceOlderThanTheHistory(t *testing.T) {
	r := newRig(t)
	r.fill("/a/", 5)
	r.apply(op{key: "/a/00003", value: "new"}, 2)
	r.fill("/a/", 5)
	r.fill("/b/", 20)
	r.stores[0].compact(15) // the others are slower
	r.apply(op{key: "/a/00003", value: "newer"}, 2)
	if _, got := r.one("/a/00003"); got.Since == nil || *got.Since != (record.Since{CompactedBefore: 15}) {
		t.Errorf("%+v", got.Since)
	}
}

// The history is compacted while it is searched: up to below the revision from which the search began, or beyond it.
func TestACompactionDuringTheSearch(t *testing.T) {
	for name, c := range map[string]struct {
		to   int64
		want record.Since
	}{
		"below": {20, record.Since{CompactedBefore: 20}},
		"above": {40, record.Since{CompactedBefore: 40}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.fill("/a/", 5)
			r.apply(op{key: "/a/00003", value: "new"}, 2)
			r.fill("/b/", 28)
			var once sync.Once
			r.serve()
			from := r.lowest()
			r.stores[1].hook(func(req *pb.RangeRequest) {
				if req.GetRevision() < from { // the search has begun
					once.Do(func() {
						for _, s := range r.stores {
							s.mu.Lock()
							for i := range 10 {
								s.apply(op{key: "/c", value: string(rune('a' + i))})
							}
							s.mu.Unlock()
							s.compact(c.to)
						}
						r.serve()
					})
				}
			})
			how, got := r.one("/a/00003")
			if how != followed || got.Since == nil || *got.Since != c.want {
				t.Errorf("%s, since %+v, want %+v", how, got.Since, c.want)
			}
		})
	}
}

// A member that answers one way and then another, at one revision, proves nothing: neither that they were equal before, nor that they
// differ from then on.
func TestAnUnsteadyBoundaryIsNotTold(t *testing.T) {
	for name, lease := range map[string]func(began, revision int64, n int) int64{
		"equal once":     func(began, revision int64, n int) int64 { return map[bool]int64{true: 1}[revision == began-1 && n > 1] },
		"different once": func(began, revision int64, n int) int64 { return map[bool]int64{true: 1}[revision < began && n == 1] },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.fill("/a/", 20)
			r.apply(op{key: "/a/00003", value: "new"}, 2)
			r.fill("/b/", 5)
			r.serve()
			began, asked := r.stores[0].revision-5, map[int64]int{}
			r.stores[1].hook(func(req *pb.RangeRequest) {
				if len(req.GetRangeEnd()) > 0 {
					return
				}
				asked[req.GetRevision()]++
				s := r.stores[1]
				s.mu.Lock()
				defer s.mu.Unlock()
				s.history["/a/00003"][0].Lease = lease(began, req.GetRevision(), asked[req.GetRevision()])
			})
			how, got := r.one("/a/00003")
			if how != partly || got.Since != nil {
				t.Errorf("%s, since %+v", how, got.Since)
			}
		})
	}
}
