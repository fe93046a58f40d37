package follow

import (
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

// Random histories, of which one member skips an entry, applies one twice or differently, or loses a record: what following says is
// what a naive look at the stores says.
func TestFollowingAgainstANaiveLook(t *testing.T) {
	r := newRig(t)
	followed, moved, compacted := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		r.fresh()
		r.wide = dense{}
		keys := []string{"/a/1", "/a/2", "/a/10", "/b/1", "/b/x/1", "c", "\xfe\xff"}
		ops := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) op {
			return op{
				key:   rapid.SampledFrom(keys).Draw(rt, "key"),
				value: rapid.SampledFrom([]string{"red", "blue"}).Draw(rt, "value"),
				lease: rapid.SampledFrom([]int64{0, 0, 7}).Draw(rt, "lease"),
				del:   rapid.IntRange(0, 4).Draw(rt, "del") == 0,
			}
		}), 3, 40).Draw(rt, "ops")
		at := rapid.IntRange(0, len(ops)-1).Draw(rt, "at")
		c := r.stores[2]
		fault := []func(op){
			func(op) {}, // skipped
			func(o op) { c.apply(o); c.apply(o) },
			func(o op) { o.value += "!"; c.apply(o) },
			func(o op) { o.lease++; c.apply(o) },
			func(op) { c.revision++ }, // lost
			func(o op) { o.key += "x"; c.apply(o) },
		}[rapid.IntRange(0, 5).Draw(rt, "fault")]
		for i, o := range ops {
			r.apply(o, 2)
			if i == at {
				fault(o)
			} else {
				c.apply(o)
			}
		}
		if rapid.Bool().Draw(rt, "compact") {
			for _, s := range r.stores {
				s.compact(rapid.Int64Range(0, r.lowest()).Draw(rt, "compacted"))
			}
		}
		differ, all, shifted := r.look(r.lowest())
		if len(differ) == 0 {
			return
		}
		key := rapid.SampledFrom(differ).Draw(rt, "which")
		how, got := r.one(key)
		if got.Extent == nil || got.Since == nil {
			rt.Fatalf("%s: %+v", how, got)
		}
		r.sinceIsRight(rt, key, *got.Since)
		want := &record.Extent{
			Revision: r.lowest(), Complete: true, KeysCompared: int64(all), KeysDiffering: int64(len(differ)), ShiftedOnly: int64(len(shifted)),
		}
		for _, k := range differ {
			want.ExampleKeys = append(want.ExampleKeys, record.NewKey(k))
		}
		e := *got.Extent
		e.ByPrefix = nil
		if fmt.Sprintf("%+v", &e) != fmt.Sprintf("%+v", want) {
			rt.Fatalf("%q: %+v, want %+v", key, e, *want)
		}
		if len(shifted) > 0 && got.Layer == record.LayerStorage {
			rt.Fatalf("layer %s, with shifted keys %q", got.Layer, shifted)
		}
		followed, moved = followed+1, moved+len(shifted)
		if got.Since.CompactedBefore > 0 {
			compacted++
		}
	})
	t.Logf("%d findings followed, %d shifted keys, %d older than the history", followed, moved, compacted)
	if followed < 10 {
		t.Error("hardly any history made a difference")
	}
	r.formIsRight()
}

// look at the stores: which keys differ at a revision, of how many, and which of them in revisions alone, newest against newest.
func (r *rig) look(revision int64) (differ []string, all int, shifted []string) {
	seen := map[string]bool{}
	for _, s := range r.stores {
		for key := range s.history {
			if s.at(key, revision) != nil {
				seen[key] = true
			}
		}
	}
	for key := range seen {
		if !r.alike(key, revision, nil) {
			differ = append(differ, key)
			if r.moved(key, revision) {
				shifted = append(shifted, key)
			}
		}
	}
	slices.Sort(differ)
	return differ, len(seen), shifted
}

// alike tells whether all three hold the same, after something was done to what they hold.
func (r *rig) alike(key string, revision int64, do func(*mvccpb.KeyValue)) bool {
	var held []*mvccpb.KeyValue
	for _, s := range r.stores {
		kv := s.at(key, min(revision, s.revision))
		if kv != nil && do != nil {
			kv = proto.Clone(kv).(*mvccpb.KeyValue)
			do(kv)
		}
		held = append(held, kv)
	}
	same := func(a, b *mvccpb.KeyValue) bool { return (a == nil) == (b == nil) && (a == nil || proto.Equal(a, b)) }
	return same(held[0], held[1]) && same(held[1], held[2])
}

// moved: A and B are alike always, so that the groups are the same ones.
func (r *rig) moved(key string, revision int64) bool {
	blind := func(kv *mvccpb.KeyValue) { kv.CreateRevision, kv.ModRevision = 0, 0 }
	if r.alike(key, revision, blind) {
		return true // on both sides there, at this revision already
	}
	const newest = 1 << 40
	return !r.alike(key, newest, nil) && r.alike(key, newest, blind) && r.stores[0].at(key, newest) != nil
}

// sinceIsRight: they differ there, and did not before, or nobody can tell.
func (r *rig) sinceIsRight(rt *rapid.T, key string, since record.Since) {
	oldest := max(r.stores[0].compacted, r.stores[1].compacted, r.stores[2].compacted, oldestPinned)
	first := max(since.Revision, since.CompactedBefore)
	switch {
	case r.alike(key, first, nil):
		rt.Fatalf("%q does not differ at %+v", key, since)
	case since.Revision > 0 && (first <= oldest || !r.alike(key, first-1, nil)):
		rt.Fatalf("%q differs before %+v, or it cannot be read (%d can)", key, since, oldest)
	case since.Revision == 0 && first != oldest:
		rt.Fatalf("%q: %+v, the oldest to be read is %d", key, since, oldest)
	}
}
