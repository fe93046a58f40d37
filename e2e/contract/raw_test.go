package contract

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// wire is an HTTP/2 connection frame by frame: what no client library lets one see or do.
type wire struct {
	t      *testing.T
	framer *http2.Framer
	out    *hpack.Encoder
	block  bytes.Buffer
	saw    *transcript

	pongs int  // acknowledgements of our pings
	ended bool // the connection has
}

// wire opens a connection, with settings of its own.
func (p *plumbing) wire(t *testing.T, saw *transcript, settings ...http2.Setting) *wire {
	t.Helper()
	conn := p.dial(t, "h2")
	w := &wire{t: t, framer: http2.NewFramer(conn, conn), saw: saw}
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.framer.SetMaxReadFrameSize(1 << 20)
	w.framer.SetReuseFrames()
	w.out = hpack.NewEncoder(&w.block)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	w.must(w.framer.WriteSettings(settings...))
	return w
}

func (w *wire) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// call sends the header of a gRPC call, the way grpc-go does, with further fields, which win over those of the same name.
// An empty value leaves the field out.
func (w *wire) call(stream uint32, path string, further ...string) {
	w.t.Helper()
	w.headers(stream, false, path, further...)
}

func (w *wire) headers(stream uint32, end bool, path string, further ...string) {
	w.t.Helper()
	fields := []string{":method", "POST", ":scheme", "http", ":path", path, ":authority", "etcd",
		"content-type", "application/grpc", "user-agent", "contract/1", "te", "trailers"}
	w.block.Reset()
	own := make(map[string]string)
	for i := 0; i < len(further); i += 2 {
		own[further[i]] = further[i+1]
	}
	for i := 0; i < len(fields); i += 2 {
		value := fields[i+1]
		if v, changed := own[fields[i]]; changed {
			delete(own, fields[i])
			value = v
		}
		if value != "" {
			w.must(w.out.WriteField(hpack.HeaderField{Name: fields[i], Value: value}))
		}
	}
	for i := 0; i < len(further); i += 2 {
		if _, left := own[further[i]]; left {
			w.must(w.out.WriteField(hpack.HeaderField{Name: further[i], Value: further[i+1]}))
		}
	}
	block := w.block.Bytes()
	first := block[:min(len(block), 16<<10)]
	w.must(w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndStream: end, EndHeaders: len(first) == len(block)}))
	for block = block[len(first):]; len(block) > 0; {
		next := block[:min(len(block), 16<<10)]
		block = block[len(next):]
		w.must(w.framer.WriteContinuation(stream, len(block) == 0, next))
	}
}

// send sends a message, and ends our half of the stream if that is the last.
func (w *wire) send(stream uint32, m proto.Message, last bool) {
	w.t.Helper()
	content, err := proto.Marshal(m)
	w.must(err)
	w.must(w.framer.WriteData(stream, last, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(content))), content...)))
}

// until reads frames up to one that has one of the texts in its line, or to the end of the connection, and says them all, but for
// the lengths of data: they depend on what else was written before.
func (w *wire) until(texts ...string) {
	w.t.Helper()
	for !w.ended {
		line := w.next()
		if line == "" {
			continue
		}
		w.saw.say("%s", length.ReplaceAllString(line, ""))
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
			return
		}
	}
}

var length = regexp.MustCompile(` \d+ bytes$`)

// pong reads up to the acknowledgement of a ping, and counts the bytes of data that come before it.
func (w *wire) pong(bytes *uint32) {
	w.t.Helper()
	for before := w.pongs; w.pongs == before && !w.ended; {
		var id, n uint32
		if _, err := fmt.Sscanf(w.next(), "DATA %d end=false %d bytes", &id, &n); err == nil {
			*bytes += n
		}
	}
}

// next reads a frame, answers it where HTTP/2 demands it, and returns its line; none for what depends on time: window updates,
// pings (a gRPC server measures the connection with them) and acknowledgements.
func (w *wire) next() string {
	w.t.Helper()
	frame, err := w.framer.ReadFrame()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatal("the other side is silent")
	}
	if err != nil {
		w.ended = true
		return "end of the connection"
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return ""
		}
		line := "SETTINGS"
		_ = f.ForeachSetting(func(s http2.Setting) error {
			line += " " + s.String()
			return nil
		})
		_ = w.framer.WriteSettingsAck() // fails when the other side has gone, which the next read finds
		return line
	case *http2.PingFrame:
		if f.IsAck() {
			w.pongs++
		} else {
			_ = w.framer.WritePing(true, f.Data)
		}
		return ""
	case *http2.WindowUpdateFrame:
		return ""
	case *http2.MetaHeadersFrame:
		line := fmt.Sprintf("HEADERS %d end=%v", f.StreamID, f.StreamEnded())
		for _, field := range f.Fields {
			if field.Name == "date" {
				field.Value = "now"
			}
			line += fmt.Sprintf(" %q=%q", field.Name, field.Value)
		}
		return line
	case *http2.DataFrame:
		return fmt.Sprintf("DATA %d end=%v %d bytes", f.StreamID, f.StreamEnded(), len(f.Data()))
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %v", f.StreamID, f.ErrCode)
	case *http2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %v %q", f.LastStreamID, f.ErrCode, f.DebugData())
	}
	return fmt.Sprint(frame)
}
