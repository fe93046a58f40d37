package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcd-parallax/parallax/e2e/bench/osstat"
	"github.com/etcd-parallax/parallax/e2e/bench/report"
	"github.com/etcd-parallax/parallax/e2e/bench/rows"
	"github.com/etcd-parallax/parallax/e2e/binary"
)

// bench is one run.
type bench struct {
	options
	say func(format string, args ...any)

	skipping sync.Mutex
	report   report.Report
	dir      string
	etcd     string
	product  string
}

// run measures everything and leaves nothing behind.
func (b *bench) run(ctx context.Context) (_ *report.Report, err error) {
	b.report = report.Report{Started: time.Now().UTC().Truncate(time.Second), Machine: osstat.ThisMachine(), Modes: b.modes()}
	begun := time.Now()
	if b.dir, err = workDir(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	builder := binary.Builder{Progress: func(p binary.Progress) { b.say("%v", p) }}
	if b.etcd, err = builder.Etcd(ctx, binary.Etcd37); err != nil {
		return nil, err
	}
	if b.product = b.parallax; b.product == "" {
		if b.product, err = builder.Parallax(ctx, false); err != nil {
			return nil, err
		}
	}
	b.describe(ctx)
	for _, mode := range b.modes() {
		if err := b.mode(ctx, mode); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause // whatever failed, it was for this
			}
			return nil, err
		}
	}
	b.report.Seconds = time.Since(begun).Seconds()
	return &b.report, nil
}

// mode measures without or with TLS.
func (b *bench) mode(ctx context.Context, mode string) (err error) {
	var present []rows.Row
	for _, row := range b.wantedRows(mode) {
		if err := row.Find(); err != nil {
			b.skip(row.Name, mode, err)
			continue
		}
		present = append(present, row)
	}
	b.say("%s: starting members", mode)
	s, err := b.newStage(ctx, mode, slices.ContainsFunc(present, func(r rows.Row) bool { return r.Three }))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if present, err = s.usable(ctx, present); err != nil {
		return err
	}
	if b.wants(report.IdleWorkload) {
		for round := range b.idleRounds() {
			if err := s.idleRound(ctx, present, round); err != nil {
				return err
			}
		}
	}
	if len(b.wantedWorkloads()) == 0 {
		return nil
	}
	tries := map[try]*tally{}
	for round := range b.rounds {
		begun := time.Now()
		if err := s.round(ctx, present, round, tries); err != nil {
			return err
		}
		b.say("%s: round %d of %d took %v", mode, round+1, b.rounds, time.Since(begun).Round(100*time.Millisecond))
	}
	return nil
}

// skip notes why a row is not in the table, or not in all of it. Rows start side by side.
func (b *bench) skip(row, mode string, why error) {
	first, _, _ := strings.Cut(why.Error(), "\n")
	line := fmt.Sprintf("%s, %s: %s", row, mode, first)
	b.skipping.Lock()
	defer b.skipping.Unlock()
	if !slices.Contains(b.report.Skipped, line) {
		b.report.Skipped = append(b.report.Skipped, line)
		b.say("skipped: %s, %s: %v", row, mode, why)
	}
}

// describe fills in what the tables need beside the figures.
func (b *bench) describe(ctx context.Context) {
	r := &b.report
	for _, row := range rows.All() {
		r.Rows = append(r.Rows, report.Row{Name: row.Name, Title: row.Title, Three: row.Three})
	}
	for _, w := range b.wantedWorkloads() {
		r.Workloads = append(r.Workloads, report.Workload{Name: w.Name, Title: w.Title, Unit: w.Unit, Paced: w.Paced})
	}
	r.Versions = map[string]string{"etcd": binary.Etcd37}
	for name, command := range map[string][]string{"haproxy": {"haproxy", "-v"}, "nginx": {"nginx", "-v"}} {
		command[0] = rows.Path(command[0])
		// nginx says its version on stderr.
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err == nil {
			r.Versions[name] = regexp.MustCompile(`\d[\d.]+\S*`).FindString(string(out))
		}
	}
	r.Notes = []string{
		"CPU: " + osstat.CPUSource + ".",
		fmt.Sprintf("One etcd member without fsync (data in %s); rows with ³ stand before a cluster of three, with one member a shadow has nothing to compare.", filepath.Dir(b.dir)),
		fmt.Sprintf("HAProxy runs %[1]d threads, nginx %[1]d workers, as many as the Go programs use cores.", runtime.NumCPU()),
		"A row's processes start anew in every round; the order of rows is drawn for every workload and round.",
	}
}

// workDir is in memory when the machine has a place for it: what a disk does would be noise.
func workDir() (string, error) {
	if dir, err := os.MkdirTemp("/dev/shm", "parallax-bench-"); err == nil {
		return dir, nil
	}
	return os.MkdirTemp("", "parallax-bench-")
}

// clientTLS says that HTTP/2 follows, as gRPC does by itself; nil stays nil.
func clientTLS(config *tls.Config) *tls.Config {
	if config == nil {
		return nil
	}
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	return config
}
