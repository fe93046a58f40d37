package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// reload expects that new files were found, or that there were none.
func reload(t *testing.T, r Reloader, want bool) {
	t.Helper()
	if changed, err := r.Reload(); err != nil || changed != want {
		t.Fatalf("Reload() = %v, %v; want %v", changed, err, want)
	}
}

// The files of both sides are swapped as kubelet does it, to another CA: what is open stays open, and what is opened
// from then on has the new certificates.
func TestSymlinkSwap(t *testing.T) {
	ca, next := newAuthority(t, "ca"), newAuthority(t, "next")
	files := newSecret(t, ca.issue(t, nil, "parallax 1", "127.0.0.1"), ca.pem)
	server, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.key(), TrustedCAFile: files.ca()})
	if err != nil {
		t.Fatal(err)
	}
	clientFiles := newSecret(t, ca.issue(t, nil, "alice 1"), ca.pem)
	client, err := NewClient(ClientOptions{CACert: clientFiles.ca(), Cert: clientFiles.cert(), Key: clientFiles.key()})
	if err != nil {
		t.Fatal(err)
	}
	address := echo(t, server.Config)
	peer := func(c *tls.Conn) string { return c.ConnectionState().PeerCertificates[0].Subject.CommonName }
	before, err := open(t, address, client.Config("127.0.0.1"))
	if err != nil || peer(before) != "parallax 1" {
		t.Fatalf("%v, from %s", err, peer(before))
	}
	reload(t, server, false)
	reload(t, client, false)

	files.swap(t, next.issue(t, nil, "parallax 2", "127.0.0.1"), next.pem)
	if c, err := open(t, address, client.Config("127.0.0.1")); err != nil || peer(c) != "parallax 1" {
		t.Fatalf("before the reload: %v, from %s", err, peer(c))
	}
	reload(t, server, true)
	_, err = open(t, address, client.Config("127.0.0.1"))
	fails(t, err, "unknown authority") // the client's CA is still the old one

	clientFiles.swap(t, ca.issue(t, nil, "alice 1"), next.pem)
	reload(t, client, true)
	_, err = open(t, address, client.Config("127.0.0.1"))
	fails(t, err, "unknown certificate authority") // and the client's certificate

	clientFiles.swap(t, next.issue(t, nil, "alice 2"), next.pem)
	reload(t, client, true)
	after, err := open(t, address, client.Config("127.0.0.1"))
	if err != nil || peer(after) != "parallax 2" {
		t.Fatalf("after the reload: %v, from %s", err, peer(after))
	}
	if err := talk(before); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
}

// A client that the old CA has signed must not come back by the ticket of its session.
func TestTicketsDoNotOutliveTheCA(t *testing.T) {
	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		t.Run(name, func(t *testing.T) {
			ca, next := newAuthority(t, "ca"), newAuthority(t, "next")
			p := ca.issue(t, nil, "parallax", "127.0.0.1")
			files, alice := newSecret(t, p, ca.pem), newSecret(t, ca.issue(t, nil, "alice"), ca.pem)
			server, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.key(), TrustedCAFile: files.ca()})
			if err != nil {
				t.Fatal(err)
			}
			client, err := NewClient(ClientOptions{CACert: alice.ca(), Cert: alice.cert(), Key: alice.key()})
			if err != nil {
				t.Fatal(err)
			}
			config := client.Config("127.0.0.1")
			config.MaxVersion = version
			config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			address := echo(t, server.Config)
			for i := range 2 {
				c, err := open(t, address, config)
				if err != nil || c.ConnectionState().DidResume != (i > 0) {
					t.Fatalf("connection %d: %v; resumed: %v", i, err, c.ConnectionState().DidResume)
				}
			}
			files.swap(t, p, join(ca.pem, next.pem)) // alice is still welcome, and is verified anew
			reload(t, server, true)
			c, err := open(t, address, config)
			if err != nil || c.ConnectionState().DidResume {
				t.Fatalf("with another CA file: %v; resumed: %v", err, c.ConnectionState().DidResume)
			}
			files.swap(t, p, next.pem)
			reload(t, server, true)
			_, err = open(t, address, config)
			fails(t, err, "unknown certificate authority")
		})
	}
}

// watching runs a Watcher in a bubble, where time passes when nothing else happens.
func watching(t *testing.T, role string, r Reloader, interval time.Duration) (*Watcher, *journal) {
	log := &journal{}
	w := &Watcher{Watched: []Watched{{role, r}}, Interval: interval, Logger: log.logger(), Metrics: NewMetrics(nil)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	synctest.Wait()
	return w, log
}

// pass lets n looks happen.
func pass(n int) {
	time.Sleep(time.Duration(n) * DefaultInterval)
	synctest.Wait()
}

// counted checks the reloads of the listener.
func counted(t *testing.T, w *Watcher, ok, failed float64) {
	t.Helper()
	gotOK := testutil.ToFloat64(w.Metrics.reloads.WithLabelValues("listener", resultOK))
	gotFailed := testutil.ToFloat64(w.Metrics.reloads.WithLabelValues("listener", resultFailed))
	if gotOK != ok || gotFailed != failed {
		t.Errorf("reloads: %v ok, %v failed; want %v and %v", gotOK, gotFailed, ok, failed)
	}
}

func TestBrokenFilesKeepTheOldOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t, "ca")
		good := ca.issue(t, nil, "parallax")
		files := newSecret(t, good, ca.pem)
		server, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.key(), TrustedCAFile: files.ca()})
		if err != nil {
			t.Fatal(err)
		}
		w, log := watching(t, "listener", server, 0)
		old := server.Config()
		pass(100)
		log.expect(t)

		files.swap(t, pair{good.cert, []byte("not a key")}, ca.pem)
		pass(1)
		log.expect(t) // perhaps its key comes in a moment
		counted(t, w, 0, 0)
		pass(100)
		log.expect(t, "level=ERROR msg=\"new certificate files cannot be used, the old ones stay in use\" role=listener error=\"certs: key file "+files.key())
		counted(t, w, 0, 1)

		files.swap(t, good, []byte("not a CA"))
		pass(100)
		log.expect(t, "CA file "+files.ca()+" holds no certificate") // another cause is told
		counted(t, w, 0, 2)
		if server.Config() != old {
			t.Error("a broken file was taken into use")
		}

		w.Reload() // somebody wants to hear it again
		synctest.Wait()
		log.expect(t, "CA file "+files.ca()+" holds no certificate")
		counted(t, w, 0, 2)

		files.swap(t, good, ca.pem)
		pass(10)
		log.expect(t, "can be used again")
		counted(t, w, 0, 2)
		if server.Config() != old {
			t.Error("the same files made another configuration: sessions are lost for nothing")
		}

		files.swap(t, ca.issue(t, nil, "parallax 2"), ca.pem)
		pass(10)
		log.expect(t, "level=INFO msg=\"new certificate files are in use\" role=listener")
		counted(t, w, 1, 2)
		if server.Config() == old {
			t.Error("the new files are not in use")
		}
		if err := os.Remove(files.cert()); err != nil {
			t.Fatal(err)
		}
		pass(2)
		log.expect(t, "certificate file "+files.cert()+" does not exist")
	})
}

// Tools write the certificate and the key one after the other. A look in between finds two that do not belong
// together, and that is nothing to complain about.
func TestCertificateAndKeySwappedOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t, "ca")
		good, next := ca.issue(t, nil, "parallax 1"), ca.issue(t, nil, "parallax 2")
		dir := t.TempDir()
		cert, key := dir+"/c", dir+"/k"
		write(t, cert, good.cert)
		write(t, key, good.key)
		client, err := NewClient(ClientOptions{Cert: cert, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		w, log := watching(t, "listener", client, 0)
		write(t, cert, next.cert)
		pass(1)
		shown, err := client.Config("member").GetClientCertificate(nil)
		if err != nil || shown.Leaf.Subject.CommonName != "parallax 1" {
			t.Fatalf("%v, %v", shown.Leaf.Subject, err)
		}
		write(t, key, next.key)
		pass(1)
		shown, err = client.Config("member").GetClientCertificate(nil)
		if err != nil || shown.Leaf.Subject.CommonName != "parallax 2" {
			t.Fatalf("%v, %v", shown.Leaf.Subject, err)
		}
		log.expect(t, "new certificate files are in use")
		counted(t, w, 1, 0)

		write(t, cert, good.cert)
		w.Reload() // asked, so it answers
		synctest.Wait()
		log.expect(t, "private key does not match public key")
		counted(t, w, 1, 1)
	})
}

func TestReloadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t, "ca")
		files := newSecret(t, ca.issue(t, nil, "parallax 1"), ca.pem)
		server, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.key()})
		if err != nil {
			t.Fatal(err)
		}
		w, log := watching(t, "listener", server, 0)
		start := time.Now()
		w.Reload()
		synctest.Wait()
		log.expect(t, "have not changed")
		files.swap(t, ca.issue(t, nil, "parallax 2"), ca.pem)
		w.Reload()
		w.Reload()
		w.Reload() // does not wait, however many
		synctest.Wait()
		if got := log.take(); !strings.Contains(got[0], "new certificate files are in use") {
			t.Error(got)
		}
		counted(t, w, 1, 0)
		if time.Since(start) != 0 {
			t.Error("it took time")
		}
	})
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		ca, short := newAuthority(t, "ca"), newAuthority(t, "short")
		lasting := func(life time.Duration) func(*x509.Certificate) {
			return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now(), time.Now().Add(life) }
		}
		year := ca.issue(t, lasting(365*day), "parallax")
		files := newSecret(t, year, append(ca.pem, short.pem...))
		server, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.key(), TrustedCAFile: files.ca()})
		if err != nil {
			t.Fatal(err)
		}
		w, log := watching(t, "listener", server, time.Minute)
		gauge := func(role string, want time.Time) {
			t.Helper()
			if got := testutil.ToFloat64(w.Metrics.expiry.WithLabelValues(role)); got != float64(want.Unix()) {
				t.Errorf("%s expires at %v; want %v", role, time.Unix(int64(got), 0), want)
			}
		}
		gauge("listener", time.Now().Add(365*day))
		gauge("listener-ca", time.Now().Add(3650*day))

		// An hour's certificate is not due for a warning when it is new, whatever a month is.
		files.swap(t, ca.issue(t, lasting(time.Hour), "parallax"), ca.pem)
		time.Sleep(time.Minute)
		synctest.Wait()
		log.expect(t, "in use")
		gauge("listener", time.Now().Add(59*time.Minute))
		time.Sleep(48 * time.Minute)
		log.expect(t)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		log.expect(t, "level=WARN msg=\"the certificate expires soon: renew it\" role=listener file="+files.cert())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		log.expect(t, "level=WARN msg=\"the certificate has expired")
		time.Sleep(3 * day)
		synctest.Wait()
		log.expect(t, "has expired", "has expired", "has expired") // once a day

		files.swap(t, ca.issue(t, lasting(30*day), "parallax"), ca.pem)
		time.Sleep(day)
		synctest.Wait()
		log.expect(t, "in use") // and that is the end of it
	})
}

// What has expired, or will soon, is told at the start; a certificate from the future tells of a wrong clock.
func TestExpiryIsToldAtTheStart(t *testing.T) {
	for _, test := range []struct {
		from, to time.Duration
		want     string
	}{
		{-2 * time.Hour, -time.Hour, "has expired"},
		{-2 * time.Hour, time.Minute, "expires soon"},
		{time.Hour, 2 * time.Hour, "is not valid yet"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ca := newAuthority(t, "ca")
			edit := func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(test.from), time.Now().Add(test.to)
			}
			files := newSecret(t, ca.issue(t, edit, "member"), ca.issue(t, edit, "a CA").cert)
			client, err := NewClient(ClientOptions{CACert: files.ca(), Cert: files.cert(), Key: files.key()})
			if err != nil {
				t.Fatal(err)
			}
			_, log := watching(t, "member", client, 0)
			log.expect(t, "the certificate "+test.want, "a CA certificate "+test.want)
		})
	}
}

func TestMetricsLint(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	m.expect("listener")
	m.expires("listener", []Expiry{{NotAfter: time.Now()}, {CA: true, NotAfter: time.Now()}})
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if n, err := testutil.GatherAndCount(reg); err != nil || n != 4 {
		t.Errorf("%d series, %v", n, err)
	}
}
