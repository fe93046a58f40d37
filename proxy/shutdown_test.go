package proxy

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// shutdownStory: a client with an open stream (a watch) and one call that the member is still working on.
type shutdownStory struct {
	proxy  *Proxy
	member *service
	stream pb.TestService_FullDuplexCallClient
	call   chan error // the end of the call
	over   chan error // the end of Shutdown
}

func tellShutdown(ctx context.Context, t *testing.T) *shutdownStory {
	t.Helper()
	s := &shutdownStory{
		member: &service{asked: make(chan struct{}), proceed: make(chan struct{})},
		call:   make(chan error, 1),
		over:   make(chan error, 1),
	}
	s.proxy = &Proxy{Endpoints: []string{grpcMember(t, s.member)}, Observer: observer{}}
	client := grpcClient(t, serve(t, s.proxy))
	var err error
	if s.stream, err = client.FullDuplexCall(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.stream.Send(&pb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.stream.Recv(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
		s.call <- err
	}()
	<-s.member.asked
	go func() { s.over <- s.proxy.Shutdown(ctx) }()
	eventually(t, "shutting down", s.proxy.isClosing)
	return s
}

// A call that is under way gets its answer; then the connection ends, though the watch on it never would.
func TestShutdownWaitsForCalls(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := tellShutdown(ctx, t)
	// The connection is still whole: the stream is answered.
	if err := s.stream.Send(&pb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.stream.Recv(); err != nil {
		t.Errorf("the stream while a call is under way: %v", err)
	}
	select {
	case err := <-s.over:
		t.Fatalf("Shutdown returned %v while a call was under way", err)
	default:
	}
	close(s.member.proceed)
	if err := <-s.call; err != nil {
		t.Errorf("the call that was under way: %v", err)
	}
	if err := <-s.over; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := s.stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream's end: %v", err)
	}
}

// A call that never ends does not keep the proxy.
func TestShutdownIsBounded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s := tellShutdown(ctx, t)
	if err := <-s.over; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-s.call; status.Code(err) != codes.Unavailable {
		t.Errorf("the call: %v", err)
	}
}

// A second signal: Close ends a Shutdown that is waiting.
func TestCloseEndsAShutdown(t *testing.T) {
	s := tellShutdown(t.Context(), t)
	s.proxy.Close()
	if err := <-s.over; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-s.call; status.Code(err) != codes.Unavailable {
		t.Errorf("the call: %v", err)
	}
}

// An idle connection with a watch alone ends at once.
func TestShutdownDoesNotWaitForStreams(t *testing.T) {
	p := &Proxy{Endpoints: []string{grpcMember(t, &service{})}, Observer: observer{}}
	client := grpcClient(t, serve(t, p))
	stream, err := client.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream's end: %v", err)
	}
}
