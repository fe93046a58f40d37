// Package judge tells, from what members answered to one question, whether
// their states differ. It is pure: functions from answers to a [Verdict],
// without clock, network, randomness or logging.
//
// The rules and their proofs are those of docs/detection.md; a function quotes
// the name of its rule (PIN, ORACLE). What holds for all of them:
//
//   - A verdict is consistent, divergent or inconclusive, and an inconclusive
//     one says why. What could not be compared accuses nobody.
//   - An answer counts only within one epoch, that is, on one TCP connection
//     to its member: the connection is the only thing that tells a member from
//     its own restored backup (ids survive a restore).
//   - A divergent verdict needs two rounds. Each member of it has to answer
//     once more, on the same connection, after the last answer that was
//     compared, and to hold to what it said.
package judge

import "bytes"

// Question asks every member what it held at Revision: of Key alone when End is
// empty, else of the range [Key, End).
type Question struct {
	Key, End []byte
	Revision int64
}

// Covers tells whether key lies in the question's range.
func (q Question) Covers(key []byte) bool {
	if len(q.End) == 0 {
		return bytes.Equal(key, q.Key)
	}
	return bytes.Compare(key, q.Key) >= 0 && bytes.Compare(key, q.End) < 0
}

// Meets tells whether two questions have a key in common. Here an end of "\x00" is everything from the key on, as in etcd.
func (q Question) Meets(other Question) bool {
	return other.reaches(q.Key) && q.reaches(other.Key)
}

// reaches tells whether key lies before the question's end.
func (q Question) reaches(key []byte) bool {
	switch {
	case len(q.End) == 0:
		return bytes.Compare(key, q.Key) <= 0
	case bytes.Equal(q.End, []byte{0}):
		return true
	}
	return bytes.Compare(key, q.End) < 0
}

// KV is a key as a member holds it.
type KV struct {
	Key, Value                                  []byte
	CreateRevision, ModRevision, Version, Lease int64
}

// Kind says how a member answered. Only OK answers are compared.
type Kind uint8

// The kinds of answers. FutureRev and Compacted are answers of a living member
// that prove nothing; of the others it is not certain that it was the member.
const (
	OK           Kind = iota
	FutureRev         // has not applied the revision yet
	Compacted         // has compacted past the revision
	Denied            // lacks permission, or an invalid token
	Refused           // any other error that the member itself gave
	Unreachable       // no answer from the network
	Timeout           // no answer in time
	Exhausted         // the answer is over the limit of one shadow read, or the member has too much to do
	EpochChanged      // the connection changed during the call
	Foreign           // another cluster_id or member_id answered
	Resting           // not asked: the member was slow a moment ago
	OverBudget        // not asked: the member's budget is spent for long
	Poisoned          // not asked: a member was lost while this range was read
	Paused            // not asked: the shadow is paused
)

var kinds = [...]Reason{
	OK: "ok", FutureRev: "future-revision", Compacted: "compacted", Denied: "permission-denied", Refused: "refused",
	Unreachable: "unreachable", Timeout: "timeout", Exhausted: "resource-exhausted", EpochChanged: "epoch-changed",
	Foreign: "foreign-member", Resting: "member-resting", OverBudget: "over-budget", Poisoned: "poisoned-range", Paused: "paused",
}

// Reason names the kind as the reason of an inconclusive verdict.
func (k Kind) Reason() Reason { return kinds[k] }

// Heard tells whether the member itself gave the answer, on the connection of
// the answer's epoch.
func (k Kind) Heard() bool { return k <= Compacted }

// Answer is what one member said to a [Question].
type Answer struct {
	Member uint64
	Epoch  uint64 // of the connection that carried it; 0 when there was none
	Kind   Kind
	KVs    []KV // of an OK answer, ascending by key
}

// Outcome of a check. The zero value is inconclusive, so that nothing that was
// left out can count as a finding or as a proof of health.
type Outcome uint8

// The outcomes.
const (
	Inconclusive Outcome = iota
	Consistent
	Divergent
)

func (o Outcome) String() string {
	return [...]string{"inconclusive", "consistent", "divergent"}[o]
}

// Reason says why a verdict is inconclusive. The set is bounded: it is a label
// of a metric.
type Reason string

// Reasons beside those of [Kind].
const (
	TooFew   Reason = "fewer-than-two-members"
	Unpinned Reason = "unpinned"      // no revision from which on reads are a function of the log
	Unstable Reason = "unstable"      // a member did not hold to its answer
	Silent   Reason = "not-confirmed" // a side did not answer once more in its epoch
)

// Verdict of one check.
type Verdict struct {
	Outcome Outcome
	Reason  Reason // of an inconclusive verdict
	Diffs   []Diff // of a divergent one, ascending by key
}

// Judge applies PIN, and where that finds nothing, what was claimed.
func Judge(q Question, claims []Claim, first, again []Answer) Verdict {
	v := PIN(q, first, again)
	if v.Outcome == Divergent {
		return v
	}
	if o := Oracle(q, claims, first, again); o.Outcome == Divergent || v.Outcome == Consistent {
		return o
	}
	return v
}

func inconclusive(r Reason) Verdict { return Verdict{Reason: r} }

// Rule that proves a difference, by its name in docs/detection.md.
type Rule string

// The rules.
const (
	RulePIN         Rule = "PIN"
	RuleORACLE      Rule = "ORACLE"
	RuleServedWrong Rule = "served-wrong"
	RuleWATCH       Rule = "WATCH"
)

// Diff is one key on which members differ.
type Diff struct {
	Rule   Rule
	Key    []byte
	Fields Fields
	Groups []Group // the largest first; members of a group said the same
}

// Group of members that hold the same of a key.
type Group struct {
	Members []uint64 // ascending
	KV      *KV      // nil: the key is absent
	Claimed bool     // what the members said earlier (an answer that a client was served), not what they answer now
}
