// Command record writes down what real etcd clients and members say to one another, as a relay feeds it to the tap: the seeds of
// the tap's fuzz targets.
//
//	cd e2e && go run ./cmd/record
//
// It overwrites proxy/tap/testdata/conversations/etcd-*.bin; the README.md there describes the format. Ids, times and ports differ
// each time, so run it when clients or members have something new to say, and not otherwise.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// limits of one conversation, in time and bytes: seeds are to be small.
const (
	timeout  = time.Minute
	maxBytes = 64 << 10
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, "../proxy/tap/testdata/conversations")
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, folder string) error {
	if _, err := os.Stat(folder); err != nil {
		return fmt.Errorf("%w: run it in the folder e2e", err)
	}
	for _, version := range []string{binary.Etcd36, binary.Etcd37} {
		if err := recordVersion(ctx, folder, version); err != nil {
			return fmt.Errorf("etcd %s: %w", version, err)
		}
	}
	return nil
}

func recordVersion(ctx context.Context, folder, version string) (err error) {
	c, err := cluster.Start(ctx, cluster.Options{Version: version, Size: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, talk := range conversations {
		if talk.version != version {
			continue
		}
		if err := record(ctx, c.Members[0].ClientURL, filepath.Join(folder, "etcd-"+talk.name+".bin"), talk); err != nil {
			return fmt.Errorf("%s: %w", talk.name, err)
		}
	}
	return nil
}

func record(ctx context.Context, member, file string, talk conversation) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := startRecorder(member)
	if err != nil {
		return err
	}
	err = talk.hold(ctx, r.url())
	bytes, stopped := r.stop()
	if err := errors.Join(err, stopped); err != nil {
		return err
	}
	if len(bytes) > maxBytes {
		return fmt.Errorf("%d bytes, want at most %d: say less", len(bytes), maxBytes)
	}
	fmt.Printf("%s: %d bytes\n", file, len(bytes))
	return os.WriteFile(file, bytes, 0o644)
}
