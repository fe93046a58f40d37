package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/etcd-parallax/parallax/e2e/bench/load"
	"github.com/etcd-parallax/parallax/e2e/bench/rows"
)

// reference is the row that ratios of a mode are relative to: a blind relay
// that does what the others have to do. `etcd gateway` passes TLS through.
func reference(mode string) (row, again string) {
	if mode == TLS {
		return rows.Relay, rows.RelayAgain
	}
	return rows.Gateway, rows.GatewayAgain
}

// Markdown returns the tables for the README, and the bars.
func (r *Report) Markdown() string {
	var b strings.Builder
	b.WriteString(r.head())
	for _, mode := range r.Modes {
		r.modeTables(&b, mode)
	}
	r.barTable(&b)
	for _, line := range r.Skipped {
		fmt.Fprintf(&b, "\nNot measured: %s", line)
	}
	if len(r.Skipped) > 0 {
		b.WriteString("\n")
	}
	return b.String()
}

func (r *Report) head() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured by `make bench` on %s, in %.0f minutes: %s, %d cores, %.0f GB, Linux %s, %s",
		r.Started.Format("2006-01-02"), math.Ceil(r.Seconds/60), r.Machine.CPU, r.Machine.Cores, r.Machine.MemoryGB, r.Machine.Kernel, r.Machine.Go)
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(&b, ", %s %s", name, r.Versions[name])
	}
	b.WriteString(".\n\n")
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "- %s\n", note)
	}
	return b.String()
}

var titles = map[string]string{Plain: "Plain", TLS: "TLS on both sides"}

// modeTables are that of the CPU, and those beside it.
func (r *Report) modeTables(b *strings.Builder, mode string) {
	ref, _ := reference(mode)
	var closed, paced []Workload
	for _, w := range r.Workloads {
		if w.Paced {
			paced = append(paced, w)
		} else {
			closed = append(closed, w)
		}
	}
	if len(closed) > 0 {
		fmt.Fprintf(b, "\n### %s: CPU of the proxy, µs per request or event (in brackets the ratio to %s)\n\n", titles[mode], r.title(ref))
		r.table(b, mode, heads(closed), func(row string) (cells []string) {
			for _, w := range closed {
				cells = append(cells, r.cpuCell(cell{mode, w.Name, row}, ref))
			}
			return cells
		})
		fmt.Fprintf(b, "\n### %s: requests or events per second · CPU of the members for each, µs\n\n", titles[mode])
		r.table(b, mode, heads(closed), func(row string) (cells []string) {
			for _, w := range closed {
				c := cell{mode, w.Name, row}
				cells = append(cells, r.orBroke(c, number(median(r.all(c, throughput)))+" · "+number(median(r.all(c, memberPerRequest)))))
			}
			return cells
		})
	}
	head := []string{}
	for _, w := range paced {
		head = append(head, "added p50 / p99, "+w.Title+", ms")
	}
	head = append(head, "peak RSS, small requests, MiB", "with lists, MiB", "RSS per idle connection, KiB")
	fmt.Fprintf(b, "\n### %s: latency and memory\n\n", titles[mode])
	r.table(b, mode, head, func(row string) (cells []string) {
		for _, w := range paced {
			cells = append(cells, r.latencyCell(cell{mode, w.Name, row}))
		}
		small, large := r.peak(mode, row)
		return append(cells, number(small), number(large), r.orBroke(cell{mode, IdleWorkload, row}, number(median(r.all(cell{mode, IdleWorkload, row}, idleKiB)))))
	})
}

func (r *Report) table(b *strings.Builder, mode string, head []string, cells func(row string) []string) {
	fmt.Fprintf(b, "| | %s |\n|---|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, row := range r.Rows {
		if r.has(mode, row.Name) {
			fmt.Fprintf(b, "| %s | %s |\n", row.Title, strings.Join(cells(row.Name), " | "))
		}
	}
}

func (r *Report) has(mode, row string) bool {
	return slices.ContainsFunc(r.Samples, func(s Sample) bool { return s.Mode == mode && s.Row == row })
}

func (r *Report) cpuCell(c cell, ref string) string {
	if r.directOf(c.row) == c.row {
		return "–"
	}
	text := number(median(r.all(c, cpuPerRequest)))
	if ratio := median(r.pairs(c, c.to(ref), cpuPerRequest, quotient)); !math.IsNaN(ratio) {
		text += fmt.Sprintf(" (%.2f)", ratio)
	}
	return r.orBroke(c, text)
}

// latencyCell: the direct way has no added latency, but one of its own.
func (r *Report) latencyCell(c cell) string {
	if r.directOf(c.row) == c.row {
		return fmt.Sprintf("(%.2f / %.2f)", median(r.all(c, p50))/1000, median(r.all(c, p99))/1000)
	}
	direct := c.to(r.directOf(c.row))
	added50, added99 := r.pairs(c, direct, p50, milliseconds), r.pairs(c, direct, p99, milliseconds)
	if len(added50) == 0 {
		return r.orBroke(c, "–")
	}
	return r.orBroke(c, fmt.Sprintf("%.2f / %.2f", median(added50), median(added99)))
}

// peak is the highest of all rounds: of what is small, and of everything.
func (r *Report) peak(mode, row string) (small, large float64) {
	small, large = math.NaN(), math.NaN()
	for _, w := range r.Workloads {
		all := r.all(cell{mode, w.Name, row}, peakMiB)
		if len(all) == 0 {
			continue
		}
		if top := slices.Max(all); w.Name == load.SmallList || w.Name == load.BigList {
			large = maxOf(large, top)
		} else {
			small = maxOf(small, top)
		}
	}
	return small, large
}

// orBroke says how often a row broke, beside what it did otherwise.
func (r *Report) orBroke(c cell, text string) string {
	rounds, of, _ := r.broke(c)
	switch rounds {
	case 0:
		return text
	case of:
		return "broke"
	}
	return fmt.Sprintf("%s, broke in %d of %d", text, rounds, of)
}

// directOf returns the row without a proxy before the same members.
func (r *Report) directOf(name string) string {
	for _, row := range r.Rows {
		if row.Name == name && row.Three {
			return rows.DirectThree
		}
	}
	return rows.Direct
}

func (r *Report) title(name string) string {
	for _, row := range r.Rows {
		if row.Name == name {
			return row.Title
		}
	}
	return name
}

func heads(workloads []Workload) (titles []string) {
	for _, w := range workloads {
		titles = append(titles, w.Title)
	}
	return titles
}

// number has three digits that mean something, as far as any do.
func number(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case math.Abs(x) < 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

func maxOf(a, b float64) float64 {
	if math.IsNaN(a) {
		return b
	}
	return max(a, b)
}
