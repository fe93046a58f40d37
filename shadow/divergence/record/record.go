// Package record is the form of the divergence log: one line of JSON for each
// change of a finding, and the words that stand in it. Everything is described
// in docs/divergence-log.md; a test compares the two.
package record

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
)

// Schema is the name of the form, docs/divergence-log.schema.json.
const Schema = "parallax.divergence/v1"

// The events of a record.
const (
	Confirmed = "confirmed"
	Updated   = "updated"
	Healed    = "healed"
	Folded    = "folded"
)

// Record is one line of the log.
type Record struct {
	Schema string `json:"schema"`
	Seq    int64  `json:"seq"`
	Event  string `json:"event"`
	Time   Time   `json:"time"`
	Folded int64  `json:"folded,omitempty"`
	*Finding
	Summary string `json:"summary"`
	*Advice
}

// Finding is what a record says of a finding.
type Finding struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	ClusterID string `json:"cluster_id"`
	Rule      string `json:"rule"`
	*Key
	Subject          string   `json:"subject,omitempty"`
	Keys             int64    `json:"keys,omitempty"`
	ExampleKeys      []Key    `json:"example_keys,omitempty"`
	ModRevisionShift *int64   `json:"mod_revision_shift,omitempty"`
	Revision         int64    `json:"revision,omitempty"`
	Fields           []string `json:"fields,omitempty"`
	Groups           []Group  `json:"groups"`
	Gap              int64    `json:"gap,omitempty"`
	GapFirst         int64    `json:"gap_first,omitempty"`
	HashKeyID        string   `json:"hash_key_id,omitempty"`
	// Basis is not the last word on who is wrong: see docs/divergence-log.md.
	Basis     string   `json:"basis"`
	Differs   []Member `json:"differs,omitempty"`
	Layer     string   `json:"layer,omitempty"`
	Extent    *Extent  `json:"extent,omitempty"`
	Since     *Since   `json:"since,omitempty"`
	Served    int64    `json:"served,omitempty"`
	Trigger   *Trigger `json:"trigger,omitempty"`
	FirstSeen Time     `json:"first_seen"`
	LastSeen  Time     `json:"last_seen"`
	Checks    int64    `json:"checks"`
	Healed    *Healing `json:"healed,omitempty"`
}

// Member is a member under its etcd names.
type Member struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Endpoint string `json:"endpoint"`
}

// Group is a set of members with what they hold for a key, or with what they
// show of the cluster.
type Group struct {
	Members []Member `json:"members"`
	*Held
	*Shown
}

// Held is what members answered for a key.
type Held struct {
	Present bool `json:"present"`
	*Answer
}

// Answer is what a member holds for a key that is present.
type Answer struct {
	CreateRevision int64  `json:"create_revision"`
	ModRevision    int64  `json:"mod_revision"`
	Version        int64  `json:"version"`
	Lease          string `json:"lease"`
	ValueSize      int    `json:"value_size"`
	ValueHash      string `json:"value_hash"`
}

// Shown is what members show of the cluster, where no key is in question.
type Shown struct {
	Shows    string `json:"shows"`
	Revision int64  `json:"revision,omitempty"`
}

// Trigger is what made Parallax look at the key.
type Trigger struct {
	Kind            string `json:"kind"`
	Method          string `json:"method,omitempty"`
	ServedBy        string `json:"served_by,omitempty"`
	ServedDiffering bool   `json:"served_differing"`
}

// Healing is what ended a finding.
type Healing struct {
	Revision int64    `json:"revision,omitempty"`
	Members  []string `json:"members,omitempty"`
	Removed  []string `json:"removed,omitempty"`
}

// Advice is what a person is to know beyond the summary.
type Advice struct {
	Impact  string   `json:"impact"`
	Next    []string `json:"next,omitempty"`
	Runbook Runbook  `json:"runbook"`
}

// Runbook is where it is written what to do: the command that prints it
// offline, and the same page in the repository.
type Runbook struct {
	Command string `json:"command"`
	Page    string `json:"page"`
}

// Line is the record as it is written. Text is not escaped for HTML: the keys
// are to be found with grep.
func (r *Record) Line() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		panic("divergence: a record cannot be encoded: " + err.Error()) // strings, numbers and bools always can
	}
	return b.Bytes()
}

// Time is written in UTC with milliseconds.
type Time time.Time

func (t Time) MarshalJSON() ([]byte, error) {
	return time.Time(t).UTC().AppendFormat(nil, `"2006-01-02T15:04:05.000Z07:00"`), nil
}

// HexID is an id as etcdctl prints it. Above 2⁵³ a JSON number would lose its
// last digits in readers that use doubles, and ids are there; revisions are not.
func HexID(id uint64) string { return strconv.FormatUint(id, 16) }

// HexIDs is HexID of each.
func HexIDs(ids []uint64) []string {
	var out []string
	for _, id := range ids {
		out = append(out, HexID(id))
	}
	return out
}
