package follow

import (
	"context"
	"slices"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
	"github.com/etcd-parallax/parallax/shadow/judge"
)

// oldestPinned is the first revision at which PIN compares: an empty store is at 1.
const oldestPinned = 2

// renewals bounds how often following starts again from a newer revision, because the one it had was compacted.
const renewals = 3

// since finds the first revision at which the answers for the key differ. nil, with why, where it could not be found.
func (t *trail) since(ctx context.Context) (*record.Since, judge.Kind) {
	at := t.revision
	for range renewals {
		first, readable, k := boundary(at, func(r int64) judge.Kind { return t.compare(ctx, r) })
		if k != judge.OK {
			return nil, k
		}
		s, k := t.confirm(ctx, first, readable)
		switch {
		case s != nil:
			return s, judge.OK
		case k != judge.Compacted:
			return nil, k
		}
		// The boundary was compacted while it was searched for. Differences outlive a compaction: from here on they began before it.
		if k := t.renew(ctx); k != judge.OK {
			return nil, k
		}
		if at = t.at; t.compare(ctx, at) != differing {
			return nil, unsettled
		}
	}
	return nil, judge.Compacted
}

// What is said here beside judge's kinds of answers, of which OK is that all members of the finding answered, and alike.
const (
	differing judge.Kind = 100 + iota // all answered, and not alike
	unsettled                         // they answer now one way and now another
	bounded                           // enough was asked
)

// compare asks the members of the finding for the key at one revision, once.
func (t *trail) compare(ctx context.Context, revision int64) judge.Kind {
	pages, k := t.ask(ctx, t.members, judge.Question{Key: t.key, Revision: revision}, 0)
	switch {
	case k != judge.OK:
		return k
	case judge.Suspects(answers(pages)):
		return differing
	}
	return judge.OK
}

// boundary searches for a revision at which members differ that did not at the one before, beginning at one at which they differ.
// readable tells whether the one before can be read; where it cannot, the members differ at the oldest that can.
//
// It is a bisection, which first goes back in steps that double: most differences are young, and old revisions are compacted. A key
// may differ, be equal and differ again (both sides deleted it, say). Then there are several boundaries, and this is one of them: of
// the last where the steps do not leap over what is equal in between.
func boundary(at int64, compare func(revision int64) judge.Kind) (first int64, readable bool, k judge.Kind) {
	differs, before, step := at, int64(oldestPinned-1), int64(1)
	for differs-before > 1 {
		mid := max(differs-step, before+(differs-before)/2)
		switch k := compare(mid); k {
		case differing:
			differs, step = mid, step+min(step, at-step)
		case judge.OK:
			before, readable, step = mid, true, at
		case judge.Compacted: // on one member is enough: members compact one after the other
			before, readable, step = mid, false, at
		default:
			return 0, false, k
		}
	}
	return differs, readable, judge.OK
}

// confirm proves a boundary, with two rounds on both of its sides: members that differ at first, and are equal before it. One round,
// of which the search consists, proves nothing.
func (t *trail) confirm(ctx context.Context, first int64, readable bool) (*record.Since, judge.Kind) {
	revisions := []int64{first}
	if readable {
		revisions = append(revisions, first-1)
	}
	rounds := map[int64][][]judge.Answer{}
	for _, r := range slices.Concat(revisions, revisions) {
		pages, k := t.ask(ctx, t.members, judge.Question{Key: t.key, Revision: r}, 0)
		if k == judge.Compacted && r < first {
			readable = false // just now; what was seen of it, once, is not proved any more
			continue
		}
		if k != judge.OK {
			return nil, k
		}
		rounds[r] = append(rounds[r], answers(pages))
	}
	at := func(r int64) judge.Outcome {
		return judge.PIN(judge.Question{Key: t.key, Revision: r}, rounds[r][0], rounds[r][1]).Outcome
	}
	switch {
	case at(first) != judge.Divergent:
		return nil, unsettled
	case !readable:
		return &record.Since{CompactedBefore: first}, judge.OK
	case at(first-1) != judge.Consistent || judge.Suspects(rounds[first-1][1]):
		return nil, unsettled
	}
	return &record.Since{Revision: first}, judge.OK
}
