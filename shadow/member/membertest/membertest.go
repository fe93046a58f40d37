// Package membertest is a cluster of scripted members for tests: real gRPC
// servers on loopback that answer what a test tells them. It stands in for what
// a real etcd cannot be made to do at will: answer for another member, die in
// the middle of a read, compact between two reads.
package membertest

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Cluster of scripted members.
type Cluster struct {
	ID      uint64
	Members []*Member
	tls     *tls.Config // nil: plaintext
}

// Member answers as its fields say. Use Change once it serves.
type Member struct {
	sync.Mutex
	ID, ClusterID uint64
	Revision      int64 // in the header of every answer; a higher one that is asked for is FutureRev
	RaftIndex     uint64
	Applied       uint64
	Learner       bool
	Leader        uint64
	Version       string
	Errors        []string // of Status: alarms
	StatusErr     error
	ReadErr       error
	Refuse        map[string]error // by method, before anything else
	Leases        []int64
	List          []*pb.Member // nil: the members of the cluster that are not Removed
	Slow          bool         // Status is not answered; HTTP/2 is
	Removed       bool         // from the member list
	// User and Password that the member asks for; none where User is empty.
	User, Password string
	JWT            bool          // tokens that outlive the member
	HoldLogin      chan struct{} // Authenticate answers when it is closed; nil: at once
	AuthRevision   int           // tokens of an older one are refused
	// Range answers a read; nil is an empty store at any revision.
	Range      func(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error)
	Reads      int             // so far
	Methods    map[string]int  // called so far
	LastStatus time.Time       // answered
	CNs        map[string]bool // of the client certificates so far

	URL     string
	cluster *Cluster
	server  *grpc.Server
	tokens  map[string]int // token → its auth revision

	pb.UnimplementedMaintenanceServer
	pb.UnimplementedClusterServer
	pb.UnimplementedAuthServer
	pb.UnimplementedLeaseServer
}

// Start n members with ids from 1 on, in cluster 100, all at revision.
func Start(t testing.TB, n int, revision int64) *Cluster { return start(t, n, revision, nil) }

// StartTLS starts members that ask clients for a certificate of the authority.
func StartTLS(t testing.TB, n int, revision int64, a *Authority) *Cluster {
	return start(t, n, revision, a.Server(t))
}

func start(t testing.TB, n int, revision int64, secured *tls.Config) *Cluster {
	c := &Cluster{ID: 100, tls: secured}
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
	options := []grpc.ServerOption{grpc.UnaryInterceptor(m.note), grpc.UnknownServiceHandler(m.unknown)}
	if m.cluster.tls != nil {
		m.URL = "https://" + l.Addr().String()
		options = append(options, grpc.Creds(credentials.NewTLS(m.cluster.tls)))
	}
	if !m.JWT {
		m.tokens = nil // simple ones live in memory
	}
	m.server = grpc.NewServer(options...)
	pb.RegisterAuthServer(m.server, m)
	pb.RegisterKVServer(m.server, kvServer{Member: m})
	pb.RegisterMaintenanceServer(m.server, m)
	pb.RegisterClusterServer(m.server, m)
	pb.RegisterLeaseServer(m.server, m)
	go func(s *grpc.Server) { _ = s.Serve(l) }(m.server)
}

// unknown notes calls of services that no test has a use for.
func (m *Member) unknown(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	_, err := m.note(stream.Context(), nil, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
		return nil, status.Error(codes.Unimplemented, method)
	})
	return err
}

func (m *Member) note(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	m.Lock()
	if m.Methods == nil {
		m.Methods, m.CNs = map[string]int{}, map[string]bool{}
	}
	m.Methods[info.FullMethod]++
	if p, ok := peer.FromContext(ctx); ok {
		if t, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			m.CNs[t.State.PeerCertificates[0].Subject.CommonName] = true
		}
	}
	err := m.admit(ctx, info.FullMethod)
	if refusal := m.Refuse[info.FullMethod]; refusal != nil {
		err = refusal
	}
	m.Unlock()
	if err != nil {
		return nil, err
	}
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
	m.Listen(t, m.Addr())
}

// Addr is the URL without its scheme.
func (m *Member) Addr() string {
	_, addr, _ := strings.Cut(m.URL, "://")
	return addr
}

func (m *Member) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: m.ClusterID, MemberId: m.ID, Revision: m.Revision, RaftTerm: 2}
}

// Status answers with the member's ids.
func (m *Member) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	m.Lock()
	slow := m.Slow
	m.Unlock()
	if slow {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	m.Lock()
	defer m.Unlock()
	m.LastStatus = time.Now()
	if m.StatusErr != nil {
		return nil, m.StatusErr
	}
	return &pb.StatusResponse{
		Header: m.header(), Leader: m.Leader, IsLearner: m.Learner, Version: m.Version, Errors: m.Errors,
		RaftIndex: m.RaftIndex, RaftAppliedIndex: m.Applied, RaftTerm: 2,
	}, nil
}

// LeaseLeases answers with the member's own leases.
func (m *Member) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	m.Lock()
	defer m.Unlock()
	resp := &pb.LeaseLeasesResponse{Header: m.header()}
	for _, id := range m.Leases {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id})
	}
	return resp, nil
}

// MemberList is the member's own where it has one and is asked for it, else that
// of the cluster.
func (m *Member) MemberList(_ context.Context, req *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	m.Lock()
	resp := &pb.MemberListResponse{Header: m.header()}
	if m.List != nil && !req.GetLinearizable() {
		resp.Members = m.List
		m.Unlock()
		return resp, nil
	}
	m.Unlock()
	for _, o := range m.cluster.Members {
		o.Lock()
		if !o.Removed {
			resp.Members = append(resp.Members, &pb.Member{ID: o.ID, Name: string(rune('A' + o.ID - 1)), ClientURLs: []string{o.URL}, IsLearner: o.Learner})
		}
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
	header, answer, refusal := s.header(), s.Member.Range, s.ReadErr
	s.Unlock()
	if refusal != nil {
		return nil, refusal
	}
	if req.GetCountOnly() && !req.GetSerializable() && req.GetRevision() == 0 && req.GetRangeEnd() == nil {
		return &pb.RangeResponse{Header: header}, nil // the read of LIN
	}
	if !req.GetSerializable() || req.GetRevision() == 0 || req.GetLimit() != 0 && len(req.GetRangeEnd()) == 0 || req.GetKeysOnly() {
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
