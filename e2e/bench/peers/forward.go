package peers

import (
	"context"
	"errors"
	"io"
	"math"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/etcd-parallax/parallax/e2e/bench/raw"
)

// forward is the obvious proxy: a gRPC server that hands every call, as raw
// bytes, to one gRPC client. It decodes no message.
func forward(o options) error {
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	server, client := insecure.NewCredentials(), insecure.NewCredentials()
	if o.tls() {
		serverTLS, err := o.serverTLS()
		if err != nil {
			return err
		}
		clientTLS, err := o.clientTLS()
		if err != nil {
			return err
		}
		server, client = credentials.NewTLS(serverTLS), credentials.NewTLS(clientTLS)
	}
	member, err := grpc.NewClient(o.member, grpc.WithTransportCredentials(client),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw.Codec{}), grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
	if err != nil {
		return err
	}
	return grpc.NewServer(grpc.Creds(server), grpc.ForceServerCodecV2(raw.Codec{}), grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.UnknownServiceHandler(func(_ any, down grpc.ServerStream) error { return call(member, down) })).Serve(listener)
}

// call relays one call of whatever method.
func call(member *grpc.ClientConn, down grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	method, _ := grpc.MethodFromServerStream(down)
	up, err := member.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	go func() {
		// A send that ends with EOF is the member's, who has already answered.
		if err := pump(up.SendMsg, down.RecvMsg); err != nil && !errors.Is(err, io.EOF) {
			cancel()
			return
		}
		_ = up.CloseSend() // it never fails
	}()
	if header, err := up.Header(); err == nil {
		_ = down.SendHeader(header) // an error shows at the first message
	}
	err = pump(down.SendMsg, up.RecvMsg)
	down.SetTrailer(up.Trailer())
	return err
}

// pump passes messages on until the sender has no more.
func pump(send, receive func(any) error) error {
	for {
		var message mem.BufferSlice
		if err := receive(&message); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		err := send(message)
		message.Free()
		if err != nil {
			return err
		}
	}
}
