package wire

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestEndings(t *testing.T) {
	type ending struct {
		name  string
		end   func(peer net.Conn) error
		plain error
		tls   error
	}
	linger := func(peer net.Conn) error {
		if s, ok := peer.(*tls.Conn); ok {
			peer = s.NetConn()
		}
		if err := peer.(*net.TCPConn).SetLinger(0); err != nil {
			return err
		}
		return peer.Close()
	}
	for _, e := range []ending{
		{"half-close", func(peer net.Conn) error { return send(peer, nil) }, io.EOF, io.EOF},
		{"close", net.Conn.Close, io.EOF, io.EOF},
		{"FIN alone", func(peer net.Conn) error {
			if s, ok := peer.(*tls.Conn); ok {
				peer = s.NetConn()
			}
			return peer.Close()
		}, io.EOF, io.ErrUnexpectedEOF},
		{"reset", linger, syscall.ECONNRESET, syscall.ECONNRESET},
	} {
		for _, k := range kinds {
			if k.network != "tcp" {
				continue
			}
			t.Run(e.name+" "+k.name, func(t *testing.T) {
				b := count()
				ours, peer := k.ends(t, &b.Buffers)
				if _, err := peer.Write([]byte("last")); err != nil {
					t.Fatal(err)
				}
				if m, err := ours.Next(); string(m) != "last" {
					t.Fatalf("%q, %v", m, err)
				}
				ours.Release()
				if err := e.end(peer); err != nil {
					t.Fatal(err)
				}
				want := e.plain
				if k.version != 0 {
					want = e.tls
				}
				for range 3 { // it stays so
					if m, err := ours.Next(); len(m) > 0 || !errors.Is(err, want) {
						t.Fatalf("%q, %v, want %v", m, err, want)
					}
				}
				b.wantNone(t)
			})
		}
	}
}

// The peer of a connection that is closed sees an orderly end, of one that is Reset it does not, also where there is
// no TCP that could say so. The peer is ours as well, as crypto/tls takes an end between two records for orderly.
func TestCloseAndReset(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		if k.network == "pipe" {
			t.Skip("a pipe has no room for a close_notify")
		}
		for _, reset := range []bool{false, true} {
			b := count()
			ours, peer := k.both(t, &b.Buffers)
			want := io.EOF
			if reset {
				ours.Reset()
				switch {
				case k.network == "tcp":
					want = syscall.ECONNRESET
				case k.version != 0:
					want = io.ErrUnexpectedEOF
				}
			}
			if err := ours.Close(); err != nil {
				t.Fatal(err)
			}
			if m, err := peer.Next(); len(m) > 0 || !errors.Is(err, want) {
				t.Errorf("reset %t: %q, %v, want %v", reset, m, err, want)
			}
			b.wantNone(t)
		}
	})
}

// The kernel tells of a reset once. When a write was told, Next must not take it for an ordinary end.
func TestResetFoundByWrite(t *testing.T) {
	ours, peer := kinds[0].ends(t, &Buffers{})
	if err := peer.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := peer.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	if _, err := ours.Next(); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

// Close, from a third goroutine, ends a Next that waits and a Write to a peer that does not read.
func TestCloseEndsNextAndWrite(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		b := count()
		ours, peer := k.ends(t, &b.Buffers)
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := drain(ours); !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
				t.Error("Next:", err)
			}
		})
		all.Go(func() {
			if _, err := ours.Write(make([]byte, 64<<20)); err == nil { // more than any socket holds
				t.Error("Write has ended well")
			}
		})
		if _, err := peer.Read(make([]byte, 1)); err != nil { // it is under way
			t.Fatal(err)
		}
		start := time.Now()
		if err := ours.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
		if took := time.Since(start); took > closeNotifyTime {
			t.Error("it took", took)
		}
		b.wantNone(t)
	})
}

// A peer that has stopped reading holds up neither Close nor, for long, CloseWrite.
func TestCloseDoesNotWaitForThePeer(t *testing.T) {
	for _, halfCloseFirst := range []bool{false, true} {
		eachKind(t, func(t *testing.T, k kind) {
			if k.network == "pipe" {
				t.Skip("a pipe has no room to fill")
			}
			ours, _ := k.ends(t, &Buffers{})
			fill(t, ours.conn)
			var half sync.WaitGroup
			if halfCloseFirst {
				begun := make(chan struct{})
				half.Go(func() {
					close(begun)
					_ = ours.CloseWrite()
				})
				<-begun
			}
			start := time.Now()
			_ = ours.Close() // its close_notify may not have been sent
			half.Wait()
			if took := time.Since(start); took > closeNotifyTime/2 {
				t.Error("it took", took)
			}
		})
	}
}

// fill writes until the socket takes no more.
func fill(t *testing.T, c net.Conn) {
	t.Helper()
	for {
		if err := c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	if err := c.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
}
