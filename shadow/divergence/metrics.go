package divergence

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

// metrics are described in docs/divergence-log.md. No label is ever a key.
type metrics struct {
	open        *prometheus.GaugeVec
	shiftedKeys prometheus.Gauge
	untracked   prometheus.Counter
	refused     *prometheus.CounterVec
	records     *prometheus.CounterVec
	folded      prometheus.Counter
	lost        prometheus.Counter
	waiting     prometheus.Gauge
	writeErrors prometheus.Counter
	usable      prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg) // nil: made, and registered nowhere
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Namespace: "parallax", Subsystem: "divergence", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return auto.NewGauge(prometheus.GaugeOpts{Namespace: "parallax", Subsystem: "divergence", Name: name, Help: help})
	}
	m := &metrics{
		open: auto.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "parallax", Subsystem: "divergence", Name: "findings_open",
			Help: "Findings that are confirmed and not healed.",
		}, []string{"kind"}),
		shiftedKeys: gauge("shifted_keys", "Keys counted in shifted findings that are open."),
		untracked:   counter("findings_untracked_total", "Sightings that were counted only, because too many findings are open."),
		refused: auto.NewCounterVec(prometheus.CounterOpts{
			Namespace: "parallax", Subsystem: "divergence", Name: "evidence_refused_total",
			Help: "Evidence that shows no disagreement or cannot be recorded, by the part that is at fault.",
		}, []string{"reason"}),
		records: auto.NewCounterVec(prometheus.CounterOpts{
			Namespace: "parallax", Subsystem: "divergence", Name: "records_total",
			Help: "Records written to the divergence log.",
		}, []string{"event"}),
		folded:      counter("records_folded_total", "Changes that were not written when they happened, because of the flood limit."),
		lost:        counter("records_lost_total", "Records that were dropped because the divergence log could not be written."),
		waiting:     gauge("records_waiting", "Records that wait to be written."),
		writeErrors: counter("log_write_errors_total", "Failed attempts to open or write the divergence log."),
		usable:      gauge("log_usable", "1 while the divergence log can be written, 0 while it cannot."),
	}
	// All series exist from the start: an alert on a rate must see the first.
	m.open.WithLabelValues(record.KindKey)
	m.open.WithLabelValues(record.KindShifted)
	for _, k := range record.ClusterKinds() {
		m.open.WithLabelValues(k.Kind)
	}
	for _, event := range []string{record.Confirmed, record.Updated, record.Healed, record.Folded} {
		m.records.WithLabelValues(event)
	}
	m.usable.Set(1)
	return m
}
