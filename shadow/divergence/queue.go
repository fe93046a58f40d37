package divergence

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

// The way of a change to the queue; Log.mu is held on it.

// change writes the record that is due for an open finding, if there is room.
// A change that happened now may use all room; one that is late leaves some.
func (l *Log) change(f *finding, now bool) {
	event := record.Confirmed
	if f.reported != "" {
		if f.reported == f.signature() {
			return
		}
		event = record.Updated
	}
	if l.flood.take(l.cfg.Clock(), !now) {
		l.emit(event, f)
	} else if now {
		l.fold()
	}
}

// heal ends a finding. A finding that the log does not know ends in silence;
// one that it knows is kept until its record has found room.
func (l *Log) heal(f *finding, how *record.Healing) {
	f.healed = how
	l.metrics.open.WithLabelValues(f.kind).Dec()
	switch {
	case f.reported == "":
		l.fold()
		l.forget(f)
	case l.flood.take(l.cfg.Clock(), false):
		l.emit(record.Healed, f)
		l.forget(f)
	default:
		l.fold()
		if !f.owed {
			f.owed = true
			l.owed = append(l.owed, f)
		}
	}
}

func (l *Log) forget(f *finding) {
	delete(l.findings, f.id)
	this := func(other *finding) bool { return other == f }
	if f.shift != nil {
		l.shifted = slices.DeleteFunc(l.shifted, this)
		l.metrics.shiftedKeys.Sub(float64(f.shift.keys))
	}
	if f.rift != nil {
		l.cluster = slices.DeleteFunc(l.cluster, this)
	}
	if f.learned.extent != nil {
		l.extents--
	}
}

// payOwed writes late healed records while there is room.
func (l *Log) payOwed() {
	for len(l.owed) > 0 {
		f := l.owed[0]
		if f.healed != nil && !l.flood.take(l.cfg.Clock(), true) {
			return
		}
		l.owed = slices.Delete(l.owed, 0, 1)
		f.owed = false
		if f.healed != nil { // nil: open again meanwhile
			l.emit(record.Healed, f)
			l.forget(f)
		}
	}
}

// fold counts a change that gets no record.
func (l *Log) fold() {
	if l.folded == 0 {
		l.since = l.cfg.Clock()
	}
	l.folded++
	l.metrics.folded.Inc()
}

// tick does what waits for time to pass: late records, and the record that
// tells of folded changes when no other does.
func (l *Log) tick(last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payOwed()
	if l.folded > 0 && (last || l.cfg.Clock().Sub(l.since) >= l.limits.FoldedAfter) {
		l.flood.take(l.cfg.Clock(), false) // it counts as a record, but needs no room: there is at most one a minute
		l.emit(record.Folded, nil)
	}
}

// emit makes the record and queues it. The order of seq is the order of lines.
func (l *Log) emit(event string, f *finding) {
	l.seq++
	r := record.Record{Schema: record.Schema, Seq: l.seq, Event: event, Time: record.Time(l.cfg.Clock()), Folded: l.folded}
	if f == nil {
		r.DescribeFolded(l.limits.PerMinute)
	} else {
		r.Finding = f.record(l.hasher.id)
		r.Describe(f.all, record.HexIDs(f.removed))
		f.reported = f.signature()
	}
	l.folded = 0
	l.queue.put(queued{event: event, line: r.Line()})
}

// flood is a token bucket of records.
type flood struct {
	room, burst, perMinute, reserve float64
	filled                          time.Time
}

func newFlood(burst, perMinute int, now time.Time) flood {
	// Late records leave a twentieth of the room, so that what happens now need
	// not queue behind hours of backlog.
	return flood{
		room: float64(burst), burst: float64(burst), perMinute: float64(perMinute),
		reserve: float64(burst / 20), filled: now,
	}
}

func (b *flood) take(now time.Time, late bool) bool {
	if d := now.Sub(b.filled); d > 0 { // the clock may step back
		b.room = min(b.burst, b.room+d.Minutes()*b.perMinute)
	}
	b.filled = now
	need := 1.0
	if late {
		need += b.reserve
	}
	if b.room < need {
		return false
	}
	b.room--
	return true
}

// queue holds the records between those who find and the one who writes.
type queue struct {
	wake    chan struct{} // of capacity 1: there is something to do
	metrics *metrics

	mu      sync.Mutex
	limit   int
	lines   []queued
	reopen  bool
	closed  bool
	started bool
	stop    chan struct{}
	done    chan struct{} // closed when Run has ended
}

type queued struct {
	event string
	line  []byte
}

func (q *queue) init(limit int, m *metrics) {
	q.limit, q.metrics = limit, m
	q.wake, q.stop, q.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
}

// put never waits: when the queue is full, the oldest record is lost. Its seq
// is missing in the log, so a reader can tell.
func (q *queue) put(r queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		q.metrics.lost.Inc()
		return
	}
	if len(q.lines) >= q.limit {
		q.lines = q.lines[1:]
		q.metrics.lost.Inc()
	}
	q.lines = append(q.lines, r)
	q.metrics.waiting.Set(float64(len(q.lines)))
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() (queued, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.lines) == 0 {
		return queued{}, false
	}
	r := q.lines[0]
	q.lines = q.lines[1:]
	q.metrics.waiting.Set(float64(len(q.lines)))
	return r, true
}

// close ends the queue and returns how many records it still held.
func (q *queue) close() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.lines)
	q.closed, q.lines = true, nil
	q.metrics.lost.Add(float64(n))
	q.metrics.waiting.Set(0)
	return n
}

func (q *queue) reopenWanted() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	wanted := q.reopen
	q.reopen = false
	return wanted
}

func (q *queue) start() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.started {
		return errors.New("divergence log: Run was called before, call it once")
	}
	q.started = true
	return nil
}
