package membertest

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
)

// admit is etcd's check of the token, with the member's lock held: Range, Status
// and MemberList take any user.
func (m *Member) admit(ctx context.Context, method string) error {
	if m.User == "" || method == pb.Auth_Authenticate_FullMethodName {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	tokens := md.Get(rpctypes.TokenFieldNameGRPC)
	if len(tokens) == 0 {
		return rpctypes.ErrGRPCUserEmpty
	}
	revision, known := m.tokens[tokens[0]]
	switch {
	case !known:
		return rpctypes.ErrGRPCInvalidAuthToken
	case revision != m.AuthRevision:
		return rpctypes.ErrGRPCAuthOldRevision
	}
	return nil
}

// Authenticate hands out a token.
func (m *Member) Authenticate(ctx context.Context, req *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	m.Lock()
	hold := m.HoldLogin
	m.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	m.Lock()
	defer m.Unlock()
	switch {
	case m.User == "":
		return nil, rpctypes.ErrGRPCAuthNotEnabled
	case req.GetName() != m.User || req.GetPassword() != m.Password:
		return nil, rpctypes.ErrGRPCAuthFailed
	}
	if m.tokens == nil {
		m.tokens = map[string]int{}
	}
	token := fmt.Sprintf("token-%d-%d", m.ID, m.Methods[pb.Auth_Authenticate_FullMethodName])
	m.tokens[token] = m.AuthRevision
	return &pb.AuthenticateResponse{Header: m.header(), Token: token}, nil
}

// AuthStatus answers with the auth revision.
func (m *Member) AuthStatus(context.Context, *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	m.Lock()
	defer m.Unlock()
	return &pb.AuthStatusResponse{Header: m.header(), Enabled: m.User != "", AuthRevision: uint64(m.AuthRevision)}, nil
}

// Forget all tokens, as etcd does with those that nobody used for 5 min.
func (m *Member) Forget() { m.Change(func(m *Member) { m.tokens = nil }) }
