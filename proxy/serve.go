package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// A Listener is where clients connect, and how what they say there is to be taken.
type Listener struct {
	net.Listener

	// TLS is how to speak TLS with clients; it is asked for each connection. If nil, they speak none.
	TLS func() *tls.Config

	// Passthrough relays what is said as it is: TLS between client and member, that Parallax cannot hear.
	Passthrough bool

	// Handover closes the listener so that no connection that waits in it is lost, and says whether a successor
	// accepts at the same address. If nil, there is none, and the listener is just closed.
	Handover func(context.Context) bool

	heir        bool        // what Handover said
	unreachable atomic.Bool // no endpoint could be reached by the connection that tried last
}

// Serve relays the connections of l until Shutdown or Close, and then returns ErrClosed. It may be called for
// several listeners. It closes l.
func (p *Proxy) Serve(l *Listener) error {
	defer func() { _ = l.Close() }()
	if err := p.init(); err != nil {
		return err
	}
	if !p.addListener(l) {
		return ErrClosed
	}
	defer p.removeListener(l)

	var failing pause
	for {
		client, err := l.Accept()
		switch {
		case err == nil:
			if failing.over() {
				p.Logger.Info("client connections are accepted again", "address", l.Addr())
			}
			if c := p.add(client, l); c != nil {
				go p.handle(c)
			}
		case p.isClosing():
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

func (p *Proxy) addListener(l *Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.listeners[l] = struct{}{}
	return true
}

func (p *Proxy) removeListener(l *Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.listeners, l)
}

func (p *Proxy) isClosing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closing
}

// add takes a client connection in. When there are too many, or the proxy is closed, it closes it and returns nil.
//
// GUARANTEE G7: Memory is bounded, per connection and in all.
func (p *Proxy) add(client net.Conn, l *Listener) *conn {
	c := &conn{proxy: p, from: l, raw: client, peer: address(client)}
	p.mu.Lock()
	defer p.mu.Unlock()
	why := ""
	switch {
	case p.closed:
		why = refusedClosed
	case p.MaxConnections > 0 && len(p.conns) >= p.MaxConnections:
		why = refusedConnections
	case p.MaxPerPeer > 0 && c.peer.IsValid() && p.peers[c.peer] >= p.MaxPerPeer:
		why = refusedPeer
	}
	if why != "" {
		p.Metrics.refused(why)
		_ = client.Close()
		return nil
	}
	p.conns[c] = struct{}{}
	if c.peer.IsValid() {
		p.peers[c.peer]++
	}
	p.running.Add(1)
	p.Metrics.opened()
	return c
}

// address is where a client connects from: not its port, which is another for each connection, and of an IPv6 address the network, as one
// host has all of it. A socket has none.
func address(client net.Conn) netip.Addr {
	a, ok := client.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip := a.AddrPort().Addr().Unmap()
	if ip.Is6() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
		const network = 64 // bits
		return netip.PrefixFrom(ip, network).Masked().Addr()
	}
	return ip
}

// forget is the end of a connection.
func (p *Proxy) forget(c *conn) {
	c.end()
	p.Metrics.connections.Dec()
	p.mu.Lock()
	delete(p.conns, c)
	if p.peers[c.peer]--; p.peers[c.peer] <= 0 {
		delete(p.peers, c.peer)
	}
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
