// Package member knows who the members of an etcd cluster are, and asks them.
//
// Every member has one gRPC connection of ours, apart from the clients'. Its
// TCP connections are numbered: the number is the member's epoch, and an answer
// proves something only within one epoch (docs/detection.md, vocabulary).
//
// GUARANTEE G4: this package calls Range, Status, MemberList, LeaseLeases and, for
// who opted in to it, AuthStatus and HashKV; with a Login also Authenticate, where a member
// refuses one of these for want of a user; and nothing else. All of them only
// read. (AuthStatus, and an Authenticate that succeeds, append an entry to the
// raft log, which changes no key, lease, member, user or setting.)
package member

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Member of the cluster, as a snapshot.
type Member struct {
	ID      uint64
	Name    string
	URL     string // at which it is asked
	Learner bool

	cluster uint64
	link    *link
}

// Epoch of the member's connection now.
func (m *Member) Epoch() uint64 { return m.link.epoch.Load() }

// Reply to one read.
type Reply struct {
	Range *pb.RangeResponse // nil when Err is set
	Err   error             // as the member or gRPC gave it
	Epoch uint64            // of the connection that carried the answer
	// Changed: the epoch changed during the call, so that nobody can tell
	// which connection answered.
	Changed bool
	// Foreign: another cluster or member answered than was asked.
	Foreign bool
	// Lost: the connection broke while the read was under way. An etcd whose
	// index names a record that its backend lacks exits on such a read.
	Lost  bool
	Bytes int // of the answer
}

// Turn waits until no other shadow request is under way at the member.
// GUARANTEE G6: one is in flight per member. All that asks the member is called
// between Turn and the release that it returns.
func (m *Member) Turn(ctx context.Context) (release func(), err error) {
	select {
	case m.link.turn <- struct{}{}:
		return func() { <-m.link.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Range asks the member for one pinned read; of a range that has an end for at most limit keys, 0 is all.
func (m *Member) Range(ctx context.Context, key, end []byte, revision, limit int64) Reply {
	// One form only: full key-values, ascending by key, no sort, no filter, no
	// keys_only. keys_only leaves out the lease on ≥ 3.7.0 (etcd #22209), a sort
	// with ties differs between Go versions. A limit does not limit the walk of
	// the index: the end does.
	req := &pb.RangeRequest{Key: key, RangeEnd: end, Revision: revision, Limit: limit, Serializable: true}
	epoch, lost := m.link.epoch.Load(), m.link.lost.Load()
	resp, err := m.link.kv.Range(ctx, req)
	r := Reply{Range: resp, Err: err, Epoch: epoch}
	r.Changed = m.link.epoch.Load() != epoch
	if err != nil {
		r.Range = nil
		r.Lost = status.Code(err) == codes.Unavailable && m.link.lost.Load() != lost
		return r
	}
	r.Bytes = proto.Size(resp)
	r.Foreign = resp.GetHeader().GetClusterId() != m.cluster || resp.GetHeader().GetMemberId() != m.ID
	return r
}

// Revision asks the member for its current revision.
func (m *Member) Revision(ctx context.Context) (int64, error) {
	resp, err := pb.NewMaintenanceClient(m.link.conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return 0, err
	}
	return resp.GetHeader().GetRevision(), nil
}

// Answer to a question that is not about keys.
type Answer[T any] struct {
	Body    T      // nil when Err is set
	Err     error  // as the member or gRPC gave it
	Epoch   uint64 // of the connection that carried the answer
	Changed bool   // the epoch, during the call
	Foreign bool   // another cluster or member answered than was asked
	Bytes   int    // of the answer
}

// Status of the member. It reads the revision first, then the committed and then
// the applied index; a learner answers it, too.
func (m *Member) Status(ctx context.Context) Answer[*pb.StatusResponse] {
	return ask(ctx, m, pb.NewMaintenanceClient(m.link.conn).Status, &pb.StatusRequest{})
}

// absent is a key that nobody writes. It lies within what READ on the whole key
// space covers, which begins at "\x00".
const absent = "\x00parallax\x00absent"

// ReadIndex asks for the revision that the member is at once it has applied all
// that the cluster had committed: the header of a linearizable count of one absent
// key. It costs no log entry. A learner refuses it; a member without a leader
// waits for one.
func (m *Member) ReadIndex(ctx context.Context) Answer[*pb.RangeResponse] {
	return ask(ctx, m, m.link.kv.Range, &pb.RangeRequest{Key: []byte(absent), CountOnly: true})
}

// LeaseLeases asks which leases the member itself has. A learner refuses it.
func (m *Member) LeaseLeases(ctx context.Context) Answer[*pb.LeaseLeasesResponse] {
	return ask(ctx, m, pb.NewLeaseClient(m.link.conn).LeaseLeases, &pb.LeaseLeasesRequest{})
}

// MemberList asks for the member's own list. A learner refuses it.
func (m *Member) MemberList(ctx context.Context) Answer[*pb.MemberListResponse] {
	return ask(ctx, m, pb.NewClusterClient(m.link.conn).MemberList, &pb.MemberListRequest{})
}

// AuthStatus asks for the member's auth revision. It goes through the raft log, as
// an entry; etcd before 3.5 does not have it, and up to 3.6 it wants the root role.
func (m *Member) AuthStatus(ctx context.Context) Answer[*pb.AuthStatusResponse] {
	return ask(ctx, m, pb.NewAuthClient(m.link.conn).AuthStatus, &pb.AuthStatusRequest{})
}

// HashKV asks for a hash of what the member holds up to a revision. It holds the
// member's locks for a scan of all keys, wants the root role, and proves nothing
// by itself: only an operator asks for it.
func (m *Member) HashKV(ctx context.Context, revision int64) Answer[*pb.HashKVResponse] {
	return ask(ctx, m, pb.NewMaintenanceClient(m.link.conn).HashKV, &pb.HashKVRequest{Revision: revision})
}

// answer of any service of etcd.
type answer interface {
	proto.Message
	GetHeader() *pb.ResponseHeader
}

func ask[Q any, T answer](ctx context.Context, m *Member, call func(context.Context, Q, ...grpc.CallOption) (T, error), question Q) Answer[T] {
	epoch := m.link.epoch.Load()
	resp, err := call(ctx, question)
	a := Answer[T]{Err: err, Epoch: epoch, Changed: m.link.epoch.Load() != epoch}
	if err == nil {
		a.Body, a.Bytes = resp, proto.Size(resp)
		a.Foreign = resp.GetHeader().GetClusterId() != m.cluster || resp.GetHeader().GetMemberId() != m.ID
	}
	return a
}
