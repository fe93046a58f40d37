package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// role is what an address is for: a listener needs an address of this machine, an endpoint may be a name, and stands without scheme in etcdctl's way.
type role struct {
	what     string
	bare     bool // HOST:PORT without a scheme
	names    bool // host names
	anyPort  bool // port 0
	required bool // at least one
}

var (
	listener = role{what: "http://IP:PORT", anyPort: true}
	endpoint = role{what: "http://HOST:PORT", bare: true, names: true, required: true}
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
			if err == nil && slices.Contains(list, u) && !strings.HasSuffix(u.Address, ":0") {
				err = fmt.Errorf("%s is there twice: remove one", quote(s))
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
	if strings.Contains(s, "@") {
		return none, fmt.Errorf("a URL (not shown) holds a user name or password: leave it out, use %s", r.what)
	}
	scheme, rest, found := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	switch {
	case !found && r.bare && s != "":
		rest = s
	case !found:
		return none, fmt.Errorf("%s is not a URL: use %s", quote(s), r.what)
	case scheme == "https" || scheme == "unix" || scheme == "unixs":
		return none, fmt.Errorf("%s: %s is not supported yet: use %s", quote(s), scheme, r.what)
	case scheme != "http":
		return none, fmt.Errorf("%s has an unknown scheme: use %s", quote(s), r.what)
	}
	if strings.ContainsAny(rest, "/?#") {
		return none, fmt.Errorf("a URL has a path, query or fragment behind its address: use only %s", r.what)
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil || port == "" {
		return none, fmt.Errorf("%s has no port (or an IPv6 address without brackets): use %s", quote(s), r.what)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || (n == 0 && !r.anyPort) {
		return none, fmt.Errorf("%s has a port that is not a number of 1 to 65535: use %s", quote(s), r.what)
	}
	host = strings.ToLower(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
	} else if !r.names && host != "localhost" {
		// As etcd: what a name resolves to may change, and a listener must not move.
		return none, fmt.Errorf("%s does not name an IP address to listen on: use %s (0.0.0.0 for all) or localhost", quote(s), r.what)
	} else if !hostName.MatchString(host) {
		return none, fmt.Errorf("%s has no valid host: use %s", quote(s), r.what)
	}
	return URL{"http", net.JoinHostPort(host, strconv.FormatUint(n, 10))}, nil
}

// crossCheck finds addresses that cannot stand together. Options in bad were not understood, and are left out.
func crossCheck(c *Config, places map[string]string, bad map[string]bool, problems *Problems) {
	const clients, admin, members = "listen-client-urls", "listen-admin-urls", "endpoints"
	pair := func(aName string, a []URL, bName string, b []URL, meet func(a, b URL) bool, advice string) {
		if bad[aName] || bad[bName] {
			return
		}
		for _, u := range a {
			for _, v := range b {
				if meet(u, v) {
					problems.add(places[aName], "%s is the same address as %s of %s: %s", u, v, bName, advice)
				}
			}
		}
	}
	pair(clients, c.ListenClientURLs, admin, c.ListenAdminURLs, bothListen, "give one of them another port")
	// A listener that is its own member would connect to itself for each connection, until nothing is left to connect with.
	const loop = "that is Parallax itself, not an etcd member; give one of them another port"
	pair(members, c.Endpoints, clients, c.ListenClientURLs, answers, loop)
	pair(members, c.Endpoints, admin, c.ListenAdminURLs, answers, loop)
	for _, listen := range []struct {
		name string
		urls []URL
	}{{clients, c.ListenClientURLs}, {admin, c.ListenAdminURLs}} {
		for i, u := range listen.urls {
			// The very same text twice was found while reading the list.
			if !bad[listen.name] && slices.ContainsFunc(listen.urls[:i], func(v URL) bool { return bothListen(u, v) }) {
				problems.add(places[listen.name], "%s meets another address of %s: remove one", u, listen.name)
			}
		}
	}
}

// bothListen: two listeners want the same port of the same address.
func bothListen(a, b URL) bool {
	aIP, aPort := listenAddress(a)
	bIP, bPort := listenAddress(b)
	return aPort == bPort && aPort != "0" && (aIP == bIP || covers(aIP, bIP) || covers(bIP, aIP))
}

// answers: who dials member reaches the listener. A listener on all addresses is only known to be reached through loopback:
// which other addresses this machine has is not ours to guess.
func answers(member, listener URL) bool {
	memberIP, memberPort := listenAddress(member)
	ip, port := listenAddress(listener)
	return memberPort == port && memberIP.IsValid() && (memberIP == ip || covers(ip, memberIP) && memberIP.IsLoopback())
}

// covers: a listener on all addresses also listens on ip. [::] takes IPv4 as well (net.Listen), 0.0.0.0 takes nothing else.
func covers(all, ip netip.Addr) bool { return all.IsUnspecified() && (all.Is6() || ip.Is4()) }

// listenAddress takes localhost for 127.0.0.1; other names have no valid address.
func listenAddress(u URL) (netip.Addr, string) {
	host, port, _ := net.SplitHostPort(u.Address) // parseURL joined them
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, _ := netip.ParseAddr(host)
	return ip, port
}
