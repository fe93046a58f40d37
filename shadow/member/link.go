package member

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// MaxAnswer bounds one answer to a shadow read, in bytes; a larger one is refused
// with ResourceExhausted and judged inconclusive. It leaves room for the largest
// value that etcd takes by default (1.5 MiB). GUARANTEE G7: memory is bounded.
const MaxAnswer = 8 << 20

// link is one gRPC connection to one URL, and the number of the TCP connection
// that carries it: the epoch.
type link struct {
	url  string
	addr string
	tls  func() *tls.Config // for the next handshake; nil: plaintext
	user *session
	conn *grpc.ClientConn
	kv   pb.KVClient
	// GUARANTEE G6: one shadow request in flight per member.
	turn chan struct{}

	epoch atomic.Uint64  // of the TCP connection that was opened last; 0 before the first
	next  *atomic.Uint64 // epochs given out: no two connections of ours ever share one
	lost  atomic.Uint64  // connections that broke while in use

	state atomic.Pointer[state]
	open  atomic.Pointer[net.TCPConn] // the connection of the epoch
}

// newLink to http://HOST:PORT, https://HOST:PORT or HOST:PORT, which is http as
// it is for etcdctl.
func (s *Set) newLink(rawURL string, dialTimeout time.Duration, user *session) (*link, error) {
	full := rawURL
	if !strings.Contains(full, "://") {
		full = "http://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Hostname() == "" || u.Port() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("member url " + rawURL + ": not http://HOST:PORT or https://HOST:PORT")
	}
	l := &link{url: rawURL, addr: u.Host, user: user, turn: make(chan struct{}, 1), next: &s.epochs}
	if u.Scheme == "https" {
		if s.TLS == nil {
			return nil, errors.New("member url " + rawURL + ": https, and Parallax has no TLS towards the members")
		}
		l.tls = func() *tls.Config { return s.TLS(u.Hostname(), "h2") }
	}
	l.state.Store(&state{})
	l.conn, err = grpc.NewClient("passthrough:///"+u.Host,
		grpc.WithTransportCredentials(handshake{l}),
		grpc.WithContextDialer(l.dial),
		grpc.WithUnaryInterceptor(user.intercept),
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

// dial opens a TCP connection and gives it its number before a byte was sent,
// the TLS handshake included: whatever is answered on it later was answered by
// the process that held it from here on. gRPC dials again only when the
// connection before has ended or takes no more calls.
func (l *link) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l.epoch.Store(l.next.Add(1))
	if t, ok := c.(*net.TCPConn); ok {
		l.open.Store(t)
	}
	return c, nil
}

// handshake is the credentials of a link's connections. It asks for the TLS
// material at each of them, so that reloaded certificates hold from the next
// one on.
type handshake struct{ link *link }

func (h handshake) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := h.link.secure(ctx, raw)
	if err != nil {
		return nil, nil, err
	}
	return &countedConn{Conn: c, lost: &h.link.lost}, info, nil
}

func (l *link) secure(ctx context.Context, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if l.tls == nil {
		return insecure.NewCredentials().ClientHandshake(ctx, "", raw)
	}
	config := l.tls()
	if config == nil {
		return nil, nil, errNoTLS
	}
	host, _, _ := net.SplitHostPort(l.addr)
	// gRPC verifies the name that it is given here, not the config's.
	return credentials.NewTLS(config).ClientHandshake(ctx, cmp.Or(config.ServerName, host), raw)
}

var errNoTLS = errors.New("no TLS material for the members is loaded")

// Info makes gRPC send `:scheme: https` over TLS: an etcd up to 3.6 looks at the
// client certificate, and so at its CN, only then.
func (h handshake) Info() credentials.ProtocolInfo {
	if h.link.tls == nil {
		return insecure.NewCredentials().Info()
	}
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (h handshake) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are the credentials of a client")
}

func (h handshake) Clone() credentials.TransportCredentials { return h }

// OverrideServerName is deprecated in gRPC and not used: the TLS config names it.
func (h handshake) OverrideServerName(string) error {
	return errors.New("the name of the server is the TLS config's")
}

// countedConn notes when its connection breaks. That is how a read that killed
// its member is told from one that was sent to a member that was dead already.
// It lies above TLS, where a goodbye is an end as well; and a connection over
// which the member never spoke HTTP/2 (a refused certificate shows only there)
// carried no read.
type countedConn struct {
	net.Conn
	lost   *atomic.Uint64
	spoken atomic.Bool
	broken atomic.Bool
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.spoken.Load() {
		c.spoken.Store(true)
	}
	c.note(err)
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.note(err)
	return n, err
}

func (c *countedConn) note(err error) {
	if err != nil && c.spoken.Load() && !errors.Is(err, net.ErrClosed) && c.broken.CompareAndSwap(false, true) {
		c.lost.Add(1)
	}
}
