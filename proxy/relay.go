package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcd-parallax/parallax/proxy/goaway"
	"github.com/etcd-parallax/parallax/proxy/tap"
	"github.com/etcd-parallax/parallax/proxy/wire"
)

// conn is one client connection and its one member connection.
type conn struct {
	proxy *Proxy
	from  *Listener
	peer  netip.Addr // the zero value on a socket
	raw   net.Conn   // what the listener accepted

	client *wire.Conn // set by receive

	// Set by attach, before the pumps start.
	member   *wire.Conn
	endpoint string
	tap      *tap.Tap

	// blind: no tap, or one that has ended. From then on the bytes only pass.
	blind atomic.Bool

	frames goaway.Follower // of what the client was sent; the down pump's own
	leave  atomic.Int32    // whether the client is to go: stay, asked or rests
	told   atomic.Bool     // … and it has been told so, or cannot be

	mu      sync.Mutex // guards ended and parting, and member against end; never held across a read or write
	parting bool       // see part
	ended   bool
}

// relay carries bytes until both directions have ended. first is what the client has said already.
func (c *conn) relay(first []byte) {
	var down sync.WaitGroup
	down.Go(c.down)
	c.up(first)
	down.Wait()
}

// up carries the client's bytes to the member.
//
// GUARANTEE G1: What a client and a member exchange through Parallax is byte for byte what they sent, but for a
// GOAWAY when a connection is to move.
func (c *conn) up(b []byte) {
	defer c.client.Release()
	for {
		// Before the write: an answer must not reach the tap before its request.
		c.show(tap.Up, b)
		if _, err := c.member.Write(b); err != nil {
			if c.isParting() {
				c.hearOut()
				c.end()
			}
			return // see down
		}
		c.settle()
		c.proxy.Metrics.up.Add(float64(len(b)))
		c.client.Release()
		var err error
		if b, err = c.client.Next(); err != nil {
			c.pass(err, c.member)
			return
		}
	}
}

// down carries the member's bytes to the client.
func (c *conn) down() {
	defer c.member.Release()
	for {
		b, err := c.member.Next()
		if errors.Is(err, os.ErrDeadlineExceeded) { // woken, see goodbye
			err = c.member.SetReadDeadline(time.Time{})
		}
		if err != nil {
			c.pass(err, c.client)
			return
		}
		if err := c.hand(b); err != nil {
			// Nothing is closed: what the client sent before may still wait to be read, as may what a member sent that
			// takes no more (a GOAWAY that says why, an early answer). The pump that reads it comes to its end by itself, if
			// it is not stuck with a member that is stuck with us: nobody takes what that one says any more.
			_ = c.member.SetWriteDeadline(time.Now().Add(lastWords))
			return
		}
		// After the write: what the tap makes of it costs the client no time.
		c.show(tap.Down, b)
		c.settle()
		c.proxy.Metrics.down.Add(float64(len(b)))
		c.member.Release()
	}
}

// hand gives the client what the member said.
func (c *conn) hand(b []byte) error {
	if c.leave.Load() != stay && !c.told.Load() {
		return c.tell(b)
	}
	if len(b) == 0 {
		return nil // woken
	}
	if _, err := c.client.Write(b); err != nil {
		return err
	}
	c.frames.Feed(b)
	return nil
}

// tell gives the client what the member said, and a GOAWAY at the first place where one may stand.
func (c *conn) tell(b []byte) error {
	n, found := c.frames.Find(b)
	if n > 0 {
		if _, err := c.client.Write(b[:n]); err != nil {
			return err
		}
	}
	if !found {
		if c.frames.Closed() {
			c.told.Store(true) // it never can be
		}
		return nil
	}
	if _, err := c.client.Write([]byte(goaway.Frame)); err != nil {
		return err
	}
	c.proxy.Metrics.goaways.Inc()
	c.told.Store(true)
	if b = b[n:]; len(b) == 0 {
		return nil
	}
	_, err := c.client.Write(b)
	return err // the frames need no following any more: this was the last time
}

// show lets the tap see bytes that pass.
func (c *conn) show(d tap.Direction, b []byte) {
	if !c.blind.Load() {
		c.tap.Feed(d, b)
		if reason, ended := c.tap.Ended(); ended && c.blind.CompareAndSwap(false, true) {
			c.proxy.tapEnded(c, reason)
		}
	}
}

// pass tells the other side how reading one side ended, as the network would have told it: that it sends no
// more (the other direction goes on), or that it is gone. A reset must not become an orderly end: an HTTP/1.1
// answer without a length that is cut off would look whole.
func (c *conn) pass(err error, to *wire.Conn) {
	switch {
	case errors.Is(err, net.ErrClosed):
		if to == c.client && c.isParting() {
			_ = c.client.CloseWrite()
		}
		return // by end, which is at work on the other side as well
	case to == c.member && errors.Is(err, os.ErrDeadlineExceeded):
		// The client has had its time, see part and below.
	case errors.Is(err, io.EOF):
		if !errors.Is(to.CloseWrite(), errors.ErrUnsupported) {
			if to == c.client {
				// A client that hangs would keep its place among MaxConnections for as long as it does.
				_ = c.client.SetReadDeadline(time.Now().Add(c.proxy.HandshakeTimeout))
			}
			return // if that fails it is gone, which the pump that reads it finds
		}
	default:
		c.client.Reset()
		c.member.Reset()
	}
	c.end()
}

// attach gives the connection its member. False: it was ended meanwhile, and the member connection is closed.
func (c *conn) attach(member *wire.Conn, endpoint string, t *tap.Tap) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		_ = member.Close()
		return false
	}
	c.member, c.endpoint, c.tap = member, endpoint, t
	c.blind.Store(t == nil)
	return true
}
