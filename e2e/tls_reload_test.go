package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
	"github.com/etcd-parallax/parallax/e2e/pki"
)

// Certificates that are replaced on disk, the way kubelet does it, are used for connections that begin then, towards clients and
// towards members, and no connection ends for it. Files that are broken change nothing, and are told.
func TestCertificatesAreReplaced(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd37, Size: 1, TLS: cluster.MutualTLS})
	authorize(t, c, "first", "second")
	where := freeURL(t, "https")
	issue := func(cn string) pki.Pair {
		t.Helper()
		pair, err := c.PKI.Issue(cn+"-file", pki.For(host(t, where)), pki.CommonName(cn))
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	v := newVolume(t)
	v.put(t, map[string]string{"listener": "first", "member": "first"}, issue)
	p := startAt(t, where, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{
		"--shadow=false", "--allow-unauthenticated-clients", "--cacert=" + c.PKI.CertFile,
		"--cert-file=" + v.path("listener.crt"), "--key-file=" + v.path("listener.key"),
		"--cert=" + v.path("member.crt"), "--key=" + v.path("member.key"),
	}})
	trust := believe(t, c.PKI)
	old := startCallers(t, where, "/first", 2, trust)
	if cn := shown(t, where, c.PKI); cn != "first" {
		t.Errorf("new connections are shown %q", cn)
	}

	replaced := time.Now()
	v.put(t, map[string]string{"listener": "second", "member": "second"}, issue)
	for _, role := range []string{"listener", "member"} {
		reloads(t, p, role, "ok", 1) // nobody was told
	}
	t.Logf("new files were taken into use after %v", time.Since(replaced))
	if cn := shown(t, where, c.PKI); cn != "second" {
		t.Errorf("new connections are shown %q", cn)
	}
	// The member takes the common name for the user: who connects now is second, who was there is first.
	newer := startCallers(t, where, "/second", 1, trust)
	old.goesOn(t)
	if err := tryPut(t, newer.each[0].client, "/first/x"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("a new connection with the rights of the old certificate: %v", err)
	}
	if err := tryPut(t, old.each[0].client, "/second/x"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("an old connection with the rights of the new certificate: %v", err)
	}

	v.breakIt(t)
	for _, role := range []string{"listener", "member"} {
		reloads(t, p, role, "failed", 1)
		logs(t, p, "level=ERROR", "new certificate files cannot be used, the old ones stay in use", "role="+role)
	}
	if cn := shown(t, where, c.PKI); cn != "second" {
		t.Errorf("with broken files new connections are shown %q", cn)
	}
	newest := startCallers(t, where, "/second/newest", 1, trust)

	v.put(t, map[string]string{"listener": "third", "member": "second"}, issue)
	eventually(t, 30*time.Second, "the files that are whole again to be used", func() bool { return shown(t, where, c.PKI) == "third" })
	for _, l := range []*callers{old, newer, newest} {
		l.goesOn(t)
		l.check(t, c.Client())
		for _, f := range l.failures() {
			t.Error(f)
		}
		for _, caller := range l.each {
			if end := caller.conns.endAfter(replaced); !end.IsZero() {
				t.Errorf("a connection of %s ended at %v", caller.prefix, end)
			}
		}
	}
	expires := count(t, p, "parallax_tls_certificate_expiry_timestamp_seconds", `role="listener"`)
	if in := time.Until(time.Unix(int64(expires), 0)); in < time.Hour || in > 25*time.Hour {
		t.Errorf("the listener's certificate is said to expire in %v, of 24 hours", in)
	}
}

// Who is let in: with a certificate of the authority, in time, and of a name that is allowed. A new authority lets in its own, and the
// old one's no more.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36, Size: 1})
	where := freeURL(t, "https")
	ca, stranger := authority(t), authority(t)
	v := newVolume(t)
	v.swap(t, map[string][]byte{"ca.crt": read(t, ca.CertFile)})
	p := startAt(t, where, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: append(certify(t, ca, where),
		"--shadow=false", "--client-cert-auth", "--trusted-ca-file="+v.path("ca.crt"), "--client-cert-allowed-cn=apiserver")})
	issue := func(from *pki.CA, name string, opts ...pki.Option) pki.Pair {
		t.Helper()
		pair, err := from.Issue(name, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	good := issue(ca, "good", pki.CommonName("apiserver"))
	foreign := issue(stranger, "foreign", pki.CommonName("apiserver"))
	served := func(within time.Duration, own ...pki.Pair) error {
		t.Helper()
		return comeOnce(t, where, within, believe(t, ca, own...))
	}
	const soon = time.Second // one that is refused would try for ever
	if err := served(callTimeout, good); err != nil {
		t.Errorf("a client with the right certificate: %v", err)
	}
	before := count(t, p, "parallax_proxy_connections_refused_total", `reason="tls-handshake"`)
	for who, pairs := range map[string][]pki.Pair{
		"without a certificate": {}, "of another authority": {foreign},
		"of another name": {issue(ca, "other")}, "that has expired": {issue(ca, "old", pki.CommonName("apiserver"), pki.Expired())},
	} {
		if err := served(soon, pairs...); err == nil {
			t.Errorf("a client %s is served", who)
		}
	}
	if n := count(t, p, "parallax_proxy_connections_refused_total", `reason="tls-handshake"`); n < before+4 {
		t.Errorf("%v connections were refused for their handshake, want at least 4", n-before)
	}

	l := startCallers(t, where, "/old-authority", 1, believe(t, ca, good))
	v.swap(t, map[string][]byte{"ca.crt": read(t, stranger.CertFile)})
	reloads(t, p, "listener", "ok", 1)
	if err := served(callTimeout, foreign); err != nil {
		t.Errorf("a client of the new authority: %v", err)
	}
	if err := served(soon, good); err == nil {
		t.Error("a client of the old authority is served")
	}
	l.goesOn(t)
	l.check(t, c.Client())
	if f := l.failures(); len(f) > 0 {
		t.Errorf("a connection of before: %v", f)
	}
}

// volume is a folder whose files are replaced all at once, as kubelet does for secrets: NAME → ..data/NAME, ..data → a folder of the generation.
type volume struct {
	dir        string
	generation int
}

func newVolume(t *testing.T) *volume { return &volume{dir: t.TempDir()} }

func (v *volume) path(name string) string { return filepath.Join(v.dir, name) }

func (v *volume) swap(t *testing.T, files map[string][]byte) {
	t.Helper()
	v.generation++
	generation := fmt.Sprintf("..%d", v.generation)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(v.path(generation), 0o700))
	for name, content := range files {
		must(os.WriteFile(filepath.Join(v.path(generation), name), content, 0o600))
		if err := os.Symlink(filepath.Join("..data", name), v.path(name)); !errors.Is(err, os.ErrExist) {
			must(err)
		}
	}
	must(os.Symlink(generation, v.path("..data_tmp")))
	must(os.Rename(v.path("..data_tmp"), v.path("..data")))
}

// put issues a certificate of a common name for each name of files.
func (v *volume) put(t *testing.T, cns map[string]string, issue func(cn string) pki.Pair) {
	t.Helper()
	files := make(map[string][]byte)
	for name, cn := range cns {
		pair := issue(cn)
		files[name+".crt"], files[name+".key"] = read(t, pair.CertFile), read(t, pair.KeyFile)
	}
	v.swap(t, files)
}

// breakIt replaces certificates by halves of them.
func (v *volume) breakIt(t *testing.T) {
	t.Helper()
	files := make(map[string][]byte)
	for _, name := range []string{"listener.crt", "listener.key", "member.crt", "member.key"} {
		content := read(t, v.path(name))
		files[name] = content[:len(content)/2]
	}
	v.swap(t, files)
}

// authorize turns authentication on. Each user may write what begins with its name, and gets there by a certificate of that name.
func authorize(t *testing.T, c *cluster.Cluster, users ...string) {
	t.Helper()
	ctx := t.Context()
	auth := c.Client()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(auth.RoleAdd(ctx, "root"))
	for _, user := range append(users, cluster.ClientName) {
		must(auth.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true}))
	}
	must(auth.UserGrantRole(ctx, cluster.ClientName, "root"))
	for _, user := range users {
		must(auth.RoleAdd(ctx, user))
		prefix := "/" + user + "/"
		must(auth.RoleGrantPermission(ctx, user, prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite)))
		must(auth.UserGrantRole(ctx, user, user))
	}
	must(auth.AuthEnable(ctx))
}

func tryPut(t *testing.T, client *clientv3.Client, key string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	_, err := client.Put(ctx, key, "v")
	return err
}

// comeOnce is a client that is either served, in time, or not.
func comeOnce(t *testing.T, where string, within time.Duration, secure func(*clientv3.Config)) error {
	t.Helper()
	client, _ := observed(t, where, secure)
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	_, err := client.Get(ctx, "/come")
	return err
}

// shown is the common name of the certificate that a new client is shown.
func shown(t *testing.T, where string, ca *pki.CA) (cn string) {
	t.Helper()
	config, err := ca.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	config.VerifyPeerCertificate = func(_ [][]byte, chains [][]*x509.Certificate) error {
		cn = chains[0][0].Subject.CommonName
		return nil
	}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(where, "https://"), config)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	return cn
}

func reloads(t *testing.T, p *parallax.Process, role, result string, n float64) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%v reloads of the %s that are %s", n, role, result), func() bool {
		return count(t, p, "parallax_tls_reloads_total", fmt.Sprintf("role=%q", role), fmt.Sprintf("result=%q", result)) == n
	})
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func authority(t testing.TB) *pki.CA {
	t.Helper()
	ca, err := pki.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// certify returns the flags of a listener with a certificate for the host of where.
func certify(t testing.TB, ca *pki.CA, where string) []string {
	t.Helper()
	pair, err := ca.Issue("listener", pki.For(host(t, where)))
	if err != nil {
		t.Fatal(err)
	}
	return []string{"--cert-file=" + pair.CertFile, "--key-file=" + pair.KeyFile}
}

func host(t testing.TB, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Hostname()
}

// believe lets a client take servers of an authority, and show a certificate of its own, if any is given.
func believe(t testing.TB, ca *pki.CA, own ...pki.Pair) func(*clientv3.Config) {
	t.Helper()
	config, err := ca.ClientTLS(own...)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *clientv3.Config) { c.TLS = config.Clone() }
}
