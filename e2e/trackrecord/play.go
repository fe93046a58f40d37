package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/trackrecord/stage"
)

// rowTimeout bounds a row, or its control, from the start of its members to their end.
const rowTimeout = 90 * time.Second

// player plays rows.
type player struct {
	options
	mu      sync.Mutex
	results results
}

// outcome of one round of a row or a control.
type outcome struct {
	sightings []sighting
	took      time.Duration
	err       error
}

// results are the outcomes of all rounds, by row.name and row.controlName.
type results map[string][]outcome

// play plays all rows and their controls, each as often as there are rounds.
func (p *player) play(ctx context.Context, rows []row) error {
	if err := p.build(ctx, rows); err != nil {
		return err
	}
	p.results = make(results)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.parallel)
	for round := range p.rounds {
		played := make(map[string]bool) // controls that rows share
		for _, r := range rows {
			group.Go(func() error { return p.once(ctx, r, round, false) })
			if name := r.controlName(); name != "" && !played[name] {
				played[name] = true
				group.Go(func() error { return p.once(ctx, r, round, true) })
			}
		}
	}
	return group.Wait()
}

// build builds what is not there yet: it would otherwise count as time of a row.
func (p *player) build(ctx context.Context, rows []row) (err error) {
	var shown time.Duration
	builder := binary.Builder{Progress: func(b binary.Progress) {
		if b.Elapsed < shown { // the next build
			shown = 0
		}
		if b.Done || shown == 0 || b.Elapsed-shown >= 10*time.Second {
			p.say("%v", b)
			shown = max(b.Elapsed, 1)
		}
	}}
	for _, r := range rows {
		for _, version := range []string{r.version, cmp.Or(r.control, r.version)} {
			if _, err := builder.Etcd(ctx, version); err != nil {
				return err
			}
		}
	}
	if p.parallax == "" {
		p.parallax, err = builder.Parallax(ctx, false)
	}
	return err
}

// once plays a row, or its control, on members of its own. Only the end of all
// is an error: a row that failed is a result.
func (p *player) once(ctx context.Context, r row, round int, control bool) error {
	name := r.name()
	if control {
		name, r.version = r.controlName(), r.control
	}
	begin := time.Now()
	var o outcome
	o.sightings, o.err = p.scene(ctx, name, r, round, control)
	o.took = time.Since(begin)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.mu.Lock()
	p.results[name] = append(p.results[name], o)
	p.mu.Unlock()
	p.say("%-28s round %d: %s", name, round+1, o.text(control))
	return nil
}

func (p *player) scene(ctx context.Context, name string, r row, round int, control bool) (_ []sighting, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, rowTimeout, fmt.Errorf("not done within %v", rowTimeout))
	defer cancel()
	opts := stage.Options{Version: r.version, Auth: r.auth, Parallax: p.parallax}
	if p.verbose {
		begin := time.Now()
		opts.Trace = func(format string, args ...any) {
			p.say("%-28s %6.2fs %s", name, time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
		}
	}
	st, err := stage.New(ctx, opts)
	defer func() { err = errors.Join(err, st.Close()) }()
	if err != nil {
		return nil, err
	}
	s := &scene{Stage: st, row: r, round: round, control: control}
	if err = r.play(ctx, s); err == nil && !control {
		err = s.checked(ctx, true)
	}
	if err == nil && !control {
		err = s.strays(s.Parallax.Records())
	}
	if err == nil && p.strict {
		err = late(s.sightings)
	}
	if err = errors.Join(err, s.unfound); err != nil {
		err = p.withLog(s, err)
	}
	return s.sightings, err
}

// withLog adds what Parallax and the members logged last, where every step is told.
func (p *player) withLog(s *scene, err error) error {
	if !p.verbose {
		return err
	}
	if s.Parallax != nil {
		err = fmt.Errorf("%w\nparallax said:\n%s\n%s", err, s.Parallax.Log(), s.checks())
		for _, r := range s.Parallax.Records() {
			err = fmt.Errorf("%w\n%s", err, r.Raw)
		}
	}
	for _, m := range s.Cluster.Members {
		err = fmt.Errorf("%w\n%s said last:\n%s", err, m.Name, cluster.Tail(m.Log, 10))
	}
	return err
}

// checks are the verdicts of Parallax so far, and why it made none.
func (s *scene) checks() string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	samples, err := s.Parallax.Metrics(ctx)
	if err != nil {
		return err.Error()
	}
	var lines []string
	for name, value := range samples {
		if strings.HasPrefix(name, "parallax_") && strings.Contains(name, "_total{") && !strings.HasPrefix(name, "parallax_proxy_") && value != 0 {
			lines = append(lines, fmt.Sprintf("%s %v", name, value))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (p *player) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
