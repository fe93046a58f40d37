package proxy

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/etcd-parallax/parallax/proxy/tap"
	"github.com/etcd-parallax/parallax/proxy/wire"
)

// frames are what an HTTP/2 client says, written by hand: also what no client would say.
type frames struct {
	out   bytes.Buffer
	block bytes.Buffer
	*http2.Framer
	hpack *hpack.Encoder
}

// opening is the preface and SETTINGS.
func opening() *frames {
	f := new(frames)
	f.Framer = http2.NewFramer(&f.out, nil)
	f.AllowIllegalWrites = true
	f.hpack = hpack.NewEncoder(&f.block)
	f.out.WriteString(http2.ClientPreface)
	f.out.Write(noSettings)
	return f
}

func (f *frames) bytes() []byte { return f.out.Bytes() }

// must: writes to a buffer do not fail, but for arguments that Framer does not take.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// fields encodes a header block: name, value, name, value, …
func (f *frames) fields(kv ...string) []byte {
	f.block.Reset()
	for i := 0; i < len(kv); i += 2 {
		must(f.hpack.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]}))
	}
	return bytes.Clone(f.block.Bytes())
}

// headers sends a block, in as many frames as it takes.
func (f *frames) headers(id uint32, end bool, block []byte) *frames {
	const most = 16 << 10
	n := min(len(block), most)
	must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block[:n], EndHeaders: n == len(block), EndStream: end}))
	for block = block[n:]; len(block) > 0; block = block[n:] {
		n = min(len(block), most)
		must(f.WriteContinuation(id, n == len(block), block[:n]))
	}
	return f
}

// open begins a call of a method.
func (f *frames) open(id uint32, method string) *frames {
	return f.headers(id, false, f.fields(":method", "POST", ":scheme", "http", ":path", method, ":authority", "member",
		"content-type", "application/grpc", "te", "trailers"))
}

// An attack is what a hostile client says behind its preface, and what becomes of the tap.
type attack struct {
	name string
	say  func(f *frames)
	ends tap.Reason // "": the tap hears it all
}

const rangeMethod = "/etcdserverpb.KV/Range"

var attacks = []attack{
	{"SETTINGS", func(f *frames) {
		for i := range uint32(20_000) {
			must(f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: i}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: i}))
		}
	}, ""},
	{"SETTINGS that acknowledge nothing", func(f *frames) {
		for range 50_000 {
			must(f.WriteSettingsAck())
		}
	}, ""},
	{"PING", func(f *frames) {
		for range 30_000 {
			must(f.WritePing(false, [8]byte{}))
		}
	}, ""},
	{"CONTINUATION without end", func(f *frames) {
		must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1}))
		for range 1000 {
			must(f.WriteContinuation(1, false, bytes.Repeat([]byte("\x00\x01a\x01b"), 200)))
		}
	}, tap.ReasonMemory},
	{"empty CONTINUATION without end", func(f *frames) {
		must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1}))
		for range 50_000 {
			must(f.WriteContinuation(1, false, nil))
		}
	}, ""},
	{"rapid reset", func(f *frames) {
		for i := range uint32(10_000) {
			f.open(2*i+1, rangeMethod)
			must(f.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
		}
	}, ""},
	{"calls without end", func(f *frames) {
		for i := range uint32(10_000) {
			f.open(2*i+1, rangeMethod)
		}
	}, ""},
	{"more calls without end", func(f *frames) {
		for i := range uint32(40_000) {
			f.open(2*i+1, rangeMethod)
		}
	}, tap.ReasonMemory},
	{"requests without answer", func(f *frames) {
		for i := range uint32(3000) {
			f.open(2*i+1, rangeMethod)
			must(f.WriteData(2*i+1, true, message(make([]byte, 500))))
		}
	}, ""},
	{"HPACK table churned", func(f *frames) {
		// Empty names and values are the smallest entries: as many as there can be are pushed out one by one.
		for i := range uint32(10) {
			f.headers(2*i+1, true, bytes.Repeat([]byte("\x40\x00\x00"), 5000))
		}
	}, ""},
	{"HPACK table of 64 KiB churned", func(f *frames) {
		f.headers(1, true, []byte("\x3f\xe1\xff\x03")) // the table is to be 64 KiB, which no member has allowed
		for i := range uint32(10) {
			f.headers(2*i+3, true, bytes.Repeat([]byte("\x40\x00\x00"), 5000))
		}
	}, tap.ReasonHPACK},
	{"HPACK bomb", func(f *frames) {
		f.headers(1, true, append([]byte("\x40\x01a\x7f\xa1\x1e"), make([]byte, 4000)...)) // an entry of 4 KiB
		for i := range uint32(10) {
			f.headers(2*i+3, true, bytes.Repeat([]byte("\xbe"), 60_000)) // and 60,000 times that one
		}
	}, tap.ReasonMemory},
	{"names of 64 KiB", func(f *frames) {
		for i := range uint32(20) {
			f.headers(2*i+1, true, f.fields(strings.Repeat("~", 65_000), "v"))
		}
	}, ""},
	{"a method of a MiB", func(f *frames) { f.open(1, "/"+strings.Repeat("~", 1<<20)) }, tap.ReasonMemory},
	{"endless numbers in HPACK", func(f *frames) { f.headers(1, true, bytes.Repeat([]byte("\xff"), 1000)) }, tap.ReasonHPACK},
	{"Huffman that is none", func(f *frames) { f.headers(1, true, []byte("\x00\x01a\x84\xff\xff\xff\xff")) }, tap.ReasonHPACK},
	{"WINDOW_UPDATE", func(f *frames) {
		for range 50_000 {
			must(f.WriteWindowUpdate(0, 1))
		}
	}, ""},
	{"WINDOW_UPDATE beyond", func(f *frames) {
		for range 1000 {
			must(f.WriteWindowUpdate(0, 1<<31-1))
		}
	}, ""},
	{"empty DATA", func(f *frames) {
		f.open(1, rangeMethod)
		for range 100_000 {
			must(f.WriteData(1, false, nil))
		}
	}, ""},
	{"DATA of one byte", func(f *frames) {
		f.open(1, rangeMethod)
		for _, b := range message(make([]byte, 30_000)) {
			must(f.WriteData(1, false, []byte{b}))
		}
	}, ""},
	{"padding", func(f *frames) {
		f.open(1, rangeMethod)
		for range 5000 {
			must(f.WriteDataPadded(1, false, nil, make([]byte, 255)))
		}
	}, ""},
	{"padding that is longer than the frame", func(f *frames) {
		f.open(1, rangeMethod)
		must(f.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{200, 0}))
	}, tap.ReasonFrame},
	{"PRIORITY", func(f *frames) {
		for i := range uint32(50_000) {
			must(f.WritePriority(2*i+1, http2.PriorityParam{StreamDep: 2*i + 3, Weight: 1}))
		}
	}, ""},
	{"frames of unknown types", func(f *frames) {
		for i := range 20_000 {
			must(f.WriteRawFrame(http2.FrameType(0x10+i%200), http2.Flags(i), uint32(i), make([]byte, i%50)))
		}
	}, ""},
	{"a frame of 16 MiB", func(f *frames) {
		must(f.WriteRawFrame(http2.FrameType(0x20), 0, 0, make([]byte, 1<<24-1)))
	}, ""},
	{"DATA of no stream", func(f *frames) { must(f.WriteData(7, false, make([]byte, 1000))) }, tap.ReasonStreamID},
	{"streams of the member's", func(f *frames) { f.open(2, rangeMethod) }, tap.ReasonStreamID},
	{"a frame within a header block", func(f *frames) {
		must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1}))
		must(f.WritePing(false, [8]byte{}))
	}, tap.ReasonFrame},
	{"PUSH_PROMISE", func(f *frames) {
		f.open(1, rangeMethod)
		must(f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: []byte{0x82}, EndHeaders: true}))
	}, tap.ReasonPush},
	{"GOAWAY", func(f *frames) {
		for range 20_000 {
			must(f.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil))
		}
	}, ""},
	{"gzip bombs", func(f *frames) {
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		_, _ = z.Write(make([]byte, 1<<20))
		must(z.Close())
		for i := range uint32(50) {
			id := 2*i + 1
			f.headers(id, false, f.fields(":method", "POST", ":scheme", "http", ":path", rangeMethod, "grpc-encoding", "gzip"))
			b := message(zipped.Bytes())
			b[0] = 1
			must(f.WriteData(id, true, b))
		}
	}, ""},
	{"garbage", func(f *frames) {
		rnd := rand.NewChaCha8([32]byte{1})
		b := make([]byte, 1<<20)
		_, _ = rnd.Read(b)
		b[3] = 0xff // not by chance a frame that is well-formed
		f.out.Write(b)
	}, anyReason},
}

// anyReason: the tap ends or not, as chance will have it.
const anyReason tap.Reason = "any"

func message(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// said is the whole of an attack, with the preface.
func (a attack) said() []byte {
	f := opening()
	a.say(f)
	return f.bytes()
}

// BenchmarkAttacks tells what a MiB of each attack costs the tap; "relay" is what it costs to carry one from socket to socket, with all
// that the kernel and both ends have to do. What a member pays is many times that.
//
//	go test -run='^$' -bench=Attacks ./proxy
func BenchmarkAttacks(b *testing.B) {
	const mib = 1 << 20
	b.Run("relay", func(b *testing.B) {
		p := &Proxy{Endpoints: []string{member(b, deaf)}}
		c := dialTCP(b, serve(b, p))
		chunk := make([]byte, mib)
		b.SetBytes(mib)
		for b.Loop() {
			if _, err := c.Write(chunk); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, a := range attacks {
		b.Run(strings.ReplaceAll(a.name, " ", "_"), func(b *testing.B) {
			said := a.said()
			runtime.LockOSThread() // other tests take their time, which is not the tap's
			defer runtime.UnlockOSThread()
			var spent time.Duration
			for b.Loop() {
				t := tap.New(tap.Config{Observer: observer{}})
				begin := threadTime(b)
				for rest := said; len(rest) > 0; {
					n := min(len(rest), wire.BufferSize)
					t.Feed(tap.Up, rest[:n])
					rest = rest[n:]
				}
				spent += threadTime(b) - begin
				t.Close()
			}
			b.ReportMetric(spent.Seconds()*1e3/float64(b.N)/(float64(len(said))/mib), "ms/MiB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// threadTime is the CPU time of this thread.
func threadTime(b *testing.B) time.Duration {
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
