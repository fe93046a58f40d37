package report

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/etcd-parallax/parallax/e2e/bench/load"
	"github.com/etcd-parallax/parallax/e2e/bench/rows"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		xs   []float64
		want float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 2, 3}, 2.5}, {[]float64{7}, 7}} {
		if got := median(c.xs); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.xs, got, c.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
}

// The ranks are those of the tables of the sign test, e.g. 4 and 12 of 15.
func TestInterval(t *testing.T) {
	for n, rank := range map[int]int{1: 1, 5: 1, 6: 1, 8: 1, 9: 2, 12: 3, 15: 4, 20: 6, 30: 10} {
		var xs []float64
		for i := range n {
			xs = append(xs, float64(n-i))
		}
		if low, high := interval(xs); low != float64(rank) || high != float64(n+1-rank) {
			t.Errorf("of %d values it is %v to %v, want %d to %d", n, low, high, rank, n+1-rank)
		}
	}
}

// build makes a report in which each row costs so many microseconds per get, in
// a machine that gets slower from round to round.
func build(cost map[string]float64) *Report {
	r := &Report{Modes: []string{Plain}, Workloads: []Workload{{Name: load.Get, Title: "get"}}}
	for _, row := range rows.All() {
		us, ok := cost[row.Name]
		if !ok {
			continue
		}
		r.Rows = append(r.Rows, Row{Name: row.Name, Title: row.Title, Three: row.Three})
		for round := range 15 {
			r.Samples = append(r.Samples, Sample{
				Mode: Plain, Workload: load.Get, Row: row.Name, Round: round, Requests: 1000, Seconds: 1,
				ProxySeconds: us / 1000 * float64(round+1), MemberSeconds: 0.1,
			})
		}
	}
	return r
}

// Ratios are taken within rounds: what the machine did does not show.
func TestRatiosAndBars(t *testing.T) {
	r := build(map[string]float64{rows.Gateway: 10, rows.GatewayAgain: 10.5, rows.ShadowZero: 11.8, rows.Nginx: 50, rows.Forwarder: 20})
	text := r.Markdown()
	for _, want := range []string{
		"| **Parallax**, tap on, shadow budget 0 | 94 (1.18) |",
		"| nginx `grpc_pass` | 400 (5.00) |",
		"Parallax ÷ blind relay (`etcd gateway`) | 1.18 (1.18 to 1.18) | ≤ 1.15 | 1.05 (1.05 to 1.05) | within the noise |",
		"Parallax ÷ nginx `grpc_pass` | 0.24 (0.24 to 0.24) | ≤ 0.4 | 1.05 (1.05 to 1.05) | met |",
		"Parallax ÷ grpc-go raw-bytes forwarder | 0.59 (0.59 to 0.59) | ≤ 0.3 | 1.05 (1.05 to 1.05) | **not met** |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(text, "HAProxy") || strings.Contains(text, "NaN") {
		t.Error("the table has what was not measured")
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestBrokenRowsSaySo(t *testing.T) {
	r := build(map[string]float64{rows.Gateway: 10, rows.Nginx: 50, rows.HAProxyHTTP: 20})
	for i, s := range r.Samples {
		if s.Row == rows.HAProxyHTTP || s.Row == rows.Nginx && s.Round < 2 {
			r.Samples[i] = Sample{Mode: s.Mode, Workload: s.Workload, Row: s.Row, Round: s.Round, Error: "no trailers"}
		}
	}
	text := r.Markdown()
	for _, want := range []string{"| HAProxy, HTTP/2 mode | broke |", "(5.00), broke in 2 of 15 |"} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s\n%s", want, text)
		}
	}
}

// What is added to p99 is held against what the relay adds, not against the whole.
func TestAddedLatency(t *testing.T) {
	r := &Report{Modes: []string{Plain}, Workloads: []Workload{{Name: load.PacedGet, Title: "paced", Paced: true}}}
	for _, row := range []struct {
		name string
		p99  float64
	}{{rows.Direct, 1000}, {rows.Gateway, 1100}, {rows.GatewayAgain, 1105}, {rows.ShadowZero, 1120}} {
		r.Rows = append(r.Rows, Row{Name: row.name, Title: row.name})
		r.Samples = append(r.Samples, Sample{Mode: Plain, Workload: load.PacedGet, Row: row.name, Requests: 1, Seconds: 1, P50: row.p99 / 2, P99: row.p99})
	}
	bars := r.latencyBars(Plain)
	if i := slices.IndexFunc(bars, func(b bar) bool { return len(b.values) > 0 }); i != 0 || math.Abs(bars[0].limit-0.11) > 1e-9 || bars[0].verdict() != "**not met**" {
		t.Errorf("%+v, %s", bars, bars[0].verdict())
	}
	if text := r.Markdown(); !strings.Contains(text, "| parallax-0 | 0.06 / 0.12 |") || !strings.Contains(text, "| direct | (0.50 / 1.00) |") {
		t.Error(text)
	}
}
