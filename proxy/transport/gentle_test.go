package transport

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A successor starts and its predecessor goes, again and again, while clients connect as fast as they can.
func TestCloseGentlyLosesNoConnection(t *testing.T) {
	o := ListenOptions{ReusePort: true}
	old := serve(t, "0", "http://127.0.0.1:0", o)
	address := old.Addr().String()
	tr := startTraffic(t, 4, "tcp", address)
	for i := range 10 {
		next := serve(t, strconv.Itoa(i+1), "http://"+address, o)
		tr.flow(t)
		old.CloseGently(t.Context())
		if err := <-old.loop; !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		if !old.Successor(t.Context()) {
			t.Fatal("the successor is not seen")
		}
		before := next.accepted.Load()
		tr.flow(t)
		if next.accepted.Load() == before {
			t.Fatal("the successor gets no connections")
		}
		old = next
	}
	tr.end()
	t.Logf("%d connections, %d lost", tr.ok.Load(), tr.lost.Load())
	if tr.lost.Load() > 0 {
		t.Errorf("%d connections lost", tr.lost.Load())
	}
}

func TestCloseGentlyWithoutSuccessor(t *testing.T) {
	for _, o := range []ListenOptions{{}, {ReusePort: true}} {
		s := serve(t, "s", "http://127.0.0.1:0", o)
		if _, err := ask("tcp", s.Addr().String()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		s.CloseGently(t.Context())
		t.Logf("reuse-port %v: closed within %v", o.ReusePort, time.Since(start))
		if err := <-s.loop; !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		if n := s.accepted.Load(); n != 1 {
			t.Errorf("%d connections were accepted, there was one: a probe is none", n)
		}
		if s.Successor(t.Context()) {
			t.Error("there is no successor")
		}
		s.CloseGently(t.Context())
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What waits in the kernel's queue has been promised to clients: they sent their requests already.
func TestCloseGentlyHandsOutWhatWaits(t *testing.T) {
	for _, rawURL := range []string{"http://127.0.0.1:0", "unix://" + tempSocket(t)} {
		l, err := Listen(t.Context(), rawURL, ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		const waiting = 5
		for range waiting {
			c, err := net.Dial(l.Addr().Network(), l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte{7}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nobody accepts, and it does not wait for it
		l.CloseGently(ctx)
		if _, err := net.Dial(l.Addr().Network(), l.Addr().String()); err == nil {
			t.Errorf("%s: it still listens", rawURL)
		}
		for range waiting - 1 {
			c, err := l.Accept()
			if err != nil {
				t.Fatalf("%s: %v", rawURL, err)
			}
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err != nil || b[0] != 7 {
				t.Errorf("%s: read %v, %v", rawURL, b, err)
			}
			c.Close()
		}
		_ = l.Close() // closes the one that is left
		if c, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v, %v", rawURL, c, err)
		}
	}
}

// From the moment of steering on all go to the successor, whichever of the two began to listen first: while both listen.
func TestSteer(t *testing.T) {
	for _, olderGoes := range []bool{true, false} {
		o := ListenOptions{ReusePort: true}
		goes := serve(t, "older", "http://127.0.0.1:0", o)
		address := goes.Addr().String()
		stays := serve(t, "younger", "http://"+address, o)
		if !olderGoes {
			goes, stays = stays, goes
		}
		goes.steer(t.Context())
		for range 50 {
			if name, err := ask("tcp", address); err != nil || name != stays.name {
				t.Fatalf("%q answers, %v; want %q", name, err, stays.name)
			}
		}
		goes.CloseGently(t.Context())
	}
}

// Nothing stays behind that starves others: neither those who shared the port with the one that has gone, nor who comes
// after it.
func TestSteeringLeavesNothingBehind(t *testing.T) {
	o := ListenOptions{ReusePort: true}
	bothAnswer := func(t *testing.T, address, one, other, gone string) {
		t.Helper()
		seen := map[string]bool{}
		eventually(t, func() bool {
			name, err := ask("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			seen[name] = true
			return seen[one] && seen[other]
		})
		if seen[gone] {
			t.Errorf("%s still answers", gone)
		}
	}
	t.Run("three", func(t *testing.T) {
		first := serve(t, "1", "http://127.0.0.1:0", o)
		address := first.Addr().String()
		serve(t, "2", "http://"+address, o)
		serve(t, "3", "http://"+address, o)
		first.CloseGently(t.Context())
		bothAnswer(t, address, "2", "3", "1")
	})
	t.Run("one after the other", func(t *testing.T) {
		for _, rawURL := range loopbacks() {
			first := serve(t, "1", rawURL, o)
			address := first.Addr().String()
			serve(t, "2", "http://"+address, o)
			first.CloseGently(t.Context())
			serve(t, "3", "http://"+address, o)
			bothAnswer(t, address, "2", "3", "1")
		}
	})
}

func TestSharers(t *testing.T) {
	for _, rawURL := range append(loopbacks(), "http://0.0.0.0:0", "http://:0") {
		o := ListenOptions{ReusePort: true}
		first := serve(t, "1", rawURL, o)
		for want := 1; want <= 3; want++ {
			got := 0
			if err := first.conn.Control(func(fd uintptr) { got = sharers(int(fd)) }); err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("%s: %d share the port; want %d", rawURL, got, want)
			}
			serve(t, "more", "http://"+first.Addr().String(), o)
		}
	}
}

// The order in which they began to listen is not the order in which they go.
func TestCloseGentlyOfTheYoungerOne(t *testing.T) {
	o := ListenOptions{ReusePort: true}
	old := serve(t, "old", "http://127.0.0.1:0", o)
	address := old.Addr().String()
	young := serve(t, "young", "http://"+address, o)
	tr := startTraffic(t, 4, "tcp", address)
	tr.flow(t)
	young.CloseGently(t.Context())
	tr.flow(t)
	tr.end()
	if lost := tr.lost.Load(); lost > 0 {
		t.Errorf("%d connections lost", lost)
	}
}

func TestCloseGentlyOnAUnixSocketLosesNoConnection(t *testing.T) {
	path := tempSocket(t)
	s := serve(t, "s", "unix://"+path, ListenOptions{})
	var refused, lost, served atomic.Int64
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for refused.Load() == 0 {
				switch _, err := ask("unix", path); {
				case err == nil:
					served.Add(1)
				case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
					refused.Add(1) // before it was promised anything
				default:
					t.Log(err)
					lost.Add(1)
				}
			}
		})
	}
	eventually(t, func() bool { return served.Load() > 20 })
	s.CloseGently(t.Context())
	running.Wait()
	if lost.Load() > 0 {
		t.Errorf("%d connections lost", lost.Load())
	}
	if s.Successor(t.Context()) {
		t.Error("there is no successor")
	}
	serve(t, "next", "unix://"+path, ListenOptions{})
	if !s.Successor(t.Context()) {
		t.Error("the successor is not seen")
	}
}

// A listener on all addresses is probed at the loopback one.
func TestSuccessorOfAWildcard(t *testing.T) {
	for _, rawURL := range []string{"http://0.0.0.0:0", "http://:0"} {
		o := ListenOptions{ReusePort: true}
		old := serve(t, "old", rawURL, o)
		_, port, err := net.SplitHostPort(old.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		serve(t, "next", rawURL[:len(rawURL)-1]+port, o)
		old.CloseGently(t.Context())
		if !old.Successor(t.Context()) {
			t.Errorf("%s: the successor is not seen", rawURL)
		}
	}
}
