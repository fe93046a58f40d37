package probe

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// rest of a member that was slow to answer a rule's calls.
type rest struct {
	until time.Time
	last  time.Duration
}

const (
	slowCall    = 500 * time.Millisecond // after which a member is left alone for a while
	restFirst   = time.Second
	restLongest = 5 * time.Second // a call to a hung member delays a look by its timeout
)

// visit is the probe at a member, in the member's turn.
type visit struct {
	*Probe
	member *member.Member
}

// each visits all members at once, but those that rest.
func (p *Probe) each(ctx context.Context, members []*member.Member, rule drift.Rule, do func(i int, v visit)) {
	var wg sync.WaitGroup
	for i, m := range members {
		if p.resting(rule, m) {
			continue
		}
		wg.Go(func() {
			p.guard(func() {
				waiting, stop := context.WithTimeout(ctx, turnPatience)
				defer stop()
				release, err := m.Turn(waiting)
				if err != nil {
					return
				}
				defer release()
				do(i, visit{p, m})
			})
		})
	}
	wg.Wait()
}

// one visits one member, and tells whether that went well.
func (p *Probe) one(ctx context.Context, m *member.Member, rule drift.Rule, do func(v visit) bool) bool {
	ok := false
	p.each(ctx, []*member.Member{m}, rule, func(_ int, v visit) { ok = do(v) })
	return ok
}

// resting: who is slow to answer Status, is left alone by all rules.
func (p *Probe) resting(rule drift.Rule, m *member.Member) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, s := range []seat{{rule, m.ID}, {drift.RuleREV, m.ID}} {
		if now.Before(p.rests[s].until) {
			return true
		}
	}
	return false
}

// call a member on behalf of a rule. ok: the answer is one of this member in one
// epoch. own is the rule whose call it is: a Status is always one of REV.
func call[T any](ctx context.Context, v visit, rule, own drift.Rule, do func(*member.Member, context.Context) member.Answer[T]) (a member.Answer[T], ok bool) {
	if v.paused() || ctx.Err() != nil {
		return a, false
	}
	bounded, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := time.Now()
	a = do(v.member, bounded)
	if ctx.Err() != nil {
		return a, false // it is we who end
	}
	v.Metrics.called(rule, v.member.ID, a.Err, a.Bytes)
	v.answered(own, v.member, a.Err, time.Since(began))
	return a, a.Err == nil && !a.Changed && !a.Foreign
}

// answered notes how a call ended, for the member's rest and the rule's coverage.
func (p *Probe) answered(rule drift.Rule, m *member.Member, err error, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cover(rule, m, err)
	s := seat{rule, m.ID}
	switch {
	case took >= slowCall: // with an answer, or a timeout
		r := p.rests[s]
		r.last = min(max(2*r.last, restFirst), restLongest)
		r.until = time.Now().Add(r.last)
		p.rests[s] = r
	case err == nil:
		delete(p.rests, s)
	}
}

// status asks for a Status, which tells REV and ALARM something, whoever asks.
func (v visit) status(ctx context.Context, rule drift.Rule) (drift.Status, bool) {
	a, ok := call(ctx, v, rule, drift.RuleREV, (*member.Member).Status)
	if !ok {
		return drift.Status{}, false
	}
	s := statusOf(v.member.ID, a)
	v.see(s)
	v.alarmed(v.member, a.Body.GetErrors())
	return s, true
}

func statusOf(id uint64, a member.Answer[*pb.StatusResponse]) drift.Status {
	return drift.Status{
		Member: id, Epoch: a.Epoch, Revision: a.Body.GetHeader().GetRevision(),
		RaftIndex: a.Body.GetRaftIndex(), Applied: a.Body.GetRaftAppliedIndex(),
		RaftTerm: a.Body.GetRaftTerm(), Leader: a.Body.GetLeader(), Learner: a.Body.GetIsLearner(),
	}
}

// see every Status, in the order in which the answers come.
func (p *Probe) see(s drift.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, x := range p.rev.See(s) {
		p.doubts[pair{x.Ahead, x.Behind}] = x
	}
	if old, ok := p.latest[s.Member]; ok && old.Revision != s.Revision {
		p.moved = now
	}
	p.latest[s.Member], p.seen[s.Member] = s, now
	p.points.see(s, p.knows(s), now)
}

// readIndex asks for the revision of a member once it has applied what was
// committed. It is for voters that have a leader.
func (v visit) readIndex(ctx context.Context) (drift.LinRead, bool) {
	a, ok := call(ctx, v, drift.RuleLIN, drift.RuleLIN, (*member.Member).ReadIndex)
	if !ok {
		return drift.LinRead{}, false
	}
	v.mu.Lock()
	v.settled[v.member.ID] = a.Epoch
	v.mu.Unlock()
	h := a.Body.GetHeader()
	return drift.LinRead{Member: v.member.ID, Epoch: a.Epoch, Revision: h.GetRevision(), RaftTerm: h.GetRaftTerm()}, true
}

// live tells whether the member has shown a change of its revision in this epoch.
func (p *Probe) live(id, epoch uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rev.Live(id, epoch)
}

// lasting tells why a member will refuse a call again; empty where it may be an
// accident.
func lasting(err error) string {
	switch status.Code(err) {
	case codes.Unimplemented:
		return "this member does not support it"
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.FailedPrecondition:
		return status.Convert(err).Message()
	}
	return ""
}
