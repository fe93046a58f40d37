package record

import (
	"cmp"
	"slices"
)

// mostListed bounds the lists of an Extent, and so a record: what waits to be
// written is held in memory.
const mostListed = 20

// Extent is how far a difference reaches: what was found when other keys were
// compared because one was confirmed to differ.
type Extent struct {
	// Revision is the highest at which keys were compared. Each key is compared
	// at one revision on all members; a long comparison has many.
	Revision int64 `json:"revision"`
	// Complete tells that the whole key space was compared, not only a part.
	Complete bool `json:"complete"`
	// KeysCompared on every member of the finding.
	KeysCompared int64 `json:"keys_compared"`
	// KeysDiffering of them, in whatever field.
	KeysDiffering int64 `json:"keys_differing"`
	// ShiftedOnly of those that differ have the same content under other revisions.
	ShiftedOnly int64 `json:"shifted_only"`
	// ByPrefix says where they are: the 20 prefixes with most of them.
	ByPrefix []Prefix `json:"by_prefix,omitempty"`
	// ExampleKeys are the first 20 of them.
	ExampleKeys []Key `json:"example_keys,omitempty"`
}

// Prefix counts the differing keys under one prefix; "" is the whole key space.
type Prefix struct {
	Prefix       string `json:"prefix"`
	PrefixBase64 string `json:"prefix_base64,omitempty"` // where Prefix cannot be shown as text and is empty
	Differing    int64  `json:"differing"`
}

// NewPrefix is a prefix as it is shown.
func NewPrefix(prefix []byte, differing int64) Prefix {
	k := NewKey(prefix)
	return Prefix{Prefix: k.Key, PrefixBase64: k.KeyBase64, Differing: differing}
}

// Bounded is a copy with lists that fit a record.
func (e Extent) Bounded() *Extent {
	e.ByPrefix = slices.Clone(e.ByPrefix)
	slices.SortStableFunc(e.ByPrefix, func(a, b Prefix) int { return cmp.Compare(b.Differing, a.Differing) })
	e.ByPrefix = slices.Clip(e.ByPrefix[:min(len(e.ByPrefix), mostListed)])
	e.ExampleKeys = slices.Clone(e.ExampleKeys[:min(len(e.ExampleKeys), mostListed)])
	return &e
}

// Since is when a difference began.
type Since struct {
	// Revision is the first at which the members' answers differ, or 0 when the
	// history that is kept does not reach back so far.
	Revision int64 `json:"revision,omitempty"`
	// CompactedBefore is set when Revision is not: the oldest revision that can
	// still be read. The answers differ there already, so it began before it or at it.
	CompactedBefore int64 `json:"compacted_before,omitempty"`
	// RaftTerm of the entry that wrote Revision, 0 when nobody saw it.
	RaftTerm uint64 `json:"raft_term,omitempty"`
	// Call of the client that wrote Revision, nil when nobody saw it.
	Call *Call `json:"call,omitempty"`
}

// Call is a client's call that was seen.
type Call struct {
	Method string `json:"method"` // gRPC method
	Time   Time   `json:"time"`
}

// Plain is a copy that says either since which revision, or before which, or nil.
func (s *Since) Plain() *Since {
	switch {
	case s == nil || s.Revision <= 0 && s.CompactedBefore <= 0:
		return nil
	case s.Revision <= 0:
		return &Since{CompactedBefore: s.CompactedBefore}
	}
	return &Since{Revision: s.Revision, RaftTerm: s.RaftTerm, Call: s.Call}
}

// With is what is known when t was learned as well: history only gets shorter,
// so what was known of an older revision stays true.
func (s *Since) With(t *Since) *Since {
	switch {
	case t == nil:
		return s
	case s == nil || s.Revision == 0 && t.Revision > 0:
		return t
	case s.Revision > 0 && t.Revision != s.Revision:
		return s
	case s.Revision == 0:
		return &Since{CompactedBefore: min(s.CompactedBefore, t.CompactedBefore)}
	}
	both := *s
	both.RaftTerm = cmp.Or(s.RaftTerm, t.RaftTerm)
	both.Call = cmp.Or(s.Call, t.Call)
	return &both
}
