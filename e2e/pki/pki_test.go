package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/etcd-parallax/parallax/e2e/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServersAndClientsKnowTheirFriends(t *testing.T) {
	ca, other := authority(t), authority(t)
	server := issue(t, ca, "server", pki.For("127.0.0.1", "member.test"))
	for name, c := range map[string]struct {
		server  pki.Pair
		client  *tls.Config
		host    string
		refused bool
	}{
		"by address":          {server: server, client: client(t, ca, issue(t, ca, "root")), host: "127.0.0.1"},
		"by name":             {server: server, client: client(t, ca, issue(t, ca, "root")), host: "member.test"},
		"other name":          {server: server, client: client(t, ca, issue(t, ca, "root")), host: "other.test", refused: true},
		"other authority":     {server: server, client: client(t, other, issue(t, ca, "root")), host: "127.0.0.1", refused: true},
		"client of another":   {server: server, client: client(t, ca, issue(t, other, "root")), host: "127.0.0.1", refused: true},
		"client that expired": {server: server, client: client(t, ca, issue(t, ca, "old", pki.Expired())), host: "127.0.0.1", refused: true},
		"no client's":         {server: server, client: client(t, ca), host: "127.0.0.1", refused: true},
		"server that expired": {server: issue(t, ca, "oldserver", pki.For("127.0.0.1"), pki.Expired()), client: client(t, ca, issue(t, ca, "root")), host: "127.0.0.1", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			c.client.ServerName = c.host
			seen, err := handshake(t, ca, c.server, c.client)
			if c.refused != (err != nil) {
				t.Fatalf("the handshake ends with %v", err)
			}
			if err == nil && seen.Subject.CommonName != "root" {
				t.Errorf("the server sees %q", seen.Subject.CommonName)
			}
		})
	}
}

func TestIssue(t *testing.T) {
	ca := authority(t)
	end := time.Now().Add(time.Minute).Truncate(time.Second).UTC()
	pair := issue(t, ca, "a", pki.CommonName("b"), pki.Until(end))
	cert, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := cert.Leaf; leaf.Subject.CommonName != "b" || !leaf.NotAfter.Equal(end) {
		t.Errorf("common name %q until %v", leaf.Subject.CommonName, leaf.NotAfter)
	}
	if info, err := os.Stat(pair.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	if _, err := ca.Issue("ca"); err == nil {
		t.Error("the authority's own files would be gone")
	}
}

// handshake returns the client's certificate as the server sees it, and the first error of either side.
func handshake(t *testing.T, ca *pki.CA, pair pki.Pair, client *tls.Config) (*x509.Certificate, error) {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(ca.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in the authority's file")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ended := make(chan error, 1)
	go func() {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err == nil {
			defer conn.Close()
			err = speak(tls.Client(conn, client))
		}
		ended <- err
	}()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	server := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
	if err := errors.Join(speak(server), <-ended); err != nil {
		return nil, err
	}
	return server.ConnectionState().PeerCertificates[0], nil
}

// speak says a byte and hears one: in TLS 1.3 a client learns only then that it was refused.
func speak(conn *tls.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	return err
}

func authority(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.New(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *pki.CA, name string, opts ...pki.Option) pki.Pair {
	t.Helper()
	pair, err := ca.Issue(name, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func client(t *testing.T, ca *pki.CA, own ...pki.Pair) *tls.Config {
	t.Helper()
	config, err := ca.ClientTLS(own...)
	if err != nil {
		t.Fatal(err)
	}
	return config
}
