package probe

import (
	"fmt"
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/evidence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// told is what was reported of a subject.
type told struct {
	groups string
	at     time.Time
}

// repeat is after how long a finding that lasts is reported again, for its growth.
const repeat = 10 * time.Second

// report a finding to the log: at once when it is new or its groups are others.
func (p *Probe) report(snap *member.Snapshot, f drift.Finding) {
	now := time.Now()
	subject, groups := subjectOf(f.Rule, f.Subject), ""
	for _, g := range f.Groups {
		groups += fmt.Sprint(g.Members)
	}
	if last, ok := p.told[subject]; ok && last.groups == groups && now.Sub(last.at) < repeat {
		return
	}
	p.told[subject] = told{groups, now}
	for s, last := range p.told {
		if now.Sub(last.at) > 2*repeat {
			delete(p.told, s)
		}
	}
	basis, differs := whoDiffers(f.Groups, snap.Voters)
	e := divergence.ClusterEvidence{
		Cluster: snap.Cluster, Rule: string(f.Rule), Subject: f.Subject, Gap: f.Gap,
		Basis: basis, Differs: evidence.Named(snap, differs), Members: evidence.Named(snap, snap.Listed), At: now,
	}
	for _, g := range f.Groups {
		e.Groups = append(e.Groups, divergence.ClusterGroup{Members: evidence.Named(snap, g.Members), Shows: g.Shows, Revision: g.Revision})
	}
	p.Log.ConfirmCluster(e)
}

// subjectOf a finding. REV and LIN see one and the same, but word it differently.
func subjectOf(rule drift.Rule, subject string) string { return string(rule) + " " + subject }

// whoDiffers names those that are not in the group that has a quorum of the
// voters. A rule proves only that the groups differ; without such a group, as in
// every cluster of two, nobody is named. GUARANTEE G3.
func whoDiffers(groups []drift.Group, voters []uint64) (divergence.Basis, []uint64) {
	d := judge.Diff{}
	for _, g := range groups {
		d.Groups = append(d.Groups, judge.Group{Members: g.Members})
	}
	basis, differs := judge.WhoDiffers(d, voters)
	return divergence.Basis(basis), differs
}

// grouped makes one finding of pairs that differ, the widest first: whoever was
// seen to be equal to a side of it stands on that side, and who differs from all
// sides on one of their own.
func (p *Probe) grouped(snap *member.Snapshot, pairs []drift.Finding) drift.Finding {
	since := time.Now().Add(-fresh)
	p.mu.Lock()
	defer p.mu.Unlock()
	same := func(a, b uint64) bool {
		_, yes := p.points.same(a, b, since)
		return yes && p.here(snap, a) && p.here(snap, b)
	}
	return group(pairs, snap.Listed, same)
}

// here tells whether what is known of a member was shown on its connection of
// now. With the lock held.
func (p *Probe) here(snap *member.Snapshot, id uint64) bool {
	m, t := snap.Member(id), p.points[id]
	return m != nil && t != nil && t.last.Epoch == m.Epoch()
}

// group is what grouped does, as a pure function. Where equalities and
// differences contradict each other, the differences hold: they are proved of now.
func group(pairs []drift.Finding, members []uint64, same func(a, b uint64) bool) drift.Finding {
	differ := func(a, b uint64) bool {
		return slices.ContainsFunc(pairs, func(f drift.Finding) bool {
			x, y := f.Groups[0].Members[0], f.Groups[1].Members[0]
			return x == a && y == b || x == b && y == a
		})
	}
	f := pairs[0]
	f.Groups = slices.Clone(f.Groups)
	for _, other := range pairs[1:] {
		for _, side := range other.Groups {
			id := side.Members[0]
			if !slices.ContainsFunc(f.Groups, func(g drift.Group) bool { return !differ(id, g.Members[0]) }) {
				f.Groups = append(f.Groups, side)
			}
		}
	}
	sides := slices.Clone(f.Groups)
	for _, id := range members {
		var equal []int // to the sides
		for i, g := range sides {
			if first := g.Members[0]; id != first && same(id, first) && !differ(id, first) {
				equal = append(equal, i)
			}
		}
		first := func(g drift.Group) bool { return g.Members[0] == id }
		if len(equal) == 1 && !slices.ContainsFunc(sides, first) {
			g := &f.Groups[equal[0]]
			g.Members = append(slices.Clone(g.Members), id)
			slices.Sort(g.Members)
		}
	}
	return f
}

// agreeRevisions tells the log which members are equal by revision, for the
// findings of REV and LIN that wait for it.
func (p *Probe) agreeRevisions(snap *member.Snapshot) {
	for _, o := range p.Log.OpenCluster() {
		if r := drift.Rule(o.Rule); o.Cluster != snap.Cluster || len(o.Members) == 0 || r != drift.RuleREV && r != drift.RuleLIN {
			continue
		}
		since := time.Now().Add(-fresh)
		oldest, equal := time.Now(), true
		p.mu.Lock()
		for i, id := range o.Members {
			for _, other := range o.Members[:i] {
				at, same := p.points.same(id, other, since)
				equal = equal && same
				if at.Before(oldest) {
					oldest = at
				}
			}
			equal = equal && p.here(snap, id)
		}
		p.mu.Unlock()
		if equal {
			p.agreed(o, oldest)
		}
	}
}

// agree tells the log that members are equal in something, where a finding waits
// for it.
func (p *Probe) agree(snap *member.Snapshot, rule drift.Rule, equal func(subject string, members []uint64) bool) {
	for _, o := range p.Log.OpenCluster() {
		if o.Cluster == snap.Cluster && drift.Rule(o.Rule) == rule && len(o.Members) > 0 && equal(o.Subject, o.Members) {
			p.agreed(o, time.Now())
		}
	}
}

// agreed tells the log that a finding is over, as of then. If it comes back, that
// is news.
func (p *Probe) agreed(o divergence.OpenCluster, at time.Time) {
	p.Log.AgreeCluster(o.Cluster, o.Rule, o.Subject, o.Members, at)
	for _, rule := range rules {
		delete(p.told, subjectOf(rule, o.Subject))
	}
}
