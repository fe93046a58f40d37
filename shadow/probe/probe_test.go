package probe

import (
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

const statusMethod = pb.Maintenance_Status_FullMethodName

func TestALeaseThatOneMemberLost(t *testing.T) {
	w := newWorld(t, 3, func(w *world) {
		for i := range 3 {
			w.change(i, func(m *membertest.Member) { m.Leases = []int64{0xa1, 0xb2} })
		}
	})
	w.live()
	w.compared("LEASE")
	w.silent()
	w.change(1, func(m *membertest.Member) { m.Leases = []int64{0xa1} })
	w.await("the second to be named", func(e event) bool {
		return e.Kind == "lease" && e.Rule == "LEASE" && e.Subject == "b2" && e.differs("2")
	})
	for _, i := range []int{0, 2} {
		w.change(i, func(m *membertest.Member) { m.Leases = []int64{0xa1} })
	}
	w.await("the finding to be over", func(e event) bool { return e.Event == "healed" && e.Kind == "lease" })
}

func TestAMemberThatListsAZombie(t *testing.T) {
	list := func(ids ...uint64) []*pb.Member {
		var all []*pb.Member
		for _, id := range ids {
			all = append(all, &pb.Member{ID: id, PeerURLs: []string{"http://peer"}})
		}
		return all
	}
	w := newWorld(t, 3, func(w *world) {
		for i := range 3 {
			w.change(i, func(m *membertest.Member) { m.List = list(1, 2, 3) })
		}
	})
	w.live()
	w.compared("MEMBERSHIP")
	w.silent()
	w.change(0, func(m *membertest.Member) { m.List = list(1, 2, 3, 0xdead) })
	w.await("the first to be named", func(e event) bool {
		return e.Kind == "membership" && e.Subject == "dead" && e.differs("1")
	})
	w.change(0, func(m *membertest.Member) { m.List = list(1, 2, 3) })
	w.await("the finding to be over", func(e event) bool { return e.Event == "healed" && e.Kind == "membership" })
}

func TestAnAuthRevisionThatIsOff(t *testing.T) {
	w := newWorld(t, 3, func(w *world) {
		w.AuthInterval = 50 * time.Millisecond
		for i := range 3 {
			w.change(i, func(m *membertest.Member) { m.AuthRevision = 4 + i/2 })
		}
	})
	w.await("the third to be named", func(e event) bool { return e.Kind == "auth" && e.differs("3") })
	w.change(0, func(m *membertest.Member) { m.AuthRevision = 5 })
	w.change(1, func(m *membertest.Member) { m.AuthRevision = 5 })
	w.await("the finding to be over", func(e event) bool { return e.Event == "healed" && e.Kind == "auth" })
}

func TestAuthIsNotAskedUnlessWanted(t *testing.T) {
	w := newWorld(t, 2, nil)
	w.live()
	w.compared("MEMBERSHIP")
	w.change(0, func(m *membertest.Member) {
		if m.Methods[pb.Auth_AuthStatus_FullMethodName] > 0 {
			t.Error("AuthStatus costs a log entry, and was called")
		}
	})
}

func TestWhatIsRefusedReducesTheCoverage(t *testing.T) {
	w := newWorld(t, 3, func(w *world) {
		w.change(1, func(m *membertest.Member) {
			m.Refuse = map[string]error{
				pb.Lease_LeaseLeases_FullMethodName: status.Error(codes.Unimplemented, "unknown service"),
				pb.KV_Range_FullMethodName:          status.Error(codes.PermissionDenied, "etcdserver: permission denied"),
			}
		})
	})
	w.live()
	w.compared("LEASE")
	w.compared("MEMBERSHIP")
	for rule, want := range map[string]float64{"REV": 3, "LIN": 2, "LEASE": 2, "MEMBERSHIP": 3} {
		until(t, rule+" to cover who answers", func() bool { return w.value("parallax_coverage", rule) == want })
	}
	if n := strings.Count(w.log.String(), "a rule does not cover"); n != 2 {
		t.Errorf("said %d times that a rule does not cover a member, want once for each: %s", n, w.log)
	}
	want := []string{
		"REV: 3 of 3 members",
		"LIN: 2 of 3 members; B (2): etcdserver: permission denied",
		"LEASE: 2 of 3 members; B (2): this member does not support it",
		"MEMBERSHIP: 3 of 3 members",
		"AUTH: off",
	}
	until(t, strings.Join(want, "\n"), func() bool { return slices.Equal(w.Coverage(), want) })
	w.change(1, func(m *membertest.Member) {
		if n := m.Methods[pb.Lease_LeaseLeases_FullMethodName]; n != 1 {
			t.Errorf("asked %d times for what it does not support", n)
		}
	})
}

func TestAnAlarmIsToldOnce(t *testing.T) {
	told := make(chan string, 100)
	w := newWorld(t, 3, func(w *world) {
		w.Alarm = func(_ uint64, alarm string) { told <- alarm }
	})
	w.live()
	raise := func(texts ...string) {
		for i := range 3 {
			w.change(i, func(m *membertest.Member) { m.Errors = texts })
		}
	}
	raise("etcdserver: no leader", "memberID:255 alarm:CORRUPT ")
	until(t, "an alarm", func() bool { return w.value("parallax_alarm", "ff", "CORRUPT") == 1 })
	raise("memberID:255  alarm:CORRUPT") // as another library writes it
	w.compared("REV")
	raise()
	until(t, "it to be over", func() bool { return w.value("parallax_alarm") == 0 })
	if n := len(told); n != 1 || <-told != "CORRUPT" {
		t.Errorf("told %d times", n)
	}
	if n := strings.Count(w.log.String(), "has raised an alarm"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// GUARANTEE G2: who asks for a look never waits.
func TestNowLooksAtOnceAndNeverBlocks(t *testing.T) {
	w := newWorld(t, 2, func(w *world) { w.Interval, w.IdleInterval = time.Hour, time.Hour })
	until(t, "the first look", func() bool { return w.value("parallax_probe_looks_total", "interval") == 1 })
	for range 1000 {
		w.Now(RefusedWrite)
	}
	until(t, "a look", func() bool { return w.value("parallax_probe_looks_total", "refused-write") >= 1 })
	if n := w.value("parallax_probe_looks_total"); n > 4 {
		t.Errorf("%v looks for a thousand requests at once", n)
	}
}

func TestPausedAsksNothing(t *testing.T) {
	w := newWorld(t, 2, func(w *world) { w.Paused = func() bool { return true } })
	until(t, "the members to be known", func() bool { return len(w.Probe.Members.Snapshot().Members) == 2 })
	w.Now(FutureRevision)
	time.Sleep(100 * time.Millisecond) // five intervals
	if n := w.value("parallax_probe_calls_total"); n != 0 {
		t.Errorf("%v calls", n)
	}
}

func TestWithoutIdsNothingIsAsked(t *testing.T) {
	w := newWorld(t, 1, func(w *world) {
		w.change(0, func(m *membertest.Member) { m.ID, m.ClusterID = 0, 0 }) // kine
	})
	w.Now(FutureRevision)
	until(t, "a word about it", func() bool { return strings.Contains(w.log.String(), "kine?") })
	time.Sleep(50 * time.Millisecond)
	if n := w.value("parallax_probe_calls_total"); n != 0 {
		t.Errorf("%v calls", n)
	}
}

// GUARANTEE G6: one shadow request is in flight per member.
func TestWhoeverHasTheTurnIsWaitedFor(t *testing.T) {
	w := newWorld(t, 2, nil)
	w.live()
	w.compared("REV")
	release, err := w.Probe.Members.Snapshot().Members[0].Turn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := w.value("parallax_probe_calls_total", "1")
	time.Sleep(100 * time.Millisecond) // five intervals
	if n := w.value("parallax_probe_calls_total", "1"); n != before {
		t.Errorf("%v calls out of turn", n-before)
	}
	release()
	w.compared("REV")
}

// A member that hangs is left alone for longer each time, and the others are
// compared.
func TestAMemberThatHangs(t *testing.T) {
	w := newWorld(t, 3, nil)
	w.write(5 * time.Millisecond)
	w.compared("REV")
	w.change(1, func(m *membertest.Member) { m.Slow = true })
	began := time.Now()
	w.put(2)
	w.await("the third to be found", func(e event) bool { return e.Rule == "REV" })
	until(t, "a hole in the coverage", func() bool { return w.value("parallax_coverage", "REV") == 2 })
	if n := w.value("parallax_probe_calls_total", "2", "failed"); n > 3+time.Since(began).Seconds()/2 {
		t.Errorf("%v calls of a member that hangs", n)
	}
	w.change(1, func(m *membertest.Member) { m.Slow = false })
	until(t, "it to be compared again", func() bool { return w.value("parallax_coverage", "REV") == 3 })
}

// Who left takes its labels along.
func TestAMemberThatIsRemoved(t *testing.T) {
	w := newWorld(t, 3, nil)
	w.live()
	w.compared("LEASE")
	w.change(2, func(m *membertest.Member) { m.Removed = true })
	until(t, "it to be forgotten", func() bool { return w.value("parallax_coverage", "REV") == 2 })
	if n := w.value("parallax_probe_calls_total", "3"); n != 0 {
		t.Errorf("%v calls are still counted for a member that left", n)
	}
}
