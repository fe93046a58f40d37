package follow

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	mostWaiting = 64
	longestKey  = 16 << 10 // so that what waits is 1 MiB at most
	remembered  = 4096
	// again is how long a finding that was followed is left alone, although it is seen over and over.
	again = 10 * time.Minute
	// sooner is that time where something could not be learned; it doubles each time.
	sooner = time.Minute
)

// memory of a finding that was followed.
type memory struct {
	until time.Time // it is left alone
	vain  int       // attempts in a row by which not all was learned
}

// lead is a finding to follow.
type lead struct {
	cluster  uint64
	key      []byte
	revision int64 // at which the answers differ
	tries    int
}

func (l lead) is(o lead) bool { return l.cluster == o.cluster && bytes.Equal(l.key, o.key) }

// queue of the findings that wait, and a memory of those that were followed lately.
type queue struct {
	wake chan struct{} // holds one word when something was added

	mu     sync.Mutex
	leads  []lead // the newest last
	lately *lru.Cache[[16]byte, memory]
}

func newQueue() *queue {
	lately, err := lru.New[[16]byte, memory](remembered)
	if err != nil {
		panic(err) // the size is not positive
	}
	return &queue{wake: make(chan struct{}, 1), lately: lately}
}

func (l lead) id() (id [16]byte) {
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint64(nil, l.cluster), l.key...))
	copy(id[:], sum[:])
	return id
}

// add a finding as the newest, and tell whether the oldest had to make room. The oldest is the one to go: the newest is the one that
// somebody looks at, and the others will be seen again.
func (q *queue) add(l lead, now time.Time) (displaced bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if m, ok := q.lately.Get(l.id()); ok && now.Before(m.until) {
		return false
	}
	if i := slices.IndexFunc(q.leads, l.is); i >= 0 {
		q.leads[i].revision = max(q.leads[i].revision, l.revision)
		return false
	}
	if displaced = len(q.leads) >= mostWaiting; displaced {
		q.leads = slices.Delete(q.leads, 0, 1)
	}
	q.leads = append(q.leads, l)
	select {
	case q.wake <- struct{}{}:
	default: // somebody is awake
	}
	return displaced
}

// pop the newest, and remember it.
func (q *queue) pop(now time.Time) (lead, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.leads)
	if n == 0 {
		return lead{}, false
	}
	l := q.leads[n-1]
	q.leads[n-1] = lead{}
	q.leads = q.leads[:n-1]
	m, _ := q.lately.Get(l.id())
	q.lately.Add(l.id(), memory{now.Add(again), m.vain})
	return l, true
}

// putBack one that came to nothing, behind all others, and tell whether there was no room for it.
func (q *queue) putBack(l lead) (full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.leads) >= mostWaiting {
		q.lately.Remove(l.id()) // when it is seen again, it is new
		return true
	}
	q.leads = slices.Insert(q.leads, 0, l)
	return false
}

// soon lets a finding be followed again before others would be.
func (q *queue) soon(l lead, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m, _ := q.lately.Get(l.id())
	wait := min(sooner<<min(m.vain, 10), again)
	q.lately.Add(l.id(), memory{now.Add(wait), m.vain + 1})
}

// leave a finding alone: it was followed, or lies in what was found when another was.
func (q *queue) leave(l lead, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leads = slices.DeleteFunc(q.leads, l.is)
	q.lately.Add(l.id(), memory{until: now.Add(again)})
}
