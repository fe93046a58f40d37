package divergence

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Schema is the name of the record's form, docs/divergence-log.schema.json.
const Schema = "parallax.divergence/v1"

// The events of a record.
const (
	eventConfirmed = "confirmed"
	eventUpdated   = "updated"
	eventHealed    = "healed"
	eventFolded    = "folded"
)

// The kinds of a finding.
const (
	kindKey     = "key"
	kindShifted = "shifted"
)

// record is one line of the log. Every field is described in
// docs/divergence-log.md; a test compares the two.
type record struct {
	Schema string `json:"schema"`
	Seq    int64  `json:"seq"`
	Event  string `json:"event"`
	Time   string `json:"time"`
	Folded int64  `json:"folded,omitempty"`
	*findingRecord
	Summary string `json:"summary"`
}

type findingRecord struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	ClusterID string `json:"cluster_id"`
	Rule      string `json:"rule"`
	*keyRecord
	Keys             int64         `json:"keys,omitempty"`
	ExampleKeys      []keyRecord   `json:"example_keys,omitempty"`
	ModRevisionShift *int64        `json:"mod_revision_shift,omitempty"`
	Revision         int64         `json:"revision"`
	Fields           []string      `json:"fields"`
	Groups           []groupRecord `json:"groups"`
	HashKeyID        string        `json:"hash_key_id"`
	// Basis is not the last word on who is wrong: see docs/divergence-log.md.
	Basis     Basis          `json:"basis"`
	Differs   []memberRecord `json:"differs,omitempty"`
	Trigger   triggerRecord  `json:"trigger"`
	FirstSeen string         `json:"first_seen"`
	LastSeen  string         `json:"last_seen"`
	Checks    int64          `json:"checks"`
	Healed    *healedRecord  `json:"healed,omitempty"`
}

type keyRecord struct {
	Key        string            `json:"key,omitempty"`
	KeyBase64  string            `json:"key_base64,omitempty"`
	KeySize    int               `json:"key_size,omitempty"`
	Kubernetes *kubernetesRecord `json:"kubernetes,omitempty"`
}

type memberRecord struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Endpoint string `json:"endpoint"`
}

type groupRecord struct {
	Members []memberRecord `json:"members"`
	Present bool           `json:"present"`
	*answerRecord
}

// answerRecord is what a member holds for a key that is present.
type answerRecord struct {
	CreateRevision int64  `json:"create_revision"`
	ModRevision    int64  `json:"mod_revision"`
	Version        int64  `json:"version"`
	Lease          string `json:"lease"`
	ValueSize      int    `json:"value_size"`
	ValueHash      string `json:"value_hash"`
}

type triggerRecord struct {
	Kind            string `json:"kind"`
	Method          string `json:"method,omitempty"`
	ServedBy        string `json:"served_by,omitempty"`
	ServedDiffering bool   `json:"served_differing"`
}

type healedRecord struct {
	Revision int64    `json:"revision,omitempty"`
	Members  []string `json:"members,omitempty"`
	Removed  []string `json:"removed,omitempty"`
}

// line is the record as it is written. Text is not escaped for HTML: the keys
// are to be found with grep.
func (r *record) line() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		panic("divergence: a record cannot be encoded: " + err.Error()) // strings, numbers and bools always can
	}
	return b.Bytes()
}

// Ids are hex as etcdctl prints them. Above 2⁵³ a JSON number would lose its
// last digits in readers that use doubles, and ids are there; revisions are not.
func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

func hexIDs(ids []uint64) []string {
	var out []string
	for _, id := range ids {
		out = append(out, hexID(id))
	}
	return out
}

func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// classOf keeps apart what heals apart. PIN and ORACLE see the same damage,
// members that answer differently now, by a read and by a write. served-wrong
// is about an answer that was given before, while all may agree now.
func classOf(rule string) string {
	if rule == RuleServedWrong {
		return RuleServedWrong
	}
	return "state"
}

// findingID derives the id: the same damage on the same key of the same
// cluster has the same id in every process and every life.
func findingID(cluster uint64, class, key string) string {
	b := append([]byte(Schema+"\x00"+class+"\x00"), binary.BigEndian.AppendUint64(nil, cluster)...)
	sum := sha256.Sum256(append(b, key...))
	return hex.EncodeToString(sum[:16])
}

// keyShown bounds a key in a record, and so the memory of waiting records: etcd
// takes keys of up to 1.5 MiB, Kubernetes' have at most some hundred bytes.
const keyShown = 1024

func newKeyRecord(key string) keyRecord {
	var r keyRecord
	shown := key
	if len(key) > keyShown {
		r.KeySize = len(key)
		shown = key[:keyShown]
		for cut := keyShown; cut > keyShown-utf8.UTFMax; cut-- {
			if utf8.RuneStart(key[cut]) { // not in the middle of a character
				shown = key[:cut]
				break
			}
		}
	}
	if printable(shown) {
		r.Key = shown
	} else {
		r.KeyBase64 = base64.StdEncoding.EncodeToString([]byte(shown))
	}
	if r.KeySize == 0 {
		r.Kubernetes = kubernetesOf(key)
	}
	return r
}

// printable reports whether a key is shown as text. Control characters and
// direction marks could make a terminal show another key than the real one.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func newMemberRecords(members []Member) []memberRecord {
	out := make([]memberRecord, 0, len(members))
	for _, m := range members {
		out = append(out, memberRecord{ID: hexID(m.ID), Name: m.Name, Endpoint: m.Endpoint})
	}
	return out
}

func newTriggerRecord(t Trigger) triggerRecord {
	r := triggerRecord{Kind: t.Kind, Method: t.Method, ServedDiffering: t.ServedDiffering}
	if t.ServedBy != 0 {
		r.ServedBy = hexID(t.ServedBy)
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

func (h hasher) group(g Group) groupRecord {
	r := groupRecord{Members: newMemberRecords(g.Members), Present: g.State.Present}
	if g.State.Present {
		r.answerRecord = &answerRecord{
			CreateRevision: g.State.CreateRevision,
			ModRevision:    g.State.ModRevision,
			Version:        g.State.Version,
			Lease:          hexID(uint64(g.State.Lease)),
			ValueSize:      len(g.State.Value),
			ValueHash:      h.sum(g.State.Value),
		}
	}
	return r
}

// kubernetesRecord is the Kubernetes object that a key stands for.
type kubernetesRecord struct {
	Group     string `json:"group,omitempty"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// registry is the prefix that kube-apiserver uses unless --etcd-prefix says
// otherwise. Under another prefix nothing is guessed.
const registry = "/registry/"

// storedAs are the resources that kube-apiserver stores under another name
// (SpecialDefaultResourcePrefixes in k8s.io/kubernetes/pkg/kubeapiserver).
var storedAs = map[string]string{
	"controllers":       "replicationcontrollers",
	"ingress":           "ingresses",
	"minions":           "nodes",
	"podsecuritypolicy": "podsecuritypolicies",
}

// notObjects are kube-apiserver's own bookkeeping, which no API serves.
var notObjects = map[string]bool{"masterleases": true, "peerserverleases": true, "ranges": true}

// kubernetesOf reads a key of kube-apiserver, and is nil where it would have
// to guess. The number of segments tells the scope: a namespaced object has
// one more than a cluster-scoped one, and names contain no slash.
func kubernetesOf(key string) *kubernetesRecord {
	rest, ok := strings.CutPrefix(key, registry)
	if !ok || !printable(rest) {
		return nil
	}
	segments := strings.Split(rest, "/")
	for _, s := range segments {
		if s == "" {
			return nil
		}
	}
	k := new(kubernetesRecord)
	switch first := segments[0]; {
	case strings.Contains(first, "."):
		// Only CRDs and aggregated APIs have their group in the key, and such a
		// group has a dot; a built-in resource has none, whatever its group.
		k.Group, segments = first, segments[1:]
	case first == "services":
		// services/specs/ns/name, services/endpoints/ns/name
		if len(segments) != 4 || segments[1] != "specs" && segments[1] != "endpoints" {
			return nil
		}
		segments = segments[1:]
		if segments[0] == "specs" {
			segments[0] = "services"
		}
	case notObjects[first]:
		return nil
	case storedAs[first] != "":
		segments[0] = storedAs[first]
	}
	switch len(segments) {
	case 2:
		k.Resource, k.Name = segments[0], segments[1]
	case 3:
		k.Resource, k.Namespace, k.Name = segments[0], segments[1], segments[2]
	default:
		return nil
	}
	return k
}
