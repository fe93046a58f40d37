package wire

import (
	"io"
	"net"
	"os"
	"syscall"
)

// outlet writes to a connection, for one goroutine at a time.
type outlet struct {
	conn net.Conn

	// Where the connection has a file descriptor: try is called when it is worth trying to write.
	raw  syscall.RawConn
	try  func(fd uintptr) bool
	rest []byte // not written yet
	err  error
}

func (o *outlet) init(c net.Conn, raw syscall.RawConn) {
	o.conn, o.raw, o.try = c, raw, o.tryWrite
}

// write waits until all of b is on its way, the connection's deadline, or Close.
func (o *outlet) write(b []byte) (int, error) {
	if o.raw == nil {
		return o.conn.Write(b)
	}
	o.rest, o.err = b, nil
	err := o.raw.Write(o.try) // the deadline, or Close
	if err == nil {
		err = o.err
	}
	n := len(b) - len(o.rest)
	o.rest = nil
	return n, err
}

// tryWrite returns false when there is no room.
func (o *outlet) tryWrite(fd uintptr) bool {
	for len(o.rest) > 0 {
		n, errno := writeNow(fd, o.rest)
		switch {
		case n > 0:
			o.rest = o.rest[n:]
		case errno == syscall.EAGAIN:
			return false
		case errno == syscall.EINTR:
		case errno == 0:
			o.err = io.ErrUnexpectedEOF
			return true
		default:
			o.err = os.NewSyscallError("write", errno)
			return true
		}
	}
	return true
}
