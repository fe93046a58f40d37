package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/etcd-parallax/parallax/proxy/transport"
)

// counted is a Dial that counts, for tests of who is dialed.
func counted(n *atomic.Int64) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, endpoint string) (net.Conn, error) {
		n.Add(1)
		return transport.Dial(ctx, endpoint)
	}
}

func refusedFor(p *Proxy, reason string) float64 {
	return testutil.ToFloat64(p.Metrics.refusedTotal.WithLabelValues(reason))
}

// echoes says whether a connection has a member.
func echoes(c net.Conn) bool {
	_, _ = io.WriteString(c, "x")
	_, err := io.ReadFull(c, make([]byte, 1))
	return err == nil
}

// deaf is a member that reads and says nothing.
func deaf(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func wantRefused(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read %d bytes, %v; want the connection to be refused", n, err)
	}
}

// ready is a proxy that may be looked into: Serve makes it so when it has come to run.
func ready(p *Proxy) *Proxy {
	_ = p.init()
	return p
}

// nothingLeft waits until all connections are over, and checks that nothing remembers them.
func nothingLeft(t *testing.T, p *Proxy) {
	t.Helper()
	eventually(t, "all connections to be over", func() bool { return testutil.ToFloat64(p.Metrics.connections) == 0 })
	p.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns)+len(p.peers) != 0 {
		t.Errorf("%d connections and %d peers are remembered", len(p.conns), len(p.peers))
	}
	for _, e := range p.Endpoints {
		for _, state := range []string{tapped, blind} {
			if n := testutil.ToFloat64(p.Metrics.memberConnections.WithLabelValues(e, state)); n != 0 {
				t.Errorf("%v connections to %s are counted as %s", n, e, state)
			}
		}
	}
	if n := p.Budget.Used(); n != 0 {
		t.Errorf("%d bytes of the taps' budget are held", n)
	}
}

// GUARANTEE G7: Memory is bounded, per connection and in all.
func TestG7ConnectionsAreLimited(t *testing.T) {
	const most = 3
	var dials atomic.Int64
	p := &Proxy{Endpoints: []string{member(t, echo)}, Dial: counted(&dials), Metrics: NewMetrics(nil), MaxConnections: most}
	address := serve(t, ready(p))
	conns := []net.Conn{dialTCP(t, address)} // one that says nothing counts as well
	eventually(t, "the silent one to be accepted", func() bool { return len(p.open()) == 1 })
	for len(conns) < most {
		c := dialTCP(t, address)
		if !echoes(c) {
			t.Fatalf("connection %d of %d is refused", len(conns)+1, most)
		}
		conns = append(conns, c)
	}
	for i := range 5 {
		wantRefused(t, dialTCP(t, address))
		if got := refusedFor(p, refusedConnections); got != float64(i+1) {
			t.Errorf("%v are counted as refused, want %d", got, i+1)
		}
	}
	if got := dials.Load(); got != most-1 {
		t.Errorf("%d members were dialed for %d clients that spoke", got, most-1)
	}
	for _, c := range conns { // each place is free again, the silent one's too
		_ = c.Close()
		eventually(t, "a place to be free", func() bool { return len(p.open()) == most-1 })
		if again := dialTCP(t, address); !echoes(again) {
			t.Error("a place that was freed is not given away")
		}
	}
	if got := testutil.ToFloat64(p.Metrics.connectionsTotal); got != 2*most {
		t.Errorf("%v connections were accepted, want %d", got, 2*most)
	}
	p.Close()
	nothingLeft(t, p)
}

// One address may have so many, and no other pays for it. Sockets have no address; a member of the IPv6 family that writes an
// IPv4 address is who has that one.
func TestConnectionsOfOnePeerAreLimited(t *testing.T) {
	const most = 2
	var dials atomic.Int64
	p := &Proxy{Endpoints: []string{member(t, echo)}, Dial: counted(&dials), Metrics: NewMetrics(nil), MaxPerPeer: most}
	address := serve(t, ready(p))
	from := func(ip string) *net.TCPConn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		c, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c.(*net.TCPConn)
	}
	var first net.Conn
	for _, ip := range []string{"127.0.0.1", "127.0.0.2"} {
		for range most {
			c := from(ip)
			if !echoes(c) {
				t.Fatalf("a connection of %s is refused", ip)
			}
			first = c
		}
		wantRefused(t, from(ip))
	}
	if got := refusedFor(p, refusedPeer); got != 2 {
		t.Errorf("%v are counted as refused, want 2", got)
	}
	_ = first.Close()
	eventually(t, "a place to be free", func() bool { return len(p.open()) == 2*most-1 })
	wantRefused(t, from("127.0.0.1"))
	if !echoes(from("127.0.0.2")) {
		t.Error("the place that 127.0.0.2 has freed is not given to it")
	}
	if got := dials.Load(); got != 2*most+1 {
		t.Errorf("%d members were dialed", got)
	}

	socket := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, p, l)
	for range 5 * most {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if !echoes(c) {
			t.Fatal("a connection on a socket is refused")
		}
	}
	p.Close()
	nothingLeft(t, p)
}

// comesFrom is a connection of a client with an address of our choice.
type comesFrom struct {
	net.Conn
	address net.Addr
}

func (c comesFrom) RemoteAddr() net.Addr { return c.address }

func TestPeersAreAddresses(t *testing.T) {
	p := &Proxy{Endpoints: []string{nobody(t)}, Metrics: NewMetrics(nil), MaxPerPeer: 1}
	if err := p.init(); err != nil {
		t.Fatal(err)
	}
	var all []*conn
	for _, tc := range []struct {
		ip   net.IP
		zone string
		port int
		in   bool
	}{
		{net.IP{10, 0, 0, 1}, "", 1, true},
		{net.IP{10, 0, 0, 1}, "", 2, false},
		{net.ParseIP("::ffff:10.0.0.1"), "", 3, false},
		{net.IP{10, 0, 0, 2}, "", 1, true},
		{net.ParseIP("fe80::1"), "eth0", 1, true},
		{net.ParseIP("fe80::1"), "eth1", 1, true}, // another network, another host
		{net.ParseIP("fe80::1"), "eth0", 2, false},
		{net.ParseIP("2001:db8::1"), "", 1, true},
		{net.ParseIP("2001:db8::2"), "", 1, false}, // one host has all of its network
		{net.ParseIP("2001:db8:0:1::1"), "", 1, true},
	} {
		client, ours := net.Pipe()
		defer client.Close()
		c := p.add(comesFrom{ours, &net.TCPAddr{IP: tc.ip, Zone: tc.zone, Port: tc.port}}, &Listener{})
		if (c != nil) != tc.in {
			t.Errorf("%v%%%s port %d: taken in: %t, want %t", tc.ip, tc.zone, tc.port, c != nil, tc.in)
		}
		if c != nil {
			all = append(all, c)
		}
	}
	for _, c := range all {
		p.forget(c)
	}
	nothingLeft(t, p)
}

// These are clients that take their time before they have a member. Everything happens in a bubble, so that each limit
// is exact.
func TestTimeLimitsBeforeAMember(t *testing.T) {
	const limit = 10 * time.Second
	pki := newPKI(t)
	for name, tc := range map[string]struct {
		tls    bool
		client func(c net.Conn)
		after  time.Duration
		reason string
	}{
		"says nothing": {false, func(net.Conn) {}, limit, refusedSilent},
		"hangs up":     {false, func(c net.Conn) { time.Sleep(time.Second); _ = c.Close() }, time.Second, refusedSilent},
		"no handshake": {true, func(net.Conn) {}, limit, refusedHandshake},
		"no TLS":       {true, func(c net.Conn) { _, _ = io.WriteString(c, "GET /version HTTP/1.1\r\n\r\n") }, 0, refusedHandshake},
		"a hello byte by byte": {true, func(c net.Conn) {
			for _, b := range pki.hello {
				time.Sleep(limit / 9)
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
			}
		}, limit, refusedHandshake},
		"a handshake, and then nothing": {true, func(c net.Conn) {
			time.Sleep(limit / 2)
			_ = tls.Client(c, pki.client("h2")).Handshake()
		}, limit + limit/2, refusedSilent},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, ours := net.Pipe()
				defer client.Close()
				var dials atomic.Int64
				p := &Proxy{Endpoints: []string{"http://127.0.0.1:1"}, Dial: counted(&dials), Metrics: NewMetrics(nil), HandshakeTimeout: limit}
				l := newFakeListener()
				l.accepts <- accepted{conn: ours}
				from := &Listener{Listener: l}
				if tc.tls {
					from.TLS = func() *tls.Config { return pki.server("h2", "http/1.1") }
				}
				begin := time.Now()
				serveListener(t, ready(p), from)
				var speaking sync.WaitGroup
				speaking.Go(func() {
					tc.client(client)
					_, _ = io.Copy(io.Discard, client) // an alert, for one
				})
				synctest.Wait()
				for len(p.open()) > 0 && time.Since(begin) < 10*limit {
					time.Sleep(time.Millisecond)
				}
				if took := time.Since(begin); took < tc.after || took > tc.after+2*time.Millisecond {
					t.Errorf("it took %v, want %v", took, tc.after)
				}
				if got := refusedFor(p, tc.reason); got != 1 || dials.Load() != 0 {
					t.Errorf("%v are counted as %s, want 1; %d members were dialed, want none", got, tc.reason, dials.Load())
				}
				nothingLeft(t, p)
				_ = client.Close()
				speaking.Wait()
			})
		})
	}
}

// Once a client has spoken there is no limit on its silence: an idle watch is one.
func TestQuietConnectionsLive(t *testing.T) {
	pki := newPKI(t)
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%t", secure), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, ours := net.Pipe()
				theirs, memberSide := net.Pipe()
				p := &Proxy{Endpoints: []string{"pipe"}, Dial: func(context.Context, string) (net.Conn, error) { return theirs, nil }}
				l := newFakeListener()
				l.accepts <- accepted{conn: ours}
				from := &Listener{Listener: l}
				if secure {
					from.TLS = func() *tls.Config { return pki.server("h2") }
					client = tls.Client(client, pki.client("h2"))
				}
				serveListener(t, ready(p), from)
				go echo(memberSide)
				for range 3 {
					if !echoes(client) {
						t.Fatal("a quiet connection was ended")
					}
					time.Sleep(31 * 24 * time.Hour)
				}
				go func() { _, _ = io.Copy(io.Discard, client) }() // close_notify
				p.Close()
				_ = client.Close()
				_ = memberSide.Close()
			})
		})
	}
}

// A flood of connections that say nothing costs their file descriptors and little else, members nothing, and is over when their time is.
//
// GUARANTEE G7: Memory is bounded, per connection and in all.
func TestG7FloodOfSilentConnections(t *testing.T) {
	const flood, eachAtMost = 1000, 20 << 10 // with the client's end, and the stacks of goroutines: two in a handshake
	pki := newPKI(t)
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%t", secure), func(t *testing.T) {
			var dials atomic.Int64
			p := &Proxy{Endpoints: []string{member(t, echo)}, Dial: counted(&dials), Observer: observer{}, Metrics: NewMetrics(nil)}
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			from := &Listener{Listener: l}
			if secure {
				from.TLS = func() *tls.Config { return pki.server("h2") }
			}
			serveListener(t, ready(p), from)
			before := inUse()
			clients := make([]net.Conn, flood)
			for i := range clients {
				clients[i] = dialTCP(t, l.Addr().String())
				if secure {
					_, _ = clients[i].Write(pki.hello[:50]) // and no more of it
				}
			}
			eventually(t, "all to be accepted", func() bool { return len(p.open()) == flood })
			if each := (inUse() - before) / flood; each > eachAtMost {
				t.Errorf("a silent connection holds %d bytes, want at most %d", each, eachAtMost)
			}
			if secure {
				honest := tls.Client(dialTCP(t, l.Addr().String()), pki.client("h2"))
				if !echoes(honest) {
					t.Error("an honest client is not served meanwhile")
				}
			} else if !echoes(dialTCP(t, l.Addr().String())) {
				t.Error("an honest client is not served meanwhile")
			}
			if dials.Load() != 1 {
				t.Errorf("%d connections to members, want that of the honest client alone", dials.Load())
			}
			for _, c := range clients {
				_ = c.Close()
			}
			eventually(t, "the flood to be over", func() bool { return len(p.open()) <= 1 })
			p.Close()
			nothingLeft(t, p)
		})
	}
}

// inUse is heap and stacks, after collections.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // a pool keeps what it is given until the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
