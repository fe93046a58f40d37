package probe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// Metrics of the probe. A nil *Metrics counts nothing.
type Metrics struct {
	looks    *prometheus.CounterVec
	rounds   *prometheus.CounterVec
	calls    *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	coverage *prometheus.GaugeVec
	alarms   *prometheus.GaugeVec
}

// verdict of one round of a rule. GUARANTEE G5: every check ends as consistent,
// divergent or inconclusive.
type verdict string

const (
	consistent   verdict = "consistent"
	divergent    verdict = "divergent"
	inconclusive verdict = "inconclusive"
)

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parallax_probe_" + name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		looks:    counter("looks_total", "Looks at all members, by what asked for them (interval, future-revision, refused-write).", "reason"),
		rounds:   counter("rounds_total", "Rounds of the background rules, by rule and verdict.", "rule", "verdict"),
		calls:    counter("calls_total", "RPCs of the background rules, by rule, member id and result (ok, failed).", "rule", "member", "result"),
		bytes:    counter("bytes_total", "Bytes of members' answers to the background rules, by rule and member id.", "rule", "member"),
		coverage: gauge("parallax_coverage", "1 where a background rule reaches a member, 0 where it does not, by rule and member id.", "rule", "member"),
		alarms:   gauge("parallax_alarm", "1 while etcd has an alarm raised for a member (CORRUPT, NOSPACE), by member id and alarm.", "member", "alarm"),
	}
	r.MustRegister(m.looks, m.rounds, m.calls, m.bytes, m.coverage, m.alarms)
	return m
}

func (m *Metrics) looked(why Reason) {
	if m != nil {
		m.looks.WithLabelValues(string(why)).Inc()
	}
}

func (m *Metrics) judged(rule drift.Rule, v verdict) {
	if m != nil {
		m.rounds.WithLabelValues(string(rule), string(v)).Inc()
	}
}

func (m *Metrics) called(rule drift.Rule, id uint64, err error, bytes int) {
	if m == nil {
		return
	}
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.calls.WithLabelValues(string(rule), member.FormatID(id), result).Inc()
	m.bytes.WithLabelValues(string(rule), member.FormatID(id)).Add(float64(bytes))
}

func (m *Metrics) covers(rule drift.Rule, id uint64, yes bool) {
	if m == nil {
		return
	}
	value := 0.0
	if yes {
		value = 1
	}
	m.coverage.WithLabelValues(string(rule), member.FormatID(id)).Set(value)
}

// left takes the labels of a member that is none any more away.
func (m *Metrics) left(rule drift.Rule, id uint64) {
	if m == nil {
		return
	}
	of := prometheus.Labels{"rule": string(rule), "member": member.FormatID(id)}
	m.coverage.DeletePartialMatch(of)
	m.calls.DeletePartialMatch(of)
	m.bytes.DeletePartialMatch(of)
}

func (m *Metrics) alarmed(a alarm, raised bool) {
	switch {
	case m == nil:
	case raised:
		m.alarms.WithLabelValues(member.FormatID(a.member), a.kind).Set(1)
	default:
		m.alarms.DeleteLabelValues(member.FormatID(a.member), a.kind)
	}
}
