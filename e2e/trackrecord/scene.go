package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
	"github.com/etcd-parallax/parallax/e2e/trackrecord/stage"
)

// patience is for how long a record is waited for beyond its bar: late is not
// missed, and the table says how late.
const patience = 20 * time.Second

// errNotReproduced: the members do not differ as they should, which says
// nothing about Parallax.
var errNotReproduced = errors.New("not reproduced")

// scene is a row, or its control, while it is played.
type scene struct {
	*stage.Stage
	row     row
	control bool
	round   int // from 0

	load, lists *stage.Load
	puts        int

	off   *cluster.Member // the member that differs
	since time.Time       // when what differs could first be seen

	leased clientv3.LeaseID // of leasedPrefix

	sightings []sighting
	unfound   error // what `parallax check` did not find, or found where nothing is
}

// sighting is a record that was wanted, and came.
type sighting struct {
	kind, rule string
	keys       []string
	named      string // the member that differs, or both sides where nobody is named
	after      time.Duration
	bar        time.Duration
}

// lease is the id of the lease, as records have it.
func (s *scene) lease() string { return strconv.FormatInt(int64(s.leased), 16) }

// everyday lets clients write through Parallax, and list the prefix. What
// differs without a drift can be seen from the first list on.
func (s *scene) everyday(ctx context.Context, prefix string) error {
	s.load = s.Everyday(ctx)
	if err := s.Asked(ctx); err != nil {
		return err
	}
	if s.off != nil && !s.row.drift {
		s.visible(s.off)
	}
	s.lists = s.Start(ctx, &stage.Load{Client: s.Client, List: prefix})
	return s.lists.Works(ctx, 1)
}

// rest stops the clients.
func (s *scene) rest() {
	for _, l := range []*stage.Load{s.load, s.lists} {
		if l != nil {
			l.Stop()
		}
	}
}

// put writes keys with the cluster's own client, each time another value.
func (s *scene) put(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		s.puts++
		if _, err := s.Cluster.Put(ctx, key, fmt.Sprint("value ", s.puts)); err != nil {
			return err
		}
	}
	return nil
}

// visible notes that from now on it can be seen that this member differs.
func (s *scene) visible(m *cluster.Member) {
	s.off, s.since = m, time.Now()
	s.Trace("from now on it can be seen that %s differs", m.Name)
}

// named waits for every record that the row wants. In a control it is silent instead.
func (s *scene) named(ctx context.Context) error {
	if s.control {
		return s.silent(ctx)
	}
	var errs []error
	for _, w := range s.row.want {
		subjects, err := s.subjects(ctx, w)
		if err != nil {
			return err
		}
		if err := s.see(ctx, w, subjects); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// subjects are what the records are to be about: keys, or what the play says.
func (s *scene) subjects(ctx context.Context, w want) ([]string, error) {
	switch {
	case w.kind == "lease":
		return []string{s.lease()}, nil
	case w.keys == "":
		return []string{""}, nil
	}
	truth, err := s.Differing(ctx, w.keys)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotReproduced, err)
	}
	for key, odd := range truth.Keys {
		if odd != s.off.Name {
			return nil, fmt.Errorf("%w: %s differs on %q, and not on %s", errNotReproduced, key, odd, s.off.Name)
		}
	}
	return truth.Names(), nil
}

// see waits until each subject has its record.
func (s *scene) see(ctx context.Context, w want, subjects []string) error {
	deadline := s.since.Add(w.within + patience)
	if soon := time.Now().Add(time.Second); deadline.Before(soon) {
		deadline = soon
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	seen := sighting{kind: w.kind, bar: w.within}
	for _, subject := range subjects {
		line, err := s.Parallax.WaitRecord(ctx, func(r parallax.Record) bool { return w.met(read(r), subject, s.off.Name) })
		if err != nil {
			return fmt.Errorf("missed: %s, %w; %s", w.text(subject, s.off.Name), err, s.said(w, subject))
		}
		r := read(line)
		if w.keys != "" {
			seen.keys = append(seen.keys, subject)
		}
		seen.rule, seen.named = r.Rule, r.whom()
		seen.after = max(seen.after, line.At.Sub(s.since))
	}
	s.sightings = append(s.sightings, seen)
	return nil
}

// said are the records of the same kind, of which none was right.
func (s *scene) said(w want, subject string) string {
	var lines []string
	for _, line := range s.Parallax.Records() {
		if r := read(line); r.Kind == w.kind && (w.keys == "" || r.Key == subject) {
			lines = append(lines, string(line.Raw))
		}
	}
	if len(lines) == 0 {
		return fmt.Sprintf("nothing of the kind was said, in %d records", len(s.Parallax.Records()))
	}
	return "what was said: " + strings.Join(lines[:min(3, len(lines))], "\n")
}

// silent watches a control: no record at all, and nothing that `parallax check` finds.
func (s *scene) silent(ctx context.Context) error {
	watched, cancel := context.WithTimeout(ctx, s.row.quiet)
	defer cancel()
	r, err := s.Parallax.WaitRecord(watched, func(parallax.Record) bool { return true })
	switch {
	case err == nil:
		return fmt.Errorf("the control is accused: %s", r.Raw)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return s.checked(ctx, false)
}

// checked lets `parallax check` find the same, with its keys; in a control,
// nothing. Nobody writes meanwhile, so that it sees what we see. What it misses
// does not end the play: the records are another matter.
func (s *scene) checked(ctx context.Context, differs bool) error {
	if s.row.check == "" {
		return nil
	}
	s.rest()
	if err := s.Settled(ctx); err != nil {
		return err
	}
	truth, err := s.Truth(ctx, s.row.check)
	if err != nil {
		return err
	}
	want := 0
	if differs {
		want = 1
	}
	c, err := s.Check(ctx)
	if err != nil {
		return err
	}
	if c.ExitCode != want {
		s.unfound = errors.Join(s.unfound, fmt.Errorf("wrong: parallax check ended with %d, want %d: %s", c.ExitCode, want, c.Said))
		return nil
	}
	for _, key := range truth.Names() {
		if !slices.Contains(c.Keys, key) {
			s.unfound = errors.Join(s.unfound, fmt.Errorf("missed: parallax check does not name %s: %s", key, c.Said))
		}
	}
	return nil
}
