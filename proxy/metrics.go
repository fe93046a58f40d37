package proxy

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the counts of a Proxy. No label is ever taken from a client.
type Metrics struct {
	connections      prometheus.Gauge
	connectionsTotal prometheus.Counter
	up, down         prometheus.Counter // looked up once: the pumps count at every read
	dials            *prometheus.CounterVec
	acceptErrors     prometheus.Counter
	tapsEnded        *prometheus.CounterVec
	callsPassedOver  *prometheus.CounterVec
}

// NewMetrics makes the metrics of a Proxy and registers them with reg. If reg is nil they are not registered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	bytes := f.NewCounterVec(prometheus.CounterOpts{
		Name: "parallax_proxy_bytes_total",
		Help: "Bytes relayed, by direction: up is towards the member, down is towards the client.",
	}, []string{"direction"})
	return &Metrics{
		connections: f.NewGauge(prometheus.GaugeOpts{
			Name: "parallax_proxy_connections",
			Help: "Client connections that are open.",
		}),
		connectionsTotal: f.NewCounter(prometheus.CounterOpts{
			Name: "parallax_proxy_connections_total",
			Help: "Client connections that were accepted.",
		}),
		up:   bytes.WithLabelValues("up"),
		down: bytes.WithLabelValues("down"),
		dials: f.NewCounterVec(prometheus.CounterOpts{
			Name: "parallax_proxy_dials_total",
			Help: "Attempts to connect to a member for a client, by endpoint and result (ok, failed).",
		}, []string{"endpoint", "result"}),
		acceptErrors: f.NewCounter(prometheus.CounterOpts{
			Name: "parallax_proxy_accept_errors_total",
			Help: "Errors when accepting client connections, e.g. too many open files. Each is tried again.",
		}),
		tapsEnded: f.NewCounterVec(prometheus.CounterOpts{
			Name: "parallax_proxy_tap_ended_total",
			Help: "Connections that are relayed without being listened to any more, by reason. Clients do not notice.",
		}, []string{"reason"}),
		callsPassedOver: f.NewCounterVec(prometheus.CounterOpts{
			Name: "parallax_proxy_calls_passed_over_total",
			Help: "Calls on tapped connections that could not be observed, by reason. Clients do not notice.",
		}, []string{"reason"}),
	}
}

func (m *Metrics) opened() {
	m.connections.Inc()
	m.connectionsTotal.Inc()
}

// expect makes the counts of the endpoints visible before the first dial, so that a first failure is an increase.
func (m *Metrics) expect(endpoints []string) {
	for _, e := range endpoints {
		m.dials.WithLabelValues(e, dialOK)
		m.dials.WithLabelValues(e, dialFailed)
	}
}

const (
	dialOK     = "ok"
	dialFailed = "failed"
)

func (m *Metrics) dialed(endpoint string, err error) {
	result := dialOK
	if err != nil {
		result = dialFailed
	}
	m.dials.WithLabelValues(endpoint, result).Inc()
}

func (m *Metrics) passedOver(reason string) { m.callsPassedOver.WithLabelValues(reason).Inc() }
