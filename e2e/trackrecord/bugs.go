package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/fault"
	"github.com/etcd-parallax/parallax/e2e/trackrecord/stage"
)

const (
	txnPrefix = "/18667/"
	txnGet    = txnPrefix + "get"
	txnPut    = txnPrefix + "put"

	stressPrefix = "/stress/"
)

// txnUnderLoad sends the transaction of etcd issue 18667 through Parallax,
// while other clients write. The member that serves it misses the put.
func txnUnderLoad(ctx context.Context, s *scene) error {
	m := s.Cluster.Members[s.round%len(s.Cluster.Members)]
	if err := s.put(ctx, txnGet); err != nil {
		return err
	}
	if err := s.Serve(ctx, m); err != nil {
		return err
	}
	if err := s.everyday(ctx, txnPrefix); err != nil {
		return err
	}
	if err := s.load.Works(ctx, 20); err != nil {
		return err
	}
	if err := fault.Txn18667(ctx, s.Client, txnGet, txnPut, "v"); err != nil {
		return err
	}
	s.visible(m)
	if err := s.Settled(ctx); err != nil {
		return err
	}
	return s.named(ctx)
}

// txnThenIdle sends it past Parallax, which is started later and sees nobody write.
func txnThenIdle(ctx context.Context, s *scene) error {
	m := s.Cluster.Members[s.round%len(s.Cluster.Members)]
	if err := s.put(ctx, txnGet); err != nil {
		return err
	}
	if err := fault.Txn18667(ctx, s.Direct(m), txnGet, txnPut, "v"); err != nil {
		return err
	}
	if err := s.Settled(ctx); err != nil {
		return err
	}
	if err := s.Observe(ctx); err != nil {
		return err
	}
	s.visible(m)
	return s.named(ctx)
}

// killInDefrag is etcd issue 14685: before a defragmentation, 3.5.5 writes down
// what was applied, and not up to which entry. A member that is killed then
// applies those entries again.
func killInDefrag(ctx context.Context, s *scene) error {
	m := s.Cluster.Members[2]
	if err := fill(ctx, s.Direct(m)); err != nil {
		return err
	}
	if err := s.Serve(ctx, s.Others(m)...); err != nil {
		return err
	}
	if err := s.everyday(ctx, stressPrefix); err != nil {
		return err
	}
	// It takes entries that were applied since the last commit, at most 100 ms ago.
	const attempts = 6
	for attempt := range attempts {
		if err := killOnce(ctx, s, m); err != nil {
			return err
		}
		truth, err := s.Truth(ctx, stressPrefix)
		if err != nil {
			return err
		}
		s.Trace("attempt %d: the members are at %v", attempt+1, truth.Revisions)
		if truth.Revisions[m.Name] == truth.At && !s.control {
			continue
		}
		if err := s.Seen(ctx); err != nil {
			return err
		}
		if err := s.everyday(ctx, stressPrefix); err != nil {
			return err
		}
		return s.named(ctx)
	}
	return fmt.Errorf("%w: the revision of %s is right after %d kills", errNotReproduced, m.Name, attempts)
}

// killOnce kills a member in the middle of a defragmentation, under load, and
// starts it again. Nobody writes when it returns.
func killOnce(ctx context.Context, s *scene, m *cluster.Member) error {
	stress := s.Start(ctx, &stage.Load{Client: s.Direct(s.Others(m)[0]), Prefix: stressPrefix, Keys: 5, Writers: 4})
	defer stress.Stop()
	if err := stress.Works(ctx, 200); err != nil {
		return err
	}
	calling, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Its error says that the member is gone, and otherwise the revisions will tell.
		_, _ = pb.NewMaintenanceClient(s.Direct(m).ActiveConnection()).Defragment(calling, &pb.DefragmentRequest{})
	}()
	err := copying(ctx, filepath.Dir(m.DB()), done)
	err = errors.Join(err, m.Kill())
	cancel()
	<-done
	stress.Stop()
	s.rest()
	if err != nil {
		return err
	}
	if err := m.Start(ctx); err != nil {
		return err
	}
	s.visible(m)
	return s.Settled(ctx)
}

// copying returns when a defragmentation has written a part of the new
// database, or when it is over: then this attempt was too late, which the
// revisions will tell.
func copying(ctx context.Context, dir string, done <-chan struct{}) error {
	const some = 64 << 10 // more than an empty database
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		copies, err := filepath.Glob(filepath.Join(dir, "db.tmp.*"))
		if err != nil {
			return err
		}
		for _, path := range copies {
			if info, err := os.Stat(path); err == nil && info.Size() > some {
				return nil
			}
		}
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// fill makes a database whose defragmentation takes a moment: it writes the copy
// down every 10,000 keys.
func fill(ctx context.Context, c *clientv3.Client) error {
	const txns, ops = 320, 100 // etcd takes 128 operations
	value := strings.Repeat("x", 100)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range txns {
		group.Go(func() error {
			var puts []clientv3.Op
			for j := range ops {
				puts = append(puts, clientv3.OpPut(fmt.Sprintf("/fill/%03d/%02d", i, j), value))
			}
			_, err := c.Txn(ctx).Then(puts...).Commit()
			return err
		})
	}
	return group.Wait()
}
