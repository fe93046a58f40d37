package shadow

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// queue holds the checks that wait. Checks that were begun, and second looks,
// go first; then three of writes to one of reads, so that neither starves.
//
// Of one kind it hands out a random one among the newest: under overload a check
// is of something that happened a moment ago, each of the newest has the same
// chance, and what is older is still there when it gets quiet again.
type queue struct {
	mu     sync.Mutex
	max    int           // checks; the oldest is displaced when full
	bytes  int           // held by all
	window func() int    // how many of the newest are chosen from
	wake   chan struct{} // one waiter is to look again
	count  atomic.Int64  // of all that wait, for those who must not wait for mu

	handed int // checks so far

	due, writes, reads []*check
	later              []*check // not before their time; unordered, it is short
}

// queueBytes bounds what waiting checks hold. GUARANTEE G7: memory is bounded.
const queueBytes = 32 << 20

func newQueue(most int, window func() int) *queue {
	return &queue{max: most, window: window, wake: make(chan struct{}, 1)}
}

func (q *queue) len() int { return int(q.count.Load()) }

func (q *queue) size() int { return len(q.due) + len(q.writes) + len(q.reads) + len(q.later) }

// looks are the second looks that wait.
func (q *queue) looks() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, list := range [][]*check{q.due, q.later} {
		for _, c := range list {
			if c.kind == refusedWrite || c.kind == recheck {
				n++
			}
		}
	}
	return n
}

// push adds a check, and returns those that were displaced by it, with the
// reason.
func (q *queue) push(c *check) (out []*check, why dropped) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.size() >= q.max || q.bytes+c.bytes > queueBytes {
		old := q.oldest()
		if old == nil {
			return append(out, c), dropMemory
		}
		why = dropQueue
		if q.size()+1 < q.max {
			why = dropMemory
		}
		out = append(out, old)
	}
	q.bytes += c.bytes
	q.count.Add(1)
	if c.notBefore.IsZero() {
		q.put(c)
	} else {
		q.later = append(q.later, c)
	}
	q.signal()
	return out, why
}

// put a check into the list of its kind, when its time has come.
func (q *queue) put(c *check) {
	switch {
	case c.first != nil || c.kind == refusedWrite || c.kind == recheck:
		q.due = append(q.due, c)
	case c.kind == read || c.kind == watch:
		q.reads = append(q.reads, c)
	default:
		q.writes = append(q.writes, c)
	}
}

// oldest takes out the check that has waited longest, of the kind that matters
// least.
func (q *queue) oldest() *check {
	for _, list := range []*[]*check{&q.reads, &q.writes, &q.later, &q.due} {
		if len(*list) > 0 {
			c := (*list)[0]
			(*list)[0] = nil
			*list = (*list)[1:]
			q.bytes -= c.bytes
			q.count.Add(-1)
			return c
		}
	}
	return nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop waits for a check. It returns nil when ctx ended.
func (q *queue) pop(ctx context.Context) *check {
	for {
		c, wait := q.next(time.Now())
		if c != nil {
			return c
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-q.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// next check, or how long until one is due.
func (q *queue) next(now time.Time) (*check, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	wait := time.Minute
	kept := q.later[:0]
	for _, c := range q.later {
		if d := c.notBefore.Sub(now); d > 0 {
			kept, wait = append(kept, c), min(wait, d)
		} else {
			q.put(c)
		}
	}
	clear(q.later[len(kept):])
	q.later = kept
	var c *check
	switch {
	case len(q.due) > 0:
		c, q.due[0] = q.due[0], nil
		q.due = q.due[1:]
	case len(q.writes) > 0 && (len(q.reads) == 0 || q.handed%4 != 3):
		c = q.newest(&q.writes)
	case len(q.reads) > 0:
		c = q.newest(&q.reads)
	default:
		return nil, wait
	}
	q.handed++
	q.bytes -= c.bytes
	q.count.Add(-1)
	if q.size() > 0 {
		q.signal() // there is something for another worker
	}
	return c, 0
}

func (q *queue) newest(list *[]*check) *check {
	last := len(*list) - 1
	i := last - rand.IntN(min(max(q.window(), 1), len(*list)))
	c := (*list)[i]
	(*list)[i] = (*list)[last]
	(*list)[last] = nil
	*list = (*list)[:last]
	return c
}
