package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// session is the TLS of a connection. crypto/tls does all of it; what is ours is the link below it, because a
// tls.Conn has to be given a buffer before it waits, reads at most a record at a time, and writes every record by
// itself.
type session struct {
	conn *tls.Conn
	link link
	err  error // how reading ended, once it has
	more bool  // crypto/tls may have plaintext that did not fit
}

// Server makes the TLS handshake with a client. On an error, also of ctx, c is closed.
//
// A cfg without DynamicRecordSizingDisabled is copied to set it: small records make work for both ends, and what
// is relayed was cut into records by the other side already. The copy costs, and has session tickets of its own.
func Server(ctx context.Context, b *Buffers, c net.Conn, cfg *tls.Config) (*Conn, error) {
	return secure(ctx, b, c, cfg, tls.Server)
}

// Client makes the TLS handshake with a server, see Server.
func Client(ctx context.Context, b *Buffers, c net.Conn, cfg *tls.Config) (*Conn, error) {
	return secure(ctx, b, c, cfg, tls.Client)
}

func secure(ctx context.Context, b *Buffers, c net.Conn, cfg *tls.Config, side func(net.Conn, *tls.Config) *tls.Conn) (*Conn, error) {
	if !cfg.DynamicRecordSizingDisabled {
		cfg = cfg.Clone()
		cfg.DynamicRecordSizingDisabled = true
	}
	conn := Plain(b, c)
	s := &session{link: link{Conn: c, socket: &conn.socket, out: &conn.out}}
	s.conn = side(&s.link, cfg)
	if err := s.conn.HandshakeContext(ctx); err != nil {
		conn.discard()
		_ = c.Close()
		return nil, err
	}
	s.link.established = true
	conn.release()
	conn.tls = s
	return conn, nil
}

func (s *session) next() ([]byte, error) {
	for {
		if b := s.decrypt(); len(b) > 0 {
			return b, nil
		}
		if s.err != nil {
			s.link.socket.discard()
			return nil, s.err
		}
		// As many whole records as fit. crypto/tls already has the beginning of the first.
		if err := s.link.socket.fill(ahead, ahead+fourRecords-s.link.record.passed); err != nil {
			if errors.Is(err, io.EOF) { // a record would have said so
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// decrypt returns the plaintext of all that has been read. It is written over the ciphertext that has been used.
func (s *session) decrypt() []byte {
	l, n := s.link.socket, 0
	for s.err == nil && (s.more || l.at < l.end) {
		if l.buf == nil {
			l.buf = l.buffers.get(0)
		}
		room := l.buf[n:BufferSize]
		if l.at < l.end {
			room = l.buf[n:min(l.at, BufferSize)]
		}
		if len(room) == 0 {
			s.more = true
			break
		}
		k, err := s.conn.Read(room)
		n += k
		s.more = k == len(room)
		if err != nil && !errors.Is(err, errNothingRead) {
			s.err = err
		}
	}
	if n == 0 {
		return nil
	}
	return l.buf[:n]
}

func (s *session) write(b []byte) (int, error) {
	if len(b) <= 16<<10 { // one record
		return s.conn.Write(b)
	}
	s.link.cork()
	n, err := s.conn.Write(b)
	if flushErr := s.link.uncork(); err == nil && flushErr != nil {
		return 0, flushErr
	}
	return n, err
}

// closeNotifyTime is how long CloseWrite waits for a peer that does not read; crypto/tls has the same.
const closeNotifyTime = 5 * time.Second

func (s *session) closeNotify() error {
	if err := s.link.Conn.SetWriteDeadline(time.Now().Add(closeNotifyTime)); err != nil {
		return err
	}
	return s.conn.CloseWrite()
}

// close sends close_notify if that can be done at once. A write that is going on would be cut off by closing, and
// must not look like all there was.
func (s *session) close() error {
	if !s.link.neverWait() {
		return s.link.Close()
	}
	_ = s.conn.Close() // without close_notify while in Write; the error says that it could not be sent
	return nil
}
