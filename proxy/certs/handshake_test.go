package certs

import (
	"crypto/tls"
	"path/filepath"
	"testing"
)

// Each option, in handshakes with clients that meet it and with clients that do not.
func TestServerOptions(t *testing.T) {
	ca, foreign := newAuthority(t, "ca"), newAuthority(t, "foreign")
	files := newSecret(t, ca.issue(t, nil, "parallax", "127.0.0.1"), ca.pem)
	alice := newSecret(t, ca.issue(t, nil, "alice", "alice.example", "127.1.2.3"), ca.pem)
	mallory := newSecret(t, foreign.issue(t, nil, "alice", "alice.example"), ca.pem)
	nobody := secret{}

	const refused = "remote error: tls: "
	for _, test := range []struct {
		name    string
		options ServerOptions
		client  secret
		edit    func(*tls.Config)
		want    string
	}{
		{name: "any client", client: nobody},
		{name: "certificate wanted", options: ServerOptions{TrustedCAFile: files.ca()}, client: alice},
		{name: "certificate wanted, none shown", options: ServerOptions{TrustedCAFile: files.ca()}, client: nobody, want: refused + "certificate required"},
		{name: "certificate of another CA", options: ServerOptions{TrustedCAFile: files.ca()}, client: mallory, want: refused + "unknown certificate authority"},
		{name: "auth by the system's CAs", options: ServerOptions{ClientCertAuth: true}, client: alice, want: refused + "unknown certificate authority"},
		{name: "auth by the system's CAs, none shown", options: ServerOptions{ClientCertAuth: true}, client: nobody, want: refused + "certificate required"},

		{name: "CN", options: ServerOptions{TrustedCAFile: files.ca(), AllowedCNs: []string{"bob", "alice"}}, client: alice},
		{name: "another CN", options: ServerOptions{TrustedCAFile: files.ca(), AllowedCNs: []string{"bob", "alic"}}, client: alice, want: refused + "bad certificate"},
		{name: "CN by another CA", options: ServerOptions{TrustedCAFile: files.ca(), AllowedCNs: []string{"alice"}}, client: mallory, want: refused + "unknown certificate authority"},
		{name: "host name", options: ServerOptions{TrustedCAFile: files.ca(), AllowedHostnames: []string{"bob.example", "alice.example"}}, client: alice},
		{name: "address", options: ServerOptions{TrustedCAFile: files.ca(), AllowedHostnames: []string{"127.1.2.3"}}, client: alice},
		{name: "another host name", options: ServerOptions{TrustedCAFile: files.ca(), AllowedHostnames: []string{"bob.example"}}, client: alice, want: refused + "bad certificate"},

		{name: "TLS 1.2 is enough", client: nobody, edit: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
		{name: "TLS 1.1 is not", client: nobody, edit: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, want: refused + "protocol version not supported"},
		{name: "TLS 1.3 wanted", options: ServerOptions{MinVersion: tls.VersionTLS13}, client: nobody},
		{name: "TLS 1.3 wanted, 1.2 offered", options: ServerOptions{MinVersion: tls.VersionTLS13}, client: nobody, edit: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, want: refused + "protocol version not supported"},
		{name: "cipher suite", options: ServerOptions{CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}}, client: nobody, edit: only12(tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384)},
		{name: "another cipher suite", options: ServerOptions{CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}}, client: nobody, edit: only12(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), want: refused + "handshake failure"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.options.CertFile, test.options.KeyFile = files.cert(), files.key()
			server, err := NewServer(test.options)
			if err != nil {
				t.Fatal(err)
			}
			options := ClientOptions{CACert: files.ca()}
			if test.client != nobody {
				options.Cert, options.Key = test.client.cert(), test.client.key()
			}
			client, err := NewClient(options)
			if err != nil {
				t.Fatal(err)
			}
			config := client.Config("127.0.0.1", "h2")
			if test.edit != nil {
				test.edit(config)
			}
			_, err = open(t, echo(t, server.Config), config)
			fails(t, err, test.want)
		})
	}
}

func only12(suite uint16) func(*tls.Config) {
	return func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{suite} }
}

func TestClientOptions(t *testing.T) {
	ca, foreign := newAuthority(t, "ca"), newAuthority(t, "foreign")
	files := newSecret(t, ca.issue(t, nil, "member", "member.example", "127.0.0.1"), ca.pem)
	elsewhere := newSecret(t, foreign.issue(t, nil, "other"), foreign.pem)
	server, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.key()})
	if err != nil {
		t.Fatal(err)
	}
	address := echo(t, server.Config)

	for _, test := range []struct {
		name    string
		options ClientOptions
		host    string
		want    string
	}{
		{"address", ClientOptions{CACert: files.ca()}, "127.0.0.1", ""},
		{"host name", ClientOptions{CACert: files.ca()}, "member.example", ""},
		{"another host", ClientOptions{CACert: files.ca()}, "other.example", "not other.example"},
		{"server name", ClientOptions{CACert: files.ca(), ServerName: "member.example"}, "other.example", ""},
		{"wrong server name", ClientOptions{CACert: files.ca(), ServerName: "other.example"}, "127.0.0.1", "not other.example"},
		{"another CA", ClientOptions{CACert: elsewhere.ca()}, "127.0.0.1", "unknown authority"},
		{"no CA: those of the system", ClientOptions{}, "127.0.0.1", "unknown authority"},
		{"not verified", ClientOptions{InsecureSkipVerify: true}, "other.example", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, err := NewClient(test.options)
			if err != nil {
				t.Fatal(err)
			}
			_, err = open(t, address, client.Config(test.host, "h2"))
			fails(t, err, test.want)
		})
	}
}

// A member's list of authorities does not name the issuer of our certificate, but the member trusts it by a
// cross-signed one. crypto/tls would show nothing then.
func TestClientShowsItsCertificateWhateverIsAskedFor(t *testing.T) {
	ca, foreign := newAuthority(t, "ca"), newAuthority(t, "foreign")
	files := newSecret(t, ca.issue(t, nil, "member", "127.0.0.1"), ca.pem)
	ours := newSecret(t, foreign.issue(t, nil, "parallax"), ca.pem)
	server, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.key(), TrustedCAFile: files.ca()})
	if err != nil {
		t.Fatal(err)
	}
	config := server.Config().Clone()
	config.ClientAuth = tls.RequireAnyClientCert // stands for a member with a way to verify of its own
	client, err := NewClient(ClientOptions{CACert: files.ca(), Cert: ours.cert(), Key: ours.key()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(t, echo(t, func() *tls.Config { return config }), client.Config("127.0.0.1"))
	fails(t, err, "")
}

func TestALPN(t *testing.T) {
	ca := newAuthority(t, "ca")
	files := newSecret(t, ca.issue(t, nil, "parallax", "127.0.0.1"), ca.pem)
	server, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.key()})
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(ClientOptions{CACert: files.ca()})
	if err != nil {
		t.Fatal(err)
	}
	address := echo(t, server.Config)
	for _, test := range []struct {
		offered []string
		want    string
	}{
		{[]string{"h2", "http/1.1"}, "h2"},
		{[]string{"http/1.1", "h2"}, "h2"},
		{[]string{"http/1.1"}, "http/1.1"},
		{nil, ""},
	} {
		c, err := open(t, address, client.Config("127.0.0.1", test.offered...))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().NegotiatedProtocol; got != test.want {
			t.Errorf("offered %q, negotiated %q; want %q", test.offered, got, test.want)
		}
	}
}

// A session that is resumed carries the client's certificate along: its names are looked at again.
func TestAllowedNamesHoldOnResumedSessions(t *testing.T) {
	ca := newAuthority(t, "ca")
	files := newSecret(t, ca.issue(t, nil, "alice", "127.0.0.1"), ca.pem)
	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		t.Run(name, func(t *testing.T) {
			// serve has the same ticket keys for all servers, so that each accepts the others' sessions.
			serve := func(o ServerOptions) string {
				o.CertFile, o.KeyFile, o.TrustedCAFile = files.cert(), files.key(), files.ca()
				server, err := NewServer(o)
				if err != nil {
					t.Fatal(err)
				}
				config := server.Config().Clone()
				config.SetSessionTicketKeys([][32]byte{{1}})
				return echo(t, func() *tls.Config { return config })
			}
			client, err := NewClient(ClientOptions{CACert: files.ca(), Cert: files.cert(), Key: files.key()})
			if err != nil {
				t.Fatal(err)
			}
			config := client.Config("127.0.0.1")
			config.MaxVersion = version
			config.ClientSessionCache = tls.NewLRUClientSessionCache(1)

			if _, err := open(t, serve(ServerOptions{}), config); err != nil {
				t.Fatal(err)
			}
			c, err := open(t, serve(ServerOptions{AllowedCNs: []string{"alice"}}), config)
			if err != nil || !c.ConnectionState().DidResume {
				t.Fatalf("alice is allowed: %v; resumed: %v", err, c.ConnectionState().DidResume)
			}
			_, err = open(t, serve(ServerOptions{AllowedCNs: []string{"bob"}}), config)
			fails(t, err, "remote error: tls: bad certificate")
			_, err = open(t, serve(ServerOptions{AllowedHostnames: []string{"bob.example"}}), config)
			fails(t, err, "remote error: tls: bad certificate")
		})
	}
}

func TestRelativePathsAndCombinedFile(t *testing.T) {
	ca := newAuthority(t, "ca")
	p := ca.issue(t, nil, "parallax", "127.0.0.1")
	t.Chdir(t.TempDir())
	write(t, "all.pem", append(append([]byte("a comment\n"), p.key...), p.cert...))
	write(t, filepath.Join(".", "ca.pem"), append(append([]byte("# our CA\n"), ca.pem...), p.key...))
	server, err := NewServer(ServerOptions{CertFile: "all.pem", KeyFile: "all.pem", TrustedCAFile: "ca.pem"})
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(ClientOptions{CACert: "ca.pem", Cert: "all.pem", Key: "all.pem"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(t, echo(t, server.Config), client.Config("127.0.0.1"))
	fails(t, err, "")
}
