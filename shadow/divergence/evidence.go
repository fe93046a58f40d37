package divergence

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
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

// The rules about a key, of docs/divergence-log.md: PIN compares fresh answers of several members, ORACLE and
// WATCH what one acknowledged or delivered with those of others; served-wrong is a member that contradicts itself.
const (
	RulePIN         = record.RulePIN
	RuleOracle      = record.RuleOracle
	RuleServedWrong = record.RuleServedWrong
	RuleWatch       = record.RuleWatch
)

// What made Parallax look at a key.
const (
	TriggerRead         = "read"
	TriggerWrite        = "write"
	TriggerRefusedWrite = "refused-write"
	TriggerRecheck      = "recheck"
	TriggerWatch        = "watch"
	TriggerSweep        = "sweep"
)

// Trigger is the call that made Parallax look.
type Trigger struct {
	Kind            string
	Method          string // gRPC method, empty where no call of a client was the cause
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
	Groups   []Group  // a member that contradicts itself is in two: the first group is what it served, delivered or acknowledged
	Basis    Basis
	Differs  []Member // the minority; heeded only with BasisQuorum or BasisOracle
	Trigger  Trigger
	Members  []Member  // all of the cluster, for the commands that a record advises; without it, those of the groups
	At       time.Time // zero: now
}

var (
	fieldNames   = []string{"present", "value", "create_revision", "mod_revision", "version", "lease"}
	ruleNames    = []string{RulePIN, RuleOracle, RuleServedWrong, RuleWatch}
	triggerNames = []string{
		TriggerRead, TriggerWrite, TriggerRefusedWrite, TriggerRecheck, TriggerWatch, TriggerSweep,
	}
	basisNames = []Basis{BasisQuorum, BasisOracle, BasisNone}
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
// groups or more, nobody in two of them (but where a member contradicts itself),
// and not all with the same answer.
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
	id      string
	cluster uint64
	kind    string
	rule    string
	groups  []record.Group
	part    partition
	basis   Basis
	differs []record.Member
	all     []record.Member // of the cluster
	layer   string
	at      time.Time

	// Of a key.
	key      string
	revision int64
	fields   []string
	mods     []int64 // mod_revision per group, nil when a group lacks the key
	claim    bool    // a member contradicts itself: the first group is a claim, no fresh answer
	trigger  *record.Trigger

	// Of a cluster.
	subject string
	gap     int64
	sides   [][]Member
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
		kind:     record.KindKey,
		rule:     e.Rule,
		key:      string(e.Key),
		revision: e.Revision,
		claim:    claim,
		basis:    cmp.Or(e.Basis, BasisNone),
		all:      newMembers(e.Members),
		trigger:  newTrigger(e.Trigger),
		at:       l.orNow(e.At),
	}
	for _, name := range fieldNames {
		if slices.Contains(e.Fields, name) {
			s.fields = append(s.fields, name)
		}
	}
	if s.basis != BasisNone {
		s.differs = newMembers(slices.SortedFunc(slices.Values(e.Differs), compareMembers))
	}
	present := true
	for _, g := range groups {
		s.groups = append(s.groups, l.hasher.group(g))
		s.mods = append(s.mods, g.State.ModRevision)
		s.part = append(s.part, idsOf(g.Members))
		present = present && g.State.Present
	}
	if !present {
		s.mods = nil
	}
	return s
}

func contradictsItself(groups []Group) bool {
	var all []uint64
	for _, g := range groups {
		all = append(all, idsOf(g.Members)...)
	}
	return repeats(all)
}

func repeats(ids []uint64) bool {
	slices.Sort(ids)
	return len(slices.Compact(ids)) < len(ids)
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

// classOf keeps apart what heals apart. PIN, ORACLE and WATCH see the same
// damage, members that answer differently now, by a read, a write and an event.
// served-wrong is about an answer that was given before, while all may agree now.
func classOf(rule string) string {
	if rule == RuleServedWrong {
		return RuleServedWrong
	}
	return classState
}

const classState = "state"

// findingID derives the id: the same damage to the same thing in the same
// cluster has the same id in every process and every life.
func findingID(cluster uint64, class, what string) string {
	b := append([]byte(record.Schema+"\x00"+class+"\x00"), binary.BigEndian.AppendUint64(nil, cluster)...)
	sum := sha256.Sum256(append(b, what...))
	return hex.EncodeToString(sum[:16])
}

func newMembers(members []Member) []record.Member {
	out := make([]record.Member, 0, len(members))
	for _, m := range members {
		out = append(out, record.Member{ID: record.HexID(m.ID), Name: m.Name, Endpoint: m.Endpoint})
	}
	return out
}

func idsOf(members []Member) []uint64 {
	ids := make([]uint64, 0, len(members))
	for _, m := range members {
		ids = append(ids, m.ID)
	}
	return ids
}

func newTrigger(t Trigger) *record.Trigger {
	r := &record.Trigger{Kind: t.Kind, Method: t.Method, ServedDiffering: t.ServedDiffering}
	if t.ServedBy != 0 {
		r.ServedBy = record.HexID(t.ServedBy)
	}
	return r
}

// hasher stands between the values and the log.
//
// GUARANTEE G8: No value, token, password or key material is logged or served.
// A value becomes its size and a keyed hash: equal values can be recognized,
// short ones cannot be found by trying, as long as the key stays here.
type hasher struct {
	key []byte
	id  string
}

func newHasher(key []byte) hasher {
	h := hasher{key: key}
	h.id = h.sum([]byte("hash_key_id"))[:16]
	return h
}

func (h hasher) sum(value []byte) string {
	mac := hmac.New(sha256.New, h.key)
	mac.Write(value)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

func (h hasher) group(g Group) record.Group {
	r := record.Group{Members: newMembers(g.Members), Held: &record.Held{Present: g.State.Present}}
	if g.State.Present {
		r.Answer = &record.Answer{
			CreateRevision: g.State.CreateRevision,
			ModRevision:    g.State.ModRevision,
			Version:        g.State.Version,
			Lease:          record.HexID(uint64(g.State.Lease)),
			ValueSize:      len(g.State.Value),
			ValueHash:      h.sum(g.State.Value),
		}
	}
	return r
}
