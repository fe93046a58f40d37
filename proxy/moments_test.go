package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"

	"github.com/etcd-parallax/parallax/proxy/goaway"
)

// Clients that come, speak and go at all moments while all connections are asked to go, in both ways and again and again:
// whoever is still there is told once, and at the end nothing is left.
func TestGoodbyeAtAnyMoment(t *testing.T) {
	pki := newPKI(t)
	p := &Proxy{
		Endpoints: []string{grpcMember(t, &service{}), pki.grpcMember(t, &service{})}, MemberTLS: pki.towardsMembers,
		Observer: observer{}, Metrics: NewMetrics(nil),
	}
	plain, secure := serve(t, ready(p)), pki.listen(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	var clients, other sync.WaitGroup
	var toldTwice, told atomic.Int64
	for i := range 8 {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 7))
			for range 40 {
				goaways, err := visit(t, plain, secure, pki, rnd)
				if err != nil {
					t.Error(err)
				}
				told.Add(int64(goaways))
				if goaways > 1 {
					toldTwice.Add(1)
				}
			}
		})
	}
	other.Go(func() {
		rnd := rand.New(rand.NewPCG(99, 7))
		for ctx.Err() == nil {
			for _, c := range p.open() {
				if rnd.IntN(3) == 0 {
					c.goodbye([]int32{asked, rests}[rnd.IntN(2)])
				}
			}
			time.Sleep(time.Duration(rnd.IntN(2000)) * time.Microsecond)
		}
	})
	clients.Wait()
	cancel()
	other.Wait()
	if told.Load() == 0 || toldTwice.Load() > 0 {
		t.Errorf("%d GOAWAYs were seen of %v; %d connections were told twice",
			told.Load(), testutil.ToFloat64(p.Metrics.goaways), toldTwice.Load())
	}
	shutdown, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Shutdown(shutdown); err != nil {
		t.Error(err)
	}
	nothingLeft(t, p)
}

// visit is one client with a connection of its own. It counts the GOAWAYs.
func visit(t *testing.T, plain, secure string, pki *pki, rnd *rand.Rand) (goaways int, err error) {
	address := plain
	if rnd.IntN(2) == 0 {
		address = secure
	}
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return 0, err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(patience))
	c := raw
	if address == secure {
		c = tls.Client(raw, pki.client("h2"))
	}
	pings := rnd.IntN(100)
	f := opening()
	must(f.WriteSettingsAck())
	for range pings {
		must(f.WritePing(false, [8]byte{}))
	}
	go func() { _, _ = c.Write(f.bytes()) }()
	stay := time.Duration(rnd.IntN(10)) * time.Millisecond
	in := http2.NewFramer(nil, c)
	for first := true; ; first = false {
		frame, err := in.ReadFrame()
		if err != nil {
			return goaways, nil // we leave, or are let go
		}
		if first {
			leaving := time.AfterFunc(stay, func() { _ = raw.SetReadDeadline(time.Unix(1, 0)) })
			defer leaving.Stop()
		}
		if g, ok := frame.(*http2.GoAwayFrame); ok && g.ErrCode == http2.ErrCodeNo && g.LastStreamID == 1<<31-1 {
			goaways++
		}
	}
}

// Every wake is heard: also when it comes just as the member says something.
func TestEveryClientIsTold(t *testing.T) {
	const clients = 30
	p := &Proxy{Observer: observer{}, Metrics: NewMetrics(nil), Endpoints: []string{member(t, func(c net.Conn) {
		f := http2.NewFramer(c, nil)
		_ = f.WriteSettings()
		go func() { _, _ = io.Copy(io.Discard, c) }()
		for range 200 {
			if f.WritePing(false, [8]byte{}) != nil {
				return
			}
			time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		}
		<-t.Context().Done()
	})}}
	address := serve(t, ready(p))
	var reading sync.WaitGroup
	defer reading.Wait()
	for range clients {
		c := speakHTTP2(t, address)
		c.until(t, http2.FrameSettings)
		reading.Go(func() { _, _ = io.Copy(io.Discard, c.conn) })
	}
	for i, c := range p.open() {
		c.goodbye(asked)
		eventually(t, "a client to be told", func() bool { return testutil.ToFloat64(p.Metrics.goaways) == float64(i+1) })
	}
	p.Close()
	nothingLeft(t, p)
}

// A GOAWAY stands where it may, whatever the member says, in whatever pieces, and whenever its client is asked to go; and not
// where the member has said one of its own.
func TestG1AGoAwayNeverBreaksAFrame(t *testing.T) {
	const times = 60
	told := 0
	for seed := range uint64(times) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		said, ownAt := memberSays(rnd)
		begin := make(chan struct{})
		p := &Proxy{Observer: observer{}, Metrics: NewMetrics(nil), Endpoints: []string{member(t, func(c net.Conn) {
			<-begin
			for rest := said; len(rest) > 0; {
				n := min(len(rest), 1+rnd.IntN(60))
				if _, err := c.Write(rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
				if rnd.IntN(4) == 0 {
					time.Sleep(time.Duration(rnd.IntN(300)) * time.Microsecond)
				}
			}
			_ = c.(*net.TCPConn).CloseWrite()
			deaf(c)
		})}}
		c := speakHTTP2(t, serve(t, ready(p)))
		eventually(t, "the connection to have a member", func() bool { return p.all() == 1 })
		conn := p.open()[0]
		close(begin)
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond) // any moment will do
		conn.goodbye(asked)
		got, err := io.ReadAll(c.conn)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.conn.Close()
		at, ok := inserted(said, got, ownAt)
		told += min(at+1, 1)
		if !ok {
			t.Fatalf("seed %d: %d bytes were said and %d heard, with a GOAWAY at %d where none may stand", seed, len(said), len(got), at)
		}
		if counted := testutil.ToFloat64(p.Metrics.goaways); (at >= 0) != (counted == 1) {
			t.Errorf("seed %d: a GOAWAY at %d, counted %v", seed, at, counted)
		}
		p.Close()
		nothingLeft(t, p)
	}
	if told < times/3 {
		t.Errorf("%d clients of %d were told: the moments are badly chosen", told, times)
	}
}

// memberSays is HTTP/2 with header blocks in pieces, DATA, and perhaps a GOAWAY of the member's own at ownAt; else -1.
func memberSays(rnd *rand.Rand) (said []byte, ownAt int) {
	var out bytes.Buffer
	f := http2.NewFramer(&out, nil)
	f.AllowIllegalWrites = true
	must(f.WriteSettings())
	ownAt = -1
	for i := range 30 {
		switch rnd.IntN(5) {
		case 0:
			must(f.WriteData(uint32(2*i+1), false, make([]byte, rnd.IntN(200))))
		case 1, 2:
			must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: make([]byte, rnd.IntN(20))}))
			for range rnd.IntN(3) {
				must(f.WriteContinuation(uint32(2*i+1), false, make([]byte, rnd.IntN(20))))
			}
			must(f.WriteContinuation(uint32(2*i+1), true, nil))
		case 3:
			must(f.WritePing(true, [8]byte{}))
		case 4:
			if ownAt < 0 && rnd.IntN(20) == 0 {
				ownAt = out.Len()
				must(f.WriteGoAway(7, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings")))
			}
		}
	}
	return out.Bytes(), ownAt
}

// inserted finds the one GOAWAY that got has and said has not (-1: none), and says whether it stands where it may and all else is equal.
func inserted(said, got []byte, ownAt int) (at int, ok bool) {
	if bytes.Equal(said, got) {
		return -1, true
	}
	open := false // outside of a header block
	for at = 0; ; {
		if open && (ownAt < 0 || at <= ownAt) && bytes.HasPrefix(got[at:], []byte(goaway.Frame)) {
			return at, bytes.Equal(got[:at], said[:at]) && bytes.Equal(got[at+len(goaway.Frame):], said[at:])
		}
		if at >= len(said) {
			return at, false
		}
		typ, flags := http2.FrameType(said[at+3]), http2.Flags(said[at+4])
		open = typ != http2.FrameHeaders && typ != http2.FrameContinuation || flags.Has(http2.FlagHeadersEndHeaders)
		at += 9 + int(binary.BigEndian.Uint32(said[at:])>>8)
	}
}

// Behind our GOAWAY the member's own passes as it is: grpc-go takes a second one whose id is not higher.
func TestAMembersGoAwayBehindOurs(t *testing.T) {
	stop := make(chan struct{})
	p := &Proxy{Observer: observer{}, Metrics: NewMetrics(nil), Endpoints: []string{member(t, func(c net.Conn) {
		f := http2.NewFramer(c, c)
		_ = f.WriteSettings()
		<-stop
		_ = f.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
		_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
		_ = c.(*net.TCPConn).CloseWrite()
		deaf(c)
	})}}
	c := speakHTTP2(t, serve(t, ready(p)))
	c.until(t, http2.FrameSettings)
	p.open()[0].goodbye(asked)
	c.until(t, http2.FrameGoAway)
	close(stop)
	for _, want := range []uint32{1<<31 - 1, 0} {
		if before, f := c.until(t, http2.FrameGoAway); len(before) > 0 || f.(*http2.GoAwayFrame).LastStreamID != want {
			t.Errorf("%v behind %v, want the member's GOAWAY with id %d", f, before, want)
		}
	}
	if _, err := c.ReadFrame(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
