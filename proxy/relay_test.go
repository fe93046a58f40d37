package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/etcd-parallax/parallax/proxy/transport"
)

// transports are the kinds of connection that a relay meets: with and without a file descriptor to wait on.
var transports = map[string]func(context.Context, string) (net.Conn, error){
	"tcp": nil,
	"only a net.Conn": func(ctx context.Context, endpoint string) (net.Conn, error) {
		c, err := transport.Dial(ctx, endpoint)
		if err != nil {
			return nil, err
		}
		return plainConn{c}, nil
	},
}

// plainConn hides what a TCP connection can do beyond net.Conn and CloseWrite, as a TLS connection does.
type plainConn struct{ net.Conn }

func (c plainConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// GUARANTEE G1: what a client and a member exchange is byte for byte what they sent. Both directions are full at
// once, in chunks of random sizes, and each ends by a half-close while the other still runs.
func TestBytesPassUnchanged(t *testing.T) {
	const size = 24 << 20
	for name, dialer := range transports {
		t.Run(name, func(t *testing.T) {
			type sum struct {
				hash [sha256.Size]byte
				n    int64
				err  error
			}
			receive := func(c io.Reader) (s sum) {
				h := sha256.New()
				s.n, s.err = io.Copy(h, c)
				h.Sum(s.hash[:0])
				return s
			}
			// send sends size random bytes, then says that there are no more.
			send := func(c net.Conn, seed uint64) (s sum) {
				rnd, content := rand.New(rand.NewPCG(seed, 1)), rand.NewChaCha8([32]byte{byte(seed)})
				h := sha256.New()
				for s.n < size && s.err == nil {
					chunk := make([]byte, 1+rnd.IntN([]int{16, 2 << 10, 200 << 10}[rnd.IntN(3)]))
					_, _ = content.Read(chunk)
					h.Write(chunk)
					_, s.err = c.Write(chunk)
					s.n += int64(len(chunk))
				}
				h.Sum(s.hash[:0])
				return sum{s.hash, s.n, errors.Join(s.err, c.(interface{ CloseWrite() error }).CloseWrite())}
			}

			memberSent, memberGot := make(chan sum, 1), make(chan sum, 1)
			p := &Proxy{Dial: dialer, Metrics: NewMetrics(nil), Endpoints: []string{member(t, func(c net.Conn) {
				var sending sync.WaitGroup
				sending.Go(func() { memberSent <- send(c, 2) })
				memberGot <- receive(c)
				sending.Wait() // the connection is closed after this
			})}}
			c := dialTCP(t, serve(t, p))
			clientSent := make(chan sum, 1)
			go func() { clientSent <- send(c, 1) }()
			clientGot := receive(c)

			if sent, got := <-clientSent, <-memberGot; sent != got {
				t.Errorf("up: sent %+v, got %+v", sent, got)
			}
			sent := <-memberSent
			if sent != clientGot {
				t.Errorf("down: sent %+v, got %+v", sent, clientGot)
			}
			eventually(t, "the connection is over when both sides have ended", func() bool {
				return testutil.ToFloat64(p.Metrics.connections) == 0
			})
			if up, down := testutil.ToFloat64(p.Metrics.up), testutil.ToFloat64(p.Metrics.down); up < size || int64(down) != sent.n {
				t.Errorf("counted %v up, %v down; want at least %d, %d", up, down, size, sent.n)
			}
		})
	}
}

// Each side may stop sending and still be sent to.
func TestHalfClose(t *testing.T) {
	t.Run("by the client", func(t *testing.T) {
		p := &Proxy{Endpoints: []string{member(t, func(c net.Conn) {
			all, _ := io.ReadAll(c) // returns only at the client's half-close
			_, _ = c.Write(append([]byte("got "), all...))
		})}}
		c := dialTCP(t, serve(t, p))
		_, _ = io.WriteString(c, "all I have")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "got all I have" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("by the member", func(t *testing.T) {
		got := make(chan string, 1)
		p := &Proxy{Endpoints: []string{member(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "no more from me")
			_ = c.(*net.TCPConn).CloseWrite()
			all, _ := io.ReadAll(c)
			got <- string(all)
		})}}
		c := dialTCP(t, serve(t, p))
		_, _ = io.WriteString(c, "hello, ")
		if got, err := io.ReadAll(c); string(got) != "no more from me" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		_, _ = io.WriteString(c, "and more from me")
		_ = c.CloseWrite()
		if got := <-got; got != "hello, and more from me" {
			t.Errorf("%q", got)
		}
	})
}

// A reset is passed on as a reset: an answer that was cut off must not look whole.
func TestReset(t *testing.T) {
	t.Run("by the member", func(t *testing.T) {
		p := &Proxy{Endpoints: []string{member(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "half an ans")
			_, _ = io.ReadFull(c, make([]byte, 2)) // the client has read it
			_ = c.(*net.TCPConn).SetLinger(0)
		})}}
		c := dialTCP(t, serve(t, p))
		_, _ = c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 11)); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client got %v, want a reset", err)
		}
	})
	// The pump that writes may be the one that finds the reset.
	t.Run("by a member that is being sent to", func(t *testing.T) {
		full := make(chan struct{})
		p := &Proxy{Endpoints: []string{member(t, func(c net.Conn) {
			<-full
			_ = c.(*net.TCPConn).SetLinger(0)
		})}}
		c := dialTCP(t, serve(t, p))
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := c.Write(make([]byte, 64<<20)); err == nil {
			t.Fatalf("%d bytes were taken, by a member that reads none", n)
		}
		close(full)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client got %v, want a reset", err)
		}
	})
	t.Run("by the client", func(t *testing.T) {
		got := make(chan error, 1)
		p := &Proxy{Endpoints: []string{member(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			_, _ = io.WriteString(c, "hello")
			_, err := c.Read(make([]byte, 1))
			got <- err
		})}}
		c := dialTCP(t, serve(t, p))
		_, _ = c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetLinger(0)
		_ = c.Close()
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the member got %v, want a reset", err)
		}
	})
}

// A member that says why and hangs up (etcd's GOAWAY "too_many_pings") while the client still sends is heard: that
// the client's bytes can no longer be delivered must not cost it the answer.
func TestLastWordsOfAMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, ours := net.Pipe()
		words, theirs := net.Pipe()
		p := &Proxy{
			Endpoints: []string{"pipe"},
			Dial:      func(context.Context, string) (net.Conn, error) { return deafConn{theirs}, nil },
		}
		l := newFakeListener()
		l.accepts <- accepted{conn: ours}
		serveOn(t, p, l)
		if _, err := io.WriteString(client, "ping"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until the relay has done all that it does about the failed write
		go func() {
			_, _ = io.WriteString(words, "too_many_pings")
			_ = words.Close()
		}()
		if got, err := io.ReadAll(client); string(got) != "too_many_pings" || err != nil {
			t.Errorf("the client heard %q, %v", got, err)
		}
	})
}

// deafConn is a connection whose other side takes no more.
type deafConn struct{ net.Conn }

func (deafConn) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// A member dies: its client's connection ends, and that of another member's client does not.
func TestMemberDies(t *testing.T) {
	die := make(chan struct{})
	p := &Proxy{Endpoints: []string{
		member(t, func(c net.Conn) { _, _ = io.WriteString(c, "a"); <-die }),
		member(t, func(c net.Conn) { _, _ = io.WriteString(c, "b"); _, _ = c.Read(make([]byte, 1)); echo(c) }),
	}}
	address := serve(t, p)
	var conns [2]*net.TCPConn
	for i, want := range []string{"a", "b"} {
		conns[i] = dialTCP(t, address)
		_, _ = conns[i].Write([]byte("x"))
		got := make([]byte, 1)
		if _, err := io.ReadFull(conns[i], got); err != nil || string(got) != want {
			t.Fatalf("connection %d has the member %q, %v", i, got, err)
		}
	}
	close(die)
	if n, err := conns[0].Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the connection of a dead member gave %d bytes, %v", n, err)
	}
	_, _ = conns[1].Write([]byte("2"))
	got := make([]byte, 1)
	if _, err := io.ReadFull(conns[1], got); err != nil || got[0] != '2' {
		t.Errorf("the other connection: %q, %v", got, err)
	}
}

// A client that stays on a connection that its member has ended is not waited for without end: it would keep its place.
func TestAnOrphanIsEnded(t *testing.T) {
	const request = "GET / HTTP/1.1\r\n\r\n"
	p := &Proxy{Metrics: NewMetrics(nil), HandshakeTimeout: 200 * time.Millisecond, Endpoints: []string{member(t, func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, len(request))); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		}
	})}}
	c := dialTCP(t, serve(t, ready(p)))
	_, _ = io.WriteString(c, request)
	if got, err := io.ReadAll(c); len(got) != 19 || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	nothingLeft(t, p) // though the client does not close
}
