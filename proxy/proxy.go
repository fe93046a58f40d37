// Package proxy relays the connections of etcd clients to the members of a cluster, byte for byte, and lets a tap
// listen to what passes.
//
// One client connection is one member connection. That keeps everything that client and member agree on
// between them (header compression, flow control, keepalive, limits) theirs, and costs a fifth of what a gRPC
// server in front of a gRPC client costs.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcd-parallax/parallax/proxy/tap"
)

// DefaultDialTimeout is longer than one lost SYN costs (it is sent again after 1 s), and shorter than the 2 s
// that kube-apiserver gives a health check of etcd.
const DefaultDialTimeout = 1500 * time.Millisecond

// ErrClosed is what Serve returns after Shutdown or Close.
var ErrClosed = errors.New("proxy: closed")

// Proxy relays client connections to members. The fields are set before the first call of Serve and not changed
// after it.
type Proxy struct {
	// Endpoints are the members as configured, e.g. http://127.0.0.1:2379.
	Endpoints []string

	// Health says what is known about an endpoint. It orders new connections and does nothing else. It is
	// asked for every new connection and must not block. If nil, every endpoint is Unknown.
	Health func(endpoint string) Health

	// Dial opens a connection to an endpoint. If nil, it is TCP to the host and port of its URL.
	Dial func(ctx context.Context, endpoint string) (net.Conn, error)

	// DialTimeout bounds the dialing of one endpoint. If zero, DefaultDialTimeout.
	DialTimeout time.Duration

	// Observer is told of the calls that pass. If nil, nothing listens and bytes are only relayed.
	Observer tap.Observer

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

	rotation    rotation
	buffers     buffers
	unreachable atomic.Bool // no endpoint could be reached by the connection that tried last
	panicked    atomic.Bool // a tap has; said once

	draining atomic.Bool        // connections end as they come to rest
	stopping context.Context    // ends dials and the accept loops' pauses
	stop     context.CancelFunc // by Shutdown and Close

	mu        sync.Mutex
	closed    bool                       // no new listener, no new connection
	listeners map[*net.Listener]struct{} // by address: a listener may be of a type that cannot be a key
	conns     map[*conn]struct{}
	running   sync.WaitGroup // one for each connection
}

// init checks and completes the fields, once.
func (p *Proxy) init() error {
	p.initOnce.Do(func() {
		p.listeners = make(map[*net.Listener]struct{})
		p.conns = make(map[*conn]struct{})
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
		if len(p.Endpoints) == 0 {
			p.initErr = errors.New("proxy: no endpoints: name at least one member")
			return
		}
		p.Metrics.expect(p.Endpoints)
		if p.Dial == nil {
			p.Dial = dial
			for _, e := range p.Endpoints {
				if _, err := parse(e); err != nil {
					p.initErr = errors.Join(p.initErr, fmt.Errorf("proxy: endpoint %w", err))
				}
			}
		}
	})
	return p.initErr
}

// handle carries one client connection from accept to end.
func (p *Proxy) handle(c *conn) {
	defer p.forget(c)
	member, endpoint := p.dialMember()
	if member == nil {
		return
	}
	t := p.listen(endpoint)
	if t != nil {
		defer t.Close()
	}
	if !c.attach(member, t, &p.buffers) {
		return
	}
	c.relay()
}

// dialMember returns a connection to the first endpoint that can be reached, or nil. Nothing has been read from
// the client yet, so nothing that it sent is lost when the next endpoint is tried; and nothing is tried again
// after a byte was written to a member: a repeated write would be a lost guarantee.
func (p *Proxy) dialMember() (net.Conn, string) {
	var errs error
	for _, endpoint := range p.rotation.next(p.Endpoints, p.Health) {
		ctx, cancel := context.WithTimeout(p.stopping, p.DialTimeout)
		member, err := p.Dial(ctx, endpoint)
		cancel()
		if p.stopping.Err() != nil {
			if err == nil {
				_ = member.Close()
			}
			return nil, ""
		}
		p.Metrics.dialed(endpoint, err)
		if err == nil {
			if p.unreachable.CompareAndSwap(true, false) {
				p.Logger.Info("an endpoint can be reached again", "endpoint", endpoint)
			}
			return member, endpoint
		}
		p.Logger.Debug("dial failed", "endpoint", endpoint, "error", err)
		errs = errors.Join(errs, fmt.Errorf("%s: %w", endpoint, err))
	}
	if p.unreachable.CompareAndSwap(false, true) {
		p.Logger.Error("no endpoint can be reached, client connections are closed: "+
			"check that the members run and that --endpoints names their client urls", "error", errs)
	}
	return nil, ""
}

// listen returns a tap for a connection to endpoint, or nil.
func (p *Proxy) listen(endpoint string) *tap.Tap {
	if p.Observer == nil {
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
	})
}

// tapEnded is told of each tap that has given up. The connection goes on without it.
func (p *Proxy) tapEnded(t *tap.Tap, reason tap.Reason) {
	p.Metrics.tapsEnded.WithLabelValues(string(reason)).Inc()
	if reason == tap.ReasonPanic && p.panicked.CompareAndSwap(false, true) {
		p.Logger.Error("a tap panicked and its connection is relayed without it, further ones are only counted: "+
			"please report this", "stack", string(t.Stack()))
	}
}
