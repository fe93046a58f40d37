package transport

import (
	"context"
	"net"
	"strings"
	"testing"
)

func TestEndpoints(t *testing.T) {
	for raw, want := range map[string]struct {
		target, host string
		tls          bool
	}{
		"http://127.0.0.1:2379":     {"127.0.0.1:2379", "127.0.0.1", false},
		"http://127.0.0.1:2379/":    {"127.0.0.1:2379", "127.0.0.1", false},
		"127.0.0.1:2379":            {"127.0.0.1:2379", "127.0.0.1", false},
		"etcd-0.etcd.svc:2379":      {"etcd-0.etcd.svc:2379", "etcd-0.etcd.svc", false},
		"unixhost:2379":             {"unixhost:2379", "unixhost", false},
		"http://[::1]:2379":         {"[::1]:2379", "::1", false},
		"HTTPS://example.org:2379":  {"example.org:2379", "example.org", true},
		"https://[fe80::1]:2379":    {"[fe80::1]:2379", "fe80::1", true},
		"https://etcd-0.etcd:65535": {"etcd-0.etcd:65535", "etcd-0.etcd", true},
	} {
		a, err := parseEndpoint(raw)
		if err != nil || a.target != want.target {
			t.Errorf("parseEndpoint(%q) = %v, %v; want %s", raw, a, err, want.target)
		}
		if host, tls, err := Host(raw); err != nil || host != want.host || tls != want.tls {
			t.Errorf("Host(%q) = %q, %v, %v; want %q, %v", raw, host, tls, err, want.host, want.tls)
		}
	}
	for raw, want := range map[string]string{
		"unix:///run/etcd.sock":      `has the scheme "unix", which is not supported here`,
		"passthrough://1.2.3.4:2379": `has the scheme "passthrough", which is not supported here`,
		"http://127.0.0.1":           "write it as http://HOST:PORT or https://HOST:PORT",
		"http://a:2379/v3":           "is not scheme, host and port alone",
		"http://root:pw@a:2379":      "is not scheme, host and port alone",
		"http://a:2379?x=y":          "is not scheme, host and port alone",
		"http://a:2379,http://b:1":   "cannot be read",
		"http://a:65536":             "the largest is 65535",
		"http://:2379":               "names no host or no port",
		"http://a:0":                 "names no host or no port",
		"":                           "is not scheme, host and port alone",
	} {
		err := checkEndpoint(raw)
		fails(t, raw, err, want)
		if _, dialErr := Dial(t.Context(), raw); dialErr == nil || dialErr.Error() != err.Error() {
			t.Errorf("Dial(%q): %v; want what checkEndpoint says: %v", raw, dialErr, err)
		}
	}
}

func TestListenURLs(t *testing.T) {
	for _, raw := range []string{
		"http://127.0.0.1:2379", "https://0.0.0.0:2379", "https://[::]:2379", "passthrough://[::1]:1", "http://:0",
		"http://localhost:2379", "127.0.0.1:2379", "unix:///run/parallax.sock", "UNIX:///a@b?c#d%20 e",
		"unix:///" + strings.Repeat("x", 106),
	} {
		if err := checkListenURL(raw); err != nil {
			t.Error(err)
		}
	}
	for raw, want := range map[string]string{
		"ftp://127.0.0.1:1":                    `has the scheme "ftp", which is not supported here: write it as http://IP:PORT, https://IP:PORT, passthrough://IP:PORT or unix:///PATH`,
		"unixs:///run/x.sock":                  `has the scheme "unixs", which is not supported here`,
		"http://example.org:2379":              `has the name "example.org" in place of an address`,
		"http://127.0.0.1":                     "is not scheme, host and port alone",
		"http://127.0.0.1:70000":               "the largest is 65535",
		"unix://run/x.sock":                    "not absolute: write unix:///PATH with three slashes",
		"unix:/run/x.sock":                     "not absolute: write unix:///PATH with three slashes",
		"unix:run/x.sock":                      "not absolute",
		"unix://":                              "not absolute",
		"unix:@parallax":                       "abstract sockets are not supported",
		"unix://@parallax":                     "abstract sockets are not supported",
		"unix-abstract:parallax":               "abstract sockets are not supported",
		"unix:///run/":                         "the path is that of a directory",
		"unix:///run/\x00x":                    "zero byte",
		"unix:///" + strings.Repeat("x", 107):  "the path has 108 bytes, the kernel takes at most 107: choose a shorter one",
		"passthrough://root:pw@127.0.0.1:2379": "is not scheme, host and port alone",
	} {
		err := checkListenURL(raw)
		fails(t, raw, err, want)
		if _, listenErr := Listen(t.Context(), raw, ListenOptions{}); listenErr == nil || listenErr.Error() != err.Error() {
			t.Errorf("Listen(%q): %v; want what checkListenURL says: %v", raw, listenErr, err)
		}
	}
}

func fails(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: error: %v; want %q", what, err, want)
	}
}

// GUARANTEE G8: no password is logged. A URL that cannot be used is repeated in the error, but not its password.
func TestErrorsHoldNoPassword(t *testing.T) {
	for _, raw := range []string{
		"http://root:sesame@a:2379", "http://root:sesame@a:bad", "ftp://root:sesame@a:1", "root:sesame@a:2379",
		"http://root:pa@sesame@a:2379", "http://root:pa/sesame@a:2379", "http://root:pa?sesame@a:2379",
		"http://root:sesame%zz@a:2379", "http://a:2379?password=sesame", "http://a:2379/#sesame",
		"unix://root:sesame@host/run/x", "unix:root:sesame@x", "http:/root:sesame@a:2379",
	} {
		for name, check := range map[string]func(string) error{"endpoint": checkEndpoint, "listen url": checkListenURL} {
			if err := check(raw); err == nil || strings.Contains(err.Error(), "sesame") {
				t.Errorf("%s %q: %v", name, raw, err)
			}
		}
	}
}

func TestDial(t *testing.T) {
	s := serve(t, "s", "http://127.0.0.1:0", ListenOptions{})
	for _, scheme := range []string{"http://", "https://", ""} {
		c, err := Dial(t.Context(), scheme+s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := c.(*net.TCPConn); !ok {
			t.Errorf("a %T: the relay can do more with TCP", c)
		}
		c.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, s.Addr().String()); err == nil {
		t.Error("dialed although ctx had ended")
	}
}

func checkListenURL(rawURL string) error {
	_, err := parseListen(rawURL)
	return err
}

func checkEndpoint(endpoint string) error {
	_, err := parseEndpoint(endpoint)
	return err
}
