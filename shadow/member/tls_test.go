package member_test

import (
	"crypto/tls"
	"io"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// wallet is what certs.Client is in the product: the config of now.
type wallet struct {
	now   atomic.Pointer[tls.Config]
	asked atomic.Int64
}

func (w *wallet) config(_ string, protos ...string) *tls.Config {
	w.asked.Add(1)
	c := w.now.Load()
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.NextProtos = protos
	return c
}

func secured(t *testing.T, n int) (*membertest.Cluster, *membertest.Authority, *wallet) {
	a := membertest.NewAuthority(t)
	w := &wallet{}
	w.now.Store(a.Client(t, "first"))
	return membertest.StartTLS(t, n, 7, a), a, w
}

func TestMembersAreReadOverTLS(t *testing.T) {
	c, _, w := secured(t, 3)
	s := &member.Set{Endpoints: c.URLs()[:1], Discover: true, TLS: w.config}
	follow(t, s)
	readAll(t, s) // two of them were found on the list, with https
	for _, m := range c.Members {
		if h := s.Health(m.URL); m.URL == c.Members[0].URL && h != member.Serving {
			t.Errorf("health %v", h)
		}
	}
}

func TestHostAndPortAloneArePlaintext(t *testing.T) {
	c := membertest.Start(t, 1, 7)
	s := &member.Set{Endpoints: []string{c.Members[0].Addr()}}
	follow(t, s)
	until(t, "the member", func() bool { return s.Health(c.Members[0].Addr()) == member.Serving })
	if s.Epoch(c.Members[0].Addr()) == 0 {
		t.Error("no epoch")
	}
}

func TestURLsThatCannotBeReachedAreNamed(t *testing.T) {
	c, _, _ := secured(t, 1)
	s := &member.Set{Endpoints: append(c.URLs(), "unix:///run/etcd", "http://example.invalid", "ftp://127.0.0.1:1")}
	book := follow(t, s)
	until(t, "a word about TLS", func() bool { return book.count("no TLS towards the members") == 1 })
	until(t, "a word about each other", func() bool { return book.count("not http://HOST:PORT or https://HOST:PORT") == 3 })
	if h := s.Health(c.Members[0].URL); h != member.Unknown {
		t.Errorf("health %v of what was never probed", h)
	}
}

// Each handshake uses the certificates of that moment; a connection keeps its own.
func TestReloadedCertificatesAreUsed(t *testing.T) {
	c, a, w := secured(t, 1)
	m := c.Members[0]
	s := &member.Set{Endpoints: c.URLs(), TLS: w.config}
	follow(t, s)
	until(t, "the member", func() bool { return s.Epoch(m.URL) != 0 })
	epoch := s.Epoch(m.URL)
	w.now.Store(a.Client(t, "second"))
	if r := s.Snapshot().Members[0].Range(t.Context(), []byte("a"), nil, 7, 0); r.Err != nil || r.Epoch != epoch {
		t.Fatalf("a reload ended the connection: %+v", r)
	}
	seen := func(cn string) (seen bool) {
		m.Change(func(m *membertest.Member) { seen = m.CNs[cn] })
		return seen
	}
	if !seen("first") || seen("second") {
		t.Fatal("not the first certificate alone")
	}
	m.Restart(t)
	until(t, "the second certificate", func() bool { return seen("second") && s.Health(m.URL) == member.Serving })
	if now := s.Epoch(m.URL); now <= epoch {
		t.Errorf("epoch %d after %d", now, epoch)
	}
}

// An epoch is one TCP connection also where handshakes fail: none of them shares
// a number with the one that carries answers, and none is a lost connection.
func TestAnEpochIsTheConnectionThatAnswersOverTLS(t *testing.T) {
	c, a, w := secured(t, 1)
	m := c.Members[0]
	s := &member.Set{Endpoints: c.URLs(), TLS: w.config}
	book := follow(t, s)
	until(t, "the member", func() bool { return s.Epoch(m.URL) != 0 })
	one, before := s.Snapshot().Members[0], s.Epoch(m.URL)
	for range 5 {
		if r := one.Range(t.Context(), []byte("a"), nil, 7, 0); r.Err != nil || r.Epoch != before || r.Changed {
			t.Fatalf("%+v in epoch %d", r, before)
		}
	}
	// From now on the member refuses us: with TLS 1.3 that shows after our side
	// of the handshake, when calls may wait for the connection already.
	strange := a.Client(t, "second")
	strange.Certificates = membertest.NewAuthority(t).Client(t, "stranger").Certificates
	w.now.Store(strange)
	m.Restart(t)
	until(t, "the end of the old connection", func() bool { return one.Epoch() > before })
	for asked := w.asked.Load(); w.asked.Load() < asked+5; {
		r := one.Range(t.Context(), []byte("a"), nil, 7, 0)
		if r.Err == nil {
			t.Fatal("a stranger was answered")
		}
		if r.Lost {
			t.Fatalf("a refused handshake was taken for a member that died over a read: %v", r.Err)
		}
	}
	refused := one.Epoch()
	// Certificates that do not fit say nothing about the clients'.
	until(t, "the handshake to be known as the trouble", func() bool {
		return book.count("unreachable") == 1 && s.Health(m.URL) == member.Unknown && s.Reachable(true) == 1
	})
	w.now.Store(a.Client(t, "third"))
	until(t, "an answer", func() bool { return one.Range(t.Context(), []byte("a"), nil, 7, 0).Err == nil })
	if now := one.Epoch(); now <= refused {
		t.Errorf("epoch %d after %d: an answer came within the epoch of a refused connection", now, refused)
	}
}

// A read that ends its member is told over TLS, too.
func TestALostConnectionIsToldOverTLS(t *testing.T) {
	c, _, w := secured(t, 1)
	s := &member.Set{Endpoints: c.URLs(), TLS: w.config}
	follow(t, s)
	until(t, "the member", func() bool { return s.Epoch(c.Members[0].URL) != 0 })
	c.Members[0].Change(func(m *membertest.Member) { m.Range = dying(m) })
	if r := s.Snapshot().Members[0].Range(t.Context(), []byte("a"), nil, 7, 0); r.Err == nil || !r.Lost {
		t.Fatalf("a member that died over a read: %+v", r)
	}
}

func TestNoMaterialIsNoReasonToDoubtAMember(t *testing.T) {
	c, a, w := secured(t, 1)
	w.now.Store(nil)
	s := &member.Set{Endpoints: c.URLs(), TLS: w.config}
	s.Hasten(hasty)
	book := follow(t, s)
	until(t, "a word", func() bool { return book.count("no TLS material") == 1 })
	if h := s.Health(c.Members[0].URL); h != member.Unknown {
		t.Errorf("health %v", h)
	}
	w.now.Store(a.Client(t, "late"))
	until(t, "the member", func() bool { return s.Health(c.Members[0].URL) == member.Serving })
}

// An etcd up to 3.6 looks at the client certificate, and so at its CN, only where
// `:scheme` is https.
func TestTheSchemeIsHTTPSOverTLS(t *testing.T) {
	a := membertest.NewAuthority(t)
	config := a.Server(t)
	config.NextProtos = []string{"h2"}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := &wallet{}
	w.now.Store(a.Client(t, "parallax"))
	follow(t, &member.Set{Endpoints: []string{"https://" + l.Addr().String()}, TLS: w.config})
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(c, c)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if headers, ok := frame.(*http2.MetaHeadersFrame); ok {
			if scheme := headers.PseudoValue("scheme"); scheme != "https" {
				t.Errorf("scheme %s", scheme)
			}
			return
		}
	}
}
