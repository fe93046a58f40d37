package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"

	"github.com/etcd-parallax/parallax/proxy/tap"
	"github.com/etcd-parallax/parallax/proxy/transport"
	"github.com/etcd-parallax/parallax/proxy/wire"
)

// heard remembers what was written to a member.
type heard struct {
	net.Conn
	mu  sync.Mutex
	all bytes.Buffer
}

func (h *heard) Write(b []byte) (int, error) {
	n, err := h.Conn.Write(b)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all.Write(b[:n])
	return n, err
}

func (h *heard) CloseWrite() error { return h.Conn.(*net.TCPConn).CloseWrite() }

func (h *heard) said() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Clone(h.all.Bytes())
}

// A hostile client costs its own connection: what it says reaches the member as it is, which has limits of its own; at worst its tap ends;
// and an honest client is served meanwhile.
//
// GUARANTEE G1: What a client and a member exchange through Parallax is byte for byte what they sent, but for a
// GOAWAY when a connection is to move.
func TestG1HostileClients(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			var last atomic.Pointer[heard]
			p := &Proxy{
				Endpoints: []string{grpcMember(t, &service{})}, Observer: observer{}, Metrics: NewMetrics(nil), Methods: []string{unaryMethod},
				Dial: func(ctx context.Context, e string) (net.Conn, error) {
					c, err := transport.Dial(ctx, e)
					if err != nil {
						return nil, err
					}
					h := &heard{Conn: c}
					last.Store(h)
					return h, nil
				},
			}
			address := serve(t, ready(p))
			honest := grpcClient(t, address)
			callFrom(t, honest, 1, 1) // it is connected
			connected := last.Load()

			c := dialTCP(t, address)
			said := a.said()
			var all sync.WaitGroup
			all.Go(func() { callFrom(t, honest, 2, 25) })
			all.Go(func() { _, _ = io.Copy(io.Discard, c) })
			_, err := c.Write(said)
			eventually(t, "a member to be dialed", func() bool { return last.Load() != connected })
			attacked := last.Load()
			over := func() bool { return len(p.open()) == 1 }
			if err == nil {
				eventually(t, "the member to have it all, or enough", func() bool { return len(attacked.said()) == len(said) || over() })
			}
			if got := attacked.said(); !bytes.HasPrefix(said, got) {
				t.Errorf("%d bytes reached the member, that are not those of the client", len(got))
			}
			ended := testutil.CollectAndCount(p.Metrics.tapsEnded)
			switch {
			case a.ends == anyReason:
			case a.ends == "" && ended > 0:
				t.Error("the tap has ended")
			case a.ends != "":
				eventually(t, "the tap to end by "+string(a.ends), func() bool {
					return testutil.ToFloat64(p.Metrics.tapsEnded.WithLabelValues(string(a.ends))) == 1
				})
			}
			_ = c.Close()
			all.Wait()
			callFrom(t, honest, 1, 1)
			eventually(t, "the hostile connection to be over", over)
			if n := testutil.ToFloat64(p.Metrics.connectionsTotal); n != 2 {
				t.Errorf("%v connections: the honest client's was broken off", n)
			}
			p.Close()
			nothingLeft(t, p)
		})
	}
}

// Whatever hostile clients have said, a connection holds no more than this, apart from the taps' budget. The most is for
// 16 Ki open streams; the member holds a goroutine for each.
//
// GUARANTEE G7: Memory is bounded, per connection and in all.
func TestG7HostileConnectionsHoldLittle(t *testing.T) {
	const conns, eachAtMost, budget = 4, 1 << 20, 2 << 20
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			p := &Proxy{
				Endpoints: []string{member(t, deaf)}, Observer: observer{}, Metrics: NewMetrics(nil), Budget: tap.NewBudget(budget),
			}
			address := serve(t, ready(p))
			said := a.said()
			before := inUse()
			for range conns {
				if _, err := dialTCP(t, address).Write(said); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "all to be passed on", func() bool {
				return testutil.ToFloat64(p.Metrics.up) == float64(conns*len(said))
			})
			held := p.Budget.Used()
			each := (inUse() - before - held) / conns
			runtime.KeepAlive(said) // it is counted before
			if testing.Verbose() {
				t.Logf("%d KiB said, %d KiB held of each connection, and %d KiB of the budget", len(said)>>10, each>>10, held>>10)
			}
			if each > eachAtMost || held > budget {
				t.Errorf("a connection holds %d bytes, want at most %d; the taps together %d, want at most %d", each, eachAtMost, held, budget)
			}
			p.Close()
			nothingLeft(t, p)
		})
	}
}

// A client that does not come to the end of its preface is disconnected when its time is over, and no member hears of it.
func TestAPrefaceWithoutEnd(t *testing.T) {
	p := &Proxy{Observer: observer{}, Metrics: NewMetrics(nil), HandshakeTimeout: 100 * time.Millisecond, Endpoints: []string{member(t, func(net.Conn) {
		t.Error("a member was dialed")
	})}}
	c := dialTCP(t, serve(t, ready(p)))
	for _, b := range []byte(http2.ClientPreface[:len(http2.ClientPreface)-1]) {
		if _, err := c.Write([]byte{b}); err != nil {
			break // it is over already, on busy cores
		}
	}
	if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it was not disconnected")
	}
	eventually(t, "the connection to be counted", func() bool {
		return testutil.ToFloat64(p.Metrics.refusedTotal.WithLabelValues(refusedSilent)) == 1
	})
	nothingLeft(t, p)
}

// Clients that ask for much and read nothing hold what is in one buffer (some of them a large one), and hold up nobody else.
//
// GUARANTEE G7: Memory is bounded, per connection and in all.
func TestG7ClientsThatDoNotRead(t *testing.T) {
	const conns, eachAtMost, budget, size = 20, 256<<10 + wire.BulkSize, 4 << 20, 32 << 20
	pki := newPKI(t)
	answer := opening()
	answer.out.Reset()
	must(answer.WriteSettings())
	answer.headers(1, false, answer.fields(":status", "200"))
	for answer.out.Len() < size {
		must(answer.WriteData(1, false, message(make([]byte, 4<<10))))
	}
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64 // by members
			p := &Proxy{
				Observer: observer{}, Metrics: NewMetrics(nil), Budget: tap.NewBudget(budget),
				Endpoints: []string{member(t, func(c net.Conn) {
					for rest := answer.bytes(); len(rest) > 0; {
						n, err := c.Write(rest[:min(len(rest), 64<<10)])
						sent.Add(int64(n))
						if err != nil {
							return
						}
						rest = rest[n:]
					}
					t.Error("a member could send all, to a client that reads nothing")
				})},
			}
			var address string
			if secure {
				address = pki.listen(t, p)
			} else {
				address = serve(t, ready(p))
			}
			before := inUse()
			for range conns {
				c := net.Conn(dialTCP(t, address))
				if secure {
					c = tls.Client(c, pki.client("h2"))
				}
				if _, err := c.Write(opening().open(1, rangeMethod).bytes()); err != nil {
					t.Fatal(err)
				}
			}
			for last := int64(-1); last != sent.Load() || last == 0; time.Sleep(300 * time.Millisecond) {
				last = sent.Load() // that nothing moves any more can only be seen by waiting
			}
			held := p.Budget.Used()
			if each := (inUse() - before - held) / conns; each > eachAtMost || held > budget {
				t.Errorf("a connection holds %d bytes, want at most %d; the taps together %d, want at most %d", each, eachAtMost, held, budget)
			}
			if n := len(p.open()); n != conns {
				t.Errorf("%d connections are open of %d", n, conns)
			}
			p.Close()
			nothingLeft(t, p)
		})
	}
}
