// Package proxy relays the connections of etcd clients to the members of a cluster, byte for byte, and lets a tap
// listen to what passes.
//
// One client connection is one member connection. That keeps everything that client and member agree on
// between them (header compression, flow control, keepalive, limits) theirs, and costs a fifth of what a gRPC
// server in front of a gRPC client costs.
//
//	serve.go     accepts connections, within limits
//	dial.go      finds a member for each: TLS, first bytes, dial
//	relay.go     carries the bytes: the hot path
//	shutdown.go  lets connections go, one or all
//	move.go      moves those of members that cannot serve them
//	pick.go      in which order endpoints are tried
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcd-parallax/parallax/proxy/tap"
	"github.com/etcd-parallax/parallax/proxy/wire"
)

const (
	// DefaultDialTimeout is longer than one lost SYN costs (it is sent again after 1 s), and shorter than the 2 s
	// that kube-apiserver gives a health check of etcd.
	DefaultDialTimeout = 1500 * time.Millisecond

	// DefaultHandshakeTimeout is generous: a client does nothing before it has its TLS session and has sent
	// the first bytes of it.
	DefaultHandshakeTimeout = 10 * time.Second
)

// ErrClosed is what Serve returns after Shutdown or Close.
var ErrClosed = errors.New("proxy: closed")

// Proxy relays client connections to members. The fields are set before the first call of Serve and not changed
// after it.
type Proxy struct {
	// Endpoints are the members as configured, e.g. https://127.0.0.1:2379.
	Endpoints []string

	// Prefer are those of Endpoints that get all connections while they are fit. If nil, there is no preference.
	Prefer []string

	// Health says what is known about an endpoint. It orders new connections, and moves open ones (see Tend). It
	// is asked for every new connection and must not block. If nil, every endpoint is Unknown.
	Health func(endpoint string) Health

	// Dial opens a connection to an endpoint. If nil, it is TCP to the host and port of its URL.
	Dial func(ctx context.Context, endpoint string) (net.Conn, error)

	// MemberTLS is how to speak TLS with a member of this name, and which protocols to offer it. It must be set
	// if an endpoint is https, and is asked for each connection.
	MemberTLS func(host string, protocols ...string) *tls.Config

	// DialTimeout bounds the dialing of one endpoint, with its TLS handshake. If zero, DefaultDialTimeout.
	DialTimeout time.Duration

	// HandshakeTimeout bounds a client's TLS handshake, then the wait for its first bytes, and in the end the
	// wait for it to leave a connection that its member has ended. If zero, DefaultHandshakeTimeout. There is no other limit on time: whether a quiet connection lives is the matter of
	// client and member.
	HandshakeTimeout time.Duration

	// MaxConnections bounds the client connections, MaxPerPeer those from one IP address. If zero, there is no
	// bound.
	MaxConnections, MaxPerPeer int

	// Observer is told of the calls that pass. If nil, nothing listens and bytes are only relayed.
	Observer tap.Observer

	// Methods are the calls, as "/package.Service/Method", that Metrics tell apart.
	Methods []string

	// Epoch counts the connections of the observer to the member at an endpoint (see tap.Config). If nil, it
	// is always 0.
	Epoch func(endpoint string) uint64

	// Budget bounds what the taps of all connections hold together. If nil, tap.DefaultBudget.
	Budget *tap.Budget

	// Logger hears of changes of state, never of single connections (but for debug). If nil, nobody does.
	Logger *slog.Logger

	// Metrics counts. If nil, nobody sees the counts.
	Metrics *Metrics

	initOnce sync.Once
	initErr  error

	rotation rotation
	targets  map[string]target // by endpoint
	buffers  wire.Buffers
	began    time.Time
	panicked atomic.Bool // a tap has; said once

	stopping context.Context    // ends handshakes, dials and the accept loops' pauses
	stop     context.CancelFunc // by Shutdown and Close

	mu        sync.Mutex
	closing   bool // listeners are closed by us
	closed    bool // no new listener, no new connection
	listeners map[*Listener]struct{}
	conns     map[*conn]struct{}
	peers     map[netip.Addr]int // connections of each client address
	running   sync.WaitGroup     // one for each connection
}

// init checks and completes the fields, once.
func (p *Proxy) init() error {
	p.initOnce.Do(func() {
		p.listeners = make(map[*Listener]struct{})
		p.conns = make(map[*conn]struct{})
		p.peers = make(map[netip.Addr]int)
		p.began = time.Now()
		p.stopping, p.stop = context.WithCancel(context.Background())
		if p.Logger == nil {
			p.Logger = slog.New(slog.DiscardHandler)
		}
		if p.Metrics == nil {
			p.Metrics = NewMetrics(nil)
		}
		if p.Budget == nil {
			p.Budget = tap.NewBudget(0)
		}
		if p.DialTimeout <= 0 {
			p.DialTimeout = DefaultDialTimeout
		}
		if p.HandshakeTimeout <= 0 {
			p.HandshakeTimeout = DefaultHandshakeTimeout
		}
		p.Metrics.expect(p.Endpoints, p.Methods)
		p.initErr = p.aim()
	})
	return p.initErr
}

// handle carries one client connection from accept to end.
func (p *Proxy) handle(c *conn) {
	defer p.forget(c)
	first, err := p.receive(c)
	if err != nil {
		return
	}
	member, endpoint := p.dialMember(c, first)
	if member == nil {
		p.refused(refusedNoMember)
		return
	}
	t := p.listen(c, endpoint)
	if t != nil {
		defer t.Close()
	}
	if !c.attach(member, endpoint, t) {
		return
	}
	if c.from.Passthrough || !speaksHTTP2(first) {
		c.told.Store(true) // there is no place for a GOAWAY in ciphertext, or in HTTP/1.1
	}
	p.Metrics.attached(c.endpoint, !c.blind.Load())
	defer func() { p.Metrics.detached(c.endpoint, !c.blind.Load()) }()
	c.relay(first)
}

// listen returns a tap for a connection to endpoint, or nil.
func (p *Proxy) listen(c *conn, endpoint string) *tap.Tap {
	if p.Observer == nil || c.from.Passthrough {
		return nil
	}
	var epoch func() uint64
	if p.Epoch != nil {
		epoch = func() uint64 { return p.Epoch(endpoint) }
	}
	return tap.New(tap.Config{
		Endpoint: endpoint,
		Epoch:    epoch,
		Observer: p.Observer,
		Budget:   p.Budget,
		Passed:   p.Metrics.passedOver,
		Opened:   p.Metrics.callOpened,
		Answered: p.Metrics.callAnswered,
		Clock:    p.clock,
	})
}

// refused counts a connection that ends without a member. When Parallax stops that is nobody's fault.
func (p *Proxy) refused(why string) {
	if p.isClosing() {
		why = refusedClosed
	}
	p.Metrics.refused(why)
}

func (p *Proxy) clock() time.Duration { return time.Since(p.began) }

// tapEnded is told of each tap that has given up. The connection goes on without it.
func (p *Proxy) tapEnded(c *conn, reason tap.Reason) {
	p.Metrics.tapsEnded.WithLabelValues(string(reason)).Inc()
	p.Metrics.tapLost(c.endpoint)
	if reason == tap.ReasonPanic && p.panicked.CompareAndSwap(false, true) {
		p.Logger.Error("a tap panicked and its connection is relayed without it, further ones are only counted: "+
			"please report this", "stack", string(c.tap.Stack()))
	}
}
