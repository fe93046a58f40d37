package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

const messagePrefix = 5

// A message is the gRPC message that is being read on one half of a stream: a prefix (compressed?, length), then the message.
// DATA frames may split it anywhere, and hold several.
type message struct {
	prefix [messagePrefix]byte
	n      int    // bytes of the prefix that are here
	left   int64  // bytes of the message still to come
	keep   bool   // it is wanted
	cut    bool   // only its first bytes are wanted
	buf    []byte // the copy; its capacity is what is wanted
}

func (m *message) begun() bool      { return m.n == messagePrefix }
func (m *message) whole() bool      { return m.begun() && m.left == 0 }
func (m *message) compressed() bool { return m.prefix[0] == 1 }
func (m *message) wellFormed() bool { return m.prefix[0] <= 1 }
func (m *message) size() int64      { return int64(binary.BigEndian.Uint32(m.prefix[1:])) }

// wire is how many bytes of this message are enough for room bytes of it decoded. gzip makes random bytes and short messages longer.
func (m *message) wire(room int) int64 {
	if !m.compressed() {
		return int64(room)
	}
	return int64(room) + int64(room)/256 + 64
}

// begin reads on in the prefix, and returns what follows it.
func (m *message) begin(p []byte) []byte {
	n := copy(m.prefix[m.n:], p)
	if m.n += n; m.begun() {
		m.left = m.size()
	}
	return p[n:]
}

// read reads on in the message, and returns what follows it.
func (m *message) read(p []byte) []byte {
	n := int(min(m.left, int64(len(p))))
	m.left -= int64(n)
	if m.keep {
		m.buf = append(m.buf, p[:min(n, cap(m.buf)-len(m.buf))]...)
	}
	return p[n:]
}

// An encoding is what grpc-encoding says.
type encoding uint8

const (
	identity encoding = iota
	gzipped
	unknown
)

func encodingOf(s string) encoding {
	switch s {
	case "", "identity":
		return identity
	case "gzip":
		return gzipped
	}
	return unknown
}

// gunzip decodes the first room bytes of a message. cut says that src is not whole; the result is then cut too, as it is when the
// message is larger than room. It fails with a reason to pass it over. What it returns is charged to the call.
func (t *Tap) gunzip(c *call, src []byte, room int, cut bool) (dst []byte, isCut bool, why string) {
	z := t.cfg.Budget.reader()
	defer t.cfg.Budget.putReader(z)
	if z.Reset(bytes.NewReader(src)) != nil {
		return nil, false, PassedCompressed
	}
	for {
		if len(dst) == cap(dst) {
			if len(dst) == room {
				break
			}
			larger := min(room, max(512, 4*len(src), 2*cap(dst)))
			if !t.charge(c, larger) {
				t.refund(c, cap(dst))
				return nil, false, PassedMemory
			}
			old := cap(dst)
			dst = append(make([]byte, 0, larger), dst...)
			t.refund(c, old)
		}
		n, err := z.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		switch {
		case errors.Is(err, io.EOF):
			return dst, cut, ""
		case err != nil && cut && errors.Is(err, io.ErrUnexpectedEOF):
			return dst, true, ""
		case err != nil:
			t.refund(c, cap(dst))
			return nil, false, PassedCompressed
		}
	}
	// Full. It is whole only if nothing follows, and its checksum is right.
	var more [1]byte
	switch n, err := io.ReadFull(z, more[:]); {
	case n > 0:
		return dst, true, ""
	case err == io.EOF:
		return dst, cut, ""
	case cut && errors.Is(err, io.ErrUnexpectedEOF):
		return dst, true, ""
	default:
		t.refund(c, cap(dst))
		return nil, false, PassedCompressed
	}
}
