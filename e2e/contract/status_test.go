package contract

import (
	"context"
	"errors"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Points 3 and 4: code, exact message, details and trailers of what goes wrong; metadata both ways.
func statusPoints() []point {
	return []point{
		{name: "errors", run: etcdErrors},
		{name: "errors of a watch", run: watchErrors},
		{name: "the client's version reaches the member", run: clientVersion},
	}
}

// Clients know errors by their text, and kube-apiserver makes other errors of them.
func etcdErrors(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	conn := p.grpc(t)
	kv, lease, members, auth, upkeep := pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewClusterClient(conn), pb.NewAuthClient(conn), pb.NewMaintenanceClient(conn)
	ctx := patient(t)
	k := []byte(key(t, "errors"))
	var compacted int64
	for range 3 {
		put, err := kv.Put(ctx, &pb.PutRequest{Key: k})
		if err != nil {
			t.Fatal(err)
		}
		compacted = put.Header.Revision
	}
	if _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: compacted}); err != nil {
		t.Fatal(err)
	}
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: k}}}
	many := make([]*pb.RequestOp, 129)
	for i := range many {
		many[i] = put
	}
	for _, c := range []struct {
		want error
		call func(opts ...grpc.CallOption) error
	}{
		{rpctypes.ErrGRPCCompacted, func(o ...grpc.CallOption) error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: k, Revision: compacted - 1}, o...)
			return err
		}},
		{rpctypes.ErrGRPCFutureRev, func(o ...grpc.CallOption) error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: k, Revision: 1 << 40}, o...)
			return err
		}},
		{rpctypes.ErrGRPCCompacted, func(o ...grpc.CallOption) error {
			_, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: compacted - 1}, o...)
			return err
		}},
		{rpctypes.ErrGRPCEmptyKey, func(o ...grpc.CallOption) error { _, err := kv.Put(ctx, new(pb.PutRequest), o...); return err }},
		{rpctypes.ErrGRPCKeyNotFound, func(o ...grpc.CallOption) error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: append(k, "none"...), IgnoreValue: true}, o...)
			return err
		}},
		{rpctypes.ErrGRPCValueProvided, func(o ...grpc.CallOption) error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: k, Value: k, IgnoreValue: true}, o...)
			return err
		}},
		{rpctypes.ErrGRPCTooManyOps, func(o ...grpc.CallOption) error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: many}, o...)
			return err
		}},
		{rpctypes.ErrGRPCDuplicateKey, func(o ...grpc.CallOption) error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: many[:2]}, o...)
			return err
		}},
		{rpctypes.ErrGRPCLeaseNotFound, func(o ...grpc.CallOption) error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: k, Lease: 4711}, o...)
			return err
		}},
		{rpctypes.ErrGRPCLeaseNotFound, func(o ...grpc.CallOption) error {
			_, err := lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 4711}, o...)
			return err
		}},
		{rpctypes.ErrGRPCLeaseTTLTooLarge, func(o ...grpc.CallOption) error {
			_, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 1 << 40}, o...)
			return err
		}},
		{rpctypes.ErrGRPCMemberNotFound, func(o ...grpc.CallOption) error {
			_, err := members.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 4711}, o...)
			return err
		}},
		{rpctypes.ErrGRPCAuthNotEnabled, func(o ...grpc.CallOption) error {
			_, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "n", Password: "p"}, o...)
			return err
		}},
		{rpctypes.ErrGRPCRootUserNotExist, func(o ...grpc.CallOption) error {
			_, err := auth.AuthEnable(ctx, new(pb.AuthEnableRequest), o...)
			return err
		}},
		{rpctypes.ErrGRPCUserNotFound, func(o ...grpc.CallOption) error {
			_, err := auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "nobody"}, o...)
			return err
		}},
		{rpctypes.ErrGRPCBadLeaderTransferee, func(o ...grpc.CallOption) error {
			_, err := upkeep.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 4711}, o...)
			return err
		}},
	} {
		var header, trailer metadata.MD
		err := c.call(grpc.Header(&header), grpc.Trailer(&trailer))
		if !errors.Is(rpctypes.Error(err), rpctypes.Error(c.want)) {
			t.Errorf("%v, want %v", err, c.want)
		}
		got := status.Convert(err)
		saw.say("%v %q details %v header %q trailer %q", got.Code(), got.Message(), got.Details(), plain(header), plain(trailer))
	}
	return saw
}

func watchErrors(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	c := p.client(t)
	k := key(t, "compacted")
	var last int64
	for range 3 {
		put, err := c.Put(patient(t), k, "v")
		if err != nil {
			t.Fatal(err)
		}
		last = put.Header.Revision
	}
	if _, err := c.Compact(patient(t), last); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(patient(t))
	defer cancel()
	for r := range c.Watch(ctx, k, clientv3.WithRev(last-2)) {
		if !errors.Is(r.Err(), rpctypes.ErrCompacted) || r.CompactRevision != last {
			t.Errorf("%v at %d, want ErrCompacted at %d", r.Err(), r.CompactRevision, last)
		}
		saw.say("%v canceled=%v", r.Err(), r.Canceled)
	}
	return saw
}

// etcd counts calls by the version that clients say in the metadata.
func clientVersion(t *testing.T, p *plumbing) *transcript {
	version := fmt.Sprintf("9.%d", serial.Add(1))
	ctx := metadata.AppendToOutgoingContext(patient(t), rpctypes.MetadataClientAPIVersionKey, version, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	conn := p.grpc(t)
	const calls = 3
	for range calls {
		if _, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
	}
	saw := new(transcript)
	// Exactly: what the proxy asked on its own would be counted as well.
	saw.say("the member counts %v", p.memberCount(t, "etcd_server_client_requests_total", `client_api_version="`+version+`"`))
	if p.version() >= "3.5" && saw.lines[0] != fmt.Sprintf("the member counts %d", calls) {
		t.Error(saw.lines[0])
	}
	return saw
}
