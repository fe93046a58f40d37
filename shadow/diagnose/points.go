package diagnose

import (
	"cmp"
	"maps"
	"slices"

	"github.com/etcd-parallax/parallax/shadow/judge/drift"
)

// points are what is known of members exactly: "after log index i, the member is at revision r". Two members with the
// same revision after one index are equal by revision.
//
// Proof. f(i) is the member's revision after index i. S1, S2 are consecutive Status of one epoch with
// S1.applied = S2.raftIndex = i. The key space is applied before the applied index is set, so S2.rev ≥ f(i). What S2.rev
// contains is committed, and the committed index is read after it, so S2.rev ≤ f(i). The latter needs a member that knows
// what is committed of what it holds: it is live (see drift.Rev), or has answered a linearizable read in this epoch.
type points map[uint64]*track

// track of one member.
type track struct {
	epoch   uint64
	settled bool
	at      map[uint64]int64 // log index → revision
}

// tracked bounds the points of one member.
const tracked = 512

func (p points) of(member, epoch uint64) *track {
	t := p[member]
	if t == nil || t.epoch != epoch {
		t = &track{epoch: epoch, at: map[uint64]int64{}}
		p[member] = t
	}
	return t
}

// settle notes that the member knows what is committed of what it holds.
func (p points) settle(member, epoch uint64) { p.of(member, epoch).settled = true }

// see two consecutive Status of a member.
func (p points) see(before, s drift.Status) {
	t := p.of(s.Member, s.Epoch)
	if !t.settled || before.Epoch != s.Epoch || before.Applied != s.RaftIndex || s.RaftIndex == 0 {
		return
	}
	if len(t.at) == tracked {
		clear(t.at)
	}
	t.at[s.RaftIndex] = s.Revision
}

// forget all points, as what was equal before a difference need not be so after it.
func (p points) forget() {
	for _, t := range p {
		clear(t.at)
	}
}

// same tells whether two members are known to be at one revision after the newest log index that is known of both.
func (p points) same(a, b uint64) bool {
	x, y := p[a], p[b]
	if x == nil || y == nil {
		return false
	}
	var newest uint64
	for i := range x.at {
		if _, both := y.at[i]; both {
			newest = max(newest, i)
		}
	}
	return newest != 0 && x.at[newest] == y.at[newest]
}

// grouped makes one finding of the pairs that REV or LIN proved, the widest first: who differs from all sides has one of
// its own, and who is known to be equal to one side alone stands there.
func (r *run) grouped() []Found {
	if len(r.apart) == 0 {
		return nil
	}
	pairs := slices.SortedFunc(maps.Values(r.apart), func(a, b drift.Finding) int {
		return cmp.Or(cmp.Compare(b.Gap, a.Gap), slices.Compare(a.Groups[0].Members, b.Groups[0].Members), slices.Compare(a.Groups[1].Members, b.Groups[1].Members))
	})
	differ := func(a, b uint64) bool {
		_, ab := r.apart[[2]uint64{a, b}]
		_, ba := r.apart[[2]uint64{b, a}]
		return ab || ba
	}
	f := pairs[0]
	for _, other := range pairs[1:] {
		for _, side := range other.Groups {
			if !slices.ContainsFunc(f.Groups, func(g drift.Group) bool { return !differ(side.Members[0], g.Members[0]) }) {
				f.Groups = append(f.Groups, side)
			}
		}
	}
	for id := range r.last {
		var equal []int // to the sides
		for i, g := range f.Groups {
			first := g.Members[0]
			if id == first {
				equal = nil
				break
			}
			if !differ(id, first) && r.points.same(id, first) {
				equal = append(equal, i)
			}
		}
		if len(equal) == 1 {
			g := &f.Groups[equal[0]]
			g.Members = append(g.Members, id)
		}
	}
	for _, g := range f.Groups {
		slices.Sort(g.Members)
	}
	return []Found{foundOf(f)}
}
