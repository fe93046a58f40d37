package wire

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// certificate for 127.0.0.1, as PEM and as configurations of both sides.
func certificate(tb testing.TB) (certPEM, keyPEM string, server, client *tls.Config) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "member"}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	certPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(certPEM))
	server = &tls.Config{Certificates: []tls.Certificate{pair}, DynamicRecordSizingDisabled: true}
	client = &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", DynamicRecordSizingDisabled: true}
	return certPEM, keyPEM, server, client
}

// kind is a way in which one of our sides and its peer are connected.
type kind struct {
	name    string
	network string
	version uint16 // 0: plain
	client  bool   // ours is the TLS client
}

var kinds = []kind{
	{"tcp", "tcp", 0, false},
	{"unix", "unix", 0, false},
	{"tls12 server", "tcp", tls.VersionTLS12, false},
	{"tls12 client", "tcp", tls.VersionTLS12, true},
	{"tls13 server", "tcp", tls.VersionTLS13, false},
	{"tls13 client", "tcp", tls.VersionTLS13, true},
	{"tls13 unix", "unix", tls.VersionTLS13, false},
	{"pipe", "pipe", 0, false},
	{"tls13 pipe", "pipe", tls.VersionTLS13, true},
}

func eachKind(t *testing.T, test func(t *testing.T, k kind)) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { test(t, k) })
	}
}

// sockets are the two ends of one connection.
func sockets(tb testing.TB, network string) (ours, peers net.Conn) {
	tb.Helper()
	if network == "pipe" {
		ours, peers = net.Pipe()
	} else {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = filepath.Join(tb.TempDir(), "s")
		}
		l, err := net.Listen(network, address)
		if err != nil {
			tb.Fatal(err)
		}
		defer l.Close()
		if peers, err = net.Dial(network, l.Addr().String()); err != nil {
			tb.Fatal(err)
		}
		if ours, err = l.Accept(); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(func() { ours.Close(); peers.Close() })
	return ours, peers
}

// ends are our side, and a peer of the standard library.
func (k kind) ends(tb testing.TB, b *Buffers) (ours *Conn, peer net.Conn) {
	tb.Helper()
	c, p := sockets(tb, k.network)
	if k.version == 0 {
		return Plain(b, c), p
	}
	_, _, server, client := certificate(tb)
	server.MinVersion, server.MaxVersion = k.version, k.version
	return k.secure(tb, b, c, p, server, client)
}

// secure makes the handshake over given sockets.
func (k kind) secure(tb testing.TB, b *Buffers, c, p net.Conn, server, client *tls.Config) (*Conn, *tls.Conn) {
	tb.Helper()
	side, cfg, peer := Server, server, tls.Client(p, client)
	if k.client {
		side, cfg, peer = Client, client, tls.Server(p, server)
	}
	var both sync.WaitGroup
	both.Go(func() {
		if err := peer.HandshakeContext(tb.Context()); err != nil {
			tb.Error(err)
		}
	})
	ours, err := side(context.Background(), b, c, cfg)
	both.Wait()
	if err != nil || tb.Failed() {
		tb.Fatal(err)
	}
	return ours, peer
}

// both ends are ours.
func (k kind) both(tb testing.TB, b *Buffers) (*Conn, *Conn) {
	tb.Helper()
	c, p := sockets(tb, k.network)
	if k.version == 0 {
		return Plain(b, c), Plain(b, p)
	}
	_, _, server, client := certificate(tb)
	server.MinVersion, server.MaxVersion = k.version, k.version
	var shaking sync.WaitGroup
	var ours, peer *Conn
	var ourErr, peerErr error
	shaking.Go(func() { peer, peerErr = Client(context.Background(), b, p, client) })
	ours, ourErr = Server(context.Background(), b, c, server)
	shaking.Wait()
	if ourErr != nil || peerErr != nil {
		tb.Fatal(ourErr, peerErr)
	}
	return ours, peer
}

// counted are buffers of which it is known how many are held.
type counted struct {
	Buffers
	mu sync.Mutex
	n  int
}

func count() *counted {
	c := &counted{}
	c.held = func(n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.n += n
	}
	return c
}

func (c *counted) now() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// wantNone waits until no buffer is held.
func (c *counted) wantNone(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); c.now() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d buffers are held", c.now())
		}
	}
}

// drain reads with Next until an error.
func drain(c *Conn) (got []byte, err error) {
	defer c.Release()
	for {
		b, err := c.Next()
		if err != nil {
			return got, err
		}
		if len(b) == 0 || len(b) > BulkSize {
			panic("Next returned nothing, or more than BulkSize")
		}
		got = append(got, b...)
		c.Release()
	}
}

func closeWrite(c net.Conn) error {
	return c.(interface{ CloseWrite() error }).CloseWrite()
}

// send writes, and half-closes as a peer of ours does: TLS with a close_notify and a FIN.
func send(peer net.Conn, b []byte) error {
	if _, err := peer.Write(b); err != nil {
		return err
	}
	if err := closeWrite(peer); err != nil {
		return err
	}
	if t, ok := peer.(*tls.Conn); ok {
		return closeWrite(t.NetConn())
	}
	return nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = io.ReadFull(rand.Reader, b)
	return b
}
