package divergence

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// finding is one fault with a life: confirmed → updated … → healed.
type finding struct {
	id      string
	kind    string
	cluster uint64
	rule    string
	key     string // empty for a shifted finding

	// The evidence that is shown: always of one revision, never a mixture.
	revision int64
	fields   []string
	groups   []groupRecord
	part     partition
	claim    bool
	basis    Basis
	differs  []memberRecord
	trigger  triggerRecord

	newest    int64    // highest revision of any evidence; what heals must reach it
	required  []uint64 // the members that must be found equal
	removed   []uint64 // members that were, and have left the cluster
	firstSeen time.Time
	lastSeen  time.Time
	checks    int64
	shift     *shift // of a shifted finding

	reported string        // signature that the log knows, empty before its confirmed
	healed   *healedRecord // set when healed and the log does not know it yet
	owed     bool          // waits in Log.owed
}

// newFinding is the finding of a first sighting, which is still to be counted.
func newFinding(s *sighting, kind string) *finding {
	f := &finding{id: s.id, kind: kind, cluster: s.cluster, rule: s.rule, firstSeen: s.at}
	if kind == kindKey {
		f.key = s.key
	} else {
		f.id = findingID(s.cluster, kindShifted, s.part.canonical())
		f.shift = newShift()
	}
	f.show(s)
	return f
}

// signature changes when the finding has changed enough for a record: it
// spread, shrank, differs in other fields, or counts ten times as many keys.
// Values and revisions that move on are no change.
func (f *finding) signature() string {
	if f.kind == kindShifted {
		return f.part.canonical() + "/" + f.shift.magnitude()
	}
	return f.part.canonical() + "/" + strings.Join(f.fields, ",")
}

// see takes one more sighting of the finding in.
func (f *finding) see(s *sighting) {
	older := s.revision < f.newest
	f.count(s)
	if older {
		return // says nothing about now
	}
	if f.part.covers(s.part) && f.missesSome(s) && containsAll(f.fields, s.fields) {
		return // somebody did not answer this time: no change
	}
	f.show(s)
}

// missesSome reports whether a member that is shown, and still is one, is not
// in the sighting.
func (f *finding) missesSome(s *sighting) bool {
	return slices.ContainsFunc(f.part.members(), func(id uint64) bool {
		return slices.Contains(f.required, id) && s.part.group(id) < 0
	})
}

func containsAll[T comparable](all, some []T) bool {
	return !slices.ContainsFunc(some, func(v T) bool { return !slices.Contains(all, v) })
}

// count notes that the finding was seen, whatever the sighting shows.
func (f *finding) count(s *sighting) {
	f.checks++
	f.newest = max(f.newest, s.revision)
	if s.at.After(f.lastSeen) {
		f.lastSeen = s.at
	}
	for _, id := range s.part.members() {
		if !slices.Contains(f.required, id) {
			f.required = append(f.required, id)
		}
	}
}

// show makes the sighting the evidence that is shown.
func (f *finding) show(s *sighting) {
	f.revision, f.fields, f.groups, f.part, f.claim = s.revision, s.fields, s.groups, s.part, s.claim
	f.basis, f.differs, f.trigger = s.basis, s.differs, s.trigger
}

// equality is a later check that found one key equal.
type equality struct {
	cluster  uint64
	revision int64
	members  []uint64
	at       time.Time
}

// heals reports whether the equality is about a moment after the finding's
// newest evidence, and about all members of the finding. Where a member
// contradicts what it served, all fresh answers may agree from the start: there
// only a newer revision says more.
func (c *equality) heals(f *finding, newest int64, lastSeen time.Time) bool {
	if f.claim || f.rule == RuleServedWrong {
		newest++
	}
	return c.cluster == f.cluster && c.revision >= newest && !c.at.Before(lastSeen) && containsAll(c.members, f.required)
}

// leave takes the members out that have left the cluster, and reports whether
// the disagreement left with them: those who stay answered all the same.
func (f *finding) leave(current []uint64) bool {
	before := len(f.required)
	f.required = slices.DeleteFunc(f.required, func(id uint64) bool {
		gone := !slices.Contains(current, id)
		if gone {
			f.removed = append(f.removed, id)
		}
		return gone
	})
	if len(f.required) == before {
		return false
	}
	return slices.ContainsFunc(f.part, func(ids []uint64) bool { return containsAll(ids, f.required) })
}

// record is the finding as a record shows it.
func (f *finding) record(hashKeyID string) *findingRecord {
	r := &findingRecord{
		ID: f.id, Kind: f.kind, ClusterID: hexID(f.cluster), Rule: f.rule,
		Revision: f.revision, Fields: f.fields, Groups: f.groups, HashKeyID: hashKeyID,
		Basis: f.basis, Differs: f.differs, Trigger: f.trigger,
		FirstSeen: timestamp(f.firstSeen), LastSeen: timestamp(f.lastSeen), Checks: f.checks,
		Healed: f.healed,
	}
	if f.kind == kindShifted {
		f.shift.record(r)
	} else {
		key := newKeyRecord(f.key)
		r.keyRecord = &key
	}
	return r
}

// summary says the record in one sentence. #18667: the member that differs
// from the quorum may be the one that told its client the truth, so nobody is
// called wrong.
func (f *finding) summary(event string) string {
	what := f.subject()
	if event == eventHealed {
		return f.healedSummary(what)
	}
	return what + " at revision " + itoa(f.revision) + ": " + f.disagreement() + " (" + f.differences() + ")"
}

func (f *finding) subject() string {
	if f.kind == kindShifted {
		return f.shift.subject()
	}
	key := newKeyRecord(f.key)
	name := key.Key
	if name == "" {
		name = "base64 " + key.KeyBase64
	}
	if key.KeySize > 0 {
		name += "…"
	}
	return name
}

func (f *finding) disagreement() string {
	differs := names(f.differs)
	switch {
	case f.rule == RuleServedWrong:
		return names(f.groups[0].Members) + " served an answer that is not the one given now"
	case f.basis == BasisQuorum && differs != "":
		return differs + plural(len(f.differs), " differs", " differ") + " from the quorum"
	case f.basis == BasisOracle && differs != "":
		return differs + plural(len(f.differs), " contradicts its", " contradict their") + " own acknowledged write"
	}
	var sides []string
	for _, g := range f.groups {
		sides = append(sides, names(g.Members))
	}
	return "members disagree: " + strings.Join(sides, " | ")
}

// differences names the fields, and where the key is missing.
func (f *finding) differences() string {
	words := slices.Clone(f.fields)
	if i := slices.Index(words, "present"); i >= 0 {
		var missing []memberRecord
		for _, g := range f.groups {
			if !g.Present {
				missing = append(missing, g.Members...)
			}
		}
		words[i] = "missing on " + names(missing)
	}
	return strings.Join(words, ", ")
}

func (f *finding) healedSummary(what string) string {
	if f.healed.Revision == 0 {
		return what + ": the members that disagreed are no longer all in the cluster (removed: " +
			strings.Join(f.healed.Removed, ", ") + ")"
	}
	return what + " at revision " + itoa(f.healed.Revision) + ": equal again on every member of the finding"
}

func names(members []memberRecord) string {
	var out []string
	for _, m := range members {
		out = append(out, cmp.Or(m.Name, m.ID))
	}
	return strings.Join(out, ", ")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func olderFirst(a, b *finding) int {
	return cmp.Or(a.firstSeen.Compare(b.firstSeen), cmp.Compare(a.id, b.id))
}

// The table of open findings; these are called with Log.mu held.

func (l *Log) keyFits(key string) bool {
	return l.keys[key] != nil || l.keyBytes+len(key) <= l.limits.KeyBytes
}

// watch makes checks of the key matter to the finding.
func (l *Log) watch(f *finding, key string) {
	k := l.keys[key]
	if k == nil {
		k = &openKey{key: key}
		k.checked = l.checked.PushBack(k)
		l.keys[key] = k
		l.keyBytes += len(key)
	} else {
		l.checked.MoveToBack(k.checked)
	}
	k.findings = append(k.findings, f)
	l.openKeys.Store(int64(len(l.keys)))
}

func (l *Log) unwatch(f *finding, k *openKey) {
	k.findings = slices.DeleteFunc(k.findings, func(other *finding) bool { return other == f })
	if len(k.findings) == 0 {
		delete(l.keys, k.key)
		l.checked.Remove(k.checked)
		l.keyBytes -= len(k.key)
	}
	l.openKeys.Store(int64(len(l.keys)))
}
