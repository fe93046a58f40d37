// Package cluster runs clusters of real etcd processes on loopback addresses of
// their own, so that many test processes can do it at the same time.
//
//	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd37})
//	c.Client().Put(ctx, "k", "v")
//	c.Members[1].Kill()
package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/internal/loopback"
	"github.com/etcd-parallax/parallax/e2e/pki"
)

const (
	// maxMembers bounds the ports that are probed: founders and later members.
	maxMembers = 9

	// bindAttempts: another process may take a port between probe and bind.
	bindAttempts = 3
)

// Cluster is a running etcd cluster. Start, stop and change it from one goroutine;
// reads and clients may be used from any.
type Cluster struct {
	// Members in the order of their names m1, m2, …
	Members []*Member

	// PKI is the authority that members and their clients trust, and ClientPair
	// what Client shows to members; with Options.TLS only.
	PKI        *pki.CA
	ClientPair pki.Pair

	opts       Options
	dir        string
	ip         string
	serverPair pki.Pair    // what members show
	clientTLS  *tls.Config // nil: plain
	client     *clientv3.Client

	created int // members ever created: names and ports are not used again
}

// Start starts a cluster and returns when all members serve and agree on a
// leader. Versions that are not there yet are built first.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	for _, version := range opts.Versions {
		if _, err := (binary.Builder{Progress: opts.Progress}).Etcd(ctx, version); err != nil {
			return nil, err
		}
	}
	for attempt := 1; ; attempt++ {
		c, err := start(ctx, opts)
		if err == nil || !errors.Is(err, errAddressInUse) || attempt == bindAttempts {
			return c, err
		}
	}
}

func start(ctx context.Context, opts Options) (_ *Cluster, err error) {
	c := &Cluster{opts: opts, dir: opts.Dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.ip, err = loopback.Address(allPorts()...); err != nil {
		return nil, err
	}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "parallax-etcd-"); err != nil {
			return nil, err
		}
	}
	if err := c.secure(); err != nil {
		return nil, err
	}
	var initial []string
	for _, version := range opts.Versions {
		m, err := c.newMember(version)
		if err != nil {
			return nil, err
		}
		c.Members = append(c.Members, m)
		initial = append(initial, m.Name+"="+m.PeerURL)
	}
	for _, m := range c.Members {
		m.initialCluster, m.initialState = strings.Join(initial, ","), "new"
	}
	if err := c.StartAll(ctx); err != nil {
		return nil, err
	}
	c.client, err = newClient(c.Endpoints(), c.ClientTLS())
	return c, err
}

// newMember lays out the next member; it starts nothing.
func (c *Cluster) newMember(version string) (*Member, error) {
	if c.created == maxMembers {
		return nil, fmt.Errorf("a cluster has at most %d members over its life", maxMembers)
	}
	client, peer := ports(c.created)
	c.created++
	name := fmt.Sprintf("m%d", c.created)
	m := &Member{
		Name: name, Version: version,
		ClientURL: loopback.URL(c.opts.TLS.scheme(), c.ip, client), PeerURL: loopback.URL("http", c.ip, peer),
		DataDir: filepath.Join(c.dir, name), Log: filepath.Join(c.dir, name+".log"),
		cluster: c,
	}
	var err error
	m.client, err = newClient([]string{m.ClientURL}, c.ClientTLS())
	return m, err
}

// StartAll starts the members that do not run, and returns when all members
// serve and agree on a leader. Members that need each other for a quorum
// cannot be started one by one.
func (c *Cluster) StartAll(ctx context.Context) error {
	for _, m := range c.Members {
		if m.Running() {
			continue
		}
		if err := m.Launch(ctx); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx)
}

// StopAll stops all members in an orderly way.
func (c *Cluster) StopAll() error {
	var group errgroup.Group
	for _, m := range c.Members {
		group.Go(m.Stop)
	}
	return group.Wait()
}

// WaitReady returns when all members that run serve and agree on a leader among
// them. Paused members count as stopped.
func (c *Cluster) WaitReady(ctx context.Context) error {
	return poll(ctx, "the members to agree on a leader", func(ctx context.Context) error {
		var leader uint64
		serving := make(map[uint64]bool)
		for _, m := range c.Members {
			if err := m.died(); err != nil {
				return stop(err)
			}
			if !m.serves() {
				continue
			}
			status, err := m.Status(ctx)
			switch {
			case err != nil:
				return fmt.Errorf("%s: %w", m.Name, err)
			case status.Leader == 0:
				return fmt.Errorf("%s has no leader", m.Name)
			case leader != 0 && leader != status.Leader:
				return fmt.Errorf("%s follows leader %x, another member %x", m.Name, status.Leader, leader)
			}
			leader = status.Leader
			m.learnID(status)
			serving[m.ID] = true
		}
		if !serving[leader] {
			return fmt.Errorf("the leader %x is none of those that run", leader)
		}
		return nil
	})
}

// WaitRevision returns when every running member has applied this revision: a
// read pinned at it then gets an answer from all of them.
func (c *Cluster) WaitRevision(ctx context.Context, revision int64) error {
	return poll(ctx, fmt.Sprintf("all members to apply revision %d", revision), func(ctx context.Context) error {
		for _, m := range c.Members {
			if !m.serves() {
				continue
			}
			status, err := m.Status(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
			if status.Header.Revision < revision {
				return fmt.Errorf("%s is at revision %d", m.Name, status.Header.Revision)
			}
		}
		return nil
	})
}

// Put writes a key, again when an election or the loss of a member ate the
// answer: the key may then have been written twice.
func (c *Cluster) Put(ctx context.Context, key, value string) (revision int64, err error) {
	err = poll(ctx, "the put of "+key, func(ctx context.Context) error {
		resp, err := c.client.Put(ctx, key, value)
		if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if err != nil {
			return stop(err)
		}
		revision = resp.Header.Revision
		return nil
	})
	return revision, err
}

// Leader returns the member that leads now.
func (c *Cluster) Leader(ctx context.Context) (*Member, error) {
	for _, m := range c.Members {
		if !m.serves() {
			continue
		}
		if status, err := m.Status(ctx); err == nil && status.Leader == status.Header.MemberId {
			return m, nil
		}
	}
	return nil, errors.New("no running member says that it is the leader, wait with WaitReady")
}

// Client returns a client with the endpoints of the founding members. Close closes it.
func (c *Cluster) Client() *clientv3.Client { return c.client }

// Endpoints returns the client URLs of all members.
func (c *Cluster) Endpoints() []string {
	var urls []string
	for _, m := range c.Members {
		urls = append(urls, m.ClientURL)
	}
	return urls
}

// Close kills all members and removes the temporary folder. It may be called twice.
func (c *Cluster) Close() error {
	var errs []error
	if c.client != nil {
		errs = append(errs, c.client.Close())
		c.client = nil
	}
	for _, m := range c.Members {
		errs = append(errs, m.close())
	}
	if c.opts.Dir == "" && c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// ports of the i-th member: etcd's own, then a hundred higher for each. All are
// below Linux' ephemeral range, so no outgoing connection holds them.
func ports(i int) (client, peer int) { return 2379 + 100*i, 2380 + 100*i }

func allPorts() []int {
	var all []int
	for i := range maxMembers {
		client, peer := ports(i)
		all = append(all, client, peer)
	}
	return all
}
