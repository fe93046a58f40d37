package cluster

import (
	"fmt"
	"os"
	"testing"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

// StartT starts a cluster that ends with the test. A test that failed shows the
// last lines of each member's log.
func StartT(t testing.TB, opts Options) *Cluster {
	t.Helper()
	if opts.Progress == nil {
		opts.Progress = func(p binary.Progress) {
			// A cold build takes a minute; a silent test looks like one that hangs.
			if p.Compiled == 1 || p.Done {
				fmt.Fprintln(os.Stderr, p)
			}
		}
	}
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("start cluster: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, m := range c.Members {
				t.Logf("%s (etcd %s, %s) said last:\n%s", m.Name, m.Version, m.ClientURL, Tail(m.Log, 20))
			}
		}
		if err := c.Close(); err != nil {
			t.Errorf("close cluster: %v", err)
		}
	})
	return c
}
