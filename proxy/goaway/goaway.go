// Package goaway knows where, among the frames that a member sends, a GOAWAY may stand: the one thing that Parallax ever adds to
// what client and member say to one another. It is pure: no sockets, no clock.
package goaway

import "encoding/binary"

// Frame is a GOAWAY that says: no error, nothing that you have asked is refused, ask no more here. Its last stream id is the
// highest there is, as a server sends it that begins to shut down (RFC 9113, 6.8).
const Frame = "\x00\x00\x08" + "\x07" + "\x00" + "\x00\x00\x00\x00" + "\x7f\xff\xff\xff" + "\x00\x00\x00\x00"

const headSize = 9

// Types and the flag of RFC 9113, section 6, that decide where a frame may stand.
const (
	typeHeaders      = 0x1
	typeSettings     = 0x4
	typePushPromise  = 0x5
	typeGoAway       = 0x7
	typeContinuation = 0x9

	flagEndHeaders = 0x4 // of HEADERS, PUSH_PROMISE and CONTINUATION
	flagAck        = 0x1 // of SETTINGS
)

// A Follower is shown everything that a member sends. Its zero value is at the beginning of a connection.
type Follower struct {
	head  [headSize]byte // of the frame that begins; the first headN bytes
	headN int
	left  int // bytes of a frame's payload still to come

	ready  bool // the member's first SETTINGS have been begun: a client that is told to go before them never becomes ready
	block  bool // between HEADERS and the CONTINUATION that ends them, where nothing else may stand
	closed bool // see Closed
}

// Open says whether a GOAWAY may stand here, behind all that was fed.
func (f *Follower) Open() bool {
	return f.ready && !f.block && f.left == 0 && f.headN == 0 && !f.closed
}

// Closed says that no GOAWAY may stand anywhere any more: the member has sent its own (grpc-go fails a connection on which the id
// of a second one is higher), or what it sends is not HTTP/2, or not as far as it is understood here.
func (f *Follower) Closed() bool { return f.closed }

// Feed follows b.
func (f *Follower) Feed(b []byte) { f.walk(b, false) }

// Find follows b as far as the first place at which a GOAWAY may stand, and returns how long that part of b is. ok is false when
// there is no such place in b, and then all of it was followed.
func (f *Follower) Find(b []byte) (n int, ok bool) {
	n = f.walk(b, true)
	return n, f.Open()
}

// walk returns how much of b it has followed. With stop that is as far as the first open place.
func (f *Follower) walk(b []byte, stop bool) int {
	all := len(b)
	for len(b) > 0 && !f.closed && (!stop || !f.Open()) {
		if f.left > 0 {
			n := min(f.left, len(b))
			f.left -= n
			b = b[n:]
			continue
		}
		n := copy(f.head[f.headN:], b)
		b = b[n:]
		if f.headN += n; f.headN == headSize {
			f.headN = 0
			f.begin()
		}
	}
	if f.closed {
		return all
	}
	return all - len(b)
}

// begin looks at the head of a frame.
func (f *Follower) begin() {
	f.left = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
	typ, flags, id := f.head[3], f.head[4], binary.BigEndian.Uint32(f.head[5:])
	switch {
	case !f.ready && (typ != typeSettings || flags&flagAck != 0 || id != 0):
		f.closed = true // not a server that speaks HTTP/2
	case f.block && typ != typeContinuation, !f.block && typ == typeContinuation:
		f.closed = true // the client will fail the connection
	case typ == typeGoAway:
		f.closed = true
	case typ == typeHeaders, typ == typePushPromise, typ == typeContinuation:
		f.block = flags&flagEndHeaders == 0
	}
	f.ready = true
}
