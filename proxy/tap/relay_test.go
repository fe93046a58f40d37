package tap

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// A member answers with what it was asked for: the request's payload, and after it as many bytes as the request says.
type member struct {
	pb.UnimplementedTestServiceServer
	hanging *sync.Map // id → chan, closed when a request that is to hang has come
}

func payload(id string, size int32) *pb.Payload {
	return &pb.Payload{Body: append([]byte(id), bytes.Repeat([]byte("v"), int(size))...)}
}

func (m member) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if s := r.GetResponseStatus(); s != nil {
		if s.GetCode() == int32(codes.DeadlineExceeded) { // asked to hang
			if come, ok := m.hanging.Load(string(r.GetPayload().GetBody())); ok {
				close(come.(chan struct{}))
			}
			<-ctx.Done()
		}
		return nil, status.Error(codes.Code(s.GetCode()), s.GetMessage())
	}
	return &pb.SimpleResponse{Payload: payload(string(r.GetPayload().GetBody()), r.GetResponseSize())}, nil
}

func (member) StreamingOutputCall(r *pb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for _, p := range r.GetResponseParameters() {
		answer := &pb.StreamingOutputCallResponse{Payload: payload(string(r.GetPayload().GetBody()), p.GetSize())}
		if err := s.Send(answer); err != nil {
			return err
		}
	}
	return nil
}

func (m member) FullDuplexCall(s grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := m.StreamingOutputCall(r, s); err != nil {
			return err
		}
	}
}

// A relay is the tiniest one: every connection to the member, with a tap of its own.
type relay struct {
	addr   string
	cfg    Config
	listen net.Listener
	done   sync.WaitGroup

	hanging sync.Map // of the member

	mu    sync.Mutex
	taps  []*Tap
	steps []step // of the first connection, in the order they were fed
}

func startRelay(t *testing.T, cfg Config) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: l.Addr().String(), cfg: cfg}
	server := grpc.NewServer()
	pb.RegisterTestServiceServer(server, member{hanging: &r.hanging})
	r.done.Go(func() { _ = server.Serve(l) })
	if r.listen, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	r.done.Go(r.serve)
	t.Cleanup(func() {
		_ = r.listen.Close()
		server.Stop()
		r.done.Wait()
	})
	return r
}

func (r *relay) serve() {
	for n := 0; ; n++ {
		client, err := r.listen.Accept()
		if err != nil {
			return
		}
		member, err := net.Dial("tcp", r.addr)
		if err != nil {
			_ = client.Close()
			continue
		}
		tap := New(r.cfg)
		tap.letPanic = true
		r.mu.Lock()
		r.taps = append(r.taps, tap)
		r.mu.Unlock()
		feed := func(d Direction, b []byte) {
			if n == 0 && *record {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.steps = append(r.steps, step{d, bytes.Clone(b)})
			}
			tap.Feed(d, b)
		}
		r.done.Go(func() { pump(client, member, func(b []byte) { feed(Up, b) }, nil) })
		r.done.Go(func() { pump(member, client, nil, func(b []byte) { feed(Down, b) }) })
	}
}

// pump relays, and shows what it relays before or after it does.
func pump(from, to net.Conn, before, after func([]byte)) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if before != nil {
			before(b[:n])
		}
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			return
		}
		if after != nil {
			after(b[:n])
		}
	}
}

// A client calls the member through the relay.
type client struct {
	pb.TestServiceClient
	hanging *sync.Map
}

func dial(t *testing.T, r *relay) client {
	conn, err := grpc.NewClient("passthrough:///"+r.listen.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return client{pb.NewTestServiceClient(conn), &r.hanging}
}

// finish: everything was understood, and nothing is held.
func (r *relay) finish(t *testing.T) {
	for _, tap := range r.taps {
		await(t, "quiet connection", func() bool { return tap.Unanswered() == 0 })
		if why, ended := tap.Ended(); ended {
			t.Errorf("a tap has ended: %q", why)
		}
		tap.Close()
	}
	if n := r.cfg.Budget.Used(); n != 0 {
		t.Errorf("%d bytes of the budget are held", n)
	}
}
