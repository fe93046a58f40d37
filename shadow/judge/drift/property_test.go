package drift

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

// live lets the world and the prober move, in any interleaving, n times.
func (p *prober) live(n int) {
	for range n {
		p.move(p.replicas[p.IntN(len(p.replicas))], p.replicas[p.IntN(len(p.replicas))])
	}
}

func (p *prober) move(r, other *replica) {
	runner := p.replicas[p.pick(p.pace[:len(p.replicas)])] // some are slower than others
	switch p.pick(p.moves) {
	case 0:
		p.propose(p.entry(&p.truth))
	case 1:
		p.learn(runner, runner.committed+uint64(p.IntN(8)<<p.IntN(8)))
	case 2:
		if runner.up {
			p.step(runner)
		}
	case 3: // catches up
		if p.IntN(2) == 0 {
			p.learn(runner, uint64(len(p.log)))
		}
		for runner.up && (runner.half || runner.position < runner.committed) {
			p.step(runner)
		}
	case 4:
		p.advance(r)
	case 5:
		if r.up && r.task == nil {
			p.ask(p.pick(p.asks), r, other)
		}
	case 6:
		if r.up {
			p.persist(r, p.IntN(2) == 0)
		}
	case 7:
		p.stop(r)
		if p.IntN(4) != 0 {
			p.start(r)
		}
	case 8:
		if !r.up {
			p.start(r)
		}
	case 9:
		p.install(r, other)
	case 10:
		p.backup()
	case 11:
		if p.IntN(4) == 0 {
			p.restore(p.dice)
		}
	case 12:
		p.askOrMovePIN()
	case 13:
		p.now = p.now.Add(time.Duration(p.IntN(20)) * time.Second)
	}
}

func (p *prober) askOrMovePIN() {
	if len(p.pin) == 0 {
		p.askPIN(max(2, p.truth.rev-int64(p.IntN(8))))
		return
	}
	p.pin[0]()
	p.pin = p.pin[1:]
}

func drawWorld(t *rapid.T) *prober {
	members := rapid.IntRange(2, 4).Draw(t, "members")
	d := newDice(rapid.Uint64().Draw(t, "dice"))
	return newProber(newCluster(members, d), d)
}

// drawMoves draws how many. rapid prefers small numbers, which are good to shrink to
// and show little.
func drawMoves(t *rapid.T, label string) int {
	return rapid.SampledFrom([]int{0, 200, 800, 3000}).Draw(t, label) + rapid.IntRange(0, 200).Draw(t, label)
}

// GUARANTEE G3: whatever happens to a healthy cluster, no rule finds anything.
func TestPropertyNoHealthyClusterIsAccused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawWorld(t)
		p.live(drawMoves(t, "moves"))
		if len(p.found)+len(p.diffs) > 0 {
			t.Fatalf("found on a healthy cluster: %+v %+v", p.found, p.diffs)
		}
	})
}

// One fault strikes one member somewhere. Nobody else is ever accused. When the
// world is quiet afterwards, each rule finds exactly what differs.
func TestPropertyEveryDriftIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawWorld(t)
		p.live(drawMoves(t, "moves before") / 4)
		p.fault = fault{
			replica: p.replicas[rapid.IntRange(0, len(p.replicas)-1).Draw(t, "struck")],
			kind:    rapid.SampledFrom([]faultKind{skip, double, flipLease, flipList, authAhead}).Draw(t, "fault"),
		}
		p.live(drawMoves(t, "moves after") / 4)
		p.fault = fault{}
		p.nobodyElse(t)
		p.settle()
		for i, a := range p.replicas {
			for _, b := range p.replicas[i+1:] {
				for _, x := range [][2]*replica{{a, b}, {b, a}} {
					p.checkREV(t, x[0], x[1])
					p.checkLIN(t, x[0], x[1])
				}
				p.checkAUTH(t, a, b)
				p.checkPIN(t, a, b)
				p.checkLEASE(t, a, b)
				p.checkMEMBERSHIP(t, a, b)
			}
		}
	})
}

// nobodyElse: a finding of members that were never hit is an invention, even when
// a third one was.
func (p *prober) nobodyElse(t *rapid.T) {
	tainted := func(members []uint64) bool {
		for _, m := range members {
			if p.replicas[m-1].tainted {
				return true
			}
		}
		return false
	}
	for _, f := range p.found {
		clean := 0
		for _, g := range f.Groups {
			if !tainted(g.Members) {
				clean++
			}
		}
		if clean > 1 {
			t.Fatalf("found of members that are well: %+v", f)
		}
	}
	for _, d := range p.diffs {
		clean := 0
		for _, g := range d.Groups {
			if !tainted(g.Members) {
				clean++
			}
		}
		if clean > 1 {
			t.Fatalf("PIN of members that are well: %+v", d)
		}
	}
}

// now is a whole Status of a quiet member.
func (r *replica) now() Status {
	return Status{
		Member: r.id, Epoch: r.epoch, Leader: 1, RaftTerm: 2, Learner: r.learner,
		Revision: r.state.rev, RaftIndex: r.committed, Applied: r.applied,
	}
}

// write something that makes a revision on each member, and lets all apply it.
func (p *prober) write() {
	p.propose(entry{kind: put})
	p.settle()
}

// checkREV: A is live, B has applied what A had committed, and fewer revisions are
// made between A's answer and B's second one than there are between them. Exactly
// then they are found, in one burst A, B, B.
func (p *prober) checkREV(t *rapid.T, a, b *replica) {
	gap := a.state.rev - b.state.rev
	meanwhile := rapid.Int64Range(0, max(0, gap)).Draw(t, "meanwhile")
	var rev Rev
	rev.See(a.now())
	p.write()
	found := rev.See(a.now())
	found = append(found, rev.See(b.now())...)
	for range meanwhile {
		p.write()
	}
	found = append(found, rev.See(b.now())...)
	if want := gap > meanwhile; want != (len(found) == 1) {
		t.Fatalf("%d is ahead of %d by %d revisions, %d were made meanwhile: %+v", a.id, b.id, gap, meanwhile, found)
	}
	for _, x := range found {
		f, ok := rev.Confirm(x, a.now(), b.now())
		if !ok || f.Gap != gap-meanwhile || f.Groups[0].Members[0] != a.id || f.Groups[1].Members[0] != b.id {
			t.Fatalf("confirmed: %v, %+v", ok, f)
		}
	}
}

func (p *prober) checkLIN(t *rapid.T, a, b *replica) {
	if a.learner || b.learner {
		return
	}
	var lin Lin
	proved := false
	for i := range linRounds {
		_, proved = lin.See(LinRound{
			A1: a.now(), A2: a.now(), At: p.now.Add(time.Duration(i) * linSpan / 2),
			B: LinRead{Member: b.id, Epoch: b.epoch, Revision: b.state.rev, RaftTerm: 2},
		})
	}
	if proved != (a.state.rev > b.state.rev) {
		t.Fatalf("revisions %d and %d, LIN says %v", a.state.rev, b.state.rev, proved)
	}
}

func (p *prober) checkAUTH(t *rapid.T, a, b *replica) {
	x, y := AuthRead{a.id, a.epoch, a.state.auth}, AuthRead{b.id, b.epoch, b.state.auth}
	if _, proved := p.auth.See(AuthRound{x, y, x, y}); proved != (a.state.auth != b.state.auth) {
		t.Fatalf("auth revisions %d and %d, AUTH says %v", a.state.auth, b.state.auth, proved)
	}
}

// checkPIN at each revision, against a comparison of its own. Once proves nothing.
func (p *prober) checkPIN(t *rapid.T, a, b *replica) {
	for revision := int64(2); revision <= max(a.state.rev, b.state.rev); revision++ {
		answers := []judge.Answer{a.pinned(revision), b.pinned(revision)}
		v := judge.PIN(question(revision), answers, answers)
		comparable := answers[0].Kind == judge.OK && answers[1].Kind == judge.OK
		want := judge.Inconclusive
		if comparable && same(answers[0].KVs, answers[1].KVs) {
			want = judge.Consistent
		} else if comparable {
			want = judge.Divergent
		}
		if v.Outcome != want {
			t.Fatalf("at %d: %v, want %v: %+v", revision, v.Outcome, want, answers)
		}
		if once := judge.PIN(question(revision), answers, nil); once.Outcome == judge.Divergent {
			t.Fatalf("divergent after one round")
		}
	}
}

func same(a, b []judge.KV) bool {
	held := make(map[string]string)
	text := func(kv judge.KV) string { return fmt.Sprint(kv) }
	for _, kv := range a {
		held[string(kv.Key)] = text(kv)
	}
	for _, kv := range b {
		if held[string(kv.Key)] != text(kv) {
			return false
		}
	}
	return len(a) == len(b)
}

func (p *prober) checkLEASE(t *rapid.T, a, b *replica) {
	var lease Lease
	proved := make(map[string]bool)
	for range 3 {
		for _, r := range []*replica{a, b} {
			s := r.now()
			for _, f := range lease.See(LeaseReading{
				Member: r.id, Epoch: r.epoch, Live: true, AppliedBefore: s.Applied,
				Leases: r.state.granted(), Revision: s.Revision, CommittedAfter: s.RaftIndex,
			}) {
				proved[f.Subject] = true
			}
		}
	}
	for i := range modelLeases {
		if differ := a.state.leases[i] != b.state.leases[i]; differ != proved[hex(uint64(i+1))] {
			t.Fatalf("lease %d differs: %v, proved: %v", i+1, differ, proved)
		}
	}
}

func (p *prober) checkMEMBERSHIP(t *rapid.T, a, b *replica) {
	var membership Membership
	proved := make(map[string]bool)
	for range listRoundsNeeded {
		var round []ListReading
		for _, r := range []*replica{a, b} {
			s := r.now()
			round = append(round, ListReading{
				Member: r.id, Epoch: r.epoch, Live: true, Applied: s.Applied,
				List: r.list.listed(), Revision: s.Revision, CommittedAfter: s.RaftIndex,
			})
		}
		for _, f := range membership.See(round, uint64(len(p.log))) {
			proved[f.Subject] = true
		}
	}
	x, y := listing(a), listing(b)
	for i := range modelListed {
		if differ := x[i] != y[i]; differ != proved[hex(uint64(i+1))] {
			t.Fatalf("listed member %d differs: %v, proved: %v; %v %v", i+1, differ, proved, x, y)
		}
	}
}

func listing(r *replica) (out [modelListed][2]uint8) {
	for i, way := range r.list.way {
		if way == learner || way == voter {
			out[i] = [2]uint8{way, r.list.urls[i]}
		}
	}
	return out
}
