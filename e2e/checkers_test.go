package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// checkers are clients that do all kinds of calls, each on keys of its own, and check every answer.
type checkers struct {
	rounds atomic.Int64 // of all clients
	ctx    context.Context
	cancel context.CancelFunc
	group  *errgroup.Group
}

func newCheckers() *checkers {
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	return &checkers{ctx: ctx, cancel: cancel, group: group}
}

// startCheckers starts n clients at the endpoint, each with a connection of its own.
func startCheckers(t testing.TB, endpoint, prefix string, n int) *checkers {
	t.Helper()
	w := newCheckers()
	for i := range n {
		c := connect(t, endpoint)
		w.group.Go(func() error { return w.run(c, fmt.Sprintf("%s/%d/", prefix, i)) })
	}
	t.Cleanup(func() {
		w.cancel()
		_ = w.group.Wait() // the test that minds has waited
	})
	return w
}

// stop ends the clients. Any answer that was not as it should be is an error of the test.
func (w *checkers) stop(t testing.TB) {
	t.Helper()
	w.cancel()
	if err := w.group.Wait(); err != nil {
		t.Errorf("a client noticed: %v", err)
	}
	if w.rounds.Load() == 0 {
		t.Error("the clients did nothing")
	}
}

// some waits until the clients have done n more rounds.
func (w *checkers) some(t testing.TB, n int64) {
	t.Helper()
	until := w.rounds.Load() + n
	eventually(t, 2*time.Minute, fmt.Sprintf("%d rounds of the clients", n), func() bool { return w.rounds.Load() >= until })
}

// callTimeout is generous: what is looked for is a call that fails or never ends.
const callTimeout = 20 * time.Second

func (w *checkers) run(c *clientv3.Client, prefix string) error {
	events := c.Watch(w.ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(1))
	for n := 0; w.ctx.Err() == nil; n++ {
		// A call that has begun is finished: an end in the middle of it would tell nothing.
		round, cancel := context.WithTimeout(context.Background(), callTimeout)
		err := oneRound(round, c, prefix, n, events)
		cancel()
		if err != nil {
			if w.ctx.Err() != nil && errors.Is(err, errWatchEnded) {
				return nil // by stop
			}
			return fmt.Errorf("round %d: %w", n, err)
		}
		w.rounds.Add(1)
	}
	return nil
}

var errWatchEnded = errors.New("the watch has ended")

// oneRound writes two keys, reads them in several ways, deletes one, and wants to see all that in the watch.
func oneRound(ctx context.Context, c *clientv3.Client, prefix string, n int, events clientv3.WatchChan) error {
	key, value := prefix+"a", fmt.Sprintf("value %d", n)
	put, err := c.Put(ctx, key, value)
	if err != nil {
		return err
	}
	revision := put.Header.Revision
	got, err := c.Get(ctx, key)
	if err != nil {
		return err
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value || got.Kvs[0].ModRevision != revision || got.Kvs[0].Version != int64(n+1) {
		return fmt.Errorf("put %q at revision %d, got %v", value, revision, got.Kvs)
	}
	txn, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(prefix+"b", value), clientv3.OpGet(key)).Commit()
	if err != nil {
		return err
	}
	if !txn.Succeeded || len(txn.Responses) != 2 || string(txn.Responses[1].GetResponseRange().Kvs[0].Value) != value {
		return fmt.Errorf("txn after revision %d: %v", revision, txn)
	}
	list, err := c.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if list.Count != 2 || len(list.Kvs) != 2 || list.Header.Revision < txn.Header.Revision {
		return fmt.Errorf("list after revision %d: %v", txn.Header.Revision, list)
	}
	if _, err := c.Get(ctx, key, clientv3.WithRev(1<<40)); !errors.Is(err, rpctypes.ErrFutureRev) {
		return fmt.Errorf("get at a future revision: %w", err)
	}
	deleted, err := c.Delete(ctx, prefix+"b", clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	if deleted.Deleted != 1 || string(deleted.PrevKvs[0].Value) != value {
		return fmt.Errorf("delete of %q: %v", value, deleted)
	}
	return seen(ctx, events, revision, txn.Header.Revision, deleted.Header.Revision)
}

// seen wants the watch to deliver exactly these revisions, in order.
func seen(ctx context.Context, events clientv3.WatchChan, revisions ...int64) error {
	for len(revisions) > 0 {
		select {
		case r, ok := <-events:
			if !ok || r.Err() != nil {
				return errors.Join(errWatchEnded, r.Err())
			}
			for _, e := range r.Events {
				if len(revisions) == 0 || e.Kv.ModRevision != revisions[0] {
					return fmt.Errorf("watch: %v, want revisions %v", e, revisions)
				}
				revisions = revisions[1:]
			}
		case <-ctx.Done():
			return fmt.Errorf("the watch is silent about revisions %v: %w", revisions, ctx.Err())
		}
	}
	return nil
}
