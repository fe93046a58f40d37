package fault

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// futureRevision is one that no test reaches.
const futureRevision = 1 << 40

// Txn18667 sends the transaction of https://github.com/etcd-io/etcd/issues/18667,
// a put together with a get at a future revision, through a client of one
// member. Every etcd refuses it, and then Txn18667 returns nil. Up to 3.6.16
// only the member that was asked refuses: the others leave the get out, since
// nobody waits for its answer there, and put. They are a revision ahead from
// then on. From 3.7 on no member puts.
func Txn18667(ctx context.Context, member *clientv3.Client, getKey, putKey, value string) error {
	if n := len(member.Endpoints()); n != 1 {
		return fmt.Errorf("txn of etcd issue 18667: the client has %d endpoints, want that of one member", n)
	}
	_, err := member.Txn(ctx).Then(
		clientv3.OpPut(putKey, value),
		clientv3.OpGet(getKey, clientv3.WithRev(futureRevision)),
	).Commit()
	switch {
	case err == nil:
		return errors.New("txn of etcd issue 18667: the member accepted it, want FutureRev")
	case !errors.Is(err, rpctypes.ErrFutureRev):
		return fmt.Errorf("txn of etcd issue 18667: want FutureRev: %w", err)
	}
	return nil
}
