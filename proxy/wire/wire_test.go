package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// A relay between any two kinds passes what both ends send at the same time, and both their half-closes.
func TestRelaysBothWays(t *testing.T) {
	for _, left := range kinds {
		for _, right := range kinds {
			if left.network == "pipe" || right.network == "pipe" {
				continue // no half-close
			}
			t.Run(left.name+" and "+right.name, func(t *testing.T) {
				b := count()
				a, peerA := left.ends(t, &b.Buffers)
				z, peerZ := right.ends(t, &b.Buffers)
				var all sync.WaitGroup
				all.Go(func() { passOn(t, z, a) })
				all.Go(func() { passOn(t, a, z) })
				for _, way := range [][2]net.Conn{{peerA, peerZ}, {peerZ, peerA}} {
					sent := random(1<<20 + mathrand.IntN(1000))
					all.Go(func() {
						for rest := sent; len(rest) > 0; {
							n := min(1+mathrand.IntN(1<<mathrand.IntN(19)), len(rest))
							if _, err := way[0].Write(rest[:n]); err != nil {
								t.Error(err)
								return
							}
							rest = rest[n:]
						}
						if err := send(way[0], nil); err != nil {
							t.Error(err)
						}
					})
					all.Go(func() {
						if got, err := io.ReadAll(way[1]); err != nil || !bytes.Equal(got, sent) {
							t.Errorf("%d bytes of %d arrived, %v", len(got), len(sent), err)
						}
					})
				}
				all.Wait()
				b.wantNone(t)
			})
		}
	}
}

// passOn is a pump as the relay has it.
func passOn(t *testing.T, to, from *Conn) {
	defer from.Release()
	for {
		b, err := from.Next()
		if errors.Is(err, io.EOF) {
			err = to.CloseWrite()
			if err != nil {
				t.Error(err)
			}
			return
		}
		if err == nil {
			_, err = to.Write(b)
		}
		if err != nil {
			t.Error(err)
			return
		}
		from.Release()
	}
}

// Small messages come through one by one, and while nothing comes nothing is held.
func TestSmallMessagesAndNothingHeldBetween(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		b := count()
		ours, peer := k.ends(t, &b.Buffers)
		var echo sync.WaitGroup
		echo.Go(func() {
			defer ours.Release()
			for {
				m, err := ours.Next()
				if err != nil {
					return
				}
				if _, err := ours.Write(m); err != nil {
					t.Error(err)
				}
				ours.Release()
			}
		})
		sent, got := random(100), make([]byte, 100)
		for i := range 10_000 {
			sent[0] = byte(i)
			if _, err := peer.Write(sent); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, sent) {
				t.Fatal("message", i, err)
			}
			if i%1000 == 0 && k.network != "pipe" {
				b.wantNone(t)
			}
		}
		if err := ours.Close(); err != nil {
			t.Error(err)
		}
		echo.Wait()
		b.wantNone(t)
	})
}

// A Next gives as much as is there, so that the other side is written to few times.
func TestNextGivesManyRecordsAtOnce(t *testing.T) {
	for _, k := range kinds {
		if k.network != "tcp" || k.version == 0 {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			ours, peer := k.ends(t, &Buffers{})
			sent := random(BufferSize)
			for i := 0; i < len(sent); i += 1 << 10 { // records of 1 KiB, all there before the first Next
				if _, err := peer.Write(sent[i : i+1<<10]); err != nil {
					t.Fatal(err)
				}
			}
			if err := send(peer, nil); err != nil {
				t.Fatal(err)
			}
			var got []byte
			nexts := 0
			for ; ; nexts++ {
				b, err := ours.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, b...)
				ours.Release()
			}
			if !bytes.Equal(got, sent) || nexts > 3 {
				t.Errorf("%d bytes of %d in %d pieces", len(got), len(sent), nexts)
			}
		})
	}
}

// A deadline wakes a Next that waits; without one it goes on.
func TestDeadlineWakesNext(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		b := count()
		ours, peer := k.ends(t, &b.Buffers)
		for range 100 {
			var waiting sync.WaitGroup
			waiting.Go(func() {
				if m, err := ours.Next(); len(m) > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%q, %v", m, err)
				}
			})
			if err := ours.SetReadDeadline(time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
			waiting.Wait()
			if b.now() != 0 {
				t.Fatal("a buffer is held after a deadline")
			}
			if err := ours.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			waiting.Go(func() {
				if m, err := ours.Next(); string(m) != "on" {
					t.Errorf("%q, %v", m, err)
				}
				ours.Release()
			})
			if _, err := peer.Write([]byte("on")); err != nil {
				t.Fatal(err)
			}
			waiting.Wait()
		}
	})
}

func TestHandshakeEnds(t *testing.T) {
	_, _, server, client := certificate(t)
	for name, side := range map[string]func(context.Context, *Buffers, net.Conn, *tls.Config) (*Conn, error){"server": Server, "client": Client} {
		cfg := server
		if name == "client" {
			cfg = client
		}
		for what, do := range map[string]func(peer net.Conn, cancel func()) error{
			"context":     func(_ net.Conn, cancel func()) error { cancel(); return context.Canceled },
			"peer closes": func(peer net.Conn, _ func()) error { peer.Close(); return nil },
			"garbage":     func(peer net.Conn, _ func()) error { _, _ = peer.Write(bytes.Repeat([]byte("x"), 100)); return nil },
			"half a record": func(peer net.Conn, cancel func()) error {
				_, _ = peer.Write([]byte{22, 3, 1, 0})
				cancel()
				return context.Canceled
			},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				b := count()
				c, peer := sockets(t, "tcp")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var all sync.WaitGroup
				var want error
				all.Go(func() { want = do(peer, cancel) })
				_, err := side(ctx, &b.Buffers, c, cfg)
				all.Wait()
				if err == nil || want != nil && !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
				if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
					t.Error("the connection has not been closed:", err)
				}
				b.wantNone(t)
			})
		}
	}
}

// What the client sends right behind its part of the handshake is not lost.
func TestBytesBehindTheHandshake(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		if k.version == 0 {
			t.Skip("plain")
		}
		_, _, server, client := certificate(t)
		server.MinVersion, server.MaxVersion = k.version, k.version
		c, p := sockets(t, k.network)
		side, cfg, peer := Server, server, tls.Client(p, client)
		if k.client {
			side, cfg, peer = Client, client, tls.Server(p, server)
		}
		sent := random(300 << 10)
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := peer.Write(sent); err != nil { // makes the handshake first
				t.Error(err)
			}
			if err := peer.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		b := count()
		ours, err := side(t.Context(), &b.Buffers, c, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := drain(ours); !errors.Is(err, io.EOF) || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		all.Wait()
		b.wantNone(t)
	})
}

func TestStateAndConfig(t *testing.T) {
	_, _, server, client := certificate(t)
	server.DynamicRecordSizingDisabled = false
	server.NextProtos, client.NextProtos = []string{"h2"}, []string{"h2"}
	c, p := sockets(t, "tcp")
	ours, _ := kinds[4].secure(t, &Buffers{}, c, p, server, client)
	if s := ours.State(); s == nil || s.NegotiatedProtocol != "h2" || !s.HandshakeComplete {
		t.Errorf("%+v", s)
	}
	if server.DynamicRecordSizingDisabled {
		t.Error("the configuration of the caller was changed")
	}
	if plain, _ := kinds[0].ends(t, &Buffers{}); plain.State() != nil {
		t.Error("a plain connection has a TLS state")
	}
}
