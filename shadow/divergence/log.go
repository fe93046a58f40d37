// Package divergence turns confirmed evidence into findings with a life,
// confirmed → updated → healed, and writes one NDJSON record per change. The
// records are described in docs/divergence-log.md.
//
// Each finding is reported once, not once per read. A flood is folded: ten
// records a minute after the first hundred. What is folded is counted, and
// written late when there is room, so that the log never says healed of what
// it did not call confirmed, and never confirmed twice.
package divergence

import (
	"cmp"
	"container/list"
	"crypto/rand"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

// Config is what a Log needs. All of it is optional.
type Config struct {
	// Sink takes one whole line per Write. A *File is also opened and reopened
	// by Run. For os.Stdout the program must ignore SIGPIPE, or a reader that
	// goes away ends the process. If nil, the findings only live in the metrics.
	Sink io.Writer
	// Report is told by Run's goroutine, once per change, that the sink cannot
	// be written, and (with nil) that it can be again. If nil, nobody is told.
	Report func(error)
	// Clock is for the records and the flood limit. If nil, time.Now.
	Clock func() time.Time
	// HashKey keys the hashes of values. If nil, a random one of this process.
	HashKey []byte
	Limits  Limits
	// Metrics is where the metrics are registered. If nil, nowhere.
	Metrics prometheus.Registerer
}

// Limits bound memory, records and time. Zero values mean the defaults.
type Limits struct {
	Findings      int           // open findings that are tracked; 10,000, the rest is counted only
	KeyBytes      int           // bytes of the keys of open findings; 16 MiB
	ShiftedKeys   int           // keys tracked per shifted finding; 1,024
	Waiting       int           // records that wait for the sink; 1,000, then the oldest is lost
	Burst         int           // records before the flood limit; 100
	PerMinute     int           // records a minute in a flood; 10
	FoldedAfter   time.Duration // folded changes wait so long for a record that tells of them; 1 min
	FlushTimeout  time.Duration // Run's time to write what waits at its end; 2 s
	RetryInterval time.Duration // first pause after a failed write, doubled up to 64 times it; 500 ms
}

const (
	// maxShifted bounds the shifted findings, one per way in which the members of
	// a cluster can disagree: real clusters have one, or two.
	maxShifted = 16
	// maxExtents bounds the findings that hold an extent, which is the largest part of one.
	maxExtents = 100
)

func (c *Limits) setDefaults() {
	c.Findings = cmp.Or(c.Findings, 10_000)
	c.KeyBytes = cmp.Or(c.KeyBytes, 16<<20)
	c.ShiftedKeys = cmp.Or(c.ShiftedKeys, 1024)
	c.Waiting = cmp.Or(c.Waiting, 1000)
	c.Burst = cmp.Or(c.Burst, 100)
	c.PerMinute = cmp.Or(c.PerMinute, 10)
	c.FoldedAfter = cmp.Or(c.FoldedAfter, time.Minute)
	c.FlushTimeout = cmp.Or(c.FlushTimeout, 2*time.Second)
	c.RetryInterval = cmp.Or(c.RetryInterval, 500*time.Millisecond)
}

// Log holds the open findings and the records that wait to be written. Its
// methods are safe for concurrent use, and only Run and Close wait for the sink.
//
// GUARANTEE G7: Memory is bounded, per connection and in all. Here: findings,
// bytes of their keys, keys per shifted finding, extents, waiting records.
type Log struct {
	cfg     Config
	limits  Limits
	hasher  hasher
	metrics *metrics
	queue   queue

	openKeys atomic.Int64 // len(keys), so that IsOpen of a healthy cluster takes no lock

	mu       sync.RWMutex // never held across a write
	findings map[string]*finding
	shifted  []*finding
	cluster  []*finding // of the cluster
	extents  int        // findings that hold one
	keys     map[string]*openKey
	checked  list.List // of *openKey, the longest unchecked first
	keyBytes int
	owed     []*finding // healed findings whose record found no room
	flood    flood
	folded   int64
	since    time.Time // of the first folded change
	seq      int64
}

// openKey is a key with something open: its own findings, or being counted in
// a shifted one.
type openKey struct {
	key      string
	findings []*finding
	checked  *list.Element
}

// New returns a Log. Records are written once Run runs.
func New(cfg Config) *Log {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if len(cfg.HashKey) == 0 {
		cfg.HashKey = make([]byte, 32)
		rand.Read(cfg.HashKey) // never fails, see crypto/rand
	}
	if cfg.Sink == nil {
		cfg.Sink = io.Discard
	}
	if cfg.Report == nil {
		cfg.Report = func(error) {}
	}
	cfg.Limits.setDefaults()
	l := &Log{
		cfg:      cfg,
		limits:   cfg.Limits,
		hasher:   newHasher(cfg.HashKey),
		metrics:  newMetrics(cfg.Metrics),
		findings: make(map[string]*finding),
		keys:     make(map[string]*openKey),
		flood:    newFlood(cfg.Limits.Burst, cfg.Limits.PerMinute, cfg.Clock()),
	}
	l.queue.init(cfg.Limits.Waiting, l.metrics)
	return l
}

// Confirm takes confirmed evidence in: a new finding, or one more sighting of
// an open one. Evidence that shows no disagreement is refused and counted.
func (l *Log) Confirm(e Evidence) {
	if why := e.refuse(); why != "" {
		l.metrics.refused.WithLabelValues(why).Inc()
		return
	}
	s := l.sight(&e) // hashes the values: before the lock
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payOwed()
	if k := l.keys[s.key]; k != nil {
		l.checked.MoveToBack(k.checked)
	}
	// A key that has a finding of its own keeps it, also when by now it differs
	// in revisions only.
	switch f := l.findings[s.id]; {
	case f != nil:
		before := f.signature()
		f.see(s)
		l.reopen(f, s.key)
		l.change(f, f.signature() != before)
	case s.shifted():
		l.countShifted(s)
	default:
		l.openFinding(s)
	}
}

// full leaves the findings of the cluster out, which have a limit of their own.
func (l *Log) full() bool { return len(l.findings)-len(l.cluster) >= l.limits.Findings }

func (l *Log) orNow(t time.Time) time.Time {
	if t.IsZero() {
		return l.cfg.Clock()
	}
	return t
}

func (l *Log) openFinding(s *sighting) {
	if l.full() || !l.keyFits(s.key) {
		l.metrics.untracked.Inc()
		l.fold()
		return
	}
	f := newFinding(s, record.KindKey)
	f.count(s)
	l.findings[f.id] = f
	l.metrics.open.WithLabelValues(record.KindKey).Inc()
	l.watch(f, s.key)
	l.change(f, true)
}

// reopen takes back a healing that the log does not know yet: for its readers
// the finding never ended.
func (l *Log) reopen(f *finding, key string) {
	if f.healed == nil {
		return
	}
	f.healed = nil
	l.metrics.open.WithLabelValues(f.kind).Inc()
	if f.kind == record.KindKey {
		l.watch(f, key)
	}
}

// Consistent takes in that a check at revision found the key equal on these
// members. It heals the open findings of the key whose members are all among
// them, unless there is evidence from a newer revision or a later moment.
func (l *Log) Consistent(cluster uint64, key []byte, revision int64, members []uint64, at time.Time) {
	if !l.IsOpen(key) {
		return
	}
	check := &equality{cluster, revision, members, l.orNow(at)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payOwed()
	k := l.keys[string(key)]
	if k == nil {
		return
	}
	l.checked.MoveToBack(k.checked)
	for _, f := range slices.Clone(k.findings) {
		newest, lastSeen := f.newest, f.lastSeen
		if f.kind == record.KindShifted {
			newest, lastSeen = f.shift.tracked[k.key].revision, f.shift.tracked[k.key].lastSeen
		}
		if !check.heals(f, newest, lastSeen) {
			continue
		}
		l.unwatch(f, k)
		if f.kind == record.KindShifted {
			f.shift.close(k.key)
		}
		if f.kind == record.KindKey || f.shift.over() {
			l.heal(f, &record.Healing{Revision: revision, Members: record.HexIDs(members), Removed: record.HexIDs(f.removed)})
		}
	}
}

// Members takes in who the members of the cluster are, as a quorum says. A
// member that has left is no longer waited for, and a disagreement with it is
// over: replacing a member is how an operator mends it.
func (l *Log) Members(cluster uint64, current []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payOwed()
	var over []*finding
	for _, f := range l.findings {
		if f.cluster == cluster && f.healed == nil && f.leave(current) {
			over = append(over, f)
		}
	}
	slices.SortFunc(over, olderFirst) // the order of records must not depend on a map's
	for _, f := range over {
		switch f.kind {
		case record.KindKey:
			l.unwatch(f, l.keys[f.key])
		case record.KindShifted:
			for key, k := range f.shift.tracked {
				if k.open {
					l.unwatch(f, l.keys[key])
					f.shift.close(key)
				}
			}
		}
		l.heal(f, &record.Healing{Removed: record.HexIDs(f.removed)})
	}
}

// IsOpen reports whether a check of the key matters to a finding. Consistent asks
// it for every check.
func (l *Log) IsOpen(key []byte) bool {
	if l.openKeys.Load() == 0 {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.keys[string(key)] != nil
}

// OpenFinding is a key that waits to be checked again.
type OpenFinding struct {
	Key []byte
}

// Open returns up to max open keys, those first that were not checked or
// returned here for the longest time.
func (l *Log) Open(limit int) []OpenFinding {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []OpenFinding
	for range min(limit, l.checked.Len()) {
		e := l.checked.Front()
		l.checked.MoveToBack(e)
		out = append(out, OpenFinding{Key: []byte(e.Value.(*openKey).key)})
	}
	return out
}

// What heals is looked up by key. These are called with Log.mu held.

func (l *Log) keyFits(key string) bool {
	return l.keys[key] != nil || l.keyBytes+len(key) <= l.limits.KeyBytes
}

// watch makes checks of the key matter to the finding.
func (l *Log) watch(f *finding, key string) {
	k := l.keys[key]
	if k == nil {
		k = &openKey{key: key}
		k.checked = l.checked.PushBack(k)
		l.keys[key] = k
		l.keyBytes += len(key)
	} else {
		l.checked.MoveToBack(k.checked)
	}
	k.findings = append(k.findings, f)
	l.openKeys.Store(int64(len(l.keys)))
}

func (l *Log) unwatch(f *finding, k *openKey) {
	k.findings = slices.DeleteFunc(k.findings, func(other *finding) bool { return other == f })
	if len(k.findings) == 0 {
		delete(l.keys, k.key)
		l.checked.Remove(k.checked)
		l.keyBytes -= len(k.key)
	}
	l.openKeys.Store(int64(len(l.keys)))
}
