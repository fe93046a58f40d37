package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/e2e/bench/osstat"
	"github.com/etcd-parallax/parallax/e2e/bench/peers"
	"github.com/etcd-parallax/parallax/e2e/bench/report"
	"github.com/etcd-parallax/parallax/e2e/bench/rows"
)

// The peers that are ours are this program again, here the test binary.
func TestMain(m *testing.M) {
	if played, err := peers.Main(); played {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// Every row goes through every workload once, so that the bench cannot rot. It
// says nothing about what they cost.
func TestEveryRowUnderEveryWorkload(t *testing.T) {
	o := defaults()
	o.quick, o.rounds, o.plain, o.tls = true, 1, true, true
	b := &bench{options: o, say: t.Logf}
	r, err := b.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{report.Plain, report.TLS} {
		for _, row := range o.wantedRows(mode) {
			if err := row.Find(); err != nil {
				t.Logf("left out: %v", err)
				continue
			}
			for _, workload := range workloadNames() {
				checkSample(t, r, mode, row, workload)
			}
		}
	}
	checkOutputs(t, r)
	nothingLeft(t, b)
}

func checkSample(t *testing.T, r *report.Report, mode string, row rows.Row, workload string) {
	i := slices.IndexFunc(r.Samples, func(s report.Sample) bool { return s.Mode == mode && s.Row == row.Name && s.Workload == workload })
	switch {
	case workload == report.IdleWorkload && row.IsDirect():
	case i < 0:
		t.Errorf("%s, %s, %s: not measured", mode, row.Name, workload)
	case r.Samples[i].Error != "" && row.Package != "":
		t.Logf("%s, %s, %s: a program that is not ours broke: %s", mode, row.Name, workload, r.Samples[i].Error)
	case r.Samples[i].Error != "":
		t.Errorf("%s, %s, %s: %s", mode, row.Name, workload, r.Samples[i].Error)
	case workload == report.IdleWorkload:
		if s := r.Samples[i]; s.RSSBefore <= 0 || s.RSSAfter <= 0 || s.Connections == 0 {
			t.Errorf("%s, %s: %+v", mode, row.Name, s)
		}
	default:
		if s := r.Samples[i]; s.Requests == 0 || s.Seconds <= 0 || (s.ProxySeconds > 0) == row.IsDirect() || (s.PeakRSS > 0) == row.IsDirect() {
			t.Errorf("%s, %s, %s: %+v", mode, row.Name, workload, s)
		}
	}
}

// checkOutputs: the JSON file holds what the table is made of.
func checkOutputs(t *testing.T, r *report.Report) {
	path := filepath.Join(t.TempDir(), "bench.json")
	if err := r.WriteJSON(path); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var back report.Report
	if err := json.Unmarshal(content, &back); err != nil {
		t.Fatal(err)
	}
	text := back.Markdown()
	if text != r.Markdown() {
		t.Error("the table from the JSON file is another one")
	}
	for _, want := range []string{"**Parallax**, tap on", "blind Go relay", "The bars", "Linux"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table has no %q", want)
		}
	}
}

// An interrupted bench leaves neither processes nor files.
func TestInterrupted(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	o := defaults()
	o.plain, o.rows, o.workloads = true, []string{rows.Relay, rows.Nginx}, []string{"get"}
	b := &bench{options: o, say: func(format string, args ...any) {
		t.Logf(format, args...)
		// In the second round: there is nothing to compact then.
		if strings.Contains(format, "round") && args[1] == 2 {
			stop(interrupted)
		}
	}}
	if _, err := b.run(ctx); !errors.Is(err, interrupted) {
		t.Errorf("error is %v", err)
	}
	nothingLeft(t, b)
}

func nothingLeft(t *testing.T, b *bench) {
	if _, err := os.Stat(b.dir); err == nil {
		t.Errorf("%s is still there", b.dir)
	}
	if pids, err := osstat.WithChildren(os.Getpid()); err != nil || len(pids) != 1 {
		t.Errorf("processes are left: %v, %v", pids, err)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-rows=other"}, {"-workloads=other"}, {"-rounds=0"}, {"more"}, {"-rate=0"}} {
		if _, _, err := parse(args); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
	o, out, err := parse([]string{"-rows", "direct,relay nginx", "-workloads=get", "-tls", "-json=x"})
	if err != nil || len(o.rows) != 3 || !o.tls || o.plain || out.json != "x" {
		t.Errorf("%+v %+v %v", o, out, err)
	}
}
