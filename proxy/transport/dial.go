package transport

import (
	"context"
	"net"
)

// Dial opens a TCP connection to a member, until ctx ends. For an https endpoint the handshake is the caller's: see
// Host.
func Dial(ctx context.Context, endpoint string) (net.Conn, error) {
	a, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", a.target)
}
