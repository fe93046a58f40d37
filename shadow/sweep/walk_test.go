package sweep

import (
	"crypto/sha256"
	"fmt"
	"testing"
)

// shapes of key spaces, as they are in the wild.
func shapes(n int) map[string][]string {
	shapes := map[string][]string{}
	for i := range n {
		sum := sha256.Sum256(fmt.Append(nil, i))
		add := func(shape, format string, args ...any) {
			shapes[shape] = append(shapes[shape], fmt.Sprintf(format, args...))
		}
		add("decimal", "/keys/%08d", i)
		add("decimal, not padded", "/keys/%d", i)
		add("hex", "/keys/%x", sum[:16])
		add("raw bytes", "%s", sum[:9])
		add("directories", "/dir-%04d/key-%03d", i/700, i%700)
		add("names", "/registry/pods/ns-%02d/%s-%x-%x", i%37, []string{"web", "worker", "db", "cache-node"}[i%4], sum[:5], sum[5:8])
		add("kinds", "/registry/%s/ns-%d/obj-%x", []string{"pods", "events", "configmaps", "secrets", "leases/kube-node-lease", "services/specs"}[i%6], i%11, sum[:5])
		add("a long prefix", "/%0300d/%06d", 0, i)
		add("high bytes", "\xff\xff%s", sum[:6])
	}
	return shapes
}

// However the keys look, a page walks little more of the index than it returns:
// but for the first that come to where nothing is known.
func TestAPageWalksNoMoreThanItNeeds(t *testing.T) {
	b := newBench(t)
	for shape, keys := range shapes(20_000) {
		t.Run(shape, func(t *testing.T) {
			all := kvs(keys, 20)
			b.hold(all)
			r := b.once(t, "", "")
			walked, reads, over := 0, 0, 0
			for _, n := range b.stores[0].walked {
				walked, reads = walked+n, reads+1
				if n > walkFactor*mostKeysAtOnce {
					over++
				}
			}
			t.Logf("%d keys: %d reads, %d entries walked, %d reads walked more than %d", r.Keys, reads, walked, over, walkFactor*mostKeysAtOnce)
			if r.Keys != int64(len(all)) || r.GapCount != 0 || len(r.Away) != 0 {
				t.Errorf("%+v", r)
			}
			if walked > 5*len(all) || over > 20 || reads > 500 {
				t.Errorf("too much")
			}
		})
	}
}
