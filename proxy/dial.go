package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2"

	"github.com/etcd-parallax/parallax/proxy/transport"
	"github.com/etcd-parallax/parallax/proxy/wire"
)

// target is how an endpoint is spoken to.
type target struct {
	host string // to be named in its certificate
	tls  bool
}

// aim reads the endpoints.
func (p *Proxy) aim() (errs error) {
	if len(p.Endpoints) == 0 {
		return errors.New("proxy: no endpoints: name at least one member")
	}
	p.targets = make(map[string]target)
	if p.Dial != nil && p.MemberTLS == nil {
		return nil // endpoints mean what Dial takes them for
	}
	if p.Dial == nil {
		p.Dial = transport.Dial
	}
	for _, e := range p.Endpoints {
		host, isTLS, err := transport.Host(e)
		if err == nil && isTLS && p.MemberTLS == nil {
			err = fmt.Errorf("%q is https, and there is no TLS configuration for members", e)
		}
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("proxy: endpoint %w", err))
		}
		p.targets[e] = target{host: host, tls: isTLS}
	}
	return errs
}

// receive waits for the client's TLS handshake and for its first bytes: the preface of HTTP/2, or what tells that it is none. HTTP/2 and HTTP/1.1 clients speak first, so a
// connection on which nothing was said is nobody's yet: a port scan, a load balancer's health check, a client that holds
// connections to hurt. It costs the member nothing.
func (p *Proxy) receive(c *conn) (first []byte, err error) {
	if c.from.TLS != nil && !c.from.Passthrough {
		ctx, cancel := context.WithTimeout(p.stopping, p.HandshakeTimeout)
		defer cancel()
		if c.client, err = wire.Server(ctx, &p.buffers, c.raw, c.from.TLS()); err != nil {
			p.refused(refusedHandshake)
			p.Logger.Debug("a client's TLS handshake failed", "client", c.raw.RemoteAddr(), "error", err)
			return nil, err
		}
	} else {
		c.client = wire.Plain(&p.buffers, c.raw)
	}
	if err := c.client.SetReadDeadline(time.Now().Add(p.HandshakeTimeout)); err != nil {
		return nil, err
	}
	for {
		heard, err := c.client.Next()
		if err != nil {
			p.refused(refusedSilent)
			return nil, err
		}
		first = append(first, heard...)
		c.client.Release() // so that clients that wait for members that hang hold what they said, and not a buffer
		if c.from.Passthrough || len(first) >= len(http2.ClientPreface) || !speaksHTTP2(first) {
			return first, c.client.SetReadDeadline(time.Time{})
		}
	}
}

// protocol is what client and member are to agree on (ALPN): what the client has negotiated with us, or, where it did not
// negotiate, what it has begun to speak.
func (c *conn) protocol(first []byte) string {
	if s := c.client.State(); s != nil && s.NegotiatedProtocol != "" {
		return s.NegotiatedProtocol
	}
	if speaksHTTP2(first) {
		return http2.NextProtoTLS
	}
	return "http/1.1"
}

func speaksHTTP2(first []byte) bool {
	n := min(len(first), len(http2.ClientPreface))
	return string(first[:n]) == http2.ClientPreface[:n]
}

// dialMember returns a connection to the first endpoint that can be reached, or nil. Nothing of what the client sent
// has been passed on yet, so nothing is lost when the next endpoint is tried; and nothing is tried again
// after a byte was written to a member: a repeated write would be a lost guarantee.
func (p *Proxy) dialMember(c *conn, first []byte) (*wire.Conn, string) {
	var errs error
	for _, endpoint := range p.rotation.next(p.Endpoints, p.Prefer, p.Health) {
		if c.from.Passthrough && !p.targets[endpoint].tls {
			continue // the client speaks TLS, and this member does not
		}
		ctx, cancel := context.WithTimeout(p.stopping, p.DialTimeout)
		member, err := p.dial(ctx, endpoint, c, first)
		cancel()
		if p.stopping.Err() != nil {
			if err == nil {
				_ = member.Close()
			}
			return nil, ""
		}
		p.Metrics.dialed(endpoint, err)
		if err == nil {
			if c.from.unreachable.CompareAndSwap(true, false) {
				p.Logger.Info("an endpoint can be reached again", "endpoint", endpoint, "address", c.from.Addr())
			}
			return member, endpoint
		}
		p.Logger.Debug("dial failed", "endpoint", endpoint, "error", err)
		errs = errors.Join(errs, fmt.Errorf("%s: %w", endpoint, err))
	}
	if errs == nil {
		errs = errors.New("passthrough relays TLS, and no endpoint is https")
	}
	if c.from.unreachable.CompareAndSwap(false, true) {
		p.Logger.Error("no endpoint can be reached, client connections are closed: "+
			"check that the members run and that --endpoints names their client urls", "address", c.from.Addr(), "error", errs)
	}
	return nil, ""
}

func (p *Proxy) dial(ctx context.Context, endpoint string, c *conn, first []byte) (*wire.Conn, error) {
	raw, err := p.Dial(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	if t := p.targets[endpoint]; t.tls && !c.from.Passthrough {
		return wire.Client(ctx, &p.buffers, raw, p.MemberTLS(t.host, c.protocol(first)))
	}
	return wire.Plain(&p.buffers, raw), nil
}
