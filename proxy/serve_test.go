package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/etcd-parallax/parallax/proxy/transport"
)

type accepted struct {
	conn net.Conn
	err  error
}

// fakeListener accepts what it is told to.
type fakeListener struct {
	accepts chan accepted
	closed  chan struct{}
	once    sync.Once
}

func newFakeListener() *fakeListener {
	return &fakeListener{accepts: make(chan accepted, 100), closed: make(chan struct{})}
}

func (l *fakeListener) Accept() (net.Conn, error) {
	select {
	case a := <-l.accepts:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *fakeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *fakeListener) Addr() net.Addr { return &net.TCPAddr{} }

// logged is what a proxy has said at info or above.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logged) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

// Too many open files: the listener goes on, in pauses that grow to a second, and says so once.
func TestListenerSurvivesErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logged
		client, ours := net.Pipe()
		dialed := make(chan time.Time, 1)
		p := &Proxy{
			Endpoints: []string{"pipe"},
			Dial: func(context.Context, string) (net.Conn, error) {
				dialed <- time.Now()
				c, _ := net.Pipe()
				return c, nil
			},
			Logger:  log.logger(),
			Metrics: NewMetrics(nil),
		}
		l := newFakeListener()
		const failures = 20
		for range failures {
			l.accepts <- accepted{err: &net.OpError{Op: "accept", Err: syscall.EMFILE}}
		}
		l.accepts <- accepted{conn: ours}
		go func() { _, _ = client.Write([]byte("x")) }()
		start := time.Now()
		serveOn(t, p, l)

		// 5, 10, …, 640 ms make 1.275 s; then twelve times 1 s. The clock is the bubble's.
		if took := (<-dialed).Sub(start); took != 13275*time.Millisecond {
			t.Errorf("accepted after %v", took)
		}
		if got := testutil.ToFloat64(p.Metrics.acceptErrors); got != failures {
			t.Errorf("counted %v errors of %d", got, failures)
		}
		if a, b := log.count("cannot be accepted"), log.count("accepted again"); a != 1 || b != 1 {
			t.Errorf("logged %d times that it failed, %d times that it works again:\n%s", a, b, log.b.String())
		}
		_ = client.Close()
	})
}

// A listener that somebody else closed will never accept again: Serve says so.
func TestListenerIsTakenAway(t *testing.T) {
	p := &Proxy{Endpoints: []string{"http://127.0.0.1:1"}}
	defer p.Close()
	l := newFakeListener()
	_ = l.Close()
	if err := p.Serve(&Listener{Listener: l}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestServeRefusesEndpointsThatCannotBe(t *testing.T) {
	for _, endpoints := range [][]string{nil, {"http://127.0.0.1:2379", "gopher://a:1"}} {
		l := newFakeListener()
		if err := (&Proxy{Endpoints: endpoints}).Serve(&Listener{Listener: l}); err == nil {
			t.Errorf("Serve with the endpoints %q", endpoints)
		}
		<-l.closed
	}
}

// A dial fails: the next endpoint is tried, and what the client has sent meanwhile arrives.
func TestNextEndpointWhenADialFails(t *testing.T) {
	dead, alive := nobody(t), member(t, echo)
	p := &Proxy{Endpoints: []string{dead, alive}, Metrics: NewMetrics(nil)}
	address := serve(t, p)
	for range 4 {
		c := dialTCP(t, address)
		_, _ = io.WriteString(c, "hello")
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	for endpoint, want := range map[string][2]float64{dead: {0, 2}, alive: {4, 0}} {
		ok := testutil.ToFloat64(p.Metrics.dials.WithLabelValues(endpoint, dialOK))
		failed := testutil.ToFloat64(p.Metrics.dials.WithLabelValues(endpoint, dialFailed))
		if got := [2]float64{ok, failed}; got != want {
			t.Errorf("%s: ok, failed = %v, want %v", endpoint, got, want)
		}
	}
}

// An endpoint that does not answer at all costs DialTimeout, not a client.
func TestNextEndpointWhenADialHangs(t *testing.T) {
	alive := member(t, says("b"))
	p := &Proxy{
		Endpoints:   []string{"hangs", alive},
		DialTimeout: 10 * time.Millisecond,
		Dial: func(ctx context.Context, endpoint string) (net.Conn, error) {
			if endpoint == "hangs" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return transport.Dial(ctx, endpoint)
		},
	}
	if got := hears(t, serve(t, p)); got != "b" {
		t.Errorf("%q", got)
	}
}

func TestHealthOrdersNewConnections(t *testing.T) {
	a, b, c := member(t, says("a")), member(t, says("b")), nobody(t)
	for _, tc := range []struct {
		name   string
		health map[string]Health
		want   string
	}{
		{"what it cannot tell changes nothing", nil, "abab"},
		{"an unfit one gets no new connections", map[string]Health{b: Unfit, c: Unfit}, "aaaa"},
		{"an unfit one is better than none", map[string]Health{a: Unfit, b: Serving, c: Serving}, "bbbb"},
		{"when all others fail, an unfit one is tried", map[string]Health{a: Unfit, b: Unfit, c: Serving}, "abab"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			endpoints := []string{a, b}
			if tc.health != nil {
				endpoints = append(endpoints, c)
			}
			p := &Proxy{Endpoints: endpoints, Health: func(e string) Health { return tc.health[e] }}
			address := serve(t, p)
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

// Nobody answers: the client is not kept waiting, and the log says it once, not once for each client. When a
// member is back, so are the clients.
func TestNoEndpointReachable(t *testing.T) {
	alive := member(t, says("a"))
	var log logged
	var mu sync.Mutex
	down := true
	p := &Proxy{
		Endpoints: []string{"http://127.0.0.1:1", "http://127.0.0.1:2"},
		Logger:    log.logger(),
		Metrics:   NewMetrics(nil),
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if down {
				return nil, syscall.ECONNREFUSED
			}
			return transport.Dial(ctx, alive)
		},
	}
	address := serve(t, p)
	for range 5 {
		c := dialTCP(t, address)
		_, _ = io.WriteString(c, "x")
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("a client without a member got %d bytes, %v", n, err)
		}
	}
	mu.Lock()
	down = false
	mu.Unlock()
	for range 2 {
		if got := hears(t, address); got != "a" {
			t.Errorf("%q", got)
		}
	}
	if a, b := log.count("no endpoint can be reached"), log.count("can be reached again"); a != 1 || b != 1 {
		t.Errorf("logged %d times that none is reachable, %d times that one is again", a, b)
	}
	if got := testutil.ToFloat64(p.Metrics.connectionsTotal); got != 7 {
		t.Errorf("counted %v connections", got)
	}
}

// Connections that nothing listens to end at once: nothing is known of their calls.
func TestShutdownEndsBlindConnections(t *testing.T) {
	p := &Proxy{Endpoints: []string{member(t, echo)}}
	address := serve(t, p)
	c := dialTCP(t, address)
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client got %v, want an orderly end", err)
	}
	if c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address); err == nil {
		_ = c.Close()
		t.Error("a client could connect after Shutdown")
	}
}

// Shutdown does not wait for a dial that hangs.
func TestShutdownWhileDialing(t *testing.T) {
	dialing := make(chan struct{})
	p := &Proxy{
		Endpoints:   []string{"hangs"},
		DialTimeout: time.Hour,
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			close(dialing)
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}
	c := dialTCP(t, serve(t, p))
	_, _ = io.WriteString(c, "x")
	<-dialing
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the client's connection is still there")
	}
}

// A proxy that never served, or is closed twice, closes like any other; and does not serve afterwards.
func TestCloseIsAlwaysPossible(t *testing.T) {
	p := &Proxy{Endpoints: []string{"http://127.0.0.1:1"}}
	p.Close()
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	p.Close()
	if err := p.Serve(&Listener{Listener: newFakeListener()}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
