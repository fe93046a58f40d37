package main

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/fault"
)

// Keys of the injections. Where clients list a prefix, all that differs below it is to be named.
const (
	editedPrefix   = "/edited/"
	editedKey      = editedPrefix + "key"
	droppedPrefix  = "/dropped/"
	skippedPrefix  = "/skipped/"
	repeatedPrefix = "/repeated/"
	leasedPrefix   = "/leased/"

	// lastKey is written last before a member stops, where its newest record is not to be touched.
	lastKey = "/last"
)

// shift is by how many entries the consistent index is moved, and twice as many keys are written there.
const shift = 5

// leaseTTL is longer than any row, in seconds: no lease ends by itself.
const leaseTTL = 600

// injection is an edit of one stopped member's database, with what is done
// around it; docs/detection.md has them in its last part.
type injection struct {
	before     func(context.Context, *scene) error // the last writes before the member stops
	edit       func(s *scene, db string) error
	meanwhile  func(context.Context, *scene, *clientv3.Client) error // while it is stopped, through another member
	afterwards func(context.Context, *scene, *clientv3.Client) error // when it is back
	read       string                                                // prefix that clients list
}

// injections are the stories: each has its control within it, the same steps
// without the edit.
func injections() []story {
	edit := func(id, how, field string, before func(context.Context, *scene) error, edit func(db, key string) error) story {
		in := injection{before: before, read: editedPrefix, edit: func(_ *scene, db string) error { return edit(db, editedKey) }}
		return story{id: id, how: how, play: in.play, quiet: quietBriefly, check: editedPrefix, want: []want{key(editedPrefix, field)}}
	}
	drift := func(id, how string, in injection) story {
		return story{id: id, how: how, play: in.play, quiet: revisionBar, check: in.read, drift: true,
			want: []want{revision(revisionBar), drifted(in.read)}}
	}
	all := []story{
		edit("value", "a record's value changed", "value", written, func(db, key string) error { return fault.ChangeValue(db, key, "other") }),
		edit("records", "all records of a key deleted", "present", written, fault.DeleteKey),
		edit("ghost", "a key added that nobody wrote", "present", writeLast, func(db, key string) error { return fault.GhostKey(db, key, "boo") }),
		edit("tombstone", "a deletion removed", "present", deleted, fault.DeleteTombstone),
		drift("newest", "the newest record deleted", injection{
			before: func(ctx context.Context, s *scene) error { return s.put(ctx, droppedPrefix+"key") },
			edit: func(_ *scene, db string) error {
				_, err := fault.DropNewest(db)
				return err
			},
			read: droppedPrefix,
		}),
		drift("index-ahead", fmt.Sprintf("consistent_index +%d while stopped: entries skipped, as in etcd issue 13766", shift), injection{
			before: writeLast, edit: func(_ *scene, db string) error { return shiftIndex(db, shift) },
			meanwhile: func(ctx context.Context, _ *scene, c *clientv3.Client) error { return putMany(ctx, c, skippedPrefix) },
			read:      skippedPrefix,
		}),
		drift("index-back", fmt.Sprintf("consistent_index −%d: entries applied twice, as in etcd issue 14685", shift), injection{
			before: func(ctx context.Context, s *scene) error {
				return putMany(ctx, s.Direct(s.Cluster.Members[0]), repeatedPrefix)
			},
			edit: func(_ *scene, db string) error { return shiftIndex(db, -shift) }, read: repeatedPrefix,
		}),
	}
	return append(all, leaseInjections()...)
}

func leaseInjections() []story {
	lost := injection{
		before: leased, read: leasedPrefix,
		edit: func(s *scene, db string) error { return fault.DeleteLease(db, int64(s.leased)) },
	}
	revoked := lost
	revoked.afterwards = func(ctx context.Context, s *scene, c *clientv3.Client) error {
		_, err := c.Revoke(ctx, s.leased)
		return err
	}
	return []story{
		{
			id: "lease", how: "a lease deleted: its key is there, and no longer ends with it", play: lost.play, quiet: revisionBar,
			want: []want{{kind: "lease", rules: []string{"LEASE"}, within: leaseBar}},
		},
		{
			id: "lease-revoked", how: "a lease deleted, and then revoked by a client: its key stays there", play: revoked.play,
			quiet: revisionBar, check: leasedPrefix, drift: true, besides: []string{"lease"},
			want: []want{key(leasedPrefix, "present"), revision(revisionBar)},
		},
	}
}

// play is the control, and then the same with the edit. Each round edits another
// member, the leader among them.
func (in injection) play(ctx context.Context, s *scene) error {
	m := s.Cluster.Members[s.round%len(s.Cluster.Members)]
	// Neighbors: a list that is empty would not be followed, and what nobody
	// should see lies between them.
	if err := s.put(ctx, in.read+"a", in.read+"z"); err != nil {
		return err
	}
	if err := s.Serve(ctx); err != nil {
		return err
	}
	if err := s.everyday(ctx, in.read); err != nil {
		return err
	}
	if err := in.restart(ctx, s, m, false); err != nil {
		return err
	}
	if err := s.silent(ctx); err != nil {
		return err
	}
	if err := in.restart(ctx, s, m, true); err != nil {
		return err
	}
	return s.named(ctx)
}

// restart stops a member, edits it, and starts it again.
func (in injection) restart(ctx context.Context, s *scene, m *cluster.Member, edit bool) error {
	s.rest()
	if err := in.before(ctx, s); err != nil {
		return err
	}
	if err := s.Settled(ctx); err != nil {
		return err
	}
	if err := m.Stop(); err != nil {
		return err
	}
	if edit {
		if err := in.edit(s, m.DB()); err != nil {
			return err
		}
	}
	other := s.Direct(s.Others(m)[0])
	if in.meanwhile != nil {
		if err := in.meanwhile(ctx, s, other); err != nil {
			return err
		}
	}
	if err := m.Start(ctx); err != nil {
		return err
	}
	if err := s.Settled(ctx); err != nil {
		return err
	}
	if in.afterwards != nil {
		if err := in.afterwards(ctx, s, other); err != nil {
			return err
		}
	}
	if err := s.Seen(ctx); err != nil {
		return err
	}
	s.visible(m)
	return s.everyday(ctx, in.read)
}

func written(ctx context.Context, s *scene) error { return s.put(ctx, editedKey, lastKey) }

func writeLast(ctx context.Context, s *scene) error { return s.put(ctx, lastKey) }

func deleted(ctx context.Context, s *scene) error {
	if err := s.put(ctx, editedKey); err != nil {
		return err
	}
	if _, err := s.Cluster.Client().Delete(ctx, editedKey); err != nil {
		return err
	}
	return writeLast(ctx, s)
}

func leased(ctx context.Context, s *scene) error {
	c := s.Cluster.Client()
	grant, err := c.Grant(ctx, leaseTTL)
	if err != nil {
		return err
	}
	s.leased = grant.ID
	if _, err := c.Put(ctx, leasedPrefix+"key", "v", clientv3.WithLease(grant.ID)); err != nil {
		return err
	}
	return writeLast(ctx, s)
}

func shiftIndex(db string, n int64) error {
	_, err := fault.ShiftConsistentIndex(db, n)
	return err
}

// putMany writes twice as many keys as an index is shifted by: an election may be among the entries.
func putMany(ctx context.Context, c *clientv3.Client, prefix string) error {
	for i := range 2 * shift {
		if _, err := c.Put(ctx, fmt.Sprintf("%s%02d", prefix, i), "v"); err != nil {
			return err
		}
	}
	return nil
}
