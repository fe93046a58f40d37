package probe

import (
	"slices"
	"testing"
	"time"

	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func TestAMemberThatSkipsAWriteIsNamedAndForgiven(t *testing.T) {
	w := newWorld(t, 3, nil)
	stop := w.write(10 * time.Millisecond)
	w.compared("REV")
	w.silent()
	w.put(2)
	w.await("the third to be named", func(e event) bool {
		return e.Kind == "revision" && e.Rule == "REV" && e.Basis == "quorum" && e.differs("3") && e.Gap == 1
	})
	stop()
	w.change(2, func(m *membertest.Member) { m.Revision++ })
	w.put() // all show it again
	w.await("the finding to be over", func(e event) bool { return e.Event == "healed" && e.Kind == "revision" })
}

func TestAMemberThatRunsAheadIsNamed(t *testing.T) {
	w := newWorld(t, 3, nil)
	w.write(10 * time.Millisecond)
	w.compared("REV")
	w.put(0, 1) // the entry is applied twice on the third (etcd #14685)
	w.await("the third to be named", func(e event) bool { return e.Rule == "REV" && e.differs("3") })
}

func TestOfTwoMembersNobodyIsNamed(t *testing.T) {
	w := newWorld(t, 2, nil)
	w.write(10 * time.Millisecond)
	w.compared("REV")
	w.put(1)
	w.await("a finding", func(e event) bool { return e.Rule == "REV" })
	w.compared("MEMBERSHIP") // some more rounds
	for _, e := range w.events() {
		if e.Basis != "none" || len(e.Differs) > 0 {
			t.Errorf("%+v of two members is named on basis %q", e.Differs, e.Basis)
		}
	}
}

// A healthy cluster is one of members that lag, restart and lead by turns.
func TestAHealthyClusterIsSilent(t *testing.T) {
	w := newWorld(t, 3, func(w *world) { w.AuthInterval = 50 * time.Millisecond })
	behind := w.Cluster.Members[2]
	for i := range 400 {
		for j, m := range w.Cluster.Members {
			m.Change(func(m *membertest.Member) {
				lag := uint64(j * (i % 7)) // entries that are committed there, and not applied
				m.RaftIndex = 1000 + uint64(i)
				m.Applied = max(m.Applied, m.RaftIndex-lag)
				m.Revision = 100 + int64(m.Applied-1000)
			})
		}
		if i%100 == 50 {
			behind.Restart(t)
		}
		time.Sleep(time.Millisecond) // what a write takes
	}
	w.live()
	for _, rule := range []string{"REV", "LEASE", "MEMBERSHIP", "AUTH"} {
		w.compared(rule)
	}
	w.silent()
	if n := w.rounds("REV", divergent); n != 0 {
		t.Errorf("%v rounds were divergent", n)
	}
}

// Where nobody has written since the start nobody is live, and REV must not
// speak; LIN does, once it has lasted.
func TestAnIdleClusterIsLeftToLIN(t *testing.T) {
	start := time.Now()
	w := newWorld(t, 3, func(w *world) {
		w.clock = func() time.Time { return start.Add(50 * time.Since(start)) }
		w.change(2, func(m *membertest.Member) { m.Revision-- })
	})
	w.await("the third to be named", func(e event) bool { return e.Kind == "revision" && e.differs("3") && e.Gap == 1 })
	for _, e := range w.events() {
		if e.Rule != "LIN" {
			t.Errorf("found by %s", e.Rule)
		}
	}
	if n := w.rounds("LIN", inconclusive); n < 2 {
		t.Errorf("named after %v rounds that had not lasted", n)
	}
	w.change(2, func(m *membertest.Member) { m.Revision++ })
	w.await("the finding to be over", func(e event) bool { return e.Event == "healed" })
}

func TestALearnerIsAskedForNothingButStatus(t *testing.T) {
	w := newWorld(t, 3, func(w *world) {
		w.AuthInterval = 50 * time.Millisecond
		w.change(2, func(m *membertest.Member) { m.Learner = true })
	})
	w.live()
	for _, rule := range []string{"REV", "LEASE", "MEMBERSHIP", "AUTH"} {
		w.compared(rule)
	}
	w.change(2, func(m *membertest.Member) {
		for method := range m.Methods {
			if method != statusMethod {
				t.Errorf("a learner was asked for %s", method)
			}
		}
	})
	if n := w.value("parallax_coverage", "LIN", "3"); n != 0 {
		t.Error("LIN covers a learner")
	}
	w.silent()
}

// What a look costs: a few Status where nothing hinders, and never more than the
// most where members are never seen to be equal.
func TestWhatALookCosts(t *testing.T) {
	statuses := func(w *world) (ofOne float64) {
		before := w.value("parallax_probe_calls_total", "REV", "1")
		w.put()
		looks := w.value("parallax_probe_looks_total")
		w.Now(FutureRevision)
		until(t, "a look", func() bool { return w.value("parallax_probe_looks_total") > looks })
		rounds := w.rounds("REV", consistent) + w.rounds("REV", inconclusive)
		until(t, "its end", func() bool { return w.rounds("REV", consistent)+w.rounds("REV", inconclusive) >= rounds })
		w.Now(FutureRevision)
		until(t, "another", func() bool { return w.value("parallax_probe_looks_total") > looks+1 })
		return w.value("parallax_probe_calls_total", "REV", "1") - before
	}
	w := newWorld(t, 3, func(w *world) { w.Interval, w.IdleInterval = time.Hour, time.Hour })
	until(t, "the first look", func() bool { return w.value("parallax_probe_looks_total") == 1 })
	statuses(w) // live
	if n := statuses(w); n > 2*(1+burstStep)+1 {
		t.Errorf("%v Status of a member in a look after a write", n)
	}
	w.change(0, func(m *membertest.Member) { m.RaftIndex += 5 }) // it lags
	if n := statuses(w); n > 2*(1+burstMost)+1 {
		t.Errorf("%v Status of a member in a look at one that lags", n)
	}
}

func TestWhoStandsOnWhichSide(t *testing.T) {
	differ := func(ahead, behind uint64, gap int64) drift.Finding {
		return drift.Finding{Rule: drift.RuleREV, Gap: gap, Groups: []drift.Group{{Members: []uint64{ahead}}, {Members: []uint64{behind}}}}
	}
	for _, one := range []struct {
		name    string
		pairs   []drift.Finding
		equal   [][2]uint64
		want    [][]uint64
		differs []uint64
	}{
		{"one of three", []drift.Finding{differ(1, 3, 1), differ(2, 3, 1)}, [][2]uint64{{1, 2}}, [][]uint64{{1, 2}, {3}}, []uint64{3}},
		{"one of three, ahead", []drift.Finding{differ(3, 1, 1), differ(3, 2, 1)}, [][2]uint64{{1, 2}}, [][]uint64{{3}, {1, 2}}, []uint64{3}},
		{"of the others nothing is known", []drift.Finding{differ(1, 3, 1), differ(2, 3, 1)}, nil, [][]uint64{{1}, {3}}, nil},
		{"only a pair was seen to differ", []drift.Finding{differ(1, 3, 1)}, [][2]uint64{{1, 2}}, [][]uint64{{1, 2}, {3}}, []uint64{3}},
		{"all differ", []drift.Finding{differ(1, 3, 9), differ(2, 3, 5), differ(1, 2, 4)}, nil, [][]uint64{{1}, {3}, {2}}, nil},
		{"equal to both sides is a contradiction", []drift.Finding{differ(1, 3, 1)}, [][2]uint64{{1, 2}, {2, 3}}, [][]uint64{{1}, {3}}, nil},
		{"what differs now was equal before", []drift.Finding{differ(1, 3, 1), differ(2, 3, 1)}, [][2]uint64{{1, 2}, {1, 3}, {2, 3}}, [][]uint64{{1, 2}, {3}}, []uint64{3}},
	} {
		t.Run(one.name, func(t *testing.T) {
			same := func(a, b uint64) bool {
				return slices.Contains(one.equal, [2]uint64{a, b}) || slices.Contains(one.equal, [2]uint64{b, a})
			}
			f := group(one.pairs, []uint64{1, 2, 3}, same)
			var got [][]uint64
			for _, g := range f.Groups {
				got = append(got, g.Members)
			}
			if !slices.EqualFunc(got, one.want, slices.Equal[[]uint64]) {
				t.Errorf("groups %v, want %v", got, one.want)
			}
			if _, differs := whoDiffers(f.Groups, []uint64{1, 2, 3}); !slices.Equal(differs, one.differs) {
				t.Errorf("%v are named, want %v", differs, one.differs)
			}
		})
	}
	if basis, differs := whoDiffers([]drift.Group{{Members: []uint64{1, 2}}, {Members: []uint64{3}}}, nil); basis != "none" || differs != nil {
		t.Errorf("%v named on basis %s, and nobody knows the voters", differs, basis)
	}
}

func TestPoints(t *testing.T) {
	p, now := points{}, time.Now()
	see := func(member uint64, revision int64, applied, committed uint64, settled bool) {
		p.see(drift.Status{Member: member, Epoch: 1, Revision: revision, Applied: applied, RaftIndex: committed}, settled, now)
	}
	same := func() bool { _, ok := p.same(1, 2, now); return ok }
	see(1, 7, 50, 50, true)
	see(1, 7, 50, 50, true)
	if same() {
		t.Error("equal to a member of which nothing is known")
	}
	see(2, 7, 50, 50, false)
	see(2, 7, 50, 50, false)
	if same() {
		t.Error("equal to a member whose commit index means nothing yet")
	}
	see(2, 7, 50, 50, true)
	if !same() {
		t.Error("both were at 7 after index 50")
	}
	if _, ok := p.same(1, 2, now.Add(time.Second)); ok {
		t.Error("equal, seen too long ago")
	}
	see(1, 8, 51, 52, true) // an entry is on its way: nothing exact
	see(2, 9, 53, 53, true)
	if !same() {
		t.Error("nothing new is known")
	}
	see(1, 9, 53, 53, true)
	see(1, 9, 53, 53, true)
	see(2, 10, 53, 53, true)
	if same() {
		t.Error("9 and 10 after index 53")
	}
	p.see(drift.Status{Member: 2, Epoch: 2, Revision: 9, Applied: 53, RaftIndex: 53}, true, now)
	if same() {
		t.Error("equal across a restart")
	}
	for i := range uint64(10 * tracked) {
		see(3, 7, 100+i, 100+i-1, true)
	}
	if n := len(p[3].known); n != tracked {
		t.Errorf("%d points are kept", n)
	}
}
