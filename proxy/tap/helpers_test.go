package tap

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A talk is a conversation of a client and a member, written frame by frame: what one of them said, in the order it is fed.
type talk struct {
	steps []step
	buf   [2]bytes.Buffer
	frame [2]*http2.Framer
	block [2]bytes.Buffer
	hpack [2]*hpack.Encoder
}

type step struct {
	d Direction
	b []byte
}

// newTalk begins with the preface and both SETTINGS.
func newTalk() *talk {
	k := new(talk)
	for d := range k.frame {
		k.frame[d] = http2.NewFramer(&k.buf[d], nil)
		k.frame[d].AllowIllegalWrites = true
		k.hpack[d] = hpack.NewEncoder(&k.block[d])
	}
	k.raw(Up, []byte(http2.ClientPreface))
	k.say(Up, func(f *http2.Framer) error { return f.WriteSettings() })
	k.say(Down, func(f *http2.Framer) error { return f.WriteSettings() })
	return k
}

func (k *talk) raw(d Direction, b []byte) { k.steps = append(k.steps, step{d, b}) }

func (k *talk) say(d Direction, write func(*http2.Framer) error) {
	k.buf[d].Reset()
	if err := write(k.frame[d]); err != nil {
		panic(err)
	}
	k.raw(d, bytes.Clone(k.buf[d].Bytes()))
}

// fields encodes a header block: name, value, name, value, …
func (k *talk) fields(d Direction, kv ...string) []byte {
	k.block[d].Reset()
	for i := 0; i < len(kv); i += 2 {
		if err := k.hpack[d].WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]}); err != nil {
			panic(err)
		}
	}
	return bytes.Clone(k.block[d].Bytes())
}

func (k *talk) headers(d Direction, id uint32, end bool, kv ...string) {
	block := k.fields(d, kv...)
	k.say(d, func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: end})
	})
}

func (k *talk) data(d Direction, id uint32, end bool, b []byte) {
	k.say(d, func(f *http2.Framer) error { return f.WriteData(id, end, b) })
}

func (k *talk) reset(d Direction, id uint32) {
	k.say(d, func(f *http2.Framer) error { return f.WriteRSTStream(id, http2.ErrCodeCancel) })
}

func (k *talk) open(id uint32, method string) {
	k.headers(Up, id, false, ":method", "POST", ":scheme", "http", ":path", method, ":authority", "127.0.0.1:2379",
		"content-type", "application/grpc", "user-agent", "grpc-go/1.85.0", "te", "trailers", "grpc-encoding", "gzip")
}

// ask is a whole request, as a unary call sends it.
func (k *talk) ask(id uint32, method, message string) {
	k.open(id, method)
	k.data(Up, id, true, frame(message))
}

func (k *talk) begin(id uint32) {
	k.headers(Down, id, false, ":status", "200", "content-type", "application/grpc", "grpc-encoding", "gzip")
}

func (k *talk) trailers(id uint32, code, message string) {
	kv := []string{"grpc-status", code}
	if message != "" {
		kv = append(kv, "grpc-message", message)
	}
	k.headers(Down, id, true, kv...)
}

// answer is a whole answer that went well.
func (k *talk) answer(id uint32, messages ...string) {
	k.begin(id)
	for _, m := range messages {
		k.data(Down, id, false, frame(m))
	}
	k.trailers(id, "0", "")
}

func (k *talk) feed(t *Tap) {
	for _, s := range k.steps {
		t.Feed(s.d, s.b)
	}
}

// frame is a gRPC message as DATA carries it.
func frame(message string) []byte { return prefixed(0, message) }

func zipped(message string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(message)); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return prefixed(1, b.String())
}

func prefixed(flag byte, message string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message))), message...)
}

// A listener is an observer that remembers. Unless told otherwise it wants everything.
type listener struct {
	room   func(method string) int
	limits func(method string, request []byte) Limits
	calls  []Call
	passed []string
}

func (l *listener) Request(method string) int {
	if l.room != nil {
		return l.room(method)
	}
	return 1 << 16
}

func (l *listener) Response(method string, request []byte) Limits {
	if l.limits != nil {
		return l.limits(method, request)
	}
	return Limits{Bytes: 1 << 16}
}

func (l *listener) Observe(c Call) { l.calls = append(l.calls, c) }

// tap returns a tap in which a panic is not hidden.
func (l *listener) tap() *Tap {
	t := New(Config{
		Endpoint: "127.0.0.1:2379", Epoch: func() uint64 { return 7 }, Observer: l,
		Passed: func(why string) { l.passed = append(l.passed, why) },
	})
	t.letPanic = true
	return t
}

// lines tells what was observed, for comparison with a table.
func (l *listener) lines() (lines []string) {
	for _, c := range l.calls {
		s := fmt.Sprintf("%s %q → %q code=%d", c.Method, c.Request, c.Responses, c.Code)
		if c.Message != "" {
			s += fmt.Sprintf(" %q", c.Message)
		}
		if c.Truncated {
			s += " truncated"
		}
		if !c.Final {
			s += " goes on"
		}
		if c.Epoch != 7 {
			s += fmt.Sprintf(" epoch=%d", c.Epoch)
		}
		lines = append(lines, s)
	}
	for _, why := range l.passed {
		lines = append(lines, "passed: "+why)
	}
	return lines
}

// A recorded conversation (testdata/conversations/*.bin) is a sequence of chunks in the order in which a relay fed them:
//
//	1 byte   'U' (client → member) or 'D'
//	4 bytes  length, big endian
//	length bytes
//
// A file cut short is read as far as it goes, and any other first byte than 'U' means 'D': the fuzzer writes such files too.
func parseConversation(b []byte) (steps []step) {
	for len(b) > 5 {
		d := Down
		if b[0] == 'U' {
			d = Up
		}
		n := binary.BigEndian.Uint32(b[1:])
		b = b[5:]
		n = uint32(min(uint64(n), uint64(len(b))))
		steps = append(steps, step{d, b[:n]})
		b = b[n:]
	}
	return steps
}

func appendConversation(b []byte, s step) []byte {
	b = append(b, "UD"[s.d])
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.b)))
	return append(b, s.b...)
}

func writeConversation(file string, steps []step) error {
	var b []byte
	for _, s := range steps {
		b = appendConversation(b, s)
	}
	return os.WriteFile(file, b, 0o644)
}
