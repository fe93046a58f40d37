package probe

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// While revisions move, a look is a burst: Status after Status of every member, of
// all members at once, until each pair was seen to be equal after one and the same
// log index. Each pair is so asked A, B, B in both directions, with as few writes in
// between as there can be; one that differs by a single revision shows it at the
// first such index. Where writes are few that takes three or four Status of each.
const (
	burstStep = 3
	burstMost = 24 // Status of a member in one look, where writes come faster than answers
	burstTime = 300 * time.Millisecond
	// fresh is how long it counts that two members were seen to be equal.
	fresh = 10 * time.Second
)

// revisions is a round of REV.
func (p *Probe) revisions(ctx context.Context, snap *member.Snapshot) {
	began := time.Now()
	p.again(ctx, snap.Members, 1)
	equal := p.equal(snap, began)
	for n, most := 0, p.worth(snap, began); n < most && !equal && !p.doubtful() && time.Since(began) < burstTime; n += burstStep {
		p.again(ctx, snap.Members, burstStep)
		equal = p.equal(snap, began)
	}
	switch found, doubted := p.confirm(ctx, snap); {
	case len(found) > 0:
		p.again(ctx, snap.Members, burstStep) // who of the others is equal to whom?
		p.report(snap, p.grouped(snap, found))
		p.Metrics.judged(drift.RuleREV, divergent)
	case doubted || !equal:
		p.Metrics.judged(drift.RuleREV, inconclusive)
	default:
		p.Metrics.judged(drift.RuleREV, consistent)
	}
}

// again asks each member for n Status.
func (p *Probe) again(ctx context.Context, members []*member.Member, n int) {
	p.each(ctx, members, drift.RuleREV, func(_ int, v visit) {
		for range n {
			if _, ok := v.status(ctx, drift.RuleREV); !ok || v.resting(drift.RuleREV, v.member) {
				return
			}
		}
	})
}

// statuses are the last of the members.
func (p *Probe) statuses(snap *member.Snapshot) []drift.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []drift.Status
	for _, m := range snap.Members {
		if s, ok := p.latest[m.ID]; ok && s.Epoch == m.Epoch() {
			all = append(all, s)
		}
	}
	return all
}

// worth is how many more Status a burst may take of a member: none where nothing
// moves and all show the same, and few where nothing moves.
func (p *Probe) worth(snap *member.Snapshot, since time.Time) int {
	all := p.statuses(snap)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.moved.Before(since):
		return burstMost
	case slices.ContainsFunc(all, func(s drift.Status) bool { return s.Revision != all[0].Revision }):
		return burstStep
	}
	return 0
}

func (p *Probe) doubtful() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.doubts) > 0
}

// equal tells whether all members were seen to be equal since then, but those that
// do not answer, and those of which nobody can tell; two at least.
func (p *Probe) equal(snap *member.Snapshot, since time.Time) bool {
	all := p.statuses(snap)
	p.mu.Lock()
	defer p.mu.Unlock()
	all = slices.DeleteFunc(all, func(s drift.Status) bool {
		return p.seen[s.Member].Before(since) || !p.knows(s)
	})
	for i, a := range all {
		for _, b := range all[:i] {
			if _, same := p.points.same(a.Member, b.Member, since); !same {
				return false
			}
		}
	}
	return len(all) >= 2
}

// knows tells whether the member knows what is committed of what it holds. With
// the lock held.
func (p *Probe) knows(s drift.Status) bool {
	return p.rev.Live(s.Member, s.Epoch) || p.settled[s.Member] == s.Epoch
}

// confirm asks both sides of every suspicion once more. doubted: some suspicion
// came to nothing.
func (p *Probe) confirm(ctx context.Context, snap *member.Snapshot) (found []drift.Finding, doubted bool) {
	p.mu.Lock()
	doubts := p.doubts
	p.doubts = map[pair]drift.Suspicion{}
	p.mu.Unlock()
	if len(doubts) == 0 {
		return nil, false
	}
	involved := slices.DeleteFunc(slices.Clone(snap.Members), func(m *member.Member) bool {
		for q := range doubts {
			if m.ID == q.ahead || m.ID == q.behind {
				return false
			}
		}
		return true
	})
	again := make([]*drift.Status, len(involved))
	p.each(ctx, involved, drift.RuleREV, func(i int, v visit) {
		if s, ok := v.status(ctx, drift.RuleREV); ok {
			again[i] = &s
		}
	})
	of := map[uint64]drift.Status{}
	for _, s := range again {
		if s != nil {
			of[s.Member] = *s
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for q, x := range doubts {
		a, heardA := of[q.ahead]
		b, heardB := of[q.behind]
		f, ok := drift.Finding{}, false
		if heardA && heardB {
			f, ok = p.rev.Confirm(x, a, b)
		}
		if ok {
			found = append(found, f)
		}
		doubted = doubted || !ok
	}
	// The widest gap first; the order must not be a map's.
	slices.SortFunc(found, func(a, b drift.Finding) int {
		return cmp.Or(cmp.Compare(b.Gap, a.Gap), slices.Compare(a.Groups[0].Members, b.Groups[0].Members), slices.Compare(a.Groups[1].Members, b.Groups[1].Members))
	})
	return found, doubted
}

// settle has every voter answer one linearizable read in each epoch: that shows
// whether it may be asked, and from then on it is known what is committed of what
// it holds, also where nobody writes.
func (p *Probe) settle(ctx context.Context, snap *member.Snapshot) {
	open := slices.DeleteFunc(p.readable(snap), func(m *member.Member) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.settled[m.ID] == m.Epoch()
	})
	p.each(ctx, open, drift.RuleLIN, func(_ int, v visit) { v.readIndex(ctx) })
}

// readable are the members that can answer a linearizable read: one without a
// leader would only wait for it.
func (p *Probe) readable(snap *member.Snapshot) []*member.Member {
	members := p.members(snap, drift.RuleLIN)
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(members, func(m *member.Member) bool { return p.latest[m.ID].Leader == 0 })
}

// readIndexes is a round of LIN with every pair that shows different revisions
// while the cluster is idle. REV sees them as well if they are live; LIN also
// where nobody has written since Parallax, or the member, started. Who is suspect
// stays it until a round speaks for it.
func (p *Probe) readIndexes(ctx context.Context, snap *member.Snapshot) {
	if p.idle() {
		p.suspect(snap)
	}
	readable := p.readable(snap)
	for q := range p.suspects {
		if b := snap.Member(q.behind); slices.Contains(readable, b) {
			p.readIndexesOf(ctx, snap, snap.Member(q.ahead), b)
		}
	}
}

// suspect whoever shows less than the one that shows most.
func (p *Probe) suspect(snap *member.Snapshot) {
	var top drift.Status
	all := slices.DeleteFunc(p.statuses(snap), func(s drift.Status) bool { return s.Learner })
	for _, s := range all {
		if s.Revision > top.Revision {
			top = s
		}
	}
	for _, s := range all {
		if s.Revision < top.Revision {
			p.suspects[pair{top.Member, s.Member}] = true
		}
	}
}

func (p *Probe) readIndexesOf(ctx context.Context, snap *member.Snapshot, a, b *member.Member) {
	var round drift.LinRound
	status := func(to *drift.Status) func(visit) bool {
		return func(v visit) (ok bool) {
			*to, ok = v.status(ctx, drift.RuleLIN)
			return ok
		}
	}
	read := func(v visit) (ok bool) {
		round.B, ok = v.readIndex(ctx)
		return ok
	}
	if !p.one(ctx, a, drift.RuleLIN, status(&round.A1)) || !p.one(ctx, b, drift.RuleLIN, read) || !p.one(ctx, a, drift.RuleLIN, status(&round.A2)) {
		p.Metrics.judged(drift.RuleLIN, inconclusive)
		return
	}
	round.At = time.Now()
	if p.clock != nil {
		round.At = p.clock()
	}
	f, ok := p.lin.See(round)
	switch {
	case ok:
		p.Metrics.judged(drift.RuleLIN, divergent)
		p.report(snap, p.grouped(snap, []drift.Finding{f}))
	case round.B.Revision < round.A1.Revision:
		p.Metrics.judged(drift.RuleLIN, inconclusive) // until it has lasted
	default:
		p.Metrics.judged(drift.RuleLIN, consistent)
		delete(p.suspects, pair{a.ID, b.ID})
	}
}
