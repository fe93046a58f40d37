package shadow

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

// intake decodes calls into checks.
func (s *Shadow) intake(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-s.calls:
			s.held.Add(-int64(c.size()))
			if !s.decoded.AllowN(time.Now(), c.size()) {
				s.Metrics.dropped(dropBusy, 1)
				continue
			}
			s.Guard(func() { s.take(c) })
		}
	}
}

// take turns a call into checks and queues those that are worth it.
func (s *Shadow) take(c Call) {
	targets, why := questions(c, rand.IntN)
	if why != "" {
		s.Metrics.skipped(why)
		return
	}
	now := time.Now()
	snap := s.Members.Snapshot()
	current := epochs(connections(snap.Members))
	for i, t := range targets {
		known := s.verified
		switch {
		case t.old:
			known = s.old
		case t.kind == refusedWrite: // nothing was seen of its key; the looks that are under way count for it
			known, t.seen = s.refused, []judge.KV{{Key: t.Key}}
		}
		if m := snap.Behind(c.Endpoint); t.servedBy == 0 && m != nil {
			t.servedBy = m.ID // a refusal does not say who gave it
		}
		if known.all(t.seen, current, now) {
			s.Metrics.dropped(dropVerified, 1)
			continue
		}
		known.hold(t.seen, current, now, pendingLife)
		one := &check{target: t, known: known, since: now}
		if i == 0 {
			one.bytes = c.size() // the targets of a call share its bytes
		}
		switch t.kind {
		case refusedWrite:
			s.Doubt(true)
			for _, after := range refusedLooks {
				look := *one
				look.notBefore = now.Add(after)
				s.look(&look)
			}
		case write, watch:
			one.notBefore = now.Add(settle)
			s.enqueue(one)
		default:
			s.enqueue(one)
		}
	}
}

// look puts a second look into the queue, of which looks may fill a quarter:
// whoever sends nothing but transactions that are refused must not keep the
// others from being checked.
func (s *Shadow) look(c *check) {
	if s.queue.looks() > s.queue.max/4 {
		s.Metrics.dropped(dropQueue, 1)
		return
	}
	s.enqueue(c)
}

func (s *Shadow) enqueue(c *check) {
	displaced, why := s.queue.push(c)
	for _, d := range displaced {
		d.known.remove(d.seen)
	}
	s.Metrics.dropped(why, len(displaced))
}
