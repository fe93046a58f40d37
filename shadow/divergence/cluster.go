package divergence

import (
	"cmp"
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

// RuleMemberLost is the rule of evidence that a member's connection broke while
// it was asked to read a range. The other rules about a cluster are drift's.
const RuleMemberLost = record.RuleMemberLost

// ClusterEvidence is confirmed evidence that is not about one key.
type ClusterEvidence struct {
	Cluster uint64
	Rule    string         // REV, LIN, LEASE, MEMBERSHIP, AUTH or RuleMemberLost
	Subject string         // lease or listed member in hex; the range of RuleMemberLost; empty for the others. At most 4 KiB
	Groups  []ClusterGroup // REV, LIN: the first is the one that is ahead. RuleMemberLost: the first has those that were lost, and is all that is heeded
	Gap     int64          // REV, LIN: revisions between the first group and the one that is most behind
	Layer   string         // empty: the kind's own
	Basis   Basis
	Differs []Member  // the minority; heeded only with BasisQuorum or BasisOracle
	Members []Member  // all of the cluster, for the commands that a record advises; without it, those of the groups
	At      time.Time // zero: now
}

// ClusterGroup is a set of members that show the same.
type ClusterGroup struct {
	Members  []Member
	Shows    string // a few words: "has the lease"
	Revision int64  // REV, LIN: which they were at
}

const (
	// maxCluster bounds the findings of the cluster that are tracked, beside
	// Limits.Findings: the one that explains a flood of keys must find room in it.
	maxCluster = 1000
	// subjectShown and showsShown bound what others word.
	subjectShown, showsShown = 1024, 256
	longestSubject           = 4096
)

// refuse names the part of the evidence that makes it none, or is empty (see
// Evidence.refuse).
func (e *ClusterEvidence) refuse() string {
	k := record.ClusterKindOf(e.Rule)
	switch {
	case k.Kind == "":
		return "rule"
	case k.Subjects && e.Subject == "" || len(e.Subject) > longestSubject:
		return "subject"
	case !slices.Contains(basisNames, e.Basis) && e.Basis != "":
		return "basis"
	case !slices.Contains(record.Layers(), e.Layer) && e.Layer != "":
		return "layer"
	case k.Kind == record.KindRevision && e.Gap < 1:
		return "gap"
	case !e.disagrees(k.Kind):
		return "groups"
	}
	return ""
}

// disagrees reports whether the groups can be an accusation: two or more, that
// do not all show the same, and nobody in two of them. A lost member is none.
func (e *ClusterEvidence) disagrees(kind string) bool {
	var all []uint64
	differ := false
	for _, g := range e.Groups {
		if len(g.Members) == 0 || g.Shows == "" {
			return false
		}
		all = append(all, idsOf(g.Members)...)
		differ = differ || g.Shows != e.Groups[0].Shows || g.Revision != e.Groups[0].Revision
	}
	if kind == record.KindMemberLost {
		return len(all) > 0
	}
	return differ && !repeats(all)
}

// clusterID is the id of the finding about the subject.
func clusterID(k record.ClusterKind, cluster uint64, subject string) string {
	if !k.Subjects {
		subject = ""
	}
	return findingID(cluster, k.Kind, subject)
}

func sightCluster(e *ClusterEvidence, at time.Time) *sighting {
	k := record.ClusterKindOf(e.Rule)
	s := &sighting{
		id:      clusterID(k, e.Cluster, e.Subject),
		cluster: e.Cluster,
		kind:    k.Kind,
		rule:    e.Rule,
		basis:   cmp.Or(e.Basis, BasisNone),
		all:     newMembers(e.Members),
		layer:   cmp.Or(e.Layer, k.Layer),
		at:      at,
		gap:     e.Gap,
	}
	if k.Subjects {
		s.subject = e.Subject
	}
	groups := e.Groups
	if k.Kind == record.KindMemberLost {
		groups, s.basis = groups[:1], BasisNone
	}
	if s.basis != BasisNone {
		s.differs = newMembers(slices.SortedFunc(slices.Values(e.Differs), compareMembers))
	}
	var sides [][]Member
	for _, g := range groups {
		shown := &record.Shown{Shows: record.Text(g.Shows, showsShown), Revision: g.Revision}
		s.groups = append(s.groups, record.Group{Shown: shown})
		sides = append(sides, g.Members)
	}
	s.arrange(sides)
	return s
}

// arrange puts the members into the groups.
func (s *sighting) arrange(sides [][]Member) {
	s.sides, s.part, s.groups = nil, nil, slices.Clone(s.groups)
	for i, members := range sides {
		members = slices.SortedFunc(slices.Values(members), compareMembers)
		s.sides = append(s.sides, members)
		s.part = append(s.part, idsOf(members))
		s.groups[i].Members = newMembers(members)
	}
}

// rift is what only findings of the cluster have.
type rift struct {
	subject string
	sides   [][]Member
	gap     int64 // of the newest evidence
	first   int64 // of the oldest
	mark    int64 // the gap that the log was told of; only growth by ten times is news
}

func (r *rift) show(s *sighting) {
	r.sides = s.sides
	r.grow(s.gap)
}

func (r *rift) grow(gap int64) {
	r.gap = gap
	if gap/10 >= r.mark {
		r.mark = gap
	}
}

// signature: who is ahead matters, and the order of the other kinds' groups does not.
func (r *rift) signature(f *finding) string {
	if f.kind != record.KindRevision {
		return ""
	}
	return f.part[:1].canonical() + "/" + itoa(r.mark)
}

func (r *rift) record(out *record.Finding) {
	out.Subject = record.Text(r.subject, subjectShown)
	out.Gap, out.GapFirst = r.gap, r.first
}

// seeCluster takes one more sighting of a finding of the cluster in.
func (f *finding) seeCluster(s *sighting) {
	late := s.at.Before(f.lastSeen)
	f.count(s)
	if late {
		return // says nothing about now
	}
	f.join(s)
	f.show(s)
}

// join adds to the sighting those who are known and not in it, where both are
// views of the same disagreement: the probes prove pairs, and {a|c} after {b|c}
// is no change of sides. Otherwise the sighting stands alone.
func (f *finding) join(s *sighting) {
	var joined [][]Member
	for _, members := range f.rift.sides {
		joined = append(joined, slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return !slices.Contains(f.required, m.ID) }))
	}
	if containsAll(s.part.members(), idsOf(slices.Concat(joined...))) {
		return
	}
	to := f.match(joined, s)
	if to == nil {
		return
	}
	before, groups := slices.Clone(joined), slices.Clone(f.groups)
	for i, j := range to {
		joined[j] = union(s.sides[i], joined[j])
	}
	for j := range joined {
		if f.kind == record.KindRevision { // who is ahead of one and behind another is behind
			behind := idsOf(slices.Concat(joined[j+1:]...))
			joined[j] = slices.DeleteFunc(slices.Clone(joined[j]), func(m Member) bool { return slices.Contains(behind, m.ID) })
		}
		if len(joined[j]) == 0 {
			return
		}
	}
	if repeats(idsOf(slices.Concat(joined...))) {
		return
	}
	for i, j := range to {
		if meet(s.sides[i], joined[j]) { // else those who were seen stand on another side by now
			groups[j] = s.groups[i]
		}
	}
	same := true // nobody has left a side
	for j := range joined {
		same = same && containsAll(idsOf(joined[j]), idsOf(before[j]))
	}
	if s.basis == BasisNone && same {
		s.basis, s.differs = f.basis, f.differs
	}
	if !containsAll(s.part.members(), idsOf(slices.Concat(before[1:]...))) {
		s.gap = max(s.gap, f.rift.gap) // of those behind that this sighting does not show
	}
	s.groups = groups
	s.arrange(joined)
}

// match says to which of the known sides the sighting's belong, or nil. Nobody
// is put on a side of their own: that would be an accusation that no pair made.
func (f *finding) match(known [][]Member, s *sighting) []int {
	if len(known) == len(s.sides) && len(known) <= 2 {
		turned := len(known) == 2 && meet(known[0], s.sides[1]) && meet(known[1], s.sides[0])
		switch {
		case f.kind == record.KindRevision && turned:
			return nil // who was ahead is behind now
		case f.kind == record.KindRevision || len(known) == 1:
			return []int{0, 1}[:len(known)]
		case turned || f.groups[0].Shows == s.groups[1].Shows || meet(known[0], s.sides[1]) || meet(known[1], s.sides[0]):
			return []int{1, 0}
		}
		return []int{0, 1}
	}
	var to []int
	for i, side := range s.sides {
		j := slices.IndexFunc(known, func(members []Member) bool { return meet(members, side) })
		if j < 0 && i == 0 && f.kind == record.KindRevision {
			j = 0
		}
		if j < 0 || slices.Contains(to, j) || f.kind == record.KindRevision && len(to) > 0 && j < slices.Max(to) {
			return nil
		}
		to = append(to, j)
	}
	return to
}

func meet(a, b []Member) bool {
	return slices.ContainsFunc(a, func(m Member) bool { return slices.Contains(idsOf(b), m.ID) })
}

// union keeps a's view of a member that is in both.
func union(a, b []Member) []Member {
	all := slices.Clone(a)
	for _, m := range b {
		if !slices.ContainsFunc(a, func(n Member) bool { return n.ID == m.ID }) {
			all = append(all, m)
		}
	}
	return all
}

// ConfirmCluster takes confirmed evidence in that is not about one key: a new
// finding, or one more sighting of an open one. Evidence that shows no
// disagreement is refused and counted.
func (l *Log) ConfirmCluster(e ClusterEvidence) {
	if why := e.refuse(); why != "" {
		l.metrics.refused.WithLabelValues(why).Inc()
		return
	}
	s := sightCluster(&e, l.orNow(e.At))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payOwed()
	f := l.findings[s.id]
	if f == nil {
		if len(l.cluster) >= maxCluster {
			l.metrics.untracked.Inc()
			l.fold()
			return
		}
		f = newFinding(s, s.kind)
		f.count(s)
		l.findings[f.id] = f
		l.cluster = append(l.cluster, f)
		l.metrics.open.WithLabelValues(f.kind).Inc()
		l.change(f, true)
		return
	}
	before := f.signature()
	f.seeCluster(s)
	l.reopen(f, "")
	l.change(f, f.signature() != before)
}

// AgreeCluster takes in that these members were found to agree on the subject
// of the rule, asked after at. It heals the open finding if all its members are
// among them, unless there is evidence from a later moment.
func (l *Log) AgreeCluster(cluster uint64, rule, subject string, members []uint64, at time.Time) {
	at = l.orNow(at)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payOwed()
	f := l.findings[clusterID(record.ClusterKindOf(rule), cluster, subject)]
	if f == nil || f.rift == nil || f.healed != nil || at.Before(f.lastSeen) || !containsAll(members, f.required) {
		return
	}
	l.heal(f, &record.Healing{Members: record.HexIDs(members), Removed: record.HexIDs(f.removed)})
}

// OpenCluster is a finding of the cluster that waits to be found equal.
type OpenCluster struct {
	Cluster uint64
	Rule    string // that saw it first
	Subject string
	Members []uint64 // that must agree
}

// OpenCluster returns the open findings of the cluster, the oldest first.
func (l *Log) OpenCluster() []OpenCluster {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []OpenCluster
	for _, f := range l.cluster {
		if f.healed == nil {
			out = append(out, OpenCluster{f.cluster, f.rule, f.rift.subject, slices.Clone(f.required)})
		}
	}
	return out
}
