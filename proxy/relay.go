package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/etcd-parallax/parallax/proxy/tap"
)

// conn is one client connection and its one member connection.
type conn struct {
	proxy  *Proxy
	client net.Conn

	// Set by attach, before the pumps start.
	member     net.Conn
	fromClient *reader
	fromMember *reader
	tap        *tap.Tap

	// blind: no tap, or one that has ended. From then on the bytes only pass.
	blind atomic.Bool
	// reset: the pump that has ended by a failed write found the other side of it reset. The kernel reports a
	// reset once, so the pump that reads that side may find an ordinary end, and looks here.
	reset atomic.Bool

	mu    sync.Mutex // guards ended, and member against end; never held across a read or write
	ended bool
}

// relay carries bytes until both directions have ended.
func (c *conn) relay() {
	var down sync.WaitGroup
	down.Go(c.down)
	c.up()
	down.Wait()
}

// up carries the client's bytes to the member.
//
// GUARANTEE G1: What a client and a member exchange through Parallax is byte for byte what they sent, but for a
// GOAWAY when a connection is to move.
func (c *conn) up() {
	defer c.fromClient.release()
	for {
		b, err := c.fromClient.next()
		if err != nil {
			c.pass(err, c.member)
			return
		}
		// Before the write: an answer must not reach the tap before its request.
		c.show(tap.Up, b)
		if _, err := c.member.Write(b); err != nil {
			c.failed(err)
			return
		}
		c.proxy.Metrics.up.Add(float64(len(b)))
		c.fromClient.release()
	}
}

// down carries the member's bytes to the client.
func (c *conn) down() {
	defer c.fromMember.release()
	for {
		b, err := c.fromMember.next()
		if err != nil {
			c.pass(err, c.client)
			return
		}
		if _, err := c.client.Write(b); err != nil {
			c.failed(err)
			return
		}
		// After the write: what the tap makes of it costs the client no time.
		c.show(tap.Down, b)
		c.proxy.Metrics.down.Add(float64(len(b)))
		c.fromMember.release()
	}
}

// show lets the tap see bytes that pass.
func (c *conn) show(d tap.Direction, b []byte) {
	if !c.blind.Load() {
		c.tap.Feed(d, b)
		if reason, ended := c.tap.Ended(); ended && c.blind.CompareAndSwap(false, true) {
			c.proxy.tapEnded(c.tap, reason)
		}
	}
	if c.proxy.draining.Load() {
		c.settle()
	}
}

// pass tells the other side how reading one side ended, as the network would have told it: that it sends no
// more (the other direction goes on), or that it is gone. A reset must not become an orderly end: an HTTP/1.1
// answer without a length that is cut off would look whole.
func (c *conn) pass(err error, to net.Conn) {
	switch {
	case errors.Is(err, net.ErrClosed):
		return // by end, which is at work on the other side as well
	case errors.Is(err, io.EOF) && !c.reset.Load():
		if w, ok := to.(interface{ CloseWrite() error }); ok {
			_ = w.CloseWrite() // if that fails it is gone, which the pump that reads it finds
			return
		}
	default:
		for _, side := range []net.Conn{c.client, c.member} {
			if l, ok := side.(interface{ SetLinger(int) error }); ok {
				_ = l.SetLinger(0) // makes Close a reset
			}
		}
	}
	c.end()
}

// failed is the end of a pump by a failed write. Nothing is closed: what that side sent before may still wait to
// be read (a GOAWAY that says why, an early answer), and the pump that reads it comes to its end by itself.
func (c *conn) failed(err error) {
	if errors.Is(err, syscall.ECONNRESET) {
		c.reset.Store(true)
	}
}

// attach gives the connection its member. False: it was ended meanwhile, and the member connection is closed.
func (c *conn) attach(member net.Conn, t *tap.Tap, b *buffers) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		_ = member.Close()
		return false
	}
	c.member, c.tap = member, t
	c.fromClient, c.fromMember = newReader(b, c.client), newReader(b, member)
	c.blind.Store(t == nil)
	return true
}

// settle ends a connection of a proxy that shuts down as soon as no call waits for its answer. Of a connection
// that is not listened to this is not known, and it ends at once: its client is back on another endpoint in
// milliseconds, where waiting for an open watch to end would leave it without etcd for seconds.
func (c *conn) settle() {
	c.mu.Lock()
	t := c.tap
	c.mu.Unlock()
	if t == nil || c.blind.Load() || t.Unanswered() == 0 {
		c.end()
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
	_ = c.client.Close()
	if c.member != nil {
		_ = c.member.Close()
	}
}
