package cluster

import (
	"crypto/tls"
	"path/filepath"

	"github.com/etcd-parallax/parallax/e2e/pki"
)

// TLS says how clients reach the members. Members reach each other without it in every case.
type TLS int

const (
	// Plain is http.
	Plain TLS = iota
	// ServerTLS is https; whoever comes may speak.
	ServerTLS
	// MutualTLS is https for clients that show a certificate of Cluster.PKI.
	MutualTLS
)

// ClientName is the common name in the certificate of the cluster's own clients: with authentication on, etcd takes it for the user.
const ClientName = "root"

func (t TLS) scheme() string {
	if t == Plain {
		return "http"
	}
	return "https"
}

// secure makes the authority and the certificates of a cluster with TLS.
func (c *Cluster) secure() (err error) {
	if c.opts.TLS == Plain {
		return nil
	}
	if c.PKI, err = pki.New(filepath.Join(c.dir, "pki")); err != nil {
		return err
	}
	if c.serverPair, err = c.PKI.Issue("member", pki.For(c.ip), pki.For(c.opts.AlsoFor...)); err != nil {
		return err
	}
	if c.ClientPair, err = c.PKI.Issue("client", pki.CommonName(ClientName)); err != nil {
		return err
	}
	c.clientTLS, err = c.PKI.ClientTLS(c.ClientPair)
	return err
}

// ClientTLS is what a client of the members needs, nil without TLS. The caller may change it.
func (c *Cluster) ClientTLS() *tls.Config { return c.clientTLS.Clone() }

// tlsFlags of a member.
func (c *Cluster) tlsFlags() []string {
	if c.opts.TLS == Plain {
		return nil
	}
	flags := []string{"--cert-file=" + c.serverPair.CertFile, "--key-file=" + c.serverPair.KeyFile}
	if c.opts.TLS == MutualTLS { // an authority alone makes etcd ask for client certificates, too
		flags = append(flags, "--client-cert-auth", "--trusted-ca-file="+c.PKI.CertFile)
	}
	return flags
}
