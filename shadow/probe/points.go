package probe

import (
	"time"

	"github.com/etcd-parallax/parallax/shadow/judge/drift"
)

// points are what is known of members exactly: "after log index i, member m is at
// revision r". Two members with the same revision after one index are equal by
// revision; that names a quorum, and ends a finding of REV or LIN.
//
// Proof. f(i) is the member's revision after index i. S1, S2 are consecutive
// Status of one epoch with S1.applied = S2.raftIndex = i. The key space is applied
// before the applied index is set, and S2.rev is read after S1.applied, so
// S2.rev ≥ f(i). What S2.rev contains is committed, and the committed index is read
// after it, so S2.rev ≤ f(i). The latter needs a member that knows what is committed
// of what it holds: it is live (see REV), or it answered a linearizable read in this
// epoch (just after boot its state may be ahead of its commit index, etcd #20426).
type points map[uint64]*track

// track of one member.
type track struct {
	last  drift.Status
	known []point // ascending by index
}

type point struct {
	index    uint64
	revision int64
	at       time.Time // last seen so
}

// tracked points of one member.
const tracked = 128

// see a Status; settled: the member knows what is committed of what it holds.
func (p points) see(s drift.Status, settled bool, now time.Time) {
	t := p[s.Member]
	if t == nil || t.last.Epoch != s.Epoch {
		t = &track{}
		p[s.Member] = t
	}
	before := t.last
	t.last = s
	if !settled || before.Epoch != s.Epoch || before.Applied != s.RaftIndex || s.RaftIndex == 0 {
		return
	}
	if n := len(t.known); n > 0 && t.known[n-1].index >= s.RaftIndex {
		if t.known[n-1].index == s.RaftIndex {
			t.known[n-1] = point{s.RaftIndex, s.Revision, now}
		}
		return
	}
	if len(t.known) == tracked {
		t.known = t.known[1:]
	}
	t.known = append(t.known, point{s.RaftIndex, s.Revision, now})
}

// same tells whether two members were at the same revision after the newest index
// of which it is known of both, and when that was seen; not where it is not known,
// or only from before since.
func (p points) same(a, b uint64, since time.Time) (at time.Time, same bool) {
	if p[a] == nil || p[b] == nil {
		return time.Time{}, false
	}
	x, y := p[a].known, p[b].known
	i, j := len(x)-1, len(y)-1
	for i >= 0 && j >= 0 {
		switch {
		case x[i].index > y[j].index:
			i--
		case x[i].index < y[j].index:
			j--
		default:
			at = x[i].at
			if y[j].at.Before(at) {
				at = y[j].at
			}
			return at, x[i].revision == y[j].revision && !at.Before(since)
		}
	}
	return time.Time{}, false
}
