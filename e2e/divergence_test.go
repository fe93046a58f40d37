package e2e

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/fault"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// injection is an edit of a stopped member's database (docs/detection.md, last
// part), and the field in which the key differs after it.
type injection struct {
	name  string
	field string
	// prepare makes the key what it has to be before the edit.
	prepare func(ctx context.Context, c *clientv3.Client, key string) error
	edit    func(db, key string) error
	// written is the field that still differs once the key was written again.
	written string
}

func exists(ctx context.Context, c *clientv3.Client, key string) error {
	_, err := c.Put(ctx, key, "v")
	return err
}

func deleted(ctx context.Context, c *clientv3.Client, key string) error {
	_, put := c.Put(ctx, key, "v")
	_, del := c.Delete(ctx, key)
	return errors.Join(put, del)
}

func absent(context.Context, *clientv3.Client, string) error { return nil }

var injections = []injection{
	{"value-changed", "value", exists, func(db, key string) error { return fault.ChangeValue(db, key, "other") }, "value"},
	{"key-missing", "present", exists, fault.DeleteKey, "version"},
	{"ghost-key", "present", absent, func(db, key string) error { return fault.GhostKey(db, key, "boo") }, "version"},
	{"tombstone-removed", "present", deleted, fault.DeleteTombstone, "version"},
	{"lease-changed", "lease", exists, func(db, key string) error { return fault.ChangeLease(db, key, 7) }, "lease"},
}

// Every edit of one member's database is named once a client reads or writes
// the key: the right key, the right member, the right field, once, and nothing
// else.
func TestEveryInjectionIsNamed(t *testing.T) {
	for i, version := range binary.EtcdVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := cluster.StartT(t, cluster.Options{Version: version})
			edited := inject(t, c, c.Members[i%3])
			p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true})
			client := connect(t, p.ClientURL)
			for _, in := range injections {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := client.Get(ctx, "/read/"+in.name); err != nil {
					t.Fatal(err)
				}
				named(t, p, edited, "/read/"+in.name, in.field)
				// The old state shows in prev_kv, and in what the write builds upon.
				if _, err := client.Put(ctx, "/written/"+in.name, "new", clientv3.WithPrevKV()); err != nil {
					t.Fatal(err)
				}
				named(t, p, edited, "/written/"+in.name, in.field, in.written)
			}
			if _, err := client.Get(t.Context(), "/same"); err != nil {
				t.Fatal(err)
			}
			once(t, p)
		})
	}
}

// A list names the differing keys among its neighbors, and none else; so does
// the list that etcd 3.7 streams.
func TestAListNamesItsDifferingKeys(t *testing.T) {
	lists := map[string]func(ctx context.Context, c *clientv3.Client) error{
		"Range": func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Get(ctx, "/read/", clientv3.WithPrefix())
			return err
		},
		"RangeStream": func(ctx context.Context, c *clientv3.Client) error {
			stream, err := pb.NewKVClient(c.ActiveConnection()).RangeStream(ctx, &pb.RangeRequest{Key: []byte("/read/"), RangeEnd: []byte("/read0")})
			for err == nil {
				_, err = stream.Recv()
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		},
	}
	for name, list := range lists {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := cluster.StartT(t, cluster.Options{Version: binary.Etcd37})
			edited := inject(t, c, c.Members[0])
			// The client only knows a member that is sound; the other two are found through it.
			p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints()[1:2], Race: true})
			if err := list(t.Context(), connect(t, p.ClientURL)); err != nil {
				t.Fatal(err)
			}
			// The served list began and ended with these; its ghosts lie between.
			for _, name := range []string{"key-missing", "lease-changed", "value-changed", "tombstone-removed"} {
				i := slices.IndexFunc(injections, func(in injection) bool { return in.name == name })
				named(t, p, edited, "/read/"+name, injections[i].field)
			}
			once(t, p)
		})
	}
}

// A write that did not come through Parallax is looked at when a watcher that did is told of it.
func TestAnEventIsLookedAt(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	edited := inject(t, c, c.Members[0])
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--sweep=false"}})
	events := connect(t, p.ClientURL).Watch(t.Context(), "/written/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if created := <-events; created.Err() != nil {
		t.Fatal(created.Err())
	}
	if _, err := c.Client().Put(t.Context(), "/written/key-missing", "new"); err != nil { // past Parallax
		t.Fatal(err)
	}
	named(t, p, edited, "/written/key-missing", "version")
	once(t, p)
}

// etcd #18667: one ordinary transaction makes members differ, and 3.7 is cured.
func TestTxn18667IsNamed(t *testing.T) {
	for _, version := range []string{binary.Etcd35, binary.Etcd36} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := cluster.StartT(t, cluster.Options{Version: version})
			p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true})
			client := connect(t, p.ClientURL)
			for _, key := range []string{"/k1", "/k3"} {
				if _, err := client.Put(t.Context(), key, "v"); err != nil {
					t.Fatal(err)
				}
			}
			if err := fault.Txn18667(t.Context(), client, "/k1", "/k2", "x"); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"/k3", "/k4", "/k5"} { // the next writes, of old and new keys
				if _, err := client.Put(t.Context(), key, "w"); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			r, err := p.WaitRecord(ctx, func(r parallax.Record) bool { return r.Text("key") == "/k2" })
			if err != nil {
				t.Fatal(err)
			}
			if got := details(t, r); got.Basis != "quorum" || len(got.Differs) != 1 || !slices.Equal(got.Fields, []string{"present"}) {
				t.Errorf("named %s", r.Raw)
			}
			// Every later write is shifted: one finding, and no record of its own.
			if _, err := p.WaitRecord(ctx, func(r parallax.Record) bool { return r.Text("kind") == "shifted" }); err != nil {
				t.Error(err)
			}
			for _, r := range p.Records() {
				if key := r.Text("key"); key == "/k4" || key == "/k5" {
					t.Errorf("a key that only moved has a record of its own: %s", r.Raw)
				}
			}
		})
	}
	t.Run("control "+binary.Etcd37, func(t *testing.T) {
		t.Parallel()
		c := cluster.StartT(t, cluster.Options{Version: binary.Etcd37})
		p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true})
		client := connect(t, p.ClientURL)
		if _, err := client.Put(t.Context(), "/k1", "v"); err != nil {
			t.Fatal(err)
		}
		if err := fault.Txn18667(t.Context(), client, "/k1", "/k2", "x"); err != nil {
			t.Fatal(err)
		}
		// Four looks at the key, the last of them after 5 s, and silence.
		eventually(t, 30*time.Second, "four checks of the refused write", func() bool {
			return count(t, p, "parallax_shadow_checks_total", `kind="refused-write"`, `verdict="consistent"`) == 4
		})
		silent(t, p)
	})
}

// A finding is healed when its member was mended, without a client touching the key.
func TestAMendedMemberIsHealed(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	edited := inject(t, c, c.Members[1])
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true})
	client := connect(t, p.ClientURL)
	if _, err := client.Get(t.Context(), "/read/value-changed"); err != nil {
		t.Fatal(err)
	}
	named(t, p, edited, "/read/value-changed", "value")
	stopped(t, edited)
	if err := fault.ChangeValue(edited.DB(), "/read/value-changed", "v"); err != nil {
		t.Fatal(err)
	}
	if err := edited.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := p.WaitRecord(ctx, func(r parallax.Record) bool { return r.Text("event") == "healed" }); err != nil {
		t.Fatal(err)
	}
}

// inject makes every edit to one member, of a key to be read and one to be written.
func inject(t *testing.T, c *cluster.Cluster, m *cluster.Member) *cluster.Member {
	t.Helper()
	ctx := t.Context()
	for _, in := range injections {
		for _, key := range []string{"/read/" + in.name, "/written/" + in.name} {
			if err := in.prepare(ctx, c.Client(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	revision, err := c.Put(ctx, "/same", "v")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitRevision(ctx, revision); err != nil {
		t.Fatal(err)
	}
	stopped(t, m)
	for _, in := range injections {
		for _, key := range []string{"/read/" + in.name, "/written/" + in.name} {
			if err := in.edit(m.DB(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

func stopped(t *testing.T, m *cluster.Member) {
	t.Helper()
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
}

// detail is what a record says of members and fields.
type detail struct {
	Fields  []string
	Basis   string
	Differs []struct{ ID, Name, Endpoint string }
}

func details(t *testing.T, r parallax.Record) detail {
	t.Helper()
	var d detail
	if err := r.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// named waits for the record that names a key, and checks what it says: the
// member, and one of the fields.
func named(t *testing.T, p *parallax.Process, m *cluster.Member, key string, fields ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := p.WaitRecord(ctx, func(r parallax.Record) bool { return r.Text("key") == key && r.Text("event") == "confirmed" })
	if err != nil {
		t.Fatalf("%s was not named: %v; metrics %v", key, err, checks(t, p))
	}
	d := details(t, r)
	if d.Basis != "quorum" || len(d.Differs) != 1 || d.Differs[0].Name != m.Name {
		t.Errorf("%s: want %s to differ from the quorum: %s", key, m.Name, r.Raw)
	}
	if !slices.ContainsFunc(fields, func(f string) bool { return slices.Contains(d.Fields, f) }) {
		t.Errorf("%s: want a difference in %v: %s", key, fields, r.Raw)
	}
}

// once checks that no key was confirmed twice, and none that no edit touched.
func once(t *testing.T, p *parallax.Process) {
	t.Helper()
	seen := map[string]bool{}
	for _, r := range p.Records() {
		key := r.Text("key")
		if r.Text("event") != "confirmed" {
			continue
		}
		if seen[key] {
			t.Errorf("%s was confirmed twice", key)
		}
		seen[key] = true
		if !strings.HasPrefix(key, "/read/") && !strings.HasPrefix(key, "/written/") {
			t.Errorf("a key that nobody touched was named: %s", r.Raw)
		}
	}
}
