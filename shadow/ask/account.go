package ask

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

const (
	slowRead    = 500 * time.Millisecond // after which a member is left alone for a while
	restFirst   = time.Second
	restLongest = 30 * time.Second
)

// account of one member.
type account struct {
	reads, bytes *rate.Limiter

	mu      sync.Mutex
	rest    time.Time // not asked before
	restFor time.Duration
}

func setLimit(l *rate.Limiter, perSecond float64, burst int) {
	if l.Limit() != rate.Limit(perSecond) {
		l.SetLimit(rate.Limit(perSecond))
		l.SetBurst(burst)
	}
}

// pay waits until the member may be asked once more. GUARANTEE G6: shadow load
// stays within the configured budget per member; every RPC counts.
func (acc *account) pay(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, payPatience)
	defer cancel()
	if err := acc.bytes.Wait(ctx); err != nil { // in debt until earlier answers are paid for
		return err
	}
	return acc.reads.Wait(ctx)
}

// charge the size of an answer, which nobody knew before.
func (acc *account) charge(n int) {
	for now := time.Now(); n > 0; {
		part := min(n, acc.bytes.Burst())
		acc.bytes.ReserveN(now, part)
		n -= part
	}
}

func (acc *account) resting(now time.Time) bool {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	return now.Before(acc.rest)
}

// took notes how an answer came. A slow member is left alone for a while, longer
// each time, until it is quick again: the shadow must not be what keeps it slow.
func (acc *account) took(d time.Duration, k judge.Kind, now time.Time) {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	switch {
	case k == judge.Timeout || k == judge.OK && d >= slowRead:
		acc.restFor = min(max(2*acc.restFor, restFirst), restLongest)
		acc.rest = now.Add(acc.restFor)
	case k == judge.OK:
		acc.restFor = 0
	}
}
