package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen. Only a test that fails waits so long.
const patience = 60 * time.Second

// serve starts p on a free port and returns the address. At the end of the test it must close cleanly.
func serve(t testing.TB, p *Proxy) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, p, l)
	return l.Addr().String()
}

func serveOn(t testing.TB, p *Proxy, l net.Listener) { serveListener(t, p, &Listener{Listener: l}) }

func serveListener(t testing.TB, p *Proxy, l *Listener) {
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	t.Cleanup(func() {
		p.Close()
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("Serve returned %v, want %v", err, ErrClosed)
		}
	})
}

// member is a member of a cluster, as far as a byte relay can tell: it hands each connection to handle, and closes
// it when handle returns.
func member(t testing.TB, handle func(net.Conn)) (endpoint string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(t.Context(), func() { _ = c.Close() })
			running.Go(func() {
				defer stop()
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return "http://" + l.Addr().String()
}

// nobody is an endpoint at which nobody listens.
func nobody(t testing.TB) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// echo sends back what it gets, until the client has no more to say.
func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// says is a member that greets each connection with its name.
func says(name string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, name)
		_, _ = io.Copy(io.Discard, c)
	}
}

func dialTCP(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// hears speaks first, as clients of HTTP do, and reads what a member says then.
func hears(t testing.TB, address string) string {
	t.Helper()
	c := dialTCP(t, address)
	defer func() { _ = c.Close() }()
	b := make([]byte, 1)
	_, _ = io.WriteString(c, "?")
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatalf("reading the member's greeting: %v", err)
	}
	return string(b)
}

// eventually waits for a condition that nothing signals.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
