package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// Truth is what the members really hold, asked directly: Parallax is judged by it.
type Truth struct {
	// Revisions of the members, by name.
	Revisions map[string]int64

	// At is the lowest of them, at which all were asked.
	At int64

	// Keys that differ there in more than create and mod revision, and the
	// member that differs from the two others; "" when all three differ.
	Keys map[string]string
}

// Names are the keys, sorted.
func (t Truth) Names() []string {
	var names []string
	for key := range t.Keys {
		names = append(names, key)
	}
	slices.Sort(names)
	return names
}

// Truth asks every member for the keys below a prefix.
func (s *Stage) Truth(ctx context.Context, prefix string) (Truth, error) {
	t := Truth{Revisions: make(map[string]int64), Keys: make(map[string]string)}
	for _, m := range s.Cluster.Members {
		// What it holds there does not matter: the header tells its revision.
		resp, err := s.direct[m].Get(ctx, prefix, clientv3.WithSerializable())
		if err != nil {
			return t, fmt.Errorf("ask %s: %w", m.Name, err)
		}
		revision := resp.Header.Revision
		t.Revisions[m.Name] = revision
		if t.At == 0 || revision < t.At {
			t.At = revision
		}
	}
	held := make(map[string]map[string]string) // key → member → what it holds
	for _, m := range s.Cluster.Members {
		resp, err := s.direct[m].Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithSerializable(), clientv3.WithRev(t.At))
		if err != nil {
			return t, fmt.Errorf("ask %s at revision %d: %w", m.Name, t.At, err)
		}
		for _, kv := range resp.Kvs {
			if held[string(kv.Key)] == nil {
				held[string(kv.Key)] = make(map[string]string)
			}
			held[string(kv.Key)][m.Name] = content(kv)
		}
	}
	for key, by := range held {
		if odd, differ := s.odd(by); differ {
			t.Keys[key] = odd
		}
	}
	return t, nil
}

// Differing is Truth as soon as a key below the prefix differs: a member that is
// behind answers at a revision before it, until clients have written more.
func (s *Stage) Differing(ctx context.Context, prefix string) (t Truth, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err = until(ctx, "keys to differ below "+prefix, func(ctx context.Context) error {
		if t, err = s.Truth(ctx, prefix); err != nil {
			return err
		}
		if len(t.Keys) == 0 {
			return fmt.Errorf("none does at revision %d, the members are at %v", t.At, t.Revisions)
		}
		return nil
	})
	return t, err
}

func content(kv *mvccpb.KeyValue) string {
	return fmt.Sprintf("version %d, lease %x, value %s", kv.Version, kv.Lease, kv.Value)
}

// odd returns the one of three members that holds something else than the others.
func (s *Stage) odd(by map[string]string) (name string, differ bool) {
	same := func(a, b *cluster.Member) bool { return by[a.Name] == by[b.Name] }
	for _, m := range s.Cluster.Members {
		others := s.Others(m)
		if same(others[0], others[1]) && !same(m, others[0]) {
			return m.Name, true
		}
	}
	return "", !same(s.Cluster.Members[0], s.Cluster.Members[1])
}

// Settled returns when every member has applied what was committed when it was
// called: each answers a linearizable read.
func (s *Stage) Settled(ctx context.Context) error {
	return until(ctx, "every member to apply what is committed", func(ctx context.Context) error {
		var errs []error
		for _, m := range s.Cluster.Members {
			_, err := s.direct[m].Get(ctx, LoadPrefix)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}
