package diagnose

import (
	"slices"
	"strings"
	"testing"
)

// three healthy members of a version, with writes.
func three(version string) Facts {
	f := Facts{ClusterID: 0xc, Voters: []ID{1, 2, 3}, Samples: 600, LeaseReads: 30, LeaseEqual: true, ListRounds: 10, Keys: Keys{Revision: 100, Compared: 100, Ranges: 12}}
	for i := range 3 {
		keys, leases := int64(50), 2
		f.Members = append(f.Members, Member{
			ID: ID(i + 1), Name: "m" + ID(i+1).String(), URL: "http://10.0.0." + ID(i+1).String() + ":2379", Version: version, Leader: 1, RaftTerm: 2,
			Committed: 200, Applied: 200, AppliedBefore: 120, Revision: 100, Live: true, Keys: &keys, Leases: &leases,
			Lists: []Listed{{ID: 1, Name: "m1"}, {ID: 2, Name: "m2"}, {ID: 3, Name: "m3"}},
		})
		for b := range 3 {
			if b != i {
				f.Pairs = append(f.Pairs, Pair{A: ID(i + 1), B: ID(b + 1), Rounds: 8, Seconds: 16, RevSlack: new(int64), LinSlack: new(int64)})
			}
		}
	}
	return f
}

func (f *Facts) each(change func(*Member)) {
	for i := range f.Members {
		change(&f.Members[i])
	}
}

func revisions(rule string, behind, ahead []ID, gap int64) Found {
	return Found{Rule: rule, Gap: gap, Groups: []Group{{Members: ahead, Shows: "ahead", Revision: 100}, {Members: behind, Shows: "behind", Revision: 100 - gap}}}
}

var conclusions = []struct {
	name    string
	version string
	change  func(*Facts)
	verdict Verdict
	layer   Layer
	basis   string
	differs []ID
	because string // is among the reasons
	next    string // is among the steps
	fits    []int
}{
	{name: "healthy, with writes", version: "3.7.3", change: func(*Facts) {}, verdict: Consistent, next: "parallax check"},
	{name: "healthy and idle: LIN speaks for it", version: "3.6.16", change: func(f *Facts) { f.each(func(m *Member) { m.Live = false }) }, verdict: Consistent},
	{name: "healthy and empty", version: "3.6.16", verdict: Consistent, change: func(f *Facts) {
		f.each(func(m *Member) { m.Keys, m.Revision, m.Live = new(int64), 1, false })
		f.Keys = Keys{}
	}},
	{name: "13766: one skipped entries", version: "3.5.1", verdict: Divergent, layer: Apply, basis: "quorum", differs: []ID{3}, because: "REV: m1, m2: ahead",
		next: "m3 (3) differs from the quorum", fits: []int{12535, 13766, 14685, 17780, 18667, 18799},
		change: func(f *Facts) { f.Found = []Found{revisions("REV", []ID{3}, []ID{1, 2}, 7)} }},
	{name: "14685: the one that applied twice leads", version: "3.5.5", verdict: Divergent, layer: Apply, basis: "quorum", differs: []ID{1},
		next: "first etcdctl --endpoints=http://10.0.0.1:2379 move-leader 2", fits: []int{14571, 14685, 17780, 18667, 18799},
		change: func(f *Facts) { f.Found = []Found{revisions("REV", []ID{2, 3}, []ID{1}, 4)} }},
	{name: "18667 on an idle cluster", version: "3.6.16", verdict: Divergent, layer: Apply, basis: "quorum", differs: []ID{2}, because: "LIN:", fits: []int{18667},
		change: func(f *Facts) {
			f.each(func(m *Member) { m.Live = false })
			f.Found = []Found{revisions("LIN", []ID{2}, []ID{1, 3}, 1)}
		}},
	{name: "17780, and only one pair is known to differ", version: "3.5.13", verdict: Divergent, layer: Apply, basis: "none", next: "remove nobody yet: no quorum", fits: []int{17780, 18667, 18799},
		change: func(f *Facts) { f.Found = []Found{revisions("REV", []ID{3}, []ID{1}, 2)} }},
	{name: "11651: before 3.5 nobody knows the voters", version: "3.4.3", verdict: Divergent, layer: Apply, basis: "none", fits: []int{11651, 12535, 17780, 18667},
		change: func(f *Facts) {
			f.Voters = nil
			f.Found = []Found{revisions("REV", []ID{3}, []ID{1, 2}, 9), {Rule: "PIN", Subject: `"a" (value)`, Groups: []Group{{Members: []ID{1, 2}}, {Members: []ID{3}}}}}
		}},
	{name: "11651, masked: revisions equal, keys not", version: "3.4.7", verdict: Divergent, layer: Storage, basis: "quorum", differs: []ID{3}, because: `PIN "a" (value)`, fits: []int{11651, 12535, 17780, 18667},
		change: func(f *Facts) {
			f.Found = []Found{{Rule: "PIN", Subject: `"a" (value)`, Groups: []Group{{Members: []ID{1, 2}, Shows: "mod_revision 5"}, {Members: []ID{3}, Shows: "absent"}}}}
		}},
	{name: "12535: a lease is lost", version: "3.5.2", verdict: Divergent, layer: Lease, basis: "quorum", differs: []ID{2}, because: "LEASE ffffffffffffffff", fits: []int{12535},
		change: func(f *Facts) {
			f.Found = []Found{{Rule: "LEASE", Subject: "ffffffffffffffff", Groups: []Group{{Members: []ID{1, 3}, Shows: "has the lease"}, {Members: []ID{2}, Shows: "lacks it"}}}}
		}},
	{name: "20967: a zombie", version: "3.5.9", verdict: Divergent, layer: Membership, basis: "quorum", differs: []ID{1}, fits: []int{19557, 20967},
		change: func(f *Facts) {
			f.Found = []Found{{Rule: "MEMBERSHIP", Subject: "9", Groups: []Group{{Members: []ID{1}, Shows: "lists it"}, {Members: []ID{2, 3}, Shows: "does not"}}}}
		}},
	{name: "two of five differ", version: "3.7.3", verdict: Divergent, layer: Storage, basis: "quorum", differs: []ID{4, 5}, next: "remove nobody yet: 2 members differ",
		change: func(f *Facts) {
			f.Voters = []ID{1, 2, 3, 4, 5}
			f.Members = append(f.Members, Member{ID: 4, Leader: 1, Applied: 200}, Member{ID: 5, Leader: 1, Applied: 200})
			f.Found = []Found{{Rule: "PIN", Subject: "k", Groups: []Group{{Members: []ID{1, 2, 3}}, {Members: []ID{4}}, {Members: []ID{5}}}}}
		}},
	{name: "one of two", version: "3.7.3", verdict: Divergent, layer: Apply, basis: "none", next: "remove nobody yet",
		change: func(f *Facts) {
			f.Voters, f.Members = f.Voters[:2], f.Members[:2]
			f.Found = []Found{revisions("REV", []ID{2}, []ID{1}, 1)}
		}},
	{name: "one of five differs, and two are down", version: "3.7.3", verdict: Divergent, layer: Apply, basis: "quorum", differs: []ID{3}, next: "without one more there might be no quorum",
		change: func(f *Facts) {
			f.Voters = []ID{1, 2, 3, 4, 5}
			f.Members = append(f.Members, Member{ID: 4, NotAsked: "unreachable"}, Member{ID: 5, NotAsked: "unreachable"})
			f.Found = []Found{revisions("REV", []ID{3}, []ID{1, 2, 4}, 1)}
		}},
	{name: "another cluster answers", version: "3.7.3", verdict: Inconclusive, layer: Membership, because: "belongs to cluster d",
		change: func(f *Facts) {
			f.Apart = []Apart{{URL: "http://10.0.0.9:2379", Why: "belongs to cluster d, the others to c: take it out of --endpoints"}}
		}},
	{name: "no leader", version: "3.7.3", verdict: Inconclusive, layer: Replication, because: "m3 knows of no leader", change: func(f *Facts) { f.Members[2].Leader = 0 }},
	{name: "two leaders", version: "3.7.3", verdict: Inconclusive, layer: Replication, because: "m3 follows m3", change: func(f *Facts) { f.Members[2].Leader = 3 }},
	{name: "lag", version: "3.7.3", verdict: Inconclusive, layer: Replication, because: "m2 has applied 90 of the log and does not move; others had 120",
		change: func(f *Facts) { f.Members[1].Applied, f.Members[1].AppliedBefore = 90, 90 }},
	{name: "far behind, and catching up", version: "3.7.3", verdict: Inconclusive, layer: Replication, because: "catching up",
		change: func(f *Facts) { f.Members[1].Applied, f.Members[1].AppliedBefore = 110, 20 }},
	{name: "CORRUPT", version: "3.7.3", verdict: Inconclusive, because: "m2 says: memberID:3 alarm:CORRUPT",
		change: func(f *Facts) { f.Members[1].Alarms = []string{"memberID:3 alarm:CORRUPT "} }},
	{name: "NOSPACE is no reason to doubt", version: "3.7.3", verdict: Consistent, change: func(f *Facts) { f.Members[1].Alarms = []string{"memberID:3 alarm:NOSPACE "} }},
	{name: "a member was lost", version: "3.7.3", verdict: Inconclusive, layer: MemberLost, because: "m2", next: "parallax runbook member-lost",
		change: func(f *Facts) { f.Keys.LostOver, f.Keys.LostWhom = `"a" to "b"`, []ID{2} }},
	{name: "lists differ, unproved", version: "3.7.3", verdict: Inconclusive, layer: Membership, because: "m3 lists 1, 2, 3, 9 (learner)",
		change: func(f *Facts) {
			f.Members[2].Lists = append(slices.Clone(f.Members[2].Lists), Listed{ID: 9, Learner: true})
		}},
	{name: "a member cannot be asked", version: "3.7.3", verdict: Inconclusive, because: "m3 could not be asked: unreachable",
		change: func(f *Facts) { f.Members[2].NotAsked = "unreachable" }},
	{name: "one member", version: "3.7.3", verdict: Inconclusive, because: "fewer than two members", change: func(f *Facts) { f.Voters, f.Members = f.Voters[:1], f.Members[:1] }},
	{name: "no permission to read", version: "3.7.3", verdict: Inconclusive, because: "keys: 12 ranges: permission-denied",
		change: func(f *Facts) { f.Keys.Compared, f.Keys.Unclear = 0, map[string]int{"permission-denied": 12} }},
	{name: "idle, and LIN was refused", version: "3.7.3", verdict: Inconclusive, because: "m1 with m2",
		change: func(f *Facts) {
			f.each(func(m *Member) { m.Live = false })
			for i := range f.Pairs {
				f.Pairs[i].LinSlack = nil
			}
		}},
	{name: "idle, and behind for less than LIN wants", version: "3.7.3", verdict: Inconclusive, because: "m2 was behind m1 in the last 2 rounds",
		change: func(f *Facts) {
			f.each(func(m *Member) { m.Live = false })
			f.pair(1, 2).Behind = 2
		}},
	{name: "too many writes to see a small gap", version: "3.7.3", verdict: Inconclusive, because: "up to 7 revisions apart would not have shown",
		change: func(f *Facts) {
			seven := int64(7)
			f.pair(1, 2).RevSlack, f.pair(1, 2).LinSlack = &seven, &seven
		}},
	{name: "REV is sharp where LIN is not", version: "3.7.3", verdict: Consistent, change: func(f *Facts) {
		seven := int64(7)
		f.pair(3, 1).LinSlack = &seven
	}},
	{name: "interrupted", version: "3.7.3", verdict: Inconclusive, because: "interrupted", change: func(f *Facts) { f.Interrupted = true }},
}

func TestConclude(t *testing.T) {
	for _, c := range conclusions {
		t.Run(c.name, func(t *testing.T) {
			f := three(c.version)
			c.change(&f)
			got, checks := Conclude(f)
			if got.Verdict != c.verdict || got.Layer != c.layer || !slices.Equal(got.Differs, c.differs) || got.Summary == "" {
				t.Errorf("got %+v, want %s, layer %q, differing %v", got, c.verdict, c.layer, c.differs)
			}
			if c.verdict == Divergent && got.Basis != c.basis {
				t.Errorf("basis %s, want %s", got.Basis, c.basis)
			}
			if !strings.Contains(strings.Join(got.Because, "\n"), c.because) {
				t.Errorf("reasons are %q, want one with %q", got.Because, c.because)
			}
			if !strings.Contains(strings.Join(got.Next, "\n"), c.next) || len(got.Next) == 0 {
				t.Errorf("steps are %q, want one with %q", got.Next, c.next)
			}
			if len(checks) != 5 {
				t.Errorf("%d checks", len(checks))
			}
			var fits []int
			for _, b := range fit(bugsOf(f.Members), got) {
				if b.Fits {
					fits = append(fits, b.Issue)
				}
			}
			if !slices.Equal(fits, c.fits) {
				t.Errorf("fitting bugs %v, want %v", fits, c.fits)
			}
		})
	}
}

// GUARANTEE G3: what is no proof never becomes divergent, in whatever combination.
func TestG3OnlyProofIsDivergent(t *testing.T) {
	var harmless []func(*Facts)
	for _, c := range conclusions {
		f := three(c.version)
		if c.change(&f); len(f.Found) == 0 {
			harmless = append(harmless, c.change)
		}
	}
	if len(harmless) < 10 {
		t.Fatalf("only %d cases", len(harmless))
	}
	for i, a := range harmless {
		for _, b := range harmless[:i] {
			f := three("3.6.16")
			a(&f)
			if len(f.Members) == 3 && len(f.Pairs) > 0 {
				b(&f)
			}
			if c, _ := Conclude(f); c.Verdict == Divergent || len(c.Differs) > 0 {
				t.Fatalf("accused: %+v", c)
			}
		}
	}
}

func TestVersions(t *testing.T) {
	for version, want := range map[string][]int{
		"3.7.3": nil, "3.7.0-rc.1": nil, "3.6.16": {18667}, "3.5.35": {18667}, "3.5.26": {18667}, "3.5.25": {18667, 20967}, "3.5.16": {18667, 18799, 19557, 20967},
		"3.5.0":  {12535, 13196, 13766, 14685, 17780, 18667, 18799, 20967},
		"3.4.20": {14571, 17780, 18667, 20967}, "3.4.3": {11613, 11651, 12535, 17780, 18667, 20967}, "": nil, "nonsense": nil, "3.x.1": nil,
	} {
		var got []int
		for _, b := range bugsOf([]Member{{ID: 1, Version: version}}) {
			got = append(got, b.Issue)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", version, got, want)
		}
	}
}
