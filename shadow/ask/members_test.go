package ask

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet is an asker of fake members, with the budget.
func quiet(t *testing.T, b Budget) (*Asker, *membertest.Cluster, []*member.Member) {
	cluster := membertest.Start(t, 3, 10)
	set := &member.Set{Endpoints: cluster.URLs(), Interval: 50 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = set.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	until(t, "three members", func() bool { return len(set.Snapshot().Members) == 3 })
	return &Asker{
		Budget: func() Budget { return b }, Guard: func(f func()) { f() }, Paused: func() bool { return false },
		Poison: &Poison{Logger: slog.New(slog.DiscardHandler), Changed: func(int) {}},
		Asked:  func(uint64, judge.Kind) {}, Answered: func(uint64, int) {},
	}, cluster, set.Snapshot().Members
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// Reads that wait for the budget or their turn see a pause, and a range that was
// poisoned meanwhile.
func TestWhatForbidsAReadIsLookedAtRightBefore(t *testing.T) {
	for _, want := range []judge.Kind{judge.Paused, judge.Poisoned} {
		t.Run(string(want.Reason()), func(t *testing.T) {
			a, cluster, members := quiet(t, Budget{Reads: 50, Bytes: 1 << 20})
			asked := make(chan struct{}, 1)
			cluster.Members[0].Change(func(m *membertest.Member) {
				m.Range = func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
					asked <- struct{}{}
					return &pb.RangeResponse{}, nil
				}
			})
			var mu sync.Mutex
			paused := false
			a.Paused = func() bool { mu.Lock(); defer mu.Unlock(); return paused }
			m := members[0]
			release, err := m.Turn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			q := judge.Question{Key: []byte("a"), Revision: 7}
			got := make(chan judge.Answer)
			go func() { got <- a.page(t.Context(), m, q, 0, false).Answer }()
			acc := a.account(m.ID)
			until(t, "the read to have paid", func() bool { return acc.reads.Tokens() < float64(acc.reads.Burst()) })
			if want == judge.Paused {
				mu.Lock()
				paused = true
				mu.Unlock()
			} else {
				a.Poison.lost(m, q)
			}
			release()
			if answer := <-got; answer.Kind != want || len(asked) != 0 {
				t.Errorf("%s, %d reads were sent", answer.Kind.Reason(), len(asked))
			}
		})
	}
}

// An answer over the limit is paid for: nobody knows how much of it came.
func TestAnOversizedAnswerIsPaidFor(t *testing.T) {
	a, cluster, members := quiet(t, Budget{Reads: 1e6, Bytes: 1 << 20})
	for _, m := range cluster.Members {
		m.Change(func(m *membertest.Member) {
			m.Range = func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
				return &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: []byte("a"), Value: make([]byte, member.MaxAnswer+1)}}}, nil
			}
		})
	}
	for _, answer := range a.All(t.Context(), members, judge.Question{Key: []byte("a"), Revision: 7}, false) {
		if answer.Kind != judge.Exhausted {
			t.Errorf("%x: %s", answer.Member, answer.Kind.Reason())
		}
		if tokens := a.account(answer.Member).bytes.Tokens(); tokens > -float64(member.MaxAnswer-(2<<20)) {
			t.Errorf("%x: %v bytes are left of the budget", answer.Member, tokens)
		}
	}
}

// A page says how many keys the range has beyond it, and asks for no more than its limit.
func TestPages(t *testing.T) {
	a, cluster, members := quiet(t, Budget{Reads: 1e6, Bytes: 1 << 20})
	for i, m := range cluster.Members {
		m.Change(func(m *membertest.Member) {
			m.Range = func(_ context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
				if string(req.GetKey()) != "a" || string(req.GetRangeEnd()) != "c" || req.GetLimit() != 1 || req.GetRevision() != 7 || !req.GetSerializable() {
					t.Errorf("%v", req)
				}
				return &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: []byte("a"), ModRevision: 3}}, Count: int64(i + 1)}, nil
			}
		})
	}
	for _, p := range a.Pages(t.Context(), members, judge.Question{Key: []byte("a"), End: []byte("c"), Revision: 7}, 1, false) {
		if p.Kind != judge.OK && p.Kind != judge.Foreign || p.Kind == judge.OK && (len(p.KVs) != 1 || p.Count == 0 || p.Bytes == 0) {
			t.Errorf("%+v", p)
		}
	}
}
