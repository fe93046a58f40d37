package config

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	secure   = "--listen-client-urls=https://0.0.0.0:5"
	member   = "--endpoints=https://10.0.0.1:2379"
	withCert = "--cert-file=a.crt --key-file=a.key"
	withCA   = withCert + " --trusted-ca-file=ca.crt"
	withID   = "--cert=p.crt --key=p.key"
	allowed  = "--allow-unauthenticated-clients"
)

// TestOptionsThatStandTogether: one cause, one problem, at the place of what is to be changed.
func TestOptionsThatStandTogether(t *testing.T) {
	const (
		noHTTPS    = ", but no listener is https: listen on https://IP:PORT, or remove what does nothing"
		noSocket   = ", but no listener is a unix socket: listen on unix:///PATH, or remove what does nothing"
		noMember   = ", but no endpoint is https: write https://HOST:PORT (HOST:PORT alone is http), or remove what does nothing"
		acts       = " acts with the certificate of Parallax (cert), and shows none: ask for one (https with trusted-ca-file), listen on unix:///PATH or passthrough://IP:PORT, or allow it with allow-unauthenticated-clients"
		everybody  = "every user of this machine acts with the certificate of Parallax (cert): use 0660 or less, or allow it with allow-unauthenticated-clients"
		sockets    = "--listen-client-urls=unix:///run/p.sock"
		untouched  = "--listen-client-urls=passthrough://0.0.0.0:5"
		plain      = "--listen-client-urls=http://127.0.0.1:5"
		unverified = "--insecure-skip-tls-verify: insecure-skip-tls-verify makes cacert useless, every certificate is taken: remove one of them"
	)
	for _, c := range []struct {
		name, args string
		want       string // "" is none
	}{
		{"TLS for clients", secure + " " + withCert, ""},
		{"etcd's whole set", secure + " " + withCA + " --client-cert-auth --client-cert-allowed-cn=a,b --cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA", ""},
		{"https without certificate", secure, "--listen-client-urls: an https listener has no certificate: give cert-file and key-file"},
		{"certificate without key", secure + " --cert-file=a", "--cert-file: cert-file is set without key-file: give both"},
		{"key without certificate", secure + " --key-file=a", "--key-file: key-file is set without cert-file: give both"},
		{"TLS that nobody speaks", plain + " " + withCA, "--cert-file: cert-file, key-file, trusted-ca-file are set" + noHTTPS},
		{"an observer has no clients either", "--tls-min-version=TLS1.3", "--tls-min-version: tls-min-version is set" + noHTTPS},
		{"a default that is said does no harm", "--tls-min-version=TLS1.2 --client-cert-auth=false --unix-socket-mode=600", ""},
		{"client certificates without a CA", secure + " " + withCert + " --client-cert-auth", "--client-cert-auth: client-cert-auth is set without trusted-ca-file: a certificate of any public CA would do; give the CA of the clients"},
		{"names without a CA", secure + " " + withCert + " --client-cert-allowed-cn=a", "--client-cert-allowed-cn: client-cert-allowed-cn is set without trusted-ca-file: no client is asked for a certificate; give the CA of the clients"},
		{"two kinds of names", secure + " " + withCA + " --client-cert-allowed-cn=a --client-cert-allowed-hostname=b", "--client-cert-allowed-cn: client-cert-allowed-cn and client-cert-allowed-hostname exclude each other, as in etcd: remove one"},
		{"suites of TLS 1.3", secure + " " + withCert + " --cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA --tls-min-version=TLS1.3", "--cipher-suites: cipher suites cannot be configured when only TLS1.3 is enabled: remove cipher-suites, or tls-min-version"},

		{"socket", sockets + " --unix-socket-mode=0660 --unix-socket-owner=root:etcd", ""},
		{"mode without a socket", plain + " --unix-socket-mode=0660", "--unix-socket-mode: unix-socket-mode is set" + noSocket},
		{"owner without a socket", secure + " " + withCert + " --unix-socket-owner=etcd", "--unix-socket-owner: unix-socket-owner is set" + noSocket},

		{"TLS to members", member + " --cacert=ca --tls-server-name=etcd " + withID + " --shadow-cert=s.crt --shadow-key=s.key", ""},
		{"one https member is enough", "--endpoints=http://127.0.0.1:1,https://a:2 --cacert=ca", ""},
		{"a bare endpoint is no TLS", "--endpoints=a:2379 --cacert=ca", "--cacert: cacert is set" + noMember},
		{"no TLS member", "--shadow-cert=a --shadow-key=b --tls-server-name=x", "--tls-server-name: tls-server-name, shadow-cert, shadow-key are set" + noMember},
		{"cert without key", member + " --cert=a", "--cert: cert is set without key: give both"},
		{"key of the shadow without cert", member + " " + withID + " --shadow-key=a", "--shadow-key: shadow-key is set without shadow-cert: give both"},
		{"verify and do not", member + " --cacert=ca --insecure-skip-tls-verify", unverified},
		{"do not verify", member + " --cacert= --insecure-skip-tls-verify", ""},
		{"passthrough to TLS", untouched + " " + member, ""},
		{"passthrough to no TLS", untouched + " --endpoints=http://a:1", "--listen-client-urls: a passthrough listener relays the TLS of its clients, but no endpoint is https: write https://HOST:PORT"},

		{"prefer an endpoint", "--endpoints=http://a:1,b:2 --prefer-endpoint=A:1,http://b:2", ""},
		{"prefer no endpoint", "--endpoints=http://a:1,b:2 --prefer-endpoint=https://a:1", "--prefer-endpoint: https://a:1 is not one of endpoints: add it there, or remove it here"},
		{"fewer connections", "--max-connections=10", ""},
		{"more per peer than in all", "--max-connections=10 --max-connections-per-peer=11", "--max-connections-per-peer: max-connections-per-peer (11) is more than max-connections (10): use less, or 0 for no limit of its own"},
		{"user without password", "--shadow-user=root", "--shadow-user: shadow-user is set without shadow-password-file: give both"},
		{"password without user", "--shadow-password-file=p", "--shadow-password-file: shadow-password-file is set without shadow-user: give both"},
		{"rebalancing what nobody listens to", "--shadow=false --rebalance-clients", "--rebalance-clients: rebalance-clients is set with shadow off: then nobody listens to the connections, and none can be moved " +
			"without breaking calls off; leave the shadow on (its budget may be 0), or remove rebalance-clients"},
		{"a user of a plain cluster, checked or not", "--shadow-user=root --shadow-password-file=p --shadow=false", ""},

		{"plain before certificates", plain + " " + member + " " + withID, "--listen-client-urls: whoever reaches http://127.0.0.1:5" + acts},
		{"TLS without client certificates", secure + " " + withCert + " " + member + " " + withID, "--listen-client-urls: whoever reaches https://0.0.0.0:5" + acts},
		{"both are named, others not", "--listen-client-urls=http://[::1]:5,unix:///run/p,https://127.0.0.1:6,passthrough://127.0.0.1:7 " + withCert + " " + member + " " + withID, "--listen-client-urls: whoever reaches http://[::1]:5, https://127.0.0.1:6" + acts},
		{"allowed in plain words", plain + " " + member + " " + withID + " " + allowed, ""},
		{"with client certificates", secure + " " + withCA + " " + member + " " + withID, ""},
		{"through a socket", sockets + " " + member + " " + withID + " --unix-socket-mode=0660", ""},
		{"through a socket for all", sockets + " " + member + " " + withID + " --unix-socket-mode=0666", "--unix-socket-mode: with mode 0666 " + everybody},
		{"a socket for all, allowed", sockets + " " + member + " " + withID + " --unix-socket-mode=0666 " + allowed, ""},
		{"a socket for all, without certificate", sockets + " " + member + " --unix-socket-mode=0666", ""},
		{"untouched", untouched + " " + member + " " + withID, ""},
		{"the shadow's own does not reach clients", plain + " " + member + " --shadow-cert=a --shadow-key=b", ""},
		{"an observer", member + " " + withID, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, strings.Fields(c.args), nil)
			if c.want != "" {
				wantProblems(t, err, "no file", c.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWhatWasNotUnderstoodClashesWithNothing: a mistake in one option is not told again as a mistake of another.
func TestWhatWasNotUnderstoodClashesWithNothing(t *testing.T) {
	for _, args := range []string{
		"--listen-client-urls=htps://0.0.0.0:5 " + withCA,
		secure + " --cert-file=a --key-file=\x00",
		secure + " " + withCert + " --client-cert-auth --trusted-ca-file=\x00",
		secure + " " + withCert + " --client-cert-allowed-cn=a --trusted-ca-file=\x00",
		"--endpoints=htps://a:1 " + withID + " --prefer-endpoint=https://a:1",
		secure + " " + withCert + " " + member + " " + withID + " " + allowed + "=si",
		"--listen-client-urls=unix:///run/p --unix-socket-mode=999 " + member + " " + withID,
		"--max-connections=-1 --max-connections-per-peer=20000",
	} {
		_, err := load(t, strings.Fields(args), nil)
		if problems, _ := errors.AsType[Problems](err); len(problems) != 1 {
			t.Errorf("%q: got %v, want the one mistake", args, err)
		}
	}
}

// TestClashesNameTheirSource: also when an option of the file clashes with one of the environment.
func TestClashesNameTheirSource(t *testing.T) {
	path := writeFile(t, "listen-client-urls:\n- http://0.0.0.0:5\ncert: p.crt\nkey: p.key\nmax-connections-per-peer: 100\n")
	_, err := load(t, []string{"--config", path, "--max-connections=10"}, []string{"PARALLAX_ENDPOINTS=https://a:1", "PARALLAX_CACERT=ca", "PARALLAX_INSECURE_SKIP_TLS_VERIFY=true"})
	wantProblems(t, err, path,
		"PARALLAX_INSECURE_SKIP_TLS_VERIFY: insecure-skip-tls-verify makes cacert useless, every certificate is taken: remove one of them",
		"FILE:1: whoever reaches http://0.0.0.0:5 acts with the certificate of Parallax (cert), and shows none: ask for one (https with trusted-ca-file), "+
			"listen on unix:///PATH or passthrough://IP:PORT, or allow it with allow-unauthenticated-clients",
		"FILE:5: max-connections-per-peer (100) is more than max-connections (10): use less, or 0 for no limit of its own",
	)
}

// TestValuesOfTLS: what the texts become.
func TestValuesOfTLS(t *testing.T) {
	path := writeFile(t, `
listen-client-urls: ["HTTPS://[0::1]:5", "unix:///run/parallax//../p@1.sock", passthrough://localhost:0]
cert-file: a
key-file: b
trusted-ca-file: c
client-cert-allowed-cn: ["Doe, Jane", system:apiserver]
cipher-suites: TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305, TLS_RSA_WITH_RC4_128_SHA
unix-socket-mode: 0640
endpoints: [HTTPS://A.example:1, b:2]
max-connections: 100
`)
	got, err := load(t, []string{"--config", path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.ConfigFile, want.CertFile, want.KeyFile, want.TrustedCAFile = path, "a", "b", "c"
	want.ListenClientURLs = []URL{{"https", "[::1]:5"}, {"unix", "/run/p@1.sock"}, {"passthrough", "localhost:0"}}
	want.ClientCertAllowedCNs = []string{"Doe, Jane", "system:apiserver"}
	want.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_RSA_WITH_RC4_128_SHA}
	want.UnixSocketMode = 0o640
	want.Endpoints = []URL{{"https", "a.example:1"}, {"http", "b:2"}}
	want.MaxConnections, want.MaxConnectionsPerPeer = 100, 100
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestModesAreOctal, whether YAML takes them for a text, an octal or a decimal number.
func TestModesAreOctal(t *testing.T) {
	for text, want := range map[string]fs.FileMode{"0660": 0o660, "660": 0o660, "0o660": 0o660, "'0660'": 0o660, "0": 0, "777": 0o777} {
		got, err := load(t, []string{"--config", writeFile(t, "listen-client-urls: unix:///run/p\nunix-socket-mode: "+text+"\n")}, nil)
		if err != nil || got.UnixSocketMode != want {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
}

// TestEverySuiteOfTLS12IsKnown: Go's own list decides, also its insecure part, as etcd's.
func TestEverySuiteOfTLS12IsKnown(t *testing.T) {
	k := cipherSuites()
	for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		ids, faults := k.parse([]string{suite.Name})
		if of12 := slices.Contains(suite.SupportedVersions, tls.VersionTLS12); of12 != (len(faults) == 0 && ids[0] == suite.ID) {
			t.Errorf("%s (TLS 1.2: %v): got %v, %v", suite.Name, of12, ids, faults)
		} else if !of12 && !strings.Contains(faults[0].err.Error(), "TLS 1.3") {
			t.Errorf("%s: %v", suite.Name, faults[0].err)
		}
	}
}
