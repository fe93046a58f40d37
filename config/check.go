package config

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

const clients, members = "listen-client-urls", "endpoints"

// crossCheck finds what cannot stand together, once all sources are read.
func (l *loader) crossCheck() {
	l.checkAddresses()
	l.checkListeners()
	l.checkMembers()
	l.checkWhoActs()
	l.together("shadow-user", "shadow-password-file")
	if l.config.RebalanceClients && !l.config.Shadow {
		l.clash([]string{"rebalance-clients", "shadow"}, "rebalance-clients is set with shadow off: then nobody listens to the connections, and none can be moved "+
			"without breaking calls off; leave the shadow on (its budget may be 0), or remove rebalance-clients")
	}
	if c := l.config; c.MaxConnectionsPerPeer > c.MaxConnections {
		l.clash([]string{"max-connections-per-peer", "max-connections"},
			"max-connections-per-peer (%d) is more than max-connections (%d): use less, or 0 for no limit of its own", c.MaxConnectionsPerPeer, c.MaxConnections)
	}
}

func (l *loader) checkListeners() {
	c := l.config
	if !has(c.ListenClientURLs, "unix") {
		l.useless(clients, []string{"unix-socket-mode", "unix-socket-owner"},
			"but no listener is a unix socket: listen on unix:///PATH, or remove what does nothing")
	}
	if !has(c.ListenClientURLs, "https") {
		l.useless(clients, []string{
			"cert-file", "key-file", "trusted-ca-file", "client-cert-auth", "client-cert-allowed-cn", "client-cert-allowed-hostname", "cipher-suites", "tls-min-version",
		}, "but no listener is https: listen on https://IP:PORT, or remove what does nothing")
		return
	}
	if c.CertFile == "" && c.KeyFile == "" {
		l.clash([]string{clients, "cert-file", "key-file"}, "an https listener has no certificate: give cert-file and key-file")
	}
	l.together("cert-file", "key-file")
	if c.ClientCertAuth && c.TrustedCAFile == "" {
		// etcd would take the CAs of the system.
		l.clash([]string{"client-cert-auth", "trusted-ca-file"}, "client-cert-auth is set without trusted-ca-file: a certificate of any public CA would do; give the CA of the clients")
	}
	allowed := l.said("client-cert-allowed-cn", "client-cert-allowed-hostname")
	switch {
	case len(allowed) == 2:
		l.clash(allowed, "client-cert-allowed-cn and client-cert-allowed-hostname exclude each other, as in etcd: remove one")
	case len(allowed) == 1 && c.TrustedCAFile == "" && !c.ClientCertAuth:
		l.clash(append(allowed, "trusted-ca-file"), "%s is set without trusted-ca-file: no client is asked for a certificate; give the CA of the clients", allowed[0])
	}
	if len(c.CipherSuites) > 0 && len(l.said("tls-min-version")) > 0 {
		l.clash([]string{"cipher-suites", "tls-min-version"}, "cipher suites cannot be configured when only TLS1.3 is enabled: remove cipher-suites, or tls-min-version")
	}
}

func (l *loader) checkMembers() {
	c := l.config
	for _, u := range c.PreferEndpoints {
		if !slices.Contains(c.Endpoints, u) {
			l.clash([]string{"prefer-endpoint", members}, "%s is not one of endpoints: add it there, or remove it here", u)
		}
	}
	if !has(c.Endpoints, "https") {
		if has(c.ListenClientURLs, "passthrough") {
			l.clash([]string{clients, members}, "a passthrough listener relays the TLS of its clients, but no endpoint is https: write https://HOST:PORT")
		}
		l.useless(members, []string{"cacert", "cert", "key", "insecure-skip-tls-verify", "tls-server-name", "shadow-cert", "shadow-key"},
			"but no endpoint is https: write https://HOST:PORT (HOST:PORT alone is http), or remove what does nothing")
		return
	}
	l.together("cert", "key")
	l.together("shadow-cert", "shadow-key")
	if c.CACert != "" && c.InsecureSkipTLSVerify {
		// etcdctl takes both and verifies nothing; kubectl refuses, and is right.
		l.clash([]string{"insecure-skip-tls-verify", "cacert"}, "insecure-skip-tls-verify makes cacert useless, every certificate is taken: remove one of them")
	}
}

// checkWhoActs wants it in plain words when clients act with a certificate that is not theirs: members only see that of Parallax.
func (l *loader) checkWhoActs() {
	c := l.config
	if c.AllowUnauthenticatedClients || c.Cert == "" || !has(c.Endpoints, "https") {
		return
	}
	const allow = "allow-unauthenticated-clients"
	var open []string
	for _, u := range c.ListenClientURLs {
		// client-cert-auth without a CA was told above.
		if u.Scheme == "http" || u.Scheme == "https" && c.TrustedCAFile == "" && !c.ClientCertAuth {
			open = append(open, u.String())
		}
	}
	if len(open) > 0 {
		l.clash([]string{clients, "cert", members, "trusted-ca-file", "client-cert-auth", allow},
			"whoever reaches %s acts with the certificate of Parallax (cert), and shows none: ask for one (https with trusted-ca-file), "+
				"listen on unix:///PATH or passthrough://IP:PORT, or allow it with %s", strings.Join(open, ", "), allow)
	}
	if has(c.ListenClientURLs, "unix") && c.UnixSocketMode&0o007 != 0 {
		l.clash([]string{"unix-socket-mode", clients, "cert", members, allow},
			"with mode %04o every user of this machine acts with the certificate of Parallax (cert): use 0660 or less, or allow it with %s", uint32(c.UnixSocketMode), allow)
	}
}

// clash tells a problem at the place of the first option, unless one of them was not understood: nothing is known of it then.
func (l *loader) clash(names []string, format string, args ...any) {
	if !slices.ContainsFunc(names, func(name string) bool { return l.bad[name] }) {
		l.problems.add(l.places[names[0]], format, args...)
	}
}

// together wants both options or none.
func (l *loader) together(a, b string) {
	if said := l.said(a, b); len(said) == 1 {
		missing := a
		if said[0] == a {
			missing = b
		}
		l.clash([]string{said[0], missing}, "%s is set without %s: give both", said[0], missing)
	}
}

// useless tells options of protection that protect nothing, because of what list says: who relies on them must learn it.
func (l *loader) useless(list string, names []string, why string) {
	said := l.said(names...)
	if len(said) == 0 {
		return
	}
	is := " is set, "
	if len(said) > 1 {
		is = " are set, "
	}
	l.clash(append(said, list), "%s", strings.Join(said, ", ")+is+why)
}

// said are those of the options that have another value than the default.
func (l *loader) said(names ...string) []string {
	defaults := Default()
	var said []string
	for _, o := range options() {
		if slices.Contains(names, o.name) && o.text(l.config) != o.text(defaults) {
			said = append(said, o.name)
		}
	}
	return said
}

func has(list []URL, scheme string) bool {
	return slices.ContainsFunc(list, func(u URL) bool { return u.Scheme == scheme })
}

// checkAddresses finds listeners that meet, and members that are Parallax itself.
func (l *loader) checkAddresses() {
	const admin = "listen-admin-urls"
	c := l.config
	pair := func(aName string, a []URL, bName string, b []URL, meet func(a, b URL) bool, advice string) {
		for _, u := range a {
			for _, v := range b {
				if meet(u, v) {
					l.clash([]string{aName, bName}, "%s is the same address as %s of %s: %s", u, v, bName, advice)
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
			if slices.ContainsFunc(listen.urls[:i], func(v URL) bool { return bothListen(u, v) }) {
				l.clash([]string{listen.name}, "%s meets another address of %s: remove one", u, listen.name)
			}
		}
	}
}

// bothListen: two listeners want the same port of the same address. What they speak there does not matter. A listener on all addresses
// takes those of both families: Go does so for 0.0.0.0, too (see net.Listen).
func bothListen(a, b URL) bool {
	if a.Scheme == "unix" || b.Scheme == "unix" {
		return a == b
	}
	aIP, aPort := listenAddress(a)
	bIP, bPort := listenAddress(b)
	return aPort == bPort && aPort != "0" && (aIP == bIP || aIP.IsUnspecified() || bIP.IsUnspecified())
}

// answers: who dials member reaches the listener. A listener on all addresses is only known to be reached through loopback:
// which other addresses this machine has is not ours to guess.
func answers(member, listener URL) bool {
	memberIP, memberPort := listenAddress(member)
	ip, port := listenAddress(listener)
	return memberPort == port && memberIP.IsValid() && (memberIP == ip || ip.IsUnspecified() && memberIP.IsLoopback())
}

// listenAddress takes localhost for 127.0.0.1; other names have no valid address.
func listenAddress(u URL) (netip.Addr, string) {
	host, port, _ := net.SplitHostPort(u.Address) // parseURL joined them
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, _ := netip.ParseAddr(host)
	return ip, port
}
