package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/proxy/tap"
)

const unaryMethod = "/grpc.testing.TestService/UnaryCall"

// service stands for a member: what is asked of it decides the answer.
type service struct {
	pb.UnimplementedTestServiceServer
	asked   chan struct{} // if set, told of each unary call, which then waits for proceed
	proceed chan struct{}
}

func (s *service) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if s.asked != nil {
		s.asked <- struct{}{}
		select {
		case <-s.proceed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if e := r.GetResponseStatus(); e != nil {
		return nil, status.Error(codes.Code(e.GetCode()), e.GetMessage())
	}
	body := append(make([]byte, r.GetResponseSize()), r.GetPayload().GetBody()...)
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: body}}, nil
}

// FullDuplexCall answers each message, as Watch does.
func (s *service) FullDuplexCall(stream grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

func grpcMember(t testing.TB, s *service) (endpoint string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	pb.RegisterTestServiceServer(srv, s)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

func grpcClient(t testing.TB, address string) pb.TestServiceClient {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return pb.NewTestServiceClient(cc)
}

// observer wants everything and does with a call what the test says.
type observer struct {
	request func(method string) int
	observe func(tap.Call)
}

func (o observer) Request(method string) int {
	if o.request != nil {
		return o.request(method)
	}
	return tap.MaxBytes
}

func (observer) Response(string, []byte) tap.Limits { return tap.Limits{Bytes: tap.MaxBytes} }

func (o observer) Observe(c tap.Call) {
	if o.observe != nil {
		o.observe(c)
	}
}

// callMany calls unary methods from several connections at once: small and large answers, and refused calls.
// It fails the test for each answer that is not the one that a member gives.
func callMany(t *testing.T, address string, connections, callers, calls int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all sync.WaitGroup
	for i := range connections {
		client := grpcClient(t, address)
		for j := range callers {
			all.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), uint64(j)))
				for k := range calls {
					if err := callOne(ctx, client, fmt.Sprintf("%d/%d/%d", i, j, k), rnd); err != nil {
						t.Errorf("call %d/%d/%d: %v", i, j, k, err)
						return
					}
				}
			})
		}
	}
	all.Wait()
}

func callOne(ctx context.Context, client pb.TestServiceClient, id string, rnd *rand.Rand) error {
	r := &pb.SimpleRequest{Payload: &pb.Payload{Body: []byte(id)}}
	switch rnd.IntN(20) {
	case 0:
		r.ResponseStatus = &pb.EchoStatus{Code: int32(codes.OutOfRange), Message: "refused " + id}
	case 1:
		r.ResponseSize = int32(rnd.IntN(64 << 10))
	default:
		r.ResponseSize = int32(rnd.IntN(1 << 10))
	}
	got, err := client.UnaryCall(ctx, r)
	if r.ResponseStatus != nil {
		if s := status.Convert(err); s.Code() != codes.OutOfRange || s.Message() != "refused "+id {
			return fmt.Errorf("got %w, want it refused", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if want := append(make([]byte, r.ResponseSize), id...); !bytes.Equal(got.GetPayload().GetBody(), want) {
		return fmt.Errorf("an answer of %d bytes that is not the one of %q", len(got.GetPayload().GetBody()), id)
	}
	return nil
}
