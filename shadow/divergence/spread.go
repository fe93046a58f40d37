package divergence

// What is known of other keys than the one that showed the difference: keys that
// differ in revisions only are counted, and following a finding learns the rest.

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"time"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

const (
	shiftedExamples = 10
	shiftedBits     = 1 << 20 // 128 KiB for the keys beyond the tracked ones
)

// shift counts the keys of a shifted finding. The first ones are tracked by
// name until a check finds them equal; of those beyond, one bit each says that
// they were counted, so their number is a lower bound.
type shift struct {
	tracked  map[string]*shiftedKey // all that were ever counted by name, open or not
	open     int                    // those not found equal yet
	keys     int64
	overflow []uint64
	seed     maphash.Seed
	examples []string
	by       int64 // mod_revision of the second group minus the first's
	even     bool  // by is the same for all keys
}

type shiftedKey struct {
	open     bool
	revision int64
	lastSeen time.Time
}

func newShift() *shift {
	return &shift{tracked: make(map[string]*shiftedKey), seed: maphash.MakeSeed()}
}

// add counts the key of a sighting, tracked by name if there is room. It
// reports whether a check of the key is waited for that was not before.
func (h *shift) add(s *sighting, room bool) (opened bool) {
	k := h.tracked[s.key]
	switch {
	case k == nil && room:
		k = &shiftedKey{}
		h.tracked[s.key] = k
		h.keys++
		if len(h.examples) < shiftedExamples {
			h.examples = append(h.examples, s.key)
		}
	case k == nil:
		h.addUnnamed(s.key)
		return false
	}
	opened = !k.open
	if opened {
		k.open = true
		h.open++
	}
	k.revision = max(k.revision, s.revision)
	if s.at.After(k.lastSeen) {
		k.lastSeen = s.at
	}
	return opened
}

func (h *shift) addUnnamed(key string) {
	if h.overflow == nil {
		h.overflow = make([]uint64, shiftedBits/64)
	}
	bit := maphash.String(h.seed, key) % shiftedBits
	if mask := uint64(1) << (bit % 64); h.overflow[bit/64]&mask == 0 {
		h.overflow[bit/64] |= mask
		h.keys++
	}
}

// close notes that a tracked key was found equal.
func (h *shift) close(key string) {
	h.tracked[key].open = false
	h.open--
}

// over reports whether all keys were found equal. Of keys that were counted
// without a name nobody can say so: then only the members' leaving heals.
func (h *shift) over() bool { return h.open == 0 && h.overflow == nil }

// orient takes in by how much a sighting's mod_revision is shifted between
// the finding's first group and the other one.
func (h *shift) orient(p partition, s *sighting) {
	first := h.keys == 0
	if len(s.mods) != 2 {
		h.even = false
		return
	}
	by := s.mods[1] - s.mods[0]
	if !slices.Contains(p[0], s.part[0][0]) {
		by = -by // a group that did not answer in full this time is no longer the larger one
	}
	if first {
		h.by, h.even = by, true
	}
	h.even = h.even && h.by == by
}

// magnitude is the number's count of digits: records are written at 1, 10, 100, … keys.
func (h *shift) magnitude() string { return strconv.Itoa(len(itoa(h.keys))) }

func (h *shift) record(r *record.Finding) {
	r.Keys = h.keys
	for _, key := range h.examples {
		r.ExampleKeys = append(r.ExampleKeys, record.NewKey(key))
	}
	if h.even {
		by := h.by
		r.ModRevisionShift = &by
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// countShifted counts the key of a sighting in the finding whose members
// disagree in the same way.
func (l *Log) countShifted(s *sighting) {
	var f *finding
	if i := slices.IndexFunc(l.shifted, func(f *finding) bool {
		return f.cluster == s.cluster && (f.part.covers(s.part) || s.part.covers(f.part))
	}); i >= 0 {
		f = l.shifted[i]
	} else {
		if len(l.shifted) >= maxShifted || l.full() {
			l.metrics.untracked.Inc()
			l.fold()
			return
		}
		f = newFinding(s, record.KindShifted)
		l.findings[f.id] = f
		l.shifted = append(l.shifted, f)
		l.metrics.open.WithLabelValues(record.KindShifted).Inc()
	}
	before := f.signature()
	keys := f.shift.keys
	room := len(f.shift.tracked) < l.limits.ShiftedKeys && l.keyFits(s.key)
	if f.seeShifted(s, room) {
		l.watch(f, s.key)
	}
	l.metrics.shiftedKeys.Add(float64(f.shift.keys - keys))
	l.reopen(f, "")
	l.change(f, f.signature() != before)
}

// seeShifted counts one more key, or one more sighting of one. It reports
// whether a check of the key is waited for that was not before.
func (f *finding) seeShifted(s *sighting, room bool) (opened bool) {
	f.count(s)
	for _, name := range fieldNames { // what any key of the finding showed
		if slices.Contains(s.fields, name) && !slices.Contains(f.fields, name) {
			f.fields = append(f.fields, name)
		}
	}
	slices.SortFunc(f.fields, func(a, b string) int {
		return slices.Index(fieldNames, a) - slices.Index(fieldNames, b)
	})
	wider := !f.part.covers(s.part)
	if wider {
		f.widen(s)
	}
	f.shift.orient(f.part, s)
	opened = f.shift.add(s, room)
	if wider {
		f.shift.promote(s.key)
	}
	return opened
}

// widen shows the answers of more members.
func (f *finding) widen(s *sighting) {
	if !slices.Contains(s.part[0], f.part[0][0]) {
		f.shift.by = -f.shift.by
	}
	fields := f.fields
	f.show(s)
	f.fields = fields
}

// promote puts the key whose answers are shown first among the examples.
func (h *shift) promote(key string) {
	h.examples = slices.Insert(slices.DeleteFunc(h.examples, func(k string) bool { return k == key }), 0, key)
	h.examples = h.examples[:min(len(h.examples), shiftedExamples)]
}

// Extent and Since are what following a finding learns.
type (
	Extent = record.Extent
	Since  = record.Since
)

// Followed is what was learned about a finding beside the key that showed it.
// What is zero was not learned, and what was known of it stays.
type Followed struct {
	Extent *Extent
	Since  *Since
	Layer  string
	Served int64 // more answers that clients got from a differing member, beside those of Trigger.ServedDiffering
}

// learned is what is known of Followed. It only grows, so that no record is due
// when the same is found again.
type learned struct {
	extent   *Extent
	most     int64 // keys that were ever found differing
	complete bool  // an extent was
	since    *Since
	served   int64

	wrote int64        // the oldest revision that was looked at because a client wrote it,
	call  *record.Call // by this call
}

// see takes in what a sighting says of the clients.
func (k *learned) see(s *sighting) {
	if s.trigger == nil {
		return
	}
	if s.trigger.ServedDiffering {
		k.served++
	}
	if s.trigger.Kind == TriggerWrite && (k.wrote == 0 || s.revision < k.wrote) {
		k.wrote, k.call = s.revision, &record.Call{Method: s.trigger.Method, Time: record.Time(s.at)}
	}
}

func (k *learned) take(got Followed) {
	if got.Extent != nil {
		k.extent = got.Extent.Bounded()
		k.most = max(k.most, got.Extent.KeysDiffering)
		k.complete = k.complete || got.Extent.Complete
	}
	k.since = k.since.With(got.Since.Plain())
	if k.since != nil && k.since.Revision > 0 && k.since.Revision == k.wrote {
		k.since = k.since.With(&Since{Revision: k.wrote, Call: k.call})
	}
	k.served += got.Served
}

// signature leaves out how many answers were served: that alone is no change.
func (k *learned) signature() string {
	var s string
	if k.extent != nil {
		s = fmt.Sprint(len(itoa(k.most)), k.complete)
	}
	if k.since != nil {
		s += fmt.Sprintf("/%d/%d/%d/%t", k.since.Revision, k.since.CompactedBefore, k.since.RaftTerm, k.since.Call != nil)
	}
	return s + "/"
}

// Follow takes in what was learned about the open finding of a key: the next
// record shows it. Where the key has several, it is about the one whose members
// answer differently now. It does nothing when none is open.
func (l *Log) Follow(cluster uint64, key []byte, got Followed) {
	if !l.IsOpen(key) {
		return
	}
	if got.Layer != "" && !slices.Contains(record.Layers(), got.Layer) {
		l.metrics.refused.WithLabelValues("layer").Inc()
		got.Layer = ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payOwed()
	f := l.followed(cluster, string(key))
	if f == nil {
		return
	}
	before := f.signature()
	if got.Extent != nil && f.learned.extent == nil {
		if l.extents >= maxExtents {
			got.Extent = nil
		} else {
			l.extents++
		}
	}
	f.learned.take(got)
	if f.kind == record.KindKey { // of shifted ones it is known
		f.layer = cmp.Or(got.Layer, f.layer)
	}
	l.change(f, f.signature() != before)
}

// followed is the open finding of the key that following it is about.
func (l *Log) followed(cluster uint64, key string) *finding {
	rank := func(f *finding) int {
		switch {
		case classOf(f.rule) != classState:
			return 0
		case f.kind == record.KindShifted:
			return 1
		}
		return 2
	}
	var found *finding
	if k := l.keys[key]; k != nil {
		for _, f := range k.findings {
			if f.cluster == cluster && (found == nil || rank(f) > rank(found)) {
				found = f
			}
		}
	}
	return found
}
