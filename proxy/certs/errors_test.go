package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every way in which files can be wrong has an error that names the file and what to do.
//
// GUARANTEE G8: No value, token, password or key material is logged or served.
func TestErrorsNameTheFileAndHoldNoKey(t *testing.T) {
	ca := newAuthority(t, "ca")
	good, other := ca.issue(t, nil, "parallax"), ca.issue(t, nil, "other")
	block, _ := pem.Decode(good.key)
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: block.Bytes[1:]})
	older := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: block.Bytes[1:]})
	damaged := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})
	noKey := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes[:20]})

	for name, test := range map[string]struct {
		cert, key, ca []byte // nil: the file is missing
		want          string
	}{
		"no certificate file":       {nil, good.key, ca.pem, "certificate file CERT does not exist: create it"},
		"no key file":               {good.cert, nil, ca.pem, "key file KEY does not exist: create it"},
		"no CA file":                {good.cert, good.key, nil, "CA file CA does not exist: create it"},
		"empty certificate":         {[]byte{}, good.key, ca.pem, "certificate file CERT holds no certificate"},
		"certificate is no PEM":     {block.Bytes, good.key, ca.pem, "certificate file CERT holds no certificate"},
		"certificate is a key":      {good.key, good.key, ca.pem, "certificate file CERT holds no certificate"},
		"certificate is damaged":    {damaged, good.key, ca.pem, "certificate file CERT: certificate 1: x509"},
		"certificate half written":  {good.cert[:len(good.cert)-20], good.key, ca.pem, "certificate file CERT ends in the middle or is damaged after certificate 0"},
		"chain half written":        {join(good.cert, other.cert[:99]), good.key, ca.pem, "certificate file CERT ends in the middle or is damaged after certificate 1"},
		"empty key":                 {good.cert, []byte{}, ca.pem, "key file KEY cannot be used with certificate file CERT"},
		"key is a certificate":      {good.cert, good.cert, ca.pem, "found a certificate rather than a key"},
		"key is damaged":            {good.cert, noKey, ca.pem, "key file KEY cannot be used with certificate file CERT"},
		"key half written":          {good.cert, good.key[:len(good.key)-30], ca.pem, "key file KEY cannot be used with certificate file CERT"},
		"key of another":            {good.cert, other.key, ca.pem, "private key does not match public key: give the key, in PEM, that this certificate was issued for"},
		"key with a passphrase":     {good.cert, encrypted, ca.pem, "the key in KEY is protected by a passphrase"},
		"key with a passphrase old": {good.cert, older, ca.pem, "the key in KEY is protected by a passphrase"},
		"empty CA":                  {good.cert, good.key, []byte{}, "CA file CA holds no certificate"},
		"CA is a key":               {good.cert, good.key, good.key, "CA file CA holds no certificate"},
		"CA is damaged":             {good.cert, good.key, join(ca.pem, damaged), "CA file CA: certificate 2: x509"},
		"CA half written":           {good.cert, good.key, join(ca.pem, ca.pem[:200]), "CA file CA ends in the middle or is damaged after certificate 1"},
		"a file that is too large":  {bytes.Repeat([]byte("x"), maxFile+1), good.key, ca.pem, "certificate file CERT is larger than 8 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			paths := map[string]string{"CERT": filepath.Join(dir, "c"), "KEY": filepath.Join(dir, "k"), "CA": filepath.Join(dir, "a")}
			for which, content := range map[string][]byte{"CERT": test.cert, "KEY": test.key, "CA": test.ca} {
				if content != nil {
					write(t, paths[which], content)
				}
			}
			want := strings.NewReplacer("file CERT", "file "+paths["CERT"], "KEY", paths["KEY"], "file CA", "file "+paths["CA"]).Replace(test.want)
			_, serverErr := NewServer(ServerOptions{CertFile: paths["CERT"], KeyFile: paths["KEY"], TrustedCAFile: paths["CA"]})
			_, clientErr := NewClient(ClientOptions{Cert: paths["CERT"], Key: paths["KEY"], CACert: paths["CA"]})
			for _, err := range []error{serverErr, clientErr} {
				fails(t, err, want)
				if err != nil {
					noKeyIn(t, err.Error(), good, other)
				}
			}
		})
	}
}

func join(a, b []byte) []byte { return append(bytes.Clone(a), b...) }

// noKeyIn checks that no line of a key is in text.
func noKeyIn(t *testing.T, text string, pairs ...pair) {
	t.Helper()
	for _, p := range pairs {
		for line := range strings.Lines(string(p.key)) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "---") && strings.Contains(text, line) {
				t.Errorf("a key is told: %s", text)
			}
		}
	}
}

func TestErrorsOfOptions(t *testing.T) {
	ca := newAuthority(t, "ca")
	good := ca.issue(t, nil, "parallax")
	files := newSecret(t, good, ca.pem)
	for name, test := range map[string]struct {
		options ServerOptions
		want    string
	}{
		"nothing":       {ServerOptions{}, "a TLS listener has no certificate"},
		"no key":        {ServerOptions{CertFile: files.cert()}, "certificate file " + files.cert() + " is given without a key"},
		"no cert":       {ServerOptions{KeyFile: files.key()}, "key file " + files.key() + " is given without a certificate"},
		"both names":    {ServerOptions{CertFile: files.cert(), KeyFile: files.key(), TrustedCAFile: files.ca(), AllowedCNs: []string{"a"}, AllowedHostnames: []string{"b"}}, "give one of the two"},
		"names, no CA":  {ServerOptions{CertFile: files.cert(), KeyFile: files.key(), AllowedCNs: []string{"a"}}, "no client is asked for a certificate"},
		"hosts, no CA":  {ServerOptions{CertFile: files.cert(), KeyFile: files.key(), AllowedHostnames: []string{"a"}}, "no client is asked for a certificate"},
		"not the path":  {ServerOptions{CertFile: files.cert(), KeyFile: string(good.key)}, "give the name of a file"},
		"a NUL in path": {ServerOptions{CertFile: "a\x00", KeyFile: files.key()}, "give the name of a file"},
	} {
		_, err := NewServer(test.options)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error: %v; want %q", name, err, test.want)
			continue
		}
		noKeyIn(t, err.Error(), good)
	}
	_, err := NewClient(ClientOptions{Cert: files.cert()})
	fails(t, err, "is given without a key")
	_, err = NewClient(ClientOptions{Key: files.key()})
	fails(t, err, "is given without a certificate")
}

func TestUnreadableFiles(t *testing.T) {
	ca := newAuthority(t, "ca")
	files := newSecret(t, ca.issue(t, nil, "parallax"), ca.pem)
	t.Run("a directory", func(t *testing.T) {
		_, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.dir})
		fails(t, err, "key file "+files.dir+" cannot be read: is a directory")
	})
	t.Run("no permission", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may read every file")
		}
		if err := os.Chmod(files.key(), 0); err != nil {
			t.Fatal(err)
		}
		_, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.key()})
		fails(t, err, "key file "+files.key()+" may not be read: permission denied: let the user who runs parallax")
	})
}

// An expired certificate is for the other side to refuse. Refusing to start would turn a warning into an outage.
func TestExpiredIsNoError(t *testing.T) {
	ca := newAuthority(t, "ca")
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	files := newSecret(t, ca.issue(t, expired, "parallax"), ca.pem)
	if _, err := NewServer(ServerOptions{CertFile: files.cert(), KeyFile: files.key()}); err != nil {
		t.Error(err)
	}
	if _, err := NewClient(ClientOptions{Cert: files.cert(), Key: files.key()}); err != nil {
		t.Error(err)
	}
}
