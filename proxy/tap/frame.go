package tap

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

const (
	frameHead   = 9
	maxStreamID = 1<<31 - 1
)

// A half parses the frames of one direction. It keeps where it is between two chunks, and never a frame's payload: DATA passes
// through, a header block is collected in block.
type half struct {
	preface int  // bytes of the client preface that were seen
	begun   bool // the first frame was seen

	head   [frameHead]byte // of a frame's head, the first headN bytes
	headN  int
	inside bool // the head is whole, and payload is to come

	typ    http2.FrameType
	flags  http2.Flags
	id     uint32
	lead   int     // payload still to come before the body: pad length, priority
	body   int     // payload still to come of the body, with the padding until padded is false
	pad    int     // payload still to come after the body
	padded bool    // the pad length, always the first byte, is still to come
	word   [8]byte // the first bytes of the body of RST_STREAM and GOAWAY
	wordN  int

	headers headerBlock
}

func (h *half) init() { h.headers.init() }

// parse reads on in a direction. It returns why the tap must end, or "".
func (t *Tap) parse(d Direction, b []byte) (why Reason) {
	h := &t.halves[d]
	if want := http2.ClientPreface[h.preface:]; d == Up && want != "" {
		n := min(len(b), len(want))
		if string(b[:n]) != want[:n] {
			return ReasonNotHTTP2
		}
		h.preface += n
		b = b[n:]
	}
	for len(b) > 0 && why == "" {
		switch n := t.unheard(h, b); {
		case n > 0:
			b = b[n:]
		case h.inside:
			b, why = t.payload(d, h, b)
		default:
			b, why = t.head(d, h, b)
		}
	}
	return why
}

// unheard returns how many bytes of b are whole frames that change nothing: DATA that nobody wants. It says no more than the way that
// they would go otherwise, faster: events for a hundred watchers are such frames by the thousand, and so is a long list.
func (t *Tap) unheard(h *half, b []byte) (n int) {
	if h.inside || h.headN > 0 || !h.begun || h.headers.id != 0 || t.wanted > 0 {
		return 0
	}
	for len(b)-n >= frameHead {
		f := b[n : n+frameHead]
		size := frameHead + (int(f[0])<<16 | int(f[1])<<8 | int(f[2]))
		id := binary.BigEndian.Uint32(f[5:]) & maxStreamID
		if http2.FrameType(f[3]) != http2.FrameData || f[4] != 0 || id%2 == 0 || id > t.top || size > len(b)-n {
			break
		}
		n += size
	}
	return n
}

// head reads the nine bytes before a payload.
func (t *Tap) head(d Direction, h *half, b []byte) ([]byte, Reason) {
	n := copy(h.head[h.headN:], b)
	b = b[n:]
	if h.headN += n; h.headN < frameHead {
		return b, ""
	}
	h.headN, h.wordN, h.pad = 0, 0, 0
	h.body = int(h.head[0])<<16 | int(h.head[1])<<8 | int(h.head[2])
	h.typ, h.flags = http2.FrameType(h.head[3]), http2.Flags(h.head[4])
	h.id = binary.BigEndian.Uint32(h.head[5:]) & maxStreamID
	if why := h.check(); why != "" {
		return nil, why
	}
	if h.lead+h.body == 0 {
		return b, t.finish(d, h)
	}
	h.inside = true
	return b, ""
}

// check looks at a frame's head: only as far as an error would make the tap misunderstand what follows.
func (h *half) check() Reason {
	if !h.begun && (h.typ != http2.FrameSettings || h.id != 0) {
		return ReasonNotHTTP2 // a member that answers the preface in HTTP/1.1
	}
	h.begun = true
	if h.headers.id != 0 && (h.typ != http2.FrameContinuation || h.id != h.headers.id) {
		return ReasonFrame
	}
	h.lead, h.padded = 0, false
	switch h.typ {
	case http2.FrameData, http2.FrameHeaders:
		if h.id == 0 {
			return ReasonFrame
		}
		if h.flags.Has(http2.FlagDataPadded) { // the same bit as FlagHeadersPadded
			h.lead, h.padded = 1, true
		}
		if h.typ == http2.FrameHeaders {
			if h.flags.Has(http2.FlagHeadersPriority) {
				h.lead += 5
			}
			h.headers.begin(h.id, h.flags.Has(http2.FlagHeadersEndStream))
		}
	case http2.FrameContinuation:
		if h.headers.id == 0 {
			return ReasonFrame
		}
	case http2.FramePushPromise:
		return ReasonPush
	case http2.FrameRSTStream:
		if h.id == 0 || h.body != 4 {
			return ReasonFrame
		}
	case http2.FrameGoAway:
		if h.id != 0 || h.body < 8 {
			return ReasonFrame
		}
	}
	if h.body -= h.lead; h.body < 0 {
		return ReasonFrame
	}
	if h.headers.id != 0 && !h.headers.fits(h.body) {
		return ReasonMemory
	}
	return ""
}

// payload reads on in a frame.
func (t *Tap) payload(d Direction, h *half, b []byte) ([]byte, Reason) {
	for ; h.lead > 0 && len(b) > 0; b = b[1:] {
		if h.lead--; h.padded {
			h.padded = false
			if h.pad = int(b[0]); h.pad > h.body {
				return nil, ReasonFrame
			}
			h.body -= h.pad
		}
	}
	if n := min(h.body, len(b)); n > 0 {
		h.body -= n
		if why := t.chunk(d, h, b[:n]); why != "" {
			return nil, why
		}
		b = b[n:]
	}
	n := min(h.pad, len(b))
	h.pad -= n
	b = b[n:]
	if h.lead+h.body+h.pad > 0 {
		return b, ""
	}
	h.inside = false
	return b, t.finish(d, h)
}

// chunk takes the next bytes of a frame's body.
func (t *Tap) chunk(d Direction, h *half, p []byte) Reason {
	switch h.typ {
	case http2.FrameData:
		if d == Up {
			return t.requestData(h.id, p)
		}
		return t.answerData(h.id, p)
	case http2.FrameHeaders, http2.FrameContinuation:
		h.headers.add(p)
	case http2.FrameRSTStream, http2.FrameGoAway:
		h.wordN += copy(h.word[h.wordN:], p)
	}
	return ""
}

// finish is called when a frame is whole.
func (t *Tap) finish(d Direction, h *half) Reason {
	switch h.typ {
	case http2.FrameData:
		if h.flags.Has(http2.FlagDataEndStream) {
			return t.endStream(d, h.id)
		}
	case http2.FrameHeaders, http2.FrameContinuation:
		if !h.flags.Has(http2.FlagHeadersEndHeaders) {
			return ""
		}
		defer h.headers.forget()
		if why := h.headers.decode(); why != "" {
			return why
		}
		if d == Up {
			return t.requestHeaders(h.id, &h.headers)
		}
		return t.answerHeaders(h.id, &h.headers)
	case http2.FrameRSTStream:
		return t.resetStream(d, h.id)
	case http2.FrameGoAway:
		if d == Down {
			t.goAway(binary.BigEndian.Uint32(h.word[:]) & maxStreamID)
		}
	}
	return ""
}
