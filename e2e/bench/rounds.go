package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/etcd-parallax/parallax/e2e/bench/load"
	"github.com/etcd-parallax/parallax/e2e/bench/osstat"
	"github.com/etcd-parallax/parallax/e2e/bench/report"
	"github.com/etcd-parallax/parallax/e2e/bench/rows"
)

// contender is a row that runs, with the clients in front of it.
type contender struct {
	rows.Row
	*rows.Running
	clients *load.Client
}

// try is a row under a workload, tally how that went so far.
type (
	try   struct{ workload, row string }
	tally struct{ good, broke int }
)

// round measures every workload of every row once. Rows follow each other
// closely, so that what the machine does meanwhile meets all of them.
func (s *stage) round(ctx context.Context, present []rows.Row, round int, tries map[try]*tally) (err error) {
	for _, m := range []*members{s.one, s.three} {
		if m == nil {
			continue
		}
		if err := m.direct.Compact(ctx); err != nil {
			return err
		}
	}
	contenders := s.startAll(ctx, present)
	defer func() { err = errors.Join(err, stopAll(contenders)) }()
	for _, w := range s.wantedWorkloads() {
		if w.Sparse && round%sparse != 0 {
			continue
		}
		for position, i := range rand.Perm(len(contenders)) {
			c := contenders[i]
			outcome := tries[try{w.Name, c.Name}]
			if outcome == nil {
				outcome = &tally{}
				tries[try{w.Name, c.Name}] = outcome
			}
			if outcome.broke > 1 && outcome.good == 0 {
				continue // it does not get better, and costs time
			}
			sample := s.measure(ctx, c, w)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			sample.Round, sample.Position = round, position
			if sample.Error != "" {
				outcome.broke++
				s.say("%s, %s: %s", c.Name, w.Name, sample.Error)
			} else {
				outcome.good++
			}
			s.report.Samples = append(s.report.Samples, sample)
		}
	}
	return nil
}

// startAll starts the rows side by side, and leaves out, and says so, those that do not run.
func (s *stage) startAll(ctx context.Context, present []rows.Row) []*contender {
	all := make([]*contender, len(present))
	var group errgroup.Group
	group.SetLimit(2)
	for i, row := range present {
		group.Go(func() error {
			c, err := s.start(ctx, row)
			if err != nil {
				s.skip(row.Name, s.mode, err)
				return nil
			}
			all[i] = c
			return nil
		})
	}
	_ = group.Wait() // nothing returns an error
	return slices.DeleteFunc(all, func(c *contender) bool { return c == nil })
}

func (s *stage) start(ctx context.Context, row rows.Row) (*contender, error) {
	run, err := row.Start(ctx, s.site)
	if err != nil {
		return nil, err
	}
	clients, err := load.Open(ctx, run.Addr, s.tls, load.Conns)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w, it said:\n%s", err, run.Log()), run.Stop())
	}
	return &contender{Row: row, Running: run, clients: clients}, nil
}

// usable returns the rows that start and pass a request on: it is known now, and not after minutes.
func (s *stage) usable(ctx context.Context, wanted []rows.Row) (usable []rows.Row, err error) {
	contenders := s.startAll(ctx, wanted)
	for _, c := range contenders {
		usable = append(usable, c.Row)
	}
	return usable, errors.Join(stopAll(contenders), context.Cause(ctx))
}

func stopAll(all []*contender) error {
	var group errgroup.Group
	for _, c := range all {
		group.Go(func() error { return errors.Join(c.clients.Close(), c.Stop()) })
	}
	return group.Wait()
}

// measure never fails: an error belongs to the row, and is in the sample.
func (s *stage) measure(ctx context.Context, c *contender, w load.Workload) report.Sample {
	m := &meter{proxy: c.PIDs, members: s.behind(c.Row).pids, settle: c.Queues, ctx: ctx}
	result, err := w.Run(ctx, c.clients, s.behind(c.Row).direct, m)
	sample := report.Sample{
		Mode: s.mode, Workload: w.Name, Row: c.Name, Requests: result.Requests, Seconds: result.Elapsed.Seconds(),
		ProxySeconds: m.proxySpent.Seconds(), MemberSeconds: m.memberSpent.Seconds(), PeakRSS: m.peak,
		P50: micro(result.P50), P99: micro(result.P99),
	}
	if err := errors.Join(err, c.Alive()); err != nil {
		sample.Error = err.Error()
	}
	return sample
}

func micro(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// meter reads the counters of the kernel at both ends of a measurement.
type meter struct {
	ctx            context.Context
	proxy, members []int
	settle         bool // what is queued counts, too

	proxySpent, memberSpent time.Duration
	peak                    int64
}

// Start notes where the counters stand.
func (m *meter) Start() (err error) {
	if err := osstat.ResetPeak(m.proxy...); err != nil {
		return err
	}
	if m.memberSpent, err = osstat.CPU(m.members...); err != nil {
		return err
	}
	m.proxySpent, err = osstat.CPU(m.proxy...)
	return err
}

// Stop makes the fields what was spent since Start.
func (m *meter) Stop() error {
	if m.settle {
		if err := quiet(m.ctx, m.proxy); err != nil {
			return err
		}
	}
	proxy, err := osstat.CPU(m.proxy...)
	if err != nil {
		return err
	}
	members, err := osstat.CPU(m.members...)
	if err != nil {
		return err
	}
	m.proxySpent, m.memberSpent = proxy-m.proxySpent, members-m.memberSpent
	memory, err := osstat.ReadMemory(m.proxy...)
	m.peak = memory.Peak
	return err
}

const (
	// quietStep is how long a process is watched, quietShare of a core is what it may use then.
	quietStep  = 50 * time.Millisecond
	quietShare = 0.02
	quietLimit = 5 * time.Second
)

// quiet returns when the processes have done what they had put off, or seem never to.
func quiet(ctx context.Context, pids []int) error {
	ticker := time.NewTicker(quietStep)
	defer ticker.Stop()
	last, err := osstat.CPU(pids...)
	for end := time.Now().Add(quietLimit); err == nil && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		var now time.Duration
		now, err = osstat.CPU(pids...)
		if now-last < time.Duration(quietShare*float64(quietStep)) {
			return err
		}
		last = now
	}
	return err
}
