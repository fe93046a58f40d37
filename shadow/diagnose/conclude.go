package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

// Conclusion of a report.
type Conclusion struct {
	Verdict Verdict  `json:"verdict"`
	Layer   Layer    `json:"layer,omitempty"`
	Summary string   `json:"summary"`
	Basis   string   `json:"basis,omitempty"`   // on which Differs are named: quorum, or none
	Differs []ID     `json:"differs,omitempty"` // from a quorum that agrees; nobody has said who is wrong
	Because []string `json:"because,omitempty"`
	Unknown []string `json:"unknown,omitempty"` // what was not looked at, or could not be
	Next    []string `json:"next,omitempty"`
}

// Conclude judges the facts: which of the five guesses of docs/detection.md holds. It is pure.
func Conclude(f Facts) (Conclusion, []Check) {
	checks := []Check{f.rev(), f.lin(), f.pin(), f.lease(), f.membership()}
	var c Conclusion
	if len(f.Found) > 0 {
		f.divergent(&c)
	} else {
		f.undecided(&c, checks)
	}
	c.Unknown = f.unknown(checks)
	return c, checks
}

// layersFound, in the order in which they are mended: first what grows.
func (f *Facts) layersFound() []Layer {
	rules := []struct {
		layer Layer
		rules []string
	}{{Apply, []string{"REV", "LIN"}}, {Storage, []string{"PIN"}}, {Lease, []string{"LEASE"}}, {Membership, []string{"MEMBERSHIP"}}}
	var found []Layer
	for _, r := range rules {
		if r.layer == Storage && slices.Contains(found, Apply) {
			continue // keys that differ are what apply left behind
		}
		if slices.ContainsFunc(f.Found, func(x Found) bool { return slices.Contains(r.rules, x.Rule) }) {
			found = append(found, r.layer)
		}
	}
	return found
}

func summary(l Layer) string {
	switch l {
	case Apply:
		return "members have applied the same log differently: an entry was skipped, or applied twice"
	case Storage:
		return "members answer differently at one revision, and no drift of their revisions was found: the index or the backend of one is off"
	case Lease:
		return "a lease exists on some members only: its keys will differ when it ends"
	}
	return "members disagree on who the members are"
}

// becauseAtMost bounds what a person has to read.
const becauseAtMost = 12

func (f *Facts) divergent(c *Conclusion) {
	layers := f.layersFound()
	c.Verdict, c.Layer = Divergent, layers[0]
	c.Summary = summary(c.Layer)
	f.name(c)
	for i, x := range f.Found {
		if i == becauseAtMost {
			c.Because = append(c.Because, fmt.Sprintf("… and %d more", len(f.Found)-i))
			break
		}
		c.Because = append(c.Because, f.tell(x))
	}
	for _, l := range layers[1:] {
		c.Because = append(c.Because, "also "+string(l)+": "+summary(l))
	}
	if f.Keys.LostOver != "" {
		c.Because = append(c.Because, f.tellLost())
	}
	f.whatNext(c)
}

// name says who differs from a quorum that agrees. A rule proves only that groups disagree, and in etcd #18667 the
// minority told its client the truth: so nobody is called wrong here.
func (f *Facts) name(c *Conclusion) {
	c.Basis = "none"
	for _, x := range f.Found {
		var d judge.Diff
		for _, g := range x.Groups {
			d.Groups = append(d.Groups, judge.Group{Members: as[uint64](g.Members)})
		}
		if basis, differs := judge.WhoDiffers(d, as[uint64](f.Voters)); basis == judge.BasisQuorum {
			c.Basis = string(basis)
			c.Differs = append(c.Differs, as[ID](differs)...)
		}
	}
	slices.Sort(c.Differs)
	c.Differs = slices.Compact(c.Differs)
}

// as converts ids between the report's form and the judge's.
func as[To, From ~uint64](ids []From) []To {
	out := make([]To, len(ids))
	for i, id := range ids {
		out[i] = To(id)
	}
	return out
}

// tell one difference in a line.
func (f *Facts) tell(x Found) string {
	var groups []string
	for _, g := range x.Groups {
		groups = append(groups, f.names(g.Members)+": "+g.Shows)
	}
	line := x.Rule
	if x.Subject != "" {
		line += " " + x.Subject
	}
	line += ": " + strings.Join(groups, " | ")
	if x.Gap != 0 {
		line += fmt.Sprintf(", %d apart", x.Gap)
	}
	return line
}

func (f *Facts) tellLost() string {
	return fmt.Sprintf("the connection of %s broke while it read %s: by chance, or because the read ended it", f.names(f.Keys.LostWhom), f.Keys.LostOver)
}

// names of members, as a person knows them.
func (f *Facts) names(ids []ID) string {
	var names []string
	for _, id := range ids {
		name := id.String()
		if m := f.member(id); m != nil && m.Name != "" {
			name = m.Name
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (f *Facts) member(id ID) *Member {
	i := slices.IndexFunc(f.Members, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return nil
	}
	return &f.Members[i]
}

// undecided is where no rule has proved a difference. What is reported here is no divergence.
func (f *Facts) undecided(c *Conclusion, checks []Check) {
	c.Verdict = Inconclusive
	for _, guess := range []func(*Conclusion) bool{f.split, f.lost, f.lags, f.alarmed, f.listsDiffer} {
		if guess(c) {
			f.whatNext(c)
			return
		}
	}
	if c.Because = f.missing(checks); len(c.Because) > 0 {
		c.Summary = "nothing was found, and not enough could be compared"
	} else {
		c.Verdict, c.Summary = Consistent, "nothing was found in what was looked at"
	}
	f.whatNext(c)
}

// split: another cluster answers, or members follow different leaders.
func (f *Facts) split(c *Conclusion) bool {
	for _, a := range f.Apart {
		if strings.Contains(a.Why, "belongs to cluster") {
			c.Because = append(c.Because, a.URL+" "+a.Why)
		}
	}
	if len(c.Because) > 0 {
		c.Layer, c.Summary = Membership, "an endpoint belongs to another cluster: an error of configuration, not divergence"
		return true
	}
	leaders := map[ID]bool{}
	for _, m := range f.asked() {
		leaders[m.Leader] = true
		if m.Leader == 0 {
			c.Because = append(c.Because, fmt.Sprintf("%s knows of no leader (raft term %d)", f.names([]ID{m.ID}), m.RaftTerm))
		} else {
			c.Because = append(c.Because, fmt.Sprintf("%s follows %s (raft term %d)", f.names([]ID{m.ID}), f.names([]ID{m.Leader}), m.RaftTerm))
		}
	}
	switch {
	case leaders[0]:
		c.Layer, c.Summary = Replication, "a member is without a leader: cut off, or there is no quorum; this is no divergence"
	case len(leaders) > 1:
		c.Layer, c.Summary = Replication, "members follow different leaders: an election, or the cluster is split; this is no divergence"
	default:
		c.Because = nil
		return false
	}
	return true
}

func (f *Facts) lost(c *Conclusion) bool {
	if f.Keys.LostOver == "" {
		return false
	}
	c.Layer, c.Summary = MemberLost, "a member was lost while it read keys for this command"
	c.Because = []string{f.tellLost()}
	return true
}

// lags: a member that did not reach, all the while, what others had applied at the beginning.
func (f *Facts) lags(c *Conclusion) bool {
	var most uint64
	for _, m := range f.asked() {
		most = max(most, m.AppliedBefore)
	}
	for _, m := range f.asked() {
		if m.Applied < most {
			still := "is catching up"
			if m.Applied == m.AppliedBefore {
				still = "does not move"
			}
			c.Because = append(c.Because, fmt.Sprintf("%s has applied %d of the log and %s; others had %d at the beginning", f.names([]ID{m.ID}), m.Applied, still, most))
		}
	}
	if len(c.Because) == 0 {
		return false
	}
	c.Layer, c.Summary = Replication, "a member is behind in the log: lag, not divergence"
	return true
}

func (f *Facts) alarmed(c *Conclusion) bool {
	for _, m := range f.asked() {
		for _, a := range m.Alarms {
			if strings.Contains(a, "CORRUPT") {
				c.Because = append(c.Because, f.names([]ID{m.ID})+" says: "+strings.TrimSpace(a))
			}
		}
	}
	c.Summary = "etcd itself has raised a CORRUPT alarm, and the sample shows no difference"
	return len(c.Because) > 0
}

// lists that members have, and who has each.
func (f *Facts) lists() map[string][]ID {
	lists := map[string][]ID{}
	for _, m := range f.asked() {
		if len(m.Lists) > 0 {
			text := list(m.Lists)
			lists[text] = append(lists[text], m.ID)
		}
	}
	return lists
}

// listsDiffer, and MEMBERSHIP could not prove it.
func (f *Facts) listsDiffer(c *Conclusion) bool {
	lists := f.lists()
	if len(lists) < 2 {
		return false
	}
	for text, who := range lists {
		c.Because = append(c.Because, f.names(who)+" lists "+text)
	}
	slices.Sort(c.Because)
	c.Layer, c.Summary = Membership, "members list different members, and it could not be proved that this lasts (without writes one that is behind looks the same)"
	return true
}

func list(members []Listed) string {
	var texts []string
	for _, l := range members {
		text := l.ID.String()
		if l.Learner {
			text += " (learner)"
		}
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return strings.Join(texts, ", ")
}

// asked are the members that told something of themselves.
func (f *Facts) asked() []Member {
	var asked []Member
	for _, m := range f.Members {
		if m.NotAsked == "" {
			asked = append(asked, m)
		}
	}
	return asked
}
