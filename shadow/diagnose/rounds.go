package diagnose

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member"
)

const (
	betweenBursts = 100 * time.Millisecond
	betweenRounds = 2 * time.Second // of LIN, LEASE and MEMBERSHIP
	laps          = 4               // of a burst
)

// rounds watches what members say of themselves, until the duration is over.
func (r *run) rounds(ctx context.Context) {
	end := time.Now().Add(r.Duration)
	for round := time.Now(); ctx.Err() == nil; {
		r.burst(ctx)
		if now := time.Now(); !now.Before(round) {
			round = now.Add(betweenRounds)
			r.linRound(ctx)
			r.leaseRound(ctx)
			r.listRound(ctx)
		}
		if !time.Now().Before(end) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(betweenBursts):
		}
	}
}

// burst asks A, B, B back to back, around the members and back: a gap of g shows when fewer than g writes come between.
func (r *run) burst(ctx context.Context) {
	members := r.able()
	for range laps {
		for _, m := range members {
			for range 2 {
				if _, ok := r.status(ctx, m); !ok {
					break
				}
				r.facts.Samples++
			}
		}
		slices.Reverse(members)
	}
	doubts := r.doubts
	r.doubts = map[[2]uint64]drift.Suspicion{}
	for pair, x := range doubts {
		p := r.Members()
		a, b := p.Member(pair[0]), p.Member(pair[1])
		if a == nil || b == nil {
			continue
		}
		sa, okA := r.status(ctx, a)
		sb, okB := r.status(ctx, b)
		if !okA || !okB {
			continue
		}
		if f, ok := r.rev.Confirm(x, sa, sb); ok {
			r.differ(f)
		}
	}
}

// see gives a Status to REV, and notes what else it shows.
func (r *run) see(s drift.Status) {
	if before, known := r.last[s.Member]; known && before.Epoch != s.Epoch {
		r.facts.forget(ID(s.Member))
	}
	for _, x := range r.rev.See(s) {
		r.doubts[[2]uint64{x.Ahead, x.Behind}] = x
	}
	if r.rev.Live(s.Member, s.Epoch) {
		r.facts.member(ID(s.Member)).Live = true
		r.points.settle(s.Member, s.Epoch)
	}
	r.slack(s)
	r.highest = max(r.highest, s.RaftIndex)
	r.points.see(r.last[s.Member], s)
	r.last[s.Member] = s
}

// slack notes how sharp REV's look at this Status was: see Pair.
func (r *run) slack(s drift.Status) {
	before := r.last[s.Member]
	if before.Epoch != s.Epoch {
		return
	}
	for _, a := range r.last {
		if a.Member != s.Member && r.rev.Live(a.Member, a.Epoch) && before.Applied >= a.RaftIndex {
			sharpen(&r.facts.pair(ID(a.Member), ID(s.Member)).RevSlack, s.Revision-a.Revision)
		}
	}
}

func sharpen(slack **int64, by int64) {
	if by >= 0 && (*slack == nil || by < **slack) {
		*slack = &by
	}
}

// differ keeps a proved pair of REV or LIN. Who is equal to whom is learned from what is seen from now on.
func (r *run) differ(f drift.Finding) {
	if len(r.apart) == 0 {
		r.points.forget()
	}
	pair := [2]uint64{f.Groups[0].Members[0], f.Groups[1].Members[0]}
	if was, known := r.apart[pair]; !known || was.Rule != drift.RuleREV || f.Rule == drift.RuleREV {
		r.apart[pair] = f
	}
}

// linRound is a round of LIN with every pair of voters.
func (r *run) linRound(ctx context.Context) {
	members := slices.DeleteFunc(r.able(), func(m *member.Member) bool { return m.Learner })
	for _, b := range members {
		for _, a := range members {
			if a.ID == b.ID || ctx.Err() != nil {
				continue
			}
			if !r.linPair(ctx, a, b) {
				break // b would let the next ones wait, too
			}
		}
	}
}

// linPair tells whether b answered its read.
func (r *run) linPair(ctx context.Context, a, b *member.Member) bool {
	a1, ok := r.status(ctx, a)
	if !ok {
		return true
	}
	body, epoch, err := asked(ctx, b, patience, (*member.Member).ReadIndex)
	if err != nil {
		r.refused(ctx, b, "linearizable read", err)
		return false
	}
	r.points.settle(b.ID, epoch)
	a2, ok := r.status(ctx, a)
	if !ok {
		return true
	}
	h, now := body.GetHeader(), time.Now()
	pair := r.facts.pair(ID(a.ID), ID(b.ID))
	pair.count(now)
	if h.GetRevision() < a1.Revision {
		pair.Behind++
	} else {
		pair.Behind = 0
		sharpen(&pair.LinSlack, h.GetRevision()-a1.Revision)
	}
	round := drift.LinRound{A1: a1, A2: a2, At: now, B: drift.LinRead{Member: b.ID, Epoch: epoch, Revision: h.GetRevision(), RaftTerm: h.GetRaftTerm()}}
	if f, proved := r.lin.See(round); proved {
		r.differ(f)
	}
	return true
}

// forget what was known of a member's revision and leases: it is another incarnation now.
func (f *Facts) forget(id ID) {
	f.LeaseEqual, f.member(id).Live = false, false
	for i, p := range f.Pairs {
		if p.A == id || p.B == id {
			f.Pairs[i] = Pair{A: p.A, B: p.B}
		}
	}
}

func (f *Facts) pair(a, b ID) *Pair {
	i := slices.IndexFunc(f.Pairs, func(p Pair) bool { return p.A == a && p.B == b })
	if i < 0 {
		i = len(f.Pairs)
		f.Pairs = append(f.Pairs, Pair{A: a, B: b})
	}
	return &f.Pairs[i]
}

func (p *Pair) count(now time.Time) {
	if p.Rounds == 0 {
		p.first = now
	}
	p.Rounds++
	p.Seconds = now.Sub(p.first).Seconds()
}

// leaseRound reads the leases of all members, in turn up and down (see drift.Lease).
func (r *run) leaseRound(ctx context.Context) {
	members := r.able()
	if r.reverse {
		slices.Reverse(members)
	}
	r.reverse = !r.reverse
	var sets [][]int64
	voters := 0
	for _, m := range members {
		if !m.Learner {
			voters++
		}
		before, ok := r.status(ctx, m)
		if !ok || before.Learner { // who refuses it
			continue
		}
		body, epoch, err := asked(ctx, m, patience, (*member.Member).LeaseLeases)
		if err != nil {
			r.refused(ctx, m, "leases", err)
			continue
		}
		after, ok := r.status(ctx, m)
		if !ok || after.Epoch != epoch || before.Epoch != epoch {
			continue
		}
		reading := drift.LeaseReading{
			Member: m.ID, Epoch: epoch, Live: r.rev.Live(m.ID, epoch), AppliedBefore: before.Applied, CommittedAfter: after.RaftIndex, Revision: after.Revision,
		}
		for _, l := range body.GetLeases() {
			reading.Leases = append(reading.Leases, l.GetID())
		}
		n := len(reading.Leases)
		r.facts.member(ID(m.ID)).Leases = &n
		slices.Sort(reading.Leases)
		sets = append(sets, slices.Clone(reading.Leases))
		r.facts.LeaseReads++
		r.found(r.leases.See(reading))
	}
	if len(sets) == voters && len(sets) > 1 && !slices.ContainsFunc(sets, func(s []int64) bool { return !slices.Equal(s, sets[0]) }) {
		r.facts.LeaseEqual = true
	}
}

// listRound reads every member's own member list.
func (r *run) listRound(ctx context.Context) {
	highest := r.highest
	r.highest = 0
	var round []drift.ListReading
	for _, m := range r.able() {
		before, ok := r.status(ctx, m)
		if !ok || before.Learner {
			continue
		}
		body, epoch, err := asked(ctx, m, patience, (*member.Member).MemberList)
		if err != nil {
			r.refused(ctx, m, "member list", err)
			continue
		}
		after, ok := r.status(ctx, m)
		if !ok || after.Epoch != epoch || before.Epoch != epoch {
			continue
		}
		reading := drift.ListReading{Member: m.ID, Epoch: epoch, Live: r.rev.Live(m.ID, epoch), Applied: before.Applied, Revision: after.Revision, CommittedAfter: after.RaftIndex}
		known := r.facts.member(ID(m.ID))
		known.Lists = nil
		for _, l := range body.GetMembers() {
			reading.List = append(reading.List, drift.Listed{ID: l.GetID(), Name: l.GetName(), Learner: l.GetIsLearner(), PeerURLs: l.GetPeerURLs(), ClientURLs: l.GetClientURLs()})
			known.Lists = append(known.Lists, Listed{ID: ID(l.GetID()), Name: l.GetName(), Learner: l.GetIsLearner()})
		}
		slices.SortFunc(known.Lists, func(a, b Listed) int { return cmp.Compare(a.ID, b.ID) })
		round = append(round, reading)
	}
	r.facts.ListRounds++
	r.found(r.lists.See(round, highest))
}

// found keeps findings, each subject once.
func (r *run) found(findings []drift.Finding) {
	for _, f := range findings {
		x := foundOf(f)
		i := slices.IndexFunc(r.facts.Found, func(o Found) bool { return o.Rule == x.Rule && o.Subject == x.Subject })
		if i < 0 {
			r.facts.Found = append(r.facts.Found, x)
		} else {
			r.facts.Found[i] = x
		}
	}
}

func foundOf(f drift.Finding) Found {
	x := Found{Rule: string(f.Rule), Subject: f.Subject, Gap: f.Gap}
	for _, g := range f.Groups {
		x.Groups = append(x.Groups, Group{Members: ids(g.Members), Shows: g.Shows, Revision: g.Revision})
	}
	return x
}

func ids(members []uint64) []ID {
	var all []ID
	for _, m := range members {
		all = append(all, ID(m))
	}
	return all
}
