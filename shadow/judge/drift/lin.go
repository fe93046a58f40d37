package drift

import (
	"fmt"
	"maps"
	"time"
)

// Lin applies LIN, the second opinion on REV, and the rule for idle clusters: it
// does not need anybody to be live.
//
//	rA from A; then a linearizable count_only read of one absent key on B → rB;
//	then rA' ≥ rA from A again; rB < rA
//	in ≥ 3 rounds over ≥ 10 s with unchanged epochs and leader    ⇒ divergent {A, B}
//
// Proof. What A's state contains was committed before A answered, at an index i
// with f(i) ≥ rA. A linearizable read that begins afterwards is answered by B with
// at least i applied, so rB ≥ f(i) ≥ rA. Contradiction. A' shows that A still holds
// to it, in the same incarnation. It has to repeat, because real transient stale
// ReadIndex answers exist (etcd #20418). Not on learners: they do not serve
// linearizable reads.
//
// The zero value is ready. It is not safe for concurrent use.
type Lin struct {
	runs map[pair]*run
}

// The least that a violation has to repeat, and the longest that two rounds of it
// may be apart.
const (
	linRounds = 3
	linSpan   = 10 * time.Second
	linPause  = 5 * time.Minute
)

// LinRound is one round, in the order of its calls: A1, B, A2.
type LinRound struct {
	A1, A2 Status
	B      LinRead
	At     time.Time
}

// LinRead is the header of a linearizable read.
type LinRead struct {
	Member, Epoch uint64
	Revision      int64
	RaftTerm      uint64
}

type pair struct{ ahead, behind uint64 }

// run of violating rounds of one pair without a break.
type run struct {
	first, last LinRound
	rounds      int
}

// See takes a round, and proves a difference from the third violating one over
// ten seconds on. Each of them is followed by answers of both sides in the next
// ones, so the last one is where they answer once more.
func (l *Lin) See(round LinRound) (Finding, bool) {
	maps.DeleteFunc(l.runs, func(_ pair, r *run) bool { return round.At.Sub(r.last.At) > linPause })
	p := pair{round.A1.Member, round.B.Member}
	if !round.sound() || round.B.Revision >= round.A1.Revision {
		delete(l.runs, p)
		return Finding{}, false
	}
	r := l.runs[p]
	if r == nil || !round.continues(r.last) {
		r = &run{first: round}
		if l.runs == nil {
			l.runs = make(map[pair]*run)
		}
		l.runs[p] = r
	}
	r.last = round
	r.rounds++
	if r.rounds < linRounds || round.At.Sub(r.first.At) < linSpan {
		return Finding{}, false
	}
	return Finding{
		Rule: RuleLIN,
		Groups: []Group{
			{Members: []uint64{p.ahead}, Revision: round.A1.Revision, Shows: fmt.Sprintf("revision %d", round.A1.Revision)},
			{Members: []uint64{p.behind}, Revision: round.B.Revision, Shows: fmt.Sprintf("revision %d in a linearizable read afterwards", round.B.Revision)},
		},
		Gap: round.A1.Revision - round.B.Revision,
	}, true
}

// sound tells whether the round can prove anything.
func (r LinRound) sound() bool {
	return r.A1.heard() && r.A2.follows(r.A1) && !r.A1.Learner && !r.A2.Learner &&
		r.A1.Leader != 0 && r.A1.Leader == r.A2.Leader && r.A1.RaftTerm == r.A2.RaftTerm &&
		r.B.Epoch != 0 && r.B.Revision > 0 && r.B.Member != r.A1.Member
}

// continues tells whether nothing changed since the last round but revisions and
// indexes, and these only forward.
func (r LinRound) continues(last LinRound) bool {
	return r.A1.follows(last.A2) && r.A1.Leader == last.A2.Leader && r.A1.RaftTerm == last.A2.RaftTerm &&
		r.B.Epoch == last.B.Epoch && r.B.RaftTerm == last.B.RaftTerm && r.B.Revision >= last.B.Revision && r.At.After(last.At)
}
