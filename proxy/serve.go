package proxy

import (
	"context"
	"errors"
	"net"
	"time"
)

// Serve relays the connections of l until Shutdown or Close, and then returns ErrClosed. It may be called for
// several listeners. It closes l.
func (p *Proxy) Serve(l net.Listener) error {
	defer func() { _ = l.Close() }()
	if err := p.init(); err != nil {
		return err
	}
	if !p.addListener(&l) {
		return ErrClosed
	}
	defer p.removeListener(&l)

	var failing pause
	for {
		client, err := l.Accept()
		switch {
		case err == nil:
			if failing.over() {
				p.Logger.Info("client connections are accepted again", "address", l.Addr())
			}
			if c := p.add(client); c != nil {
				go p.handle(c)
			}
		case p.stopping.Err() != nil:
			return ErrClosed
		case errors.Is(err, net.ErrClosed):
			return err // closed by somebody else: it will never accept again
		default:
			// Too many open files, a client that gave up before it was accepted, no memory: these pass, and
			// a listener that is given up would be missed until a restart.
			p.Metrics.acceptErrors.Inc()
			if failing.next() {
				p.Logger.Warn("client connections cannot be accepted, trying again: "+
					"if too many files are open, raise the limit (LimitNOFILE)", "address", l.Addr(), "error", err)
			}
			failing.wait(p.stopping)
		}
	}
}

// pause is how long an accept loop waits after errors.
type pause struct{ d time.Duration }

const (
	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

// next is called at each error: it prolongs the pause, and says whether this was the first error.
func (w *pause) next() (first bool) {
	first = w.d == 0
	w.d = min(max(2*w.d, minPause), maxPause)
	return first
}

// over is called at each success: it says whether there were errors before.
func (w *pause) over() bool {
	was := w.d > 0
	w.d = 0
	return was
}

func (w *pause) wait(ctx context.Context) {
	t := time.NewTimer(w.d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Shutdown stops accepting, ends each connection as soon as no call on it waits for its answer (see settle), and
// closes those that are left when ctx ends. It returns ctx's error if there were any. Streams (watch, lease
// keepalive) are not waited for: they have no end of their own.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.stopAccepting()
	// First the flag, then a look at every connection: a connection that comes to rest in between is seen
	// by one of its pumps, which look at the flag after every read.
	p.draining.Store(true)
	for _, c := range p.open() {
		c.settle()
	}
	gone := make(chan struct{})
	go func() { // ends with the last connection: at the latest by the Close below
		p.running.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		p.Close()
		return ctx.Err()
	}
}

// Close ends everything at once, and returns when nothing is left running.
func (p *Proxy) Close() {
	p.stopAccepting()
	for _, c := range p.open() {
		c.end()
	}
	p.running.Wait()
}

func (p *Proxy) stopAccepting() {
	_ = p.init() // a proxy that never served is closed like any other
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.stop()
	for l := range p.listeners {
		_ = (*l).Close()
	}
}

func (p *Proxy) addListener(l *net.Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.listeners[l] = struct{}{}
	return true
}

func (p *Proxy) removeListener(l *net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.listeners, l)
}

// add takes a client connection in, or closes it and returns nil when the proxy is closed.
func (p *Proxy) add(client net.Conn) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = client.Close()
		return nil
	}
	c := &conn{proxy: p, client: client}
	p.conns[c] = struct{}{}
	p.running.Add(1)
	p.Metrics.opened()
	return c
}

// forget is the end of a connection.
func (p *Proxy) forget(c *conn) {
	c.end()
	p.Metrics.connections.Dec()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	p.running.Done()
}

func (p *Proxy) open() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		out = append(out, c)
	}
	return out
}
