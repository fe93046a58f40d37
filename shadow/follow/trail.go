package follow

import (
	"context"
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/divergence/record"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

const (
	// What is slow, away or out of budget is asked again after 0.5, 1, 2, 4 and 8 s; where some of the members may be away for long, only
	// the first two times.
	firstPause      = 500 * time.Millisecond
	patience, short = 6, 3
)

// trail is the following of one finding, by the members that were seen to differ on its key, within the epochs in which they were.
type trail struct {
	f       *Follower
	cluster uint64
	key     []byte

	members  []*member.Member // of the finding
	epochs   []uint64
	scout    []*member.Member // of them, the one that looks first where nobody knows how much there is
	revision int64            // at which the key differs
	diff     judge.Diff
	size     int // of one key-value here, in bytes

	at      int64 // the revision at which other keys are compared
	left    side
	right   side
	both    int64    // keys that were counted for both sides together
	counts  int      // of how many spans the keys were counted
	visited int64    // keys that a member walked over
	bytes   int      // of the answers of one member
	shifted bool     // the key itself has equal content under other revisions
	moved   [][]byte // so have these, of all that were compared
	alike   int64    // the highest mod_revision of a key that all of them have alike
}

// open makes sure that the key still differs, by two rounds, and knows then whom to ask. Without a trail, the outcome says why.
func (f *Follower) open(ctx context.Context, l lead) (*trail, outcome) {
	snap := f.Members.Snapshot()
	if snap.Cluster != l.cluster {
		return nil, gone
	}
	var t *trail
	why := unanswered
	f.patiently(ctx, short, func() judge.Kind {
		for _, r := range []int64{l.revision, 0} { // where it was found; after that, the newest that all can answer
			if r == 0 {
				r = f.Ask.Revision(ctx, snap.Members)
			}
			q := judge.Question{Key: l.key, Revision: r}
			first, v := f.twice(ctx, snap.Members, q)
			switch v.Outcome {
			case judge.Divergent:
				t = f.trail(ctx, l, q, v.Diffs[0], first, snap)
				return judge.OK
			case judge.Consistent:
				why = gone
			default:
				why = unanswered
			}
		}
		if why == gone || f.Ask.Paused() {
			return judge.OK
		}
		return judge.Unreachable
	})
	if t == nil && f.Ask.Paused() {
		why = paused
	}
	return t, why
}

// twice asks members about one key, and those who answered once more where they differ.
func (f *Follower) twice(ctx context.Context, members []*member.Member, q judge.Question) (first []judge.Answer, v judge.Verdict) {
	if q.Revision < oldestPinned {
		return nil, judge.Verdict{Reason: judge.Unpinned}
	}
	first = f.Ask.All(ctx, members, q, false)
	var again []judge.Answer
	if judge.Suspects(first) {
		again = f.Ask.All(ctx, heard(members, first), q, false)
	}
	return first, judge.PIN(q, first, again)
}

// patiently does something until its answer is none that a while may change.
func (f *Follower) patiently(ctx context.Context, times int, do func() judge.Kind) judge.Kind {
	for wait := firstPause; ; wait *= 2 {
		k := do()
		if times--; !passing(k) || times == 0 {
			return k
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return k
		case <-timer.C:
		}
	}
}

// passing tells whether a member may answer better in a while.
func passing(k judge.Kind) bool {
	return k == judge.Unreachable || k == judge.Timeout || k == judge.Resting || k == judge.OverBudget
}

func (f *Follower) trail(ctx context.Context, l lead, q judge.Question, d judge.Diff, first []judge.Answer, snap *member.Snapshot) *trail {
	t := &trail{f: f, cluster: l.cluster, key: l.key, revision: q.Revision, size: len(l.key)}
	for i, m := range snap.Members {
		if slices.ContainsFunc(d.Groups, func(g judge.Group) bool { return slices.Contains(g.Members, m.ID) }) {
			t.members, t.epochs = append(t.members, m), append(t.epochs, first[i].Epoch)
		}
	}
	t.scout = []*member.Member{snap.Member(d.Groups[0].Members[0])} // of the largest group: the least likely to have lost keys
	for _, g := range d.Groups {
		if g.KV != nil {
			t.size = max(t.size, len(g.KV.Key)+len(g.KV.Value))
		}
	}
	t.diff, t.shifted = judge.Shifted(d, first, t.newest(ctx, q, d))
	return t
}

// newest asks all for a range, each at its own newest revision, where it is open whether a difference is one of revisions alone.
func (t *trail) newest(ctx context.Context, q judge.Question, diffs ...judge.Diff) []judge.Answer {
	if !slices.ContainsFunc(diffs, unclassified) {
		return nil
	}
	var newest []judge.Answer
	t.f.patiently(ctx, short, func() judge.Kind {
		newest, _ = t.f.Ask.Newest(ctx, t.members, q)
		i := slices.IndexFunc(newest, func(a judge.Answer) bool { return passing(a.Kind) })
		if i < 0 {
			return judge.OK
		}
		return newest[i].Kind
	})
	return newest
}

// unclassified tells whether it is open if a key really differs or only moved.
func unclassified(d judge.Diff) bool {
	_, moved := judge.Shifted(d, nil, nil)
	return !moved
}

func heard(members []*member.Member, first []judge.Answer) []*member.Member {
	var some []*member.Member
	for i, a := range first {
		if a.Kind.Heard() {
			some = append(some, members[i])
		}
	}
	return some
}

// ask members of the finding for the first keys of a range, patiently. It returns OK and pages when all of them answered, each in its
// epoch; and otherwise why not.
func (t *trail) ask(ctx context.Context, members []*member.Member, q judge.Question, limit int64) (pages []ask.Page, k judge.Kind) {
	k = t.f.patiently(ctx, patience, func() judge.Kind {
		pages = t.f.Ask.Pages(ctx, members, q, limit, false)
		largest := 0
		for _, p := range pages {
			largest = max(largest, p.Bytes)
		}
		t.bytes += largest // also of what came in vain
		return t.worst(pages)
	})
	return pages, k
}

// revisions of the members of the finding, with OK when all of them told theirs.
func (t *trail) revisions(ctx context.Context) (revisions []int64, k judge.Kind) {
	k = t.f.patiently(ctx, patience, func() judge.Kind {
		revisions = t.f.Ask.Revisions(ctx, t.members)
		switch {
		case t.f.Ask.Paused():
			return judge.Paused
		case slices.Min(revisions) < oldestPinned:
			return judge.Unreachable
		}
		return judge.OK
	})
	return revisions, k
}

// worst of the answers. One of another epoch voids the others.
func (t *trail) worst(pages []ask.Page) judge.Kind {
	worst := judge.OK
	for _, p := range pages {
		if p.Kind.Heard() && p.Epoch != t.epoch(p.Member) || p.Kind == judge.EpochChanged {
			return judge.EpochChanged
		}
		if worst == judge.OK {
			worst = p.Kind
		}
	}
	return worst
}

func (t *trail) epoch(id uint64) uint64 {
	for i, m := range t.members {
		if m.ID == id {
			return t.epochs[i]
		}
	}
	return 0
}

// held tells whether all members still are on the connections on which they were seen to differ.
func (t *trail) held() judge.Kind {
	for i, m := range t.members {
		if m.Epoch() != t.epochs[i] {
			return judge.EpochChanged
		}
	}
	return judge.OK
}

func answers(pages []ask.Page) []judge.Answer {
	all := make([]judge.Answer, len(pages))
	for i, p := range pages {
		all[i] = p.Answer
	}
	return all
}

// known is what is to be guessed from.
func (t *trail) known(ctx context.Context, since *record.Since) Known {
	k := Known{Fields: t.diff.Fields, Shifted: t.shifted || len(t.moved) > 0}
	for _, g := range t.diff.Groups {
		k.Leased = k.Leased || t.diff.Fields&judge.Present != 0 && g.KV != nil && g.KV.Lease != 0
	}
	if t.f.Rules != nil {
		k.Rules = t.f.Rules(t.cluster)
	}
	k.RevisionsAgree = t.numberAlike(since) || t.standAlike(ctx)
	return k
}

// numberAlike tells whether a key that all have alike was written, at one revision on all of them, after they began to differ: then
// nothing that was applied on some only counts in their revisions.
func (t *trail) numberAlike(since *record.Since) bool {
	return since != nil && t.alike > max(since.Revision, since.CompactedBefore)
}

// standAlike tells whether all members are at one revision while nobody writes. While somebody does, their revisions may be equal for a
// moment although they are not. And where they are not equal, a member may lag: that is for REV to tell.
func (t *trail) standAlike(ctx context.Context) bool {
	once, _ := t.revisions(ctx)
	twice, k := t.revisions(ctx)
	return k == judge.OK && slices.Equal(once, twice) && slices.Min(once) == slices.Max(once)
}
