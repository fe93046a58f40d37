// Package certs holds the certificates and keys of listeners and of connections to members. They come from files,
// and are read again while Parallax serves: kubelet, cert-manager and certbot replace them without telling anybody.
//
// A Server or a Client hands out the *tls.Config of the moment; a Watcher reads the files again, in a goroutine of
// its own, so that a file system that hangs stalls no handshake. What is broken is not taken: the old certificate
// stays in use until it is replaced by one that works. Connections that are open keep what they were opened with.
//
// The meaning of the options is that of etcd's client/pkg/v3/transport.TLSInfo, whose flags they come from.
package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxFile is many times the CA bundle of a distribution (250 KiB). What is larger is not what was meant.
const maxFile = 8 << 20

// Expiry is how long something in a file may be used.
type Expiry struct {
	File                string
	CA                  bool // the one of the CA file that expires first; else a certificate of ours
	NotBefore, NotAfter time.Time
}

// files are the paths of a Server or a Client, and what was in them when they were last put to use.
type files struct {
	cert, key, ca string // empty: there is none

	mu       sync.Mutex // one reader at a time
	taken    bool
	contents [sha256.Size]byte // of all of them when they were taken

	expiries atomic.Pointer[[]Expiry]
}

// material is what the files hold, parsed.
type material struct {
	cert *tls.Certificate // nil without a certificate file
	cas  *x509.CertPool   // nil without a CA file
}

// Expiries are those of what is in use now.
func (f *files) Expiries() []Expiry { return *f.expiries.Load() }

// reload reads the files, and gives use what they hold if it is something new and it is whole. Only contents tell:
// a symlink that is swapped, as kubelet does, may well bring an older modification time.
func (f *files) reload(use func(material)) (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var held [3][]byte
	hash := sha256.New()
	for i, file := range []struct{ kind, path string }{{"certificate", f.cert}, {"key", f.key}, {"CA", f.ca}} {
		if file.path == "" {
			continue
		}
		if held[i], err = read(file.kind, file.path); err != nil {
			return false, err
		}
		sum := sha256.Sum256(held[i]) // of equal length, so that it is plain where one file ends
		hash.Write(sum[:])
	}
	contents := [sha256.Size]byte(hash.Sum(nil))
	if f.taken && contents == f.contents {
		return false, nil
	}
	m, expiries, err := f.parse(held[0], held[1], held[2])
	if err != nil {
		return false, err
	}
	f.taken, f.contents = true, contents
	f.expiries.Store(&expiries)
	use(m)
	return true, nil
}

func (f *files) parse(certPEM, keyPEM, caPEM []byte) (m material, expiries []Expiry, err error) {
	if f.cert != "" {
		chain, err := parseCertificates("certificate", f.cert, certPEM)
		if err != nil {
			return m, nil, err
		}
		if m.cert, err = f.pair(certPEM, keyPEM); err != nil {
			return m, nil, err
		}
		expiries = append(expiries, Expiry{File: f.cert, NotBefore: chain[0].NotBefore, NotAfter: chain[0].NotAfter})
	}
	if f.ca != "" {
		cas, err := parseCertificates("CA", f.ca, caPEM)
		if err != nil {
			return m, nil, err
		}
		m.cas = x509.NewCertPool()
		first := cas[0]
		for _, ca := range cas {
			m.cas.AddCert(ca)
			if ca.NotAfter.Before(first.NotAfter) {
				first = ca
			}
		}
		expiries = append(expiries, Expiry{File: f.ca, CA: true, NotBefore: first.NotBefore, NotAfter: first.NotAfter})
	}
	return m, expiries, nil
}

// pair joins a certificate that was found to be sound with its key.
//
// GUARANTEE G8: No value, token, password or key material is logged or served. The errors of crypto/tls name types
// and what does not fit, and never contents.
func (f *files) pair(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		if bytes.Contains(keyPEM, []byte("ENCRYPTED")) { // the PEM type of PKCS #8, and a header of the older kind
			return nil, fmt.Errorf("certs: the key in %s is protected by a passphrase, which nobody could type in at "+
				"a restart: write it without (openssl pkey)", f.key)
		}
		return nil, fmt.Errorf("certs: key file %s cannot be used with certificate file %s: %w: give the key, in PEM, "+
			"that this certificate was issued for", f.key, f.cert, err)
	}
	return &pair, nil
}

// parseCertificates takes the certificates of a PEM file. Anything else in it is passed over, as a key may be kept
// in the same file; but what ends in the middle is refused: somebody is still writing it.
func parseCertificates(kind, path string, content []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := content; ; {
		block, after := pem.Decode(rest)
		if block == nil {
			if bytes.Contains(rest, []byte("-----BEGIN ")) {
				return nil, fmt.Errorf("certs: %s file %s ends in the middle or is damaged after certificate %d: "+
					"write it anew", kind, path, len(out))
			}
			break
		}
		rest = after
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certs: %s file %s: certificate %d: %w: write it anew", kind, path, len(out)+1, err)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("certs: %s file %s holds no certificate: give a file in PEM, "+
			"with -----BEGIN CERTIFICATE----- in it", kind, path)
	}
	return out, nil
}

// read returns a file, or says in plain words why it cannot.
func read(kind, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		var content []byte
		content, err = io.ReadAll(io.LimitReader(f, maxFile+1))
		if err == nil && len(content) > maxFile {
			return nil, fmt.Errorf("certs: %s file %s is larger than %d MiB: name a file in PEM", kind, path, maxFile>>20)
		}
		if err == nil {
			return content, nil
		}
	}
	var cause *fs.PathError
	if errors.As(err, &cause) {
		err = cause.Err // the path is said once
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("certs: %s file %s does not exist: create it, or name another", kind, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("certs: %s file %s may not be read: %w: let the user who runs parallax (uid %d) read it",
			kind, path, err, os.Geteuid())
	}
	return nil, fmt.Errorf("certs: %s file %s cannot be read: %w", kind, path, err)
}

// checkPaths finds what is wrong with the names before anything is opened.
func (f *files) checkPaths() error {
	for _, path := range []string{f.cert, f.key, f.ca} {
		if strings.Contains(path, "-----BEGIN") || strings.ContainsAny(path, "\n\x00") {
			// GUARANTEE G8: No value, token, password or key material is logged or served. Nor when it is given
			// where the name of its file belongs.
			return errors.New("certs: the content of a certificate or key is given as its path: give the name of a file")
		}
	}
	switch {
	case f.cert != "" && f.key == "":
		return fmt.Errorf("certs: certificate file %s is given without a key: give the file of its key, too", f.cert)
	case f.cert == "" && f.key != "":
		return fmt.Errorf("certs: key file %s is given without a certificate: give the file of its certificate, too", f.key)
	}
	return nil
}
