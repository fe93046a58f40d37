package proxy

import (
	"slices"
	"sync/atomic"
)

// Health is what is known about an endpoint at the moment at which a new connection looks for a member.
type Health int

const (
	// Unknown changes nothing: the endpoint takes its turn.
	Unknown Health = iota
	// Serving: a voting member that answers, and has a leader. It takes its turn.
	Serving
	// Unfit: positively known not to serve clients well (a learner, unreachable, without a leader, …). It is tried
	// only after every other endpoint has failed.
	Unfit
	// Lost: unfit, and for so long that its open connections are better moved (see Tend).
	Lost
)

func (h Health) fit() bool { return h < Unfit }

// rotation hands out the order in which connections try the endpoints.
type rotation struct {
	turn atomic.Uint64
}

// next returns the order for one new connection: round robin over the preferred endpoints that are not known to be
// unfit, then over the others that are not, then over the rest, so that a wrong or outdated opinion about health never
// leaves a client without an endpoint. health may be nil.
func (r *rotation) next(endpoints, prefer []string, health func(string) Health) []string {
	turn := r.turn.Add(1) - 1
	var preferred, fit, unfit []string
	for _, e := range endpoints {
		switch {
		case health != nil && !health(e).fit():
			unfit = append(unfit, e)
		case slices.Contains(prefer, e):
			preferred = append(preferred, e)
		default:
			fit = append(fit, e)
		}
	}
	// The rotation is over the fit ones, not over all with the unfit ones skipped: the latter would give
	// the neighbor of an unfit endpoint twice its share.
	return slices.Concat(rotate(preferred, turn), rotate(fit, turn), rotate(unfit, turn))
}

func (p *Proxy) preferred(endpoint string) bool { return slices.Contains(p.Prefer, endpoint) }

func rotate(s []string, by uint64) []string {
	if len(s) == 0 {
		return nil
	}
	k := int(by % uint64(len(s)))
	return slices.Concat(s[k:], s[:k])
}
