package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/e2e/internal/loopback"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// What no etcd says yet passes, too: details of a status, codes that nobody has heard of, compression, metadata of all names, methods
// that do not exist. The member is a gRPC server that sends back what it hears.
func TestMemberOfTheFuture(t *testing.T) {
	t.Parallel()
	ip, err := loopback.Address(2379)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(ip, "2379"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(echo), grpc.MaxRecvMsgSize(1<<30))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	url := "http://" + listener.Addr().String()
	proc := parallax.StartT(t, parallax.Options{Endpoints: []string{url}, Race: true, NotReady: true, Flags: []string{"--sample-reads=1"}})
	eventually(t, "Parallax to listen", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(proc.ClientURL, "http://"))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	direct, proxied := new(transcript), new(transcript)
	hearEcho(t, &plumbing{url: url}, direct)
	hearEcho(t, &plumbing{url: proc.ClientURL}, proxied)
	direct.compare(t, proxied)
	for _, want := range []string{"traceparent", "00-0af7651916cd43dd8448eb211c80319c", "hasleader", "client-api-version", "authorization", "token", "reason:\"FUTURE\"", "Code(99)", "gzip"} {
		if !strings.Contains(strings.Join(proxied.lines, "\n"), want) {
			t.Errorf("%q is missing", want)
		}
	}
}

// echo sends back the metadata as a header and a trailer, and each message; then it ends with the status that it is asked for.
func echo(_ any, stream grpc.ServerStream) error {
	heard, _ := metadata.FromIncomingContext(stream.Context())
	var names []string
	for name, values := range heard {
		if name != ":authority" { // where the client connected to
			names = append(names, fmt.Sprintf("%s=%q", name, values))
		}
	}
	slices.Sort(names)
	method, _ := grpc.MethodFromServerStream(stream)
	if err := stream.SendHeader(metadata.Pairs("heard", method+" "+strings.Join(names, " "), "bytes-bin", "\x00\xff")); err != nil {
		return err
	}
	for {
		message := new(pb.PutRequest)
		if err := stream.RecvMsg(message); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(message); err != nil {
			return err
		}
	}
	stream.SetTrailer(metadata.Pairs("x-trailer", "first", "x-trailer", "second", "trailer-bin", "\x00\xff"))
	var code codes.Code
	if asked := heard.Get("answer-with"); len(asked) > 0 {
		if _, err := fmt.Sscan(asked[0], (*uint32)(&code)); err != nil {
			return err
		}
	}
	if code == codes.OK {
		return nil
	}
	detailed, err := status.New(code, "with details\n\t\u20ac %").WithDetails(&errdetails.ErrorInfo{Reason: "FUTURE", Domain: "etcd.test"})
	if err != nil {
		return err
	}
	return detailed.Err()
}

func hearEcho(t *testing.T, p *plumbing, saw *transcript) {
	t.Helper()
	conn := p.grpc(t)
	ctx := metadata.AppendToOutgoingContext(patient(t), "token", "t0ken.1", "authorization", "Bearer t0ken", "hasleader", "true", "client-api-version", "9.9",
		"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate", "a=1,b=2", "x-bytes-bin", "\x00\x01\xff", "empty", "")
	for code := range 20 {
		saw.echo(metadata.AppendToOutgoingContext(ctx, "answer-with", fmt.Sprint(code)), t, conn, "/etcdserverpb.Future/Call", 3)
	}
	saw.echo(metadata.AppendToOutgoingContext(ctx, "answer-with", "99"), t, conn, "/etcdserverpb.KV/Range", 1)
	saw.echo(ctx, t, conn, "/etcdserverpb.KV/Put", 2, grpc.UseCompressor(gzip.Name))
	saw.echo(ctx, t, conn, "/etcdserverpb.Watch/Watch", 0)
}

// echo exchanges a number of messages, each after the answer to the one before, and says what came back.
func (s *transcript) echo(ctx context.Context, t *testing.T, conn *grpc.ClientConn, method string, messages int, opts ...grpc.CallOption) {
	t.Helper()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, opts...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		value := bytes.Repeat([]byte{byte(i)}, 100_000*i)
		if err := stream.SendMsg(&pb.PutRequest{Value: value}); err != nil {
			t.Fatal(err)
		}
		back := new(pb.PutRequest)
		if err := stream.RecvMsg(back); err != nil || !bytes.Equal(back.Value, value) {
			t.Fatalf("message %d: %d bytes, %v", i, len(back.Value), err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	end := stream.RecvMsg(new(pb.PutRequest))
	header, err := stream.Header()
	if err != nil {
		t.Fatal(err)
	}
	got := status.Convert(end) // of io.EOF, when all went well
	s.say("%v %q details %v", got.Code(), got.Message(), got.Details())
	s.say("header %q trailer %q", plain(header), plain(stream.Trailer()))
}

// plain metadata shows itself; as it comes it hides what might be secret.
func plain(md metadata.MD) map[string][]string { return md }
