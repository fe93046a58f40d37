package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etcd-parallax/parallax/proxy/wire"
)

// A client that does not read stops its member, and the other way round; what is held in between is one buffer.
// The connections here are pipes without any buffer of their own, so the count is exact.
//
// GUARANTEE G7: Memory is bounded, per connection and in all.
func TestBackPressureIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, ours := net.Pipe()
		theirs, member := net.Pipe()
		p := &Proxy{
			Endpoints: []string{"pipe"},
			Dial:      func(context.Context, string) (net.Conn, error) { return theirs, nil },
		}
		l := newFakeListener()
		l.accepts <- accepted{conn: ours}
		serveOn(t, p, l)

		flood := func(to net.Conn) *atomic.Int64 {
			var sent atomic.Int64
			go func() {
				for {
					n, err := to.Write(make([]byte, 1000))
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
			return &sent
		}
		for name, tc := range map[string]struct {
			sent *atomic.Int64
			read net.Conn
		}{
			"up":   {flood(client), member},
			"down": {flood(member), client},
		} {
			synctest.Wait() // until nothing can move any more
			if got := tc.sent.Load(); got > wire.BufferSize {
				t.Errorf("%s: %d bytes were taken in, none was taken out", name, got)
			}
			const some = 10 << 10
			if _, err := io.ReadFull(tc.read, make([]byte, some)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := tc.sent.Load(); got < some || got > some+wire.BufferSize {
				t.Errorf("%s: %d bytes were taken in, %d were taken out", name, got, some)
			}
		}
		_ = client.Close()
		_ = member.Close()
	})
}

// The same over TCP, where the kernel's buffers come on top: the member stops, our memory does not grow, and
// when the client reads at last everything is there.
func TestSlowReader(t *testing.T) {
	const size = 96 << 20
	var sent atomic.Int64
	p := &Proxy{Endpoints: []string{member(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		chunk := bytes.Repeat([]byte{7}, 64<<10)
		for sent.Load() < size {
			n, err := c.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})}}
	c := dialTCP(t, serve(t, p))
	_, _ = io.WriteString(c, "x")

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	// That something does not happen can only be seen by waiting: the member has stopped when half a second
	// has brought nothing.
	for last := int64(0); last == 0 || last != sent.Load(); time.Sleep(500 * time.Millisecond) {
		last = sent.Load()
	}
	if got := sent.Load(); got == 0 || got > size/2 {
		t.Errorf("the member could send %d bytes to a client that reads nothing", got)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if n, err := io.Copy(io.Discard, c); n != size || err != nil {
		t.Errorf("read %d bytes of %d, %v", n, int64(size), err)
	}
}

// An idle connection holds no buffer: kube-apiserver keeps about two thousand.
func TestIdleConnectionsHoldNoBuffer(t *testing.T) {
	const idle = 200
	p := &Proxy{Endpoints: []string{member(t, echo)}}
	address := serve(t, p)
	conns := make([]*net.TCPConn, idle)
	for i := range conns {
		conns[i] = dialTCP(t, address)
		_, _ = conns[i].Write([]byte("x"))
		if _, err := io.ReadFull(conns[i], make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	// Twice, because a pool keeps what it is given until the second collection.
	runtime.GC()
	runtime.GC()
	var with, without runtime.MemStats
	runtime.ReadMemStats(&with)
	for _, c := range conns {
		_ = c.Close()
	}
	p.Close()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&without)
	// Both ends of the test are in this process too. A buffer for each direction would be 128 KiB.
	if each := (int64(with.HeapInuse) - int64(without.HeapInuse)) / idle; each > 24<<10 {
		t.Errorf("an idle connection holds %d bytes of heap", each)
	}
}
