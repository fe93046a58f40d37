package shadow

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

// Rates say how much is looked at. They can change while running.
//
// The budget is the first knob: as long as it lasts, every call is looked at.
// When more than a second of work waits, the shares decide (a share of 0 always
// means never), so that a quiet cluster is checked whole, and a busy one never
// pays more than was agreed.
type Rates struct {
	ReadsPerSecond float64 // of one member; every RPC counts
	BytesPerSecond float64 // of one member's answers
	Reads, Writes  float64 // shares, 0 to 1
	Prefixes       []PrefixRate
}

// PrefixRate overrides the shares for keys with a prefix; the longest wins.
type PrefixRate struct {
	Prefix        string
	Reads, Writes float64
}

func (r *Rates) share(k kind, key []byte) float64 {
	reads, writes, longest := r.Reads, r.Writes, -1
	for _, p := range r.Prefixes {
		if len(p.Prefix) > longest && bytes.HasPrefix(key, []byte(p.Prefix)) {
			reads, writes, longest = p.Reads, p.Writes, len(p.Prefix)
		}
	}
	if k == read {
		return reads
	}
	return writes
}

// sampler decides, in the relay's goroutine, which calls are copied. It takes
// no lock that anybody holds for long.
type sampler struct {
	rates   atomic.Pointer[Rates]
	paused  atomic.Bool
	waiting func() int // targets in the queue
	gate    [2]gate    // of reads and writes
	events  gate       // of messages to watchers
}

// gatePerRead bounds the calls that are decoded in a second, as a multiple of
// the reads that may follow: many calls touch keys that were verified already.
const gatePerRead = 10

// dropped says why a call or a check is not followed. It is a label of a
// metric.
type dropped string

const (
	taken        dropped = ""
	dropPaused   dropped = "paused"
	dropShare    dropped = "share"    // sampled out by its share
	dropBusy     dropped = "busy"     // more calls than the shadow decodes in a second
	dropQueue    dropped = "queue"    // the queue was full
	dropMemory   dropped = "memory"   // the queue held too many bytes
	dropVerified dropped = "verified" // every key of it was verified a moment ago
	dropPanic    dropped = "panic"    // a worker panicked over it
)

// methodKind tells what kind a method is, before its request is decoded. A
// read-only transaction counts as a write.
func methodKind(method string) (kind, bool) {
	switch method {
	case methodRange, methodRangeStream:
		return read, true
	case methodPut, methodDelete, methodTxn:
		return write, true
	}
	return "", false
}

// early decides on a call whose request has not been read yet, if no prefix can have a say: then the requests that are sampled out need
// not be copied.
func (s *sampler) early(k kind, now time.Time) (why dropped, decided bool) {
	r := s.rates.Load()
	switch {
	case s.paused.Load() || r.ReadsPerSecond <= 0 || r.BytesPerSecond <= 0:
		return dropPaused, true
	case len(r.Prefixes) > 0:
		return "", false
	}
	return s.sample(r, k, nil, now), true
}

// late decides on a call that early did not decide on, whose request has been read.
func (s *sampler) late(method string, k kind, request []byte, now time.Time) (why dropped, decided bool) {
	r := s.rates.Load()
	if len(r.Prefixes) == 0 {
		return "", false
	}
	return s.sample(r, k, firstKey(method, request), now), true
}

// event decides on a message to a watcher. The write that it tells of has most often been seen itself, and each watcher is told of it:
// events are followed only while nothing else fills the budget.
func (s *sampler) event(now time.Time) dropped {
	r := s.rates.Load()
	if s.paused.Load() || r.ReadsPerSecond <= 0 || r.BytesPerSecond <= 0 {
		return dropPaused
	}
	if float64(s.waiting()) >= r.ReadsPerSecond {
		return dropBusy
	}
	if p := s.events.open(now, r.ReadsPerSecond); p < 1 && rand.Float64() >= p {
		return dropBusy
	}
	return taken
}

func (s *sampler) sample(r *Rates, k kind, key []byte, now time.Time) dropped {
	share := r.share(k, key)
	busy := float64(s.waiting()) >= r.ReadsPerSecond
	if share <= 0 || busy && share < 1 && rand.Float64() >= share {
		return dropShare
	}
	g := &s.gate[0]
	if k != read {
		g = &s.gate[1]
	}
	if p := g.open(now, r.ReadsPerSecond*gatePerRead); p < 1 && rand.Float64() >= p {
		return dropBusy
	}
	return taken
}

// gate thins out calls evenly: each is let through with one probability, which
// follows the rate of arrivals, so that no part of a second is preferred.
type gate struct {
	mu         sync.Mutex
	slot       time.Time
	count, was float64 // arrivals in this slot, and in the one before
}

const gateSlot = 100 * time.Millisecond

func (g *gate) open(now time.Time, perSecond float64) float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if age := now.Sub(g.slot); age >= gateSlot {
		g.was = g.count
		if age >= 2*gateSlot {
			g.was = 0
		}
		g.slot, g.count = now, 0
	}
	g.count++
	return perSecond * gateSlot.Seconds() / max(g.was, g.count)
}

// firstKey finds the key that decides which prefix a request belongs to: its
// own, or of a Txn that of its first compare, else of its first operation.
func firstKey(method string, request []byte) []byte {
	if method != methodTxn {
		return field(request, 1)
	}
	if compare := field(request, 1); compare != nil {
		return field(compare, 3)
	}
	op := field(request, 2)
	for num := protowire.Number(1); num <= 3; num++ { // request_range, request_put, request_delete_range
		if inner := field(op, num); inner != nil {
			return field(inner, 1)
		}
	}
	return nil
}

// field returns the first length-delimited field with a number, without
// decoding the message around it; nil where there is none.
func field(message []byte, want protowire.Number) []byte {
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil
		}
		message = message[n:]
		if num == want && typ == protowire.BytesType {
			b, _ := protowire.ConsumeBytes(message)
			return b
		}
		if n = protowire.ConsumeFieldValue(num, typ, message); n < 0 {
			return nil
		}
		message = message[n:]
	}
	return nil
}

// verified remembers which keys every member was seen to hold alike, by (key,
// mod_revision), and for which connections: an epoch that changes forgets.
type verified struct {
	entries *lru.Cache[[16]byte, verifiedUntil]
	life    time.Duration
}

type verifiedUntil struct {
	until  time.Time
	epochs uint64 // fingerprint of the members' epochs
}

const (
	// pendingLife is how long a key that is about to be checked is not sampled
	// again; an absent one, which is not told from itself after a creation and a
	// deletion, is not remembered longer than that either.
	pendingLife = 5 * time.Second
	// openLife is how long a key is left alone of which all that answered agreed,
	// while one member is away.
	openLife = 2 * time.Second
)

func newVerified(size int, life time.Duration) *verified {
	c, err := lru.New[[16]byte, verifiedUntil](size)
	if err != nil {
		panic(err) // the size is not positive
	}
	return &verified{entries: c, life: life}
}

func verifiedKey(kv judge.KV) (id [16]byte) {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(bytes.Clone(kv.Key), uint64(kv.ModRevision)))
	copy(id[:], sum[:])
	return id
}

// all tells whether every one of the key-values is verified, or being looked at.
func (v *verified) all(kvs []judge.KV, epochs uint64, now time.Time) bool {
	for _, kv := range kvs {
		e, ok := v.entries.Get(verifiedKey(kv))
		if !ok || e.epochs != epochs || !now.Before(e.until) {
			return false
		}
	}
	return len(kvs) > 0
}

// add remembers key-values that were verified.
func (v *verified) add(kvs []judge.KV, epochs uint64, now time.Time) {
	v.hold(kvs, epochs, now, v.life)
}

// hold remembers key-values for at most a time.
func (v *verified) hold(kvs []judge.KV, epochs uint64, now time.Time, life time.Duration) {
	for _, kv := range kvs {
		most := min(life, v.life)
		if kv.ModRevision == 0 {
			most = min(most, pendingLife)
		}
		v.entries.Add(verifiedKey(kv), verifiedUntil{until: now.Add(most), epochs: epochs})
	}
}

// remove forgets key-values whose check came to nothing.
func (v *verified) remove(kvs []judge.KV) {
	for _, kv := range kvs {
		v.entries.Remove(verifiedKey(kv))
	}
}

// clear forgets all of them.
func (v *verified) clear() { v.entries.Purge() }
