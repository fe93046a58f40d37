package ask

import (
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// kindOf tells what an answer is worth. FutureRev and Compacted share a code:
// they are told apart by their text.
func kindOf(r member.Reply) judge.Kind {
	switch {
	case r.Changed:
		return judge.EpochChanged
	case r.Err == nil && r.Foreign:
		return judge.Foreign
	case r.Err == nil:
		return judge.OK
	}
	switch status.Code(r.Err) {
	case codes.OutOfRange:
		switch rpctypes.ErrorDesc(r.Err) {
		case rpctypes.ErrorDesc(rpctypes.ErrGRPCFutureRev):
			return judge.FutureRev
		case rpctypes.ErrorDesc(rpctypes.ErrGRPCCompacted):
			return judge.Compacted
		}
	case codes.PermissionDenied, codes.Unauthenticated:
		return judge.Denied
	case codes.InvalidArgument: // with authentication on, and no user, or one whose token is of before a change
		switch rpctypes.ErrorDesc(r.Err) {
		case rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty), rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthOldRevision):
			return judge.Denied
		}
	case codes.Unavailable, codes.Canceled:
		return judge.Unreachable
	case codes.DeadlineExceeded:
		return judge.Timeout
	case codes.ResourceExhausted:
		return judge.Exhausted
	}
	return judge.Refused
}

// KVs are the key-values of an answer as the judge takes them.
func KVs(from []*mvccpb.KeyValue) []judge.KV {
	to := make([]judge.KV, len(from))
	for i, kv := range from {
		to[i] = judge.KV{
			Key: kv.GetKey(), Value: kv.GetValue(),
			CreateRevision: kv.GetCreateRevision(), ModRevision: kv.GetModRevision(), Version: kv.GetVersion(), Lease: kv.GetLease(),
		}
	}
	return to
}
