package report

import (
	"math"
	"slices"
)

// median of nothing is NaN.
func median(xs []float64) float64 {
	if len(xs) == 0 {
		return math.NaN()
	}
	xs = slices.Sorted(slices.Values(xs))
	n := len(xs)
	return (xs[(n-1)/2] + xs[n/2]) / 2
}

// interval is where the median lies with a confidence of at least 95 %, whatever
// the distribution: between two of the values, whose ranks follow from tossing
// coins. With fewer than six values it is all of them.
func interval(xs []float64) (low, high float64) {
	if len(xs) == 0 {
		return math.NaN(), math.NaN()
	}
	xs = slices.Sorted(slices.Values(xs))
	n := len(xs)
	rank, below := 0, math.Pow(0.5, float64(n)) // P(at most rank values lie below the median)
	for term := below; ; {
		term *= float64(n-rank) / float64(rank+1)
		if below+term > 0.025 || rank+1 > (n-1)/2 {
			break
		}
		rank++
		below += term
	}
	return xs[rank], xs[n-1-rank]
}

// figure is what a sample says; false when it says nothing about that.
type figure func(Sample) (float64, bool)

func cpuPerRequest(s Sample) (float64, bool) {
	return s.ProxySeconds / float64(s.Requests) * 1e6, s.Requests > 0
}

func memberPerRequest(s Sample) (float64, bool) {
	return s.MemberSeconds / float64(s.Requests) * 1e6, s.Requests > 0
}

func throughput(s Sample) (float64, bool) {
	return float64(s.Requests) / s.Seconds, s.Seconds > 0
}

// share of one core.
func share(s Sample) (float64, bool) { return s.ProxySeconds / s.Seconds, s.Seconds > 0 }

func p50(s Sample) (float64, bool) { return s.P50, s.P50 > 0 }
func p99(s Sample) (float64, bool) { return s.P99, s.P99 > 0 }

// peakMiB is the height of the memory.
func peakMiB(s Sample) (float64, bool) { return float64(s.PeakRSS) / (1 << 20), s.PeakRSS > 0 }

// idleKiB is what one idle connection holds.
func idleKiB(s Sample) (float64, bool) {
	return float64(s.RSSAfter-s.RSSBefore) / float64(s.Connections) / (1 << 10), s.Connections > 0
}

// cell is a row under a workload in one mode.
type cell struct{ mode, workload, row string }

// byRound returns the figure of every round that has one.
func (r *Report) byRound(c cell, f figure) map[int]float64 {
	found := map[int]float64{}
	for _, s := range r.Samples {
		if s.Error == "" && s.Mode == c.mode && s.Workload == c.workload && s.Row == c.row {
			if x, ok := f(s); ok {
				found[s.Round] = x
			}
		}
	}
	return found
}

func (r *Report) all(c cell, f figure) []float64 {
	var xs []float64
	for _, x := range r.byRound(c, f) {
		xs = append(xs, x)
	}
	return xs
}

// broke counts the rounds in which the row broke, and why the last did.
func (r *Report) broke(c cell) (rounds, of int, why string) {
	for _, s := range r.Samples {
		if s.Mode == c.mode && s.Workload == c.workload && s.Row == c.row {
			of++
			if s.Error != "" {
				rounds++
				why = s.Error
			}
		}
	}
	return rounds, of, why
}

// pairs sets two cells against each other within each round: what the machine
// did in that round, it did to both.
func (r *Report) pairs(a, b cell, f figure, with func(a, b float64) float64) []float64 {
	var xs []float64
	theirs := r.byRound(b, f)
	for round, x := range r.byRound(a, f) {
		if y, ok := theirs[round]; ok {
			xs = append(xs, with(x, y))
		}
	}
	return xs
}

func quotient(a, b float64) float64 { return a / b }

// to is the same cell of another row.
func (c cell) to(row string) cell { c.row = row; return c }
