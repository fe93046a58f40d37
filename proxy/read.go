package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// bufferSize is what one pump moves at a time, and all that it ever holds: a small call and its answer pass in
// one piece, a big answer (a train of HTTP/2 frames of 16 KiB) in few.
//
// GUARANTEE G7: Memory is bounded, per connection and in all.
const bufferSize = 64 << 10

type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[bufferSize]byte {
	if buf, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buf
	}
	return new([bufferSize]byte)
}

func (b *buffers) put(buf *[bufferSize]byte) { b.pool.Put(buf) }

// reader reads a connection and holds a buffer only while there is something in it. Clients of etcd keep
// thousands of connections that are idle nearly all the time (kube-apiserver: one per resource type), and a
// buffer for each direction of each would be most of what Parallax weighs.
type reader struct {
	buffers *buffers
	conn    net.Conn
	buf     *[bufferSize]byte // nil: nothing is held

	// Where the connection has a file descriptor: read is called when it is worth trying to read, and the
	// runtime's poller waits in between. That is what conn.Read does too, but it has to be given a buffer
	// before it waits.
	raw  syscall.RawConn
	read func(fd uintptr) bool
	n    int
	err  error
}

func newReader(b *buffers, conn net.Conn) *reader {
	r := &reader{buffers: b, conn: conn}
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			r.raw, r.read = raw, r.tryRead
		}
	}
	return r
}

// next waits for bytes and returns them, or an error (io.EOF: the other side has said that it sends no more),
// never both. The bytes are valid until release.
func (r *reader) next() ([]byte, error) {
	if r.raw != nil {
		if err := r.raw.Read(r.read); err != nil {
			return nil, err
		}
		if r.err != nil {
			return nil, r.err
		}
		return r.buf[:r.n], nil
	}
	if r.buf == nil {
		r.buf = r.buffers.get()
	}
	for {
		// A reader that returns bytes with an error returns the error again at the next call.
		n, err := r.conn.Read(r.buf[:])
		if n > 0 {
			return r.buf[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// release gives the buffer back.
func (r *reader) release() {
	if r.buf != nil {
		r.buffers.put(r.buf)
		r.buf = nil
	}
}

// tryRead reads what is there. It returns false, without a buffer, when nothing is.
func (r *reader) tryRead(fd uintptr) bool {
	if r.buf == nil {
		r.buf = r.buffers.get()
	}
	for {
		n, err := syscall.Read(int(fd), r.buf[:])
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			r.release()
			return false
		case err != nil:
			r.n, r.err = 0, os.NewSyscallError("read", err)
		case n == 0:
			r.n, r.err = 0, io.EOF
		default:
			r.n, r.err = n, nil
		}
		return true
	}
}
