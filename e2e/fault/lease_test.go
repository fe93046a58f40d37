package fault_test

import (
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/fault"
)

// TestDeleteLease: one member no longer knows a lease, and so keeps its key when
// the lease ends.
func TestDeleteLease(t *testing.T) {
	for _, version := range binary.EtcdVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			c := cluster.StartT(t, cluster.Options{Version: version})
			grant, err := c.Client().Grant(ctx, 600)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Client().Put(ctx, "/k", "v", clientv3.WithLease(grant.ID)); err != nil {
				t.Fatal(err)
			}
			if err := c.WaitRevision(ctx, put(t, c, "/last")); err != nil {
				t.Fatal(err)
			}
			edited := c.Members[1]
			if err := edited.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := fault.DeleteLease(edited.DB(), int64(grant.ID)); err != nil {
				t.Fatal(err)
			}
			if err := fault.DeleteLease(edited.DB(), int64(grant.ID)); err == nil {
				t.Error("deleted twice, want an error")
			}
			if err := edited.Start(ctx); err != nil {
				t.Fatal(err)
			}
			for _, m := range c.Members {
				resp, err := pb.NewLeaseClient(m.Client().ActiveConnection()).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
				if err != nil {
					t.Fatal(err)
				}
				has := slices.ContainsFunc(resp.Leases, func(l *pb.LeaseStatus) bool { return l.ID == int64(grant.ID) })
				if has == (m == edited) {
					t.Errorf("%s has the lease: %v", m.Name, has)
				}
			}
			// Through a member that knows it: the other would say that there is none.
			if _, err := c.Members[0].Client().Revoke(ctx, grant.ID); err != nil {
				t.Fatal(err)
			}
			for _, m := range c.Members {
				// Linearizable, so that it waits for the end of the lease.
				resp, err := m.Client().Get(ctx, "/k")
				if err != nil {
					t.Fatal(err)
				}
				if kept := resp.Count == 1; kept != (m == edited) {
					t.Errorf("%s kept the key of the lease: %v", m.Name, kept)
				}
			}
		})
	}
}
