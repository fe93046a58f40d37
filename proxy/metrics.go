package proxy

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the counts of a Proxy. No label is ever taken from a client.
type Metrics struct {
	connections       prometheus.Gauge
	connectionsTotal  prometheus.Counter
	refusedTotal      *prometheus.CounterVec
	memberConnections *prometheus.GaugeVec
	up, down          prometheus.Counter // looked up once: the pumps count at every read
	dials             *prometheus.CounterVec
	acceptErrors      prometheus.Counter
	goaways           prometheus.Counter
	movedLost         prometheus.Counter
	movedBalance      prometheus.Counter
	tapsEnded         *prometheus.CounterVec
	callsPassedOver   *prometheus.CounterVec
	callsVec          *prometheus.CounterVec
	durationsVec      *prometheus.HistogramVec

	// By number, as callOpened gives them out: looked up once too.
	numbers   map[string]int
	methods   []string
	calls     []prometheus.Counter
	durations []atomic.Pointer[prometheus.Observer] // nil before the first call: a histogram is many series
}

// Why a client connection was closed before it had a member.
const (
	refusedClosed      = "closing"              // Parallax stops
	refusedConnections = "too-many-connections" // Proxy.MaxConnections
	refusedPeer        = "too-many-of-one-peer" // Proxy.MaxPerPeer
	refusedHandshake   = "tls-handshake"        // failed, or took longer than Proxy.HandshakeTimeout
	refusedSilent      = "silent"               // nothing was said within Proxy.HandshakeTimeout, or ever
	refusedNoMember    = "no-member"            // no endpoint could be reached
)

// otherMethods is the label of calls that Proxy.Methods does not name.
const otherMethods = "other"

// NewMetrics makes the metrics of a Proxy and registers them with reg. If reg is nil they are not registered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	bytes := counters("parallax_proxy_bytes_total",
		"Bytes relayed, without TLS, by direction: up is towards the member, down is towards the client.", "direction")
	moved := counters("parallax_proxy_moved_total",
		"Connections that were ended so that their clients go to another member, by reason (lost, balance).", "reason")
	return &Metrics{
		connections: f.NewGauge(prometheus.GaugeOpts{
			Name: "parallax_proxy_connections", Help: "Client connections that are open.",
		}),
		connectionsTotal: counter("parallax_proxy_connections_total", "Client connections that were accepted, and not refused at once."),
		refusedTotal: counters("parallax_proxy_connections_refused_total",
			"Client connections that were closed before they had a member, by reason.", "reason"),
		memberConnections: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "parallax_proxy_member_connections",
			Help: "Client connections that have a member, by endpoint, and by whether they are listened to (tapped) or only relayed (blind).",
		}, []string{"endpoint", "tap"}),
		up:   bytes.WithLabelValues("up"),
		down: bytes.WithLabelValues("down"),
		dials: counters("parallax_proxy_dials_total",
			"Attempts to connect to a member for a client, by endpoint and result (ok, failed).", "endpoint", "result"),
		acceptErrors: counter("parallax_proxy_accept_errors_total",
			"Errors when accepting client connections, e.g. too many open files. Each is tried again."),
		goaways:      counter("parallax_proxy_goaways_total", "GOAWAY frames that told a client to go elsewhere."),
		movedLost:    moved.WithLabelValues("lost"),
		movedBalance: moved.WithLabelValues("balance"),
		tapsEnded: counters("parallax_proxy_tap_ended_total",
			"Connections that are relayed without being listened to any more, by reason. Clients do not notice.", "reason"),
		callsPassedOver: counters("parallax_proxy_calls_passed_over_total",
			"Calls on tapped connections that could not be observed, by reason. Clients do not notice.", "reason"),
		callsVec: counters("parallax_proxy_calls_total", "Calls that clients began on tapped connections, by method.", "method"),
		durationsVec: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "parallax_proxy_call_duration_seconds",
			Help:    "Time from the end of a request to the end of its answer, as Parallax relayed them, by method; of the first call of each connection and one in sixteen after it, if they were not broken off.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16), // 0.5 ms to 16 s
		}, []string{"method"}),
	}
}

// expect makes the counts of endpoints and methods visible before the first event, so that it is an increase.
func (m *Metrics) expect(endpoints, methods []string) {
	for _, e := range endpoints {
		m.dials.WithLabelValues(e, dialOK)
		m.dials.WithLabelValues(e, dialFailed)
		m.memberConnections.WithLabelValues(e, tapped)
		m.memberConnections.WithLabelValues(e, blind)
	}
	for _, r := range []string{refusedClosed, refusedConnections, refusedPeer, refusedHandshake, refusedSilent, refusedNoMember} {
		m.refusedTotal.WithLabelValues(r)
	}
	m.numbers = make(map[string]int)
	m.methods = append([]string{otherMethods}, methods...)
	for i, method := range m.methods {
		m.numbers[method] = i
		m.calls = append(m.calls, m.callsVec.WithLabelValues(method))
	}
	m.durations = make([]atomic.Pointer[prometheus.Observer], len(m.methods))
}

func (m *Metrics) opened() {
	m.connections.Inc()
	m.connectionsTotal.Inc()
}

func (m *Metrics) refused(reason string) { m.refusedTotal.WithLabelValues(reason).Inc() }

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

const (
	tapped = "tapped"
	blind  = "blind"
)

func tapState(listens bool) string {
	if listens {
		return tapped
	}
	return blind
}

func (m *Metrics) attached(endpoint string, listens bool) {
	m.memberConnections.WithLabelValues(endpoint, tapState(listens)).Inc()
}

func (m *Metrics) detached(endpoint string, listens bool) {
	m.memberConnections.WithLabelValues(endpoint, tapState(listens)).Dec()
}

func (m *Metrics) tapLost(endpoint string) {
	m.detached(endpoint, true)
	m.attached(endpoint, false)
}

func (m *Metrics) passedOver(reason string) { m.callsPassedOver.WithLabelValues(reason).Inc() }

// callOpened counts a call, and gives out the number of its method: 0 is that of all others.
func (m *Metrics) callOpened(method string) int {
	n := m.numbers[method]
	m.calls[n].Inc()
	return n
}

func (m *Metrics) callAnswered(number int, took time.Duration) {
	d := m.durations[number].Load()
	if d == nil {
		one := m.durationsVec.WithLabelValues(m.methods[number])
		d = &one
		m.durations[number].Store(d)
	}
	(*d).Observe(took.Seconds())
}
