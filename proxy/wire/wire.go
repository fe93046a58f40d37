// Package wire is one side of a relayed connection, plain or TLS: reading that holds no buffer while nothing comes,
// and writing that takes few system calls.
package wire

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is one side. Next and Release belong to one goroutine, Write and CloseWrite to one (it may be another); the
// rest may be called from anywhere.
type Conn struct {
	socket
	out   outlet
	flood bool     // what was read last filled its buffer
	tls   *session // nil: plain

	// abort: Close is to be a reset.
	abort atomic.Bool
	// wasReset: a write has found the connection reset. The kernel tells so once, and a read finds an ordinary
	// end after that.
	wasReset atomic.Bool
}

// Plain carries the bytes as they are.
func Plain(b *Buffers, c net.Conn) *Conn {
	conn := new(Conn)
	conn.init(b, c)
	conn.out.init(c, conn.raw)
	return conn
}

// Next waits for bytes and returns them, or an error, never both. The bytes are valid until Release. io.EOF means
// that the other side has said that it sends no more; a TLS connection that ends without saying so is
// io.ErrUnexpectedEOF, a reset syscall.ECONNRESET. After os.ErrDeadlineExceeded Next may be called again.
func (c *Conn) Next() ([]byte, error) {
	if c.tls != nil {
		return c.tls.next()
	}
	room := BufferSize
	if c.flood {
		room = BulkSize
	}
	if err := c.fill(0, room); err != nil {
		if errors.Is(err, io.EOF) && c.wasReset.Load() {
			err = os.NewSyscallError("read", syscall.ECONNRESET)
		}
		return nil, err
	}
	b := c.buf[c.at:c.end]
	c.at, c.flood = c.end, len(b) >= BufferSize
	return b, nil
}

// Release gives back what Next has taken.
func (c *Conn) Release() { c.release() }

// Write waits until all of b is on its way, or Close.
func (c *Conn) Write(b []byte) (int, error) {
	var n int
	var err error
	if c.tls != nil {
		n, err = c.tls.write(b)
	} else {
		n, err = c.out.write(b)
	}
	if err != nil && errors.Is(err, syscall.ECONNRESET) {
		c.wasReset.Store(true)
	}
	return n, err
}

// CloseWrite tells the other side that nothing more will be sent. What it sends can still be read.
func (c *Conn) CloseWrite() error {
	var err error
	if c.tls != nil {
		err = c.tls.closeNotify()
	}
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.Join(err, fmt.Errorf("half-close of a %T: %w", c.conn, errors.ErrUnsupported))
	}
	return errors.Join(err, half.CloseWrite())
}

// Reset makes the next Close a TCP reset, so that the other side does not take what it got for all there was. A TLS
// connection ends without close_notify, which says the same where there is no TCP.
func (c *Conn) Reset() {
	c.abort.Store(true)
	if l, ok := c.conn.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0) // it fails on a closed connection only
	}
}

// Close ends Next and Write, and does not wait for the other side.
func (c *Conn) Close() error {
	if c.tls != nil && !c.abort.Load() {
		return c.tls.close()
	}
	return c.conn.Close()
}

// State is nil for a plain connection.
func (c *Conn) State() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	state := c.tls.conn.ConnectionState()
	return &state
}

// SetReadDeadline makes a Next that waits at t, and every later one, return os.ErrDeadlineExceeded, until another t
// is set. The zero time is none. Nothing is lost by it.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetWriteDeadline makes a Write that waits at t, and every later one, fail for good.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }
