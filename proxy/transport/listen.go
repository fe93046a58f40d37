package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// DefaultSocketMode lets in the user who runs Parallax, and root: whoever reaches the socket acts with Parallax's
// credentials.
const DefaultSocketMode fs.FileMode = 0o600

// ListenOptions are for all listeners; each takes what concerns its scheme.
type ListenOptions struct {
	// SocketMode is the mode of a unix socket's file. If zero, DefaultSocketMode.
	SocketMode fs.FileMode

	// SocketOwner of a unix socket's file: USER, USER:GROUP or :GROUP, by name or number. If empty, ours.
	SocketOwner string

	// ReusePort lets several processes of one user listen on a TCP port (SO_REUSEPORT), so that a successor can
	// be up before its predecessor goes. All of them must ask for it.
	ReusePort bool
}

// Listener is open for clients.
type Listener struct {
	net.Listener

	URL         string // as it was asked for
	TLS         bool   // https: clients begin with a TLS handshake
	Passthrough bool   // their bytes are relayed to the member unseen, TLS or not

	conn      syscall.RawConn
	reusePort bool
	file      *socketFile // nil but for unix

	probes probes

	once   sync.Once
	gentle atomic.Bool   // CloseGently has begun to close: what waits is in rest, or will be
	closed chan struct{} // closed after that
	taken  chan struct{} // closed when the accept loop knows

	mu   sync.Mutex
	rest []net.Conn // were waiting when CloseGently closed
	told bool       // taken is closed
}

// Listen opens the listener that a URL asks for: http://IP:PORT, https://IP:PORT, passthrough://IP:PORT or
// unix:///PATH.
func Listen(ctx context.Context, rawURL string, o ListenOptions) (*Listener, error) {
	a, err := parseListen(rawURL)
	if err != nil {
		return nil, err
	}
	l := &Listener{
		URL:         rawURL,
		TLS:         a.scheme == schemeHTTPS,
		Passthrough: a.scheme == schemePassthrough,
		closed:      make(chan struct{}),
		taken:       make(chan struct{}),
	}
	if a.scheme == schemeUnix {
		l.Listener, l.file, err = listenUnix(ctx, a.target, o)
	} else {
		l.reusePort = o.ReusePort
		l.Listener, err = listenTCP(ctx, a.target, o.ReusePort)
	}
	if err != nil {
		return nil, fmt.Errorf("transport: listen url %q: %w", rawURL, err)
	}
	if l.conn, err = l.Listener.(syscall.Conn).SyscallConn(); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("transport: listen url %q: %w", rawURL, err)
	}
	if l.reusePort {
		// Somebody who has gone may have left it behind (see CloseGently).
		_ = l.conn.Control(func(fd uintptr) { dropSteering(int(fd)) })
	}
	return l, nil
}

func listenTCP(ctx context.Context, hostPort string, reusePort bool) (net.Listener, error) {
	var lc net.ListenConfig
	// No client of etcd speaks MPTCP, which Go would offer, and its sockets know no steering.
	lc.SetMultipathTCP(false)
	if reusePort {
		lc.Control = setReusePort
	}
	l, err := lc.Listen(ctx, "tcp", hostPort)
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && reusePort:
		return nil, fmt.Errorf("%w: whoever listens there must have been started with reuse-port, too, "+
			"and by the same user; or free the address", err)
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%w: another process listens there: free the address, or choose another", err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%w: choose a port above 1023, or grant CAP_NET_BIND_SERVICE", err)
	}
	return l, err
}

// Accept returns the next connection of a client. After Close and CloseGently it returns net.ErrClosed, after
// CloseGently not before all connections that were waiting have been returned.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil && l.gentle.Load() {
			<-l.closed
			c, err = l.next()
		}
		if err != nil {
			return nil, err
		}
		if !l.probes.own(c) {
			return c, nil
		}
		_ = c.Close()
	}
}

// next returns a connection that was waiting when CloseGently closed.
func (l *Listener) next() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) == 0 {
		if !l.told {
			l.told = true
			close(l.taken)
		}
		return nil, net.ErrClosed
	}
	c := l.rest[0]
	l.rest = l.rest[1:]
	return c, nil
}

// Close stops listening at once. Connections that wait to be accepted are reset by the kernel, and those that
// CloseGently has left are closed. It removes the file of a unix socket if it is still this listener's.
func (l *Listener) Close() error {
	l.once.Do(func() {
		l.file.remove()
		_ = l.Listener.Close()
		close(l.closed)
	})
	for {
		c, err := l.next()
		if err != nil {
			return nil
		}
		_ = c.Close()
	}
}
