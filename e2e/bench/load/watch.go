package load

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-parallax/parallax/e2e/bench/raw"
)

// fanOut has so many watchers of one prefix, one stream each, while writer
// writes there at a steady rate. Every event goes to every watcher.
func (c *Client) fanOut(ctx context.Context, writer *Client, watchers, rate int, warm, measured time.Duration, m Meter) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	group, watching := errgroup.WithContext(ctx)
	var events atomic.Int64
	end := func(err error) error {
		cancel()
		if watched := group.Wait(); watched != nil && err == nil {
			return watched
		}
		return err
	}
	for i := range watchers {
		w, err := watch(watching, c.conns[i%len(c.conns)], watchPrefix, prefixEnd(watchPrefix))
		if err != nil {
			return Result{}, end(err)
		}
		group.Go(func() error { return w.count(ctx, &events) })
	}
	// What is written before Start arrives before Start, and what is written after it before Stop.
	pass := func(d time.Duration) (arrived int64, err error) {
		before := events.Load()
		written, err := writer.write(watching, rate, d)
		arrived = int64(written * watchers)
		if err == nil {
			err = reaches(watching, &events, before+arrived)
		}
		return arrived, err
	}
	if _, err := pass(warm); err != nil {
		return Result{}, end(err)
	}
	if err := m.Start(); err != nil {
		return Result{}, end(err)
	}
	start := time.Now()
	arrived, err := pass(measured)
	elapsed := time.Since(start)
	return Result{Requests: int(arrived), Elapsed: elapsed}, end(errors.Join(err, m.Stop()))
}

// reaches returns when the counter has reached what is awaited.
func reaches(ctx context.Context, counter *atomic.Int64, want int64) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(answerTimeout); counter.Load() < want; {
		if time.Now().After(end) {
			return fmt.Errorf("%d events have not arrived after %v", want-counter.Load(), answerTimeout)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
	return nil
}

// write puts at a steady rate, beside the proxy, and returns how often.
func (c *Client) write(ctx context.Context, rate int, d time.Duration) (int, error) {
	val := value(kib)
	p := &pacer{caller: func(caller int) request {
		kv, next := etcdserverpb.NewKVClient(c.conns[caller%len(c.conns)]), turns(caller)
		return func(ctx context.Context, opts ...grpc.CallOption) error {
			_, err := kv.Put(ctx, &etcdserverpb.PutRequest{Key: key(watchPrefix, next()), Value: val}, opts...)
			return err
		}
	}}
	latencies, err := p.run(ctx, rate, d)
	return len(latencies), err
}

// watcher is one watch on a stream of its own.
type watcher struct{ stream grpc.ClientStream }

// watch returns when the member has confirmed the watch.
func watch(ctx context.Context, conn *grpc.ClientConn, from string, end []byte) (watcher, error) {
	message, err := proto.Marshal(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte(from), RangeEnd: end},
	}})
	if err != nil {
		return watcher{}, err
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, etcdserverpb.Watch_Watch_FullMethodName,
		grpc.WaitForReady(true), grpc.ForceCodecV2(raw.Codec{}))
	if err != nil {
		return watcher{}, err
	}
	if err := stream.SendMsg(mem.BufferSlice{mem.SliceBuffer(message)}); err != nil {
		return watcher{}, err
	}
	var answer mem.BufferSlice
	if err := stream.RecvMsg(&answer); err != nil {
		return watcher{}, err
	}
	defer answer.Free()
	var created etcdserverpb.WatchResponse
	if err := proto.Unmarshal(answer.Materialize(), &created); err != nil || !created.Created || created.Canceled {
		return watcher{}, fmt.Errorf("watch was not created: %v %w", &created, err)
	}
	return watcher{stream}, nil
}

// count counts events until the context ends. It does not decode them: 100,000 may come in a second.
func (w watcher) count(ctx context.Context, events *atomic.Int64) error {
	for {
		var message mem.BufferSlice
		err := w.stream.RecvMsg(&message)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := countEvents(message.Materialize())
		message.Free()
		if err != nil {
			return err
		}
		events.Add(int64(n))
	}
}

// eventsField is the number of the field events in a WatchResponse.
const eventsField = 11

func countEvents(response []byte) (n int, err error) {
	for len(response) > 0 {
		field, _, length := protowire.ConsumeField(response)
		if length < 0 {
			return 0, protowire.ParseError(length)
		}
		if field == eventsField {
			n++
		}
		response = response[length:]
	}
	return n, nil
}
