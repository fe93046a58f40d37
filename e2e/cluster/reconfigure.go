package cluster

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Add adds a voter, or a learner, of the given version ("" for that of the first
// member) and returns when it serves. Client does not learn its endpoint.
func (c *Cluster) Add(ctx context.Context, version string, learner bool) (*Member, error) {
	if version == "" {
		version = c.Members[0].Version
	}
	m, err := c.newMember(version)
	if err != nil {
		return nil, err
	}
	add := c.client.MemberAdd
	if learner {
		add = c.client.MemberAddAsLearner
	}
	// etcd refuses a new voter while members have been connected for less than
	// five seconds, so shortly after the start of the cluster this waits.
	err = poll(ctx, "the cluster to take member "+m.Name, func(ctx context.Context) error {
		_, err := add(ctx, []string{m.PeerURL})
		return unless(err, rpctypes.ErrPeerURLExist)
	})
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	initial := []string{m.Name + "=" + m.PeerURL}
	for _, other := range c.Members {
		initial = append(initial, other.Name+"="+other.PeerURL)
	}
	m.initialCluster, m.initialState = strings.Join(initial, ","), "existing"
	c.Members = append(c.Members, m)
	return m, m.Start(ctx)
}

// Promote makes a learner a voter, as soon as it has caught up.
func (c *Cluster) Promote(ctx context.Context, m *Member) error {
	return poll(ctx, "the promotion of "+m.Name, func(ctx context.Context) error {
		_, err := c.client.MemberPromote(ctx, m.ID)
		return unless(err, rpctypes.ErrMemberNotLearner)
	})
}

// Remove takes a member out of the cluster, ends it and removes its data.
func (c *Cluster) Remove(ctx context.Context, m *Member) error {
	err := poll(ctx, "the removal of "+m.Name, func(ctx context.Context) error {
		_, err := c.client.MemberRemove(ctx, m.ID)
		return unless(err, rpctypes.ErrMemberNotFound)
	})
	if err != nil {
		return err
	}
	if err := m.close(); err != nil {
		return err
	}
	c.Members = slices.DeleteFunc(c.Members, func(other *Member) bool { return other == m })
	return os.RemoveAll(m.DataDir)
}

// unless returns err, or nil when it says that an attempt before, whose answer
// was lost, did it.
func unless(err, done error) error {
	if errors.Is(err, done) {
		return nil
	}
	return err
}
