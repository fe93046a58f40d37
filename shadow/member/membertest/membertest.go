// Package membertest is a cluster of scripted members for tests: real gRPC
// servers on loopback that answer what a test tells them. It stands in for what
// a real etcd cannot be made to do at will: answer for another member, die in
// the middle of a read, compact between two reads.
package membertest

import (
	"context"
	"net"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Cluster of scripted members.
type Cluster struct {
	ID      uint64
	Members []*Member
}

// Member answers as its fields say. Use Change once it serves.
type Member struct {
	sync.Mutex
	ID, ClusterID uint64
	Revision      int64 // in the header of every answer; a higher one that is asked for is FutureRev
	Learner       bool
	Leader        uint64
	StatusErr     error
	// Range answers a read; nil is an empty store at any revision.
	Range   func(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error)
	Reads   int             // so far
	Methods map[string]bool // that were called so far

	URL     string
	cluster *Cluster
	server  *grpc.Server

	pb.UnimplementedMaintenanceServer
	pb.UnimplementedClusterServer
}

// Start n members with ids from 1 on, in cluster 100, all at revision.
func Start(t testing.TB, n int, revision int64) *Cluster {
	c := &Cluster{ID: 100}
	for i := range n {
		m := &Member{ID: uint64(i + 1), ClusterID: c.ID, Revision: revision, Leader: 1, cluster: c}
		m.Listen(t, "127.0.0.1:0")
		c.Members = append(c.Members, m)
	}
	t.Cleanup(func() {
		for _, m := range c.Members {
			m.Stop()
		}
	})
	return c
}

// URLs of all members.
func (c *Cluster) URLs() []string {
	var urls []string
	for _, m := range c.Members {
		urls = append(urls, m.URL)
	}
	return urls
}

// Listen starts the member's server.
func (m *Member) Listen(t testing.TB, addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	m.Lock()
	defer m.Unlock()
	m.URL = "http://" + l.Addr().String()
	m.server = grpc.NewServer(grpc.UnaryInterceptor(m.note))
	pb.RegisterKVServer(m.server, kvServer{Member: m})
	pb.RegisterMaintenanceServer(m.server, m)
	pb.RegisterClusterServer(m.server, m)
	go func(s *grpc.Server) { _ = s.Serve(l) }(m.server)
}

func (m *Member) note(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	m.Change(func(m *Member) {
		if m.Methods == nil {
			m.Methods = map[string]bool{}
		}
		m.Methods[info.FullMethod] = true
	})
	return next(ctx, req)
}

// Stop ends the member with all its connections, as a kill does.
func (m *Member) Stop() {
	m.Lock()
	server := m.server
	m.Unlock()
	server.Stop()
}

// Change the member while it serves.
func (m *Member) Change(f func(*Member)) {
	m.Lock()
	defer m.Unlock()
	f(m)
}

// Restart stops the member and starts it at the same address.
func (m *Member) Restart(t testing.TB) {
	m.Stop()
	m.Listen(t, m.URL[len("http://"):])
}

func (m *Member) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: m.ClusterID, MemberId: m.ID, Revision: m.Revision, RaftTerm: 2}
}

// Status answers with the member's ids.
func (m *Member) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	m.Lock()
	defer m.Unlock()
	if m.StatusErr != nil {
		return nil, m.StatusErr
	}
	return &pb.StatusResponse{Header: m.header(), Leader: m.Leader, IsLearner: m.Learner}, nil
}

// MemberList lists all members of the cluster.
func (m *Member) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	m.Lock()
	resp := &pb.MemberListResponse{Header: m.header()}
	m.Unlock()
	for _, o := range m.cluster.Members {
		o.Lock()
		resp.Members = append(resp.Members, &pb.Member{ID: o.ID, Name: string(rune('A' + o.ID - 1)), ClientURLs: []string{o.URL}, IsLearner: o.Learner})
		o.Unlock()
	}
	return resp, nil
}

// kvServer keeps the RPC Range apart from the field of that name.
type kvServer struct {
	*Member
	pb.UnimplementedKVServer
}

func (s kvServer) Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.Lock()
	s.Reads++
	header, answer := s.header(), s.Member.Range
	s.Unlock()
	if !req.GetSerializable() || req.GetRevision() == 0 || req.GetLimit() != 0 || req.GetKeysOnly() {
		return nil, status.Error(codes.Internal, "a shadow read that is not of the one form")
	}
	if req.GetRevision() > header.GetRevision() {
		return nil, ErrFutureRev
	}
	resp := &pb.RangeResponse{}
	if answer != nil {
		var err error
		if resp, err = answer(ctx, req); err != nil {
			return nil, err
		}
	}
	if resp.Header == nil {
		resp.Header = header
	}
	return resp, nil
}

// The two refusals that share a code, as etcd words them.
var (
	ErrFutureRev = status.Error(codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision")
	ErrCompacted = status.Error(codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
)
