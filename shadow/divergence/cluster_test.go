package divergence

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

func TestClusterEvidenceThatIsNone(t *testing.T) {
	for reason, spoil := range map[string]func(*ClusterEvidence){
		"rule":    func(e *ClusterEvidence) { e.Rule = RulePIN },
		"subject": func(e *ClusterEvidence) { e.Rule = record.RuleLease },
		"basis":   func(e *ClusterEvidence) { e.Basis = "majority" },
		"layer":   func(e *ClusterEvidence) { e.Layer = "index" },
		"gap":     func(e *ClusterEvidence) { e.Gap = 0 },
		"groups":  func(e *ClusterEvidence) { e.Groups = e.Groups[:1] },
	} {
		l := New(Config{})
		e := clusterEv(record.RuleREV, "", "a,b=@120|c=@108")
		spoil(&e)
		l.ConfirmCluster(e)
		if got := drain(t, l); len(got) != 0 || testutil.ToFloat64(l.metrics.refused.WithLabelValues(reason)) != 1 {
			t.Errorf("%s: want it refused, got %v", reason, got)
		}
	}
	for _, groups := range []string{"a,b=has_it|c=has_it", "a=has_it|a=lacks_it", "a=|b=lacks_it", "a,b=has_it"} {
		l := New(Config{})
		l.ConfirmCluster(clusterEv(record.RuleLease, "7b", groups))
		if testutil.ToFloat64(l.metrics.refused.WithLabelValues("groups")) != 1 || len(l.findings) != 0 {
			t.Errorf("%s: want it refused", groups)
		}
	}
	long := clusterEv(RuleMemberLost, strings.Repeat("k", longestSubject+1), "a=lost")
	l := New(Config{})
	l.ConfirmCluster(long)
	if testutil.ToFloat64(l.metrics.refused.WithLabelValues("subject")) != 1 {
		t.Error("a subject without bound must be refused")
	}
	e := clusterEv(record.RuleREV, "", "a,b=@120|c=@108")
	e.Differs = []Member{member("c")} // without a basis: nobody is named
	l.ConfirmCluster(e)
	if got := drain(t, l); len(got) != 1 || got[0].Differs != nil {
		t.Errorf("want one record that names nobody: %v", got)
	}
}

// GUARANTEE G7, for what is not about a key. Neither kind takes the other's room.
func TestG7ClusterFindingsAreBounded(t *testing.T) {
	l := New(Config{Limits: Limits{Findings: 2, Burst: 1 << 20}})
	confirmKeys(l, "/a", "/b", "/c")
	for i := range maxCluster + 10 {
		l.ConfirmCluster(clusterEv(record.RuleLease, itoa(int64(i+1)), "a,b=has_it|c=lacks_it"))
	}
	if len(l.cluster) != maxCluster || len(l.findings) != maxCluster+2 || len(l.OpenCluster()) != maxCluster {
		t.Errorf("%d of the cluster, %d in all", len(l.cluster), len(l.findings))
	}
	if n := testutil.ToFloat64(l.metrics.untracked); n != 11 {
		t.Errorf("%v untracked, want a key and ten leases", n)
	}
	l.AgreeCluster(0xc1, record.RuleLease, "1", memberIDs("a,b,c"), time.Time{})
	l.Consistent(0xc1, []byte("/a"), 9, memberIDs("a,b,c"), time.Time{})
	confirmKeys(l, "/c")
	l.ConfirmCluster(clusterEv(record.RuleREV, "", "a,b=@120|c=@108"))
	if len(l.cluster) != maxCluster || !l.IsOpen([]byte("/c")) {
		t.Error("what is healed must make room")
	}
}

// The revision finding that explains a flood of keys is written as soon as there is room.
func TestARevisionFindingIsNotLostInAFlood(t *testing.T) {
	c := newClock()
	l := New(Config{Clock: c.Now, Limits: Limits{Burst: 1, PerMinute: 1}})
	confirmKeys(l, "/a", "/b", "/c")
	rev := clusterEv(record.RuleREV, "", "a,b=@120|c=@108")
	l.ConfirmCluster(rev)
	if got := drain(t, l); len(got) != 1 {
		t.Fatalf("want it folded: %v", got)
	}
	c.add(time.Minute)
	l.ConfirmCluster(rev)
	got := drain(t, l)
	if len(got) != 1 || got[0].Kind != record.KindRevision || got[0].Folded != 3 || got[0].Checks != 2 {
		t.Fatalf("want it written now: %v", got)
	}
	if open := testutil.ToFloat64(l.metrics.open.WithLabelValues(record.KindRevision)); open != 1 {
		t.Errorf("findings_open is %v", open)
	}
	l.AgreeCluster(0xc1, record.RuleLIN, "", memberIDs("a,b,c"), time.Time{})
	if open := testutil.ToFloat64(l.metrics.open.WithLabelValues(record.KindRevision)); open != 0 || len(l.OpenCluster()) != 0 {
		t.Errorf("findings_open is %v", open)
	}
	l.ConfirmCluster(rev) // before its healed was written: it never ended
	if open := l.OpenCluster(); len(open) != 1 || !slices.Equal(open[0].Members, memberIDs("a,b,c")) {
		t.Errorf("open: %v", open)
	}
	c.add(10 * time.Minute)
	l.tick(false)
	if got := drain(t, l); len(got) != 1 || got[0].Event != record.Folded {
		t.Errorf("want what was folded told, and nothing of the finding: %v", got)
	}
}

// The caller may go on using its slices.
func TestConfirmClusterKeepsNothingOfTheCaller(t *testing.T) {
	l := New(Config{})
	e := clusterEv(record.RuleREV, "", "b,a=@120|c=@108")
	l.ConfirmCluster(e)
	if e.Groups[0].Members[0].Name != "b" {
		t.Error("the evidence was sorted in place")
	}
	e.Groups[0].Members[0].ID = 99
	l.ConfirmCluster(clusterEv(record.RuleREV, "", "d=@120|c=@108"))
	got := drain(t, l)
	if len(got) != 2 || len(got[1].Groups[0].Members) != 3 || got[1].Groups[0].Members[1].Name != "b" {
		t.Errorf("the finding changed with the caller's slices: %v", got)
	}
}

func TestWordsOfOthersAreHarmless(t *testing.T) {
	l := New(Config{})
	e := clusterEv(RuleMemberLost, "/a\x1b[2J\xff", "b=lost")
	e.Groups[0].Shows = strings.Repeat("\u202e", 1000)
	e.Groups[0].Members[0].Endpoint = "http://[::1]:2379/'; rm -rf /"
	e.Members = []Member{{ID: 1, Endpoint: "http://c\n:2379"}, {ID: 2}}
	l.ConfirmCluster(e)
	r := drain(t, l)[0]
	if strings.ContainsAny(r.Summary+r.Subject, "\x1b\u202e\ufffd") || len(r.Groups[0].Shows) > 2*showsShown {
		t.Errorf("%q shows %d bytes", r.Summary, len(r.Groups[0].Shows))
	}
	if want := `etcdctl --endpoints='http://[::1]:2379/'\''; rm -rf /' snapshot save evidence-b.db`; r.Next[0] != want {
		t.Errorf("want %s, got %q", want, r.Next)
	}
	if len(r.Next) != 3 {
		t.Errorf("an endpoint that cannot be typed: %q", r.Next)
	}
}

func TestFollowIsBounded(t *testing.T) {
	l := New(Config{Limits: Limits{Burst: 1 << 20, Waiting: 1 << 20}})
	huge := &Extent{KeysDiffering: 1000}
	for i := range 1000 {
		key := []byte("/" + strings.Repeat("x", 5000) + itoa(int64(i)))
		huge.ExampleKeys = append(huge.ExampleKeys, record.NewKey(key))
		huge.ByPrefix = append(huge.ByPrefix, record.NewPrefix(key, int64(i)))
	}
	confirmKeys(l, "/0")
	l.Follow(0xc1, []byte("/0"), Followed{Extent: huge, Layer: record.LayerStorage})
	for i := range maxExtents + 9 {
		key := "/" + itoa(int64(i+1))
		confirmKeys(l, key)
		l.Follow(0xc1, []byte(key), Followed{Extent: &Extent{KeysDiffering: 1}, Layer: record.LayerStorage})
	}
	with := 0
	for _, r := range drain(t, l) {
		if len(r.line) > 100<<10 {
			t.Fatalf("a record of %d bytes", len(r.line))
		}
		if r.Event == record.Updated && r.Layer != record.LayerStorage {
			t.Error("the layer needs no room")
		}
		if r.Extent != nil {
			with++
			if n := len(r.Extent.ByPrefix); n != len(r.Extent.ExampleKeys) || n != 20 && r.Key == "/0" {
				t.Errorf("%d prefixes, %d examples", n, len(r.Extent.ExampleKeys))
			}
		}
	}
	if with != maxExtents || l.extents != maxExtents || len(huge.ByPrefix) != 1000 {
		t.Errorf("%d records with an extent, %d held", with, l.extents)
	}
	l.Consistent(0xc1, []byte("/0"), 9, memberIDs("a,b,c"), time.Time{})
	l.Follow(0xc1, []byte("/105"), Followed{Extent: huge})
	if got := drain(t, l); len(got) != 2 || got[1].Extent == nil {
		t.Errorf("what is healed must make room: %v", got)
	}
}

func TestFollowOfNothing(t *testing.T) {
	l := New(Config{})
	l.Follow(0xc1, []byte("/a"), Followed{Layer: record.LayerApply})
	confirmKeys(l, "/a")
	drain(t, l)
	l.Follow(0xc2, []byte("/a"), Followed{Layer: record.LayerApply}) // another cluster's
	l.Follow(0xc1, []byte("/a"), Followed{Layer: "index"})
	l.Follow(0xc1, []byte("/a"), Followed{Since: &Since{Revision: -1}})
	if got := drain(t, l); len(got) != 0 || testutil.ToFloat64(l.metrics.refused.WithLabelValues("layer")) != 1 {
		t.Errorf("want no record: %v", got)
	}
	extent := &Extent{KeysCompared: 3, KeysDiffering: 2, ByPrefix: []record.Prefix{record.NewPrefix([]byte("/"), 2)}}
	l.Follow(0xc1, []byte("/a"), Followed{Extent: extent})
	extent.ByPrefix[0].Differing = 99 // the caller's
	l.Follow(0xc1, []byte("/a"), Followed{Since: &Since{Revision: 4, CompactedBefore: 2}})
	if got := drain(t, l); len(got) != 2 || strings.Contains(got[1].line, `"differing":99`) {
		t.Errorf("want two records: %v", got)
	}
}
