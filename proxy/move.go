package proxy

import (
	"context"
	"time"
)

const (
	tendInterval = time.Second

	// leastPace and paceShare say how many connections move at each look: enough that they are all away in about ten
	// seconds, and not so many that the members that take them (each new connection of a kube-apiserver brings its
	// watches along) are the next ones to fail.
	leastPace = 5
	paceShare = 10

	// slack is by how many connections, or which share of them, members may differ before it is worth moving.
	leastSlack = 1
	slackShare = 10
)

// Tend moves connections away from endpoints that are Lost, while another one is Serving. A member that hangs, or has lost its
// leader, keeps answering pings, so its clients would stay with it and fail entirely, where without a proxy a client with three endpoints fails
// a third of its calls. With rebalance it also moves connections from members that have more than their share to where new ones go:
// after a rolling restart of the members, the last one has none. Tend returns when ctx ends.
func (p *Proxy) Tend(ctx context.Context, rebalance bool) {
	if err := p.init(); err != nil || p.Health == nil {
		return
	}
	tick := time.NewTicker(tendInterval)
	defer tick.Stop()
	told := make(map[*conn]struct{})
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.tend(told, rebalance)
		}
	}
}

// tend takes one look. told are the connections of lost members that were told to go at an earlier one: they are ended now, if their
// member is still lost.
func (p *Proxy) tend(told map[*conn]struct{}, rebalance bool) {
	if rebalance {
		p.rest()
	}
	health := make(map[string]Health)
	serving := 0
	for _, e := range p.Endpoints {
		health[e] = p.Health(e)
		if health[e] == Serving {
			serving++
		}
	}
	for c := range told {
		if e, _ := c.where(); serving > 0 && health[e] == Lost {
			c.end() // its calls have had a second: they fail now, as they would if the member had died
		}
		delete(told, c)
	}
	if serving == 0 {
		return // wherever a client went, it would be no better off
	}
	byEndpoint := p.byEndpoint()
	for e, conns := range byEndpoint {
		if health[e] != Lost {
			continue
		}
		for _, c := range conns[:min(len(conns), pace(len(conns)))] {
			c.goodbye(rests)
			told[c] = struct{}{}
			p.Metrics.movedLost.Inc()
		}
	}
	if rebalance {
		p.rebalance(health, byEndpoint)
	}
}

// byEndpoint are the connections that stay.
func (p *Proxy) byEndpoint() map[string][]*conn {
	out := make(map[string][]*conn)
	for _, c := range p.open() {
		if e, ok := c.where(); ok && c.leave.Load() == stay {
			out[e] = append(out[e], c)
		}
	}
	return out
}

// rebalance moves what endpoints have beyond their share to the ones that new connections go to: round robin over these
// brings the shares about. Only a connection that is listened to can be moved without breaking off a call that waits for its answer. It is between
// endpoints that are positively well: of the others it is not known what new connections would find there (Unknown), or they have a matter of
// their own (a member that is slow is not hung, and one that is Lost is seen to above).
func (p *Proxy) rebalance(health map[string]Health, byEndpoint map[string][]*conn) {
	all := 0
	for e, conns := range byEndpoint {
		if health[e] == Serving {
			all += len(conns)
		}
	}
	group := make(map[string]bool) // where new connections go
	for _, preferred := range []bool{true, false} {
		for _, e := range p.Endpoints {
			if health[e] == Serving && p.preferred(e) == preferred {
				group[e] = true
			}
		}
		if len(group) > 0 {
			break
		}
	}
	share := (all + len(group) - 1) / len(group)
	for e, conns := range byEndpoint {
		if health[e] != Serving {
			continue
		}
		surplus := len(conns)
		if group[e] {
			surplus -= share
			if surplus <= max(leastSlack, share/slackShare) {
				continue
			}
		}
		move := min(surplus, pace(surplus))
		for _, c := range conns {
			if move > 0 && !c.blind.Load() {
				c.goodbye(asked) // and rests at the next look, see rest
				p.Metrics.movedBalance.Inc()
				move--
			}
		}
	}
}

// rest ends the connections whose clients were asked to go at an earlier look, as soon as no call waits on them. By now the clients know, and
// what they ask since then goes elsewhere: no call whose request is complete is broken off.
func (p *Proxy) rest() {
	if p.isClosing() {
		return // Shutdown has asked them
	}
	for _, c := range p.open() {
		if c.leave.Load() == asked {
			c.goodbye(rests)
		}
	}
}

func pace(n int) int { return max(leastPace, n/paceShare) }

// where says which endpoint a connection leads to, once it does.
func (c *conn) where() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endpoint, c.member != nil && !c.ended
}
