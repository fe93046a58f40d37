package sweep

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is what a fake member holds: the same at every revision, until a test
// changes it.
type store struct {
	mu        sync.Mutex
	kvs       []*mvccpb.KeyValue // ascending
	compacted int64

	walked []int // entries of the index, by read
	read   map[string]int
	before func(req *pb.RangeRequest) error // nil: nothing
}

func (s *store) set(kvs []*mvccpb.KeyValue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kvs, s.walked, s.read, s.before, s.compacted = kvs, nil, map[string]int{}, nil, 0
}

func (s *store) find(key []byte) int {
	return sort.Search(len(s.kvs), func(i int) bool { return bytes.Compare(s.kvs[i].Key, key) >= 0 })
}

// answer as etcd does: the index is walked to the end whatever the limit, and a key at a
// later revision than is asked for is not there yet.
func (s *store) answer(_ context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil {
		if err := before(req); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.GetRevision() < s.compacted {
		return nil, membertest.ErrCompacted
	}
	first, last := s.find(req.GetKey()), len(s.kvs)
	switch end := req.GetRangeEnd(); {
	case len(end) == 0:
		last = s.find(append(slices.Clone(req.GetKey()), 0))
	case !bytes.Equal(end, []byte{0}):
		last = s.find(end)
	case req.GetKey()[0] != 0xff:
		return nil, fmt.Errorf("an open end: %q", req.GetKey())
	}
	resp := &pb.RangeResponse{}
	size := 0
	for _, kv := range s.kvs[first:max(first, last)] {
		if kv.ModRevision > req.GetRevision() {
			continue
		}
		resp.Count++
		if req.GetLimit() == 0 || resp.Count <= req.GetLimit() {
			resp.Kvs = append(resp.Kvs, kv)
			s.read[string(kv.Key)]++
			size += proto.Size(kv)
		}
	}
	s.walked = append(s.walked, max(0, last-first))
	return resp, nil
}

// bench is a sweep over three fake members.
type bench struct {
	*Sweep
	cluster *membertest.Cluster
	stores  [3]*store
	found   []divergence.Evidence
}

func newBench(t testing.TB) *bench {
	b := &bench{cluster: membertest.Start(t, 3, 100)}
	for i := range b.stores {
		b.stores[i] = &store{}
		b.stores[i].set(nil)
		b.cluster.Members[i].Change(func(m *membertest.Member) { m.Range = b.stores[i].answer })
	}
	set := &member.Set{Endpoints: b.cluster.URLs(), Interval: 50 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = set.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	for deadline := time.Now().Add(20 * time.Second); len(set.Snapshot().Members) < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no three members within 20 s")
		}
	}
	b.Sweep = &Sweep{
		Members: set,
		Ask: &ask.Asker{
			Budget: func() ask.Budget { return Budget(0) }, Guard: func(f func()) { f() }, Paused: func() bool { return false },
			Poison: &ask.Poison{Logger: slog.New(slog.DiscardHandler), Changed: func(int) {}},
			Asked:  func(uint64, judge.Kind) {}, Answered: func(uint64, int) {}, Timeout: Timeout,
		},
		Report: func(e divergence.Evidence) { b.found = append(b.found, e) },
		Progress: func(p Progress) {
			if p.Stalled != "" {
				t.Logf("waits at %.40q: %s", p.Next, p.Stalled)
			}
		},
		LagBudget: 10 * time.Second, Patience: 20 * time.Second,
	}
	return b
}

// hold gives all members the same keys.
func (b *bench) hold(kvs []*mvccpb.KeyValue) {
	b.found = nil
	for _, s := range b.stores {
		s.set(slices.Clone(kvs))
	}
}

func (b *bench) once(t testing.TB, from, prefix string) Result {
	t.Helper()
	r, err := b.Once(context.Background(), []byte(from), []byte(prefix))
	if err != nil {
		t.Fatal(err)
	}
	if r.Next != nil {
		t.Fatalf("ended at %q", r.Next)
	}
	return r
}

// differing keys that were reported.
func (b *bench) differing() []string {
	var keys []string
	for _, e := range b.found {
		keys = append(keys, string(e.Key))
	}
	return keys
}

func kvs(keys []string, size int) []*mvccpb.KeyValue {
	slices.Sort(keys)
	var all []*mvccpb.KeyValue
	for _, k := range slices.Compact(keys) {
		all = append(all, &mvccpb.KeyValue{Key: []byte(k), Value: make([]byte, size), CreateRevision: 5, ModRevision: 7, Version: 2})
	}
	return all
}
