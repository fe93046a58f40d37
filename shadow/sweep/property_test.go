package sweep

import (
	"bytes"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// drawKeys draws a key space: some prefixes, under each keys of one alphabet.
func drawKeys(t *rapid.T) []string {
	var keys []string
	for range rapid.IntRange(0, 4).Draw(t, "prefixes") {
		prefix := rapid.SampledFrom([]string{"", "/", "/registry/pods/", "\x00", "\xff", "\xff\xff", "a", "/registry/"}).Draw(t, "prefix")
		alphabet := rapid.SampledFrom([]string{"01", "0123456789", "0123456789abcdef", "az-/", "\x00\xff", "\xfe\xff", "\x00\x01a\x80\xff"}).Draw(t, "alphabet")
		digits := rapid.SampledFrom([]byte(alphabet))
		for range rapid.IntRange(0, 60).Draw(t, "keys") {
			keys = append(keys, prefix+string(rapid.SliceOfN(digits, 1, 6).Draw(t, "key")))
		}
	}
	return keys
}

// plant differences into the members' stores, and return the keys.
func plant(t *rapid.T, b *bench, all []*mvccpb.KeyValue) []string {
	differ := map[string]bool{}
	for range rapid.IntRange(0, 5).Draw(t, "differences") {
		s := b.stores[rapid.IntRange(0, 2).Draw(t, "member")]
		ghost := &mvccpb.KeyValue{Key: []byte(rapid.StringMatching(`(/|a|0)[0-9a-f]{1,4}`).Draw(t, "ghost")), ModRevision: 9, CreateRevision: 9, Version: 1}
		if len(all) == 0 || rapid.Bool().Draw(t, "extra") {
			i := s.find(ghost.Key)
			if i < len(s.kvs) && bytes.Equal(s.kvs[i].Key, ghost.Key) || differ[string(ghost.Key)] {
				continue
			}
			s.kvs = slices.Insert(s.kvs, i, ghost)
			differ[string(ghost.Key)] = true
			continue
		}
		kv := all[rapid.IntRange(0, len(all)-1).Draw(t, "key")]
		if differ[string(kv.Key)] {
			continue
		}
		differ[string(kv.Key)] = true
		i := s.find(kv.Key)
		changed := proto.Clone(kv).(*mvccpb.KeyValue)
		switch rapid.IntRange(0, 3).Draw(t, "fault") {
		case 0:
			changed.Value = append(changed.Value, 'x')
		case 1:
			changed.Lease++
		case 2:
			changed.ModRevision--
		case 3:
			s.kvs = slices.Delete(s.kvs, i, i+1)
			continue
		}
		s.kvs[i] = changed
	}
	return slices.Sorted(func(yield func(string) bool) {
		for k := range differ {
			if !yield(k) {
				return
			}
		}
	})
}

// Whatever the key space, the pages and the differences: exactly the differences are
// found, and each key is compared once.
func TestExactlyTheDifferencesAreFound(t *testing.T) {
	b := newBench(t)
	rapid.Check(t, func(rt *rapid.T) {
		all := kvs(drawKeys(rt), rapid.IntRange(0, 200).Draw(rt, "size"))
		b.hold(all)
		b.most = rapid.Int64Range(1, 40).Draw(rt, "page")
		want := plant(rt, b, all)
		seen := map[string]bool{}
		for _, s := range b.stores {
			for _, kv := range s.kvs {
				seen[string(kv.Key)] = true
			}
		}
		r, err := b.Once(t.Context(), nil, nil)
		if err != nil || r.Next != nil || r.GapCount != 0 || len(r.Away) != 0 || len(r.Members) != 3 {
			rt.Fatalf("%+v, %v, %+v", r, err, r.Away)
		}
		if got := b.differing(); !slices.Equal(got, want) || r.Differing != int64(len(want)) {
			rt.Errorf("found %q, want %q", got, want)
		}
		least := 0
		for _, s := range b.stores {
			least = max(least, len(s.kvs))
		}
		if r.Keys < int64(least) || r.Keys > int64(len(seen)) {
			rt.Errorf("%d keys were compared, there are %d to %d", r.Keys, least, len(seen))
		}
	})
}
