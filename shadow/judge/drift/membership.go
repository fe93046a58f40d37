package drift

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Membership applies MEMBERSHIP: it finds zombie members and learners (etcd
// #13196, #19557, #20967). MemberList{linearizable: false} is local.
//
//	the lists of A and B differ in a member, alike in 3 rounds, both live and in the same
//	epochs, each with applied ≥ the highest raftIndex seen before the round
//	                                                              ⇒ divergent {A, B}
//
// Proof. A member id goes one way: not yet listed, learner, voter, removed, and is
// never used again (etcd refuses a removed id, and a new member's id is hashed from
// the time too). In each round both show the state of an index that is at least
// that of any list of the round before. A lists it in the first and third round, so
// it was added before the second one, where B does not list it: it is removed at
// that index, and cannot be listed in the third round by A. Contradiction; and so
// for a learner that was promoted. (A member that replays its backlog shows an old
// list for many rounds: its applied index tells.)
//
// Peer URLs may go back and forth (MemberUpdate). They count only in rounds in which
// each entry between the two readings made a revision, so that none of them changed
// the membership: both lists are then those of one state.
//
// Names and client URLs are not compared. Each member writes its own anew at every
// start, and where they are kept depends on the version (v2 store or backend; an
// upgrade may begin with old ones), while nothing but a client's discovery reads
// them: a difference would not tell of data.
//
// The zero value is ready. It is not safe for concurrent use.
type Membership struct {
	before   map[uint64]ListReading // of the round before
	suspects map[listSuspect]*listRounds
}

const listRoundsNeeded = 3

// ListReading is what MemberList of a member showed, between two Status of it.
type ListReading struct {
	Member, Epoch  uint64
	Live           bool   // Rev.Live, once the second Status was seen
	Applied        uint64 // raftAppliedIndex of the first Status
	List           []Listed
	Revision       int64  // of the second Status; without it, peer URLs are not compared
	CommittedAfter uint64 // raftIndex of the second Status; without it, the same
}

// Listed is a member as another one lists it.
type Listed struct {
	ID                   uint64
	Name                 string
	Learner              bool
	PeerURLs, ClientURLs []string
}

// listSuspect is a listed member, and two that do not list it alike; a < b.
type listSuspect struct{ listed, a, b uint64 }

// listRounds counts in how many rounds they differed like this.
type listRounds struct {
	epochA, epochB uint64
	showA, showB   string
	n              int
}

// See takes the readings of one round, at most one of each member. highest is the
// highest raftIndex that any Status of the members' present epochs showed after
// the last list of the round before, and before the first of this one. It returns
// what is proved and shows in this round.
func (m *Membership) See(round []ListReading, highest uint64) []Finding {
	for _, r := range round {
		if was, known := m.before[r.Member]; known && was.Epoch == r.Epoch {
			highest = max(highest, was.CommittedAfter)
		}
	}
	if m.suspects == nil {
		m.suspects = make(map[listSuspect]*listRounds)
	}
	round = slices.SortedFunc(slices.Values(round), func(a, b ListReading) int { return cmp.Compare(a.Member, b.Member) })
	m.before = make(map[uint64]ListReading, len(round))
	for _, r := range round {
		m.before[r.Member] = r
	}
	// A member that did not answer begins anew.
	maps.DeleteFunc(m.suspects, func(s listSuspect, _ *listRounds) bool {
		return m.before[s.a].Epoch == 0 || m.before[s.b].Epoch == 0
	})
	found := make(map[difference]*groups)
	for i, a := range round {
		for _, b := range round[i+1:] {
			if a.timely(highest) && b.timely(highest) {
				m.compare(a, b, found)
			}
		}
	}
	return findingsOf(found)
}

// difference between lists in one listed member: in whether and how it is listed,
// or only in its peer URLs.
type difference struct {
	listed uint64
	urls   bool
}

func findingsOf(found map[difference]*groups) []Finding {
	var findings []Finding
	for d, g := range found {
		// Who is listed by some only need not be told by URLs as well; and nobody
		// may stand in two groups.
		if d.urls && found[difference{listed: d.listed}] != nil {
			continue
		}
		slices.SortFunc(*g, func(a, b Group) int {
			return cmp.Or(cmp.Compare(listOrder(a.Shows), listOrder(b.Shows)), cmp.Compare(a.Members[0], b.Members[0]))
		})
		findings = append(findings, Finding{Rule: RuleMEMBERSHIP, Subject: hex(d.listed), Groups: *g})
	}
	slices.SortFunc(findings, func(a, b Finding) int { return cmp.Compare(a.Subject, b.Subject) })
	return findings
}

// timely tells whether the reading is of a state at or after index highest.
func (r ListReading) timely(highest uint64) bool {
	return r.Epoch != 0 && r.Live && r.Applied >= highest
}

// compare two readings of a round, and adds to found what is proved.
func (m *Membership) compare(a, b ListReading, found map[difference]*groups) {
	oneState := sameState(a, b)
	for _, id := range listedIDs(a, b) {
		s := listSuspect{id, a.Member, b.Member}
		d, sure := difference{listed: id}, true
		showA, showB := a.shows(id), b.shows(id)
		if urlsA, urlsB := a.urls(id), b.urls(id); showA == showB && urlsA != urlsB {
			showA, showB = showA+" at "+urlsA, showB+" at "+urlsB
			d.urls, sure = true, oneState
		}
		was := m.suspects[s]
		switch {
		case showA == showB:
			delete(m.suspects, s)
			continue
		case !sure:
			continue
		case was == nil || was.epochA != a.Epoch || was.epochB != b.Epoch || was.showA != showA || was.showB != showB:
			was = &listRounds{epochA: a.Epoch, epochB: b.Epoch, showA: showA, showB: showB}
			m.suspects[s] = was
		}
		if was.n++; was.n < listRoundsNeeded {
			continue
		}
		if found[d] == nil {
			found[d] = new(groups)
		}
		found[d].add(a.Member, showA)
		found[d].add(b.Member, showB)
	}
	maps.DeleteFunc(m.suspects, func(s listSuspect, _ *listRounds) bool {
		return s.a == a.Member && s.b == b.Member && a.find(s.listed) == nil && b.find(s.listed) == nil
	})
}

// sameState tells whether no membership can have changed between the states that
// the two readings show.
func sameState(a, b ListReading) bool {
	low, high := a, a
	if b.Applied < a.Applied {
		low = b
	}
	if b.CommittedAfter > a.CommittedAfter {
		high = b
	}
	return a.CommittedAfter >= a.Applied && b.CommittedAfter >= b.Applied &&
		onlyWrites(low.Applied, low.Revision, high.CommittedAfter, high.Revision)
}

func listedIDs(a, b ListReading) []uint64 {
	var ids []uint64
	for _, l := range slices.Concat(a.List, b.List) {
		ids = append(ids, l.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (r ListReading) find(id uint64) *Listed {
	i := slices.IndexFunc(r.List, func(l Listed) bool { return l.ID == id })
	if i < 0 {
		return nil
	}
	return &r.List[i]
}

// What a list shows of a member, in the order in which groups stand.
const (
	showsVoter   = "lists it as a voting member"
	showsLearner = "lists it as a learner"
	showsNothing = "does not list it"
)

func listOrder(shows string) int {
	return slices.IndexFunc([]string{showsVoter, showsLearner, showsNothing}, func(s string) bool { return strings.HasPrefix(shows, s) })
}

func (r ListReading) shows(id uint64) string {
	switch l := r.find(id); {
	case l == nil:
		return showsNothing
	case l.Learner:
		return showsLearner
	}
	return showsVoter
}

func (r ListReading) urls(id uint64) string {
	l := r.find(id)
	if l == nil {
		return ""
	}
	return strings.Join(slices.Sorted(slices.Values(l.PeerURLs)), ",")
}
