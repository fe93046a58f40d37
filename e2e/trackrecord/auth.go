package main

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/trackrecord/stage"
)

// etcd issue 11651: up to 3.4.7 changes of users and roles do not write down up
// to which entry the member has applied. After a restart it applies those that
// came after the last write of a key again, and its auth revision runs ahead.
// What is then proposed through another member bears an old auth revision, and
// is applied there, and not here. What is proposed here is applied everywhere.

const (
	maskedPrefix  = "/masked/"
	throughPrefix = "/through/"

	// keysThrough are written where the auth revision is ahead, masked elsewhere.
	keysThrough, keysMasked = 10, 5
)

// grantsThenRestart makes one member skip what clients write through the others.
// Then some write through it: its revision passes what it skipped, and the keys
// can be seen.
func grantsThenRestart(ctx context.Context, s *scene) error {
	stale := s.Cluster.Members[s.round%len(s.Cluster.Members)]
	others := s.Others(stale)
	if err := s.Serve(ctx, others...); err != nil {
		return err
	}
	if err := s.everyday(ctx, throughPrefix); err != nil {
		return err
	}
	s.rest()
	if err := aheadAfterRestart(ctx, s, others[0], stale); err != nil {
		return err
	}
	if err := s.Seen(ctx); err != nil {
		return err
	}
	if err := s.everyday(ctx, throughPrefix); err != nil {
		return err
	}
	s.visible(stale)
	if err := s.named(ctx); err != nil || s.control {
		return err
	}
	for i := range keysThrough {
		if _, err := s.Direct(stale).Put(ctx, fmt.Sprintf("%s%02d", throughPrefix, i), "v"); err != nil {
			return err
		}
	}
	return nil
}

// maskedRevision makes one member skip writes, and then pass transactions that
// fail on the others, until the revisions are equal again. Parallax comes after
// it, so that it never sees them apart.
func maskedRevision(ctx context.Context, s *scene) error {
	stale := s.Cluster.Members[s.round%len(s.Cluster.Members)]
	others := s.Others(stale)
	if err := putAll(ctx, s.Direct(others[0]), "old"); err != nil {
		return err
	}
	if err := aheadAfterRestart(ctx, s, others[0], stale); err != nil {
		return err
	}
	if err := putAll(ctx, s.Direct(others[0]), "new"); err != nil { // the stale member skips these
		return err
	}
	// The others' turn to apply grants twice: their auth revisions catch up.
	if err := aheadAfterRestart(ctx, s, others[0], others...); err != nil {
		return err
	}
	if err := passWhereStale(ctx, s, stale); err != nil {
		return err
	}
	if err := s.Serve(ctx, others...); err != nil {
		return err
	}
	s.visible(stale)
	if err := s.everyday(ctx, maskedPrefix); err != nil {
		return err
	}
	return s.named(ctx)
}

// aheadAfterRestart grants two permissions, which bears no key, and restarts members.
func aheadAfterRestart(ctx context.Context, s *scene, asked *cluster.Member, restarted ...*cluster.Member) error {
	c := s.Direct(asked)
	if len(restarted) == 1 {
		// A key between what was granted before and what is granted now: only that is applied twice.
		if _, err := c.Put(ctx, lastKey, "v"); err != nil {
			return err
		}
	}
	for _, granted := range []string{"/granted/a/", "/granted/b/"} {
		end := clientv3.GetPrefixRangeEnd(granted)
		if _, err := c.RoleGrantPermission(ctx, stage.Role, granted, end, clientv3.PermissionType(clientv3.PermRead)); err != nil {
			return err
		}
	}
	if err := s.Settled(ctx); err != nil {
		return err
	}
	for _, m := range restarted {
		if err := s.Restart(ctx, m); err != nil {
			return err
		}
		if err := s.Settled(ctx); err != nil {
			return err
		}
	}
	return nil
}

// passWhereStale sends transactions that compare with what only the stale
// member still holds, as many as it is behind.
func passWhereStale(ctx context.Context, s *scene, stale *cluster.Member) error {
	other := s.Others(stale)[0]
	truth, err := s.Truth(ctx, maskedPrefix)
	if err != nil {
		return err
	}
	behind := truth.Revisions[other.Name] - truth.Revisions[stale.Name]
	s.Trace("%s is %d revisions behind", stale.Name, behind)
	if !s.control && (behind < 1 || behind > keysMasked) {
		return fmt.Errorf("%w: %s is %d revisions behind, want 1 to %d", errNotReproduced, stale.Name, behind, keysMasked)
	}
	for i := range int(max(behind, 1)) {
		resp, err := s.Direct(other).Txn(ctx).If(clientv3.Compare(clientv3.Value(masked(i)), "=", "old")).Then(clientv3.OpPut(masked(i), "newer")).Commit()
		if err != nil {
			return err
		}
		if resp.Succeeded {
			return fmt.Errorf("%w: the transaction passed where it was to fail", errNotReproduced)
		}
	}
	if err := s.Settled(ctx); err != nil {
		return err
	}
	if truth, err = s.Truth(ctx, maskedPrefix); err != nil {
		return err
	}
	for name, at := range truth.Revisions {
		if at != truth.At {
			return fmt.Errorf("%w: the revision of %s is not masked, the members are at %v", errNotReproduced, name, truth.Revisions)
		}
	}
	s.Trace("all are at revision %d, and differ on %v", truth.At, truth.Names())
	return nil
}

func putAll(ctx context.Context, c *clientv3.Client, value string) error {
	for i := range keysMasked {
		if _, err := c.Put(ctx, masked(i), value); err != nil {
			return err
		}
	}
	return nil
}

func masked(i int) string { return fmt.Sprintf("%s%02d", maskedPrefix, i) }
