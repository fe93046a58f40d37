package shadow

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// Metrics of the shadow. GUARANTEE G5: every check ends as consistent, divergent
// or inconclusive, and every inconclusive or dropped one is counted by reason.
type Metrics struct {
	calls    map[outcome]prometheus.Counter // looked up once: it is counted in the relay's goroutine
	drops    *prometheus.CounterVec
	skips    *prometheus.CounterVec
	checks   *prometheus.CounterVec
	retries  prometheus.Counter
	duration prometheus.Histogram
	reads    *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	poison   prometheus.Gauge
	paused   prometheus.Gauge
}

// outcome of sampling a call of a kind.
type outcome struct {
	kind kind
	why  dropped
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parallax_shadow_" + name, Help: help}, labels)
	}
	calls := counter("calls_total", "Calls that could be sampled, by kind (read, write, watch: messages to watchers) and whether they were (outcome: sampled, or why not).", "kind", "outcome")
	m := &Metrics{
		calls:   map[outcome]prometheus.Counter{},
		drops:   counter("dropped_total", "Sampled calls and checks that were dropped, by reason.", "reason"),
		skips:   counter("skipped_total", "Sampled calls that give no question, by reason.", "reason"),
		checks:  counter("checks_total", "Checks that ended, by kind (read, write, watch, refused-write, recheck), verdict and, where inconclusive, reason.", "kind", "verdict", "reason"),
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "parallax_shadow_retries_total", Help: "Rounds put off because a member had not applied the revision yet."}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "parallax_shadow_check_duration_seconds", Help: "From the observed call to the verdict, in seconds.",
			Buckets: []float64{.005, .02, .05, .1, .2, .5, 1, 2, 5, 10, 60},
		}),
		reads:  counter("member_reads_total", "RPCs of the shadow by member id and answer (ok, or why not); probes not included.", "member", "answer"),
		bytes:  counter("member_bytes_total", "Bytes of members' answers to the shadow, by member id.", "member"),
		poison: prometheus.NewGauge(prometheus.GaugeOpts{Name: "parallax_shadow_poisoned_ranges", Help: "Ranges that are not read any more, because a member was lost while it read them; to pause the shadow and let it go on lets them be read again."}),
		paused: prometheus.NewGauge(prometheus.GaugeOpts{Name: "parallax_shadow_paused", Help: "1 while the shadow is paused."}),
	}
	for _, k := range []kind{read, write, watch} {
		for why, label := range map[dropped]string{taken: "sampled", dropShare: string(dropShare), dropBusy: string(dropBusy), dropPaused: string(dropPaused)} {
			m.calls[outcome{k, why}] = calls.WithLabelValues(string(k), label)
		}
	}
	r.MustRegister(calls, m.drops, m.skips, m.checks, m.retries, m.duration, m.reads, m.bytes, m.poison, m.paused)
	return m
}

func (m *Metrics) sampled(k kind, why dropped) { m.calls[outcome{k, why}].Inc() }

func (m *Metrics) dropped(why dropped, n int) {
	if n > 0 {
		m.drops.WithLabelValues(string(why)).Add(float64(n))
	}
}

func (m *Metrics) skipped(why skipped) { m.skips.WithLabelValues(string(why)).Inc() }

func (m *Metrics) retried() { m.retries.Inc() }

func (m *Metrics) concluded(k kind, v judge.Verdict, took time.Duration) {
	m.checks.WithLabelValues(string(k), v.Outcome.String(), string(v.Reason)).Inc()
	m.duration.Observe(took.Seconds())
}

func (m *Metrics) asked(id uint64, k judge.Kind) {
	m.reads.WithLabelValues(member.FormatID(id), string(k.Reason())).Inc()
}

func (m *Metrics) answered(id uint64, bytes int) {
	m.bytes.WithLabelValues(member.FormatID(id)).Add(float64(bytes))
}

func (m *Metrics) pause(paused bool) {
	if paused {
		m.paused.Set(1)
	} else {
		m.paused.Set(0)
	}
}

func (m *Metrics) poisoned(ranges int) { m.poison.Set(float64(ranges)) }
