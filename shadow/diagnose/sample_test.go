package diagnose

import (
	"bytes"
	"testing"
)

// Whatever is looked for lies in a closed range, and from a few keys at one end of the key space others are found.
func TestBesideFindsOtherKeys(t *testing.T) {
	all := someKeys()
	for range 100 {
		known := [][]byte{all[0].Key, all[1].Key}
		seen := map[string]bool{}
		for probes := 0; probes < sampleProbes && len(seen) < 40; probes++ {
			q, ok := beside(known[probes*7919%len(known)], common(known))
			if !ok {
				continue
			}
			if len(q.End) == 0 || bytes.Compare(q.Key, q.End) >= 0 {
				t.Fatalf("an open or empty range: %q to %q", q.Key, q.End)
			}
			n := 0
			for _, kv := range all {
				if q.Covers(kv.Key) && n < samplePage {
					n++
					seen[string(kv.Key)] = true
					known = append(known, kv.Key)
				}
			}
		}
		if len(seen) < 30 {
			t.Fatalf("only %d keys were found", len(seen))
		}
	}
	for _, key := range []string{"", "\x00", "\xff\xff", "a"} {
		for range 1000 {
			if q, ok := beside([]byte(key), 0); ok && bytes.Compare(q.Key, q.End) >= 0 {
				t.Fatalf("%q: %q to %q", key, q.Key, q.End)
			}
		}
	}
}
