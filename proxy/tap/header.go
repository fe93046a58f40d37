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

	// of the block that was decoded last
	size     int
	path     string
	status   string // :status
	encoding string // grpc-encoding
	code     string // grpc-status
	message  string // grpc-message
}

func (h *headerBlock) init() {
	h.decoder = hpack.NewDecoder(4096, h.field)
	h.decoder.SetAllowedMaxDynamicTableSize(maxTable)
	h.decoder.SetMaxStringLength(maxBlock)
}

func (h *headerBlock) begin(id uint32, endStream bool) {
	h.id, h.endStream = id, endStream
	if cap(h.block) > 4096 {
		h.block = nil // one large block must not stay for the life of the connection
	}
	h.block = h.block[:0]
}

func (h *headerBlock) fits(n int) bool { return len(h.block)+n <= maxBlock }

func (h *headerBlock) add(p []byte) { h.block = append(h.block, p...) }

func (h *headerBlock) decode() Reason {
	h.id, h.size = 0, 0
	h.path, h.status, h.encoding, h.code, h.message = "", "", "", "", ""
	if _, err := h.decoder.Write(h.block); err != nil {
		return ReasonHPACK
	}
	if err := h.decoder.Close(); err != nil {
		return ReasonHPACK
	}
	if h.size > maxFields {
		return ReasonMemory
	}
	return ""
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
