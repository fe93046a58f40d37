package cluster_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMembersLiveDieAndComeBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := cluster.StartT(t, cluster.Options{})
	put := func(key string) int64 {
		t.Helper()
		revision, err := c.Put(ctx, key, "v")
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	first := put("/first")
	if err := c.WaitRevision(ctx, first); err != nil {
		t.Fatal(err)
	}
	ids := make(map[uint64]bool)
	for _, m := range c.Members {
		got, err := m.Get(ctx, "/first", first)
		if err != nil || got.Count != 1 || got.Header.MemberId != m.ID {
			t.Fatalf("%s (id %x) answers %v, %v", m.Name, m.ID, got, err)
		}
		ids[m.ID] = true
	}
	if len(ids) != 3 {
		t.Fatalf("member ids are %v, want three", ids)
	}

	m := c.Members[0]
	for _, away := range []struct {
		name      string
		out, back func() error
	}{
		{"kill", m.Kill, func() error { return m.Start(ctx) }},
		{"stop", m.Stop, func() error { return m.Start(ctx) }},
		{"pause", m.Pause, m.Resume},
	} {
		if err := away.out(); err != nil {
			t.Fatalf("%s: %v", away.name, err)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatalf("after %s: %v", away.name, err)
		}
		put("/" + away.name) // the others are a quorum
		if err := away.back(); err != nil {
			t.Fatalf("back from %s: %v", away.name, err)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	last := put("/last")
	if err := c.WaitRevision(ctx, last); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Get(ctx, "/stop", last); err != nil || got.Count != 1 {
		t.Fatalf("%s missed a write while it was stopped: %v, %v", m.Name, got, err)
	}

	dir := filepath.Dir(m.DataDir)
	if got := processesNaming(t, dir); got != 3 {
		t.Fatalf("%d processes name %s, want 3", got, dir)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got := processesNaming(t, dir); got != 0 {
		t.Fatalf("%d processes left behind", got)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatalf("folder %s left behind: %v", dir, err)
	}
}

func TestMixedVersionsAndUpgrade(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := cluster.StartT(t, cluster.Options{Versions: []string{binary.Etcd35, binary.Etcd36, binary.Etcd36}})
	old := c.Members[0]
	if status, err := old.Status(ctx); err != nil || status.Version != binary.Etcd35 {
		t.Fatalf("status of m1: %v, %v", status, err)
	}
	old.Version = binary.Etcd36
	if err := old.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if status, err := old.Status(ctx); err != nil || status.Version != binary.Etcd36 {
		t.Fatalf("status of m1 after its upgrade: %v, %v", status, err)
	}
}

func TestMembersCanBeAddedAndRemoved(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := cluster.StartT(t, cluster.Options{Size: 1, Version: binary.Etcd37})
	learner, err := c.Add(ctx, "", true)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := learner.Status(ctx); err != nil || !status.IsLearner {
		t.Fatalf("status of the learner: %v, %v", status, err)
	}
	if err := c.Promote(ctx, learner); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(ctx, learner); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
}

func TestMemberThatCannotStartIsExplained(t *testing.T) {
	t.Parallel()
	_, err := cluster.Start(t.Context(), cluster.Options{Size: 1, ExtraFlags: []string{"--no-such-flag"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Fatalf("error is %v, want etcd's own words", err)
	}
	_, err = cluster.Start(t.Context(), cluster.Options{Version: "3.0.0"})
	if err == nil || !strings.Contains(err.Error(), binary.Etcd36) {
		t.Fatalf("error is %v, want the versions that there are", err)
	}
}

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("a\nb\nc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for lines, want := range map[int]string{0: "", 1: "c", 2: "b\nc", 9: "a\nb\nc"} {
		if got := string(cluster.Tail(file, lines)); got != want {
			t.Errorf("Tail of %d lines is %q, want %q", lines, got, want)
		}
	}
}

// processesNaming counts processes with a text in their command line.
func processesNaming(t *testing.T, text string) (count int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(files) == 0 {
		t.Fatalf("no processes in /proc: %v", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err == nil && bytes.Contains(content, []byte(text)) {
			count++
		}
	}
	return count
}
