package report

import (
	"fmt"
	"math"
	"strings"

	"github.com/etcd-parallax/parallax/e2e/bench/load"
	"github.com/etcd-parallax/parallax/e2e/bench/rows"
)

// bar is a line of what was asked for: a figure of all rounds, and what it may be at most.
type bar struct {
	text   string
	values []float64
	limit  float64
	unit   string

	// noise is by how much the limit may be missed when two rows are the same:
	// a factor, or with plus an amount.
	noise []float64
	plus  bool
}

// verdict is met when the median is; within the noise when it is not, but by no
// more than what two identical rows differ by.
func (b bar) verdict() string {
	_, noise := interval(b.noise)
	excused := b.limit * max(noise, 1)
	if b.plus {
		excused = b.limit + max(noise, 0)
	}
	switch value := median(b.values); {
	case math.IsNaN(value):
		return "not measured"
	case value <= b.limit:
		return "met"
	case value <= excused:
		return "within the noise"
	}
	return "**not met**"
}

// cpuBars are those of small and of large answers.
var cpuBars = []struct {
	workloads []string
	limit     float64
}{
	{[]string{load.Get, load.Put, load.Txn}, 1.15},
	{[]string{load.SmallList, load.BigList, load.FanOut}, 1.10},
}

// peerBars are for get and put; everything else has to be cheaper at all.
var peerBars = []struct {
	peer  string
	limit float64
}{{rows.Nginx, 0.40}, {rows.GRPCProxy, 0.30}, {rows.Forwarder, 0.30}, {rows.HAProxyHTTP, 1}}

func (r *Report) barTable(out *strings.Builder) {
	out.WriteString("\n### The bars\n\nMedians over the rounds, in brackets where the median lies with 95 % confidence. Parallax is that with the tap on and " +
		"a shadow budget of 0. Noise: the same of two identical blind relays.\n\n| | measured | bar | noise | |\n|---|---|---|---|---|\n")
	for _, mode := range r.Modes {
		for _, b := range r.bars(mode) {
			fmt.Fprintf(out, "| %s: %s | %s%s | ≤ %.3g%s | %s | %s |\n", titles[mode], b.text, spread(b.values), b.unit, b.limit, b.unit, spread(b.noise), b.verdict())
		}
	}
}

func spread(xs []float64) string {
	if len(xs) == 0 {
		return "–"
	}
	low, high := interval(xs)
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(xs), low, high)
}

// bars of a mode, without those of what was not asked to be measured.
func (r *Report) bars(mode string) (measured []bar) {
	bars := r.relayBars(mode)
	for _, p := range peerBars {
		bars = append(bars, r.cpuBar(mode, load.Get, p.peer, p.limit), r.cpuBar(mode, load.Put, p.peer, p.limit), r.dearest(mode, p.peer))
	}
	bars = append(bars, r.latencyBars(mode)...)
	bars = append(bars, r.idleBar(mode))
	bars = append(bars, r.shadowBars(mode)...)
	for _, b := range bars {
		if len(b.values) > 0 {
			measured = append(measured, b)
		}
	}
	return measured
}

// relayBars: with TLS, HAProxy is a relay to compare with, too. Without, it is the mark to reach for.
func (r *Report) relayBars(mode string) (bars []bar) {
	ref, _ := reference(mode)
	for _, group := range cpuBars {
		for _, w := range group.workloads {
			bars = append(bars, r.cpuBar(mode, w, ref, group.limit))
		}
	}
	for _, group := range cpuBars {
		for _, w := range group.workloads {
			b := r.cpuBar(mode, w, rows.HAProxyTCP, group.limit)
			if mode == Plain {
				b.text += " (the mark)"
			}
			bars = append(bars, b)
		}
	}
	return bars
}

func (r *Report) cpuBar(mode, workload, other string, limit float64) bar {
	ours := cell{mode, workload, rows.ShadowZero}
	ref, again := reference(mode)
	return bar{
		text:   fmt.Sprintf("CPU, %s, Parallax ÷ %s", r.workload(workload), r.title(other)),
		values: r.pairs(ours, ours.to(other), cpuPerRequest, quotient),
		limit:  limit,
		noise:  r.pairs(ours.to(again), ours.to(ref), cpuPerRequest, quotient),
	}
}

// dearest is, of all other workloads, the one where a peer comes closest.
func (r *Report) dearest(mode, peer string) (most bar) {
	for _, w := range []string{load.Serializable, load.Txn, load.SmallList, load.BigList, load.FanOut} {
		if b := r.cpuBar(mode, w, peer, 1); len(most.values) == 0 || median(b.values) > median(most.values) {
			most = b
		}
	}
	most.text = "closest of the others: " + most.text
	return most
}

// latencyBars: what Parallax adds to the p99 of the direct way, and what the blind relay does.
func (r *Report) latencyBars(mode string) (bars []bar) {
	ref, again := reference(mode)
	for _, w := range []string{load.PacedGet, load.PacedPut} {
		ours := cell{mode, w, rows.ShadowZero}
		relay := median(r.pairs(ours.to(ref), ours.to(rows.Direct), p99, milliseconds))
		bars = append(bars, bar{
			text:   fmt.Sprintf("added p99, %s; the relay adds %.2f ms", r.workload(w), relay),
			values: r.pairs(ours, ours.to(rows.Direct), p99, milliseconds),
			limit:  1.10 * relay, unit: " ms",
			noise: r.pairs(ours.to(again), ours.to(ref), p99, milliseconds), plus: true,
		})
	}
	return bars
}

func (r *Report) idleBar(mode string) bar {
	limits := map[string]float64{Plain: 24, TLS: 80}
	return bar{
		text: "RSS per idle connection", values: r.all(cell{mode, IdleWorkload, rows.ShadowZero}, idleKiB),
		limit: limits[mode], unit: " KiB",
	}
}

// shadowBars: what the shadow costs beside the tap, before the same three members.
func (r *Report) shadowBars(mode string) (bars []bar) {
	for _, w := range []string{load.PacedGet, load.PacedPut} {
		some := cell{mode, w, rows.ShadowSome}
		bars = append(bars, bar{
			text: "the shadow at its defaults, " + r.workload(w), values: r.pairs(some, some.to(rows.ShadowThree), share, percent),
			limit: 2, unit: " % of a core",
		})
	}
	return bars
}

func milliseconds(a, b float64) float64 { return (a - b) / 1000 }
func percent(a, b float64) float64      { return 100 * (a - b) }

func (r *Report) workload(name string) string {
	for _, w := range r.Workloads {
		if w.Name == name {
			return w.Title
		}
	}
	return name
}
