package sweep

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// Metrics of the sweep. GUARANTEE G5: every page ends as consistent, divergent or
// inconclusive, and what is inconclusive is counted by reason. A nil *Metrics
// counts nothing.
type Metrics struct {
	share     prometheus.Gauge
	keys      prometheus.Counter
	bytes     *prometheus.CounterVec
	pages     *prometheus.CounterVec
	completed *prometheus.CounterVec
	differing prometheus.Counter
	gaps      *prometheus.CounterVec
	stalled   *prometheus.GaugeVec
	why       judge.Reason // label of stalled that is 1
	verified  atomic.Int64 // Unix nanoseconds; 0: nothing began yet
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parallax_sweep_" + name, Help: help}, labels)
	}
	m := &Metrics{
		share:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "parallax_sweep_progress", Help: "How much of the key space the current sweep has compared, 0 to 1; an estimate."}),
		keys:      prometheus.NewCounter(prometheus.CounterOpts{Name: "parallax_sweep_keys_total", Help: "Keys that the sweep compared on all members."}),
		bytes:     counter("member_bytes_total", "Bytes of members' answers to the sweep, by member id.", "member"),
		pages:     counter("pages_total", "Pages that the sweep compared, by verdict and, where inconclusive, reason.", "verdict", "reason"),
		completed: counter("completed_total", "Sweeps that came to the end of the key space; result is complete, or partial where something could not be compared on all members.", "result"),
		differing: prometheus.NewCounter(prometheus.CounterOpts{Name: "parallax_sweep_differing_keys_total", Help: "Keys that the sweep found differing, once per sweep."}),
		gaps:      counter("gaps_total", "Parts of the key space that the sweep passed over, by reason.", "reason"),
		stalled:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "parallax_sweep_paused", Help: "1 while the sweep waits, by reason."}, []string{"reason"}),
	}
	age := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "parallax_sweep_oldest_unverified_age_seconds",
		Help: "Age of the oldest key that is not verified on every member since: the time since the beginning of the last complete sweep or, before there is one, of the first.",
	}, m.age)
	r.MustRegister(m.share, m.keys, m.bytes, m.pages, m.completed, m.differing, m.gaps, m.stalled, age)
	return m
}

func (m *Metrics) age() float64 {
	if at := m.verified.Load(); at != 0 {
		return max(0, time.Since(time.Unix(0, at)).Seconds())
	}
	return 0
}

func (m *Metrics) begin(pos *position) {
	if m != nil {
		m.verified.Store(pos.Verified.UnixNano())
	}
}

func (m *Metrics) complete(pos *position, whole bool) {
	if m == nil {
		return
	}
	m.verified.Store(pos.Verified.UnixNano())
	m.share.Set(1)
	result := "partial"
	if whole {
		result = "complete"
	}
	m.completed.WithLabelValues(result).Inc()
}

func (m *Metrics) progress(done, of int64) {
	if m != nil {
		m.share.Set(min(1, float64(done)/float64(max(1, of))))
	}
}

func (m *Metrics) page(keys int) {
	if m != nil {
		m.keys.Add(float64(keys))
	}
}

func (m *Metrics) read(id uint64, bytes int) {
	if m != nil {
		m.bytes.WithLabelValues(member.FormatID(id)).Add(float64(bytes))
	}
}

func (m *Metrics) judged(v judge.Verdict) {
	if m != nil {
		m.pages.WithLabelValues(v.Outcome.String(), string(v.Reason)).Inc()
	}
}

func (m *Metrics) differs() {
	if m != nil {
		m.differing.Inc()
	}
}

func (m *Metrics) skipped(why judge.Reason) {
	if m != nil {
		m.gaps.WithLabelValues(string(why)).Inc()
	}
}

func (m *Metrics) paused(why judge.Reason) {
	if m == nil || m.why == why {
		return
	}
	if m.why != "" {
		m.stalled.WithLabelValues(string(m.why)).Set(0)
	}
	if m.why = why; why != "" {
		m.stalled.WithLabelValues(string(why)).Set(1)
	}
}
