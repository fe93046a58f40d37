package member

import "github.com/prometheus/client_golang/prometheus"

// Metrics of who the members are. A nil *Metrics counts nothing.
type Metrics struct {
	known     *prometheus.GaugeVec
	reachable *prometheus.GaugeVec
	endpoints *prometheus.GaugeVec
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		known: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "parallax_members", Help: "Members on the member list, by role; those of role unasked cannot be asked by the shadow.",
		}, []string{"role"}),
		reachable: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "parallax_member_up", Help: "1 when the member answered its last probe, by member id.",
		}, []string{"member"}),
	}
	m.endpoints = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "parallax_endpoint_health", Help: "1 for the state that the last probe of a configured endpoint gave, 0 for the others.",
	}, []string{"endpoint", "state"})
	r.MustRegister(m.known, m.reachable, m.endpoints)
	return m
}

func (m *Metrics) members(p *Snapshot) {
	if m == nil {
		return
	}
	learners := 0
	m.reachable.Reset() // members that left leave no label behind
	for _, one := range p.list {
		if one.GetIsLearner() {
			learners++
		}
	}
	for _, one := range p.Members {
		up := 0.0
		if !silent(one.link.state.Load().err) {
			up = 1
		}
		m.reachable.WithLabelValues(FormatID(one.ID)).Set(up)
	}
	m.known.WithLabelValues("voter").Set(float64(len(p.list) - learners))
	m.known.WithLabelValues("learner").Set(float64(learners))
	m.known.WithLabelValues("unasked").Set(float64(len(p.list) - len(p.Members)))
}

func (m *Metrics) healths(s *Set) {
	if m == nil {
		return
	}
	for _, e := range s.Endpoints {
		now := s.Health(e)
		for h, name := range states {
			value := 0.0
			if Health(h) == now {
				value = 1
			}
			m.endpoints.WithLabelValues(e, name).Set(value)
		}
	}
}
