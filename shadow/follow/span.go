package follow

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/judge"
)

// span is the keys from lo up to, not including, hi.
type span struct{ lo, hi []byte }

// bottom is the first key that etcd takes. top has no end of the key space in it, which a read has only when it is open: what lies
// beyond begins with sixteen bytes 0xff.
var bottom, top = []byte{0}, bytes.Repeat([]byte{0xff}, 16)

// under is all keys with a prefix.
func under(prefix []byte) span {
	s := span{lo: slices.Clone(prefix), hi: top}
	if len(prefix) == 0 {
		s.lo = bottom
	}
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			s.hi = append(slices.Clone(prefix[:i]), prefix[i]+1)
			break
		}
	}
	return s
}

func (s span) empty() bool { return bytes.Compare(s.lo, s.hi) >= 0 }

func (s span) question(revision int64) judge.Question {
	return judge.Question{Key: s.lo, End: s.hi, Revision: revision}
}

func (s span) contains(o span) bool {
	return bytes.Compare(s.lo, o.lo) <= 0 && bytes.Compare(o.hi, s.hi) <= 0
}

// side is how far to one side of the key other keys are in reach.
type side struct {
	edge []byte // what lies between it and the key is
	keys int64  // of them, those that were counted for this side alone
	next int    // length of the prefix of the key that is looked at next; negative when there is none
	// limit of all keys with a prefix, to this side; step beyond an edge where the byte after the prefix of the key is own.
	limit func(span) []byte
	step  func(own, width int) int
}

// begin to look around the key.
func (t *trail) begin() {
	n := len(t.key)
	t.left = side{edge: t.key, next: n, limit: func(s span) []byte { return s.lo }, step: func(own, width int) int { return own - width }}
	t.right = side{edge: append(slices.Clone(t.key), 0), next: n, limit: func(s span) []byte { return s.hi }, step: func(own, width int) int { return own + 1 + width }}
	t.both = 1
}

// exhausted tells whether all keys are in reach.
func (t *trail) exhausted() bool { return t.left.next < 0 && t.right.next < 0 }

// widen finds a span of at most so many keys around the key: all keys with the shortest prefix of it that has not more, and then of
// the neighbors to both sides as many as fit.
//
// etcd walks its index to the end of a range whatever the limit (docs/detection.md, PIN), so a range that may hold millions of keys is
// not asked to learn that it does: it grows by one byte of the key at a time, and stops where it is too wide. One member is asked, for
// the number of keys, before all are asked for the keys.
func (t *trail) widen(ctx context.Context, most int64) (span, judge.Kind) {
	for t.left.next == t.right.next && t.left.next >= 0 {
		s := under(t.key[:t.left.next])
		n, fits, k := t.count(ctx, s, most)
		if k != judge.OK {
			return span{}, k
		}
		if !fits {
			break
		}
		t.left.edge, t.right.edge, t.both = s.lo, s.hi, n
		t.left.next--
		t.right.next--
	}
	lo, k := t.grow(ctx, &t.left, (most-t.both)/2)
	if k != judge.OK {
		return span{}, k
	}
	hi, k := t.grow(ctx, &t.right, (most-t.both)/2)
	return span{lo, hi}, k
}

// grow one side by at most so many keys, prefix by prefix and in each by a few steps. It returns the edge up to where they fit, which
// may lie beyond that of the last prefix that fits as a whole.
func (t *trail) grow(ctx context.Context, s *side, most int64) ([]byte, judge.Kind) {
	for s.next >= 0 {
		own := -1 // the key itself comes before every byte that may follow the prefix
		if s.next < len(t.key) {
			own = int(t.key[s.next])
		}
		limit := s.limit(under(t.key[:s.next]))
		in, keys := s.edge, int64(0)
		for _, width := range []int{1, 16, 256} {
			out := limit
			if b := s.step(own, width); b >= 0 && b <= 0xff {
				out = append(slices.Clone(t.key[:s.next]), byte(b))
			}
			if bytes.Equal(in, out) {
				continue
			}
			n, fits, k := t.count(ctx, between(s.edge, out), most-s.keys)
			if k != judge.OK {
				return nil, k
			}
			if !fits {
				return t.squeeze(ctx, s, in, out, n, most-s.keys)
			}
			in, keys = out, n
		}
		s.edge, s.keys, s.next = limit, s.keys+keys, s.next-1
	}
	return s.edge, judge.OK
}

// halvings bounds the search for an edge up to which keys fit.
const halvings = 20

// squeeze finds an edge between one up to which the keys fit and one up to which they do not, where these are not too many to be
// counted a few times more.
func (t *trail) squeeze(ctx context.Context, s *side, in, out []byte, keys, most int64) ([]byte, judge.Kind) {
	if keys == 0 || keys >= wideSpan {
		return in, judge.OK
	}
	for range halvings {
		mid := middle(in, out)
		if mid == nil {
			break
		}
		n, fits, k := t.count(ctx, between(s.edge, mid), most)
		switch {
		case k != judge.OK:
			return nil, k
		case !fits:
			out = mid
		case n >= most/2:
			return mid, judge.OK
		default:
			in = mid
		}
	}
	return in, judge.OK
}

func between(a, b []byte) span {
	if bytes.Compare(a, b) > 0 {
		a, b = b, a
	}
	return span{a, b}
}

// middle is a key between two others, about halfway; nil when these are too close to one another.
func middle(a, b []byte) []byte {
	s := between(a, b)
	same := 0
	for same < len(s.lo) && same < len(s.hi) && s.lo[same] == s.hi[same] {
		same++
	}
	number := func(key []byte) uint64 {
		var eight [8]byte
		copy(eight[:], key[same:])
		return binary.BigEndian.Uint64(eight[:])
	}
	lo, hi := number(s.lo), number(s.hi)
	if hi-lo < 2 {
		return nil
	}
	return bytes.TrimRight(binary.BigEndian.AppendUint64(slices.Clone(s.lo[:same]), lo+(hi-lo)/2), "\x00")
}

// count asks one member how many keys there are, and tells whether they are few enough. What cannot be told, or is better not asked, is
// too many: a span that is known to be dense, or in which a member was lost.
func (t *trail) count(ctx context.Context, s span, most int64) (n int64, fits bool, k judge.Kind) {
	for range renewals {
		if t.f.wide.within(s, time.Now()) || t.visited >= mostVisited || t.counts >= mostCounts {
			return 0, false, judge.OK
		}
		t.counts++
		one, k := t.look(ctx, s)
		switch k {
		case judge.OK:
			t.visited += one.Count
			if one.Count >= wideSpan {
				t.f.wide.add(s, time.Now())
			}
			return one.Count, one.Count <= most, judge.OK
		case judge.Timeout:
			t.f.wide.add(s, time.Now())
			return 0, false, judge.OK
		case judge.Poisoned, judge.Denied: // as a whole
			return 0, false, judge.OK
		case judge.Compacted, judge.FutureRev:
			if k := t.renew(ctx); k != judge.OK {
				return 0, false, k
			}
		default:
			return 0, false, k
		}
	}
	return 0, false, judge.Compacted
}

// look at a span: one key of it, and how many there are. What could not be counted in time is not asked a second time.
func (t *trail) look(ctx context.Context, s span) (one ask.Page, k judge.Kind) {
	late := false
	k = t.f.patiently(ctx, patience, func() judge.Kind {
		pages := t.f.Ask.Pages(ctx, t.scout, s.question(t.at), 1, false)
		one = pages[0]
		k := t.worst(pages)
		if late = k == judge.Timeout; late {
			return judge.OK
		}
		return k
	})
	if late {
		return one, judge.Timeout
	}
	return one, k
}

const (
	// wideSpan is a count of keys that is not asked for twice.
	wideSpan = 5000
	// mostCounts are asked for over one finding: 10 s of a member's budget.
	mostCounts = 200
	// denseSpans are remembered, and for how long.
	denseSpans = 64
	denseFor   = time.Hour
)

// dense is spans that were found to hold very many keys, so that a second finding nearby does not let a member count them again.
type dense struct {
	mu    sync.Mutex
	spans []denseSpan
}

type denseSpan struct {
	span
	until time.Time
}

func (d *dense) add(s span, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.spans) >= denseSpans {
		d.spans = slices.Delete(d.spans, 0, 1)
	}
	d.spans = append(d.spans, denseSpan{s, now.Add(denseFor)})
}

// within tells whether a span holds one that is dense.
func (d *dense) within(s span, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.spans, func(o denseSpan) bool { return now.Before(o.until) && s.contains(o.span) })
}
