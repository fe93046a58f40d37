// Command checkbench measures `parallax check` on real members that hold many
// keys and differ on ten of them:
//
//	go run ./checkbench -keys 1000000        (in e2e; by hand: it takes some minutes and 6 GiB of disk)
//
// It must find the ten and nothing else, take no more than 64 MiB of memory over
// a check of nothing, and be, unthrottled, at least 0.8 times as fast as three plain
// pagers, one for each member, that run at once.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/fault"
)

const (
	batch     = 100  // keys of one transaction
	perPage   = 1000 // keys of a pager's page
	mostMiB   = 64
	leastFast = 0.8
)

func main() {
	keys := flag.Int("keys", 100_000, "how many keys")
	size := flag.Int("size", 1024, "bytes of each value")
	version := flag.String("etcd", "3.6.16", "version of the members")
	dir := flag.String("dir", "", "where to keep the members' data")
	rounds := flag.Int("rounds", 3, "how often to measure")
	open := flag.Bool("open", false, "measure also pagers that ask for so many keys up to the end of all: with a million keys they take minutes")
	program := flag.String("parallax", "", "the program; none: it is built")
	flag.Parse()
	b := bench{keys: *keys, size: *size, rounds: *rounds, program: *program, open: *open}
	if err := b.run(context.Background(), cluster.Options{Version: *version, Dir: *dir, ExtraFlags: []string{"--quota-backend-bytes=8589934592", "--snapshot-count=10000"}}); err != nil {
		fmt.Fprintln(os.Stderr, "checkbench:", err)
		os.Exit(1)
	}
}

type bench struct {
	keys, size, rounds int
	program            string
	open               bool
	cluster            *cluster.Cluster
	planted            []string
}

func name(i int) string { return fmt.Sprintf("/registry/pods/ns-%02d/pod-%07d", i*37/1_000_000, i) }

func (b *bench) run(ctx context.Context, opts cluster.Options) (err error) {
	if b.program == "" {
		if b.program, err = (binary.Builder{}).Parallax(ctx, false); err != nil {
			return err
		}
	}
	if b.cluster, err = cluster.Start(ctx, opts); err != nil {
		return err
	}
	defer func() { _ = b.cluster.Close() }()
	for _, step := range []func(context.Context) error{b.fill, b.plant, b.measure} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) fill(ctx context.Context) error {
	began := time.Now()
	var g errgroup.Group
	g.SetLimit(16)
	value := strings.Repeat("v", b.size-20)
	for first := 0; first < b.keys; first += batch {
		g.Go(func() error {
			var ops []clientv3.Op
			for i := first; i < min(first+batch, b.keys); i++ {
				ops = append(ops, clientv3.OpPut(name(i), fmt.Sprintf("%020d%s", i, value)))
			}
			var err error
			for range 5 { // a busy machine
				if _, err = b.cluster.Client().Txn(ctx).Then(ops...).Commit(); err == nil {
					break
				}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fmt.Printf("%d keys written in %v\n", b.keys, time.Since(began).Round(time.Second))
	_, err := b.cluster.Put(ctx, "/zzz", "the newest")
	return err
}

// plant ten differences: values, missing keys, keys that nobody wrote.
func (b *bench) plant(ctx context.Context) error {
	revision, err := b.cluster.Put(ctx, "/zzz", "the newest again")
	if err != nil {
		return err
	}
	if err := b.cluster.WaitRevision(ctx, revision); err != nil {
		return err
	}
	for i := range 10 {
		m := b.cluster.Members[i%2+1]
		key := name(i * (b.keys - 1) / 9)
		if m.Running() {
			if err := m.Stop(); err != nil {
				return err
			}
		}
		switch i % 3 {
		case 0:
			err = fault.ChangeValue(m.DB(), key, "another")
		case 1:
			err = fault.DeleteKey(m.DB(), key)
		case 2:
			key += "-ghost"
			err = fault.GhostKey(m.DB(), key, "boo")
		}
		if err != nil {
			return err
		}
		b.planted = append(b.planted, key)
		if i >= 8 { // the last of this member
			if err := m.Launch(ctx); err != nil {
				return err
			}
		}
	}
	slices.Sort(b.planted)
	return b.cluster.WaitReady(ctx)
}

func (b *bench) measure(ctx context.Context) error {
	idle, _, err := b.check("--prefix", "/nothing/", "--rate", "0")
	if err != nil {
		return err
	}
	var ratios []float64
	for range b.rounds {
		var plain time.Duration
		if b.open {
			if plain, err = b.pagers(ctx, false); err != nil {
				return err
			}
		}
		near, err := b.pagers(ctx, true)
		if err != nil {
			return err
		}
		began := time.Now()
		peak, out, err := b.check("--rate", "0")
		if err != nil {
			return err
		}
		took := time.Since(began)
		fmt.Printf("check: %d keys in %.1f s (%.1f s in the sweep), %.1f MiB over idle (%.1f); pagers: %.1f s: %.2f times as fast",
			out.Keys, took.Seconds(), out.Seconds, (peak-idle)/1024, idle/1024, near.Seconds(), near.Seconds()/out.Seconds)
		if b.open {
			fmt.Printf("; with open ends: %.1f s: %.2f times as fast", plain.Seconds(), plain.Seconds()/out.Seconds)
		}
		fmt.Println()
		var found []string
		for _, f := range out.Findings {
			found = append(found, f.Key)
		}
		switch {
		case !slices.Equal(found, b.planted):
			return fmt.Errorf("found %q, planted %q", found, b.planted)
		case (peak-idle)/1024 > mostMiB:
			return fmt.Errorf("more than %d MiB", mostMiB)
		}
		ratios = append(ratios, near.Seconds()/out.Seconds)
	}
	slices.Sort(ratios)
	if median := ratios[len(ratios)/2]; median < leastFast {
		return fmt.Errorf("%.2f times as fast, less than %v", median, leastFast)
	}
	return nil
}

type result struct {
	Keys     int64
	Seconds  float64
	Findings []struct{ Key string }
}

// check runs the command, and returns its largest size in KiB.
func (b *bench) check(args ...string) (peak float64, out result, err error) {
	cmd := exec.Command(b.program, append([]string{"check", "--endpoints", b.cluster.Endpoints()[0], "--output", "json"}, args...)...)
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, out, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			peak = max(peak, largest(cmd.Process.Pid))
			continue
		case err = <-ended:
		}
		break
	}
	if _, found := errors.AsType[*exec.ExitError](err); err != nil && !found {
		return 0, out, err
	}
	return peak, out, json.Unmarshal(stdout.Bytes(), &out)
}

// largest is VmHWM of a process. The rusage of a child would count what its parent was when it was forked.
func largest(pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	var kib float64
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kib); err == nil {
			return kib
		}
	}
	return 0
}

// pagers read all keys from all members at once. near: they know where a page ends, and ask
// for no more; otherwise they ask for so many keys up to the end of all, as most do.
func (b *bench) pagers(ctx context.Context, near bool) (time.Duration, error) {
	began := time.Now()
	var g errgroup.Group
	for _, m := range b.cluster.Members {
		g.Go(func() error {
			for i := 0; i < b.keys; i += perPage {
				end := "/registry0"
				opts := []clientv3.OpOption{clientv3.WithSerializable()}
				if near {
					end = name(i + perPage)
				} else {
					opts = append(opts, clientv3.WithLimit(perPage))
				}
				if _, err := m.Client().Get(ctx, name(i), append(opts, clientv3.WithRange(end))...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return time.Since(began), err
}
