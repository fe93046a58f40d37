package shadow

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/evidence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// check is one target on its way to a verdict. It goes through the queue as
// often as members need time to get to its revision; answers once given at a
// revision stay good within their epoch.
type check struct {
	target
	bytes     int       // held by the call it came from
	since     time.Time // its call was observed
	notBefore time.Time

	known    *verified        // where its keys are remembered
	cluster  uint64           // of the members
	members  []*member.Member // asked; set by the first round
	first    []judge.Answer
	deadline time.Time // members that have not applied the revision are waited for until then
	asked    time.Time // before the first answer: equality is at least this fresh
	tries    int
	renewed  int // times the revision was compacted before the second round
}

const (
	// settle is how long a write is left alone before members are asked: a
	// follower learns that an entry is committed a moment after the leader
	// acknowledged it, and would answer FutureRev.
	settle = 15 * time.Millisecond
	// suspicion shortens the wait for members that lag: two others differ.
	suspicion = 200 * time.Millisecond
	// renewals bounds how often a check follows a compaction.
	renewals = 3
	// kvRecord is what a key-value weighs beside its bytes.
	kvRecord = 80
)

// retryAfter is 20, 60, 180, … ms, at most what is left of the lag budget: one of
// 2 s costs six reads of a member that stays behind. 0 is no time left.
func retryAfter(tries int, left time.Duration) time.Duration {
	wait := 20 * time.Millisecond
	for range min(tries, 10) {
		wait *= 3
	}
	return max(0, min(wait, left))
}

// run does one round of a check. It returns false when the check waits for
// members that lag, and has to be run again, not before c.notBefore.
func (s *Shadow) run(ctx context.Context, c *check) (judge.Verdict, bool) {
	if c.members == nil {
		snap := s.Members.Snapshot()
		c.members, c.cluster = snap.Members, snap.Cluster
		c.deadline = time.Now().Add(s.lagBudget())
	}
	if len(c.members) < 2 {
		return judge.Verdict{Reason: judge.TooFew}, true
	}
	if c.Revision == 0 {
		if c.Revision = s.ask.Revision(ctx, c.members); c.Revision == 0 {
			return judge.Verdict{Reason: judge.TooFew}, true
		}
	}
	s.firstRound(ctx, c)
	suspect := judge.Suspects(c.first) || judge.Contradicted(c.Question, c.claims, c.first)
	if suspect {
		c.deadline = minTime(c.deadline, time.Now().Add(suspicion))
	}
	if wait := retryAfter(c.tries, time.Until(c.deadline)); lagging(c.first) && wait > 0 {
		if c.tries == 0 {
			c.bytes += answerSize(c.first)
		}
		c.tries++
		c.notBefore = time.Now().Add(wait)
		s.Metrics.retried()
		return judge.Verdict{}, false
	}
	if !suspect {
		return judge.Judge(c.Question, c.claims, c.first, nil), true
	}
	// A finding needs a second answer of each side, on the same connection,
	// after the last one that was compared (docs/detection.md, confirm).
	again := s.askAgain(ctx, c)
	v := judge.Judge(c.Question, c.claims, c.first, again)
	if v.Outcome == judge.Inconclusive && compacted(again) && c.renewed < renewals {
		c.renewed++
		c.Revision, c.first, c.claims = 0, nil, nil // a newer revision, of which nobody claimed anything
		return s.run(ctx, c)
	}
	return v, true
}

// askAgain asks those who were heard. A member that is away must not hold up what
// the others have to confirm.
func (s *Shadow) askAgain(ctx context.Context, c *check) []judge.Answer {
	defer s.ask.Rush()()
	return s.ask.All(ctx, c.heard(), c.Question, true)
}

// heard are the members that answered the first round.
func (c *check) heard() []*member.Member {
	var heard []*member.Member
	for i, a := range c.first {
		if a.Kind.Heard() {
			heard = append(heard, c.members[i])
		}
	}
	return heard
}

// firstRound asks those who have not answered yet.
func (s *Shadow) firstRound(ctx context.Context, c *check) {
	s.ask.Wait(ctx)
	if c.first == nil {
		c.asked = time.Now()
		c.first = s.ask.All(ctx, c.members, c.Question, false)
		return
	}
	var late []*member.Member
	for i, a := range c.first {
		if a.Kind == judge.FutureRev {
			late = append(late, c.members[i])
		}
	}
	for _, a := range s.ask.All(ctx, late, c.Question, false) {
		i := slices.IndexFunc(c.members, func(m *member.Member) bool { return m.ID == a.Member })
		c.first[i] = a
	}
}

// answerSize is what a check holds while it waits for those that lag.
func answerSize(answers []judge.Answer) int {
	n := 0
	for _, a := range answers {
		for _, kv := range a.KVs {
			n += len(kv.Key) + len(kv.Value) + kvRecord
		}
	}
	return n
}

func lagging(answers []judge.Answer) bool {
	return slices.ContainsFunc(answers, func(a judge.Answer) bool { return a.Kind == judge.FutureRev })
}

func compacted(answers []judge.Answer) bool {
	return slices.ContainsFunc(answers, func(a judge.Answer) bool { return a.Kind == judge.Compacted })
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// conclude acts on a verdict: it remembers what is verified, and tells the log
// what differs, and what does not any more.
func (s *Shadow) conclude(ctx context.Context, c *check, v judge.Verdict) {
	now := time.Now()
	s.Metrics.concluded(c.kind, v, now.Sub(c.since))
	switch v.Outcome {
	case judge.Inconclusive:
		s.leave(c, now)
		if lagging(c.first) {
			s.Doubt(false)
		}
	case judge.Consistent:
		s.equal(c, now)
	case judge.Divergent:
		for _, e := range s.evidence(ctx, c, v.Diffs) {
			s.Log.Confirm(e)
			s.Found(e.Cluster, e.Key, e.Revision)
		}
	}
}

// equal remembers what is verified, and tells the log what does not differ any
// more.
func (s *Shadow) equal(c *check, now time.Time) {
	kvs := c.first[0].KVs
	if len(kvs) == 0 && len(c.End) == 0 {
		kvs = []judge.KV{{Key: c.Key}} // verified to be absent
	}
	if c.old {
		s.old.add(kvs, epochs(c.first), now)
	} else {
		s.verified.add(kvs, epochs(c.first), now)
	}
	if epochs(c.first) != epochs(connections(c.members)) {
		return // whoever came back meanwhile may differ now
	}
	ids := make([]uint64, len(c.members))
	for i, m := range c.members {
		ids[i] = m.ID
	}
	for _, kv := range kvs {
		s.Log.Consistent(c.cluster, kv.Key, c.Revision, ids, c.asked)
	}
}

// leave the keys of a check that came to nothing. Where one member is away and
// all others agree, they are left alone for a moment: otherwise every read of a
// busy key would be asked of the others as long as that lasts.
func (s *Shadow) leave(c *check, now time.Time) {
	if judge.Suspects(c.first) || judge.Contradicted(c.Question, c.claims, c.first) {
		c.known.remove(c.seen)
		return
	}
	c.known.hold(c.seen, epochs(connections(c.members)), now, openLife)
}

// evidence of the differences that were proved. Keys that only moved stand in it
// as such: after one skipped apply that is every key that is written
// (docs/decisions.md). For them all are asked once more, each at its own newest
// revision; who differs is named from what was proved.
func (s *Shadow) evidence(ctx context.Context, c *check, diffs []judge.Diff) []divergence.Evidence {
	var newest []judge.Answer
	var highest int64
	if slices.ContainsFunc(diffs, evidence.Moves) {
		newest, highest = s.askNewest(ctx, c)
	}
	now := s.Members.Snapshot()
	all := make([]divergence.Evidence, len(diffs))
	for i, proved := range diffs {
		d, moved := judge.Shifted(proved, c.first, newest)
		all[i] = c.evidence(now, d)
		if moved && evidence.Moves(proved) {
			all[i].Revision = highest // at which, once all are there, they answer as recorded
		}
	}
	return all
}

func (s *Shadow) askNewest(ctx context.Context, c *check) ([]judge.Answer, int64) {
	defer s.ask.Rush()()
	return s.ask.Newest(ctx, c.heard(), c.Question)
}

func (c *check) evidence(p *member.Snapshot, d judge.Diff) divergence.Evidence {
	_, differs := judge.WhoDiffers(d, p.Voters)
	e := evidence.Of(p, c.Revision, d)
	e.Cluster = c.cluster
	e.Trigger = divergence.Trigger{Kind: string(c.kind), Method: c.method, ServedBy: c.servedBy, ServedDiffering: c.servedOneOf(d, differs)}
	return e
}

// servedOneOf tells whether a client was served what is in question: by a member
// that differs or, where nobody is named, by any of those that disagree.
func (c *check) servedOneOf(d judge.Diff, differs []uint64) bool {
	if c.kind != read || len(c.claims) == 0 {
		return false
	}
	if len(differs) > 0 {
		return slices.Contains(differs, c.servedBy)
	}
	return slices.ContainsFunc(d.Groups, func(g judge.Group) bool { return slices.Contains(g.Members, c.servedBy) })
}

// epochs is a fingerprint of the connections that answered: what was verified
// under others has to be verified again.
func epochs(answers []judge.Answer) uint64 {
	h := fnv.New64a()
	for _, a := range answers {
		_, _ = h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, a.Member), a.Epoch))
	}
	return h.Sum64()
}

// connections are the members' as they are now.
func connections(members []*member.Member) []judge.Answer {
	now := make([]judge.Answer, len(members))
	for i, m := range members {
		now[i] = judge.Answer{Member: m.ID, Epoch: m.Epoch()}
	}
	return now
}
