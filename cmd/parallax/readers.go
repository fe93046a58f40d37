package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-parallax/parallax/config"
	"github.com/etcd-parallax/parallax/shadow"
	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/follow"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/probe"
	"github.com/etcd-parallax/parallax/shadow/sweep"
)

// authInterval is between two comparisons of auth revisions, with --probe-auth.
const authInterval = 5 * time.Minute

// readers are all that reads members: the shadow, which follows what clients do, and what looks at the rest.
type readers struct {
	shadow *shadow.Shadow
	probe  *probe.Probe
	follow *follow.Follower
	sweep  *sweep.Sweep // nil with --sweep=false

	sweepBytes atomic.Int64 // a second, of each member
}

func (s *server) newReaders(registry prometheus.Registerer) *readers {
	r := new(readers)
	r.shadow = &shadow.Shadow{
		Members: s.members, Log: s.records, Metrics: shadow.NewMetrics(registry), Logger: s.log,
		LagBudget: s.cfg.LagBudget, QueueSize: s.cfg.ShadowQueue, VerifiedKeys: s.cfg.VerifiedKeys, VerifiedFor: s.cfg.VerifiedFor,
		Found: func(cluster uint64, key []byte, revision int64) { r.follow.Found(cluster, key, revision) },
		Doubt: func(refused bool) {
			if refused {
				r.probe.Now(probe.RefusedWrite)
			} else {
				r.probe.Now(probe.FutureRevision)
			}
		},
	}
	r.shadow.Init(rates(s.cfg))
	r.probe = &probe.Probe{
		Members: s.members, Log: s.records, Metrics: probe.NewMetrics(registry), Logger: s.log, Guard: r.shadow.Guard, Paused: r.shadow.Paused,
		Alarm: r.alarm,
	}
	if s.cfg.ProbeAuth {
		r.probe.AuthInterval = authInterval
	}
	followed := follow.NewMetrics(registry)
	r.follow = &follow.Follower{
		Members: s.members, Ask: r.shadow.Asker(follow.Budget, followed.Asked, followed.Answered), Log: s.records, Rules: s.openRules,
		Metrics: followed, Logger: s.log,
	}
	r.reload(s.cfg)
	if s.cfg.Sweep {
		r.sweep = &sweep.Sweep{
			Members: s.members,
			Ask: r.shadow.Asker(func() ask.Budget { return sweep.Budget(r.sweepBytes.Load()) },
				func(uint64, judge.Kind) {}, func(uint64, int) {}), // it counts by itself
			Report: func(e divergence.Evidence) {
				s.records.Confirm(e)
				r.follow.Found(e.Cluster, e.Key, e.Revision)
			},
			Yield: r.shadow.Yield, Metrics: sweep.NewMetrics(registry), Logger: s.log,
			Interval: s.cfg.SweepInterval, DataDir: s.cfg.DataDir, LagBudget: s.cfg.LagBudget,
		}
	}
	return r
}

// alarm is told of those that etcd raises. What one of its own checks calls corrupt is worth a look at all keys.
func (r *readers) alarm(_ uint64, kind string) {
	if kind == "CORRUPT" && r.sweep != nil {
		r.sweep.Start()
	}
}

// openRules names the rules of the open findings that are not about a key.
func (s *server) openRules(cluster uint64) (rules []string) {
	for _, f := range s.records.OpenCluster() {
		if f.Cluster == cluster && !slices.Contains(rules, f.Rule) {
			rules = append(rules, f.Rule)
		}
	}
	return rules
}

// reload takes over what may change while running.
func (r *readers) reload(cfg *config.Config) {
	r.shadow.SetRates(rates(cfg))
	r.sweepBytes.Store(cfg.SweepMaxBytesPerSecond)
}

// run until ctx ends, and only then.
func (r *readers) run(ctx context.Context) {
	all := []func(context.Context) error{r.shadow.Run, r.probe.Run, r.follow.Run}
	if r.sweep != nil {
		all = append(all, r.sweep.Run)
	}
	var running sync.WaitGroup
	for _, run := range all {
		running.Go(func() { _ = run(ctx) })
	}
	running.Wait()
}
