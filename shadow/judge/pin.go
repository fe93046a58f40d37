package judge

import (
	"bytes"
	"slices"
)

// PIN judges one question that every member was asked twice.
//
// A serializable Range at a revision R ≥ 2 is a pure function of the raft log:
// a member that has not applied R answers FutureRev, one that compacted past R
// answers Compacted, every other healthy member answers with byte-identical
// key-values. So two OK answers at one R that differ in a key (missing, extra,
// value, create_revision, mod_revision, version, lease) prove that the states
// differ. Nothing is assumed of lag, elections, compaction or defrag.
//
// again is nil as long as the members were asked once: then a difference is
// inconclusive (not-confirmed), and [Suspects] tells that it is worth asking
// once more.
func PIN(q Question, first, again []Answer) Verdict {
	if q.Revision < 2 { // an empty store is at revision 1, and 0 is not pinned
		return inconclusive(Unpinned)
	}
	ok := answered(first)
	keys := differingKeys(ok)
	if len(keys) == 0 {
		return agreed(first, ok)
	}
	var diffs []Diff
	var why Reason
	for _, key := range keys {
		holding, reason := confirmed(ok, again, key)
		if reason != "" {
			why = reason
		}
		if d, differs := groupByKey(holding, key); differs {
			diffs = append(diffs, d)
		}
	}
	if len(diffs) == 0 {
		return inconclusive(why)
	}
	return Verdict{Outcome: Divergent, Diffs: diffs}
}

// Suspects tells whether a first round of answers differs, that is, whether a
// second one can prove anything.
func Suspects(first []Answer) bool { return len(differingKeys(answered(first))) > 0 }

// agreed is the verdict on answers without a difference: consistent only when
// every member that was asked gave one.
func agreed(all, ok []Answer) Verdict {
	for _, a := range all {
		if a.Kind != OK {
			return inconclusive(a.Kind.Reason())
		}
	}
	if len(ok) < 2 {
		return inconclusive(TooFew)
	}
	return Verdict{Outcome: Consistent}
}

func answered(all []Answer) []Answer {
	var ok []Answer
	for _, a := range all {
		if a.Kind == OK && a.Epoch != 0 {
			ok = append(ok, a)
		}
	}
	return ok
}

// confirmed returns those of the first round's answers whose member said the
// same of key once more, in the same epoch; and, when it left one out, why.
func confirmed(ok, again []Answer, key []byte) ([]Answer, Reason) {
	var hold []Answer
	var why Reason
	for _, a := range ok {
		b, found := of(again, a.Member)
		switch {
		case !found:
			why = Silent
		case b.Kind != OK:
			why = b.Kind.Reason()
		case b.Epoch != a.Epoch:
			why = EpochChanged.Reason()
		case differing(lookup(a.KVs, key), lookup(b.KVs, key), everyField) != 0:
			why = Unstable
		default:
			hold = append(hold, a)
		}
	}
	return hold, why
}

func of(answers []Answer, member uint64) (Answer, bool) {
	for _, a := range answers {
		if a.Member == member {
			return a, true
		}
	}
	return Answer{}, false
}

// differingKeys returns, ascending, the keys that not all answers hold alike.
func differingKeys(ok []Answer) [][]byte {
	if len(ok) < 2 {
		return nil
	}
	var keys [][]byte
	for _, a := range ok[1:] {
		keys = appendDiffering(keys, ok[0].KVs, a.KVs)
	}
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal)
}

// appendDiffering walks two ascending lists side by side.
func appendDiffering(keys [][]byte, a, b []KV) [][]byte {
	for len(a) > 0 || len(b) > 0 {
		order := 0
		switch {
		case len(a) == 0:
			order = 1
		case len(b) == 0:
			order = -1
		default:
			order = bytes.Compare(a[0].Key, b[0].Key)
		}
		switch {
		case order < 0:
			keys, a = append(keys, a[0].Key), a[1:]
		case order > 0:
			keys, b = append(keys, b[0].Key), b[1:]
		default:
			if differing(&a[0], &b[0], everyField) != 0 {
				keys = append(keys, a[0].Key)
			}
			a, b = a[1:], b[1:]
		}
	}
	return keys
}

func lookup(kvs []KV, key []byte) *KV {
	i, found := slices.BinarySearchFunc(kvs, key, func(kv KV, key []byte) int { return bytes.Compare(kv.Key, key) })
	if !found {
		return nil
	}
	return &kvs[i]
}

// groupByKey sorts answers into groups that hold the same of key, and tells
// whether there is more than one.
func groupByKey(answers []Answer, key []byte) (Diff, bool) {
	d := Diff{Rule: RulePIN, Key: key}
	for _, a := range answers {
		d.add(a.Member, lookup(a.KVs, key))
	}
	d.sort()
	return d, len(d.Groups) > 1
}

// add puts a member into the group that holds the same, and notes the fields on
// which it differs from the others.
func (d *Diff) add(member uint64, kv *KV) {
	joined := false
	for i := range d.Groups {
		f := differing(d.Groups[i].KV, kv, everyField)
		d.Fields |= f
		if f == 0 {
			d.Groups[i].Members = append(d.Groups[i].Members, member)
			joined = true
		}
	}
	if !joined {
		d.Groups = append(d.Groups, Group{Members: []uint64{member}, KV: kv})
	}
}

// sort puts the largest group first, and otherwise the one with the lowest
// member id, so that equal evidence gives equal records.
func (d *Diff) sort() {
	for _, g := range d.Groups {
		slices.Sort(g.Members)
	}
	slices.SortStableFunc(d.Groups, func(a, b Group) int {
		if len(a.Members) != len(b.Members) {
			return len(b.Members) - len(a.Members)
		}
		if a.Members[0] < b.Members[0] {
			return -1
		}
		return 1
	})
}
