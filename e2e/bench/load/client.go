// Package load is the load generator: gRPC clients that ask an etcd member,
// directly or through a proxy, and count what they get.
package load

import (
	"context"
	"crypto/tls"
	"errors"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Client has a few connections of its own to one address.
type Client struct{ conns []*grpc.ClientConn }

// Open connects n times. Connections are ready when it returns: none is made while something is measured.
func Open(ctx context.Context, addr string, config *tls.Config, n int, opts ...grpc.DialOption) (*Client, error) {
	c := &Client{}
	for range n {
		conn, err := dial(addr, config, opts...)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.conns = append(c.conns, conn)
		if err := ready(ctx, conn); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Close ends the connections.
func (c *Client) Close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

func dial(addr string, config *tls.Config, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	// passthrough: the address is one already, there is nothing to resolve.
	return grpc.NewClient("passthrough:///"+addr, append(opts, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))...)
}

// readyTimeout is far more than any peer needs for its first answer.
const readyTimeout = 10 * time.Second

// ready returns after a first answer: a connection that is accepted may still lead nowhere.
func ready(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	_, err := etcdserverpb.NewKVClient(conn).Range(ctx, &etcdserverpb.RangeRequest{Key: key(getPrefix, 0)}, grpc.WaitForReady(true))
	return err
}

// Meter is told where a measurement begins and ends; warming up lies before it.
type Meter interface {
	Start() error
	Stop() error
}

// Result is what the clients saw between Start and Stop.
type Result struct {
	// Requests were answered; of watches, events arrived.
	Requests int
	Elapsed  time.Duration

	// Latencies at a fixed rate, from the moment when each request was due.
	P50, P99 time.Duration
}
