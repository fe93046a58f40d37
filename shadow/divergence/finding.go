package divergence

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

// finding is one fault with a life: confirmed → updated … → healed.
type finding struct {
	id      string
	kind    string
	cluster uint64
	rule    string
	key     string // only of a finding of one key

	// The evidence that is shown. Of a key: always of one revision, never a mixture.
	revision int64
	fields   []string
	groups   []record.Group
	part     partition
	claim    bool
	basis    Basis
	differs  []record.Member
	trigger  *record.Trigger
	all      []record.Member // of the cluster
	layer    string

	newest    int64    // highest revision of any evidence; what heals must reach it
	required  []uint64 // the members that must be found equal
	removed   []uint64 // members that were, and have left the cluster
	firstSeen time.Time
	lastSeen  time.Time
	checks    int64
	shift     *shift // of a shifted finding
	rift      *rift  // of a finding of the cluster
	learned   learned

	reported string          // signature that the log knows, empty before its confirmed
	healed   *record.Healing // set when healed and the log does not know it yet
	owed     bool            // waits in Log.owed
}

// newFinding is the finding of a first sighting, which is still to be counted.
func newFinding(s *sighting, kind string) *finding {
	f := &finding{id: s.id, kind: kind, cluster: s.cluster, rule: s.rule, firstSeen: s.at}
	switch kind {
	case record.KindKey:
		f.key = s.key
	case record.KindShifted:
		f.id = findingID(s.cluster, record.KindShifted, s.part.canonical())
		f.shift = newShift()
		f.layer = record.LayerApply
	default:
		f.rift = &rift{subject: s.subject, first: s.gap, mark: s.gap}
	}
	f.show(s)
	return f
}

// signature changes when the finding has changed enough for a record: it
// spread, shrank, differs in other fields, counts ten times as many keys, or
// more is known of it. Values and revisions that move on are no change.
func (f *finding) signature() string {
	s := f.part.canonical() + "/" + f.learned.signature() + f.layer + "/"
	switch f.kind {
	case record.KindKey:
		return s + strings.Join(f.fields, ",")
	case record.KindShifted:
		return s + f.shift.magnitude()
	}
	return s + f.rift.signature(f)
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
	f.learned.see(s)
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
	f.basis, f.differs, f.trigger, f.all = s.basis, s.differs, s.trigger, s.all
	f.layer = cmp.Or(s.layer, f.layer)
	if f.rift != nil {
		f.rift.show(s)
	}
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
	if len(f.required) == before || f.kind == record.KindMemberLost {
		return len(f.required) == 0
	}
	return slices.ContainsFunc(f.part, func(ids []uint64) bool { return containsAll(ids, f.required) })
}

// record is the finding as a record shows it.
func (f *finding) record(hashKeyID string) *record.Finding {
	r := &record.Finding{
		ID: f.id, Kind: f.kind, ClusterID: record.HexID(f.cluster), Rule: f.rule,
		Revision: f.revision, Fields: f.fields, Groups: f.groups,
		Basis: string(f.basis), Differs: f.differs, Layer: f.layer, Trigger: f.trigger,
		Extent: f.learned.extent, Since: f.learned.since, Served: f.learned.served,
		FirstSeen: record.Time(f.firstSeen), LastSeen: record.Time(f.lastSeen), Checks: f.checks,
		Healed: f.healed,
	}
	if f.rift == nil {
		r.HashKeyID = hashKeyID
	}
	switch f.kind {
	case record.KindKey:
		key := record.NewKey(f.key)
		r.Key = &key
	case record.KindShifted:
		f.shift.record(r)
	default:
		f.rift.record(r)
	}
	return r
}

func olderFirst(a, b *finding) int {
	return cmp.Or(a.firstSeen.Compare(b.firstSeen), cmp.Compare(a.id, b.id))
}

// partition is who answered like whom, in the order of the record's groups.
type partition [][]uint64

// canonical is equal for equal partitions, whatever their order.
func (p partition) canonical() string {
	parts := make([]string, 0, len(p))
	for _, ids := range p {
		var b []byte
		for _, id := range slices.Sorted(slices.Values(ids)) {
			b = binary.BigEndian.AppendUint64(b, id)
		}
		// The length keeps {a}{b,c} apart from {a,b}{c}.
		parts = append(parts, string(binary.BigEndian.AppendUint32(nil, uint32(len(ids))))+string(b))
	}
	slices.Sort(parts)
	return strings.Join(parts, "")
}

// covers reports whether q says nothing that p does not say: q's members are
// p's, and among them q separates exactly those that p separates. So an
// answer that is missing this time is no change.
func (p partition) covers(q partition) bool {
	taken := make([]bool, len(p))
	for _, ids := range q {
		i := p.group(ids[0])
		if i < 0 || taken[i] {
			return false
		}
		taken[i] = true
		for _, id := range ids {
			if !slices.Contains(p[i], id) {
				return false
			}
		}
	}
	return true
}

// group is the index of the first group with that member, or -1.
func (p partition) group(id uint64) int {
	return slices.IndexFunc(p, func(ids []uint64) bool { return slices.Contains(ids, id) })
}

func (p partition) members() []uint64 { return slices.Concat(p...) }
