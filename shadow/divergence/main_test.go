package divergence

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const schemaFile = "../../docs/divergence-log.schema.json"

var schema = sync.OnceValue(func() *jsonschema.Schema {
	return jsonschema.NewCompiler().MustCompile(schemaFile)
})

// planted is in every value of every test: GUARANTEE G8 says that no record
// may show it, in whatever form.
const planted = "planted-secret-"

var plantedForms = func() []string {
	sum := sha256.Sum256([]byte(planted))
	return []string{planted, base64.StdEncoding.EncodeToString([]byte(planted)), hex.EncodeToString([]byte(planted)),
		hex.EncodeToString(sum[:16])}
}()

// checkLine holds for every line that any test sees: one line, valid by the
// schema, and without a value. It returns the line decoded.
func checkLine(t fataler, line []byte) *logged {
	t.Helper()
	if bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' {
		t.Fatalf("not one line: %q", line)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
	if err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if err := schema().Validate(v); err != nil {
		t.Fatalf("record does not follow the schema: %v\n%s", err, line)
	}
	for _, form := range plantedForms {
		if bytes.Contains(line, []byte(form)) {
			t.Fatalf("record shows a value: %s", line)
		}
	}
	r := new(logged)
	if err := json.Unmarshal(line, r); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if strings.Contains(strings.ToLower(r.Summary+r.Impact), "corrupt") {
		t.Fatalf("record calls somebody corrupt: %s", line)
	}
	if len(r.Next) > 0 && r.Event != record.Healed && !strings.Contains(r.Next[0], " snapshot save ") {
		t.Fatalf("the evidence does not come first: %q", r.Next)
	}
	return r
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// logged is what tests read of a record.
type logged struct {
	Seq     int64
	Event   string
	ID      string
	Folded  int64
	Kind    string
	Key     string
	Keys    int64
	Checks  int64
	Shift   *int64 `json:"mod_revision_shift"`
	Differs []struct{ Name string }
	Subject string
	Layer   string
	Gap     int64
	Served  int64
	Extent  *struct {
		KeysDiffering int64 `json:"keys_differing"`
		ByPrefix      []any `json:"by_prefix"`
		ExampleKeys   []any `json:"example_keys"`
	}
	Groups []struct {
		Members []struct{ Name string }
		Shows   string
	}
	Summary string
	Impact  string
	Next    []string
	Runbook struct{ Command, Page string }
	line    string
}

// clock is a clock that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// drain takes the records that wait, as Run would.
func drain(t fataler, l *Log) []*logged {
	t.Helper()
	var out []*logged
	for {
		q, ok := l.queue.take()
		if !ok {
			return out
		}
		r := checkLine(t, q.line)
		r.line = string(q.line)
		out = append(out, r)
	}
}

// lines is a sink in memory that can be made to fail.
type lines struct {
	mu   sync.Mutex
	buf  []byte
	fail error
	part int // bytes that a failing write takes all the same
}

func (s *lines) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		n := min(s.part, len(p))
		s.buf = append(s.buf, p[:n]...)
		s.part = 0
		return n, s.fail
	}
	s.buf = append(s.buf, p...)
	return len(p), nil
}

func (s *lines) set(err error, part int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.part = err, part
}

func (s *lines) records(t fataler) []*logged {
	s.mu.Lock()
	defer s.mu.Unlock()
	return parseLines(t, s.buf)
}

func parseLines(t fataler, b []byte) []*logged {
	t.Helper()
	var out []*logged
	for line := range bytes.Lines(b) {
		out = append(out, checkLine(t, line))
	}
	return out
}

func seqs(records []*logged) []int64 {
	var out []int64
	for _, r := range records {
		out = append(out, r.Seq)
	}
	return out
}

// ev is evidence about a key; groups in the form of the transcripts:
// "a,b=red@5/10/2|c=-" (value@create/mod/version[+lease], - for absent).
func ev(key string, revision int64, groups string) Evidence {
	e := Evidence{
		Cluster: 0xc1, Rule: RulePIN, Key: []byte(key), Revision: revision,
		Trigger: Trigger{Kind: TriggerRead, Method: "/etcdserverpb.KV/Range", ServedBy: 0xa},
	}
	for g := range strings.SplitSeq(groups, "|") {
		who, what, _ := strings.Cut(g, "=")
		group := Group{}
		for name := range strings.SplitSeq(who, ",") {
			group.Members = append(group.Members, member(name))
		}
		if what != "-" {
			group.State = state(what)
		}
		e.Groups = append(e.Groups, group)
	}
	e.Fields = differing(e.Groups)
	return e
}

func member(name string) Member {
	return Member{ID: memberID(name), Name: name, Endpoint: "http://" + name + ":2379"}
}

func memberID(name string) uint64 { return 0xa + uint64(name[0]-'a') }

func memberIDs(names string) []uint64 {
	var out []uint64
	for name := range strings.SplitSeq(names, ",") {
		out = append(out, memberID(name))
	}
	return out
}

// clusterEv is evidence about a cluster; groups are "a,b=has_the_lease|c=lacks_it",
// or "a,b=@120|c=@108" where they show revisions.
func clusterEv(rule, subject, groups string) ClusterEvidence {
	e := ClusterEvidence{Cluster: 0xc1, Rule: rule, Subject: subject}
	for g := range strings.SplitSeq(groups, "|") {
		who, shows, _ := strings.Cut(g, "=")
		group := ClusterGroup{Shows: strings.ReplaceAll(shows, "_", " ")}
		if number, ok := strings.CutPrefix(shows, "@"); ok {
			if _, err := fmt.Sscan(number, &group.Revision); err != nil {
				panic(err)
			}
			group.Shows = "revision " + number
		}
		for name := range strings.SplitSeq(who, ",") {
			group.Members = append(group.Members, member(name))
		}
		e.Groups = append(e.Groups, group)
	}
	if rule == record.RuleREV || rule == record.RuleLIN {
		e.Gap = e.Groups[0].Revision - e.Groups[1].Revision
	}
	return e
}

func state(s string) State {
	value, numbers, ok := strings.Cut(s, "@")
	st := State{Present: true, Value: []byte(planted + value)}
	if !ok {
		panic("state " + s)
	}
	numbers, lease, _ := strings.Cut(numbers, "+")
	if lease != "" {
		if _, err := fmt.Sscanf(lease, "%x", &st.Lease); err != nil {
			panic(err)
		}
	}
	if _, err := fmt.Sscanf(numbers, "%d/%d/%d", &st.CreateRevision, &st.ModRevision, &st.Version); err != nil {
		panic("state " + s + ": " + err.Error())
	}
	return st
}

// differing is judge's part, done naively.
func differing(groups []Group) []string {
	has := make(map[string]bool)
	for _, g := range groups {
		x, y := g.State, groups[0].State
		if x.Present != y.Present {
			has["present"] = true
		}
		if !x.Present || !y.Present {
			continue
		}
		has["value"] = has["value"] || !bytes.Equal(x.Value, y.Value)
		has["create_revision"] = has["create_revision"] || x.CreateRevision != y.CreateRevision
		has["mod_revision"] = has["mod_revision"] || x.ModRevision != y.ModRevision
		has["version"] = has["version"] || x.Version != y.Version
		has["lease"] = has["lease"] || x.Lease != y.Lease
	}
	return slices.DeleteFunc(slices.Clone(fieldNames), func(name string) bool { return !has[name] })
}
