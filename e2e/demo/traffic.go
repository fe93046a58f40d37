package main

import (
	"context"
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	// turn is how often each writer writes: with the writers below, 20 writes a
	// second. It reads every second time.
	turn = 150 * time.Millisecond

	// requestTimeout turns a request that hangs into an error that is counted.
	requestTimeout = 5 * time.Second
)

// objects are what each writer looks after, as the controllers behind a
// kube-apiserver do. No two write the same key.
var objects = [][]string{
	{"/registry/pods/default/web-0", "/registry/pods/default/web-1", "/registry/pods/default/cart-0"},
	{"/registry/deployments/default/web", cartKey, "/registry/services/specs/default/web"},
	{"/registry/minions/node-1", "/registry/minions/node-2", "/registry/leases/kube-node-lease/node-1"},
}

// traffic of clients, all of it through Parallax.
type traffic struct {
	clients []*clientv3.Client // each has one connection, and so one member

	writes, reads, conflicts, failed atomic.Int64

	mu      sync.Mutex
	failure error // the first
}

// newTraffic connects the clients; run lets them work.
func newTraffic(endpoint string) (*traffic, error) {
	t := &traffic{}
	for range objects {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
		if err != nil {
			t.close()
			return nil, err
		}
		t.clients = append(t.clients, client)
	}
	return t, nil
}

func (t *traffic) close() {
	for _, client := range t.clients {
		_ = client.Close() // the end of its context, which nobody waits for
	}
}

// run is one writer: it writes its objects in turn, and reads some again.
func (t *traffic) run(ctx context.Context, i int) {
	known := make(map[string]int64) // mod_revision, 0: the key is to be created
	tick := time.NewTicker(turn)
	defer tick.Stop()
	// The writers take turns, so that the revision rises evenly.
	offset := time.NewTimer(time.Duration(i) * turn / time.Duration(len(objects)))
	defer offset.Stop()
	select {
	case <-ctx.Done():
		return
	case <-offset.C:
		tick.Reset(turn)
	}
	for n := 0; ; n++ {
		key := objects[i][n%len(objects[i])]
		t.count(ctx, t.write(ctx, t.clients[i], key, known, n), &t.writes)
		if n%2 == 1 {
			t.count(ctx, t.read(ctx, t.clients[i], key), &t.reads)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// write is what kube-apiserver sends for a create or an update: put, unless
// somebody else wrote since, and then tell me what.
func (t *traffic) write(ctx context.Context, client *clientv3.Client, key string, known map[string]int64, n int) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	value := fmt.Sprintf(`{"metadata":{"name":%q},"status":{"observed":%d}}`, path.Base(key), n)
	resp, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", known[key])).
		Then(clientv3.OpPut(key, value)).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return err
	}
	if resp.Succeeded {
		known[key] = resp.Header.Revision
		return nil
	}
	t.conflicts.Add(1)
	known[key] = 0
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		known[key] = kv.ModRevision
	}
	return nil
}

func (t *traffic) read(ctx context.Context, client *clientv3.Client, key string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := client.Get(ctx, key)
	return err
}

func (t *traffic) count(ctx context.Context, err error, acknowledged *atomic.Int64) {
	switch {
	case err == nil:
		acknowledged.Add(1)
	case ctx.Err() == nil: // otherwise it is our own end
		t.failed.Add(1)
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.failure == nil {
			t.failure = err
		}
	}
}

func (t *traffic) String() string {
	text := fmt.Sprintf("%d writes and %d reads acknowledged, %d errors", t.writes.Load(), t.reads.Load(), t.failed.Load())
	if n := t.conflicts.Load(); n > 0 {
		text += fmt.Sprintf(", %d writes met another one", n)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failure != nil {
		text += fmt.Sprintf(" (the first: %v)", t.failure)
	}
	return text
}
