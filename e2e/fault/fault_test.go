package fault_test

import (
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEdits makes every edit that leaves the revision alone to one member, and
// asks all members directly, pinned at one revision.
func TestEdits(t *testing.T) {
	for _, version := range binary.EtcdVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			c := cluster.StartT(t, cluster.Options{Version: version})
			for _, key := range []string{"/value", "/missing", "/deleted", "/lease", "/same"} {
				put(t, c, key)
			}
			if _, err := c.Client().Delete(ctx, "/deleted"); err != nil {
				t.Fatal(err)
			}
			put(t, c, "/last")

			edited := c.Members[1]
			if err := edited.Stop(); err != nil {
				t.Fatal(err)
			}
			db := edited.DB()
			for _, err := range []error{
				fault.ChangeValue(db, "/value", "other"),
				fault.DeleteKey(db, "/missing"),
				fault.GhostKey(db, "/ghost", "boo"),
				fault.DeleteTombstone(db, "/deleted"),
				fault.ChangeLease(db, "/lease", 7),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := edited.Start(ctx); err != nil {
				t.Fatal(err)
			}
			revision := put(t, c, "/after")
			if err := c.WaitRevision(ctx, revision); err != nil {
				t.Fatal(err)
			}
			for _, m := range c.Members {
				want := map[string]string{
					"/value": "v lease 0", "/missing": "v lease 0", "/ghost": "absent",
					"/deleted": "absent", "/lease": "v lease 0", "/same": "v lease 0",
				}
				if m == edited {
					want["/value"], want["/missing"], want["/ghost"] = "other lease 0", "absent", "boo lease 0"
					want["/deleted"], want["/lease"] = "v lease 0", "v lease 7"
				}
				for key, want := range want {
					if got := describe(read(t, m, key, revision)); got != want {
						t.Errorf("%s holds %s = %s at revision %d, want %s", m.Name, key, got, revision, want)
					}
				}
			}
			ghost := read(t, edited, "/ghost", revision)
			if ghost.GetModRevision() < 2 || ghost.GetCreateRevision() != ghost.GetModRevision() || ghost.GetVersion() != 1 {
				t.Errorf("ghost is %v, no client could have written it so", ghost)
			}
		})
	}
}

// TestRevisionEdits are those after which one member's revision is off.
func TestRevisionEdits(t *testing.T) {
	const writesWhileStopped = 5
	for _, test := range []struct {
		name string
		edit func(db string) error
		off  func(edited, others int64) bool
	}{
		{"DropNewest", func(db string) error {
			_, err := fault.DropNewest(db)
			return err
		}, func(edited, others int64) bool { return edited == others-1 }},
		{"ShiftConsistentIndex forward", func(db string) error {
			_, err := fault.ShiftConsistentIndex(db, 3)
			return err
		}, func(edited, others int64) bool { return edited < others }},
		{"ShiftConsistentIndex back", func(db string) error {
			_, err := fault.ShiftConsistentIndex(db, -3)
			return err
		}, func(edited, others int64) bool { return edited > others }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			c := cluster.StartT(t, cluster.Options{})
			edited, other := c.Members[0], c.Members[1]
			for range 10 {
				put(t, c, "/k")
			}
			if err := edited.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := test.edit(edited.DB()); err != nil {
				t.Fatal(err)
			}
			for range writesWhileStopped {
				put(t, c, "/k")
			}
			if err := edited.Start(ctx); err != nil {
				t.Fatal(err)
			}
			// A linearizable read waits until the member applied all of it.
			resp, err := edited.Client().Get(ctx, "/k")
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := other.Client().Get(ctx, "/k")
			if err != nil {
				t.Fatal(err)
			}
			if edited, others := resp.Header.Revision, theirs.Header.Revision; !test.off(edited, others) {
				t.Fatalf("edited member is at revision %d, the others at %d", edited, others)
			}
		})
	}
}

// TestTxn18667 is the track record of etcd issue 18667: it makes the members of
// 3.5 and 3.6 differ, and those of 3.7 not.
func TestTxn18667(t *testing.T) {
	for _, version := range binary.EtcdVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			c := cluster.StartT(t, cluster.Options{Version: version})
			put(t, c, "/k1")
			asked := c.Members[2]
			if err := fault.Txn18667(ctx, asked.Client(), "/k1", "/k2", "v"); err != nil {
				t.Fatal(err)
			}
			for _, m := range c.Members {
				want := "v lease 0"
				if m == asked || version == binary.Etcd37 {
					want = "absent"
				}
				// Linearizable, so that it waits for the transaction to be applied.
				resp, err := m.Client().Get(ctx, "/k2")
				if err != nil {
					t.Fatal(err)
				}
				if got := describe(first(resp)); got != want {
					t.Errorf("%s holds /k2 = %s, want %s", m.Name, got, want)
				}
			}
		})
	}
}

func TestEditsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Size: 1})
	m := c.Members[0]
	put(t, c, "/k")
	put(t, c, "/last")
	if err := fault.ChangeValue(m.DB(), "/k", "other"); err == nil || !strings.Contains(err.Error(), "stop its member") {
		t.Errorf("edit of a running member: %v", err)
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	refused := map[string]error{
		"would lower the revision": fault.DeleteKey(m.DB(), "/last"),
		"never written":            fault.ChangeValue(m.DB(), "/none", "other"),
		"not deleted":              fault.DeleteTombstone(m.DB(), "/k"),
		"no ghost":                 fault.GhostKey(m.DB(), "/k", "boo"),
		"no database":              fault.ChangeValue(m.DB()+"-none", "/k", "other"),
	}
	for name, err := range refused {
		if err == nil {
			t.Errorf("%s: done, want an error", name)
		}
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	resp, err := c.Client().Get(t.Context(), "/", clientv3.WithPrefix())
	if err != nil || resp.Count != 2 {
		t.Errorf("refused edits changed something: %v, %v", resp, err)
	}
}

func put(t *testing.T, c *cluster.Cluster, key string) (revision int64) {
	t.Helper()
	revision, err := c.Put(t.Context(), key, "v")
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func read(t *testing.T, m *cluster.Member, key string, revision int64) *mvccpb.KeyValue {
	t.Helper()
	resp, err := m.Get(t.Context(), key, revision)
	if err != nil {
		t.Fatalf("%s: get %s at %d: %v", m.Name, key, revision, err)
	}
	return first(resp)
}

func first(resp *clientv3.GetResponse) *mvccpb.KeyValue {
	if len(resp.Kvs) == 0 {
		return nil
	}
	return resp.Kvs[0]
}

func describe(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "absent"
	}
	return fmt.Sprintf("%s lease %d", kv.Value, kv.Lease)
}
