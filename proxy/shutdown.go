package proxy

import (
	"context"
	"sync"
)

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
	for _, c := range p.open() {
		if c.from.heir {
			c.goodbye(asked)
		} else {
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
