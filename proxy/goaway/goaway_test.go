package goaway

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/net/http2"
)

// frames are what a member might send.
func frames(t testing.TB, write func(*http2.Framer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	f.AllowIllegalWrites = true
	if err := write(f); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func settings(f *http2.Framer) error {
	return f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14})
}

func ack(f *http2.Framer) error  { return f.WriteSettingsAck() }
func ping(f *http2.Framer) error { return f.WritePing(false, [8]byte{1}) }
func data(f *http2.Framer) error { return f.WriteData(1, false, make([]byte, 300)) }
func gone(f *http2.Framer) error { return f.WriteGoAway(7, http2.ErrCodeNo, nil) }

func headers(end bool) func(*http2.Framer) error {
	return func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("abc"), EndHeaders: end})
	}
}

func continuation(end bool) func(*http2.Framer) error {
	return func(f *http2.Framer) error { return f.WriteContinuation(1, end, []byte("def")) }
}

func raw(s string) func(*http2.Framer) error {
	return func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameType(s[0]), 0, 0, []byte(s)) }
}

// Each story is a list of frames, and says for each whether a GOAWAY may stand behind it.
func TestWhereItMayStand(t *testing.T) {
	type step struct {
		write func(*http2.Framer) error
		open  bool
	}
	for name, story := range map[string][]step{
		"an ordinary connection":          {{settings, true}, {ack, true}, {headers(true), true}, {data, true}, {ping, true}},
		"a block in several frames":       {{settings, true}, {headers(false), false}, {continuation(false), false}, {continuation(true), true}},
		"the member's own":                {{settings, true}, {gone, false}, {data, false}, {settings, false}},
		"an acknowledgement comes first":  {{ack, false}, {settings, false}},
		"no SETTINGS at first":            {{data, false}, {settings, false}},
		"an unknown type":                 {{settings, true}, {raw("\xffgrease"), true}},
		"a block that is broken":          {{settings, true}, {headers(false), false}, {ping, false}, {continuation(true), false}},
		"a continuation of nothing":       {{settings, true}, {continuation(true), false}, {settings, false}},
		"headers of a block that go on":   {{settings, true}, {headers(false), false}, {headers(true), false}},
		"an answer in HTTP/1.1, however:": {{func(*http2.Framer) error { return nil }, false}},
	} {
		t.Run(name, func(t *testing.T) {
			var f Follower
			for i, s := range story {
				b := frames(t, s.write)
				for j := range b { // byte by byte: never inside a frame
					if j > 0 && f.Open() {
						t.Fatalf("step %d: may stand behind %d of %d bytes", i, j, len(b))
					}
					f.Feed(b[j : j+1])
				}
				if f.Open() != s.open {
					t.Fatalf("step %d: may stand there: %v, want %v", i, f.Open(), s.open)
				}
			}
		})
	}
	for _, text := range []string{"HTTP/1.1 200 OK\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "SSH-2.0-OpenSSH"} {
		var f Follower
		f.Feed([]byte(text))
		if f.Open() || !f.Closed() {
			t.Errorf("%q: open %v, closed %v", text, f.Open(), f.Closed())
		}
	}
}

// What is added is a GOAWAY as the framer of golang.org/x/net reads it.
func TestFrame(t *testing.T) {
	got, err := http2.NewFramer(nil, bytes.NewReader([]byte(Frame))).ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	if g, ok := got.(*http2.GoAwayFrame); !ok || g.LastStreamID != 1<<31-1 || g.ErrCode != http2.ErrCodeNo || len(g.DebugData()) != 0 {
		t.Errorf("%v", got)
	}
}

// FuzzFind: wherever the chunks are cut and whenever it is wanted, what comes out with the GOAWAY taken away is what went in, and
// the framer of golang.org/x/net, which enforces where frames may stand, reads on behind it as it would have read without it.
func FuzzFind(f *testing.F) {
	add := func(ws ...func(*http2.Framer) error) {
		var b []byte
		for _, w := range ws {
			b = append(b, frames(f, w)...)
		}
		for seed := range uint64(4) {
			f.Add(b, uint16(seed*17), seed)
		}
	}
	add(settings, ack, headers(true), data, ping, data)
	add(settings, headers(false), continuation(false), continuation(true), data)
	add(settings, gone, data)
	add(data, settings)
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"), uint16(3), uint64(1))
	f.Fuzz(func(t *testing.T, in []byte, wanted uint16, seed uint64) {
		var follower Follower
		var out []byte
		at := -1
		rnd := rand.New(rand.NewPCG(seed, 1))
		for b, fed := in, 0; len(b) > 0; {
			n := 1 + rnd.IntN(len(b))
			chunk := b[:n]
			b = b[n:]
			if at < 0 && fed >= int(wanted) {
				if k, ok := follower.Find(chunk); ok {
					out = append(out, chunk[:k]...)
					at = len(out)
					out = append(out, Frame...)
					chunk = chunk[k:]
				} else {
					out = append(out, chunk...)
					chunk = nil
				}
			}
			fed += n
			follower.Feed(chunk)
			out = append(out, chunk...)
		}
		if at < 0 {
			if !bytes.Equal(in, out) {
				t.Fatal("changed without a GOAWAY")
			}
			return
		}
		if !bytes.Equal(in, append(bytes.Clone(out[:at]), out[at+len(Frame):]...)) {
			t.Fatal("something else than a GOAWAY was added")
		}
		if without, with := read(in, false), read(out, true); without != with {
			t.Fatalf("behind the GOAWAY the client reads\n%s\nand without it\n%s", with, without)
		}
	})
}

// read is what a client reads, frame by frame; without the first GOAWAY of ours.
func read(b []byte, ours bool) (seen string) {
	f := http2.NewFramer(nil, bytes.NewReader(b))
	f.SetMaxReadFrameSize(1<<24 - 1)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return seen + err.Error()
		}
		if g, ok := frame.(*http2.GoAwayFrame); ok && ours && g.LastStreamID == 1<<31-1 {
			ours = false
			continue
		}
		seen += frame.Header().String() + "\n"
	}
}
