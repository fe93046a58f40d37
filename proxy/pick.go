package proxy

import "sync/atomic"

// Health is what is known about an endpoint at the moment at which a new connection looks for a member.
type Health int

const (
	// Unknown changes nothing: the endpoint takes its turn.
	Unknown Health = iota
	// Serving: a voting member that answers. It takes its turn.
	Serving
	// Unfit: positively known not to serve clients well (a learner, unreachable, removed, …). It is tried
	// only after every other endpoint has failed.
	Unfit
)

// rotation hands out the order in which connections try the endpoints.
type rotation struct {
	turn atomic.Uint64
}

// next returns the order for one new connection: round robin over the endpoints that are not known to be
// unfit, then round robin over the others, so that a wrong or outdated opinion about health never leaves a
// client without an endpoint. health may be nil.
func (r *rotation) next(endpoints []string, health func(string) Health) []string {
	turn := r.turn.Add(1) - 1
	var fit, unfit []string
	for _, e := range endpoints {
		if health != nil && health(e) == Unfit {
			unfit = append(unfit, e)
		} else {
			fit = append(fit, e)
		}
	}
	// The rotation is over the fit ones, not over all with the unfit ones skipped: the latter would give
	// the neighbor of an unfit endpoint twice its share.
	return append(rotate(fit, turn), rotate(unfit, turn)...)
}

func rotate(s []string, by uint64) []string {
	if len(s) == 0 {
		return nil
	}
	k := int(by % uint64(len(s)))
	out := make([]string, 0, len(s))
	return append(append(out, s[k:]...), s[:k]...)
}
