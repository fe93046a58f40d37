// Package pki issues certificates for tests: of servers, of clients, expired
// ones, and those of another authority.
//
//	ca, err := pki.New(dir)
//	server, err := ca.Issue("member", pki.For("127.1.2.3"))
//	client, err := ca.Issue("root")          // its common name is an etcd user's
//	old, err := ca.Issue("old", pki.Expired())
//
// A second authority in another folder is one that the first one's friends do
// not trust.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA is a certificate authority with its files in one folder.
type CA struct {
	// CertFile is the authority's own certificate: what others are told to trust.
	CertFile string

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

// Pair is a certificate and its key, each a PEM file that etcd, Parallax and nginx
// read. HAProxy wants both in one file, one behind the other.
type Pair struct {
	CertFile, KeyFile string
}

// New makes an authority, and the folder if it is not there. Its own files are ca.crt and ca.key.
func New(dir string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		// Certificates say by its name who issued them: two authorities of one
		// name would be told apart only by their signatures.
		Subject:               pkix.Name{CommonName: "ca " + dir},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	lasting(template)
	ca := &CA{dir: dir, pool: x509.NewCertPool()}
	pair, cert, key, err := ca.sign("ca", template)
	if err != nil {
		return nil, err
	}
	ca.CertFile, ca.cert, ca.key = pair.CertFile, cert, key
	ca.pool.AddCert(cert)
	return ca, nil
}

// Option changes what is issued.
type Option func(*x509.Certificate)

// For names the IP addresses and host names for which a server's certificate is good.
func For(hosts ...string) Option {
	return func(c *x509.Certificate) {
		for _, host := range hosts {
			if ip := net.ParseIP(host); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, host)
			}
		}
	}
}

// CommonName says something else than the name of the files.
func CommonName(cn string) Option {
	return func(c *x509.Certificate) { c.Subject.CommonName = cn }
}

// Expired makes it one that ended an hour ago.
func Expired() Option { return Until(time.Now().Add(-time.Hour)) }

// Until sets its end.
func Until(end time.Time) Option {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = end.Add(-24*time.Hour), end }
}

// Issue writes NAME.crt and NAME.key, over those that are there. The common name is the name. It
// is good for servers and for clients: an etcd member shows its server's certificate to itself when
// it forwards a call of the JSON gateway.
func (ca *CA) Issue(name string, opts ...Option) (Pair, error) {
	if name == "ca" {
		return Pair{}, errors.New(`issue "ca": the authority's own files have that name, take another`)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	lasting(template)
	for _, opt := range opts {
		opt(template)
	}
	pair, _, _, err := ca.sign(name, template)
	return pair, err
}

// ClientTLS is what a Go client needs to believe servers of this authority, and to show a
// certificate of its own, if any is given.
func (ca *CA) ClientTLS(own ...Pair) (*tls.Config, error) {
	config := &tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS12}
	for _, pair := range own {
		cert, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load pair: %w", err)
		}
		config.Certificates = append(config.Certificates, cert)
	}
	return config, nil
}

// lasting: the clock of a machine may be set back a little while tests run.
func lasting(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
}

// sign makes a key and a certificate for it, and writes both. An authority without a certificate signs its own.
func (ca *CA) sign(name string, template *x509.Certificate) (pair Pair, cert *x509.Certificate, key *ecdsa.PrivateKey, err error) {
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return pair, nil, nil, err
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return pair, nil, nil, err
	}
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return pair, nil, nil, fmt.Errorf("sign %s: %w", name, err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		return pair, nil, nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair, nil, nil, err
	}
	pair = Pair{CertFile: filepath.Join(ca.dir, name+".crt"), KeyFile: filepath.Join(ca.dir, name+".key")}
	err = errors.Join(
		write(pair.CertFile, "CERTIFICATE", der, 0o644),
		write(pair.KeyFile, "PRIVATE KEY", private, 0o600))
	return pair, cert, key, err
}

func write(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
