package shadow

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pending(k kind, key string) *check {
	c := &check{target: target{kind: k}, bytes: len(key)}
	c.Key = []byte(key)
	return c
}

func windowOf(n int) func() int { return func() int { return n } }

func TestQueueHandsOutDueThenWritesThenReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(10, windowOf(1))
		q.push(pending(read, "r"))
		q.push(pending(write, "w"))
		due := pending(read, "due")
		due.notBefore, due.first = time.Now(), []judge.Answer{}
		q.push(due)
		later := pending(read, "later")
		later.notBefore = time.Now().Add(time.Hour)
		q.push(later)
		begin := time.Now()
		for _, want := range []string{"due", "w", "r", "later"} {
			if got := string(q.pop(t.Context()).Key); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		if waited := time.Since(begin); waited != time.Hour {
			t.Fatalf("a check that is due in an hour was handed out after %v", waited)
		}
	})
}

func TestQueueIsBoundedAndDisplacesTheOldestRead(t *testing.T) {
	q := newQueue(3, windowOf(1))
	for _, c := range []*check{pending(write, "w1"), pending(read, "r1"), pending(read, "r2")} {
		if out, _ := q.push(c); len(out) > 0 {
			t.Fatalf("%q was displaced from a queue with room", out[0].Key)
		}
	}
	for _, want := range []string{"r1", "r2", "w1"} {
		out, why := q.push(pending(write, "w"))
		if len(out) != 1 || string(out[0].Key) != want || why != dropQueue {
			t.Fatalf("displaced %v (%s), want %s", out, why, want)
		}
	}
	if q.len() != 3 {
		t.Fatalf("%d checks wait in a queue for 3", q.len())
	}
}

func TestQueueIsBoundedInBytes(t *testing.T) {
	q := newQueue(1000, windowOf(1))
	for range 10 {
		c := pending(read, "")
		c.bytes = queueBytes / 4
		q.push(c)
	}
	if q.len() != 4 || q.bytes > queueBytes {
		t.Fatalf("%d checks of a quarter of the limit each are held, %d bytes", q.len(), q.bytes)
	}
	huge := pending(write, "")
	huge.bytes = queueBytes + 1
	if out, why := q.push(huge); len(out) != 5 || why != dropMemory || q.bytes != 0 {
		t.Fatalf("a check over the limit: displaced %d (%s), %d bytes held", len(out), why, q.bytes)
	}
}

// Under overload every one of the newest has the same chance, wherever in a
// second it came.
func TestQueueIsFairAmongTheNewest(t *testing.T) {
	const window, rounds = 10, 20000
	q := newQueue(4096, windowOf(window))
	chosen := make([]int, window)
	var all []*check
	for range window {
		all = append(all, pending(read, ""))
	}
	for range rounds {
		q.push(pending(read, "old"))
		for _, c := range all {
			q.push(c)
		}
		got, _ := q.next(time.Now())
		for i, c := range all {
			if c == got {
				chosen[i]++
			}
		}
		q.reads, q.bytes = q.reads[:0], 0
		q.count.Store(0)
	}
	for i, n := range chosen { // mean 2000, standard deviation 42
		if n < 1700 || n > 2300 {
			t.Errorf("number %d of the %d newest was chosen %d times of %d", i, window, n, rounds)
		}
	}
}

func TestQueuePopEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if c := newQueue(1, windowOf(1)).pop(ctx); c != nil {
			t.Fatalf("got %v from an empty queue", c)
		}
	})
}

func TestQueueWakesEveryWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(10, windowOf(1))
		got := make(chan *check)
		for range 3 {
			go func() { got <- q.pop(t.Context()) }()
		}
		synctest.Wait() // all wait
		for range 3 {
			q.push(pending(read, "r"))
		}
		for range 3 {
			<-got
		}
	})
}

// Writes that settle are writes: under overload the newest of them go first,
// and none waits behind all that came before it.
func TestSettledWritesAreNotFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1000, windowOf(1))
		for _, key := range []string{"old", "older", "newest"} {
			c := pending(write, key)
			c.notBefore = time.Now().Add(settle)
			q.push(c)
		}
		if got := string(q.pop(t.Context()).Key); got != "newest" {
			t.Errorf("got %q", got)
		}
	})
}

func TestReadsDoNotStarve(t *testing.T) {
	q := newQueue(1000, windowOf(1))
	for range 200 {
		q.push(pending(write, "w"))
		q.push(pending(read, "r"))
	}
	reads := 0
	for range 100 {
		if c, _ := q.next(time.Now()); c.kind == read {
			reads++
		}
	}
	if reads != 25 {
		t.Errorf("%d of 100 checks were of reads", reads)
	}
}
