package proxy

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Listen opens the listener that a URL of --listen-client-urls asks for.
func Listen(ctx context.Context, rawURL string) (net.Listener, error) {
	a, err := parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("proxy: listen url %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, a.network, a.address)
	if err != nil {
		return nil, fmt.Errorf("proxy: listen url %q: %w", rawURL, err)
	}
	return l, nil
}

// dial opens the connection that an endpoint asks for. It is what Proxy.Dial is when nil.
func dial(ctx context.Context, endpoint string) (net.Conn, error) {
	a, err := parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint %w", err)
	}
	var d net.Dialer
	return d.DialContext(ctx, a.network, a.address)
}

// addr is where and how to reach the other side of a URL.
type addr struct {
	network, address string
}

// parse reads a URL as etcd and etcdctl write them: http://host:port, or host:port without a scheme.
func parse(raw string) (addr, error) {
	full := raw
	if !strings.Contains(raw, "://") {
		full = "http://" + raw
	}
	shown := raw
	if before, after, found := strings.Cut(raw, "@"); found {
		// GUARANTEE G8: No value, token, password or key material is logged or served.
		scheme, _, _ := strings.Cut(before, "://")
		shown = scheme + "://…@" + after
	}
	u, err := url.Parse(full)
	if err != nil {
		return addr{}, fmt.Errorf("%q cannot be read: write it as http://host:port", shown)
	}
	if u.Scheme != "http" {
		return addr{}, fmt.Errorf("%q has the scheme %q, which is not supported: use http", shown, u.Scheme)
	}
	if u.Port() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return addr{}, fmt.Errorf("%q is not scheme, host and port alone: write it as http://host:port", shown)
	}
	return addr{network: "tcp", address: u.Host}, nil
}
