package binary_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBinariesAreWhatTheySay(t *testing.T) {
	var builder binary.Builder
	for _, version := range binary.AllEtcdVersions() {
		path, err := builder.Etcd(t.Context(), version)
		if err != nil {
			t.Fatal(err)
		}
		says(t, path, "--version", "etcd Version: "+version)
	}
	path, err := builder.Etcdctl(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	says(t, path, "version", "etcdctl version: 3.")
	if path, err = builder.H2spec(t.Context()); err != nil {
		t.Fatal(err)
	}
	says(t, path, "--help", "Conformance testing tool for HTTP/2")
}

func TestUnknownVersion(t *testing.T) {
	_, err := binary.Builder{}.Etcd(t.Context(), "3.0.0")
	if err == nil || !strings.Contains(err.Error(), binary.Etcd35) {
		t.Fatalf("error is %v, want the versions that there are", err)
	}
}

func TestCancelledBuildEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (binary.Builder{}).Parallax(ctx, false); !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
}

func says(t *testing.T, path, arg, want string) {
	t.Helper()
	out, err := exec.Command(path, arg).CombinedOutput()
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%s %s says %q, %v, want %q", path, arg, out, err, want)
	}
}
