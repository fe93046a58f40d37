package contract

import (
	"context"
	"testing"
	"time"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// Point 15: kube-apiserver reads a key within two seconds, or it is restarted. A proxy that stalls would take the control plane with it.
func TestHealthReads(t *testing.T) {
	for _, version := range binary.EtcdVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := cluster.StartT(t, cluster.Options{Version: version})
			for _, p := range append([]*plumbing{directly(c)}, through(t, c, place(t), []string{"http"})...) {
				t.Run(p.name+"/member down", func(t *testing.T) { readsWhile(t, p, (*cluster.Member).Kill, (*cluster.Member).Launch) })
				t.Run(p.name+"/member hung", func(t *testing.T) {
					readsWhile(t, p, (*cluster.Member).Pause, func(m *cluster.Member, _ context.Context) error { return m.Resume() })
				})
			}
		})
	}
}

// hungKnown is how long Parallax may take to know that a member hangs, which accepts connections still, and then answers nothing.
const hungKnown = 15 * time.Second

// readsWhile reads with new clients, one after the other, as a kube-apiserver that starts would, while a member is away. It is not the
// leader: an election is felt by all, and is no matter of the way.
func readsWhile(t *testing.T, p *plumbing, away func(*cluster.Member) error, back func(*cluster.Member, context.Context) error) {
	leader, err := p.cluster.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := p.cluster.Members[0]
	if m == leader {
		m = p.cluster.Members[1]
	}
	if err := away(m); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := back(m, t.Context()); err != nil {
			t.Error(err)
		}
		if err := p.cluster.WaitReady(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	since := time.Now()
	var failures int
	for well := 0; well < 6; { // each member would have had two turns
		if err := readHealth(t, p); err != nil {
			failures, well = failures+1, 0
			if time.Since(since) > hungKnown {
				t.Fatalf("health is still not read: %v", err)
			}
			continue
		}
		well++
	}
	t.Logf("%d health reads failed, in %v", failures, time.Since(since))
}

// readHealth is what a kube-apiserver does that starts now.
func readHealth(t *testing.T, p *plumbing) error {
	t.Helper()
	client := p.client(t, p.allEndpoints)
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := client.Get(ctx, "health")
	return err
}
