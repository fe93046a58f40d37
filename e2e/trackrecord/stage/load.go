package stage

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// callTimeout of one call of a load: members come and go meanwhile.
const callTimeout = 2 * time.Second

// Load is clients that write keys in turn, and read others, all the time. What
// fails is done again with the next turn.
type Load struct {
	// Client they all use.
	Client *clientv3.Client

	// Prefix of the keys that are written, and how many there are.
	Prefix string
	Keys   int

	// Writers write each their own keys, and rest between two writes for Pause.
	Writers int
	Pause   time.Duration

	// List is a prefix that one more client lists four times a second.
	List string

	stop    context.CancelFunc
	running sync.WaitGroup
	calls   atomic.Int64 // that succeeded
}

// listPause is that of the client that lists.
const listPause = 250 * time.Millisecond

// Start lets the clients work until Stop, or until the stage closes.
func (s *Stage) Start(ctx context.Context, l *Load) *Load {
	ctx, l.stop = context.WithCancel(ctx)
	s.loads = append(s.loads, l)
	for w := range l.Writers {
		l.running.Go(func() { l.write(ctx, w) })
	}
	if l.List != "" {
		l.running.Go(func() { l.list(ctx) })
	}
	return l
}

// Everyday is a load like that of a small cluster, within what Parallax follows
// in full at its defaults.
func (s *Stage) Everyday(ctx context.Context) *Load {
	return s.Start(ctx, &Load{Client: s.Client, Prefix: LoadPrefix, Keys: 10, Writers: 1, Pause: 50 * time.Millisecond})
}

// LoadPrefix is that of the keys of everyday load.
const LoadPrefix = "/load/"

// Stop ends the load, and returns when no call is under way any more. It may be
// called twice.
func (l *Load) Stop() {
	l.stop()
	l.running.Wait()
}

// Works returns when n more calls have succeeded.
func (l *Load) Works(ctx context.Context, n int64) error {
	want := l.calls.Load() + n
	return until(ctx, "the load to go on", func(context.Context) error {
		if got := l.calls.Load(); got < want {
			return fmt.Errorf("%d calls of %d", got, want)
		}
		return nil
	})
}

func (l *Load) write(ctx context.Context, writer int) {
	l.every(ctx, l.Pause, func(ctx context.Context, n int) error {
		key := fmt.Sprintf("%s%d/%02d", l.Prefix, writer, n%l.Keys)
		_, err := l.Client.Put(ctx, key, fmt.Sprint("value ", n))
		return err
	})
}

func (l *Load) list(ctx context.Context) {
	l.every(ctx, listPause, func(ctx context.Context, _ int) error {
		_, err := l.Client.Get(ctx, l.List, clientv3.WithPrefix())
		return err
	})
}

// every makes a call, rests and makes the next one, until ctx ends.
func (l *Load) every(ctx context.Context, pause time.Duration, call func(context.Context, int) error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		attempt, cancel := context.WithTimeout(ctx, callTimeout)
		err := call(attempt, n)
		cancel()
		if err == nil {
			l.calls.Add(1)
			timer.Reset(pause)
		} else {
			timer.Reset(max(pause, listPause)) // a member is away: do not spin
		}
	}
}
