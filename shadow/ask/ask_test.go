package ask

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func TestBudgetHoldsOverAMinute(t *testing.T) {
	for _, c := range []struct {
		name   string
		budget Budget
		answer int     // bytes
		want   float64 // reads a minute
	}{
		{"reads", Budget{Reads: 50, Bytes: 1 << 20}, 100, 3000},
		{"bytes", Budget{Reads: 50, Bytes: 1 << 20}, 256 << 10, 240},
		{"answers larger than a second's bytes", Budget{Reads: 50, Bytes: 1 << 20}, 10 << 20, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &Asker{Budget: func() Budget { return c.budget }}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				n := 0
				for begin := time.Now(); time.Since(begin) < 10*time.Minute; {
					acc := a.account(1)
					if acc.pay(ctx) != nil {
						break
					}
					acc.charge(c.answer)
					n++
				}
				if got := float64(n) / 10; got < 0.95*c.want || got > 1.05*c.want {
					t.Errorf("%v reads a minute, want %v", got, c.want)
				}
			})
		})
	}
}

func TestBudgetCanChangeWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Budget{Reads: 1, Bytes: 1 << 20}
		a := &Asker{Budget: func() Budget { return b }}
		reads := func() int {
			n := 0
			for begin := time.Now(); time.Since(begin) < time.Minute; n++ {
				if err := a.account(1).pay(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			return n
		}
		before := reads()
		b = Budget{Reads: 10, Bytes: 1 << 20}
		if after := reads(); before > 65 || after < 570 || after > 640 {
			t.Errorf("%d, then %d reads a minute, want 60, then 600", before, after)
		}
	})
}

func TestASpentBudgetIsNotWaitedForForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		acc := (&Asker{Budget: func() Budget { return Budget{Reads: 50, Bytes: 1 << 10} }}).account(1)
		acc.charge(1 << 20) // 17 minutes' worth
		begin := time.Now()
		if acc.pay(t.Context()) == nil || time.Since(begin) > payPatience {
			t.Errorf("paid after %v", time.Since(begin))
		}
	})
}

func TestASlowMemberRestsLongerEachTime(t *testing.T) {
	acc := &account{}
	now := time.Unix(0, 0)
	slow := func(k judge.Kind) { acc.took(slowRead, k, now) }
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		slow(judge.OK)
		acc.took(time.Millisecond, judge.FutureRev, now) // is no sign of health
		if !acc.resting(now.Add(want*time.Second-1)) || acc.resting(now.Add(want*time.Second)) {
			t.Fatalf("does not rest for %d s, but until %v", want, acc.rest.Sub(now))
		}
	}
	acc.took(time.Millisecond, judge.OK, now)
	slow(judge.Timeout)
	if acc.resting(now.Add(time.Second)) {
		t.Error("a member that was quick in between rests as long as before")
	}
}

func TestKindOfAnswer(t *testing.T) {
	for _, c := range []struct {
		reply member.Reply
		want  judge.Kind
	}{
		{member.Reply{}, judge.OK},
		{member.Reply{Changed: true}, judge.EpochChanged},
		{member.Reply{Changed: true, Err: membertest.ErrFutureRev}, judge.EpochChanged},
		{member.Reply{Foreign: true}, judge.Foreign},
		{member.Reply{Err: membertest.ErrFutureRev}, judge.FutureRev},
		{member.Reply{Err: membertest.ErrCompacted}, judge.Compacted},
		{member.Reply{Err: status.Error(codes.OutOfRange, "something else")}, judge.Refused},
		{member.Reply{Err: status.Error(codes.PermissionDenied, "etcdserver: permission denied")}, judge.Denied},
		{member.Reply{Err: status.Error(codes.Unauthenticated, "etcdserver: invalid auth token")}, judge.Denied},
		{member.Reply{Err: status.Error(codes.InvalidArgument, "etcdserver: user name is empty")}, judge.Denied},
		{member.Reply{Err: status.Error(codes.InvalidArgument, "etcdserver: revision of auth store is old")}, judge.Denied},
		{member.Reply{Err: status.Error(codes.InvalidArgument, "etcdserver: something else")}, judge.Refused},
		{member.Reply{Err: status.Error(codes.Unavailable, "etcdserver: rpc not supported for learner")}, judge.Unreachable},
		{member.Reply{Err: status.Error(codes.DeadlineExceeded, "")}, judge.Timeout},
		{member.Reply{Err: status.Error(codes.ResourceExhausted, "received message larger than max")}, judge.Exhausted},
		{member.Reply{Err: errors.New("anything")}, judge.Refused},
	} {
		if got := kindOf(c.reply); got != c.want {
			t.Errorf("%+v is %s, want %s", c.reply, got.Reason(), c.want.Reason())
		}
	}
}

func TestAPoisonedRangeCoversWhatItMeets(t *testing.T) {
	p := &Poison{ranges: []judge.Question{{Key: []byte("b"), End: []byte("d")}, {Key: []byte("x")}}}
	for _, c := range []struct {
		key, end string
		want     bool
	}{
		{"a", "", false}, {"b", "", true}, {"c", "", true}, {"d", "", false}, {"x", "", true},
		{"a", "b", false}, {"a", "b\x00", true}, {"c", "z", true}, {"d", "e", false}, {"w", "y", true}, {"a", "\x00", true},
	} {
		q := judge.Question{Key: []byte(c.key), End: []byte(c.end)}
		if got := p.Covers(q); got != c.want {
			t.Errorf("[%q, %q): poisoned %v, want %v", c.key, c.end, got, c.want)
		}
	}
}

// Who confirms goes before who begins.
func TestABeginningWaitsForAConfirmation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Asker{}
		a.Wait(t.Context()) // nobody rushes
		one, two := a.Rush(), a.Rush()
		began := make(chan struct{})
		go func() { a.Wait(t.Context()); close(began) }()
		synctest.Wait()
		one()
		synctest.Wait()
		select {
		case <-began:
			t.Fatal("began while one was still to be confirmed")
		default:
		}
		two()
		<-began
		again := a.Rush()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a.Wait(ctx) // ends with its context
		again()
	})
}
