package proxy

import (
	"context"
	"sync"
	"time"
)

// linger is what a client gets to hear that it is to go: most need one round trip. Until then it asks on, and a connection that is ended as soon
// as no call waits on it takes with it the one that is on its way: it fails, and nobody can say whether it was executed. Measured with
// four connections of 16 callers each, on busy cores: without lingering a quarter of the callers lost a call at each restart.
const linger = 20 * time.Millisecond

// Shutdown stops accepting and lets the clients go, and closes the connections that are left when ctx ends. It returns
// ctx's error if there were any.
//
// Each client is told by a GOAWAY to ask no more on its connection. Where a successor listens (Listener.Handover), the
// client goes on there, and ends its connection when the last call on it has its answer. Where none does, it would wait
// for nothing: such a connection is ended as soon as no call on it waits for its answer, so that the client finds
// out and comes back as soon as there is somebody (see settle).
func (p *Proxy) Shutdown(ctx context.Context) error {
	heirs := p.handOver(ctx)
	// First the flag, then a look at every connection: one that is accepted later is closed at once.
	p.stopAccepting(!heirs)
	told := p.open()
	for _, c := range told {
		c.goodbye(asked)
	}
	if len(told) > 0 {
		(&pause{d: linger}).wait(ctx)
	}
	for _, c := range p.open() {
		if !c.from.heir {
			c.goodbye(rests)
		}
	}
	gone := make(chan struct{})
	go func() { // ends with the last connection: at the latest by the Close below
		p.running.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		p.stop()
		return nil
	case <-ctx.Done():
		p.Close()
		return ctx.Err()
	}
}

// handOver closes the listeners that may have a successor, while all are still accepted from, and says whether one has.
func (p *Proxy) handOver(ctx context.Context) (heirs bool) {
	_ = p.init() // a proxy that never served is shut down like any other
	p.mu.Lock()
	p.closing = true
	var all []*Listener
	for l := range p.listeners {
		if l.Handover != nil {
			all = append(all, l)
		}
	}
	p.mu.Unlock()
	var closing sync.WaitGroup
	for _, l := range all {
		closing.Go(func() { l.heir = l.Handover(ctx) })
	}
	closing.Wait()
	for _, l := range all {
		heirs = heirs || l.heir
	}
	return heirs
}

// Close ends everything at once, and returns when nothing is left running.
func (p *Proxy) Close() {
	_ = p.init()
	p.stopAccepting(true)
	for _, c := range p.open() {
		c.end()
	}
	p.running.Wait()
}

// stopAccepting closes the listeners. With all, what connections wait for before they have a member ends too.
func (p *Proxy) stopAccepting(all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing, p.closed = true, true
	if all {
		p.stop()
	}
	for l := range p.listeners {
		_ = l.Close()
	}
}

// Whether a client is to go.
const (
	stay  = iota // no
	asked        // it is told by a GOAWAY, and goes when it wants
	rests        // … and its connection ends when no call waits for its answer
)

// goodbye asks the client to go, as how says. It may be called at any time, more than once.
func (c *conn) goodbye(how int32) {
	if how == asked {
		c.leave.CompareAndSwap(stay, asked) // one that is to rest stays so
	} else {
		c.leave.Store(how)
	}
	c.mu.Lock()
	member := c.member
	c.mu.Unlock()
	switch {
	case member == nil && how == rests:
		c.end() // nothing that it said was passed on
	case member != nil:
		// The down pump alone writes to the client: it is woken, and finds the words to say.
		_ = member.SetReadDeadline(time.Unix(1, 0))
		c.settle()
	}
}

// settle ends a connection that is to rest, as soon as its client knows and no call waits for its answer. Streams (watch, lease
// keepalive) are not waited for: they have no end of their own. Where nothing listens it is not known what waits, and
// the connection ends at once: its client is back on another endpoint in milliseconds, where waiting for an open
// watch to end would leave it without etcd for seconds.
func (c *conn) settle() {
	if c.leave.Load() == rests && c.told.Load() && (c.blind.Load() || c.tap.Unanswered() == 0) {
		c.part()
	}
}

// lastWords is how long what is on its way may take when one side is gone, or is to go.
const lastWords = 500 * time.Millisecond

// part lets a client go that waits for nothing more. Its side is not closed at once: the kernel resets a connection that is
// closed when something is unread or still comes (window updates for the answer that the client is reading, a ping),
// and throws away what it has not sent yet of the last answer. So the client is told that no more comes, and heard out.
func (c *conn) part() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.parting {
		return
	}
	c.parting = true
	_ = c.client.SetReadDeadline(time.Now().Add(lastWords))
	_ = c.member.Close() // which ends the down pump, that alone writes to the client
}

func (c *conn) isParting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parting
}

// hearOut reads what the client says until it closes.
func (c *conn) hearOut() {
	for {
		c.client.Release()
		if _, err := c.client.Next(); err != nil {
			return
		}
	}
}

// end closes both sides, which ends both pumps. It may be called at any time, more than once.
func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	if c.member == nil {
		_ = c.raw.Close()
		return
	}
	_ = c.client.Close()
	_ = c.member.Close()
}
