package judge

import (
	"bytes"
	"slices"
)

// Claim is what a member said earlier, to a client: an answer that it served
// (which is itself a sample of that member, PIN) or a write that it
// acknowledged (which tells the answer of every member in advance, ORACLE).
type Claim struct {
	Member uint64
	Epoch  uint64 // of our connection to the member, read before the request was relayed; 0 voids the claim
	Fields Fields // what the claim speaks of; without Present it says nothing of keys that KVs lacks
	KVs    []KV   // ascending by key
	Event  bool   // WATCH: the keys were put; by the end of their revision they may have been deleted
}

// Oracle judges claims against the same two rounds of answers as [PIN], and is
// asked when PIN found nothing.
//
//	Put acked at R             ⇒ at R the key has that value and lease, and mod_revision = R, on every member
//	Delete acked at R          ⇒ at R the key is absent on every member
//	prev_kv of a write at R    ⇒ the state at R−1
//	an answer that was served  ⇒ the state of the serving member at its revision
//	a PUT event at R (WATCH)   ⇒ at R the key is that, or absent: one txn may put and delete it
//
// A member that contradicts its own claim is a finding of its own
// (served-wrong), even when all fresh answers agree. Otherwise the claim and
// the answers that contradict it are two sides that differ, and it is open
// which one is off (etcd #18667). A claim of an older epoch is void.
func Oracle(q Question, claims []Claim, first, again []Answer) Verdict {
	v := Verdict{Outcome: Consistent}
	for _, c := range claims {
		own, found := of(first, c.Member)
		if c.Epoch == 0 || !found || own.Epoch != c.Epoch || !own.Kind.Heard() || c.fromLater(q.Revision) {
			continue // void: it accuses nobody, and excuses nobody
		}
		for _, key := range c.keys(q, answered(first)) {
			d, why := c.judge(key, own, first, again)
			switch {
			case why != "" && v.Outcome != Divergent:
				v = inconclusive(why)
			case d != nil:
				v.Outcome, v.Reason = Divergent, ""
				v.Diffs = append(v.Diffs, *d)
			}
		}
	}
	slices.SortFunc(v.Diffs, func(a, b Diff) int { return bytes.Compare(a.Key, b.Key) })
	v.Diffs = slices.CompactFunc(v.Diffs, func(a, b Diff) bool { return bytes.Equal(a.Key, b.Key) })
	return v
}

// fromLater tells whether the claim holds what cannot have been there at a
// revision: then it was not read at it, whatever its header said.
func (c Claim) fromLater(revision int64) bool {
	return slices.ContainsFunc(c.KVs, func(kv KV) bool { return kv.ModRevision > revision })
}

// Contradicted tells whether a first round of answers contradicts a claim, that
// is, whether a second one can prove anything.
func Contradicted(q Question, claims []Claim, first []Answer) bool {
	v := Oracle(q, claims, first, nil)
	return v.Outcome == Inconclusive && v.Reason == Silent
}

// keys of the question that the claim speaks of.
func (c Claim) keys(q Question, ok []Answer) [][]byte {
	var keys [][]byte
	for _, kv := range c.KVs {
		if q.Covers(kv.Key) {
			keys = append(keys, kv.Key)
		}
	}
	if c.Fields&Present == 0 {
		return keys
	}
	if len(q.End) == 0 {
		keys = append(keys, q.Key)
	}
	for _, a := range ok { // what the claim lacks, it claims to be absent
		for _, kv := range a.KVs {
			keys = append(keys, kv.Key)
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal)
}

// judge compares the claim on one key with the answers. It returns nil and no
// reason where they agree.
func (c Claim) judge(key []byte, own Answer, first, again []Answer) (*Diff, Reason) {
	claimed := lookup(c.KVs, key)
	mask := c.Fields
	if !c.Event {
		mask |= Present // a key that is listed was there
	}
	against := func(a Answer) Fields { return differing(claimed, lookup(a.KVs, key), mask) }

	var contrary []Answer
	for _, a := range answered(first) {
		if against(a) != 0 {
			contrary = append(contrary, a)
		}
	}
	if len(contrary) == 0 {
		return nil, ""
	}
	// The claim's own side has to be heard once more, in its epoch.
	if b, found := of(again, c.Member); !found || b.Epoch != c.Epoch || !b.Kind.Heard() {
		return nil, Silent
	}
	hold, why := confirmed(contrary, again, key)
	if len(hold) == 0 {
		return nil, why
	}
	d, _ := groupByKey(hold, key)
	d.Rule, d.Fields = RuleORACLE, 0
	if c.Event {
		d.Rule = RuleWATCH
	}
	for _, a := range hold {
		d.Fields |= against(a)
		if a.Member == own.Member {
			d.Rule = RuleServedWrong
		}
	}
	d.Groups = append(d.Groups, Group{Members: []uint64{c.Member}, KV: claimed, Claimed: true})
	return &d, ""
}
