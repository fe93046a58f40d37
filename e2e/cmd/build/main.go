// Command build builds the etcd members and tools that the e2e tests run, where
// they are not there yet, and shows how far it is. `make test` calls it first:
// the first time it takes minutes, and a test would be silent meanwhile.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

// interval between two lines about one build: a log of CI is read, too.
const interval = 10 * time.Second

func main() {
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func build() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var shown time.Duration
	b := binary.Builder{Progress: func(p binary.Progress) {
		if p.Elapsed < shown { // the next build
			shown = 0
		}
		if p.Done || shown == 0 || p.Elapsed-shown >= interval {
			fmt.Println(p)
			shown = max(p.Elapsed, 1)
		}
	}}
	for _, version := range binary.AllEtcdVersions() {
		if _, err := b.Etcd(ctx, version); err != nil {
			return err
		}
	}
	if _, err := b.Etcdctl(ctx); err != nil {
		return err
	}
	_, err := b.H2spec(ctx)
	return err
}
