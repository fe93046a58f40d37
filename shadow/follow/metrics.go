package follow

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// Metrics of following. No label is ever a key.
type Metrics struct {
	findings *prometheus.CounterVec
	drops    *prometheus.CounterVec
	keys     *prometheus.CounterVec
	reads    *prometheus.CounterVec
	bytes    *prometheus.CounterVec
}

// why a finding is not followed.
type why string

const (
	dropQueue   why = "queue"
	dropKeySize why = "key-size"
)

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parallax_follow_" + name, Help: help}, labels)
	}
	m := &Metrics{
		findings: counter("findings_total", "Findings that were followed, by outcome.", "outcome"),
		drops:    counter("dropped_total", "Findings that were not followed, by reason; they are when they are seen again.", "reason"),
		keys:     counter("keys_total", "Keys compared around findings, by result: equal, or differing.", "result"),
		reads:    counter("member_reads_total", "RPCs of following by member id and answer (ok, or why not).", "member", "answer"),
		bytes:    counter("member_bytes_total", "Bytes of members' answers to following, by member id.", "member"),
	}
	for _, o := range []outcome{followed, partly, gone, void, unanswered, paused, panicked} { // an alert on a rate must see the first
		m.findings.WithLabelValues(string(o))
	}
	r.MustRegister(m.findings, m.drops, m.keys, m.reads, m.bytes)
	return m
}

func (m *Metrics) ended(o outcome) { m.findings.WithLabelValues(string(o)).Inc() }

func (m *Metrics) dropped(w why) { m.drops.WithLabelValues(string(w)).Inc() }

func (m *Metrics) compared(keys, differing int) {
	m.keys.WithLabelValues("equal").Add(float64(keys - differing))
	m.keys.WithLabelValues("differing").Add(float64(differing))
}

// Asked and Answered are for the Asker of the Follower.
func (m *Metrics) Asked(id uint64, k judge.Kind) {
	m.reads.WithLabelValues(member.FormatID(id), string(k.Reason())).Inc()
}

// Answered counts the bytes of an answer.
func (m *Metrics) Answered(id uint64, bytes int) {
	m.bytes.WithLabelValues(member.FormatID(id)).Add(float64(bytes))
}
