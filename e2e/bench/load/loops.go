package load

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// answerTimeout bounds what a broken peer can cost.
const answerTimeout = 20 * time.Second

var errNoAnswer = fmt.Errorf("no answer within %v", answerTimeout)

// closed is a closed loop: each caller asks again when it has its answer.
func (c *Client) closed(ctx context.Context, perConn int, of maker, warm, measured time.Duration, m Meter) (Result, error) {
	var callers []request
	for i := range perConn * len(c.conns) {
		callers = append(callers, of(c.conns[i%len(c.conns)], i))
	}
	if _, err := together(ctx, callers, warm); err != nil {
		return Result{}, err
	}
	if err := m.Start(); err != nil {
		return Result{}, err
	}
	start := time.Now()
	n, err := together(ctx, callers, measured)
	return Result{Requests: n, Elapsed: time.Since(start)}, errors.Join(err, m.Stop())
}

// together lets all callers ask until the time is over, each at least once, and
// returns how many answers there were when the last has its own.
func together(ctx context.Context, callers []request, d time.Duration) (int, error) {
	// Not by a deadline, which would be sent along with every request, and no two alike.
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer time.AfterFunc(d+answerTimeout, func() { stop(errNoAnswer) }).Stop()
	end := time.Now().Add(d)
	var total atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for _, ask := range callers {
		group.Go(func() error {
			for n := int64(1); ; n++ {
				if err := ask(ctx); err != nil {
					return errors.Join(err, context.Cause(ctx))
				}
				if time.Now().After(end) {
					total.Add(n)
					return nil
				}
			}
		})
	}
	err := group.Wait()
	return int(total.Load()), err
}

// mostUnderWay ends a fixed rate that a peer cannot follow.
const mostUnderWay = 2000

// paced is an open loop: requests go out when they are due, whether earlier
// ones are answered or not, and latencies count from then. So an answer that is
// late is not hidden by the requests that it would have held up.
func (c *Client) paced(ctx context.Context, of maker, rate int, warm, measured time.Duration, m Meter) (Result, error) {
	p := &pacer{caller: func(i int) request { return of(c.conns[i%len(c.conns)], i) }}
	if _, err := p.run(ctx, rate, warm); err != nil {
		return Result{}, err
	}
	if err := m.Start(); err != nil {
		return Result{}, err
	}
	start := time.Now()
	latencies, err := p.run(ctx, rate, measured)
	elapsed := time.Since(start)
	if err := errors.Join(err, m.Stop()); err != nil {
		return Result{}, err
	}
	slices.Sort(latencies)
	n := len(latencies)
	return Result{Requests: n, Elapsed: elapsed, P50: latencies[n/2], P99: latencies[n*99/100]}, nil
}

type pacer struct {
	caller func(i int) request

	mu        sync.Mutex
	idle      []request // callers, taken from the front: connections take turns
	callers   int
	latencies []time.Duration
	err       error
}

// run returns how long each answer took, in the order in which they came.
func (p *pacer) run(ctx context.Context, rate int, d time.Duration) ([]time.Duration, error) {
	p.latencies = make([]time.Duration, 0, int(d.Seconds()*float64(rate))+1)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	err := tick(ctx, rate, d, func(due time.Time) error {
		ask, err := p.take()
		if err != nil {
			return err
		}
		group.Go(func() { p.ask(ctx, ask, due) })
		return nil
	})
	defer time.AfterFunc(answerTimeout, stop).Stop()
	group.Wait()
	return p.latencies, errors.Join(err, p.err)
}

// take returns a caller that has nothing under way.
func (p *pacer) take() (request, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, errors.New("stopped at the first error")
	}
	if len(p.idle) > 0 {
		ask := p.idle[0]
		p.idle = p.idle[1:]
		return ask, nil
	}
	if p.callers == mostUnderWay {
		return nil, fmt.Errorf("cannot follow the rate: %d requests without an answer", p.callers)
	}
	p.callers++
	return p.caller(p.callers - 1), nil
}

func (p *pacer) ask(ctx context.Context, ask request, due time.Time) {
	err := ask(ctx)
	latency := time.Since(due)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, ask)
	if p.err == nil {
		p.err = err
	}
	p.latencies = append(p.latencies, latency)
}

// tick calls at a steady rate. It sleeps in the kernel, on a thread of its own:
// a Go timer may be a millisecond late, which is more than what is measured.
func tick(ctx context.Context, rate int, d time.Duration, call func(due time.Time) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := time.Now()
	for i := range max(1, int(d.Seconds()*float64(rate))) {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(rate))
		for wait := time.Until(due); wait > 0; wait = time.Until(due) {
			request := syscall.NsecToTimespec(int64(wait))
			_ = syscall.Nanosleep(&request, nil) // interrupted by a signal: sleeps the rest
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := call(due); err != nil {
			return err
		}
	}
	return nil
}
