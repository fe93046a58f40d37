package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// ServerOptions are what a TLS listener asks of itself and of its clients. The names are those of etcd's flags.
type ServerOptions struct {
	// CertFile and KeyFile are what clients are shown. Both are needed. The certificate may be followed by the
	// intermediate ones.
	CertFile, KeyFile string

	// TrustedCAFile holds the authorities of client certificates. When it is set every client must show one.
	TrustedCAFile string

	// ClientCertAuth makes every client show a certificate. Without a TrustedCAFile one of the system's
	// authorities must have signed it.
	ClientCertAuth bool

	// AllowedCNs or AllowedHostnames, one of the two, narrow the clients down to those whose certificate has one
	// of these common names, or is valid for one of these names or addresses.
	AllowedCNs, AllowedHostnames []string

	// CipherSuites are those for TLS 1.2. If empty, Go's choice.
	CipherSuites []uint16

	// MinVersion of TLS. If zero, TLS 1.2.
	MinVersion uint16
}

// Server has the certificates of a listener.
type Server struct {
	files
	options ServerOptions
	config  atomic.Pointer[tls.Config]
}

// NewServer reads the files.
func NewServer(o ServerOptions) (*Server, error) {
	s := &Server{files: files{cert: o.CertFile, key: o.KeyFile, ca: o.TrustedCAFile}, options: o}
	if err := errors.Join(s.checkPaths(), o.check()); err != nil {
		return nil, err
	}
	if _, err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

func (o *ServerOptions) check() error {
	switch narrowed := len(o.AllowedCNs)+len(o.AllowedHostnames) > 0; {
	case o.CertFile == "" && o.KeyFile == "":
		return errors.New("certs: a TLS listener has no certificate: give the files of a certificate and of its key")
	case len(o.AllowedCNs) > 0 && len(o.AllowedHostnames) > 0:
		return fmt.Errorf("certs: both common names (%s) and host names (%s) of clients are given: give one of the two",
			strings.Join(o.AllowedCNs, ", "), strings.Join(o.AllowedHostnames, ", "))
	case narrowed && !o.asksClients():
		// etcd ignores the names then, and serves everybody.
		return errors.New("certs: names of clients are given, but no client is asked for a certificate: " +
			"give the CA file of the clients, or ask for client certificates")
	}
	return nil
}

func (o *ServerOptions) asksClients() bool { return o.TrustedCAFile != "" || o.ClientCertAuth }

// Reload reads the files again, and says whether they held something new, which handshakes that begin from now on
// use. On an error the old certificates stay in use.
func (s *Server) Reload() (changed bool, err error) {
	return s.reload(func(m material) { s.config.Store(s.options.config(m)) })
}

// Config is for the next handshake, and that one alone: ask again for the one after it. It is shared, and must not
// be changed.
func (s *Server) Config() *tls.Config { return s.config.Load() }

// config is made anew from nothing, never cloned: the keys of session tickets are the config's own, so that a
// ticket issued under one CA is not accepted under the next.
func (o *ServerOptions) config(m material) *tls.Config {
	c := &tls.Config{
		Certificates: []tls.Certificate{*m.cert},
		NextProtos:   []string{"h2", "http/1.1"},
		CipherSuites: o.CipherSuites,
		MinVersion:   orTLS12(o.MinVersion),
		ClientCAs:    m.cas,
		// crypto/tls begins with records of one packet, and does so again after each pause of a second, so that a
		// browser can render sooner. An etcd client needs its message whole, and the relay writes many KiB at
		// once: in records of 16 KiB that takes a tenth of the encryptions and system calls.
		DynamicRecordSizingDisabled: true,
	}
	if o.asksClients() {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if len(o.AllowedCNs)+len(o.AllowedHostnames) > 0 {
		// Not VerifyPeerCertificate, as in etcd: it is not called when a session is resumed.
		c.VerifyConnection = o.allow
	}
	return c
}

// allow refuses clients whose certificate is genuine but not one of those that were named.
func (o *ServerOptions) allow(state tls.ConnectionState) error {
	named := func(chain []*x509.Certificate) bool {
		client := chain[0]
		return slices.Contains(o.AllowedCNs, client.Subject.CommonName) ||
			slices.ContainsFunc(o.AllowedHostnames, func(h string) bool { return client.VerifyHostname(h) == nil })
	}
	if !slices.ContainsFunc(state.VerifiedChains, named) {
		return errors.New("certs: the client's certificate has none of the allowed names")
	}
	return nil
}

func orTLS12(version uint16) uint16 {
	if version == 0 {
		return tls.VersionTLS12
	}
	return version
}
