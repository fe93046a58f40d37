package contract

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// point is one of those in contract.md, or a part of one, as a client sees it.
type point struct {
	name string

	// run returns what the client saw and what must not depend on the way to the member. It fails by itself when that is not what
	// etcd promises.
	run func(t *testing.T, p *plumbing) *transcript

	// heavy is not repeated on ways that are sideways, nor with etcd 3.4.
	heavy bool

	// since is the version that can do it first; empty: all can.
	since string

	// bothTLS: only where both ends speak TLS.
	bothTLS bool
}

// suite is in the order of contract.md.
func suite() []point {
	return slices.Concat(methodPoints(), watchPoints(), statusPoints(), identityPoints(), sizePoints(), streamPoints(), webPoints(), etcdctlPoints())
}

// The same suite, directly and through Parallax, in plain and with TLS on either side, on both and on none.
func TestContract(t *testing.T) {
	for _, version := range binary.AllEtcdVersions() {
		for name, secure := range map[string]cluster.TLS{"plain": cluster.Plain, "TLS": cluster.MutualTLS} {
			t.Run(version+"/"+name, func(t *testing.T) {
				t.Parallel()
				ip := place(t)
				c := cluster.StartT(t, cluster.Options{Version: version, Size: 1, TLS: secure, AlsoFor: []string{ip}})
				schemes := []string{"http", "https", "unix"}
				if secure != cluster.Plain {
					schemes = append(schemes, "passthrough")
				}
				direct := directly(c)
				said := make(map[string]*transcript)
				ways := append([]*plumbing{direct}, through(t, c, ip, schemes)...)
				idle := make([]func(), len(ways))
				for i, p := range ways {
					p.resting = len(ways)
					idle[i] = rest(t, p)
				}
				for _, p := range ways {
					t.Run(p.name, func(t *testing.T) { runSuite(t, direct, p, said) })
				}
				for _, wake := range idle {
					wake()
				}
			})
		}
	}
}

// runSuite runs the points through one way, and holds what it saw against what was seen directly.
func runSuite(t *testing.T, direct, p *plumbing, said map[string]*transcript) {
	for _, pt := range suite() {
		if pt.heavy && (p.sideways || p.version() == binary.Etcd34) || p.version() < pt.since || pt.bothTLS && (p.tls == nil || p.cluster.PKI == nil) {
			continue
		}
		t.Run(pt.name, func(t *testing.T) {
			got := pt.run(t, p)
			if p == direct {
				said[pt.name] = got
				return
			}
			want := said[pt.name]
			if want == nil { // only this way was asked for with -run
				want = pt.run(t, direct)
			}
			want.compare(t, got)
		})
	}
}

// transcript is what a client saw, line by line.
type transcript struct{ lines []string }

func (s *transcript) say(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

// compare reports where got differs, with the lines before.
func (s *transcript) compare(t *testing.T, got *transcript) {
	t.Helper()
	if len(s.lines) == 0 {
		t.Error("nothing was compared")
	}
	for i := range max(len(s.lines), len(got.lines)) {
		want, have := s.line(i), got.line(i)
		if want != have {
			t.Fatalf("line %d, after\n\t%s\ndirectly: %s\nproxied:  %s", i, strings.Join(s.lines[max(0, min(i, len(s.lines))-5):min(i, len(s.lines))], "\n\t"), want, have)
		}
	}
}

func (s *transcript) line(i int) string {
	if i >= len(s.lines) {
		return "(nothing more)"
	}
	return s.lines[i]
}
