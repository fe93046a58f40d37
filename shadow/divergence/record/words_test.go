package record

import (
	"slices"
	"strings"
	"testing"
)

var (
	a = Member{ID: "a", Name: "m1", Endpoint: "http://m1:2379"}
	b = Member{ID: "b", Name: "m2", Endpoint: "http://m2:2379"}
	c = Member{ID: "c", Endpoint: "http://[::1]:2379"}
)

func held(mod int64, members ...Member) Group {
	if mod == 0 {
		return Group{Members: members, Held: &Held{}}
	}
	return Group{Members: members, Held: &Held{Present: true, Answer: &Answer{ModRevision: mod}}}
}

func shown(what string, members ...Member) Group {
	return Group{Members: members, Shown: &Shown{Shows: what}}
}

// Whatever the kind, rule and layer: there is a sentence, nobody is called
// names, and the commands are safe.
func TestEveryRecordHasWords(t *testing.T) {
	kinds := map[string][]string{
		KindKey:     {RulePIN, RuleOracle, RuleServedWrong, RuleWatch},
		KindShifted: {RulePIN}, KindRevision: {RuleREV, RuleLIN}, KindLease: {RuleLease},
		KindMembership: {RuleMembership}, KindAuth: {RuleAuth}, KindMemberLost: {RuleMemberLost},
	}
	layers := []string{"", LayerApply, LayerStorage, LayerLease, LayerMembership, LayerAuth, LayerReplication}
	seen := make(map[string]bool)
	for kind, rules := range kinds {
		for _, rule := range rules {
			for _, layer := range layers {
				for _, event := range []string{Confirmed, Updated, Healed} {
					for _, basis := range []string{"quorum", "oracle", "none"} {
						r := sample(kind, rule, layer, event, basis)
						r.Describe(nil, nil)
						checkWords(t, r)
						seen[r.Impact] = true
					}
				}
			}
		}
	}
	if len(seen) < len(impacts()) {
		t.Errorf("%d sentences for %d rows: one is never used", len(seen), len(impacts()))
	}
}

func sample(kind, rule, layer, event, basis string) *Record {
	r := &Record{Event: event, Finding: &Finding{Kind: kind, Rule: rule, Layer: layer, Basis: basis, Subject: "7b", Gap: 3, Keys: 4}}
	r.Groups = []Group{shown("has it", a, b), shown("lacks it", c)}
	if kind == KindKey || kind == KindShifted {
		r.Groups = []Group{held(5, a, b), held(4, c)}
		r.Fields = []string{"value"}
	}
	if kind == KindKey {
		key := NewKey("/registry/pods/default/web-0")
		r.Key = &key
	}
	if basis != "none" {
		r.Differs = []Member{c}
	}
	if event == Healed {
		r.Healed = &Healing{Members: []string{"a"}}
	}
	return r
}

func checkWords(t *testing.T, r *Record) {
	t.Helper()
	for _, s := range []string{r.Summary, r.Impact} {
		if s == "" || strings.ContainsAny(s, "{}\n") || strings.Contains(strings.ToLower(s), "corrupt") || strings.Contains(s, "wrong") {
			t.Errorf("%s %s %s %s: %q", r.Kind, r.Rule, r.Layer, r.Event, s)
		}
	}
	for i, command := range r.Next {
		for _, word := range []string{"remove", " del", "defrag", "compact", "put ", "add ", "promote", "rm "} {
			if strings.Contains(command, word) {
				t.Errorf("%q changes something", command)
			}
		}
		if r.Event != Healed && (i < 3) != strings.Contains(command, "snapshot save") {
			t.Errorf("the evidence of all three members comes first: %q", r.Next)
		}
	}
	if r.Runbook.Page != "docs/runbook.md"+chapter(r) || len(r.Next) < 2 {
		t.Errorf("%v %q", r.Runbook, r.Next)
	}
}

func chapter(r *Record) string {
	switch {
	case r.Kind == KindMemberLost:
		return "#member-lost"
	case r.Layer != "":
		return "#" + r.Layer
	}
	return ""
}

func TestCommandsAreForAllMembersAndReadAsOneWord(t *testing.T) {
	r := sample(KindKey, RulePIN, LayerStorage, Confirmed, "quorum")
	r.Groups = []Group{held(5, a), held(4, c)}
	r.Describe([]Member{a, b, c, {ID: "d"}, {ID: "e", Endpoint: "http://gone:2379"}}, []string{"e"})
	want := []string{
		"etcdctl --endpoints=http://m1:2379 snapshot save evidence-a.db",
		"etcdctl --endpoints=http://m2:2379 snapshot save evidence-b.db",
		"etcdctl --endpoints='http://[::1]:2379' snapshot save evidence-c.db",
		"etcdctl --endpoints='http://m1:2379,http://m2:2379,http://[::1]:2379' endpoint status --write-out=table",
		"parallax diagnose --endpoints='http://m1:2379,http://m2:2379,http://[::1]:2379'",
	}
	if !slices.Equal(r.Next, want) {
		t.Errorf("got %q", r.Next)
	}
	if r.Runbook != (Runbook{"parallax runbook storage", "docs/runbook.md#storage"}) {
		t.Errorf("runbook %v", r.Runbook)
	}
}

func TestImpactOfAKey(t *testing.T) {
	for want, groups := range map[string][]Group{
		"clients served by c do not find":           {held(5, a, b), held(0, c)},
		"clients served by c find":                  {held(0, a, b), held(5, c)},
		"clients served by c read an older value":   {held(5, a, b), held(4, c)},
		"clients served by c read another value of": {held(5, a, b), held(5, c)},
	} {
		r := sample(KindKey, RulePIN, "", Confirmed, "quorum")
		r.Groups = groups
		r.Describe(nil, nil)
		if !strings.HasPrefix(r.Impact, want) || !strings.Contains(r.Impact, "pods default/web-0") {
			t.Errorf("want %q, got %q", want, r.Impact)
		}
	}
	r := sample(KindKey, RulePIN, "", Confirmed, "quorum")
	r.Fields = []string{"version"}
	key := NewKey("{who} {reads}")
	r.Key = &key
	r.Describe(nil, nil)
	if want := "clients served by c see {who} {reads} under another revision, version or lease than clients of the other members"; r.Impact != want {
		t.Errorf("want %q, got %q", want, r.Impact)
	}
	for want, named := range map[string]Member{"3 revisions behind": c, "3 revisions ahead": a} {
		r := sample(KindRevision, RuleREV, LayerApply, Confirmed, "quorum")
		r.Differs = []Member{named}
		r.Describe(nil, nil)
		if !strings.Contains(r.Impact, want) {
			t.Errorf("want %q, got %q", want, r.Impact)
		}
	}
}

func TestSinceOnlyGetsBetter(t *testing.T) {
	call := &Call{Method: "/etcdserverpb.KV/Txn"}
	for _, tt := range []struct{ known, learned, want *Since }{
		{nil, nil, nil},
		{nil, &Since{CompactedBefore: 9}, &Since{CompactedBefore: 9}},
		{&Since{CompactedBefore: 9}, nil, &Since{CompactedBefore: 9}},
		{&Since{CompactedBefore: 9}, &Since{CompactedBefore: 12}, &Since{CompactedBefore: 9}},
		{&Since{CompactedBefore: 9}, &Since{CompactedBefore: 5}, &Since{CompactedBefore: 5}},
		{&Since{CompactedBefore: 9}, &Since{Revision: 5}, &Since{Revision: 5}},
		{&Since{Revision: 5}, &Since{CompactedBefore: 9}, &Since{Revision: 5}},
		{&Since{Revision: 5}, &Since{Revision: 7, RaftTerm: 2}, &Since{Revision: 5}},
		{&Since{Revision: 5, RaftTerm: 2}, &Since{Revision: 5, Call: call}, &Since{Revision: 5, RaftTerm: 2, Call: call}},
		{nil, &Since{Revision: 5, CompactedBefore: 3}, &Since{Revision: 5}},
		{nil, &Since{}, nil},
		{nil, &Since{CompactedBefore: -1}, nil},
	} {
		got := tt.known.With(tt.learned.Plain())
		if got == nil != (tt.want == nil) || got != nil && *got != *tt.want {
			t.Errorf("%+v and %+v: %+v, want %+v", tt.known, tt.learned, got, tt.want)
		}
	}
}

func FuzzKey(f *testing.F) {
	f.Add([]byte("/registry/pods/default/web-0"))
	f.Add([]byte(strings.Repeat("日本", 1000)))
	f.Add([]byte("\xff'; rm -rf /"))
	f.Fuzz(func(t *testing.T, key []byte) {
		k := NewKey(key)
		if len(key) > 0 && (k.Key == "") == (k.KeyBase64 == "") || len(k.Key) > keyShown {
			t.Errorf("%q: %+v", key, k)
		}
		if s := Text(string(key), 50); len(s) > 60 || !printable(s) {
			t.Errorf("%q: %q", key, s)
		}
		if q := quote(string(key)); len(key) > 0 && strings.Count(strings.ReplaceAll(q, `'\''`, ""), "'")%2 != 0 {
			t.Errorf("%q: %s", key, q)
		}
	})
}
