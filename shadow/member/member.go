// Package member knows who the members of an etcd cluster are, and asks them.
//
// Every member has one gRPC connection of ours, apart from the clients'. Its
// TCP connections are numbered: the number is the member's epoch, and an answer
// proves something only within one epoch (docs/detection.md, vocabulary).
//
// GUARANTEE G4: this package calls Range with serializable set, Status and
// MemberList; with a Login also Authenticate, where a member refuses one of these
// for want of a user; and nothing else. An Authenticate that succeeds appends an
// entry to the raft log, which changes no key, lease, member, user or setting.
package member

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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
// GUARANTEE G6: one is in flight per member. Range and Revision are called
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
