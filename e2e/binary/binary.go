// Package binary builds the programs that the e2e tests run, into e2e/bin.
//
// The etcd versions come from the Go module proxy: each folder e2e/etcd/v* is a
// module that pins one version, with its go.sum. Nothing is downloaded from
// anywhere else.
package binary

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// The etcd versions for which there is a module in e2e/etcd.
const (
	// Etcd34 is no longer maintained, and only the core of the contract is tested
	// with it. It is the newest 3.4 of which the Go module proxy has the source.
	Etcd34 = "3.4.13"

	Etcd35 = "3.5.35"
	Etcd36 = "3.6.16"
	Etcd37 = "3.7.3"

	// Etcd343 and Etcd355 have bugs that make members differ (etcd issues 11651
	// and 14685). Only the track record builds them, and only when it is asked to.
	Etcd343 = "3.4.3"
	Etcd355 = "3.5.5"
)

// EtcdVersions returns those that are tested in full, oldest first.
func EtcdVersions() []string { return []string{Etcd35, Etcd36, Etcd37} }

// AllEtcdVersions returns also those of which only the core is tested.
func AllEtcdVersions() []string { return append([]string{Etcd34}, EtcdVersions()...) }

// etcdctlVersion serves all etcd versions; its module has etcdctl as a tool.
const etcdctlVersion = Etcd36

// h2specVersion is what e2e/h2spec/go.mod pins.
const h2specVersion = "2.2.1"

// Builder builds programs when they are not there yet. The zero value is ready
// to use and says nothing.
type Builder struct {
	// Progress is called, if not nil, from one goroutine, only when something
	// is really built.
	Progress func(Progress)
}

// Etcd returns the path of an etcd server of this version, e.g. "3.6.16".
func (b Builder) Etcd(ctx context.Context, version string) (string, error) {
	pkg := "go.etcd.io/etcd/server/v3"
	if strings.HasPrefix(version, "3.4.") {
		pkg = "go.etcd.io/etcd" // before 3.5 all of etcd was one module
	}
	return b.pinned(ctx, filepath.Join("etcd", "v"+version), version, "etcd", pkg)
}

// Etcdctl returns the path of an etcdctl.
func (b Builder) Etcdctl(ctx context.Context) (string, error) {
	return b.pinned(ctx, filepath.Join("etcd", "v"+etcdctlVersion), etcdctlVersion, "etcdctl", "go.etcd.io/etcd/etcdctl/v3")
}

// H2spec returns the path of h2spec, which tries what RFC 9113 forbids.
func (b Builder) H2spec(ctx context.Context) (string, error) {
	return b.pinned(ctx, "h2spec", h2specVersion, "h2spec", "github.com/summerwind/h2spec/cmd/h2spec")
}

// pinned builds a package of a pinned version once: a version never changes,
// so a file that is there is right. The folder is that of the module that pins it.
func (b Builder) pinned(ctx context.Context, folder, version, name, pkg string) (string, error) {
	root, err := sourceRoot()
	if err != nil {
		return "", err
	}
	module := filepath.Join(root, folder)
	if _, err := os.Stat(filepath.Join(module, "go.mod")); err != nil {
		return "", fmt.Errorf("%s %s: no module %s, add one or use one of %s", name, version, module, strings.Join(AllEtcdVersions(), ", "))
	}
	target := filepath.Join(root, "bin", version, name)
	if exists, err := isFile(target); exists || err != nil {
		return target, err
	}
	unlock, err := lock(ctx, filepath.Join(root, "bin"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists, err := isFile(target); exists || err != nil {
		return target, err // another process built it while we waited
	}
	build := goBuild{
		title: name + " " + version, dir: module, output: target + ".new", pkg: pkg,
		flags: []string{"-trimpath", "-ldflags=-s -w"}, env: []string{"CGO_ENABLED=0", "GOWORK=off"},
	}
	if err := build.run(ctx, b.Progress); err != nil {
		return "", err
	}
	return target, os.Rename(build.output, target)
}

// Parallax builds ../cmd/parallax, also with the race detector (which needs a C
// compiler). It always asks the go tool, which does nothing when no source changed.
func (b Builder) Parallax(ctx context.Context, race bool) (string, error) {
	root, err := sourceRoot()
	if err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(root, "bin"))
	if err != nil {
		return "", err
	}
	defer unlock()
	build := goBuild{title: "parallax", dir: filepath.Dir(root), pkg: "./cmd/parallax", env: []string{"CGO_ENABLED=0", "GOWORK=off"}}
	if race {
		build.title = "parallax-race"
		build.flags, build.env = []string{"-race"}, []string{"CGO_ENABLED=1", "GOWORK=off"}
	}
	target := filepath.Join(root, "bin", build.title)
	build.output = filepath.Join(root, "bin", "build", build.title)
	if err := build.run(ctx, b.Progress); err != nil {
		return "", err
	}
	return target, publish(build.output, target)
}

// publish makes target a link to what was built. The go tool may write its
// output in place; a target that another process is about to run must change
// at once or not at all.
func publish(output, target string) error {
	built, err := os.Stat(output)
	if err != nil {
		return err
	}
	if published, err := os.Stat(target); err == nil && os.SameFile(built, published) {
		return nil
	}
	link := target + ".new"
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(output, link); err != nil {
		return err
	}
	return os.Rename(link, target)
}

// sourceRoot returns the folder e2e, from the place of this source file.
func sourceRoot() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Dir(filepath.Dir(file))
	content, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil || !bytes.Contains(content, []byte("/parallax/e2e\n")) {
		return "", fmt.Errorf("folder e2e of the source tree is not at %q: build the tests there, without -trimpath", root)
	}
	return root, nil
}

func isFile(path string) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		return false, fmt.Errorf("%s is not a file, remove it", path)
	}
	return err == nil, err
}

// CanRace tells whether the race detector can be built in: it needs a C
// compiler. Without one the tests run without it.
func CanRace() bool {
	for _, cc := range []string{os.Getenv("CC"), "gcc", "clang", "cc"} {
		if cc == "" {
			continue
		}
		if _, err := exec.LookPath(cc); err == nil {
			return true
		}
	}
	return false
}
