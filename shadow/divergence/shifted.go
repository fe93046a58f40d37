package divergence

import (
	"hash/maphash"
	"slices"
	"strconv"
	"time"
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

func (h *shift) record(r *findingRecord) {
	r.Keys = h.keys
	for _, key := range h.examples {
		r.ExampleKeys = append(r.ExampleKeys, newKeyRecord(key))
	}
	if h.even {
		by := h.by
		r.ModRevisionShift = &by
	}
}

func (h *shift) subject() string {
	s := itoa(h.keys) + plural(int(h.keys), " key", " keys") + " with shifted revisions"
	if h.even {
		s += " (by " + itoa(h.by) + ")"
	}
	return s
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

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
