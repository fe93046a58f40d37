package drift

import (
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

// task is a conversation with a member, in steps between which the world moves on.
// A member has one at a time. It fails when the member dies, or another one that
// takes part in it.
type task struct {
	steps  []func() progress
	fail   func()
	epochs map[*replica]uint64
}

type progress int

const (
	next progress = iota
	wait
	abort
)

// prober asks the cluster as Parallax does, and gives what it hears to the rules,
// in the order in which it hears it.
type prober struct {
	*cluster
	*dice
	now time.Time

	rev        Rev
	lin        Lin
	lease      Lease
	membership Membership
	auth       Auth

	heard   int // Status so far
	doubts  []*doubt
	highest map[uint64]Status
	round   []ListReading
	above   uint64       // the highest raftIndex before the round
	inRound int          // members that have not answered in it
	stale   map[pair]int // stale ReadIndex answers in a row

	pin   []func()
	found []Finding
	diffs []judge.Diff
}

// doubt is a suspicion for which both sides are being asked once more.
type doubt struct {
	x     Suspicion
	since int
	a, b  *Status
}

func newProber(c *cluster, d *dice) *prober {
	return &prober{cluster: c, dice: d, now: time.Unix(0, 0), highest: make(map[uint64]Status), stale: make(map[pair]int)}
}

// begin a task of r, in which others may take part.
func (p *prober) begin(r *replica, fail func(), others []*replica, steps ...func() progress) {
	t := &task{steps: steps, fail: fail, epochs: map[*replica]uint64{r: r.epoch}}
	for _, o := range others {
		t.epochs[o] = o.epoch
	}
	r.task = t
}

// advance the task of r by one step.
func (p *prober) advance(r *replica) {
	t := r.task
	if t == nil {
		return
	}
	state := next
	for o, epoch := range t.epochs {
		if !o.up || o.epoch != epoch {
			state = abort
		}
	}
	if state == next {
		state = t.steps[0]()
	}
	switch state {
	case abort:
		r.task = nil
		t.fail()
	case next:
		if t.steps = t.steps[1:]; len(t.steps) == 0 {
			r.task = nil
		}
	}
}

func do(f func()) func() progress { return func() progress { f(); return next } }

// status reads the three fields one after the other, and delivers them.
func (p *prober) status(r *replica, s *Status) []func() progress {
	var began int
	return []func() progress{
		do(func() {
			began = p.heard
			*s = Status{Member: r.id, Epoch: r.epoch, Leader: 1, RaftTerm: 2, Learner: r.learner, Revision: r.state.rev}
		}),
		do(func() { s.RaftIndex = r.committed }),
		do(func() { s.Applied = r.applied }),
		do(func() { p.hear(*s, began) }),
	}
}

// hear a Status that was asked for when began were heard.
func (p *prober) hear(s Status, began int) {
	p.heard++
	p.highest[s.Member] = s
	for _, d := range p.doubts {
		switch {
		case began < d.since:
		case d.a == nil && s.Member == d.x.Ahead:
			d.a = &s
		case d.b == nil && s.Member == d.x.Behind:
			d.b = &s
		}
	}
	for _, x := range p.rev.See(s) {
		if len(p.doubts) < 20 {
			p.doubts = append(p.doubts, &doubt{x: x, since: p.heard})
		}
	}
	p.doubts = slices.DeleteFunc(p.doubts, func(d *doubt) bool {
		if d.a == nil || d.b == nil {
			return false
		}
		p.take(p.rev.Confirm(d.x, *d.a, *d.b))
		return true
	})
}

func (p *prober) take(f Finding, ok bool) {
	if ok {
		p.found = append(p.found, f)
	}
}

// ask one thing of r. With other, also that one takes part where a rule needs two.
func (p *prober) ask(what int, r, other *replica) {
	switch what {
	case 0:
		p.begin(r, func() {}, nil, p.status(r, new(Status))...)
	case 1: // a burst
		p.begin(r, func() {}, nil, append(p.status(r, new(Status)), p.status(r, new(Status))...)...)
	case 2:
		p.askLeases(r)
	case 3:
		p.askLists()
	case 4:
		if other != r && !other.learner && other.up {
			p.askLin(r, other)
		}
	case 5:
		if other != r && other.up {
			p.askAuth(r, other)
		}
	}
}

func (p *prober) askLeases(r *replica) {
	var before, after Status
	var leases []int64
	steps := append(p.status(r, &before), do(func() { leases = r.state.granted() }))
	steps = append(append(steps, p.status(r, &after)...), do(func() {
		p.found = append(p.found, p.lease.See(LeaseReading{
			Member: r.id, Epoch: r.epoch, Live: p.rev.Live(r.id, r.epoch), AppliedBefore: before.Applied,
			Leases: leases, Revision: after.Revision, CommittedAfter: after.RaftIndex,
		})...)
	}))
	p.begin(r, func() {}, nil, steps...)
}

// askLists begins a round, in which the members are asked at once.
func (p *prober) askLists() {
	if p.inRound > 0 {
		return
	}
	p.round, p.above = nil, 0
	for _, r := range p.replicas {
		if s := p.highest[r.id]; s.Epoch == r.epoch {
			p.above = max(p.above, s.RaftIndex)
		}
	}
	for _, r := range p.replicas {
		if !r.up || r.task != nil {
			continue
		}
		p.inRound++
		var before, after Status
		var listed []Listed
		steps := append(p.status(r, &before), do(func() { listed = r.list.listed() }))
		steps = append(append(steps, p.status(r, &after)...), do(func() {
			p.round = append(p.round, ListReading{
				Member: r.id, Epoch: r.epoch, Live: p.rev.Live(r.id, r.epoch), Applied: before.Applied,
				List: listed, Revision: after.Revision, CommittedAfter: after.RaftIndex,
			})
			p.endRound()
		}))
		p.begin(r, p.endRound, nil, steps...)
	}
}

func (p *prober) endRound() {
	if p.inRound--; p.inRound == 0 {
		p.found = append(p.found, p.membership.See(p.round, p.above)...)
	}
}

// askLin: a Status, a linearizable read of the other, a Status.
func (p *prober) askLin(r, other *replica) {
	var round LinRound
	var readIndex uint64
	who, stale := pair{r.id, other.id}, false
	steps := append(p.status(r, &round.A1), do(func() {
		readIndex = uint64(len(p.log))
		// #20418: a stale answer happens, and passes.
		stale = p.stale[who] < linRounds-1 && p.IntN(2) == 0
		if stale {
			readIndex = 0
			p.stale[who]++
		}
	}), func() progress {
		if other.applied < readIndex {
			return wait
		}
		round.B = LinRead{Member: other.id, Epoch: other.epoch, Revision: other.state.rev, RaftTerm: 2}
		return next
	})
	steps = append(append(steps, p.status(r, &round.A2)...), do(func() {
		if !stale {
			p.stale[who] = 0
		}
		round.At = p.now
		p.take(p.lin.See(round))
	}))
	p.begin(r, func() {}, []*replica{other}, steps...)
}

// askAuth of r, the other, r, the other: each answers from the entry that it proposed.
func (p *prober) askAuth(r, other *replica) {
	var round AuthRound
	var steps []func() progress
	for i, read := range []*AuthRead{&round.A1, &round.B1, &round.A2, &round.B2} {
		who := []*replica{r, other}[i%2]
		var index uint64
		answered := false
		steps = append(steps, do(func() {
			index = p.propose(entry{kind: empty})
			who.replies[index] = func(s state) {
				*read = AuthRead{Member: who.id, Epoch: who.epoch, Revision: s.auth}
				answered = true
			}
		}), func() progress {
			switch {
			case answered:
				return next
			case who.position >= index: // a snapshot went over it
				return abort
			}
			return wait
		})
	}
	steps = append(steps, do(func() { p.take(p.auth.See(round)) }))
	p.begin(r, func() {}, []*replica{other}, steps...)
}

// askPIN reads everything of all members at one revision, twice, one after the
// other.
func (p *prober) askPIN(revision int64) {
	rounds := make([][]judge.Answer, 2)
	for i := range rounds {
		for _, r := range p.replicas {
			p.pin = append(p.pin, func() { rounds[i] = append(rounds[i], r.pinned(revision)) })
		}
	}
	p.pin = append(p.pin, func() {
		p.diffs = append(p.diffs, judge.PIN(question(revision), rounds[0], rounds[1]).Diffs...)
	})
}

func question(revision int64) judge.Question {
	return judge.Question{Key: []byte("a"), End: []byte("z"), Revision: revision}
}

func (r *replica) pinned(revision int64) judge.Answer {
	if !r.up {
		return judge.Answer{Member: r.id, Kind: judge.Unreachable}
	}
	a := r.state.at(revision)
	a.Member, a.Epoch = r.id, r.epoch
	return a
}
