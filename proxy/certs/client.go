package certs

import (
	"crypto/tls"
	"sync/atomic"
)

// ClientOptions are how members are reached over TLS. The names are those of etcdctl's flags.
type ClientOptions struct {
	// CACert holds the authorities of the members' certificates. If empty, the system's, as with etcdctl.
	CACert string

	// Cert and Key are what members are shown when they ask. Both or none.
	Cert, Key string

	// InsecureSkipVerify accepts whatever a member shows. Whoever gets between Parallax and a member can then
	// read and change everything.
	InsecureSkipVerify bool

	// ServerName is what the certificates of all members must be valid for. If empty, the host of the endpoint.
	ServerName string
}

// Client has the certificates for connections to members.
type Client struct {
	files
	options ClientOptions
	config  atomic.Pointer[tls.Config]
}

// NewClient reads the files, if there are any.
func NewClient(o ClientOptions) (*Client, error) {
	c := &Client{files: files{cert: o.Cert, key: o.Key, ca: o.CACert}, options: o}
	if err := c.checkPaths(); err != nil {
		return nil, err
	}
	if _, err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Reload reads the files again, and says whether they held something new, which connections that are opened from now
// on use. On an error the old certificates stay in use.
func (c *Client) Reload() (changed bool, err error) {
	return c.reload(func(m material) { c.config.Store(c.options.config(m)) })
}

// Config is for one connection to a member at host, which is offered protos (ALPN). It is the caller's own.
func (c *Client) Config(host string, protos ...string) *tls.Config {
	config := c.config.Load().Clone()
	config.NextProtos = protos
	if config.ServerName == "" {
		config.ServerName = host
	}
	return config
}

func (o *ClientOptions) config(m material) *tls.Config {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            m.cas,
		ServerName:         o.ServerName,
		InsecureSkipVerify: o.InsecureSkipVerify,
		// As for a listener: what the relay writes is large.
		DynamicRecordSizingDisabled: true,
	}
	if m.cert != nil {
		// Not Certificates, which crypto/tls holds back when the member's list of authorities does not name its
		// issuer: with a cross-signed one the member would have accepted it. etcd's client sends it, too.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.cert, nil }
	}
	return c
}
