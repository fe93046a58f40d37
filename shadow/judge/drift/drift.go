// Package drift tells, from what members say of themselves, whether their
// states have drifted apart where no comparison of keys shows it: a revision
// that is stuck or runs ahead, leases, lists of members, the auth store. Like
// package judge it is pure: no clock, network or logging; it keeps what earlier
// answers showed, bounded, and nothing else.
//
// The rules and their proofs are those of docs/detection.md, one file each: REV,
// LIN, LEASE, MEMBERSHIP, AUTH. What all of them rest on:
//
//   - The state of a healthy member is a function of the raft log: the state after
//     index i is the same on each. f(i) is the revision after index i.
//   - Status reads the revision, then raftIndex (committed), then raftAppliedIndex.
//     An entry changes the state before the applied index shows it. So the state
//     that an answer shows is that of at least the applied index read before it.
//   - A member that is live (see [Rev]) has committed everything that its state
//     contains. So the state that an answer shows is that of at most the raftIndex
//     read after it.
//   - An answer counts within one epoch, that is, on one TCP connection. Whatever a
//     member showed in an older one is void, and so is what it showed before
//     anything about it ran backwards: that is another incarnation, which accuses
//     nobody.
//   - Each side has to answer once more, in its epoch, after the last answer that
//     was compared. Otherwise a whole cluster that was restored from a backup behind
//     our back would look like one half of it had drifted.
//
// What cannot be proved is not said: a rule that returns nothing has not found
// the members equal.
package drift

import (
	"fmt"
	"slices"
)

// Rule that proves a difference, by its name in docs/detection.md.
type Rule string

// The rules.
const (
	RuleREV        Rule = "REV"
	RuleLIN        Rule = "LIN"
	RuleLEASE      Rule = "LEASE"
	RuleMEMBERSHIP Rule = "MEMBERSHIP"
	RuleAUTH       Rule = "AUTH"
)

// Status is what a member said of itself.
type Status struct {
	Member, Epoch      uint64
	Revision           int64
	RaftIndex, Applied uint64
	RaftTerm, Leader   uint64
	Learner            bool
}

// heard tells whether this can be an answer of an etcd: the revision of an empty
// store is 1.
func (s Status) heard() bool { return s.Epoch != 0 && s.Revision > 0 }

// follows tells whether s can be a later answer of the same incarnation as
// earlier. The raft term is left out: a member that applies a backlog shows the
// terms of its entries.
func (s Status) follows(earlier Status) bool {
	return s.heard() && s.Member == earlier.Member && s.Epoch == earlier.Epoch &&
		s.Revision >= earlier.Revision && s.RaftIndex >= earlier.RaftIndex && s.Applied >= earlier.Applied
}

// Finding is proved: the states of the members of different groups differ. Who
// of them is off is another question (judge.WhoDiffers).
type Finding struct {
	Rule    Rule
	Subject string  // LEASE: the lease, MEMBERSHIP: the listed member, in hex; otherwise empty
	Groups  []Group // two or more; the first is the one that is ahead, or has what the others lack
	Gap     int64   // REV, LIN: how many revisions the groups are apart at least
}

// Group of members that showed the same.
type Group struct {
	Members  []uint64 // ascending
	Shows    string   // in a few words, such as "has the lease"
	Revision int64    // REV, LIN: the store's, AUTH: the auth store's; otherwise 0
}

// groups puts members under what they show, in the order in which it is added.
type groups []Group

func (g *groups) add(member uint64, shows string) {
	i := slices.IndexFunc(*g, func(x Group) bool { return x.Shows == shows })
	if i < 0 {
		*g = append(*g, Group{Shows: shows})
		i = len(*g) - 1
	}
	if at, found := slices.BinarySearch((*g)[i].Members, member); !found {
		(*g)[i].Members = slices.Insert((*g)[i].Members, at, member)
	}
}

// onlyWrites tells whether each log entry after index low and up to index high
// made a revision. Then none of them granted a lease or changed the membership:
// such an entry makes none. An entry makes at most one.
//
// lowRevision was read of the member after its applied index low, so it is at
// least f(low). highRevision was read of a live member just before its raftIndex
// high, so it is at most f(high). With high-low revisions between them, there is
// one for each entry.
func onlyWrites(low uint64, lowRevision int64, high uint64, highRevision int64) bool {
	if high <= low {
		return true
	}
	if lowRevision <= 0 || highRevision <= lowRevision {
		return false
	}
	return uint64(highRevision-lowRevision) >= high-low
}

func hex(id uint64) string { return fmt.Sprintf("%x", id) }
