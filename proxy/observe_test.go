package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-parallax/parallax/proxy/tap"
	"github.com/etcd-parallax/parallax/proxy/transport"
)

// Thousands of calls of a real client: each gets its own answer, and the observer hears each with the answer that
// the client got, the endpoint that served it, and that endpoint's epoch.
func TestCallsPassAndAreObserved(t *testing.T) {
	const connections, callers, calls = 4, 8, 150
	a, b := grpcMember(t, &service{}), grpcMember(t, &service{})
	epochs := map[string]uint64{a: 7, b: 9}
	var mu sync.Mutex
	heard := make(map[string]int) // by request id
	p := &Proxy{
		Endpoints: []string{a, b},
		Metrics:   NewMetrics(nil),
		Epoch:     func(e string) uint64 { return epochs[e] },
		Observer: observer{observe: func(c tap.Call) {
			var q pb.SimpleRequest
			if err := proto.Unmarshal(c.Request, &q); err != nil || c.Method != unaryMethod {
				t.Errorf("observed the request %x of %s: %v", c.Request, c.Method, err)
			}
			id := string(q.GetPayload().GetBody())
			if epochs[c.Endpoint] != c.Epoch || c.Epoch == 0 {
				t.Errorf("%s: observed at %q in the epoch %d", id, c.Endpoint, c.Epoch)
			}
			if q.ResponseStatus != nil {
				if c.Code != int(codes.OutOfRange) || c.Message != "refused "+id {
					t.Errorf("%s: observed the status %d %q", id, c.Code, c.Message)
				}
			} else {
				var r pb.SimpleResponse
				want := append(make([]byte, q.GetResponseSize()), id...)
				if len(c.Responses) != 1 {
					t.Errorf("%s: observed %d answers", id, len(c.Responses))
				} else if err := proto.Unmarshal(c.Responses[0], &r); err != nil || !bytes.Equal(r.GetPayload().GetBody(), want) {
					t.Errorf("%s: observed another answer than the client got: %v", id, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			heard[id]++
		}},
	}
	callMany(t, serve(t, p), connections, callers, calls)
	p.Close() // an answer is observed after it was written: the client may have it first

	for id, n := range heard {
		if n != 1 {
			t.Errorf("%s was observed %d times", id, n)
		}
	}
	// Eight answers of 64 KiB at most fit into what a tap may hold.
	if got := len(heard); got != connections*callers*calls {
		t.Errorf("observed %d calls of %d", got, connections*callers*calls)
	}
	if ended, passed := testutil.CollectAndCount(p.Metrics.tapsEnded), testutil.CollectAndCount(p.Metrics.callsPassedOver); ended+passed != 0 {
		t.Errorf("%d reasons to end a tap, %d to pass over a call", ended, passed)
	}
}

// Answers beyond all that a tap may hold, and a stream that is open all the while.
func TestLargeAnswersAndStreams(t *testing.T) {
	p := &Proxy{Endpoints: []string{grpcMember(t, &service{})}, Observer: observer{}}
	client := grpcClient(t, serve(t, p))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		body := fmt.Appendf(nil, "message %d", i)
		if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: body}}); err != nil {
			t.Fatal(err)
		}
		if got, err := stream.Recv(); err != nil || !bytes.Equal(got.GetPayload().GetBody(), body) {
			t.Fatalf("%q, %v; want %q", got.GetPayload().GetBody(), err, body)
		}
		if i%10 != 0 {
			continue
		}
		const size = 12 << 20
		got, err := client.UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: size})
		if err != nil || len(got.GetPayload().GetBody()) != size {
			t.Fatalf("an answer of %d bytes, %v", len(got.GetPayload().GetBody()), err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream's end: %v", err)
	}
}

// GUARANTEE G2: No fault, delay or overload of the shadow changes, delays or ends client traffic.
func TestClientsDoNotNoticeTheObserver(t *testing.T) {
	t.Run("that panics", func(t *testing.T) {
		for name, o := range map[string]observer{
			"when asked": {request: func(string) int { panic("boom") }},
			"when told":  {observe: func(tap.Call) { panic("boom") }},
		} {
			t.Run(name, func(t *testing.T) {
				var log logged
				p := &Proxy{
					Endpoints: []string{grpcMember(t, &service{})}, Observer: o, Logger: log.logger(), Metrics: NewMetrics(nil),
				}
				callMany(t, serve(t, p), 3, 4, 50)
				if got := testutil.ToFloat64(p.Metrics.tapsEnded.WithLabelValues(string(tap.ReasonPanic))); got != 3 {
					t.Errorf("%v taps of 3 have ended by a panic", got)
				}
				if log.count("a tap panicked") != 1 || log.count("observe_test.go") == 0 || log.count("boom") != 0 {
					t.Errorf("want it logged once, with the place but not the value:\n%s", log.b.String())
				}
			})
		}
	})
	t.Run("that is slow", func(t *testing.T) {
		// Slower than any that keeps the rule not to block. Answers are observed after they were written, so it
		// delays what follows on its own connection, and neither breaks anything nor reaches another.
		o := observer{observe: func(tap.Call) { time.Sleep(2 * time.Millisecond) }}
		p := &Proxy{Endpoints: []string{grpcMember(t, &service{})}, Observer: o, Metrics: NewMetrics(nil)}
		callMany(t, serve(t, p), 2, 8, 25)
		if got := testutil.CollectAndCount(p.Metrics.tapsEnded); got != 0 {
			t.Errorf("%d taps have ended", got)
		}
	})
	t.Run("that has no memory", func(t *testing.T) {
		p := &Proxy{
			Endpoints: []string{grpcMember(t, &service{})}, Observer: observer{}, Budget: tap.NewBudget(1), Metrics: NewMetrics(nil),
		}
		callMany(t, serve(t, p), 2, 4, 25)
		if got := testutil.ToFloat64(p.Metrics.callsPassedOver.WithLabelValues(tap.PassedMemory)); got != 200 {
			t.Errorf("%v calls of 200 are counted as passed over", got)
		}
	})
}

// What connections held of the budget comes back when they are gone.
func TestBudgetIsGivenBack(t *testing.T) {
	s := &service{asked: make(chan struct{}), proceed: make(chan struct{})}
	p := &Proxy{Endpoints: []string{grpcMember(t, s)}, Observer: observer{}, Budget: tap.NewBudget(0)}
	client := grpcClient(t, serve(t, p))
	done := make(chan error, 1)
	go func() {
		_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{Payload: &pb.Payload{Body: make([]byte, 10_000)}})
		done <- err
	}()
	<-s.asked
	if got := p.Budget.Used(); got < 10_000 {
		t.Errorf("%d bytes are held of a request of 10,000", got)
	}
	p.Close()
	if err := <-done; status.Code(err) != codes.Unavailable {
		t.Errorf("the call that was cut off: %v", err)
	}
	if got := p.Budget.Used(); got != 0 {
		t.Errorf("%d bytes are held of no connection", got)
	}
}

// the tap hears a request before the member can, and an answer after the client could.
func TestTapHearsInOrder(t *testing.T) {
	var asked, written, answered atomic.Int64 // requests heard by the tap, answers written, answers heard by the tap
	endpoint := grpcMember(t, &service{})
	p := &Proxy{
		Endpoints: []string{endpoint},
		Observer: observer{
			request: func(string) int { asked.Add(1); return tap.MaxBytes },
			observe: func(tap.Call) {
				if n := answered.Add(1); written.Load() < n {
					t.Errorf("the tap heard answer %d before it was written to the client", n)
				}
			},
		},
		Dial: func(ctx context.Context, e string) (net.Conn, error) {
			c, err := transport.Dial(ctx, e)
			return watchedConn{c, func(b []byte) {
				if bytes.Contains(b, []byte("first of all")) && asked.Load() == 0 {
					t.Error("a request was written to the member before the tap heard it")
				}
			}}, err
		},
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, p, watchedListener{l, func(b []byte) {
		written.Add(int64(bytes.Count(b, []byte("first of all"))))
	}})
	client := grpcClient(t, l.Addr().String())
	for range 50 {
		if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{Payload: &pb.Payload{Body: []byte("first of all")}}); err != nil {
			t.Fatal(err)
		}
	}
	p.Close()
	if a, b := asked.Load(), answered.Load(); a != 50 || b != 50 {
		t.Errorf("the tap heard %d requests and %d answers of 50", a, b)
	}
}

// watchedConn tells of what is written, when it has been.
type watchedConn struct {
	net.Conn
	wrote func([]byte)
}

func (c watchedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.wrote(b[:n])
	return n, err
}

type watchedListener struct {
	net.Listener
	wrote func([]byte)
}

func (l watchedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return watchedConn{c, l.wrote}, err
}
