package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/etcd-parallax/parallax/proxy/goaway"
)

// A client floods its member and reads nothing, until nobody can move: each waits for the next to read. Then it goes. Nothing of
// it may be left: neither its place among the connections, nor its member's.
func TestAClientThatWasStuckLeavesNothingBehind(t *testing.T) {
	pki := newPKI(t)
	for _, tc := range []struct {
		name           string
		client, member bool // with TLS
		leave          func(*net.TCPConn)
	}{
		{"by a reset", false, false, func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }},
		{"by a close", false, false, func(c *net.TCPConn) { _ = c.Close() }}, // a reset too, as it has not read all
		{"by a reset, with TLS", true, true, func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			memberGone := make(chan struct{})
			stuck := func(c net.Conn) {
				stuff(c)
				_ = c.SetDeadline(time.Time{})
				// Busy with its answer, it does not read on before there is room for it.
				_, _ = c.Write(make([]byte, 16<<20))
				_, _ = io.Copy(io.Discard, c)
				close(memberGone)
			}
			p := &Proxy{MemberTLS: pki.towardsMembers, Metrics: NewMetrics(nil), MaxPerPeer: 1}
			if tc.member {
				p.Endpoints = []string{pki.member(t, func(c *tls.Conn) { stuck(c) })}
			} else {
				p.Endpoints = []string{member(t, stuck)}
			}
			var address string
			if tc.client {
				address = pki.listen(t, p)
			} else {
				address = serve(t, ready(p))
			}
			raw := dialTCP(t, address)
			var c net.Conn = raw
			if tc.client {
				c = tls.Client(raw, pki.client())
			}
			stuff(c)
			tc.leave(raw)
			eventually(t, "its connection to be over", func() bool { return len(p.open()) == 0 })
			<-memberGone
			nothingLeft(t, p)
		})
	}
}

// The other way round: a member that is gone does not keep its client, stuck as it is.
func TestAMemberThatWasStuckLeavesNothingBehind(t *testing.T) {
	gone := make(chan struct{})
	p := &Proxy{Metrics: NewMetrics(nil), Endpoints: []string{member(t, func(c net.Conn) {
		stuff(c)
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
		close(gone)
	})}}
	c := dialTCP(t, serve(t, ready(p)))
	stuff(c)
	<-gone
	_ = c.SetDeadline(time.Now().Add(patience))
	if n, err := io.Copy(io.Discard, c); err == nil {
		t.Errorf("%d bytes and an orderly end; want a reset, as the answer was cut off", n)
	}
	eventually(t, "its connection to be over", func() bool { return len(p.open()) == 0 })
	nothingLeft(t, p)
}

// A call that is under way when Parallax stops gets its whole answer, also when much of it is still on its way when the tap
// has heard its end, and the client says things meanwhile (it reads, and so opens its window).
func TestShutdownLosesNothingOfALargeAnswer(t *testing.T) {
	answer := opening()
	answer.out.Reset()
	must(answer.WriteSettings())
	answer.headers(1, false, answer.fields(":status", "200"))
	for range 64 {
		must(answer.WriteData(1, false, make([]byte, 16<<10)))
	}
	answer.headers(1, true, answer.fields("grpc-status", "0"))
	pki := newPKI(t)
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			proceed := make(chan struct{})
			p := &Proxy{Observer: observer{}, Metrics: NewMetrics(nil), Endpoints: []string{member(t, func(c net.Conn) {
				<-proceed
				_, _ = c.Write(answer.bytes())
				deaf(c)
			})}}
			var c net.Conn
			if secure {
				c = pki.dial(t, pki.listen(t, p), pki.client("h2"))
			} else {
				c = dialTCP(t, serve(t, ready(p)))
			}
			request := opening().open(1, rangeMethod)
			must(request.WriteData(1, true, message(nil)))
			if _, err := c.Write(request.bytes()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the request to be passed on", func() bool { return testutil.ToFloat64(p.Metrics.up) > 0 })
			over := make(chan error, 1)
			go func() { over <- p.Shutdown(t.Context()) }()
			eventually(t, "the client to be asked to go", func() bool { return p.open()[0].leave.Load() == rests })
			close(proceed)
			size := len(answer.bytes())
			eventually(t, "the answer to be passed on", func() bool { return testutil.ToFloat64(p.Metrics.down) == float64(size) })
			if _, err := c.Write([]byte("\x00\x00\x08\x06\x00\x00\x00\x00\x00a ping..")); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(c); len(got) != size+len(goaway.Frame) || err != nil {
				t.Errorf("%d bytes of %d, and a GOAWAY of %d; %v", len(got), size, len(goaway.Frame), err)
			}
			_ = c.Close()
			if err := <-over; err != nil {
				t.Error(err)
			}
			nothingLeft(t, p)
		})
	}
}

// A client that has been let go and neither reads nor closes is not waited for longer than Shutdown is given.
func TestShutdownWithAClientThatDoesNotRead(t *testing.T) {
	pki := newPKI(t)
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			p := &Proxy{Endpoints: []string{grpcMember(t, &service{})}, Observer: observer{}, Metrics: NewMetrics(nil)}
			var c net.Conn
			if secure {
				c = pki.dial(t, pki.listen(t, p), pki.client("h2"))
			} else {
				c = dialTCP(t, serve(t, ready(p)))
			}
			f := opening()
			for range 200_000 { // each is acknowledged
				must(f.WritePing(false, [8]byte{}))
			}
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.Write(f.bytes())
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			begin := time.Now()
			_ = p.Shutdown(ctx)
			if took := time.Since(begin); took > 4*time.Second {
				t.Errorf("it took %v", took)
			}
			nothingLeft(t, p)
		})
	}
}

// What is not served because Parallax stops is no fault of members or clients.
func TestShutdownBlamesNobody(t *testing.T) {
	pki := newPKI(t)
	dialing := make(chan struct{})
	p := &Proxy{Endpoints: []string{"hangs"}, DialTimeout: time.Hour, Metrics: NewMetrics(nil), Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		close(dialing)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	plain, secure := serve(t, ready(p)), pki.listen(t, p)
	_, _ = io.WriteString(dialTCP(t, plain), "x")
	<-dialing
	_ = dialTCP(t, plain)
	_ = dialTCP(t, secure)
	eventually(t, "all to be accepted", func() bool { return len(p.open()) == 3 })
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	for _, reason := range []string{refusedNoMember, refusedSilent, refusedHandshake} {
		if n := refusedFor(p, reason); n != 0 {
			t.Errorf("%v are counted as %s", n, reason)
		}
	}
	nothingLeft(t, p)
}
