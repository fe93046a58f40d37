package wire

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// BufferSize is what one direction of a connection moves at a time: a small call and its answer pass in one piece, a big
// answer (a train of HTTP/2 frames of 16 KiB) in few.
//
// GUARANTEE G7: Memory is bounded, per connection and in all.
const BufferSize = 64 << 10

// BulkSize is what Next returns at most. A plain connection that has filled a buffer moves as much at a time while more comes, which
// makes a long list a fifth cheaper; but only so many at once.
const (
	BulkSize = 256 << 10
	maxBulk  = 64
)

const (
	// ahead is room for plaintext before the ciphertext that it is made from. A record whose beginning was read
	// earlier needs it: 18 KiB is the most that crypto/tls accepts as one.
	ahead = 20 << 10
	// fourRecords is how long the ciphertext of BufferSize is in TLS 1.3: with it Next gives BufferSize, not
	// three records and the beginning of a fourth.
	fourRecords = 4 * (5 + 16<<10 + 1 + 16)
)

type (
	buffer [ahead + fourRecords]byte
	bulk   [BulkSize]byte
)

// Buffers are shared by all connections. The zero value is ready for use.
type Buffers struct {
	pool, bulks sync.Pool
	lent        atomic.Int32 // of bulks
	held        func(int)    // if not nil, told of every buffer taken (1) and given back (-1); for tests
}

// get returns a buffer that has room for n bytes, if that is not too much just now.
func (b *Buffers) get(n int) []byte {
	if b.held != nil {
		b.held(1)
	}
	if n > len(buffer{}) {
		if b.lent.Add(1) <= maxBulk {
			if buf, ok := b.bulks.Get().(*bulk); ok {
				return buf[:]
			}
			return new(bulk)[:]
		}
		b.lent.Add(-1)
	}
	if buf, ok := b.pool.Get().(*buffer); ok {
		return buf[:]
	}
	return new(buffer)[:]
}

func (b *Buffers) put(buf []byte) {
	if b.held != nil {
		b.held(-1)
	}
	if len(buf) == BulkSize {
		b.bulks.Put((*bulk)(buf))
		b.lent.Add(-1)
		return
	}
	b.pool.Put((*buffer)(buf))
}

// socket reads a connection and holds a buffer only while there is something in it. Clients of etcd keep thousands
// of connections that are idle nearly all the time (kube-apiserver: one per resource type), and a buffer for each
// direction of each would be most of what Parallax weighs.
type socket struct {
	conn    net.Conn
	buffers *Buffers

	buf     []byte // nil: nothing is held
	at, end int    // buf[at:end] has been read and not been used yet
	err     error  // how reading ended, once it has

	// Where the connection has a file descriptor: try is called when it is worth trying to read, and the
	// runtime's poller waits in between. That is what conn.Read does too, but it has to be given a buffer
	// before it waits.
	raw      syscall.RawConn
	try      func(fd uintptr) bool
	from, to int // where try reads to
}

func (s *socket) init(b *Buffers, c net.Conn) {
	s.buffers, s.conn = b, c
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			s.raw, s.try = raw, s.tryRead
		}
	}
}

// fill waits for bytes and reads those that are there to buf[from:to]. All that was read before must have been
// used. It holds no buffer while it waits, and none when it returns an error.
func (s *socket) fill(from, to int) error {
	if s.err != nil {
		s.release()
		return s.err
	}
	s.from, s.to = from, to
	if s.raw == nil {
		return s.fillAnyConn()
	}
	if err := s.raw.Read(s.try); err != nil { // the deadline, or Close
		s.release()
		return err
	}
	if s.err != nil {
		s.release()
	}
	return s.err
}

// tryRead returns false, without a buffer, when there is nothing to read.
func (s *socket) tryRead(fd uintptr) bool {
	if s.buf == nil {
		s.buf = s.buffers.get(s.to)
	}
	for {
		n, errno := readNow(fd, s.buf[s.from:min(s.to, len(s.buf))])
		switch {
		case n > 0:
			s.at, s.end = s.from, s.from+n
		case errno == 0:
			s.err = io.EOF
		case errno == syscall.EAGAIN:
			s.release()
			return false
		case errno == syscall.EINTR:
			continue
		default:
			// Kept: the kernel tells of a reset once, and of an ordinary end after that.
			s.err = os.NewSyscallError("read", errno)
		}
		return true
	}
}

// fillAnyConn is fill for what has no file descriptor, which holds a buffer while it waits.
func (s *socket) fillAnyConn() error {
	if s.buf == nil {
		s.buf = s.buffers.get(s.to)
	}
	for {
		// A connection that returns bytes with an error returns the error again at the next call.
		n, err := s.conn.Read(s.buf[s.from:min(s.to, len(s.buf))])
		if n > 0 {
			s.at, s.end = s.from, s.from+n
			return nil
		}
		if err != nil {
			s.release()
			return err
		}
	}
}

// release gives the buffer back, unless something in it has not been used yet.
func (s *socket) release() {
	if s.buf != nil && s.at == s.end {
		s.buffers.put(s.buf)
		s.buf = nil
	}
}

// discard gives the buffer back, whatever is in it.
func (s *socket) discard() {
	s.at = s.end
	s.release()
}
