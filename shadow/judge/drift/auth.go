package drift

import "fmt"

// Auth applies AUTH.
//
//	authRevision of A, B, A: A equal twice and B different ⇒ divergent {A, B}
//
// Proof. AuthStatus goes through the raft log, and the member that was asked
// answers with what it holds when it applies that entry. The three entries stand
// in the log in the order of the calls, and the auth revision never falls: equal
// on A before and after, it is the same at the entry in between. B, at that entry,
// holds another. Contradiction. B is asked once more at the end, and has to hold
// to it.
//
// Each round appends four entries to the log: ask rarely, in minutes.
type Auth struct{}

// AuthRound is one round, in the order of its calls. Each begins after the answer
// to the former.
type AuthRound struct {
	A1, B1, A2, B2 AuthRead
}

// AuthRead is an answer to AuthStatus.
type AuthRead struct {
	Member, Epoch uint64
	Revision      uint64 // authRevision
}

// See takes a round.
func (Auth) See(r AuthRound) (Finding, bool) {
	if r.A1.Epoch == 0 || r.B1.Epoch == 0 || r.A1.Member == r.B1.Member ||
		r.A1 != r.A2 || r.B1 != r.B2 || r.A1.Revision == r.B1.Revision {
		return Finding{}, false
	}
	ahead, behind := r.A1, r.B1
	if ahead.Revision < behind.Revision {
		ahead, behind = behind, ahead
	}
	return Finding{Rule: RuleAUTH, Groups: []Group{ahead.group(), behind.group()}}, true
}

func (a AuthRead) group() Group {
	return Group{Members: []uint64{a.Member}, Shows: fmt.Sprintf("auth revision %d", a.Revision), Revision: int64(a.Revision)}
}
