package drift

import (
	"cmp"
	"fmt"
	"slices"
)

// Rev applies REV: it finds a member whose revision is stuck, or runs ahead. Feed
// it every Status of every member (learners too), in the order in which the
// answers came, where the calls to one member do not overlap.
//
//	A is live once it has shown a change of its revision within this epoch.
//	Every Status of a live A gives a bound: (X = A.raftIndex, r = A.rev)
//	B1, B2 consecutive Status of B, same epoch, B1.raftAppliedIndex ≥ X and B2.rev < r,
//	and A's epoch is still the same (asked again)                ⇒ divergent {A, B}
//
// Proof. f(i) is the revision after log index i. Live: in this process A has
// applied a live entry, from then on its commit index is at least the index of
// everything its state contains; the commit index is read after the revision, so
// f(X) ≥ r. The store is changed before the applied index is set, so
// B2.rev ≥ f(B1.applied) ≥ f(X) ≥ r. Contradiction. (Live leaves out the moment
// after boot, when consistent_index may exceed the commit index, etcd #20426.)
//
// Nothing in it asks which of the answers was first: a bound is as true of
// answers that B gave before. But only answers that are close together can be
// close in revisions: a gap of g shows when fewer than g revisions are made
// between A's answer and B2, so ask in bursts: A, B, B.
//
// The zero value is ready. It is not safe for concurrent use.
type Rev struct {
	courses      map[uint64]*course
	incarnations uint64
}

// course is what a member showed within one incarnation.
type course struct {
	incarnation uint64
	first       int64  // revision of the first Status
	before      Status // the one before last, when paired
	last        Status
	paired      bool
	live        bool
	bounds      []bound
}

// bound says that f(index) ≥ revision.
type bound struct {
	index    uint64
	revision int64
}

// maxBounds of one member.
const maxBounds = 64

// Suspicion is a violation of REV that no side has stood by yet.
type Suspicion struct {
	Ahead, Behind uint64
	Gap           int64

	ahead, behind         Status // the last of each at that time
	aheadLife, behindLife uint64 // incarnations
	bound                 bound
	behindApplied         uint64 // shown by the one behind before its last Status
}

// See returns what this Status shows together with the earlier ones. It is not
// proved yet: ask both sides once more, and give the answers to Confirm.
func (r *Rev) See(s Status) []Suspicion {
	if !s.heard() {
		return nil
	}
	c := r.courses[s.Member]
	if c == nil || !s.follows(c.last) {
		r.begin(s)
		return nil
	}
	c.before, c.last, c.paired = c.last, s, true
	c.live = c.live || s.Revision > c.first
	if c.live {
		c.bind(bound{s.RaftIndex, s.Revision})
	}
	var found []Suspicion
	for _, other := range r.courses {
		if other == c {
			continue
		}
		if x, ok := suspect(other, c); ok {
			found = append(found, x)
		}
		if x, ok := suspect(c, other); ok {
			found = append(found, x)
		}
	}
	slices.SortFunc(found, func(a, b Suspicion) int {
		return cmp.Or(cmp.Compare(a.Ahead, b.Ahead), cmp.Compare(a.Behind, b.Behind))
	})
	return found
}

// begin a course with the first Status of an incarnation. A revision or an index
// that runs backwards within an epoch begins one as well: a member that had run
// ahead and was given a snapshot, or something between us and the members that
// keeps our connection while they restart. It proves nothing by itself, and all
// that the member showed before is void.
func (r *Rev) begin(s Status) {
	if r.courses == nil {
		r.courses = make(map[uint64]*course)
	}
	r.incarnations++
	r.courses[s.Member] = &course{incarnation: r.incarnations, first: s.Revision, last: s}
}

// bind keeps a bound. Of one revision the lowest index says the most, of one
// index the highest revision. When there are too many, every second of the older
// half goes: what is left reaches far back for members that lag, ever more
// thinly.
func (c *course) bind(b bound) {
	if n := len(c.bounds); n > 0 {
		switch last := &c.bounds[n-1]; {
		case last.revision == b.revision:
			return
		case last.index == b.index:
			last.revision = b.revision
			return
		}
	}
	c.bounds = append(c.bounds, b)
	if len(c.bounds) <= maxBounds {
		return
	}
	kept := c.bounds[:0]
	for i, b := range c.bounds {
		if i >= maxBounds/2 || i%2 == 0 {
			kept = append(kept, b)
		}
	}
	c.bounds = kept
}

// suspect holds the last two answers of b against the best bound of a for them.
func suspect(a, b *course) (Suspicion, bool) {
	if !a.live || !b.paired {
		return Suspicion{}, false
	}
	applied, shown := b.before.Applied, b.last.Revision
	n, _ := slices.BinarySearchFunc(a.bounds, applied, func(x bound, applied uint64) int {
		if x.index <= applied {
			return -1
		}
		return 1
	})
	if n == 0 || a.bounds[n-1].revision <= shown {
		return Suspicion{}, false
	}
	best := a.bounds[n-1]
	return Suspicion{
		Ahead: a.last.Member, Behind: b.last.Member, Gap: best.revision - shown,
		ahead: a.last, behind: b.last, aheadLife: a.incarnation, behindLife: b.incarnation,
		bound: best, behindApplied: applied,
	}, true
}

// Live tells whether the member has shown a change of its revision within this
// epoch, so that its commit index covers its state.
func (r *Rev) Live(member, epoch uint64) bool {
	c := r.courses[member]
	return c != nil && c.last.Epoch == epoch && c.live
}

// Confirm proves a suspicion with a and b, answers of the member ahead and of the
// one behind that were both asked for after it was found. It does not feed them:
// See has to be given every Status, these too, before or after.
//
// GUARANTEE G3: a side that does not stand by what it showed, on the connection
// and in the incarnation in which it did, voids the suspicion.
func (r *Rev) Confirm(x Suspicion, a, b Status) (Finding, bool) {
	ahead, behind := r.courses[x.Ahead], r.courses[x.Behind]
	if ahead == nil || ahead.incarnation != x.aheadLife || !a.follows(x.ahead) ||
		behind == nil || behind.incarnation != x.behindLife || !b.follows(x.behind) {
		return Finding{}, false
	}
	return Finding{
		Rule: RuleREV,
		Groups: []Group{{
			Members: []uint64{x.Ahead}, Revision: x.bound.revision,
			Shows: fmt.Sprintf("revision %d within raft index %d", x.bound.revision, x.bound.index),
		}, {
			Members: []uint64{x.Behind}, Revision: x.behind.Revision,
			Shows: fmt.Sprintf("revision %d with raft index %d applied", x.behind.Revision, x.behindApplied),
		}},
		Gap: x.Gap,
	}, true
}

// Keep forgets all members but these.
func (r *Rev) Keep(members []uint64) {
	for m := range r.courses {
		if !slices.Contains(members, m) {
			delete(r.courses, m)
		}
	}
}
