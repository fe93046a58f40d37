package load

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Workload is something to ask for again and again.
type Workload struct {
	// Name is for flags and for the JSON file, Title for the table.
	Name, Title string

	// Unit is what figures are given per.
	Unit string

	// Sparse workloads are measured in every third round only: each takes long.
	Sparse bool

	// Paced workloads have latencies, the others throughput.
	Paced bool

	run func(ctx context.Context, c, direct *Client, m Meter) (Result, error)
}

// Names of workloads.
const (
	Get          = "get"
	Serializable = "get-serializable"
	Put          = "put"
	Txn          = "txn"
	SmallList    = "list-500"
	BigList      = "list-10000"
	FanOut       = "watch"
	PacedGet     = "paced-get"
	PacedPut     = "paced-put"
)

// Options say how much is done.
type Options struct {
	// Measured is how long small requests are measured, after a warm-up of a sixth of it.
	Measured time.Duration

	// Rate of requests per second of the paced workloads.
	Rate int

	// Watchers and Events per second of the fan-out.
	Watchers, Events int

	// Quick makes everything small: to see that it runs, not what it costs.
	Quick bool
}

// Conns is the number of connections of a client.
const Conns = 4

// Workloads returns all, in the order in which they are measured: large answers
// come last, since they leave large heaps behind.
func Workloads(o Options) []Workload {
	big := bigList(o.Quick)
	closed := func(perConn int, of maker, factor float64) func(context.Context, *Client, *Client, Meter) (Result, error) {
		d := time.Duration(float64(o.Measured) * factor)
		return func(ctx context.Context, c, _ *Client, m Meter) (Result, error) {
			return c.closed(ctx, perConn, of, d/6, d, m)
		}
	}
	paced := func(of maker) func(context.Context, *Client, *Client, Meter) (Result, error) {
		return func(ctx context.Context, c, _ *Client, m Meter) (Result, error) {
			return c.paced(ctx, of, o.Rate, o.Measured/6, 2*o.Measured, m)
		}
	}
	return []Workload{
		{Name: Get, Title: "get 1 KiB", Unit: "request", run: closed(8, linearizable, 1)},
		{Name: Serializable, Title: "serializable get 1 KiB", Unit: "request", run: closed(8, serializable, 1)},
		{Name: Put, Title: "put 1 KiB", Unit: "request", run: closed(8, put, 1)},
		{Name: Txn, Title: "txn 1 KiB", Unit: "request", run: closed(8, txn, 1)},
		{Name: PacedGet, Title: fmt.Sprintf("get at %d/s", o.Rate), Unit: "request", Paced: true, run: paced(linearizable)},
		{Name: PacedPut, Title: fmt.Sprintf("put at %d/s", o.Rate), Unit: "request", Paced: true, run: paced(put)},
		{Name: FanOut, Title: fmt.Sprintf("watch, %d × %d events/s", o.Watchers, o.Events), Unit: "event", run: func(ctx context.Context, c, direct *Client, m Meter) (Result, error) {
			return c.fanOut(ctx, direct, o.Watchers, o.Events, o.Measured/3, o.Measured*3/2, m)
		}},
		{Name: SmallList, Title: "list 500 × 1 KiB", Unit: "request", run: closed(2, listing(smallList()), 1.5)},
		{Name: BigList, Title: fmt.Sprintf("list %d × 10 KiB", big.count), Unit: "request", Sparse: true, run: func(ctx context.Context, c, _ *Client, m Meter) (Result, error) {
			one := &Client{conns: c.conns[:1]}
			return one.closed(ctx, 1, listing(big), 0, 2*o.Measured, m)
		}},
	}
}

// Run measures the workload once. What it needs beside the proxy goes to the member by direct.
func (w Workload) Run(ctx context.Context, c, direct *Client, m Meter) (Result, error) {
	return w.run(ctx, c, direct, m)
}

// batch is how many keys fit into one transaction of etcd (128), and its bytes (1.5 MiB).
const batch = 100

// Seed writes the keys that are read later.
func (c *Client) Seed(ctx context.Context, quick bool) error {
	kv := etcdserverpb.NewKVClient(c.conns[0])
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, l := range []list{{getPrefix, ring, kib}, {putPrefix, ring, kib}, {watchPrefix, ring, kib}, smallList(), bigList(quick)} {
		val := value(l.size)
		for first := 0; first < l.count; first += batch {
			var puts []*etcdserverpb.RequestOp
			for i := first; i < min(first+batch, l.count); i++ {
				puts = append(puts, putOp(key(l.prefix, i), val))
			}
			group.Go(func() error {
				_, err := kv.Txn(ctx, &etcdserverpb.TxnRequest{Success: puts})
				return err
			})
		}
	}
	return group.Wait()
}

// Compact drops the history that puts have made, and returns when it is gone:
// a member that compacts meanwhile would be slower.
func (c *Client) Compact(ctx context.Context) error {
	kv := etcdserverpb.NewKVClient(c.conns[0])
	now, err := kv.Range(ctx, &etcdserverpb.RangeRequest{Key: key(getPrefix, 0), CountOnly: true})
	if err != nil {
		return err
	}
	_, err = kv.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: now.Header.Revision, Physical: true})
	if status.Code(err) == codes.OutOfRange {
		return nil // nothing was written since the last time
	}
	return err
}
