package diagnose

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Verdict of a check, and of the whole.
type Verdict string

// The verdicts. A check that could not be done accuses nobody.
const (
	Consistent   Verdict = "consistent"
	Divergent    Verdict = "divergent"
	Inconclusive Verdict = "inconclusive"
)

// Check of one rule of docs/detection.md.
type Check struct {
	Rule    string   `json:"rule"`
	Verdict Verdict  `json:"verdict"`
	Looked  string   `json:"looked"`        // at how much
	Why     []string `json:"why,omitempty"` // it is inconclusive
}

// check makes the verdict: divergent when something was found, inconclusive when there is a reason for it.
func (f *Facts) check(rule, looked string, why []string) Check {
	c := Check{Rule: rule, Verdict: Consistent, Looked: looked, Why: why}
	switch {
	case slices.ContainsFunc(f.Found, func(x Found) bool { return x.Rule == rule }):
		c.Verdict, c.Why = Divergent, nil
	case len(why) > 0:
		c.Verdict = Inconclusive
	}
	return c
}

func (f *Facts) few() []string {
	if len(f.asked()) < 2 {
		return []string{"fewer than two members could be asked"}
	}
	return nil
}

func (f *Facts) rev() Check {
	why := f.few()
	var idle []ID
	for _, m := range f.asked() {
		if !m.Live {
			idle = append(idle, m.ID)
		}
	}
	if len(idle) > 0 {
		why = append(why, "no write was seen at "+f.names(idle)+" (LIN needs none)")
	}
	asked := f.asked()
	why = append(why, f.blunt(asked, func(p Pair) (*int64, bool) { return p.RevSlack, f.member(p.A).Live && f.member(p.B).Live })...)
	return f.check("REV", fmt.Sprintf("%d samples", f.Samples), why)
}

func (f *Facts) lin() Check {
	why, rounds := f.few(), 0
	for _, p := range f.Pairs {
		rounds += p.Rounds
		if p.Behind > 0 {
			why = append(why, fmt.Sprintf("%s was behind %s in the last %d rounds: too few, or for too short, for a proof; look again for longer", f.names([]ID{p.B}), f.names([]ID{p.A}), p.Behind))
		}
	}
	voters := slices.DeleteFunc(f.asked(), func(m Member) bool { return m.Learner })
	why = append(why, f.blunt(voters, func(p Pair) (*int64, bool) { return p.LinSlack, p.Behind == 0 })...)
	return f.check("LIN", fmt.Sprintf("%d rounds", rounds), why)
}

// blunt tells of which pairs of members it is not known that they are at one revision: those that were not compared, or
// only with so many writes between that a small gap would not have shown.
func (f *Facts) blunt(members []Member, slack func(Pair) (n *int64, tell bool)) []string {
	var never []string
	var most int64
	for _, a := range members {
		for _, b := range members {
			if a.ID == b.ID {
				continue
			}
			p := Pair{A: a.ID, B: b.ID}
			if i := slices.IndexFunc(f.Pairs, func(q Pair) bool { return q.A == a.ID && q.B == b.ID }); i >= 0 {
				p = f.Pairs[i]
			}
			switch n, tell := slack(p); {
			case tell && n == nil:
				never = append(never, f.names([]ID{b.ID})+" with "+f.names([]ID{a.ID}))
			case tell:
				most = max(most, *n)
			}
		}
	}
	var why []string
	if len(never) > 0 {
		why = append(why, "not compared: "+strings.Join(never, ", "))
	}
	if most > 0 {
		why = append(why, fmt.Sprintf("writes came so fast that members up to %d revisions apart would not have shown", most))
	}
	return why
}

func (f *Facts) pin() Check {
	why := f.few()
	for _, reason := range slices.Sorted(maps.Keys(f.Keys.Unclear)) {
		why = append(why, fmt.Sprintf("%d ranges: %s", f.Keys.Unclear[reason], reason))
	}
	if f.Keys.Compared == 0 && len(why) == 0 && !f.empty() {
		why = append(why, "no key was compared: none was found within what the search for a sample may cost")
	}
	return f.check("PIN", fmt.Sprintf("%d keys of a sample, %d ranges", f.Keys.Compared, f.Keys.Ranges), why)
}

// empty: every member was counted, and has no keys.
func (f *Facts) empty() bool {
	return !slices.ContainsFunc(f.asked(), func(m Member) bool { return m.Keys == nil || *m.Keys != 0 })
}

func (f *Facts) lease() Check {
	why := f.local("leases", func(m Member) bool { return m.Leases != nil })
	if len(why) == 0 && !f.LeaseEqual {
		why = append(why, "members were never seen with the same leases at about the same time, and it could not be proved that they differ")
	}
	return f.check("LEASE", fmt.Sprintf("%d readings", f.LeaseReads), why)
}

func (f *Facts) membership() Check {
	why := f.local("member list", func(m Member) bool { return len(m.Lists) > 0 })
	if len(f.lists()) > 1 {
		why = append(why, "lists differ, and it could not be proved that this lasts")
	}
	return f.check("MEMBERSHIP", fmt.Sprintf("%d rounds", f.ListRounds), why)
}

// local is why nothing can be said of what members have by themselves. Learners tell nobody.
func (f *Facts) local(what string, gave func(Member) bool) []string {
	why := f.few()
	var silent []ID
	for _, m := range f.asked() {
		if !gave(m) && !m.Learner {
			silent = append(silent, m.ID)
		}
	}
	if len(silent) > 0 {
		why = append(why, "no "+what+" of "+f.names(silent))
	}
	return why
}

// missing is what keeps "nothing was found" from meaning anything.
func (f *Facts) missing(checks []Check) []string {
	missing := f.few()
	for _, m := range f.Members {
		if m.NotAsked != "" {
			missing = append(missing, f.names([]ID{m.ID})+" could not be asked: "+m.NotAsked)
		}
	}
	if f.Interrupted {
		missing = append(missing, "interrupted before everything was looked at")
	}
	by := map[string]Check{}
	for _, c := range checks {
		by[c.Rule] = c
	}
	if by["REV"].Verdict == Inconclusive && by["LIN"].Verdict == Inconclusive && len(f.few()) == 0 {
		missing = append(missing, "revisions: "+strings.Join(append(by["REV"].Why, by["LIN"].Why...), "; "))
	}
	if by["PIN"].Verdict == Inconclusive && f.Keys.Compared == 0 && len(f.few()) == 0 {
		missing = append(missing, "keys: "+strings.Join(by["PIN"].Why, "; "))
	}
	return missing
}

// unknown is what was not looked at, or could not be.
func (f *Facts) unknown(checks []Check) []string {
	var unknown []string
	// REV and LIN are about the same; one is enough.
	revisions := slices.ContainsFunc(checks, func(c Check) bool { return (c.Rule == "REV" || c.Rule == "LIN") && c.Verdict != Inconclusive })
	for _, c := range checks {
		if other := c.Rule != "REV" && c.Rule != "LIN"; c.Verdict == Inconclusive && (other || !revisions) {
			unknown = append(unknown, c.Rule+": "+strings.Join(c.Why, "; "))
		}
	}
	for _, m := range f.asked() {
		if m.Learner && !m.Live {
			unknown = append(unknown, "the revision of learner "+f.names([]ID{m.ID})+": no write was seen there, and learners take no linearizable read")
		}
	}
	if f.Keys.Uncounted != "" {
		unknown = append(unknown, "number of keys: "+f.Keys.Uncounted)
	}
	for _, m := range f.Members {
		for _, r := range m.Refused {
			unknown = append(unknown, f.names([]ID{m.ID})+": "+r)
		}
	}
	for _, a := range f.Apart {
		unknown = append(unknown, a.URL+": "+a.Why)
	}
	unknown = append(unknown, f.Remarks...)
	return append(unknown,
		"all keys beyond the sample: parallax check does",
		"users and roles (AUTH): asking appends to the raft log and needs root up to 3.6")
}
