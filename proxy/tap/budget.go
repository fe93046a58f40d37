package tap

import (
	"compress/gzip"
	"sync"
	"sync/atomic"
)

// GUARANTEE G7: what a tap holds of one connection is bounded by these constants. Copies of messages count towards MaxBytes and
// the Budget; apart from them there are at most two header blocks, two HPACK tables and maxStreams small records.
const (
	DefaultBudget = 64 << 20 // bytes of copies, of all connections together
	MaxBytes      = 1 << 20  // bytes of copies, of one connection

	maxBlock      = 64 << 10  // bytes of a header block as it is sent
	maxFields     = 256 << 10 // bytes of a header block when decoded, 32 added per field (RFC 9113, 6.5.2)
	defaultTable  = 4 << 10   // bytes of the client's HPACK table: no member allows more (etcd's SETTINGS do not speak of it), and adding to a large one is work
	maxTable      = 64 << 10  // … of the member's, whatever the client's SETTINGS say: size updates in the stream tell
	maxRatio      = 64        // how much longer than it was sent a request may be: decompressing is work, and no client of etcd compresses
	maxStreams    = 16 << 10  // streams that the client has open
	maxEarly      = 64        // streams that are answered before they are opened
	maxHeld       = 64 << 10  // bytes of an answer, copied before the request is whole
	maxSpare      = 64        // stream records kept for reuse
	maxSpareCalls = 16        // call records kept for reuse, each with
	maxScratch    = 1 << 10   // bytes at most of an old request
	callOverhead  = 512       // a call's record, counted as held
	messageRecord = 32        // an answer message's slice, counted as held: empty messages must not be free
)

// A Budget bounds the bytes that the taps of all connections hold together: copies for calls that have not been handed over yet.
type Budget struct {
	max  int64
	used atomic.Int64

	readers sync.Pool // of *gzip.Reader: 40 KiB each, so shared
}

// NewBudget returns a budget of so many bytes; DefaultBudget if max is not positive.
func NewBudget(max int64) *Budget {
	if max <= 0 {
		max = DefaultBudget
	}
	return &Budget{max: max, readers: sync.Pool{New: func() any { return new(gzip.Reader) }}}
}

// Used is how many bytes are held just now.
func (b *Budget) Used() int64 { return b.used.Load() }

func (b *Budget) take(n int64) bool {
	if b.used.Add(n) > b.max {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *Budget) give(n int64) { b.used.Add(-n) }

// charge takes n bytes for a call, from the connection's bound and from the budget.
func (t *Tap) charge(c *call, n int) bool {
	if t.held+int64(n) > MaxBytes || !t.cfg.Budget.take(int64(n)) {
		return false
	}
	t.held += int64(n)
	c.charged += n
	return true
}

func (t *Tap) refund(c *call, n int) {
	c.charged -= n
	t.held -= int64(n)
	t.cfg.Budget.give(int64(n))
}

func (b *Budget) reader() *gzip.Reader     { return b.readers.Get().(*gzip.Reader) }
func (b *Budget) putReader(z *gzip.Reader) { b.readers.Put(z) }
