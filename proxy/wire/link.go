package wire

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

// link is the connection that crypto/tls has. When the ciphertext that has been read is used up, Read does not
// wait: it returns an error that is temporary, which crypto/tls does not remember. It keeps the beginning of a
// record, and goes on from there at the next call.
type link struct {
	net.Conn
	socket      *socket
	out         *outlet // under mu
	record      record
	established bool // before it, in the handshake, Read waits

	// crypto/tls puts the records of both goroutines in order before they come here (the one that reads answers
	// a KeyUpdate, or sends an alert). mu is for those of us who do not come from there. Whoever holds it may be
	// waiting for the other side to read.
	mu      sync.Mutex
	corked  []byte // nil: not corked
	n       int    // how much is in corked
	noWait  bool
	failure error // the first of a write: after it nothing that is sent could be understood
}

// nothingReadError is a net.Error, as crypto/tls looks for one.
type nothingReadError struct{}

func (nothingReadError) Error() string   { return "nothing to read" }
func (nothingReadError) Timeout() bool   { return true }
func (nothingReadError) Temporary() bool { return true }

var errNothingRead error = nothingReadError{}

// Read never passes the end of a record. So crypto/tls never has a whole record waiting, and what is left to
// decrypt is known from at and end; and its buffer, which it keeps for good, never grows beyond one record.
func (l *link) Read(p []byte) (int, error) {
	s := l.socket
	if s.at == s.end {
		if l.established {
			return 0, errNothingRead
		}
		if err := s.fill(ahead, ahead+fourRecords); err != nil {
			return 0, err
		}
	}
	b := s.buf[s.at:s.end]
	n := copy(p, b[:l.record.pass(b[:min(len(b), len(p))])])
	s.at += n
	return n, nil
}

// record is how far a stream of TLS records has come.
type record struct {
	header [5]byte
	passed int // of the record at hand, with its header
}

// pass returns how many of the bytes that come next belong to the record at hand, and takes them for passed.
func (r *record) pass(b []byte) int {
	n := 0
	if r.passed < len(r.header) {
		n = copy(r.header[r.passed:], b)
		r.passed += n
		if r.passed < len(r.header) {
			return n
		}
	}
	size := len(r.header) + int(binary.BigEndian.Uint16(r.header[3:]))
	rest := min(len(b)-n, size-r.passed)
	r.passed += rest
	if r.passed == size {
		r.passed = 0
	}
	return n + rest
}

func (l *link) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.corked != nil && len(b) <= len(l.corked)-l.n {
		l.n += copy(l.corked[l.n:], b)
		return len(b), nil
	}
	if err := l.flush(); err != nil {
		return 0, err
	}
	return l.send(b)
}

// cork collects what is written until uncork sends it, in one piece.
func (l *link) cork() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.corked = l.socket.buffers.get(0)
}

func (l *link) uncork() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.flush()
	l.socket.buffers.put(l.corked)
	l.corked = nil
	return err
}

func (l *link) flush() error {
	if l.n == 0 {
		return nil
	}
	_, err := l.send(l.corked[:l.n])
	l.n = 0
	return err
}

func (l *link) send(b []byte) (n int, err error) {
	if l.failure != nil {
		return 0, l.failure
	}
	if l.noWait {
		n, err = l.sendNow(b)
	} else {
		n, err = l.out.write(b)
	}
	l.failure = err
	return n, err
}

// sendNow writes what there is room for. Less than all is an error, and the last that is sent.
func (l *link) sendNow(b []byte) (n int, err error) {
	if l.socket.raw == nil {
		return 0, io.ErrShortWrite
	}
	if rawErr := l.socket.raw.Write(func(fd uintptr) bool {
		n, _ = writeNow(fd, b)
		return true
	}); rawErr != nil {
		return 0, rawErr
	}
	if n = max(n, 0); n < len(b) {
		err = io.ErrShortWrite
	}
	return n, err
}

// neverWait makes every write from now on one that does not wait. It returns false when one is waiting.
func (l *link) neverWait() bool {
	if !l.mu.TryLock() {
		return false
	}
	defer l.mu.Unlock()
	l.noWait = true
	return true
}

// crypto/tls sets a deadline for its close_notify only, and does not take it back. CloseWrite sets its own.

func (l *link) SetDeadline(time.Time) error      { return nil }
func (l *link) SetReadDeadline(time.Time) error  { return nil }
func (l *link) SetWriteDeadline(time.Time) error { return nil }
