package tap

import (
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// A headerBlock collects the fragments of HEADERS and CONTINUATION, and decodes them when they are whole. Every block of a
// connection goes through it, also of streams that nobody wants: HPACK is stateful.
type headerBlock struct {
	id        uint32 // the stream of the block that is open; 0: none is
	endStream bool   // of its HEADERS frame
	block     []byte // reused
	decoder   *hpack.Decoder

	size   int // of the fields that were decoded last
	fields     // … and they

	known [maxKnown]known // blocks that mean the same until the table changes; the first knownN
	knownN,
	oldest int // the one to be forgotten next
}

// fields are those that matter.
type fields struct {
	path     string
	status   string // :status
	encoding string // grpc-encoding
	code     string // grpc-status
	message  string // grpc-message
}

// A known block is one that only names fields of the tables, one byte for each, and so leaves the tables as they are. Clients and members of
// gRPC say nearly everything in such blocks, the same few of them again and again, and to decode them is most of what listening to a
// small call costs.
type known struct {
	block [maxKnownSize]byte
	n     int
	fields
}

const (
	maxKnown     = 4
	maxKnownSize = 24
)

func (h *headerBlock) init() {
	h.decoder = hpack.NewDecoder(defaultTable, h.field)
	h.decoder.SetAllowedMaxDynamicTableSize(maxTable)
	h.decoder.SetMaxStringLength(maxBlock)
}

func (h *headerBlock) begin(id uint32, endStream bool) {
	h.id, h.endStream = id, endStream
	h.block = h.block[:0]
}

// forget lets go of what was decoded: nothing large of it must stay for as long as the connection is idle.
func (h *headerBlock) forget() {
	if cap(h.block) > 4096 {
		h.block = nil
		h.decoder.SetEmitEnabled(false)
		_, _ = h.decoder.Write([]byte{0x82}) // :method GET, which changes nothing: the decoder keeps what it was given last
		_ = h.decoder.Close()
		h.decoder.SetEmitEnabled(true)
	}
	h.fields = fields{}
}

func (h *headerBlock) fits(n int) bool { return len(h.block)+n <= maxBlock }

func (h *headerBlock) add(p []byte) { h.block = append(h.block, p...) }

func (h *headerBlock) decode() Reason {
	h.id = 0
	for i := range h.knownN {
		if k := &h.known[i]; string(h.block) == string(k.block[:k.n]) {
			h.fields = k.fields
			return ""
		}
	}
	h.size, h.fields = 0, fields{}
	if _, err := h.decoder.Write(h.block); err != nil {
		return ReasonHPACK
	}
	if err := h.decoder.Close(); err != nil {
		return ReasonHPACK
	}
	if h.size > maxFields {
		return ReasonMemory
	}
	h.remember()
	return ""
}

// remember takes the block that was decoded for known, if it is one, or forgets all: it may have changed the table.
func (h *headerBlock) remember() {
	for _, b := range h.block {
		if b < 0x80 || b == 0xff { // not an index of one byte (RFC 7541, 6.1)
			h.known, h.knownN, h.oldest = [maxKnown]known{}, 0, 0
			return
		}
	}
	if len(h.block) > maxKnownSize {
		return
	}
	k := &h.known[h.oldest]
	h.oldest = (h.oldest + 1) % maxKnown
	h.knownN = min(h.knownN+1, maxKnown)
	k.n, k.fields = copy(k.block[:], h.block), h.fields
}

func (h *headerBlock) field(f hpack.HeaderField) {
	if h.size += int(f.Size()); h.size > maxFields {
		h.decoder.SetEmitEnabled(false) // one byte can name a field of 64 KiB; decode ends the tap
		return
	}
	switch f.Name {
	case ":path":
		h.path = f.Value
	case ":status":
		h.status = f.Value
	case "grpc-encoding":
		h.encoding = f.Value
	case "grpc-status":
		h.code = f.Value
	case "grpc-message":
		h.message = f.Value
	}
}

// statusCode is the call's grpc-status, -1 if there is none that can be read.
func statusCode(s string) int {
	code, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return -1
	}
	return int(code)
}

// percentDecode decodes a grpc-message. What is not well-formed stays as it is, as gRPC wants it.
func percentDecode(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
