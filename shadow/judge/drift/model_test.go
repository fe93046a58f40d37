package drift

import (
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

// The model of what etcd replicates: a log of entries, and a state that is a
// function of it. It is written as naively as possible, and shares nothing with
// the rules.

const modelKeys, modelLeases, modelListed = 3, 3, 3

type kind uint8

const (
	put kind = iota
	remove
	txn // if mod_revision of key is guard, then put key and the next one
	grant
	revoke
	conf
	compact
	auth
	empty // a new leader, a lease checkpoint, AuthStatus, …
)

type entry struct {
	kind        kind
	key, listed int
	lease       int // 0: none
	revision    int64
	value       int
	to          uint8
}

type version struct {
	mod, create, version int64
	value, lease         int
	deleted              bool
}

// state of the store, the lessor and the auth store.
type state struct {
	index          uint64 // consistent index
	rev, compacted int64
	keys           [modelKeys][]version
	leases         [modelLeases]bool
	auth           uint64
}

// list is the membership: per listed member how far it is on its one way, and its
// peer URLs, which go back and forth.
type list struct {
	way, urls [modelListed]uint8
}

// The way of a listed member.
const (
	unlisted uint8 = iota
	learner
	voter
	removed
)

func (s *state) clone() state {
	c := *s
	for i := range c.keys {
		c.keys[i] = slices.Clip(c.keys[i]) // histories are appended to, or made anew
	}
	return c
}

func (s *state) current(key int) *version {
	h := s.keys[key]
	if len(h) == 0 || h[len(h)-1].deleted {
		return nil
	}
	return &h[len(h)-1]
}

func (s *state) write(key int, v version) {
	v.mod, v.create, v.version = s.rev, s.rev, 1
	if was := s.current(key); was != nil {
		v.create, v.version = was.create, was.version+1
	}
	s.keys[key] = append(s.keys[key], v)
}

func (s *state) apply(e entry) {
	switch e.kind {
	case put:
		if e.lease == 0 || s.leases[e.lease-1] {
			s.rev++
			s.write(e.key, version{value: e.value, lease: e.lease})
		}
	case remove:
		if s.current(e.key) != nil {
			s.rev++
			s.write(e.key, version{deleted: true})
		}
	case txn:
		if v := s.current(e.key); v != nil && v.mod == e.revision {
			s.rev++
			s.write(e.key, version{value: e.value})
			s.write((e.key+1)%modelKeys, version{value: e.value})
		}
	case grant:
		s.leases[e.lease-1] = true
	case revoke:
		s.revoke(e.lease)
	case compact:
		s.compact(e.revision)
	case auth:
		s.auth++
	}
}

func (s *state) revoke(lease int) {
	if !s.leases[lease-1] {
		return
	}
	s.leases[lease-1] = false
	began := s.rev
	for key := range s.keys {
		if v := s.current(key); v != nil && v.lease == lease {
			s.rev = began + 1
			s.write(key, version{deleted: true})
		}
	}
}

func (s *state) compact(at int64) {
	if at <= s.compacted || at > s.rev {
		return
	}
	s.compacted = at
	for key, h := range s.keys {
		var kept []version
		for i, v := range h {
			superseded := i+1 < len(h) && h[i+1].mod <= at
			if v.mod > at || !superseded && !v.deleted {
				kept = append(kept, v)
			}
		}
		s.keys[key] = kept
	}
}

// apply an entry to the membership.
func (l *list) apply(e entry) {
	if e.kind != conf {
		return
	}
	if e.to > removed {
		l.urls[e.listed] = e.to
	} else if e.to > l.way[e.listed] {
		l.way[e.listed] = e.to
	}
}

func (l list) listed() (out []Listed) {
	for i, way := range l.way {
		if way == learner || way == voter {
			out = append(out, Listed{ID: uint64(i + 1), Learner: way == learner, PeerURLs: []string{strconv.Itoa(int(l.urls[i]))}})
		}
	}
	return out
}

func (s *state) granted() (out []int64) {
	for i, has := range s.leases {
		if has {
			out = append(out, int64(i+1))
		}
	}
	return out
}

// at is what a pinned read of everything answers.
func (s *state) at(revision int64) judge.Answer {
	switch {
	case revision > s.rev:
		return judge.Answer{Kind: judge.FutureRev}
	case revision < s.compacted:
		return judge.Answer{Kind: judge.Compacted}
	}
	var a judge.Answer
	for key, h := range s.keys {
		var held *version
		for i := range h {
			if h[i].mod <= revision {
				held = &h[i]
			}
		}
		if held != nil && !held.deleted {
			a.KVs = append(a.KVs, judge.KV{
				Key: []byte{byte('a' + key)}, Value: []byte(strconv.Itoa(held.value)), Lease: int64(held.lease),
				CreateRevision: held.create, ModRevision: held.mod, Version: held.version,
			})
		}
	}
	return a
}

// entry that means something after truth, more or less.
func (d *dice) entry(truth *state) entry {
	x := d.IntN(16)
	e := entry{value: d.IntN(1 << 16), key: d.IntN(modelKeys), listed: d.IntN(modelListed), kind: kind(d.pick(d.entries))}
	switch e.kind {
	case put:
		e.lease = max(0, x-12)
	case txn:
		if v := truth.current(e.key); v != nil {
			e.revision = v.mod - int64(x&1)
		}
	case grant, revoke:
		e.lease = 1 + x%modelLeases
	case conf:
		e.to = []uint8{learner, voter, removed, 10, 11, 10, 11, 10}[x%8]
	case compact:
		e.revision = truth.rev - int64(x)
	}
	return e
}

// dice of one run. How often what happens differs from run to run, so that runs
// differ in kind: with many restarts, or without a write that makes a revision, …
type dice struct {
	*rand.Rand
	moves, asks, entries, pace []int
}

func newDice(seed uint64) *dice {
	d := &dice{Rand: rand.New(rand.NewPCG(seed, 0))}
	d.moves = d.weights(8, 6, 20, 6, 40, 20, 3, 1, 3, 1, 1, 1, 6, 3)
	d.pace = d.weights(4, 4, 4, 4)
	d.asks, d.entries = d.weights(1, 1, 1, 1, 1, 1), d.weights(4, 1, 1, 3, 2, 2, 1, 1, 1)
	if only := d.IntN(2 * len(d.asks)); only < len(d.asks) {
		d.asks = make([]int, len(d.asks))
		d.asks[only] = 1
	}
	if d.IntN(8) == 0 { // an idle cluster, but for its membership and some writes
		d.entries = make([]int, len(d.entries))
		d.entries[put], d.entries[conf] = 1, 1
	}
	return d
}

// weights around these, of which some are nothing.
func (d *dice) weights(base ...int) (out []int) {
	for _, w := range base {
		out = append(out, w*[]int{0, 1, 4, 4, 16}[d.IntN(5)])
	}
	out[0]++ // not all
	return out
}

func (d *dice) pick(weights []int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := d.IntN(sum)
	for i, w := range weights {
		if n -= w; n < 0 {
			return i
		}
	}
	return 0
}
