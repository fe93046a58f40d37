package member

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// MaxAnswer bounds one answer to a shadow read, in bytes; a larger one is refused
// with ResourceExhausted and judged inconclusive. It leaves room for the largest
// value that etcd takes by default (1.5 MiB). GUARANTEE G7: memory is bounded.
const MaxAnswer = 8 << 20

// givenUp is after how many probes without an answer a connection is opened
// anew: after a partition the old one may hang for minutes.
const givenUp = 5

// link is one gRPC connection to one URL, and the number of the TCP connection
// that carries it: the epoch.
type link struct {
	url  string
	conn *grpc.ClientConn
	kv   pb.KVClient
	// GUARANTEE G6: one shadow request in flight per member.
	turn chan struct{}

	epoch atomic.Uint64  // of the TCP connection that was opened last; 0 before the first
	next  *atomic.Uint64 // epochs given out: no two connections of ours ever share one
	lost  atomic.Uint64  // connections that broke while in use

	state atomic.Pointer[state]
	open  atomic.Pointer[countedConn] // the connection of the epoch
}

// state is what the last probe of a link said.
type state struct {
	at      time.Time
	err     error
	cluster uint64
	member  uint64
	learner bool
	// leaderless: the member answered, and knows of no leader.
	leaderless bool
	misses     int // probes without an answer, in a row
	// local: an etcd before 3.5, whose member list is its own, not the cluster's.
	local bool
	// refused tells why shadow reads do not use this URL, if so.
	refused  string
	balancer bool // … for as long as the link lives
}

func newLink(rawURL string, dialTimeout time.Duration, epochs *atomic.Uint64) (*link, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" {
		return nil, errors.New("member url " + rawURL + ": not http://HOST:PORT")
	}
	if u.Scheme != "http" {
		return nil, errors.New("member url " + rawURL + ": only http is supported so far")
	}
	l := &link{url: rawURL, turn: make(chan struct{}, 1), next: epochs}
	l.state.Store(&state{})
	l.conn, err = grpc.NewClient("passthrough:///"+u.Host,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(l.dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A member that comes back is to be compared again within a second or two.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxAnswer)),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0), // an idle pause would end the epoch
		grpc.WithUserAgent("parallax"),
	)
	if err != nil {
		return nil, err
	}
	l.kv = pb.NewKVClient(l.conn)
	return l, nil
}

func (l *link) close() { _ = l.conn.Close() }

func (l *link) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l.epoch.Store(l.next.Add(1))
	counted := &countedConn{Conn: c, lost: &l.lost}
	l.open.Store(counted)
	return counted, nil
}

// countedConn notes when its connection breaks. That is how a read that killed
// its member is told from one that was sent to a member that was dead already.
type countedConn struct {
	net.Conn
	lost   *atomic.Uint64
	broken atomic.Bool
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.note(err)
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.note(err)
	return n, err
}

func (c *countedConn) note(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) && c.broken.CompareAndSwap(false, true) {
		c.lost.Add(1)
	}
}
