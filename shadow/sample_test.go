package shadow

import (
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

func samplerWith(r Rates, waiting int) *sampler {
	s := &sampler{waiting: func() int { return waiting }}
	s.rates.Store(&r)
	return s
}

// decide asks early and late, as a call that passes does.
func decide(s *sampler, method string, k kind, request []byte, now time.Time) dropped {
	if why, decided := s.early(k, now); decided {
		return why
	}
	why, _ := s.late(method, k, request, now)
	return why
}

func share(s *sampler, k kind, request []byte, n int, apart time.Duration) float64 {
	took := 0
	now := time.Unix(0, 0)
	for range n {
		if decide(s, methodRange, k, request, now) == taken {
			took++
		}
		now = now.Add(apart)
	}
	return float64(took) / float64(n)
}

func TestQuietClusterIsSampledWhole(t *testing.T) {
	s := samplerWith(Rates{ReadsPerSecond: 50, BytesPerSecond: 1, Reads: 0.1, Writes: 1}, 0)
	if got := share(s, read, nil, 1000, 20*time.Millisecond); got != 1 {
		t.Errorf("%v of the reads of a quiet cluster are sampled", got)
	}
}

func TestSharesDecideWhenMoreThanASecondOfWorkWaits(t *testing.T) {
	s := samplerWith(Rates{ReadsPerSecond: 50, BytesPerSecond: 1, Reads: 0.1, Writes: 1}, 50)
	if got := share(s, read, nil, 20000, 20*time.Millisecond); got < 0.08 || got > 0.12 {
		t.Errorf("%v of the reads are sampled, want 0.1", got)
	}
	if got := share(s, write, nil, 1000, 20*time.Millisecond); got != 1 {
		t.Errorf("%v of the writes are sampled, want all", got)
	}
}

func TestShareOfZeroAndBudgetOfZeroMeanNever(t *testing.T) {
	for name, s := range map[string]*sampler{
		"share":  samplerWith(Rates{ReadsPerSecond: 50, BytesPerSecond: 1, Reads: 0, Writes: 1}, 0),
		"reads":  samplerWith(Rates{ReadsPerSecond: 0, BytesPerSecond: 1, Reads: 1, Writes: 1}, 0),
		"bytes":  samplerWith(Rates{ReadsPerSecond: 50, BytesPerSecond: 0, Reads: 1, Writes: 1}, 0),
		"prefix": samplerWith(Rates{ReadsPerSecond: 50, BytesPerSecond: 1, Reads: 1, Prefixes: []PrefixRate{{Prefix: "a"}}}, 0),
	} {
		if got := share(s, read, []byte("\n\x01a"), 100, time.Second); got != 0 {
			t.Errorf("%s: %v of the reads are sampled", name, got)
		}
	}
}

// A burst is thinned out to what the shadow can decode, evenly: no tenth of a
// second, and no place within one, is preferred.
func TestGateThinsOutEvenly(t *testing.T) {
	s := samplerWith(Rates{ReadsPerSecond: 50, BytesPerSecond: 1, Reads: 1, Writes: 1}, 0)
	const perSecond, seconds = 10000, 20
	var byTenth [10]int
	took := 0
	for i := range perSecond * seconds {
		now := time.Unix(0, 0).Add(time.Duration(i) * time.Second / perSecond)
		if i < perSecond { // the first second it learns the rate
			decide(s, methodRange, read, nil, now)
			continue
		}
		if decide(s, methodRange, read, nil, now) == taken {
			took++
			byTenth[i%perSecond*10/perSecond]++
		}
	}
	want := 50.0 * gatePerRead * (seconds - 1)
	if got := float64(took); got < 0.9*want || got > 1.1*want {
		t.Errorf("%v calls were taken, want about %v", got, want)
	}
	for i, n := range byTenth {
		if share := float64(n) / float64(took); share < 0.08 || share > 0.12 {
			t.Errorf("tenth %d of a second got a share of %v", i, share)
		}
	}
}

func TestLongestPrefixWins(t *testing.T) {
	r := &Rates{Reads: 0.1, Writes: 0.2, Prefixes: []PrefixRate{
		{Prefix: "/registry/events/", Reads: 0, Writes: 0},
		{Prefix: "/registry/", Reads: 0.5, Writes: 0.6},
	}}
	for _, c := range []struct {
		kind kind
		key  string
		want float64
	}{
		{read, "/registry/pods/a", 0.5},
		{write, "/registry/pods/a", 0.6},
		{refusedWrite, "/registry/pods/a", 0.6},
		{read, "/registry/events/a", 0},
		{read, "x", 0.1},
		{write, "x", 0.2},
	} {
		if got := r.share(c.kind, []byte(c.key)); got != c.want {
			t.Errorf("%s of %s: share %v, want %v", c.kind, c.key, got, c.want)
		}
	}
}

func TestFirstKeyOfEveryRequest(t *testing.T) {
	key := []byte("/registry/pods/a")
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte("v"), Lease: 3}}}
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}
	compare := &pb.Compare{Result: pb.Compare_GREATER, Target: pb.Compare_MOD, Key: key}
	for _, c := range []struct {
		method string
		req    proto.Message
	}{
		{methodRange, &pb.RangeRequest{Key: key, RangeEnd: []byte("z"), Limit: 1}},
		{methodPut, &pb.PutRequest{Key: key, Value: []byte("x")}},
		{methodDelete, &pb.DeleteRangeRequest{Key: key}},
		{methodTxn, &pb.TxnRequest{Compare: []*pb.Compare{compare}, Success: []*pb.RequestOp{put}}},
		{methodTxn, &pb.TxnRequest{Success: []*pb.RequestOp{put}}},
		{methodTxn, &pb.TxnRequest{Success: []*pb.RequestOp{get}}},
	} {
		b, err := proto.Marshal(c.req)
		if err != nil {
			t.Fatal(err)
		}
		if got := firstKey(c.method, b); string(got) != string(key) {
			t.Errorf("%s %v: got key %q", c.method, c.req, got)
		}
	}
}

func TestVerifiedKeysAreForgotten(t *testing.T) {
	v := newVerified(100, time.Minute)
	now := time.Unix(1000, 0)
	kv := judge.KV{Key: []byte("a"), ModRevision: 7}
	v.add([]judge.KV{kv}, 1, now)
	for _, c := range []struct {
		name   string
		kvs    []judge.KV
		epochs uint64
		after  time.Duration
		want   bool
	}{
		{"at once", []judge.KV{kv}, 1, 0, true},
		{"within its life", []judge.KV{kv}, 1, 59 * time.Second, true},
		{"after its life", []judge.KV{kv}, 1, time.Minute, false},
		{"another connection to a member", []judge.KV{kv}, 2, 0, false},
		{"the key was written again", []judge.KV{{Key: []byte("a"), ModRevision: 8}}, 1, 0, false},
		{"a neighbor was not verified", []judge.KV{kv, {Key: []byte("b"), ModRevision: 7}}, 1, 0, false},
		{"nothing", nil, 1, 0, false},
	} {
		if got := v.all(c.kvs, c.epochs, now.Add(c.after)); got != c.want {
			t.Errorf("%s: verified %v, want %v", c.name, got, c.want)
		}
	}
	for i := range 200 {
		v.add([]judge.KV{{Key: fmt.Append(nil, i)}}, 1, now)
	}
	if v.entries.Len() != 100 {
		t.Errorf("%d keys are remembered, 100 may be", v.entries.Len())
	}
}
