// Package probe asks every member, in the background, for what the keys of
// clients cannot show: whether revisions run apart (REV, LIN), and whether
// leases, the member lists or the auth revision differ (LEASE, MEMBERSHIP, AUTH).
// The rules are those of docs/detection.md and judge in shadow/judge/drift; here
// is who is asked when, and what is made of it.
package probe

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// Probe of the members. Its fields are set before Run and not changed after.
type Probe struct {
	Members *member.Set
	Log     *divergence.Log
	Metrics *Metrics     // nil: none
	Logger  *slog.Logger // nil: silent
	// Guard runs what the probe does, so that a panic stays in it (GUARANTEE G2);
	// nil: runs it as it is.
	Guard  func(func())
	Paused func() bool // stops all calls from the next one on; nil: never
	// Alarm is told once of an alarm (CORRUPT, NOSPACE) that is raised for a
	// member. It must not block. nil: nobody is told.
	Alarm func(member uint64, alarm string)

	Interval           time.Duration // between two looks while revisions move; 0 is 1 s
	IdleInterval       time.Duration // … and while none does; 0 is 3 s
	LeaseInterval      time.Duration // between two comparisons of leases; 0 is 10 s; longer with many leases
	MembershipInterval time.Duration // … of member lists; 0 is 30 s; shorter while they differ
	AuthInterval       time.Duration // … of auth revisions, which cost a log entry for each member; 0: never

	once  sync.Once
	now   chan Reason
	clock func() time.Time // for LIN; nil is time.Now, tests hasten

	// Of Run's goroutine alone.
	lin        drift.Lin
	suspects   map[pair]bool // of LIN
	lease      drift.Lease
	leases     map[uint64]*drift.LeaseReading // the last of each member
	membership drift.Membership
	auth       drift.Auth
	due        map[drift.Rule]time.Time
	told       map[string]told // what was reported, and when

	mu       sync.Mutex // guards what follows: members are asked at once
	rev      drift.Rev
	doubts   map[pair]drift.Suspicion // of REV, not confirmed yet
	latest   map[uint64]drift.Status
	seen     map[uint64]time.Time // … when
	moved    time.Time            // a revision was seen to change
	points   points
	settled  map[uint64]uint64 // member → the epoch in which it answered a linearizable read
	rests    map[seat]rest
	coverage map[seat]*cover
	alarms   map[alarm]map[uint64]bool // → members that report it
}

// pair of members: one that is ahead, or may be, and one that is behind.
type pair struct{ ahead, behind uint64 }

// seat is a rule at a member.
type seat struct {
	rule   drift.Rule
	member uint64
}

// Reason for a look at the members.
type Reason string

// The reasons.
const (
	OnInterval     Reason = "interval"
	FutureRevision Reason = "future-revision" // a member did not apply a revision within the lag budget
	RefusedWrite   Reason = "refused-write"   // a write txn was refused (etcd #18667)
)

const (
	callTimeout  = time.Second
	turnPatience = time.Second // for the other requests of the shadow at a member
	// breather lies between a look and one that is asked for: a client that sends
	// nothing but transactions that are refused must not set the pace.
	breather = 500 * time.Millisecond
	// calm is how long no revision changed when the cluster counts as idle.
	calm = 5 * time.Second
)

func (p *Probe) prepare() {
	p.once.Do(func() {
		p.now = make(chan Reason, 1)
		p.suspects = map[pair]bool{}
		p.leases = map[uint64]*drift.LeaseReading{}
		p.due = map[drift.Rule]time.Time{}
		p.told = map[string]told{}
		p.doubts = map[pair]drift.Suspicion{}
		p.latest = map[uint64]drift.Status{}
		p.seen = map[uint64]time.Time{}
		p.points = points{}
		p.settled = map[uint64]uint64{}
		p.rests = map[seat]rest{}
		p.coverage = map[seat]*cover{}
		p.alarms = map[alarm]map[uint64]bool{}
	})
}

// Now asks for a look at once. GUARANTEE G2: it never blocks; while a look is
// asked for already, that one does.
func (p *Probe) Now(why Reason) {
	p.prepare()
	select {
	case p.now <- why:
	default:
	}
}

// Run until ctx ends.
func (p *Probe) Run(ctx context.Context) error {
	p.prepare()
	select {
	case <-ctx.Done():
		return nil
	case <-p.Members.Known():
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		why := OnInterval
		select {
		case <-ctx.Done():
			return nil
		case why = <-p.now:
		case <-timer.C:
		}
		began := time.Now()
		p.guard(func() { p.look(ctx, why) })
		timer.Reset(p.interval() - time.Since(began))
		if !pause(ctx, min(breather, p.interval())) {
			return nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (p *Probe) guard(f func()) {
	if p.Guard == nil {
		f()
		return
	}
	p.Guard(f)
}

func (p *Probe) paused() bool { return p.Paused != nil && p.Paused() }

func (p *Probe) interval() time.Duration {
	if p.idle() {
		return cmp.Or(p.IdleInterval, 3*time.Second)
	}
	return cmp.Or(p.Interval, time.Second)
}

func (p *Probe) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.moved) > calm
}

// look at all members once, by every rule that is due.
func (p *Probe) look(ctx context.Context, why Reason) {
	snap := p.Members.Snapshot()
	if p.paused() || len(snap.Members) == 0 {
		return
	}
	p.keep(snap)
	p.Metrics.looked(why)
	p.revisions(ctx, snap)
	p.settle(ctx, snap)
	p.readIndexes(ctx, snap)
	p.agreeRevisions(snap)
	if p.isDue(drift.RuleLEASE, cmp.Or(p.LeaseInterval, 10*time.Second)) {
		p.compareLeases(ctx, snap)
	}
	if p.isDue(drift.RuleMEMBERSHIP, cmp.Or(p.MembershipInterval, 30*time.Second)) {
		p.compareLists(ctx, snap)
	}
	if p.AuthInterval > 0 && p.isDue(drift.RuleAUTH, p.AuthInterval) {
		p.compareAuth(ctx, snap)
	}
}

// isDue tells whether a rule's round is due, and when the next one is.
func (p *Probe) isDue(rule drift.Rule, interval time.Duration) bool {
	now := time.Now()
	if now.Before(p.due[rule]) {
		return false
	}
	p.due[rule] = now.Add(interval)
	return true
}

// keep forgets those that are no members any more.
func (p *Probe) keep(snap *member.Snapshot) {
	ids := make([]uint64, len(snap.Members))
	here := map[uint64]bool{}
	for i, m := range snap.Members {
		ids[i], here[m.ID] = m.ID, true
	}
	gone := func(q pair) bool { return !here[q.ahead] || !here[q.behind] }
	for q := range p.suspects {
		if gone(q) {
			delete(p.suspects, q)
		}
	}
	forget(p.leases, here)
	p.lease.Keep(ids)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rev.Keep(ids)
	for q := range p.doubts {
		if gone(q) {
			delete(p.doubts, q)
		}
	}
	forget(p.latest, here)
	forget(p.seen, here)
	forget(p.points, here)
	forget(p.settled, here)
	p.keepCoverage(snap, here)
	p.keepAlarms(here)
}

func forget[T any](of map[uint64]T, here map[uint64]bool) {
	for id := range of {
		if !here[id] {
			delete(of, id)
		}
	}
}
