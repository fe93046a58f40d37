package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// What client and member speak is agreed between the two: what the client has negotiated, or, where it did not, what it
// begins to speak.
func TestALPNIsTheClients(t *testing.T) {
	pki := newPKI(t)
	const http1 = "GET /version HTTP/1.1\r\n\r\n"
	for _, tc := range []struct {
		name   string
		client *tls.Config // nil: plain
		speaks string
		want   string
	}{
		{"a plain client of HTTP/2", nil, http2.ClientPreface, "h2"},
		{"a plain client of HTTP/1.1", nil, http1, "http/1.1"},
		{"a client of HTTP/2", pki.client("h2"), http2.ClientPreface, "h2"},
		{"a client of HTTP/1.1", pki.client("http/1.1"), http1, "http/1.1"},
		{"a client of both", pki.client("http/1.1", "h2"), http2.ClientPreface, "h2"},
		{"a client without ALPN of HTTP/2", pki.client(), http2.ClientPreface, "h2"},
		{"a client without ALPN of HTTP/1.1", pki.client(), http1, "http/1.1"},
		{"a client that says another thing than it negotiated", pki.client("h2"), http1, "h2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			states := make(chan tls.ConnectionState, 1)
			p := &Proxy{MemberTLS: pki.towardsMembers, Metrics: NewMetrics(nil), Endpoints: []string{pki.member(t, func(c *tls.Conn) {
				states <- c.ConnectionState()
				_, _ = io.Copy(c, c)
			})}}
			var c net.Conn
			if tc.client == nil {
				c = dialTCP(t, serve(t, ready(p)))
			} else {
				c = pki.dial(t, pki.listen(t, p), tc.client)
			}
			_, _ = io.WriteString(c, tc.speaks)
			got := make([]byte, len(tc.speaks))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != tc.speaks {
				t.Errorf("%q, %v", got, err)
			}
			if s := <-states; s.NegotiatedProtocol != tc.want || peerName(s) != parallaxName {
				t.Errorf("the member speaks %q with %q, want %q with %q", s.NegotiatedProtocol, peerName(s), tc.want, parallaxName)
			}
			_ = c.Close()
			nothingLeft(t, p)
		})
	}
}

// TLS on either side alone, or on both: what passes is the same, and is heard.
func TestTLSOnEitherSide(t *testing.T) {
	pki := newPKI(t)
	for _, tc := range []struct {
		name           string
		client, member bool
	}{{"clients", true, false}, {"members", false, true}, {"both", true, true}} {
		t.Run(tc.name, func(t *testing.T) {
			p := &Proxy{MemberTLS: pki.towardsMembers, Observer: observer{}, Metrics: NewMetrics(nil), Methods: []string{unaryMethod}}
			if tc.member {
				p.Endpoints = []string{pki.grpcMember(t, &service{})}
			} else {
				p.Endpoints = []string{grpcMember(t, &service{})}
			}
			const callers, calls = 4, 50
			var client pb.TestServiceClient
			if tc.client {
				client = pki.grpcClient(t, pki.listen(t, p))
			} else {
				client = grpcClient(t, serve(t, ready(p)))
			}
			callFrom(t, client, callers, calls)
			if got := testutil.ToFloat64(p.Metrics.callsVec.WithLabelValues(unaryMethod)); got != callers*calls {
				t.Errorf("%v calls were heard of %d", got, callers*calls)
			}
			if n := testutil.CollectAndCount(p.Metrics.tapsEnded); n != 0 {
				t.Error("the tap ended")
			}
			p.Close()
			nothingLeft(t, p)
		})
	}
}

// callFrom makes calls, several at once, and checks the answers.
func callFrom(t *testing.T, client pb.TestServiceClient, callers, calls int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			rnd := mathrand.New(mathrand.NewPCG(uint64(i), 0))
			for k := range calls {
				if err := callOne(ctx, client, fmt.Sprintf("%d/%d", i, k), rnd); err != nil {
					t.Errorf("call %d/%d: %v", i, k, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// A passthrough listener relays TLS from end to end: the member sees the client's certificate and the client the member's, no byte is
// changed, and nothing listens. Members that speak no TLS are not for its clients.
func TestPassthrough(t *testing.T) {
	pki := newPKI(t)
	names := make(chan string, 10)
	secure := pki.member(t, func(c *tls.Conn) {
		names <- peerName(c.ConnectionState())
		_, _ = io.Copy(c, c)
	})
	plain := member(t, echo)
	p := &Proxy{Endpoints: []string{plain, secure}, MemberTLS: pki.towardsMembers, Observer: observer{}, Metrics: NewMetrics(nil)}
	var log logged
	p.Logger = log.logger()
	address := pki.listenWith(t, p, &Listener{Passthrough: true})
	config := pki.client("h2")
	config.Certificates = []tls.Certificate{pki.certs[aliceName]}
	for range 4 {
		c := pki.dial(t, address, config)
		if got := peerName(c.ConnectionState()); got != memberName || c.ConnectionState().NegotiatedProtocol != "h2" {
			t.Errorf("the client speaks %q with %q", c.ConnectionState().NegotiatedProtocol, got)
		}
		if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			t.Fatal(err)
		}
		if got := <-names; got != aliceName {
			t.Errorf("the member sees %q", got)
		}
		if got := testutil.ToFloat64(p.Metrics.memberConnections.WithLabelValues(secure, blind)); got != 1 {
			t.Errorf("%v connections are counted as blind", got)
		}
		_ = c.Close()
		eventually(t, "the connection to be over", func() bool { return len(p.open()) == 0 })
	}
	if got := testutil.ToFloat64(p.Metrics.dials.WithLabelValues(plain, dialOK)); got != 0 {
		t.Errorf("the plain member was dialed %v times", got)
	}
	// On the next listener everything is as ever.
	other := serve(t, ready(p))
	for range 2 {
		if !echoes(dialTCP(t, other)) {
			t.Error("a plain client is not served")
		}
	}
	p.Close()
	nothingLeft(t, p)
}

// A connection through a passthrough listener cannot be told to go, and ends at once.
func TestShutdownOfPassthrough(t *testing.T) {
	pki := newPKI(t)
	p := &Proxy{Endpoints: []string{pki.member(t, func(c *tls.Conn) { _, _ = io.Copy(c, c) })}, MemberTLS: pki.towardsMembers, Observer: observer{}}
	c := pki.dial(t, pki.listenWith(t, p, &Listener{Passthrough: true}), pki.client("h2"))
	if !echoes(c) {
		t.Fatal("not served")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// A member whose certificate is for somebody else, or of nobody's, is not spoken to: the next one is tried.
func TestMembersAreVerified(t *testing.T) {
	ours, theirs := newPKI(t), newPKI(t)
	impostor := theirs.member(t, func(*tls.Conn) { t.Error("the impostor was spoken to") })
	genuine := ours.member(t, func(c *tls.Conn) { _, _ = io.Copy(c, c) })
	p := &Proxy{Endpoints: []string{impostor, genuine}, MemberTLS: ours.towardsMembers, Metrics: NewMetrics(nil)}
	address := serve(t, ready(p))
	for range 4 {
		if !echoes(dialTCP(t, address)) {
			t.Fatal("not served by the genuine member")
		}
	}
	if got := testutil.ToFloat64(p.Metrics.dials.WithLabelValues(impostor, dialFailed)); got != 2 {
		t.Errorf("%v failed dials of the impostor, want 2", got)
	}
}

// A TLS handshake with a member that hangs costs DialTimeout, and not the client.
func TestNextEndpointWhenAHandshakeHangs(t *testing.T) {
	pki := newPKI(t)
	hangs := secured(member(t, deaf))
	p := &Proxy{
		Endpoints: []string{hangs, pki.member(t, func(c *tls.Conn) { _, _ = io.Copy(c, c) })}, MemberTLS: pki.towardsMembers,
		DialTimeout: 50 * time.Millisecond, Metrics: NewMetrics(nil),
	}
	// The genuine handshake has to be done in that time, too, on a machine that is busy.
	address := serve(t, ready(p))
	eventually(t, "a client to be served", func() bool {
		before := testutil.ToFloat64(p.Metrics.dials.WithLabelValues(hangs, dialFailed))
		served := echoes(dialTCP(t, address))
		return served && testutil.ToFloat64(p.Metrics.dials.WithLabelValues(hangs, dialFailed)) > before
	})
}

// All connections go to a preferred endpoint while it is fit, the others follow, and the unfit ones are last.
func TestPreferredEndpointsComeFirst(t *testing.T) {
	a, b, c := member(t, says("a")), member(t, says("b")), member(t, says("c"))
	dead := nobody(t)
	for _, tc := range []struct {
		name   string
		prefer []string
		health map[string]Health
		want   string
	}{
		{"nobody is preferred", nil, nil, "abcabc"},
		{"one is", []string{b}, nil, "bbbb"},
		{"two are, and take turns", []string{c, a}, nil, "acac"},
		{"it is unfit", []string{b}, map[string]Health{b: Unfit}, "acac"},
		{"it is lost", []string{b}, map[string]Health{b: Lost}, "acac"},
		{"all others are unfit", []string{b}, map[string]Health{a: Unfit, c: Unfit}, "bbbb"},
		{"nobody is fit", []string{b}, map[string]Health{a: Unfit, b: Unfit, c: Unfit}, "abcabc"},
		{"it is dead, which nobody knows yet", []string{dead}, nil, "abcabc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &Proxy{Endpoints: []string{a, b, c}, Prefer: tc.prefer, Health: func(e string) Health { return tc.health[e] }}
			if len(tc.prefer) == 1 && tc.prefer[0] == dead {
				p.Endpoints = append(p.Endpoints, dead)
			}
			address := serve(t, ready(p))
			var got string
			for range len(tc.want) {
				got += hears(t, address)
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// Clients and members that have stopped reading, both behind TLS with all buffers full, hold up neither Close nor each other.
func TestCloseWithStuckTLS(t *testing.T) {
	pki := newPKI(t)
	p := &Proxy{MemberTLS: pki.towardsMembers, Metrics: NewMetrics(nil), Endpoints: []string{pki.member(t, func(c *tls.Conn) { stuff(c) })}}
	c := pki.dial(t, pki.listen(t, p), pki.client("h2"))
	stuff(c)
	begin := time.Now()
	p.Close()
	if took := time.Since(begin); took > 4*time.Second { // less than what crypto/tls would wait for a close_notify
		t.Errorf("it took %v", took)
	}
	nothingLeft(t, p)
}

// stuff writes until nothing moves any more.
func stuff(c net.Conn) {
	for {
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			return
		}
	}
}

// A TLS client learns of an orderly end by a close_notify, as without TLS by a FIN: at a half-close, and at a shutdown.
func TestTLSClientsSeeAnOrderlyEnd(t *testing.T) {
	pki := newPKI(t)
	t.Run("of the member", func(t *testing.T) {
		p := &Proxy{Endpoints: []string{member(t, func(c net.Conn) {
			_, _ = io.ReadFull(c, make([]byte, 1))
			_, _ = io.WriteString(c, "bye")
		})}, Metrics: NewMetrics(nil)}
		c := pki.dial(t, pki.listen(t, p), pki.client())
		_, _ = io.WriteString(c, "x")
		if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("by a shutdown", func(t *testing.T) {
		p := &Proxy{Endpoints: []string{member(t, echo)}, Metrics: NewMetrics(nil)}
		raw := dialTCP(t, pki.listen(t, p))
		seen := &watchedReads{Conn: raw}
		c := tls.Client(seen, pki.client())
		if !echoes(c) {
			t.Fatal("not served")
		}
		eventually(t, "the write to be over", func() bool { return testutil.ToFloat64(p.Metrics.down) == 1 })
		go p.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the client got %v, want an orderly end", err)
		}
		if !seen.alert() {
			t.Error("there was no close_notify")
		}
	})
}

// watchedReads remembers what a TLS connection read.
type watchedReads struct {
	net.Conn
	mu  sync.Mutex
	all []byte
}

func (w *watchedReads) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, b[:n]...)
	return n, err
}

// alert says whether the last record is as long as an encrypted alert of TLS 1.3: two bytes, its type, and the tag.
func (w *watchedReads) alert() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	const record, alert = 5, 2 + 1 + 16
	return len(w.all) > record+alert && bytes.Equal(w.all[len(w.all)-alert-record:][:record], []byte{23, 3, 3, 0, alert})
}
