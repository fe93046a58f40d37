package certs

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the counts of a Watcher. Roles are the few that the program has.
type Metrics struct {
	reloads *prometheus.CounterVec
	expiry  *prometheus.GaugeVec
}

const (
	resultOK     = "ok"
	resultFailed = "failed"
)

// NewMetrics makes the metrics of a Watcher and registers them with reg. If reg is nil they are not registered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		reloads: f.NewCounterVec(prometheus.CounterOpts{
			Name: "parallax_tls_reloads_total",
			Help: "New certificate, key and CA files that were taken into use (ok), and those that cannot be used, " +
				"the old ones stay then (failed: once for each cause), by role.",
		}, []string{"role", "result"}),
		expiry: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "parallax_tls_certificate_expiry_timestamp_seconds",
			Help: "When the certificate in use expires, in seconds since 1970, by role; " +
				"with the role ROLE-ca when the first one of its CA file does.",
		}, []string{"role"}),
	}
}

// expect makes the counts of a role visible before the first reload, so that a first failure is an increase.
func (m *Metrics) expect(role string) {
	m.reloads.WithLabelValues(role, resultOK)
	m.reloads.WithLabelValues(role, resultFailed)
}

func (m *Metrics) expires(role string, expiries []Expiry) {
	for _, e := range expiries {
		name := role
		if e.CA {
			name += "-ca"
		}
		m.expiry.WithLabelValues(name).Set(float64(e.NotAfter.Unix()))
	}
}
