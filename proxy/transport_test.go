package proxy

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for raw, want := range map[string]string{
		"http://127.0.0.1:2379":   "127.0.0.1:2379",
		"http://127.0.0.1:2379/":  "127.0.0.1:2379",
		"127.0.0.1:2379":          "127.0.0.1:2379",
		"etcd-0.etcd.svc:2379":    "etcd-0.etcd.svc:2379",
		"http://[::1]:2379":       "[::1]:2379",
		"http://:23790":           ":23790",
		"HTTP://example.org:2379": "example.org:2379",
	} {
		got, err := parse(raw)
		if err != nil || got != (addr{"tcp", want}) {
			t.Errorf("parse(%q) = %v, %v; want tcp %s", raw, got, err, want)
		}
	}
	for raw, want := range map[string]string{
		"https://127.0.0.1:2379":   "not supported",
		"unix:///run/etcd.sock":    "not supported",
		"http://127.0.0.1":         "write it as http://host:port",
		"http://a:2379/v3":         "write it as http://host:port",
		"http://root:pw@a:2379":    "write it as http://host:port",
		"http://a:2379?x=y":        "write it as http://host:port",
		"":                         "write it as http://host:port",
		"http://a:2379,http://b:1": "cannot be read",
	} {
		if _, err := parse(raw); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse(%q): %v; want an error with %q", raw, err, want)
		}
	}
}

// GUARANTEE G8: no password is logged. An URL that cannot be used is repeated in the error, but not its password.
func TestErrorsHoldNoPassword(t *testing.T) {
	for _, raw := range []string{"http://root:sesame@a:2379", "http://root:sesame@a:bad", "ftp://root:sesame@a:1"} {
		if _, err := parse(raw); err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("parse(%q): %v", raw, err)
		}
	}
	p := &Proxy{Endpoints: []string{"http://root:sesame@a:2379"}}
	if err := p.init(); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("init: %v", err)
	}
}
