package member

import (
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Health of a configured endpoint, for the clients' connections.
type Health uint8

// What can be said of an endpoint after its last probe. It is never remembered:
// a member that does better is Serving again with its next probe.
const (
	// Unknown: not probed yet, or the answers do not tell: an error of the member
	// itself (it refuses our user), certificates that do not fit ours (clients'
	// may), a member of another cluster or of none that can be told (kine).
	Unknown Health = iota
	// Serving, positively: a voter on the member list, with a leader, that
	// answered its last probe.
	Serving
	// Unfit for new connections: silent twice in a row, a learner, without a
	// leader, or not on the member list. So is a member whose Status goes
	// unanswered while its HTTP/2 lives: it is slow (stopping the world over a
	// defrag), and what Status waits for, clients would wait for as well.
	Unfit
	// Lost: unfit so certainly, or for so long, that open connections are to be
	// moved to a member that is Serving. What is slow is never Lost.
	Lost
)

// String names the state as the metric does.
func (h Health) String() string { return states[h] }

var states = [...]string{Unknown: "unknown", Serving: "serving", Unfit: "unfit", Lost: "lost"}

// When a member is Lost, in seconds of the Set. Each is a time and a number of
// probes: when our own process was stopped for a minute, a clock alone would say
// that every member was silent for it.
const (
	silentFor, silentProbes         = 10, 5 // that neither Status nor HTTP/2 answered
	leaderlessFor, leaderlessProbes = 5, 3  // that said so, each in a row
	absentLooks                     = 2     // at the member list, in a row
)

// state is what the last probe of a link said, and the look at the list after it.
type state struct {
	at     time.Time
	err    error
	misses int // Status unanswered, in a row
	errs   int // … or refused

	// echo is what a knock said when Status was missed twice in a row.
	echo    echo
	heard   time.Time // of the last answer of any kind; at first, of the first probe
	unheard int       // probes without one, in a row

	cluster uint64
	member  uint64
	learner bool
	// leaderless: the member answered, and knows of no leader, for so many
	// probes in a row, the first of them then.
	leaderless      int
	leaderlessSince time.Time

	seat seat
	// absences: looks in a row at which others did not know the member.
	absences int

	// local: an etcd before 3.5, whose member list is its own, not the cluster's.
	local bool
	// refused tells why shadow reads do not use this URL, if so.
	refused  string
	balancer bool // … for as long as the link lives
}

// seat of a member on the member list.
type seat uint8

const (
	unseated seat = iota // nobody can tell
	learning
	voting
)

// health judges a state. A load balancer is never Lost: the member behind our
// connection need not be the one behind the clients'.
func (st *state) health(second time.Duration) Health {
	lasted := func(since time.Time, seconds int) bool { return st.at.Sub(since) >= time.Duration(seconds)*second }
	unfit := st.learner || st.leaderless > 0 || st.absences > 0
	var lost bool
	switch {
	case st.at.IsZero():
		return Unknown
	case silent(st.err):
		unfit = unfit || st.misses > 1 && st.echo != refusal
		lost = st.unheard >= silentProbes && lasted(st.heard, silentFor)
	case st.err != nil:
		return Unknown
	default:
		lost = st.learner || st.absences >= absentLooks ||
			st.leaderless >= leaderlessProbes && lasted(st.leaderlessSince, leaderlessFor)
	}
	switch {
	case lost && !st.balancer:
		return Lost
	case unfit:
		return Unfit
	case st.err == nil && st.seat == voting:
		return Serving
	}
	return Unknown
}

// Health of a configured endpoint. It never blocks.
func (s *Set) Health(endpoint string) Health {
	s.mu.Lock()
	l := s.links[endpoint]
	s.mu.Unlock()
	if l == nil {
		return Unknown
	}
	return l.state.Load().health(s.aSecond())
}

// Reachable returns how many members, configured or found, answered their last
// probe, be it with an error of their own or with HTTP/2 alone. configured
// counts only those that clients can be relayed to.
func (s *Set) Reachable(configured bool) int {
	n := 0
	for _, l := range s.all() {
		if configured && !slices.Contains(s.Endpoints, l.url) {
			continue
		}
		if st := l.state.Load(); !st.at.IsZero() && st.unheard == 0 {
			n++
		}
	}
	return n
}

// seats notes where the members that answered this round's probe stand on the
// list. by is the member that answered the list just now, linearizably; 0 where
// it is an older list or (before 3.5) a member's own: such a list shows who is a
// voter, and never that somebody was removed.
//
// Status was asked before the list, so that a member that is being added is not
// taken for a removed one.
func seats(links []*link, cluster uint64, list []*pb.Member, by uint64) {
	for _, l := range links {
		old := l.state.Load()
		if old.err != nil || old.cluster != cluster || old.member == 0 {
			continue
		}
		next := *old
		i := slices.IndexFunc(list, func(m *pb.Member) bool { return m.GetID() == old.member })
		switch {
		case i >= 0 && list[i].GetIsLearner():
			next.seat, next.absences = learning, 0
		case i >= 0:
			next.seat, next.absences = voting, 0
		default:
			next.seat = unseated
			if by != 0 && by != old.member {
				next.absences++
			}
		}
		l.state.Store(&next)
	}
}
