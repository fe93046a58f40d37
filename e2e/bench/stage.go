package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/etcd-parallax/parallax/e2e/bench/load"
	"github.com/etcd-parallax/parallax/e2e/bench/report"
	"github.com/etcd-parallax/parallax/e2e/bench/rows"
	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/internal/loopback"
	"github.com/etcd-parallax/parallax/e2e/pki"
)

// stage is what all rows of one mode share.
type stage struct {
	*bench
	mode       string
	site       rows.Site
	tls        *tls.Config
	one, three *members // three is nil when no row needs it
}

// members are a cluster with its data, and a way to its leader beside all proxies.
type members struct {
	cluster *cluster.Cluster
	addr    string
	pids    []int
	direct  *load.Client
}

// firstPort of the rows, below those that the kernel gives to clients.
const firstPort = 10000

func (b *bench) newStage(ctx context.Context, mode string, three bool) (_ *stage, err error) {
	s := &stage{bench: b, mode: mode}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	var ports atomic.Int64 // rows start side by side
	s.site = rows.Site{
		Dir: b.dir, Threads: runtime.NumCPU(), Etcd: b.etcd, Parallax: b.product,
		// Each process has a port of its own: what is left of the last one's connections is not in the way.
		Port: func() int { return firstPort + int(ports.Add(1)) },
	}
	if s.site.IP, err = loopback.Address(firstPort); err != nil {
		return nil, err
	}
	var ca *pki.CA
	if mode == report.TLS {
		if ca, err = pki.New(filepath.Join(b.dir, "pki")); err != nil {
			return nil, err
		}
		if err := s.certify(ca); err != nil {
			return nil, err
		}
	}
	if s.one, err = s.startMembers(ctx, ca, 1); err != nil {
		return nil, err
	}
	s.site.Member = s.one.addr
	if three {
		if s.three, err = s.startMembers(ctx, ca, 3); err != nil {
			return nil, err
		}
		s.site.MemberOfThree = s.three.addr
	}
	return s, nil
}

// certify issues the certificate of the proxies.
func (s *stage) certify(ca *pki.CA) error {
	// etcd grpc-proxy takes no certificate with a name for its way to the member.
	pair, err := ca.Issue("proxy", pki.For(s.site.IP), pki.CommonName(""))
	if err != nil {
		return err
	}
	config, err := ca.ClientTLS()
	if err != nil {
		return err
	}
	s.tls = clientTLS(config)
	both := filepath.Join(s.dir, "proxy.pem")
	var content []byte
	for _, path := range []string{pair.CertFile, pair.KeyFile} {
		part, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		content = append(content, part...)
	}
	s.site.TLS = &rows.TLS{CA: ca.CertFile, Cert: pair.CertFile, Key: pair.KeyFile, CertAndKey: both}
	return os.WriteFile(both, content, 0o600)
}

// startMembers starts a cluster, with ca one that serves TLS, and writes the keys that will be read.
func (s *stage) startMembers(ctx context.Context, ca *pki.CA, size int) (_ *members, err error) {
	m := &members{}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	dir := filepath.Join(s.dir, fmt.Sprintf("%s-%d", s.mode, size))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	m.cluster, err = cluster.Start(ctx, cluster.Options{
		Version: binary.Etcd37, Size: size, Dir: dir,
		// The database grows until the next compaction.
		ElectionTimeout: s.electionTimeout(), ExtraFlags: []string{"--quota-backend-bytes=8589934592", "--log-level=error"},
	})
	if err != nil {
		return nil, err
	}
	if ca != nil {
		if err := m.serveTLS(ctx, ca, s.site.IP); err != nil {
			return nil, err
		}
	}
	leader, err := m.cluster.Leader(ctx)
	if err != nil {
		return nil, err
	}
	if m.addr, err = clientAddr(leader, ca != nil); err != nil {
		return nil, err
	}
	for _, member := range m.cluster.Members {
		m.pids = append(m.pids, member.PID())
	}
	if m.direct, err = load.Open(ctx, m.addr, s.tls, load.Conns); err != nil {
		return nil, err
	}
	return m, m.direct.Seed(ctx, s.quick)
}

// serveTLS gives every member a second client address. Its certificate is good for
// the proxies', too: a relay that passes TLS on shows the member's.
func (m *members) serveTLS(ctx context.Context, ca *pki.CA, proxies string) error {
	if err := m.cluster.StopAll(); err != nil {
		return err
	}
	for _, member := range m.cluster.Members {
		addr, err := clientAddr(member, true)
		if err != nil {
			return err
		}
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return err
		}
		pair, err := ca.Issue("member-"+addr, pki.For(host, proxies, rows.MemberName))
		if err != nil {
			return err
		}
		member.Flags = []string{
			"--cert-file=" + pair.CertFile, "--key-file=" + pair.KeyFile,
			"--listen-client-urls=" + member.ClientURL + ",https://" + addr, "--advertise-client-urls=https://" + addr,
		}
	}
	return m.cluster.StartAll(ctx)
}

// clientAddr of a member; with TLS it has another port.
func clientAddr(m *cluster.Member, tls bool) (string, error) {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(m.ClientURL, "http://"))
	if err != nil || !tls {
		return net.JoinHostPort(host, port), err
	}
	n, err := strconv.Atoi(port)
	return net.JoinHostPort(host, strconv.Itoa(n+tlsPorts)), err
}

// tlsPorts lie above those that package cluster uses.
const tlsPorts = 10000

func (m *members) close() error {
	var errs []error
	if m.direct != nil {
		errs = append(errs, m.direct.Close())
	}
	if m.cluster != nil {
		errs = append(errs, m.cluster.Close())
	}
	return errors.Join(errs...)
}

func (s *stage) close() error {
	var errs []error
	for _, m := range []*members{s.one, s.three} {
		if m != nil {
			errs = append(errs, m.close())
		}
	}
	return errors.Join(errs...)
}

// behind are the members behind a row.
func (s *stage) behind(row rows.Row) *members {
	if row.Three {
		return s.three
	}
	return s.one
}
