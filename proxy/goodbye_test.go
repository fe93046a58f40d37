package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// http2Client speaks HTTP/2 by hand, and so sees each frame.
type http2Client struct {
	*http2.Framer
	conn *net.TCPConn
}

func speakHTTP2(t *testing.T, address string) *http2Client {
	t.Helper()
	c := dialTCP(t, address)
	f := http2.NewFramer(c, c)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return &http2Client{Framer: f, conn: c}
}

// until reads on to the first frame of a type, and returns the types that came before it.
func (c *http2Client) until(t *testing.T, want http2.FrameType) (before []http2.FrameType, found http2.Frame) {
	t.Helper()
	for {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatalf("waiting for a %v, behind %v: %v", want, before, err)
		}
		if f.Header().Type == want {
			return before, f
		}
		before = append(before, f.Header().Type)
	}
}

// GUARANTEE G1: a client that is to go is told so by one GOAWAY with the highest stream id, behind the member's SETTINGS, and then its
// connection ends when nothing waits.
func TestG1AGoAwayIsAllThatIsAdded(t *testing.T) {
	p := &Proxy{Endpoints: []string{grpcMember(t, &service{})}, Observer: observer{}, Metrics: NewMetrics(nil)}
	c := speakHTTP2(t, serve(t, p))
	c.until(t, http2.FrameSettings)
	over := make(chan error, 1)
	go func() { over <- p.Shutdown(t.Context()) }()
	before, frame := c.until(t, http2.FrameGoAway)
	for _, typ := range before {
		if typ != http2.FrameSettings && typ != http2.FrameWindowUpdate && typ != http2.FramePing {
			t.Errorf("a %v before the GOAWAY", typ)
		}
	}
	if g := frame.(*http2.GoAwayFrame); g.LastStreamID != 1<<31-1 || g.ErrCode != http2.ErrCodeNo {
		t.Errorf("%v", g)
	}
	for {
		f, err := c.ReadFrame()
		if err != nil {
			break
		}
		if f.Header().Type == http2.FrameGoAway {
			t.Error("a second GOAWAY")
		}
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
	if got := testutil.ToFloat64(p.Metrics.goaways); got != 1 {
		t.Errorf("counted %v", got)
	}
}

// Before the member's SETTINGS a client that is told to go never becomes ready, so it is told behind them; a GOAWAY never stands inside
// a frame, however long the member takes for it.
func TestAGoAwayWaitsForItsPlace(t *testing.T) {
	proceed := make(chan string)
	p := &Proxy{Metrics: NewMetrics(nil), Observer: observer{}, Endpoints: []string{member(t, func(c net.Conn) {
		for s := range proceed {
			_, _ = io.WriteString(c, s)
		}
		_, _ = io.Copy(io.Discard, c)
	})}}
	c := speakHTTP2(t, serve(t, p))
	eventually(t, "the connection to have a member", func() bool {
		return testutil.ToFloat64(p.Metrics.memberConnections.WithLabelValues(p.Endpoints[0], tapped)) == 1
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	over := make(chan error, 1)
	go func() { over <- p.Shutdown(ctx) }()
	eventually(t, "the client to be asked to go", func() bool { return p.open()[0].leave.Load() == rests })
	const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for i, part := range []string{settings[:4], settings[4:]} {
		if got := testutil.ToFloat64(p.Metrics.goaways); got != 0 {
			t.Fatalf("told before part %d of the SETTINGS", i)
		}
		proceed <- part
	}
	if before, _ := c.until(t, http2.FrameGoAway); len(before) != 1 || before[0] != http2.FrameSettings {
		t.Errorf("before the GOAWAY came %v", before)
	}
	close(proceed)
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// A call that has been sent by half when its client is told waits like one that was sent: it would be lost, and its client could not know
// whether it was executed.
func TestShutdownWaitsForAHalfSentCall(t *testing.T) {
	p := &Proxy{Endpoints: []string{grpcMember(t, &service{})}, Observer: observer{}, Metrics: NewMetrics(nil)}
	c := speakHTTP2(t, serve(t, p))
	c.until(t, http2.FrameSettings)
	f := opening()
	f.out.Reset() // what opens the connection has been said
	if _, err := c.conn.Write(f.open(1, "/grpc.testing.TestService/EmptyCall").bytes()); err != nil {
		t.Fatal(err)
	}
	conn := p.open()[0]
	eventually(t, "half of the call to be heard", func() bool {
		conn.mu.Lock()
		defer conn.mu.Unlock()
		return conn.tap != nil && conn.tap.Unanswered() == 1
	})
	over := make(chan error, 1)
	go func() { over <- p.Shutdown(t.Context()) }()
	c.until(t, http2.FrameGoAway)
	eventually(t, "the connection to be ended when nothing waits", func() bool { return conn.leave.Load() == rests })
	if err := c.WriteData(1, true, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	for {
		_, frame := c.until(t, http2.FrameHeaders)
		if frame.(*http2.HeadersFrame).StreamEnded() {
			break
		}
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// With a successor on the address nothing is ended: the client goes when its last call has its answer, and new clients
// are the successor's.
func TestHandoverIsPeaceful(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := &service{asked: make(chan struct{}), proceed: make(chan struct{})}
	p := &Proxy{Endpoints: []string{grpcMember(t, s)}, Observer: observer{}}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handed := false
	serveListener(t, p, &Listener{Listener: l, Handover: func(context.Context) bool {
		handed = true
		_ = l.Close()
		return true
	}})
	client := grpcClient(t, l.Addr().String())
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	said := func() {
		t.Helper()
		if err := stream.Send(&pb.StreamingOutputCallRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	said()
	call := make(chan error, 1)
	go func() {
		_, err := client.UnaryCall(ctx, &pb.SimpleRequest{})
		call <- err
	}()
	<-s.asked
	over := make(chan error, 1)
	go func() { over <- p.Shutdown(ctx) }()
	eventually(t, "the client to be told", func() bool { return testutil.ToFloat64(p.Metrics.goaways) == 1 })
	if !handed {
		t.Error("the listener was not handed over")
	}
	close(s.proceed)
	if err := <-call; err != nil {
		t.Errorf("the call that was under way: %v", err)
	}
	said() // the watch goes on
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream's end: %v", err)
	}
	if err := <-over; err != nil { // by the client, that has nothing left on the connection
		t.Errorf("Shutdown: %v", err)
	}
}

// An HTTP/1.1 connection cannot be told, and ends.
func TestShutdownOfHTTP1(t *testing.T) {
	p := &Proxy{Endpoints: []string{member(t, says("HTTP/1.1 200 OK\r\n\r\n"))}, Observer: observer{}}
	c := dialTCP(t, serve(t, p))
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
	if _, err := io.ReadFull(c, make([]byte, 19)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

// A client whose connection was idle for long is woken like any other, and one that is asked to go twice is told once.
func TestGoodbyeTwice(t *testing.T) {
	p := &Proxy{Endpoints: []string{grpcMember(t, &service{})}, Observer: observer{}, Metrics: NewMetrics(nil)}
	client := grpcClient(t, serve(t, p))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	c := p.open()[0]
	for range 5 {
		c.goodbye(asked)
	}
	eventually(t, "the client to be told", func() bool { return testutil.ToFloat64(p.Metrics.goaways) == 1 })
	// It is all as before on this connection; new calls come on another.
	if err := stream.Send(&pb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a call on a new connection", func() bool {
		callCtx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := client.UnaryCall(callCtx, &pb.SimpleRequest{})
		return err == nil && len(p.open()) == 2
	})
	c.goodbye(rests)
	if _, err := stream.Recv(); err == nil {
		t.Error("the connection did not end")
	}
	if got := testutil.ToFloat64(p.Metrics.goaways); got != 1 {
		t.Errorf("told %v times", got)
	}
}
