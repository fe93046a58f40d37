package load

import (
	"context"
	"fmt"
	"math/rand/v2"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-parallax/parallax/e2e/bench/raw"
)

const (
	// ring is how many keys are read and written in turn.
	ring = 1000

	kib = 1 << 10

	getPrefix   = "/bench/get/"
	putPrefix   = "/bench/put/"
	txnPrefix   = "/bench/txn/"
	watchPrefix = "/bench/watch/"
)

// list is a prefix with so many values of one size.
type list struct {
	prefix      string
	count, size int
}

func smallList() list { return list{"/bench/list500/", 500, kib} }

// bigList is 100 MB; smoke tests have no time for it.
func bigList(quick bool) list {
	if quick {
		return list{"/bench/list10k/", 1000, 10 * kib}
	}
	return list{"/bench/list10k/", 10000, 10 * kib}
}

// request is one call. Its caller never has two under way.
type request func(context.Context, ...grpc.CallOption) error

// maker makes the request of one caller.
type maker func(conn *grpc.ClientConn, caller int) request

func key(prefix string, i int) []byte { return fmt.Appendf(nil, "%s%06d", prefix, i) }

// turns gives a caller its keys, one after the other. Callers begin far apart.
func turns(caller int) func() int {
	i := caller * 31
	return func() int { i++; return i % ring }
}

func get(conn *grpc.ClientConn, caller int, serializable bool) request {
	kv, next := etcdserverpb.NewKVClient(conn), turns(caller)
	return func(ctx context.Context, opts ...grpc.CallOption) error {
		resp, err := kv.Range(ctx, &etcdserverpb.RangeRequest{Key: key(getPrefix, next()), Serializable: serializable}, opts...)
		if err == nil && (len(resp.Kvs) != 1 || len(resp.Kvs[0].Value) != kib) {
			return fmt.Errorf("get: wrong answer with %d keys", len(resp.Kvs))
		}
		return err
	}
}

func linearizable(conn *grpc.ClientConn, caller int) request { return get(conn, caller, false) }
func serializable(conn *grpc.ClientConn, caller int) request { return get(conn, caller, true) }

func put(conn *grpc.ClientConn, caller int) request {
	kv, next, val := etcdserverpb.NewKVClient(conn), turns(caller), value(kib)
	return func(ctx context.Context, opts ...grpc.CallOption) error {
		_, err := kv.Put(ctx, &etcdserverpb.PutRequest{Key: key(putPrefix, next()), Value: val}, opts...)
		return err
	}
}

// txn writes as kube-apiserver does: put if the key is still as it was read, or else get it.
func txn(conn *grpc.ClientConn, caller int) request {
	kv, k, val := etcdserverpb.NewKVClient(conn), key(txnPrefix, caller), value(kib)
	seen := int64(0)
	return func(ctx context.Context, opts ...grpc.CallOption) error {
		resp, err := kv.Txn(ctx, &etcdserverpb.TxnRequest{
			Compare: []*etcdserverpb.Compare{{
				Key: k, Target: etcdserverpb.Compare_MOD, Result: etcdserverpb.Compare_EQUAL,
				TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: seen},
			}},
			Success: []*etcdserverpb.RequestOp{putOp(k, val)},
			Failure: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: k}}}},
		}, opts...)
		switch {
		case err != nil:
			return err
		case resp.Succeeded:
			seen = resp.Header.Revision
		case len(resp.Responses) == 1 && len(resp.Responses[0].GetResponseRange().GetKvs()) == 1:
			seen = resp.Responses[0].GetResponseRange().Kvs[0].ModRevision // the first: an earlier round wrote the key
		default:
			return fmt.Errorf("txn: failed, and its get found nothing")
		}
		return nil
	}
}

func putOp(key, value []byte) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: key, Value: value}}}
}

// listing reads a whole prefix, and decodes nothing: only the proxy's price is asked for.
func listing(l list) maker {
	return func(conn *grpc.ClientConn, _ int) request {
		message, err := proto.Marshal(&etcdserverpb.RangeRequest{Key: []byte(l.prefix), RangeEnd: prefixEnd(l.prefix)})
		return func(ctx context.Context, opts ...grpc.CallOption) error {
			if err != nil {
				return err
			}
			var answer mem.BufferSlice
			err := conn.Invoke(ctx, etcdserverpb.KV_Range_FullMethodName, mem.BufferSlice{mem.SliceBuffer(message)}, &answer,
				append(opts, grpc.ForceCodecV2(raw.Codec{}))...)
			if err != nil {
				return err
			}
			length := answer.Len()
			answer.Free()
			if length < l.count*l.size {
				return fmt.Errorf("list: %d bytes, want more than %d values of %d", length, l.count, l.size)
			}
			return nil
		}
	}
}

func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

// value is random, the same in every run, and does not compress.
func value(size int) []byte {
	random := rand.NewChaCha8([32]byte{})
	b := make([]byte, size)
	_, _ = random.Read(b) // never fails
	return b
}
