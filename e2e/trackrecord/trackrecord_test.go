package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
	"github.com/etcd-parallax/parallax/e2e/trackrecord/stage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The table itself: every row wants something, is called as no other, and its
// etcd versions can be built.
func TestRows(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range rows() {
		if seen[r.name()] {
			t.Errorf("two rows are called %s", r.name())
		}
		seen[r.name()] = true
		if len(r.want) == 0 || r.how == "" || r.play == nil || r.quiet <= 0 {
			t.Errorf("row %s is not complete", r.name())
		}
		for _, w := range r.want {
			if w.kind == "" || len(w.rules) == 0 || w.within <= 0 {
				t.Errorf("row %s wants a record without kind, rule or bar", r.name())
			}
		}
		for _, version := range []string{r.version, r.control} {
			if _, err := os.Stat(filepath.Join("..", "etcd", "v"+version, "go.mod")); version != "" && err != nil {
				t.Errorf("row %s: %v", r.name(), err)
			}
		}
		if (r.bug == "") != (r.control == "") {
			t.Errorf("row %s: a bug has a version in which it is fixed as control, an injection its own members", r.name())
		}
	}
	for _, must := range []string{"18667-live-3.5.35", "18667-idle-3.6.16", "11651-3.4.3", "11651-masked-3.4.3", "14685-3.5.5",
		"value-3.5.35", "records-3.6.16", "ghost-3.7.3", "tombstone-3.5.35", "newest-3.6.16", "index-ahead-3.7.3", "index-back-3.7.3", "lease-3.5.35"} {
		if !seen[must] {
			t.Errorf("there is no row %s", must)
		}
	}
}

func TestSelected(t *testing.T) {
	some, err := selected("11651, ghost-3.7.3")
	if err != nil || len(some) != 3 {
		t.Errorf("%d rows, %v, want both of 11651 and one ghost", len(some), err)
	}
	if _, err := selected("18667,nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a word that selects nothing: %v", err)
	}
}

const (
	aKey    = `{"event":"confirmed","kind":"key","rule":"PIN","key":"/edited/key","fields":["value"],"basis":"quorum","differs":[{"name":"m2"}]}`
	aPair   = `{"event":"confirmed","kind":"revision","rule":"REV","basis":"none","groups":[{"members":[{"name":"m1"}]},{"members":[{"name":"m2"}]}]}`
	aQuorum = `{"event":"updated","kind":"revision","rule":"LIN","basis":"quorum","groups":[{"members":[{"name":"m3"},{"name":"m1"}]},{"members":[{"name":"m2"}]}],"differs":[{"name":"m2"}]}`
)

func line(t *testing.T, text string) parallax.Record {
	t.Helper()
	if !json.Valid([]byte(text)) {
		t.Fatalf("no JSON: %s", text)
	}
	return parallax.Record{Raw: json.RawMessage(text)}
}

func TestMet(t *testing.T) {
	edited, stuck, along := key(editedPrefix, "value"), revision(revisionBar), drifted(editedPrefix)
	lease := want{kind: "lease", rules: []string{"LEASE"}, within: leaseBar}
	const anExtent = `{"event":"updated","kind":"shifted","rule":"PIN","differs":[{"name":"m2"}],"extent":{"example_keys":[{"key":"/load/1"},{"key":"/edited/key"}]}}`
	const aLease = `{"event":"confirmed","kind":"lease","rule":"LEASE","subject":"5f","groups":[{"members":[{"name":"m1"},{"name":"m3"}]},{"members":[{"name":"m2"}]}]}`
	for name, test := range map[string]struct {
		w             want
		text, subject string
		met           bool
	}{
		"the key":                 {edited, aKey, "/edited/key", true},
		"another key":             {edited, aKey, "/edited/other", false},
		"another field":           {edited, strings.Replace(aKey, "value", "lease", 1), "/edited/key", false},
		"another rule":            {edited, strings.Replace(aKey, "PIN", "REV", 1), "/edited/key", false},
		"another member":          {edited, strings.Replace(aKey, "m2", "m1", 1), "/edited/key", false},
		"two members":             {edited, strings.Replace(aKey, `{"name":"m2"}`, `{"name":"m2"},{"name":"m1"}`, 1), "/edited/key", false},
		"healed":                  {edited, strings.Replace(aKey, "confirmed", "healed", 1), "/edited/key", false},
		"a pair":                  {stuck, aPair, "", true},
		"a pair without it":       {stuck, strings.Replace(aPair, "m2", "m3", 1), "", false},
		"a quorum":                {stuck, aQuorum, "", true},
		"a key for a revision":    {stuck, aKey, "", false},
		"the lease":               {lease, aLease, "5f", true},
		"another lease":           {lease, aLease, "5e", false},
		"together with another":   {lease, strings.Replace(aLease, `"m1"},{"name":"m3"`, `"m1"`, 1), "5f", true},
		"not alone":               {lease, strings.Replace(aLease, `{"name":"m2"}`, `{"name":"m2"},{"name":"m4"}`, 1), "5f", false},
		"an extent":               {along, anExtent, "/edited/key", true},
		"an extent without it":    {along, anExtent, "/edited/other", false},
		"another member's extent": {along, strings.Replace(anExtent, "m2", "m1", 1), "/edited/key", false},
		"an extent for one's own": {edited, anExtent, "/edited/key", false},
		"one's own for an extent": {along, aKey, "/edited/key", true},
		"no record at all":        {edited, `[]`, "/edited/key", false},
	} {
		if got := test.w.met(read(line(t, test.text)), test.subject, "m2"); got != test.met {
			t.Errorf("%s: met is %v", name, got)
		}
	}
}

func TestStrays(t *testing.T) {
	find := func(id string) row {
		all := rows()
		return all[slices.IndexFunc(all, func(r row) bool { return r.id == id })]
	}
	for name, test := range map[string]struct {
		id, text string
		stray    bool
	}{
		"what is wanted":         {"value", aKey, false},
		"another key":            {"value", strings.Replace(aKey, "/edited/", "/load/", 1), true},
		"another member":         {"value", strings.Replace(aKey, "m2", "m1", 1), true},
		"a drift that is none":   {"value", aPair, true},
		"called healed":          {"value", strings.Replace(aKey, "confirmed", "healed", 1), true},
		"folded":                 {"value", `{"event":"folded"}`, false},
		"any key of a drift":     {"newest", strings.Replace(aKey, "/edited/", "/load/", 1), false},
		"its healing":            {"newest", strings.Replace(strings.Replace(aKey, "/edited/", "/load/", 1), "confirmed", "healed", 1), false},
		"a drift called healed":  {"newest", strings.Replace(aPair, "confirmed", "healed", 1), true},
		"a lease beside a drift": {"lease-revoked", `{"event":"confirmed","kind":"lease","rule":"LEASE"}`, false},
		"a lease":                {"newest", `{"event":"confirmed","kind":"lease","rule":"LEASE"}`, true},
		"a member that was lost": {"newest", `{"event":"confirmed","kind":"member-lost","rule":"member-lost-while-reading"}`, true},
	} {
		s := &scene{row: find(test.id), off: &cluster.Member{Name: "m2"}}
		if err := s.strays([]parallax.Record{line(t, test.text)}); (err != nil) != test.stray {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (&scene{row: find("value")}).strays([]parallax.Record{line(t, aKey)}); err == nil {
		t.Error("a record before anything differs is no stray")
	}
}

func TestTable(t *testing.T) {
	live, err := selected("18667-live-3.5.35,value-3.7.3")
	if err != nil {
		t.Fatal(err)
	}
	seen := []sighting{
		{kind: "key", rule: "PIN", keys: []string{txnPut}, named: "m1", after: 300 * time.Millisecond, bar: keyBar},
		{kind: "revision", rule: "REV", named: "m1", after: 6 * time.Second, bar: revisionBar},
	}
	r := results{
		"18667-live-3.5.35":        {{sightings: seen}, {sightings: seen[:1], err: errors.New("missed: nothing")}},
		"18667-live-control-3.7.3": {{}, {}},
		"value-3.7.3":              {{sightings: seen[:1]}},
	}
	table := r.table(live)
	for _, want := range []string{
		"| [18667](https://github.com/etcd-io/etcd/issues/18667) | 3.5.35 |", "**missed: right in 1 of 2 rounds**", "300 ms (at most 300 ms); 6.0 s", "3.7.3: silent",
		"| injected | 3.7.3 | a record's value changed | PIN: key and member; `parallax check`: exit 1 (1 of 1) | 300 ms |", "ONLY=value-3.7.3",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the table has no %q:\n%s", want, table)
		}
	}
	if err := r.failed(); err == nil || !strings.Contains(err.Error(), "18667-live-3.5.35 (1 of 2 rounds)") {
		t.Errorf("failed: %v", err)
	}
	if err := late(seen); err == nil || !strings.Contains(err.Error(), "6.0 s") || strings.Contains(err.Error(), "300 ms") {
		t.Errorf("late: %v", err)
	}
	r["18667-live-control-3.7.3"][1].err = errors.New("the control is accused")
	if table := r.table(live); !strings.Contains(table, "**failed: silent in 1 of 2 rounds**") {
		t.Errorf("the table does not say that the control is accused:\n%s", table)
	}
}

func TestFlags(t *testing.T) {
	for args, want := range map[string]int{"-list": 0, "-h": 0, "-rounds=0": 2, "-nonsense": 2, "more": 2, "-only=nonsense": 2} {
		if got := run([]string{args}); got != want {
			t.Errorf("%s: exit code %d, want %d", args, got, want)
		}
	}
}

// The rows rely on the loads not to touch the keys that they look at.
func TestLoadsAreApart(t *testing.T) {
	for _, r := range rows() {
		for _, w := range r.want {
			if load := stage.LoadPrefix; w.keys != "" && (strings.HasPrefix(load, w.keys) || strings.HasPrefix(w.keys, load)) {
				t.Errorf("row %s wants keys of the everyday load", r.name())
			}
		}
	}
}
