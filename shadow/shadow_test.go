package shadow

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// rig is a shadow over a cluster of three scripted members, all at revision 10.
type rig struct {
	*Shadow
	t       *testing.T
	cluster *membertest.Cluster
	records recordBook
}

type recordBook struct {
	mu    sync.Mutex
	lines [][]byte
}

func (b *recordBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, bytes.Clone(p))
	return len(p), nil
}

type record struct {
	Event   string
	Trigger struct {
		ServedDiffering bool `json:"served_differing"`
	}
	Rule    string
	Key     string
	Basis   string
	Differs []struct{ ID string }
}

func (b *recordBook) all(t *testing.T) []record {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]record, len(b.lines))
	for i, l := range b.lines {
		if err := json.Unmarshal(l, &out[i]); err != nil {
			t.Fatalf("%s: %v", l, err)
		}
	}
	return out
}

var generous = Rates{ReadsPerSecond: 1e6, BytesPerSecond: 1e9, Reads: 1, Writes: 1}

func newRig(t *testing.T, configure ...func(*Shadow)) *rig {
	r := &rig{t: t, cluster: membertest.Start(t, 3, 10)}
	set := &member.Set{Endpoints: r.cluster.URLs(), Interval: 50 * time.Millisecond}
	log := divergence.New(divergence.Config{Sink: &r.records})
	r.Shadow = &Shadow{Members: set, Log: log, Metrics: NewMetrics(prometheus.NewRegistry()), LagBudget: 300 * time.Millisecond, Recheck: time.Hour}
	for _, f := range configure {
		f(r.Shadow)
	}
	r.Init(generous)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = set.Run(ctx) })
	wg.Go(func() { _ = log.Run(ctx) })
	wg.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	r.until("three members", func() bool { return len(set.Snapshot().Members) == 3 })
	return r
}

func (r *rig) until(what string, cond func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within 20 s: %s; records %+v", what, r.records.all(r.t))
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// verdicts waits until so many checks have ended, and returns how many of them
// with this verdict and reason.
func (r *rig) verdicts(n int, k kind, o judge.Outcome, why judge.Reason) float64 {
	r.t.Helper()
	r.until(fmt.Sprint(n, " verdicts"), func() bool { return testutil.CollectAndCount(r.Metrics.duration) > 0 && r.ended() >= n })
	return testutil.ToFloat64(r.Metrics.checks.WithLabelValues(string(k), o.String(), string(why)))
}

func (r *rig) ended() int {
	ch := make(chan prometheus.Metric, 1000)
	r.Metrics.checks.Collect(ch)
	close(ch)
	n := 0.0
	for m := range ch {
		n += testutil.ToFloat64(single{m})
	}
	return int(n)
}

// single makes a Collector of one metric.
type single struct{ prometheus.Metric }

func (s single) Describe(ch chan<- *prometheus.Desc) { ch <- s.Desc() }
func (s single) Collect(ch chan<- prometheus.Metric) { ch <- s.Metric }

// holds makes a member hold one value of any single key that is asked for.
func (r *rig) holds(i int, kv *mvccpb.KeyValue) {
	r.cluster.Members[i].Change(func(m *membertest.Member) {
		m.Range = func(_ context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
			if kv == nil {
				return &pb.RangeResponse{}, nil
			}
			one := proto.Clone(kv).(*mvccpb.KeyValue)
			one.Key = req.GetKey()
			return &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{one}, Count: 1}, nil
		}
	})
}

func (r *rig) allHold(kv *mvccpb.KeyValue) {
	for i := range r.cluster.Members {
		r.holds(i, kv)
	}
}

func red() *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Value: []byte("red"), CreateRevision: 3, ModRevision: 7, Version: 2}
}

// put is a put of red that the first member acknowledged at revision 7, in its present epoch.
func (r *rig) put(key string) Call {
	m := r.cluster.Members[0]
	req, _ := proto.Marshal(&pb.PutRequest{Key: []byte(key), Value: []byte("red")})
	resp, _ := proto.Marshal(&pb.PutResponse{Header: &pb.ResponseHeader{ClusterId: m.ClusterID, MemberId: m.ID, Revision: 7}})
	return Call{Method: methodPut, Endpoint: m.URL, Epoch: r.Members.Epoch(m.URL), Request: req, Responses: [][]byte{resp}}
}

// get is an answer that member i served about the key a.
func (r *rig) get(i int, kv *mvccpb.KeyValue) Call {
	m := r.cluster.Members[i]
	kv.Key = []byte("a")
	req, _ := proto.Marshal(&pb.RangeRequest{Key: kv.Key})
	resp, _ := proto.Marshal(&pb.RangeResponse{Header: &pb.ResponseHeader{ClusterId: m.ClusterID, MemberId: m.ID, Revision: 10}, Kvs: []*mvccpb.KeyValue{kv}, Count: 1})
	return Call{Method: methodRange, Endpoint: m.URL, Epoch: r.Members.Epoch(m.URL), Request: req, Responses: [][]byte{resp}}
}

func (r *rig) reads(i int) (n int) {
	r.cluster.Members[i].Change(func(m *membertest.Member) { n = m.Reads })
	return n
}

func TestHealthyMembersAreConsistentAndSilent(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	r.Observe(r.put("a"))
	if r.verdicts(1, write, judge.Consistent, "") != 1 || r.Log.IsOpen([]byte("a")) {
		t.Fatal("a healthy cluster is accused")
	}
}

func TestADifferingMemberIsNamedOnce(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	blue := red()
	blue.Value = []byte("blue")
	r.holds(2, blue)
	for range 5 {
		r.Observe(r.put("a"))
	}
	r.verdicts(5, write, judge.Divergent, "")
	r.until("a record", func() bool { return len(r.records.all(t)) > 0 })
	got := r.records.all(t)
	if len(got) != 1 || got[0].Key != "a" || got[0].Rule != "PIN" || got[0].Basis != "quorum" || len(got[0].Differs) != 1 || got[0].Differs[0].ID != "3" {
		t.Fatalf("records %+v", got)
	}
}

func TestAnOpenFindingIsHealedByItself(t *testing.T) {
	r := newRig(t, func(s *Shadow) { s.Recheck = 50 * time.Millisecond })
	r.allHold(red())
	r.holds(2, nil)
	r.Observe(r.put("a"))
	r.until("a record", func() bool { return len(r.records.all(t)) == 1 })
	r.allHold(red())
	r.until("healed", func() bool { got := r.records.all(t); return len(got) == 2 && got[1].Event == "healed" })
}

func TestAMemberThatCatchesUpIsWaitedFor(t *testing.T) {
	r := newRig(t, func(s *Shadow) { s.LagBudget = 20 * time.Second })
	r.allHold(red())
	late := r.cluster.Members[2]
	late.Change(func(m *membertest.Member) { m.Revision = 6 })
	r.Observe(r.put("a"))
	r.until("two tries", func() bool { return r.reads(2) >= 2 })
	late.Change(func(m *membertest.Member) { m.Revision = 7 })
	if r.verdicts(1, write, judge.Consistent, "") != 1 {
		t.Fatal("a member that caught up was not compared")
	}
	if r.reads(0) != 1 {
		t.Errorf("%d reads of a member that had answered", r.reads(0))
	}
}

func TestAMemberThatStaysBehindIsInconclusive(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	r.cluster.Members[2].Change(func(m *membertest.Member) { m.Revision = 6 })
	r.Observe(r.put("a"))
	if r.verdicts(1, write, judge.Inconclusive, judge.FutureRev.Reason()) != 1 {
		t.Fatal("no verdict about a member that stays behind")
	}
	if n := r.reads(2); n > 8 {
		t.Errorf("%d reads of a member that is behind", n)
	}
}

func TestACompactionBeforeTheSecondAnswerIsFollowed(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	first := true
	r.cluster.Members[2].Change(func(m *membertest.Member) {
		m.Range = func(_ context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
			if req.GetRevision() == 7 && !first {
				return nil, membertest.ErrCompacted
			}
			first = false
			return &pb.RangeResponse{}, nil // the key is missing
		}
	})
	r.Observe(r.put("a"))
	r.until("a record", func() bool { return len(r.records.all(t)) == 1 })
}

func TestAClaimOfAnOldEpochIsVoid(t *testing.T) {
	r := newRig(t)
	claim := r.put("a")
	old := claim.Epoch
	r.cluster.Members[0].Restart(t)
	r.until("another epoch", func() bool { return r.Members.Epoch(r.cluster.Members[0].URL) > old })
	r.allHold(nil) // nobody holds what was acknowledged: a restored cluster
	r.Observe(claim)
	if r.verdicts(1, write, judge.Consistent, "") != 1 {
		t.Fatal("a void claim made a difference")
	}
	now := r.put("b")
	r.Observe(now)
	if r.verdicts(2, write, judge.Divergent, "") != 1 {
		t.Fatal("the same claim in its own epoch made none")
	}
}

func TestARangeThatCostAMemberIsReadNoMore(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	m := r.cluster.Members[2]
	m.Change(func(m *membertest.Member) {
		m.Range = func(ctx context.Context, _ *pb.RangeRequest) (*pb.RangeResponse, error) {
			go m.Stop()
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	r.Observe(r.put("a"))
	r.until("the range to be poisoned", func() bool { return testutil.ToFloat64(r.Metrics.poison) == 1 })
	n := r.reads(0)
	r.Observe(r.put("a"))
	r.verdicts(2, write, judge.Inconclusive, judge.Poisoned.Reason())
	if r.reads(0) != n {
		t.Error("another member was asked for a range that a member was lost over")
	}
	r.holds(2, red())
	m.Listen(t, m.URL[len("http://"):])
	r.Pause(true) // the operator has looked at it
	r.Pause(false)
	r.until("it to be read again", func() bool {
		r.Observe(r.put("a"))
		return r.verdicts(3, write, judge.Consistent, "") > 0
	})
}

func TestNothingIsSampledTwiceWithinItsLife(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	for range 1000 {
		r.Observe(r.get(0, red()))
	}
	r.until("all but one to be dropped", func() bool {
		return testutil.ToFloat64(r.Metrics.drops.WithLabelValues(string(dropVerified))) == 999
	})
	if r.verdicts(1, read, judge.Consistent, "") != 1 || r.reads(1) != 1 {
		t.Errorf("%d reads of one key", r.reads(1))
	}
}

func TestARefusedWriteIsLookedAtFourTimes(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	req, _ := proto.Marshal(&pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k2"), Value: []byte("x")}}},
		{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k1"), Revision: 1e6}}},
	}})
	r.cluster.Members[0].Change(func(m *membertest.Member) { m.Revision = 9 }) // it missed the write
	r.Observe(Call{Method: methodTxn, Endpoint: r.cluster.Members[0].URL, Request: req, Code: 11})
	if r.verdicts(4, refusedWrite, judge.Consistent, "") != 4 {
		t.Error("not looked at four times at a revision that all can answer")
	}
}

func TestObserveNeverBlocks(t *testing.T) {
	r := &Shadow{Members: &member.Set{}, Log: divergence.New(divergence.Config{Sink: &recordBook{}}), Metrics: NewMetrics(prometheus.NewRegistry()), QueueSize: 10}
	r.Init(generous) // and nobody runs it
	for range 1000 {
		r.Observe(Call{Method: methodRange, Request: make([]byte, 100)})
	}
	r.Observe(Call{Method: methodRange, Request: make([]byte, callBytes+1)})
	if n := testutil.ToFloat64(r.Metrics.drops.WithLabelValues(string(dropQueue))); n != 990 {
		t.Errorf("%v dropped and counted, of 990", n)
	}
	if n := testutil.ToFloat64(r.Metrics.drops.WithLabelValues(string(dropMemory))); n != 1 {
		t.Errorf("%v dropped for their size, of 1", n)
	}
	if held := r.held.Load(); held != 1000 {
		t.Errorf("%d bytes are held by 10 calls of 100", held)
	}
}

func TestAPanicStaysInTheShadow(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	r.Guard(func() { panic("over a call") })
	r.ask.Each(r.Members.Snapshot().Members, func(int, *member.Member) { panic("over a member's answer") })
	if n := testutil.ToFloat64(r.Metrics.drops.WithLabelValues(string(dropPanic))); n != 4 {
		t.Errorf("%v panics counted, of 4", n)
	}
	r.Observe(r.put("a"))
	r.verdicts(1, write, judge.Consistent, "")
}

func TestAPausedShadowReadsNothing(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	r.Pause(true)
	if r.Request(methodPut) != 0 {
		t.Error("a paused shadow wants calls")
	}
	r.Observe(r.put("a"))
	r.until("the check to be dropped", func() bool {
		return testutil.ToFloat64(r.Metrics.drops.WithLabelValues(string(dropPaused))) == 1
	})
	if r.reads(0)+r.reads(1)+r.reads(2) != 0 {
		t.Error("a paused shadow reads")
	}
	r.Pause(false)
	r.Observe(r.put("a"))
	r.verdicts(1, write, judge.Consistent, "")
}

// A differing member that is slow rests after its first answer; what it showed is
// confirmed all the same.
func TestASlowMemberIsConfirmed(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	r.cluster.Members[2].Change(func(m *membertest.Member) {
		m.Range = func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
			time.Sleep(550 * time.Millisecond) // slow: over half a second
			return &pb.RangeResponse{}, nil
		}
	})
	r.Observe(r.put("a"))
	r.until("a record", func() bool { return len(r.records.all(t)) == 1 })
}

// With one member away the others are not asked for every read of a busy key.
func TestABusyKeyIsLeftAloneWhileAMemberIsAway(t *testing.T) {
	r := newRig(t)
	r.allHold(red())
	r.cluster.Members[2].Stop()
	r.Observe(r.get(0, red()))
	r.verdicts(1, read, judge.Inconclusive, judge.Unreachable.Reason())
	before := r.reads(1)
	for range 100 {
		r.Observe(r.get(0, red()))
	}
	r.until("all to be dropped", func() bool {
		return testutil.ToFloat64(r.Metrics.drops.WithLabelValues(string(dropVerified))) == 100
	})
	if n := r.reads(1); n != before {
		t.Errorf("%d more reads of one key within a moment", n-before)
	}
}

// A client that read from the differing member was served the differing answer;
// one that read from another, or wrote, was not.
func TestWhoWasServedTheDifferingAnswer(t *testing.T) {
	blue := red()
	blue.Value = []byte("blue")
	for name, c := range map[string]struct {
		call func(r *rig) Call
		want bool
	}{
		"read from it":   {func(r *rig) Call { return r.get(2, proto.Clone(blue).(*mvccpb.KeyValue)) }, true},
		"read elsewhere": {func(r *rig) Call { return r.get(0, red()) }, false},
		"written":        {func(r *rig) Call { return r.put("a") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.allHold(red())
			r.holds(2, blue)
			r.Observe(c.call(r))
			r.until("a record", func() bool { return len(r.records.all(t)) == 1 })
			if got := r.records.all(t)[0].Trigger.ServedDiffering; got != c.want {
				t.Errorf("served_differing %v, want %v", got, c.want)
			}
		})
	}
}
