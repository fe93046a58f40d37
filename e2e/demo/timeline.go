package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// askEvery is how exactly the timeline knows when a member reached a revision.
const askEvery = 2 * time.Millisecond

// timeline knows when each member reached which revision, because it asks all
// of them, directly, all the time.
type timeline struct {
	mu      sync.Mutex
	reached map[*cluster.Member][]arrival
	changed chan struct{} // closed by the next arrival
}

// arrival of a member at a revision.
type arrival struct {
	revision int64

	// at is when the last question was sent that the member still answered
	// below the revision: it arrived a moment later, never before. So no time
	// that is measured from here is too short.
	at time.Time
}

func newTimeline() *timeline {
	return &timeline{reached: make(map[*cluster.Member][]arrival), changed: make(chan struct{})}
}

// follow asks one member until ctx ends.
func (t *timeline) follow(ctx context.Context, m *cluster.Member, key string) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	var newest int64
	for below := time.Now(); ; {
		sent := time.Now()
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		// An unpinned serializable read answers with the revision of the
		// member's own state, at which the key was read.
		resp, err := m.Get(attempt, key, 0)
		cancel()
		if err == nil {
			if resp.Header.Revision > newest {
				newest = resp.Header.Revision
				t.arrived(m, arrival{revision: newest, at: below})
			}
			below = sent
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (t *timeline) arrived(m *cluster.Member, a arrival) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reached[m] = append(t.reached[m], a)
	close(t.changed)
	t.changed = make(chan struct{})
}

// wait returns when the last of the members reached the revision: from then on
// all of them can be asked what they hold at it.
func (t *timeline) wait(ctx context.Context, members []*cluster.Member, revision int64) (time.Time, error) {
	for {
		last, behind, changed := t.last(members, revision)
		if behind == nil {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("%s has not reached revision %d: %w", behind.Name, revision, ctx.Err())
		case <-changed:
		}
	}
}

// last returns the last arrival, or a member that has not arrived.
func (t *timeline) last(members []*cluster.Member, revision int64) (last time.Time, behind *cluster.Member, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range members {
		there := false
		for _, a := range t.reached[m] {
			if there = a.revision >= revision; there {
				if a.at.After(last) {
					last = a.at
				}
				break
			}
		}
		if !there {
			return last, m, t.changed
		}
	}
	return last, nil, nil
}
