package member

import "github.com/prometheus/client_golang/prometheus"

// Metrics of who the members are. A nil *Metrics counts nothing.
type Metrics struct {
	known     *prometheus.GaugeVec
	reachable *prometheus.GaugeVec
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
	r.MustRegister(m.known, m.reachable)
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
		if one.link.state.Load().err == nil {
			up = 1
		}
		m.reachable.WithLabelValues(FormatID(one.ID)).Set(up)
	}
	m.known.WithLabelValues("voter").Set(float64(len(p.list) - learners))
	m.known.WithLabelValues("learner").Set(float64(learners))
	m.known.WithLabelValues("unasked").Set(float64(len(p.list) - len(p.Members)))
}
