// Package transport opens what clients connect to, and connections to members. TLS is not its business: it hands
// out plain connections, and says which of them are to speak it.
package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// The schemes of URLs, as etcd's flags have them; passthrough is ours.
const (
	schemeHTTP        = "http"
	schemeHTTPS       = "https"
	schemeUnix        = "unix"
	schemePassthrough = "passthrough"
)

// address is where and how to reach, or to be reached.
type address struct {
	scheme string
	host   string // without the brackets of IPv6; empty for unix
	target string // host:port, or the path for unix
}

// Host returns the name that a member at endpoint should have a certificate for, and whether it speaks TLS.
func Host(endpoint string) (host string, tls bool, err error) {
	a, err := parseEndpoint(endpoint)
	return a.host, a.scheme == schemeHTTPS, err
}

// parseEndpoint reads an endpoint as etcdctl takes it: http://host:port, https://host:port, or host:port alone.
func parseEndpoint(raw string) (address, error) {
	const form = "write it as http://HOST:PORT or https://HOST:PORT"
	a, err := parseHostPort(raw, form, schemeHTTP, schemeHTTPS)
	if err != nil {
		return address{}, fmt.Errorf("transport: endpoint %w", err)
	}
	if _, port, _ := net.SplitHostPort(a.target); a.host == "" || port == "0" {
		return address{}, fmt.Errorf("transport: endpoint %q names no host or no port: %s", raw, form)
	}
	return a, nil
}

// parseListen reads a URL of a listener. As in etcd it names an address and not a host: a name may stand for several
// addresses, of which one would be served.
func parseListen(raw string) (address, error) {
	const form = "write it as http://IP:PORT, https://IP:PORT, passthrough://IP:PORT or unix:///PATH"
	if scheme, rest, _ := strings.Cut(raw, ":"); strings.EqualFold(scheme, schemeUnix) || scheme == "unix-abstract" {
		a, err := parseUnix(scheme, rest)
		if err != nil {
			return address{}, fmt.Errorf("transport: listen url %q: %w", redact(raw), err)
		}
		return a, nil
	}
	a, err := parseHostPort(raw, form, schemeHTTP, schemeHTTPS, schemePassthrough)
	if err != nil {
		return address{}, fmt.Errorf("transport: listen url %w", err)
	}
	if _, err := netip.ParseAddr(a.host); err != nil && a.host != "" && a.host != "localhost" {
		return address{}, fmt.Errorf("transport: listen url %q has the name %q in place of an address: %s", raw, a.host, form)
	}
	return a, nil
}

// parseUnix takes the path as it is, like the clients of etcd do: no %20, no query.
func parseUnix(scheme, rest string) (address, error) {
	path, found := strings.CutPrefix(rest, "//")
	switch {
	case !strings.EqualFold(scheme, schemeUnix) || strings.HasPrefix(rest, "@") || strings.HasPrefix(path, "@"):
		// Whoever is in the network namespace may connect to those; no mode and no owner keeps them out.
		return address{}, errors.New("abstract sockets are not supported: write unix:///PATH with the path of a file")
	case !found || !strings.HasPrefix(path, "/"):
		return address{}, errors.New("the path is not absolute: write unix:///PATH with three slashes")
	case strings.HasSuffix(path, "/"):
		return address{}, errors.New("the path is that of a directory: name a file in it")
	case len(path) > maxUnixPath:
		return address{}, fmt.Errorf("the path has %d bytes, the kernel takes at most %d: choose a shorter one",
			len(path), maxUnixPath)
	case strings.ContainsRune(path, 0):
		return address{}, errors.New("the path has a zero byte in it: choose another")
	}
	return address{scheme: schemeUnix, target: path}, nil
}

// maxUnixPath is what sockaddr_un has room for, 108 bytes, less the zero byte at the end.
const maxUnixPath = 107

// parseHostPort reads SCHEME://HOST:PORT, or HOST:PORT alone for http.
func parseHostPort(raw, form string, schemes ...string) (address, error) {
	full := raw
	if !strings.Contains(raw, "://") {
		full = schemeHTTP + "://" + raw
	}
	u, err := url.Parse(full)
	if err != nil { // which is not told: it repeats the URL
		return address{}, fmt.Errorf("%q cannot be read: %s", redact(raw), form)
	}
	known := false
	for _, s := range schemes {
		known = known || u.Scheme == s
	}
	if !known {
		return address{}, fmt.Errorf("%q has the scheme %q, which is not supported here: %s", redact(raw), u.Scheme, form)
	}
	if u.Port() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return address{}, fmt.Errorf("%q is not scheme, host and port alone: %s", redact(raw), form)
	}
	if _, err := strconv.ParseUint(u.Port(), 10, 16); err != nil {
		return address{}, fmt.Errorf("%q has the port %s, the largest is 65535: %s", redact(raw), u.Port(), form)
	}
	host := u.Hostname()
	return address{scheme: u.Scheme, host: host, target: net.JoinHostPort(host, u.Port())}, nil
}

// redact makes a URL fit to be shown.
//
// GUARANTEE G8: No value, token, password or key material is logged or served. What stands before the last @ may be
// a password, and so may a query.
func redact(raw string) string {
	scheme, rest, found := strings.Cut(raw, "://")
	if !found {
		scheme, rest = "", raw
	} else {
		scheme += "://"
	}
	if strings.EqualFold(scheme, schemeUnix+"://") && strings.HasPrefix(rest, "/") {
		return raw // a path, with no room for a password
	}
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		rest = "…" + rest[i:]
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i+1] + "…"
	}
	return scheme + rest
}
