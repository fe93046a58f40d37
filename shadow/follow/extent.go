package follow

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
	"github.com/etcd-parallax/parallax/shadow/judge"
)

const (
	// nearKeys are compared first, around the key; then up to farKeys.
	nearKeys = 200
	farKeys  = 2000
	// pageKeys and pageBytes are what one read is meant to return.
	pageKeys  = 100
	pageBytes = 128 << 10
	firstPage = 16
	// mostBytes and mostVisited bound what one finding costs a member: half a minute of its budget, and the keys that it walks over to count.
	mostBytes   = 16 << 20
	mostVisited = 100_000
	// examples of keys that differ.
	examples = 20
)

// extent is how far the difference reaches within a bound: what lies around the key. The rest is for the sweep.
type extent struct {
	record.Extent
	prefixes map[string]int64
}

// extent compares the keys around the key. With a kind other than OK, something of what was to be compared could not be.
func (t *trail) extent(ctx context.Context) (*record.Extent, judge.Kind) {
	if bytes.Compare(t.key, top) >= 0 {
		return nil, judge.OK
	}
	if k := t.renew(ctx); k != judge.OK {
		return nil, k
	}
	e := &extent{prefixes: map[string]int64{}}
	t.begin()
	near, k := t.widen(ctx, nearKeys)
	if k == judge.OK {
		k = t.sweep(ctx, e, near)
	}
	if k == judge.OK && !t.exhausted() {
		var far span
		far, k = t.widen(ctx, farKeys)
		for _, s := range []span{{near.hi, far.hi}, {far.lo, near.lo}} {
			if k == judge.OK {
				k = t.sweep(ctx, e, s)
			}
		}
	}
	e.Complete = k == judge.OK && t.exhausted()
	if k == bounded {
		k = judge.OK
	}
	return e.result(), k
}

// renew the revision at which keys are compared: the highest that all members of the finding can answer. Where their revisions have
// drifted apart, it is that of the one that is behind.
func (t *trail) renew(ctx context.Context) judge.Kind {
	revisions, k := t.revisions(ctx)
	t.at = slices.Min(revisions)
	return k
}

// sweep compares a span, page by page.
func (t *trail) sweep(ctx context.Context, e *extent, s span) judge.Kind {
	limit := min(t.limit(t.size), firstPage)
	for renewed := 0; !s.empty(); {
		if t.bytes >= mostBytes || t.visited >= mostVisited {
			return bounded
		}
		p, k := t.page(ctx, s, limit)
		switch {
		case k == judge.Exhausted && limit > 1:
			limit = max(1, limit/8)
			continue
		case (k == judge.Compacted || k == judge.FutureRev) && renewed < renewals:
			renewed++
			if k := t.renew(ctx); k != judge.OK {
				return k
			}
			continue
		case k != judge.OK:
			return k
		}
		e.add(t, p)
		if p.keys > 0 {
			limit = min(t.limit(p.bytes/p.keys), 2*limit) // what follows may be larger
		}
		s.lo = p.end
	}
	return judge.OK
}

// limit is how many keys of a size to ask for.
func (t *trail) limit(size int) int64 { return int64(min(pageKeys, max(1, pageBytes/max(1, size)))) }

// page is a piece of the key space as it was compared.
type page struct {
	end   []byte // the first key that was not
	diffs []judge.Diff
	keys  int // that any member has
	bytes int // of the longest answer, of both rounds

	moved [][]byte // of the diffs, those with equal content under other revisions
	alike int64    // the highest mod_revision of a key that all have alike
}

// page compares the first keys of a span, in two rounds where the first one differs. Kind is OK when every key of it was found equal or
// proved to differ.
func (t *trail) page(ctx context.Context, s span, limit int64) (page, judge.Kind) {
	p := page{end: s.hi}
	q := s.question(t.at)
	pages, k := t.ask(ctx, t.members, q, limit)
	if k != judge.OK {
		return p, k
	}
	walked := int64(0)
	for _, one := range pages {
		walked, p.bytes = max(walked, one.Count), max(p.bytes, one.Bytes)
		switch n := len(one.KVs); { // what one member has beyond its answer cannot be told from what another lacks
		case one.Count <= int64(n):
		case n == 0:
			return p, unsettled
		default:
			p.end = slices.MinFunc([][]byte{p.end, append(bytes.Clone(one.KVs[n-1].Key), 0)}, bytes.Compare)
		}
	}
	t.visited += walked
	first := upTo(answers(pages), p.end)
	keys := union(first)
	p.keys = len(keys)
	if judge.Suspects(first) {
		pages, k := t.ask(ctx, t.members, q, limit)
		if k != judge.OK {
			return p, k
		}
		t.visited += walked
		p.bytes *= 2
		p.diffs = judge.PIN(q, first, upTo(answers(pages), p.end)).Diffs
		if len(p.diffs) < len(judge.PIN(q, first, first).Diffs) { // all that one round suspects
			return p, unsettled
		}
		p.moved = t.movedOf(ctx, q.Revision, p.diffs, first)
	}
	p.alike = alike(first, p.diffs)
	return p, judge.OK
}

// upTo leaves out what lies beyond the end of a page.
func upTo(all []judge.Answer, end []byte) []judge.Answer {
	for i, a := range all {
		n, _ := slices.BinarySearchFunc(a.KVs, end, func(kv judge.KV, end []byte) int { return bytes.Compare(kv.Key, end) })
		all[i].KVs = a.KVs[:n]
	}
	return all
}

// union of the keys that members have.
func union(all []judge.Answer) [][]byte {
	var keys [][]byte
	for _, a := range all {
		for _, kv := range a.KVs {
			keys = append(keys, kv.Key)
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal)
}

// movedOf finds the differences that are none of content: each member is asked once more, at its own newest revision.
func (t *trail) movedOf(ctx context.Context, revision int64, diffs []judge.Diff, first []judge.Answer) [][]byte {
	last := diffs[len(diffs)-1].Key
	newest := t.newest(ctx, judge.Question{Key: diffs[0].Key, End: append(bytes.Clone(last), 0), Revision: revision}, diffs...)
	var keys [][]byte
	for _, d := range diffs {
		if _, moved := judge.Shifted(d, first, newest); moved {
			keys = append(keys, bytes.Clone(d.Key))
		}
	}
	return keys
}

// alike is the highest mod_revision of a key that all members have alike, and that was written once: one that is written all the time
// is alike, too, where its values are, on a member that skipped one of the writes.
func alike(first []judge.Answer, diffs []judge.Diff) int64 {
	highest := int64(0)
	for _, kv := range first[0].KVs {
		if _, differs := slices.BinarySearchFunc(diffs, kv.Key, func(d judge.Diff, key []byte) int { return bytes.Compare(d.Key, key) }); !differs && kv.Version == 1 {
			highest = max(highest, kv.ModRevision)
		}
	}
	return highest
}

// add a page to the extent.
func (e *extent) add(t *trail, p page) {
	e.Revision = max(e.Revision, t.at)
	e.KeysCompared += int64(p.keys)
	e.KeysDiffering += int64(len(p.diffs))
	e.ShiftedOnly += int64(len(p.moved))
	for _, d := range p.diffs {
		e.prefixes[string(d.Key[:bytes.LastIndexByte(d.Key, '/')+1])]++
		if len(e.ExampleKeys) < examples {
			e.ExampleKeys = append(e.ExampleKeys, record.NewKey(d.Key))
		}
	}
	t.moved = append(t.moved, p.moved...)
	t.alike = max(t.alike, p.alike)
	t.f.Metrics.compared(p.keys, len(p.diffs))
}

// result is what is told: nil where nothing was compared.
func (e *extent) result() *record.Extent {
	if e.KeysCompared == 0 {
		return nil
	}
	for prefix, n := range e.prefixes {
		e.ByPrefix = append(e.ByPrefix, record.NewPrefix([]byte(prefix), n))
	}
	slices.SortFunc(e.ByPrefix, func(a, b record.Prefix) int {
		return cmp.Or(cmp.Compare(b.Differing, a.Differing), cmp.Compare(a.Prefix, b.Prefix), cmp.Compare(a.PrefixBase64, b.PrefixBase64))
	})
	return e.Bounded()
}
