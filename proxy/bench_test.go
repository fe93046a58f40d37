package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// BenchmarkRelay compares in one run: no proxy at all; the plainest relay that can be written (two io.Copy, which
// the kernel splices); this one without an observer; with one that wants no call; and with one that wants a copy
// of each. The bytes are those of a gRPC client and server, but no gRPC library runs at the ends, so what is
// measured is mostly the relay. A "get" is answered with 1 KiB, a "list" with 500 KiB.
//
//	go test -run='^$' -bench=Relay -count=10 ./proxy | benchstat -row=/load -col=/relay -
func BenchmarkRelay(b *testing.B) {
	for _, load := range []struct {
		name   string
		answer int
	}{{"get", 1 << 10}, {"list", 500 << 10}} {
		for _, relay := range []string{"none", "io.Copy", "blind", "unwanted", "copied"} {
			b.Run(fmt.Sprintf("load=%s/relay=%s", load.name, relay), func(b *testing.B) {
				s := script(b, load.answer)
				endpoint := member(b, s.answer)
				address := hostPort(b, endpoint)
				p := &Proxy{Endpoints: []string{endpoint}, Metrics: NewMetrics(nil)}
				switch relay {
				case "none":
				case "io.Copy":
					direct := address
					address = hostPort(b, member(b, func(c net.Conn) { copyBoth(b.Context(), c, direct) }))
				case "unwanted":
					p.Observer = observer{request: func(string) int { return 0 }}
					address = serve(b, p)
				case "copied":
					p.Observer = observer{}
					address = serve(b, p)
				default:
					address = serve(b, p)
				}
				s.ask(b, address)
				if testutil.CollectAndCount(p.Metrics.tapsEnded) != 0 {
					b.Error("the tap has ended: nothing was measured")
				}
			})
		}
	}
}

func hostPort(b *testing.B, endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		b.Fatal(err)
	}
	return u.Host
}

// exchange is what client and server of one unary call send, as bytes in which only the stream's id changes.
type exchange struct {
	request, response   []byte
	requestAt, answerAt []int // where the ids are
}

func script(b *testing.B, size int) *exchange {
	var x exchange
	var block bytes.Buffer
	h := hpack.NewEncoder(&block)
	h.SetMaxDynamicTableSize(0) // so that the same bytes mean the same each time
	fields := func(kv ...string) []byte {
		block.Reset()
		for i := 0; i < len(kv); i += 2 {
			if err := h.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]}); err != nil {
				b.Fatal(err)
			}
		}
		return bytes.Clone(block.Bytes())
	}
	frames := func(write func(f *http2.Framer) error) ([]byte, []int) {
		var out bytes.Buffer
		if err := write(http2.NewFramer(&out, nil)); err != nil {
			b.Fatal(err)
		}
		var at []int
		for i := 0; i < out.Len(); {
			at = append(at, i+5)
			i += 9 + int(binary.BigEndian.Uint32(out.Bytes()[i:])>>8)
		}
		return out.Bytes(), at
	}
	headers := func(f *http2.Framer, end bool, kv ...string) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields(kv...), EndHeaders: true, EndStream: end})
	}
	data := func(f *http2.Framer, end bool, size int) error {
		b := binary.BigEndian.AppendUint32([]byte{0}, uint32(size))
		for b = append(b, make([]byte, size)...); len(b) > 16<<10; b = b[16<<10:] {
			if err := f.WriteData(1, false, b[:16<<10]); err != nil {
				return err
			}
		}
		return f.WriteData(1, end, b)
	}
	x.request, x.requestAt = frames(func(f *http2.Framer) error {
		if err := headers(f, false, ":method", "POST", ":scheme", "http", ":path", "/etcdserverpb.KV/Range", ":authority", "127.0.0.1:2379",
			"content-type", "application/grpc", "user-agent", "grpc-go/1.85.0", "te", "trailers"); err != nil {
			return err
		}
		return data(f, true, 40)
	})
	x.response, x.answerAt = frames(func(f *http2.Framer) error {
		if err := headers(f, false, ":status", "200", "content-type", "application/grpc"); err != nil {
			return err
		}
		if err := data(f, false, size); err != nil {
			return err
		}
		return headers(f, true, "grpc-status", "0", "grpc-message", "")
	})
	return &x
}

// stamp makes a script one of another stream.
func stamp(b []byte, at []int, stream uint32) {
	for _, i := range at {
		binary.BigEndian.PutUint32(b[i:], stream)
	}
}

// noSettings is an empty SETTINGS frame: the first that each side must send.
var noSettings = []byte{0, 0, 0, 4, 0, 0, 0, 0, 0}

// answer is the server: it answers a request when it has all of it.
func (x *exchange) answer(c net.Conn) {
	got, answer := make([]byte, len(x.request)), bytes.Clone(x.response)
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface)+len(noSettings))); err != nil {
		return
	}
	if _, err := c.Write(noSettings); err != nil {
		return
	}
	for {
		if _, err := io.ReadFull(c, got); err != nil {
			return
		}
		stamp(answer, x.answerAt, binary.BigEndian.Uint32(got[5:]))
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// ask is the client: one call after the other.
func (x *exchange) ask(b *testing.B, address string) {
	c := dialTCP(b, address)
	if _, err := c.Write(append([]byte(http2.ClientPreface), noSettings...)); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, len(noSettings))); err != nil {
		b.Fatal(err)
	}
	answer := make([]byte, len(x.response))
	b.SetBytes(int64(len(answer)))
	b.ReportAllocs()
	for stream := uint32(1); b.Loop(); stream += 2 {
		stamp(x.request, x.requestAt, stream)
		if _, err := c.Write(x.request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			b.Fatal(err)
		}
	}
}

// copyBoth is the relay that one would write first.
func copyBoth(ctx context.Context, client net.Conn, address string) {
	member, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, member}, {member, client}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = client.Close()
			_ = member.Close()
		})
	}
	both.Wait()
}
