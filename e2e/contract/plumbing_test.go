package contract

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/internal/loopback"
	"github.com/etcd-parallax/parallax/e2e/parallax"
	"github.com/etcd-parallax/parallax/e2e/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for what takes milliseconds, on cores that are busy with other tests.
const patience = 30 * time.Second

// plumbing is a way from clients to a cluster.
type plumbing struct {
	name    string
	cluster *cluster.Cluster
	url     string      // where clients connect
	tls     *tls.Config // of the clients; nil: they speak none
	files   []string    // the same as flags of etcdctl

	// parallax is what stands in between; nil: nothing does.
	parallax *parallax.Process

	// resting is how many watchers are on the cluster all the time.
	resting int

	// sideways: the two ends do not speak alike, or TLS is not ours. Points that are about amounts are not repeated there.
	sideways bool
}

// member that is reached, of a cluster that has one.
func (p *plumbing) member() *cluster.Member { return p.cluster.Members[0] }

func (p *plumbing) version() string { return p.member().Version }

// directly is the way without anything in between.
func directly(c *cluster.Cluster) *plumbing {
	return &plumbing{name: "directly", cluster: c, url: c.Members[0].ClientURL, tls: c.ClientTLS(), files: memberFiles(c)}
}

// memberFiles are the flags of an etcdctl that speaks to the members.
func memberFiles(c *cluster.Cluster) []string {
	if c.PKI == nil {
		return nil
	}
	return []string{"--cacert=" + c.PKI.CertFile, "--cert=" + c.ClientPair.CertFile, "--key=" + c.ClientPair.KeyFile}
}

// place is an address for a Parallax.
func place(t *testing.T) (ip string) {
	t.Helper()
	ip, err := loopback.Address(23790, 23791, 23792, 23793)
	if err != nil {
		t.Fatal(err)
	}
	return ip
}

// through starts one Parallax at a place before a cluster, with a listener of each scheme, and returns the ways through it in this
// order.
func through(t *testing.T, c *cluster.Cluster, ip string, schemes []string) (ways []*plumbing) {
	t.Helper()
	var err error
	all := []string{"--sample-reads=1"}
	ca := c.PKI
	if c.PKI != nil {
		own, err := ca.Issue("parallax", pki.CommonName(parallaxName))
		if err != nil {
			t.Fatal(err)
		}
		// In plain words: who reaches a listener without client certificates acts with ours.
		all = append(all, "--cacert="+ca.CertFile, "--cert="+own.CertFile, "--key="+own.KeyFile, "--allow-unauthenticated-clients")
	} else if ca, err = pki.New(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	client, err := ca.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(schemes, "https") {
		server, err := ca.Issue("listener", pki.For(ip))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, "--cert-file="+server.CertFile, "--key-file="+server.KeyFile)
	}
	proc := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Listen: schemes, IP: ip, Flags: all})
	for _, scheme := range schemes {
		p := &plumbing{name: scheme, cluster: c, url: proc.URL(scheme), parallax: proc}
		switch scheme {
		case "https":
			p.tls, p.files = client.Clone(), []string{"--cacert=" + ca.CertFile}
		case "passthrough":
			p.tls, p.files = c.ClientTLS(), memberFiles(c)
		}
		p.sideways = scheme == "unix" || scheme == "passthrough" || (scheme == "https") != (c.PKI != nil)
		ways = append(ways, p)
	}
	return ways
}

// parallaxName is the common name of Parallax's own certificate.
const parallaxName = "parallax"

// client is a client of etcd, as it comes.
func (p *plumbing) client(t testing.TB, change ...func(*clientv3.Config)) *clientv3.Client {
	t.Helper()
	config := clientv3.Config{Endpoints: []string{p.url}, TLS: p.tls.Clone(), DialTimeout: patience, Logger: zap.NewNop()}
	for _, c := range change {
		c(&config)
	}
	client, err := clientv3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// grpc is a gRPC connection of its own.
func (p *plumbing) grpc(t testing.TB) *grpc.ClientConn {
	t.Helper()
	secure := insecure.NewCredentials()
	if p.tls != nil {
		secure = credentials.NewTLS(p.tls.Clone())
	}
	target := p.url
	if network, address := p.network(); network == "tcp" {
		target = address
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(secure), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// network and address of the way's beginning, as net.Dial takes them.
func (p *plumbing) network() (network, address string) {
	scheme, address, _ := strings.Cut(p.url, "://")
	if scheme == "unix" {
		return scheme, address
	}
	return "tcp", address
}

// dial opens a bare connection, with TLS where clients speak it, that offers the given protocols.
func (p *plumbing) dial(t testing.TB, protocols ...string) net.Conn {
	t.Helper()
	network, address := p.network()
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	if p.tls == nil {
		return conn
	}
	config := p.tls.Clone()
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	config.NextProtos = protocols
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(patient(t)); err != nil {
		t.Fatal(err)
	}
	return secure
}

// web is a client of HTTP/1.1, and the URL to put before a path.
func (p *plumbing) web(t testing.TB) (client *http.Client, base string) {
	t.Helper()
	network, address := p.network()
	base = p.url
	if network == "unix" {
		base = "http://etcd"
	}
	transport := &http.Transport{
		TLSClientConfig: p.tls.Clone(),
		// With a dialer of its own it offers no HTTP/2.
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}, base
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// patient is a context that ends before the whole test binary does, which would tell nothing.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

var serial atomic.Uint32

// key is one that nobody else uses, always of the same length.
func key(t testing.TB, name string) string {
	t.Helper()
	return fmt.Sprintf("/contract/%s/%08x/", name, serial.Add(1))
}
