package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/etcd-parallax/parallax/e2e/bench/load"
	"github.com/etcd-parallax/parallax/e2e/bench/osstat"
	"github.com/etcd-parallax/parallax/e2e/bench/report"
	"github.com/etcd-parallax/parallax/e2e/bench/rows"
)

// idleRound measures the memory that connections cost on which nothing happens.
func (s *stage) idleRound(ctx context.Context, present []rows.Row, round int) error {
	begun := time.Now()
	for position, i := range rand.Perm(len(present)) {
		row := present[i]
		if row.IsDirect() {
			continue
		}
		sample, err := s.idle(ctx, row)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			sample.Error = err.Error()
			s.say("%s, %s: %s", row.Name, report.IdleWorkload, sample.Error)
		}
		sample.Mode, sample.Workload, sample.Row = s.mode, report.IdleWorkload, row.Name
		sample.Round, sample.Position = round, position
		s.report.Samples = append(s.report.Samples, sample)
	}
	s.say("%s: idle connections, round %d of %d, took %v", s.mode, round+1, s.idleRounds(), time.Since(begun).Round(100*time.Millisecond))
	return nil
}

// idle measures one row, in a process that has done nothing else but answer a few requests.
func (s *stage) idle(ctx context.Context, row rows.Row) (sample report.Sample, err error) {
	run, err := row.Start(ctx, s.site)
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, run.Alive(), run.Stop()) }()
	few, err := load.OpenIdle(ctx, run.Addr, s.tls, fewConnections)
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, few.Close()) }()
	if sample.RSSBefore, err = s.settled(ctx, run.PIDs); err != nil {
		return sample, err
	}
	many, err := load.OpenIdle(ctx, run.Addr, s.tls, s.idleConnections())
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, many.Close()) }()
	sample.Connections = s.idleConnections()
	sample.RSSAfter, err = s.settled(ctx, run.PIDs)
	return sample, err
}

// fewConnections are there before the others: the code that serves a connection is loaded, too.
const fewConnections = 4

const (
	settleStep  = 200 * time.Millisecond
	settleSteps = 3 // that RSS must stay within 1 %
	settleLimit = 4 * time.Second
)

// settled returns the resident memory when it does not move any more.
func (s *stage) settled(ctx context.Context, pids []int) (int64, error) {
	ticker := time.NewTicker(settleStep)
	defer ticker.Stop()
	calm, last := 0, int64(0)
	for end := time.Now().Add(settleLimit); ; {
		memory, err := osstat.ReadMemory(pids...)
		if err != nil {
			return 0, err
		}
		if moved := memory.RSS - last; max(moved, -moved) < memory.RSS/100 {
			calm++
		} else {
			calm, last = 0, memory.RSS
		}
		if calm == settleSteps || s.quick || time.Now().After(end) {
			return memory.RSS, nil
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
