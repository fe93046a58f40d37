package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/e2e/bench/load"
	"github.com/etcd-parallax/parallax/e2e/bench/report"
	"github.com/etcd-parallax/parallax/e2e/bench/rows"
)

type options struct {
	rounds     int
	measured   time.Duration
	rate       int
	plain, tls bool
	quick      bool
	parallax   string // a program; built from the sources when empty

	// rows and workloads by name; none means all.
	rows, workloads []string
}

func defaults() options {
	return options{rounds: 15, measured: 500 * time.Millisecond, rate: 1000}
}

func (o options) check() error {
	if o.rounds < 1 || o.rate < 1 || o.measured <= 0 {
		return fmt.Errorf("rounds %d, rate %d and measured %v must be positive", o.rounds, o.rate, o.measured)
	}
	for _, name := range o.rows {
		if !slices.Contains(rowNames(), name) {
			return fmt.Errorf("no row %q, there are %v", name, rowNames())
		}
	}
	for _, name := range o.workloads {
		if !slices.Contains(workloadNames(), name) {
			return fmt.Errorf("no workload %q, there are %v", name, workloadNames())
		}
	}
	return nil
}

func (o options) load() load.Options {
	l := load.Options{Measured: o.measured, Rate: o.rate, Watchers: 100, Events: 1000, Quick: o.quick}
	if o.quick {
		l.Measured, l.Watchers, l.Events = 10*time.Millisecond, 5, 200
	}
	return l
}

// idleConnections is how many clients do nothing but watch.
func (o options) idleConnections() int {
	if o.quick {
		return 20
	}
	return 2000
}

// electionTimeout is long, since an election among members that get no CPU for a
// second would be noise; but the first one takes as long.
func (o options) electionTimeout() time.Duration {
	if o.quick {
		return time.Second
	}
	return 5 * time.Second
}

// idleRounds: memory varies less than CPU, and 2,000 handshakes take their time.
func (o options) idleRounds() int { return min(o.rounds, 2) }

// sparse is between two rounds with a sparse workload.
const sparse = 3

func (o options) modes() (modes []string) {
	if o.plain {
		modes = append(modes, report.Plain)
	}
	if o.tls {
		modes = append(modes, report.TLS)
	}
	return modes
}

// wantedRows of a mode.
func (o options) wantedRows(mode string) (wanted []rows.Row) {
	for _, row := range rows.All() {
		other := row.PlainOnly && mode != report.Plain || row.TLSOnly && mode != report.TLS
		if !other && (o.rows == nil || slices.Contains(o.rows, row.Name)) {
			wanted = append(wanted, row)
		}
	}
	return wanted
}

func (o options) wantedWorkloads() (wanted []load.Workload) {
	for _, w := range load.Workloads(o.load()) {
		if o.wants(w.Name) {
			wanted = append(wanted, w)
		}
	}
	return wanted
}

func (o options) wants(workload string) bool {
	return o.workloads == nil || slices.Contains(o.workloads, workload)
}

func rowNames() (names []string) {
	for _, row := range rows.All() {
		names = append(names, row.Name)
	}
	return names
}

func workloadNames() (names []string) {
	for _, w := range load.Workloads(load.Options{}) {
		names = append(names, w.Name)
	}
	return append(names, report.IdleWorkload)
}
