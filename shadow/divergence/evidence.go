package divergence

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
	"time"
)

// State is what a member answered for one key at one revision.
type State struct {
	Present        bool
	CreateRevision int64
	ModRevision    int64
	Version        int64
	Lease          int64
	Value          []byte // hashed by Confirm and let go: it never leaves the process
}

// Member is a member of the cluster under its etcd names.
type Member struct {
	ID       uint64
	Name     string
	Endpoint string
}

// Group is a set of members that answered the same.
type Group struct {
	Members []Member
	State   State
}

// The rules of docs/divergence-log.md: PIN and ORACLE compare fresh answers of several members;
// served-wrong compares what a member served with what it answers since.
const (
	RulePIN         = "PIN"
	RuleOracle      = "ORACLE"
	RuleServedWrong = "served-wrong"
)

// What made Parallax look at a key.
const (
	TriggerRead         = "read"
	TriggerWrite        = "write"
	TriggerRefusedWrite = "refused-write"
	TriggerRecheck      = "recheck"
)

// Trigger is the call that made Parallax look.
type Trigger struct {
	Kind            string
	Method          string // gRPC method, empty for a recheck
	ServedBy        uint64 // the member that served the client, 0 when there was none
	ServedDiffering bool   // a client was served the differing answer
}

// Basis is the ground on which members are named as the ones that differ.
type Basis string

// GUARANTEE G3: No healthy cluster is ever accused, whatever happens to it.
// With BasisNone the groups are reported and nobody is named.
const (
	BasisQuorum Basis = "quorum"
	BasisOracle Basis = "oracle"
	BasisNone   Basis = "none"
)

// Evidence is one confirmed disagreement of members about one key.
type Evidence struct {
	Cluster  uint64
	Rule     string
	Key      []byte
	Revision int64
	Fields   []string // of fieldNames: what differs between the groups
	Groups   []Group  // a member that contradicts itself is in two: the first group is what it served or acknowledged
	Basis    Basis
	Differs  []Member // the minority; heeded only with BasisQuorum or BasisOracle
	Trigger  Trigger
	At       time.Time // zero: now
}

var (
	fieldNames   = []string{"present", "value", "create_revision", "mod_revision", "version", "lease"}
	ruleNames    = []string{RulePIN, RuleOracle, RuleServedWrong}
	triggerNames = []string{TriggerRead, TriggerWrite, TriggerRefusedWrite, TriggerRecheck}
	basisNames   = []Basis{BasisQuorum, BasisOracle, BasisNone}
)

// refuse names the part of the evidence that makes it none, or is empty. What
// does not show two different answers must not become an accusation (G3), and
// a word that the schema does not know must not reach the log.
func (e *Evidence) refuse() string {
	switch {
	case len(e.Key) == 0:
		return "key"
	case e.Revision < 1:
		return "revision"
	case !slices.Contains(ruleNames, e.Rule):
		return "rule"
	case !slices.Contains(basisNames, e.Basis) && e.Basis != "":
		return "basis"
	case !slices.Contains(triggerNames, e.Trigger.Kind):
		return "trigger"
	case len(e.Fields) == 0 || slices.ContainsFunc(e.Fields, unknownField):
		return "fields"
	case !e.disagrees():
		return "groups"
	}
	return ""
}

func unknownField(name string) bool { return !slices.Contains(fieldNames, name) }

// disagrees reports whether the groups can be an accusation at all: two
// groups or more, nobody in two of them (but for served-wrong, where a member
// contradicts itself), and not all with the same answer.
func (e *Evidence) disagrees() bool {
	differ := false
	for _, g := range e.Groups {
		if len(g.Members) == 0 {
			return false
		}
		differ = differ || !g.State.equal(e.Groups[0].State)
	}
	return differ && (e.Rule != RulePIN || !contradictsItself(e.Groups))
}

func (s State) equal(t State) bool {
	return s.Present == t.Present && s.CreateRevision == t.CreateRevision && s.ModRevision == t.ModRevision &&
		s.Version == t.Version && s.Lease == t.Lease && bytes.Equal(s.Value, t.Value)
}

// sighting is evidence as it is kept: in one canonical order and without values.
type sighting struct {
	id       string
	cluster  uint64
	rule     string
	key      string
	revision int64
	fields   []string
	groups   []groupRecord
	mods     []int64 // mod_revision per group, nil when a group lacks the key
	part     partition
	claim    bool // a member contradicts itself: the first group is a claim, no fresh answer
	basis    Basis
	differs  []memberRecord
	trigger  triggerRecord
	at       time.Time
}

func (l *Log) sight(e *Evidence) *sighting {
	groups := slices.Clone(e.Groups)
	for i := range groups {
		groups[i].Members = slices.SortedFunc(slices.Values(groups[i].Members), compareMembers)
	}
	claim := contradictsItself(groups)
	if !claim { // the largest first, so that a quorum leads
		slices.SortStableFunc(groups, func(a, b Group) int {
			return cmp.Or(cmp.Compare(len(b.Members), len(a.Members)), compareMembers(a.Members[0], b.Members[0]))
		})
	}
	s := &sighting{
		id:       findingID(e.Cluster, classOf(e.Rule), string(e.Key)),
		cluster:  e.Cluster,
		rule:     e.Rule,
		key:      string(e.Key),
		revision: e.Revision,
		claim:    claim,
		basis:    cmp.Or(e.Basis, BasisNone),
		trigger:  newTriggerRecord(e.Trigger),
		at:       e.At,
	}
	if s.at.IsZero() {
		s.at = l.cfg.Clock()
	}
	for _, name := range fieldNames {
		if slices.Contains(e.Fields, name) {
			s.fields = append(s.fields, name)
		}
	}
	if s.basis != BasisNone {
		s.differs = newMemberRecords(slices.SortedFunc(slices.Values(e.Differs), compareMembers))
	}
	present := true
	for _, g := range groups {
		s.groups = append(s.groups, l.hasher.group(g))
		s.mods = append(s.mods, g.State.ModRevision)
		present = present && g.State.Present
		ids := make([]uint64, 0, len(g.Members))
		for _, m := range g.Members {
			ids = append(ids, m.ID)
		}
		s.part = append(s.part, ids)
	}
	if !present {
		s.mods = nil
	}
	return s
}

func contradictsItself(groups []Group) bool {
	seen := make(map[uint64]bool)
	for _, g := range groups {
		for _, m := range g.Members {
			if seen[m.ID] {
				return true
			}
			seen[m.ID] = true
		}
	}
	return false
}

func compareMembers(a, b Member) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
}

// shifted reports whether the members agree on everything but revisions. A
// member that skipped one apply numbers all later ones differently: that is
// one fault, however many keys show it.
func (s *sighting) shifted() bool {
	return s.rule != RuleServedWrong && !s.claim && !slices.ContainsFunc(s.fields, func(name string) bool {
		return name != "create_revision" && name != "mod_revision"
	})
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
