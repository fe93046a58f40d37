package inspect

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// connectTo parses flags, and connects.
func connectTo(t *testing.T, args ...string) (*connection, error) {
	t.Helper()
	var target target
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	target.flags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	c, err := target.connect(t.Context())
	if err == nil {
		t.Cleanup(c.Close)
	}
	return c, err
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestConnectUsage(t *testing.T) {
	password := write(t, "password", "secret\n")
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"no port", "is no address", []string{"--endpoints", "http://127.0.0.1"}},
		{"port 0", "is no address", []string{"--endpoints", "127.0.0.1:0"}},
		{"no host", "is no address", []string{"--endpoints", ":2379"}},
		{"path", "is no address", []string{"--endpoints", "http://127.0.0.1:2379/health"}},
		{"scheme", "unknown scheme", []string{"--endpoints", "unix:///run/etcd.sock"}},
		{"twice", "is there twice", []string{"--endpoints", "127.0.0.1:2379,http://127.0.0.1:2379"}},
		{"password in the URL", "not shown", []string{"--endpoints", "http://root:hunter2@127.0.0.1:2379"}},
		{"password in --user", "not shown", []string{"--user", "root:hunter2", "--password-file", password}},
		{"user alone", "stand together", []string{"--user", "root"}},
		{"password file alone", "stand together", []string{"--password-file", password}},
		{"no password file", "no such file", []string{"--user", "root", "--password-file", password + "x"}},
		{"TLS to nobody", "no endpoint is https", []string{"--cacert", password}},
		{"both ways", "useless", []string{"--endpoints", "https://127.0.0.1:2379", "--cacert", password, "--insecure-skip-tls-verify"}},
		{"no certificate", "does not exist", []string{"--endpoints", "https://127.0.0.1:2379", "--cacert", password + "x"}},
		{"not a certificate", "holds no certificate", []string{"--endpoints", "https://127.0.0.1:2379", "--cacert", password}},
		{"certificate without a key", "without a key", []string{"--endpoints", "https://127.0.0.1:2379", "--cert", password}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := connectTo(t, c.args...)
			if exitCode(err) != 2 || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want a usage error with %q", err, c.want)
			}
		})
	}
}

func TestConnectFindsAllMembers(t *testing.T) {
	c := membertest.Start(t, 3, 5)
	got, err := connectTo(t, "--endpoints", c.Members[1].Addr())
	if err != nil {
		t.Fatal(err)
	}
	if p := got.Snapshot(); len(p.Members) != 3 || p.Cluster != 100 {
		t.Errorf("got %+v", p)
	}
}

// One that is down is in the snapshot, and said tells why it does not answer.
func TestConnectWithoutAMember(t *testing.T) {
	c := membertest.Start(t, 3, 5)
	c.Members[2].Stop()
	got, err := connectTo(t, "--endpoints", c.URLs()[0])
	if err != nil {
		t.Fatal(err)
	}
	if p := got.Snapshot(); len(p.Members) != 3 || len(p.Listed) != 3 {
		t.Errorf("got %+v", p)
	}
	if why := got.said.about(c.URLs()[2]); !strings.Contains(why, "unreachable") {
		t.Errorf("said %q", why)
	}
}

func TestConnectToNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close() // nobody listens there any more
	_, err = connectTo(t, "--endpoints", address)
	if err == nil || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
}

func TestConnectWithTheWrongCA(t *testing.T) {
	c := membertest.StartTLS(t, 1, 5, membertest.NewAuthority(t))
	_, err := connectTo(t, "--endpoints", c.URLs()[0], "--cacert", write(t, "ca.crt", strangeCA(t)))
	if err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("got %v", err)
	}
}

func TestConnectAsNobody(t *testing.T) {
	c := membertest.Start(t, 1, 5)
	c.Members[0].Change(func(m *membertest.Member) { m.User, m.Password = "root", "right" })
	_, err := connectTo(t, "--endpoints", c.URLs()[0], "--user", "nobody", "--password-file", write(t, "password", "wrong\n"))
	if err == nil || !strings.Contains(err.Error(), "cannot log in as nobody: etcdserver: authentication failed") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("got %v", err)
	}
	got, err := connectTo(t, "--endpoints", c.URLs()[0], "--user", "root", "--password-file", write(t, "password", "right\n"))
	if err != nil || len(got.Snapshot().Members) != 1 {
		t.Errorf("got %v", err)
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := (&target{endpoints: []string{l.Addr().String()}}).connect(ctx)
		done <- err
	}()
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Error("connected to nobody")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it goes on")
	}
}

// strangeCA is a certificate that has signed nothing.
func strangeCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "strange"}, IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
