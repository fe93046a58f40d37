package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/stats"
)

// callers are clients that write and read all the time, each on a connection of its own on which a watch is open, as a
// kube-apiserver has it. They remember what they were told, and when.
type callers struct {
	each     []*caller
	calling  context.Context // ends before what is watched
	stopCall context.CancelFunc
	calls    sync.WaitGroup
}

type caller struct {
	client *clientv3.Client
	conns  *connections
	prefix string

	mu       sync.Mutex
	acked    map[string]int64 // key → revision
	answers  []time.Time      // of calls, in order
	failures []failure
	events   []*clientv3.Event
	broken   error // of the watch
}

type failure struct {
	at   time.Time
	call string
	err  error
}

func (f failure) String() string {
	return fmt.Sprintf("%s %s: %v", f.at.Format("15:04:05.000"), f.call, f.err)
}

// startCallers starts n clients at the endpoint, and returns when each has its watch and its first answers. Their keys begin with the prefix.
func startCallers(t testing.TB, endpoint, prefix string, n int, change ...func(*clientv3.Config)) *callers {
	t.Helper()
	l := new(callers)
	l.calling, l.stopCall = context.WithCancel(context.Background())
	watching, stopWatch := context.WithCancel(context.Background())
	var watches sync.WaitGroup
	t.Cleanup(func() {
		l.stopCall()
		stopWatch()
		l.calls.Wait()
		watches.Wait()
	})
	for i := range n {
		client, conns := observed(t, endpoint, change...)
		c := &caller{client: client, conns: conns, prefix: fmt.Sprintf("%s/%d/", prefix, i), acked: make(map[string]int64)}
		l.each = append(l.each, c)
		watch := client.Watch(watching, c.prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		if r := <-watch; !r.Created {
			t.Fatalf("watch: %v", r)
		}
		watches.Go(func() { c.follow(watch) })
		l.calls.Go(func() { c.put(l.calling) })
		l.calls.Go(func() { c.get(l.calling) })
	}
	l.goesOn(t)
	return l
}

// goesOn waits until each client has had more answers.
func (l *callers) goesOn(t testing.TB) {
	t.Helper()
	const more = 20
	from := time.Now()
	for i, c := range l.each {
		eventually(t, 30*time.Second, fmt.Sprintf("more answers for client %d", i), func() bool { return c.answersAfter(from) >= more })
	}
}

// put writes keys that nobody has written before, each once. A plain put shows what a create transaction would hide: executed
// twice, it makes a key of version 2, and a second event.
func (c *caller) put(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("%s%06d", c.prefix, n)
		c.call("put "+key, func(ctx context.Context) error {
			put, err := c.client.Put(ctx, key, key)
			if err == nil {
				c.mu.Lock()
				c.acked[key] = put.Header.Revision
				c.mu.Unlock()
			}
			return err
		})
	}
}

func (c *caller) get(ctx context.Context) {
	for ctx.Err() == nil {
		c.call("get", func(ctx context.Context) error {
			_, err := c.client.Get(ctx, c.prefix, clientv3.WithPrefix(), clientv3.WithLimit(10))
			return err
		})
	}
}

// call makes one call, to its end: one that is broken off by ourselves would tell nothing. The pause leaves the cores to those who
// answer, and to other tests.
func (c *caller) call(what string, do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	err := do(ctx)
	c.mu.Lock()
	if err == nil {
		c.answers = append(c.answers, time.Now())
	} else {
		c.failures = append(c.failures, failure{time.Now(), what, err})
	}
	c.mu.Unlock()
	time.Sleep(2 * time.Millisecond)
}

func (c *caller) follow(watch clientv3.WatchChan) {
	for r := range watch {
		c.mu.Lock()
		c.events = append(c.events, r.Events...)
		if err := r.Err(); err != nil && c.broken == nil {
			c.broken = err
		}
		c.mu.Unlock()
	}
}

func (c *caller) answersAfter(at time.Time) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.answers) - 1; i >= 0 && c.answers[i].After(at); i-- {
		n++
	}
	return n
}

// around returns the last answer up to a time, and the first one after it.
func (c *caller) around(at time.Time) (last, first time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, _ := slices.BinarySearchFunc(c.answers, at, time.Time.Compare)
	return c.answers[i-1], c.answers[i]
}

// longest is the longest time without an answer, of those that ended in a span of time.
func (c *caller) longest(from, to time.Time) (gap time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 1; i < len(c.answers); i++ {
		if c.answers[i].After(from) && c.answers[i].Before(to) {
			gap = max(gap, c.answers[i].Sub(c.answers[i-1]))
		}
	}
	return gap
}

func (l *callers) failures() (all []failure) {
	for _, c := range l.each {
		c.mu.Lock()
		all = append(all, c.failures...)
		c.mu.Unlock()
	}
	return all
}

// check ends the calls, and compares what the clients were told with what the cluster holds: each key that was acknowledged is there,
// as it was acknowledged; no key was written twice; and each watch has seen all of it once, in order.
func (l *callers) check(t testing.TB, truth *clientv3.Client) {
	t.Helper()
	l.stopCall()
	l.calls.Wait()
	acked := 0
	for _, c := range l.each {
		got, err := truth.Get(t.Context(), c.prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortAscend))
		if err != nil {
			t.Fatal(err)
		}
		held := make(map[string]int64)
		for _, kv := range got.Kvs {
			held[string(kv.Key)] = kv.ModRevision
			if kv.Version != 1 || string(kv.Value) != string(kv.Key) {
				t.Errorf("%s was written once, and has version %d and value %q", kv.Key, kv.Version, kv.Value)
			}
		}
		for key, revision := range c.acked {
			if held[key] != revision {
				t.Errorf("%s was acknowledged at revision %d, and is at %d", key, revision, held[key])
			}
		}
		acked += len(c.acked)
		seen := func() []*clientv3.Event {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.events
		}
		eventually(t, 30*time.Second, c.prefix+": the watch to deliver everything", func() bool { return len(seen()) >= len(got.Kvs) })
		for i, e := range seen() {
			if i >= len(got.Kvs) || string(e.Kv.Key) != string(got.Kvs[i].Key) || e.Kv.ModRevision != got.Kvs[i].ModRevision {
				t.Errorf("event %d of %d is %v, of %d writes", i, len(seen()), e, len(got.Kvs))
				break
			}
		}
		if c.broken != nil {
			t.Errorf("the watch of %s ended: %v", c.prefix, c.broken)
		}
	}
	t.Logf("%d writes were acknowledged, %d calls failed", acked, len(l.failures()))
}

// connections notes when those of a client begin and end.
type connections struct {
	mu           sync.Mutex
	began, ended []time.Time
}

func (c *connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c *connections) HandleRPC(context.Context, stats.RPCStats)                         {}

func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s.(type) {
	case *stats.ConnBegin:
		c.began = append(c.began, time.Now())
	case *stats.ConnEnd:
		c.ended = append(c.ended, time.Now())
	}
}

// endAfter returns when the first connection ended after a time; zero if none did.
func (c *connections) endAfter(at time.Time) time.Time { return firstAfter(&c.mu, &c.ended, at) }

// beginAfter returns when the first connection began after a time; zero if none did.
func (c *connections) beginAfter(at time.Time) time.Time { return firstAfter(&c.mu, &c.began, at) }

func firstAfter(mu *sync.Mutex, times *[]time.Time, at time.Time) time.Time {
	mu.Lock()
	defer mu.Unlock()
	for _, t := range *times {
		if t.After(at) {
			return t
		}
	}
	return time.Time{}
}

// observed is a client whose connections are noted.
func observed(t testing.TB, endpoint string, change ...func(*clientv3.Config)) (*clientv3.Client, *connections) {
	t.Helper()
	conns := new(connections)
	config := clientv3.Config{
		Endpoints: []string{endpoint}, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithStatsHandler(conns)},
	}
	for _, c := range change {
		c(&config)
	}
	client, err := clientv3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client, conns
}

// impatient makes a client dial again at once. By default grpc waits for a second when nobody listened: that is the client's time.
func impatient(c *clientv3.Config) {
	c.DialOptions = append(c.DialOptions, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff: backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond}, MinConnectTimeout: 5 * time.Second,
	}))
}
