package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// role is what an address is for: a listener needs an address of this machine, an endpoint may be a name, and stands without scheme in etcdctl's way.
type role struct {
	what     string
	schemes  []string
	bare     bool // HOST:PORT without a scheme
	names    bool // host names
	anyPort  bool // port 0
	required bool // at least one
}

var (
	listener = role{
		what:    "http://IP:PORT, https://IP:PORT, passthrough://IP:PORT or unix:///PATH",
		schemes: []string{"http", "https", "passthrough", "unix"}, anyPort: true,
	}
	admin    = role{what: "http://IP:PORT", schemes: []string{"http"}, anyPort: true}
	endpoint = role{
		what:    "http://HOST:PORT or https://HOST:PORT",
		schemes: []string{"http", "https"}, bare: true, names: true, required: true,
	}
	preferred = role{what: endpoint.what, schemes: endpoint.schemes, bare: true, names: true}
)

// maxURLs is far above any cluster: etcd advises 7 members at most.
const maxURLs = 100

func urls(r role) kind[[]URL] {
	parse := func(texts []string) ([]URL, []fault) {
		// A password may hold a comma: then the pieces of http://user:pass,word@host do not look like one.
		quote := shown
		if slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, "@") }) {
			quote = func(string) string { return shown("@") }
		}
		if r.required && len(texts) == 0 {
			return nil, []fault{{0, fmt.Errorf("is empty: give at least one %s", r.what)}}
		}
		if len(texts) > maxURLs {
			return nil, []fault{{0, fmt.Errorf("has %d addresses: give at most %d", len(texts), maxURLs)}}
		}
		var list []URL
		var faults []fault
		for i, s := range texts {
			u, err := parseURL(r, s, quote)
			if i := slices.IndexFunc(list, func(v URL) bool { return v.Address == u.Address }); err == nil && i >= 0 && !strings.HasSuffix(u.Address, ":0") {
				err = fmt.Errorf("%s is there twice: remove one", quote(s))
				if list[i] != u {
					err = fmt.Errorf("%s is the same address as %s: remove one", quote(s), quote(list[i].String()))
				}
			}
			if err != nil {
				faults = append(faults, fault{i, err})
			}
			list = append(list, u)
		}
		return list, faults
	}
	texts := func(list []URL) []string {
		texts := make([]string, len(list))
		for i, u := range list {
			texts[i] = u.String()
		}
		return texts
	}
	return kind[[]URL]{
		name: "urls", list: true, tags: []string{"!!str"}, parse: parse,
		text:   func(list []URL) string { return strings.Join(texts(list), ",") },
		encode: func(list []URL) any { return texts(list) },
	}
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?$`)

// parseURL does not use net/url, whose errors repeat the password of a URL.
func parseURL(r role, s string, quote func(string) string) (URL, error) {
	var none URL
	scheme, rest, found := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	socket := found && scheme == "unix" && slices.Contains(r.schemes, scheme)
	switch {
	case socket && strings.HasPrefix(rest, "@"):
		return none, errors.New("a socket is abstract (unix://@NAME): it has no mode and owner, so every process of the machine could connect; use unix:///PATH")
	case socket && strings.HasPrefix(rest, "/"):
		return parseSocket(rest, quote(s)) // no @ of a path stands behind a password
	case strings.Contains(s, "@"):
		return none, fmt.Errorf("a URL (not shown) holds a user name or password: leave it out, use %s", r.what)
	case socket:
		return none, fmt.Errorf("%s has a relative path, which means another file in another directory: use unix:///PATH, with three slashes", quote(s))
	case !found && r.bare && s != "":
		scheme, rest = "http", s
	case !found:
		return none, fmt.Errorf("%s is not a URL: use %s", quote(s), r.what)
	case scheme == "unixs":
		return none, fmt.Errorf("%s: TLS on a unix socket is not supported, its mode and owner say who may connect: use %s", quote(s), r.what)
	case !slices.Contains(r.schemes, scheme) && slices.Contains(listener.schemes, scheme):
		return none, fmt.Errorf("%s: %s is not possible here: use %s", quote(s), scheme, r.what)
	case !slices.Contains(r.schemes, scheme):
		return none, fmt.Errorf("%s has an unknown scheme: use %s", quote(s), r.what)
	}
	address, err := parseAddress(r, scheme, rest, quote(s))
	return URL{scheme, address}, err
}

// parseSocket takes a path as it is: what a URL library would read out of it otherwise is refused, so that clients mean the same file.
func parseSocket(path, quoted string) (URL, error) {
	// A sockaddr_un of Linux holds 108 bytes, with the NUL behind the path.
	const longest = 107
	var none URL
	clean := filepath.Clean(path)
	switch {
	case strings.ContainsAny(path, "?#%"):
		return none, errors.New("a URL has one of ?, # and % in its path: use unix:///PATH without them")
	case !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl):
		return none, fmt.Errorf("%s holds control characters or is not UTF-8: use plain text", quoted)
	case strings.HasSuffix(path, "/"):
		return none, fmt.Errorf("%s is a directory: name the socket in it, as unix:///run/parallax/client.sock", quoted)
	case len(clean) > longest:
		return none, fmt.Errorf("%s has a path of %d bytes: a socket can have %d at most", quoted, len(clean), longest)
	}
	return URL{"unix", clean}, nil
}

// parseAddress takes HOST:PORT.
func parseAddress(r role, scheme, rest, quoted string) (string, error) {
	what := scheme + "://IP:PORT"
	if r.names {
		what = scheme + "://HOST:PORT"
	}
	if strings.ContainsAny(rest, "/?#") {
		return "", fmt.Errorf("a URL has a path, query or fragment behind its address: use only %s", what)
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil || port == "" {
		return "", fmt.Errorf("%s has no port (or an IPv6 address without brackets): use %s", quoted, what)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || (n == 0 && !r.anyPort) {
		return "", fmt.Errorf("%s has a port that is not a number of 1 to 65535: use %s", quoted, what)
	}
	host = strings.ToLower(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
	} else if !r.names && host != "localhost" {
		// As etcd: what a name resolves to may change, and a listener must not move.
		return "", fmt.Errorf("%s does not name an IP address to listen on: use %s (0.0.0.0 for all) or localhost", quoted, what)
	} else if !hostName.MatchString(host) {
		return "", fmt.Errorf("%s has no valid host: use %s", quoted, what)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}
