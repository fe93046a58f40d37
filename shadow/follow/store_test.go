package follow

import (
	"bytes"
	"context"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// store is the multi-version store of a fake member.
type store struct {
	mu        sync.Mutex
	revision  int64
	compacted int64
	keys      [][]byte                      // ascending, all that ever were
	history   map[string][]*mvccpb.KeyValue // ascending by revision; one without a version is a deletion

	ranges []*pb.RangeRequest // as they were asked
	walked []int64            // keys of the index, for each of them
	before func(*pb.RangeRequest)
}

func newStore() *store { return &store{revision: 1, history: map[string][]*mvccpb.KeyValue{}} }

// op is an entry of the log.
type op struct {
	key, value string
	lease      int64
	del        bool
}

// apply an entry, as etcd does. A deletion of what is not there makes no revision.
func (s *store) apply(o op) { s.write(o, s.revision+1) }

func (s *store) write(o op, revision int64) {
	last := s.at(o.key, revision)
	if o.del && last == nil {
		return
	}
	kv := &mvccpb.KeyValue{Key: []byte(o.key), ModRevision: revision, CreateRevision: revision, Version: 1, Value: []byte(o.value), Lease: o.lease}
	switch {
	case o.del:
		kv = &mvccpb.KeyValue{Key: kv.Key, ModRevision: revision}
	case last != nil:
		kv.CreateRevision, kv.Version = last.CreateRevision, last.Version+1
	}
	if i, found := slices.BinarySearchFunc(s.keys, kv.Key, bytes.Compare); !found {
		s.keys = slices.Insert(s.keys, i, kv.Key)
	}
	s.history[o.key] = append(s.history[o.key], kv)
	s.revision = revision
}

// at is the key at a revision, or nil.
func (s *store) at(key string, revision int64) *mvccpb.KeyValue {
	for _, kv := range slices.Backward(s.history[key]) {
		if kv.ModRevision <= revision {
			if kv.Version == 0 {
				return nil
			}
			return kv
		}
	}
	return nil
}

// serve answers a read.
func (s *store) serve(_ context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil {
		before(req)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ranges = append(s.ranges, req)
	if req.GetRevision() < s.compacted {
		return nil, membertest.ErrCompacted
	}
	from, _ := slices.BinarySearchFunc(s.keys, req.GetKey(), bytes.Compare)
	resp, walked := &pb.RangeResponse{}, int64(0)
	for _, key := range s.keys[from:] {
		if len(req.GetRangeEnd()) == 0 && !bytes.Equal(key, req.GetKey()) || len(req.GetRangeEnd()) > 0 && bytes.Compare(key, req.GetRangeEnd()) >= 0 {
			break
		}
		walked++
		if kv := s.at(string(key), req.GetRevision()); kv != nil {
			resp.Count++
			if req.GetLimit() == 0 || int64(len(resp.Kvs)) < req.GetLimit() {
				resp.Kvs = append(resp.Kvs, kv)
			}
		}
	}
	resp.More = resp.Count > int64(len(resp.Kvs))
	s.walked = append(s.walked, walked)
	return resp, nil
}

// on makes a member answer from the store.
func (s *store) on(m *membertest.Member) {
	m.Change(func(m *membertest.Member) { m.Range, m.Revision = s.serve, s.revision })
}

func (s *store) compact(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = revision
}

func (s *store) asked() []*pb.RangeRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ranges)
}

// hook calls a function before each answer, without the store's lock.
func (s *store) hook(f func(*pb.RangeRequest)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}
