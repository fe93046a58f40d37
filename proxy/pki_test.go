package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// pki is an authority, and what it has certified. The names in the certificates say who is at the other end of a connection.
type pki struct {
	roots *x509.CertPool
	certs map[string]tls.Certificate // by common name
	hello []byte                     // that a client begins with
}

const (
	parallaxName = "parallax" // as clients and members see it
	memberName   = "member"
	aliceName    = "alice" // a client
)

func newPKI(t testing.TB) *pki {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	template := func(name string, ca bool) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), // also in a bubble, where it is the year 2000
			BasicConstraintsValid: true, IsCA: ca, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
	}
	caKey, ca := key(), template("authority", true)
	sign := func(c *x509.Certificate, k *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &k.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	p := &pki{roots: x509.NewCertPool(), certs: make(map[string]tls.Certificate)}
	root, err := x509.ParseCertificate(sign(ca, caKey))
	if err != nil {
		t.Fatal(err)
	}
	p.roots.AddCert(root)
	for _, name := range []string{parallaxName, memberName, aliceName} {
		k := key()
		p.certs[name] = tls.Certificate{Certificate: [][]byte{sign(template(name, false), k)}, PrivateKey: k}
	}
	var hello bytes.Buffer
	_ = tls.Client(recordsWrites{&hello}, p.client("h2")).Handshake()
	p.hello = hello.Bytes()
	return p
}

// recordsWrites is a connection on which nothing comes back.
type recordsWrites struct{ to io.Writer }

func (r recordsWrites) Write(b []byte) (int, error)    { return r.to.Write(b) }
func (recordsWrites) Read([]byte) (int, error)         { return 0, io.EOF }
func (recordsWrites) Close() error                     { return nil }
func (recordsWrites) LocalAddr() net.Addr              { return nil }
func (recordsWrites) RemoteAddr() net.Addr             { return nil }
func (recordsWrites) SetDeadline(time.Time) error      { return nil }
func (recordsWrites) SetReadDeadline(time.Time) error  { return nil }
func (recordsWrites) SetWriteDeadline(time.Time) error { return nil }

// server is what Parallax shows clients.
func (p *pki) server(protocols ...string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{p.certs[parallaxName]}, ClientCAs: p.roots, ClientAuth: tls.VerifyClientCertIfGiven,
		NextProtos: protocols, DynamicRecordSizingDisabled: true,
	}
}

// client is what clients of anybody use.
func (p *pki) client(protocols ...string) *tls.Config {
	return &tls.Config{RootCAs: p.roots, ServerName: "127.0.0.1", NextProtos: protocols}
}

// towardsMembers is what Parallax uses for members.
func (p *pki) towardsMembers(host string, protocols ...string) *tls.Config {
	return &tls.Config{
		RootCAs: p.roots, ServerName: host, NextProtos: protocols, Certificates: []tls.Certificate{p.certs[parallaxName]},
		DynamicRecordSizingDisabled: true,
	}
}

// listen serves p with TLS for clients, which may choose HTTP/2 or HTTP/1.1, as etcd's may.
func (p *pki) listen(t testing.TB, proxy *Proxy) (address string) {
	t.Helper()
	return p.listenWith(t, proxy, &Listener{TLS: func() *tls.Config { return p.server("h2", "http/1.1") }})
}

func (p *pki) listenWith(t testing.TB, proxy *Proxy, l *Listener) (address string) {
	t.Helper()
	var err error
	if l.Listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	serveListener(t, ready(proxy), l)
	return l.Addr().String()
}

// member is one that speaks TLS, and asks for certificates. handle is called after the handshake.
func (p *pki) member(t testing.TB, handle func(*tls.Conn)) (endpoint string) {
	t.Helper()
	config := p.server("h2", "http/1.1")
	config.Certificates = []tls.Certificate{p.certs[memberName]}
	return secured(member(t, func(c net.Conn) {
		s := tls.Server(c, config)
		if s.HandshakeContext(t.Context()) == nil {
			handle(s)
		}
		_ = s.Close()
	}))
}

func secured(endpoint string) string { return strings.Replace(endpoint, "http:", "https:", 1) }

func (p *pki) grpcMember(t testing.TB, s *service) (endpoint string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := p.server("h2")
	config.Certificates = []tls.Certificate{p.certs[memberName]}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	pb.RegisterTestServiceServer(srv, s)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return "https://" + l.Addr().String()
}

func (p *pki) grpcClient(t testing.TB, address string) pb.TestServiceClient {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(p.client())),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return pb.NewTestServiceClient(cc)
}

func peerName(s tls.ConnectionState) string {
	if len(s.PeerCertificates) == 0 {
		return ""
	}
	return s.PeerCertificates[0].Subject.CommonName
}

func (p *pki) dial(t testing.TB, address string, config *tls.Config) *tls.Conn {
	t.Helper()
	c := tls.Client(dialTCP(t, address), config)
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}
