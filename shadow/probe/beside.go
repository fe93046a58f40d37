package probe

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member"
)

const (
	// leasesPerInterval are compared at the full pace; of twice as many, half as
	// often, since each member sorts all its leases for an answer.
	leasesPerInterval = 10_000
	// maxLeases bounds what is kept of a member. GUARANTEE G7.
	maxLeases = 200_000
	// suspense is between two rounds while what members show differs.
	suspense = 5 * time.Second
)

// compareLeases is a round of LEASE: A, B, C, B, A, one right after the other, so
// that in the window between the readings of a pair, in either order, there is
// little room for a grant.
func (p *Probe) compareLeases(ctx context.Context, snap *member.Snapshot) {
	before := p.leases
	p.leases = map[uint64]*drift.LeaseReading{}
	members := p.members(snap, drift.RuleLEASE)
	way := slices.Clone(members)
	slices.Reverse(way)
	found := map[string]drift.Finding{}
	most, live := 0, map[uint64]bool{}
	for i, m := range append(slices.Clone(members), way...) {
		if i == len(members) || p.refuses(drift.RuleLEASE, m) { // the first on the way back has just been read
			continue
		}
		var r drift.LeaseReading
		if !p.one(ctx, m, drift.RuleLEASE, func(v visit) bool { return v.leaseReading(ctx, &r) }) {
			continue
		}
		most = max(most, len(r.Leases))
		for _, f := range p.lease.See(r) {
			found[f.Subject] = f // the last shows most members
		}
		p.leases[m.ID] = &r
		if r.Live {
			live[m.ID] = true
		}
	}
	interval := cmp.Or(p.LeaseInterval, 10*time.Second)
	if p.leasesDiffer() {
		interval = min(interval, suspense)
	}
	p.due[drift.RuleLEASE] = time.Now().Add(interval * time.Duration(1+most/leasesPerInterval))
	p.conclude(snap, drift.RuleLEASE, inOrder(found), len(live))
	p.agree(snap, drift.RuleLEASE, func(subject string, members []uint64) bool {
		return equalLease(subject, members, before, p.leases)
	})
}

func (p *Probe) leasesDiffer() bool {
	var first *drift.LeaseReading
	for _, r := range p.leases {
		if first == nil {
			first = r
		}
		if !slices.Equal(r.Leases, first.Leases) {
			return true
		}
	}
	return false
}

func (v visit) leaseReading(ctx context.Context, r *drift.LeaseReading) bool {
	before, list, after, ok := between(ctx, v, drift.RuleLEASE, (*member.Member).LeaseLeases)
	if !ok {
		return false
	}
	if len(list.GetLeases()) > maxLeases {
		v.uncover(drift.RuleLEASE, v.member, fmt.Sprintf("more than %d leases, which are too many to be compared", maxLeases))
		return false
	}
	*r = drift.LeaseReading{
		Member: v.member.ID, Epoch: after.Epoch, Live: v.live(v.member.ID, after.Epoch),
		AppliedBefore: before.Applied, Revision: after.Revision, CommittedAfter: after.RaftIndex,
	}
	for _, l := range list.GetLeases() {
		r.Leases = append(r.Leases, l.GetID())
	}
	slices.Sort(r.Leases)
	return true
}

// between two Status of a member, in one epoch, asks it something else.
func between[T any](ctx context.Context, v visit, rule drift.Rule, ask func(*member.Member, context.Context) member.Answer[T]) (before drift.Status, body T, after drift.Status, ok bool) {
	before, ok = v.status(ctx, rule)
	if !ok {
		return before, body, after, false
	}
	a, ok := call(ctx, v, rule, rule, ask)
	if !ok {
		return before, body, after, false
	}
	after, ok = v.status(ctx, rule)
	return before, a.Body, after, ok && before.Epoch == a.Epoch && after.Epoch == a.Epoch
}

func inOrder(found map[string]drift.Finding) []drift.Finding {
	var all []drift.Finding
	for _, f := range found {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b drift.Finding) int { return cmp.Compare(a.Subject, b.Subject) })
	return all
}

// conclude a round of a rule that needs two members of which it can tell.
func (p *Probe) conclude(snap *member.Snapshot, rule drift.Rule, found []drift.Finding, comparable int) {
	for _, f := range found {
		p.report(snap, f)
	}
	switch {
	case len(found) > 0:
		p.Metrics.judged(rule, divergent)
	case comparable < 2:
		p.Metrics.judged(rule, inconclusive)
	default:
		p.Metrics.judged(rule, consistent)
	}
}

// equalLease tells whether all members had a lease, or none of them, in the last
// reading of each in two rounds. That ends a finding and proves none.
func equalLease(subject string, members []uint64, before, now map[uint64]*drift.LeaseReading) bool {
	low, high := uint64(0), ^uint64(0)
	present := map[bool]bool{}
	for _, id := range members {
		a, b := before[id], now[id]
		if a == nil || b == nil || a.Epoch != b.Epoch || !a.Live {
			return false
		}
		for _, r := range []*drift.LeaseReading{a, b} {
			present[slices.ContainsFunc(r.Leases, func(id int64) bool { return member.FormatID(uint64(id)) == subject })] = true
		}
		low, high = max(low, a.CommittedAfter), min(high, b.AppliedBefore)
	}
	return len(present) == 1 && low <= high
}

// compareLists is a round of MEMBERSHIP.
func (p *Probe) compareLists(ctx context.Context, snap *member.Snapshot) {
	var top uint64
	for _, s := range p.statuses(snap) { // as of this look
		top = max(top, s.RaftIndex)
	}
	members := p.members(snap, drift.RuleMEMBERSHIP)
	answers := make([]*drift.ListReading, len(members))
	p.each(ctx, members, drift.RuleMEMBERSHIP, func(i int, v visit) { answers[i] = v.listReading(ctx) })
	var round []drift.ListReading
	comparable := 0
	for _, r := range answers {
		if r == nil {
			continue
		}
		round = append(round, *r)
		if r.Live && r.Applied >= top {
			comparable++
		}
	}
	if slices.ContainsFunc(round, func(r drift.ListReading) bool { return !slices.EqualFunc(r.List, round[0].List, alike) }) {
		p.due[drift.RuleMEMBERSHIP] = time.Now().Add(min(suspense, cmp.Or(p.MembershipInterval, suspense)))
	}
	p.conclude(snap, drift.RuleMEMBERSHIP, p.membership.See(slices.Clone(round), top), comparable)
	p.agree(snap, drift.RuleMEMBERSHIP, func(subject string, members []uint64) bool {
		return equalListed(subject, members, round, top)
	})
}

func (v visit) listReading(ctx context.Context) *drift.ListReading {
	before, list, after, ok := between(ctx, v, drift.RuleMEMBERSHIP, (*member.Member).MemberList)
	if !ok {
		return nil
	}
	r := &drift.ListReading{
		Member: v.member.ID, Epoch: after.Epoch, Live: v.live(v.member.ID, after.Epoch), Applied: before.Applied,
		Revision: after.Revision, CommittedAfter: after.RaftIndex,
	}
	for _, m := range list.GetMembers() {
		r.List = append(r.List, drift.Listed{
			ID: m.GetID(), Name: m.GetName(), Learner: m.GetIsLearner(),
			PeerURLs: slices.Sorted(slices.Values(m.GetPeerURLs())), ClientURLs: m.GetClientURLs(),
		})
	}
	slices.SortFunc(r.List, func(a, b drift.Listed) int { return cmp.Compare(a.ID, b.ID) })
	return r
}

// alike compares what MEMBERSHIP compares.
func alike(a, b drift.Listed) bool {
	return a.ID == b.ID && a.Learner == b.Learner && slices.Equal(a.PeerURLs, b.PeerURLs)
}

// equalListed tells whether members that have applied what was committed before
// the round list a member alike, or none of them does.
func equalListed(subject string, members []uint64, round []drift.ListReading, top uint64) bool {
	of := func(r drift.ListReading) []drift.Listed {
		return slices.DeleteFunc(slices.Clone(r.List), func(m drift.Listed) bool { return member.FormatID(m.ID) != subject })
	}
	var first []drift.Listed
	for n, id := range members {
		i := slices.IndexFunc(round, func(r drift.ListReading) bool { return r.Member == id })
		if i < 0 || !round[i].Live || round[i].Applied < top {
			return false
		}
		if n == 0 {
			first = of(round[i])
		} else if !slices.EqualFunc(first, of(round[i]), alike) {
			return false
		}
	}
	return true
}

// compareAuth is a round of AUTH: A, B, C, A, B, C, so that each pair is asked
// A, B, A, B.
func (p *Probe) compareAuth(ctx context.Context, snap *member.Snapshot) {
	members := p.members(snap, drift.RuleAUTH)
	if len(members) < 2 {
		p.Metrics.judged(drift.RuleAUTH, inconclusive)
		return
	}
	var reads [2][]drift.AuthRead
	for i := range reads {
		for _, m := range members {
			p.one(ctx, m, drift.RuleAUTH, func(v visit) bool {
				a, ok := call(ctx, v, drift.RuleAUTH, drift.RuleAUTH, (*member.Member).AuthStatus)
				if ok {
					reads[i] = append(reads[i], drift.AuthRead{Member: m.ID, Epoch: a.Epoch, Revision: a.Body.GetAuthRevision()})
				}
				return ok
			})
		}
	}
	// Only those that held to the same twice can be compared.
	steady := slices.DeleteFunc(reads[0], func(r drift.AuthRead) bool { return !slices.Contains(reads[1], r) })
	var pairs, found []drift.Finding
	for i, a := range steady {
		for _, b := range steady[:i] {
			if f, ok := p.auth.See(drift.AuthRound{A1: b, B1: a, A2: b, B2: a}); ok {
				pairs = append(pairs, f)
			}
		}
	}
	revision := func(id uint64) uint64 {
		i := slices.IndexFunc(steady, func(r drift.AuthRead) bool { return r.Member == id })
		if i < 0 {
			return 0
		}
		return steady[i].Revision
	}
	if len(pairs) > 0 {
		found = append(found, group(pairs, snap.Listed, func(a, b uint64) bool { return revision(a) != 0 && revision(a) == revision(b) }))
	}
	p.conclude(snap, drift.RuleAUTH, found, len(steady))
	p.agree(snap, drift.RuleAUTH, func(_ string, members []uint64) bool {
		return !slices.ContainsFunc(members, func(id uint64) bool { return revision(id) == 0 || revision(id) != revision(members[0]) })
	})
}
