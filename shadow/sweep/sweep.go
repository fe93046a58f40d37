// Package sweep compares the whole key space of all members, ascending, page by
// page, each page at one revision that all of them can answer. What it holds does
// not grow with the key space. It walks no more of a member's index than a page
// needs, goes as slowly as its interval allows, and waits when a member is away,
// behind, slow or alarmed.
package sweep

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// Sweep of one cluster. Its fields are set before Run or Once, and not changed after.
type Sweep struct {
	Members *member.Set
	Ask     *ask.Asker                // its own; the Poison is shared with all who read
	Report  func(divergence.Evidence) // told of every key that is proved to differ
	// Yield returns when nothing more urgent is to be asked. nil: at once.
	Yield func(context.Context)
	// Hold says why members are not to be read now (an alarm); "" is no reason. nil: there is none.
	Hold     func() string
	Progress func(Progress) // told after every page and stall, must be quick; nil: nobody is
	Metrics  *Metrics       // nil: none
	Logger   *slog.Logger   // nil: silent

	Interval  time.Duration // that a sweep may take; 0: as fast as the budget allows
	DataDir   string        // where the position is kept; "": nowhere
	LagBudget time.Duration // that a member gets to catch up; 0 is 2 s
	Patience  time.Duration // that Once has with a member that cannot be asked; 0 is 10 s

	once    sync.Once
	most    int64 // keys of a page; 0 is mostKeys, tests have fewer
	restart chan struct{}
	unsaved bool // the position, and it was said
}

// Progress of a pass.
type Progress struct {
	Keys, Bytes, Pages, Differing int64
	Left                          int64  // keys that are known to be left; there may be more
	Next                          []byte // key
	Stalled                       judge.Reason
}

// Timeout of one read, where the Asker has none of its own. Where nobody knows how many keys there are,
// a member may walk millions of them once.
const Timeout = 10 * time.Second

const unthrottled = 1e12 // a second

// Budget of each member for a sweep; 0 is none.
func Budget(bytesPerSecond int64) ask.Budget {
	if bytesPerSecond <= 0 {
		return ask.Budget{Reads: unthrottled, Bytes: unthrottled}
	}
	return ask.Budget{Reads: 100, Bytes: float64(bytesPerSecond)}
}

func (s *Sweep) init() {
	s.once.Do(func() { s.restart = make(chan struct{}, 1) })
}

// Start a sweep from the beginning now, as fast as the budget allows: something
// was heard that makes it urgent. It never blocks.
func (s *Sweep) Start() {
	s.init()
	select {
	case s.restart <- struct{}{}:
	default:
	}
}

func (s *Sweep) lagBudget() time.Duration {
	if s.LagBudget <= 0 {
		return 2 * time.Second
	}
	return s.LagBudget
}

// errAgain ends a pass that is to begin anew.
var errAgain = errors.New("a sweep is to start now")

const (
	firstWait, longestWait = 50 * time.Millisecond, 10 * time.Second
	// share of the interval that a sweep is spread over.
	share = 0.95
	// between the starts of two sweeps at least.
	between = 10 * time.Second
)

// walk goes to the end of a pass. stalled is asked what to do about a stall that
// lasts since a time: an error ends the pass.
func (s *Sweep) walk(ctx context.Context, p *pass, due func(p *pass) time.Time, stalled func(st stall, since time.Time) error) error {
	s.init()
	s.Ask.Timeout = cmp.Or(s.Ask.Timeout, Timeout)
	var since time.Time
	wait := firstWait
	for !p.done {
		if err := s.rest(ctx, time.Until(due(p))); err != nil {
			return err
		}
		st := s.try(ctx, p)
		if ctx.Err() != nil {
			return context.Cause(ctx) // answers were cut short by our own stop
		}
		s.Metrics.paused(st.reason)
		s.told(p, st.reason)
		if st.reason == "" {
			since, wait = time.Time{}, firstWait
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		if err := stalled(st, since); err != nil {
			return err
		}
		if err := s.rest(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, longestWait)
	}
	return nil
}

// panicked is the reason of a stall in which the sweep itself failed.
const panicked judge.Reason = "panic"

// try one step.
func (s *Sweep) try(ctx context.Context, p *pass) stall {
	if s.Yield != nil {
		s.Yield(ctx)
	}
	if s.Hold != nil {
		if why := s.Hold(); why != "" {
			return stall{reason: judge.Reason(why)}
		}
	}
	st := stall{reason: panicked}
	s.Ask.Guard(func() { st = s.step(ctx, p) })
	return st
}

func (s *Sweep) told(p *pass, stalled judge.Reason) {
	if s.Progress != nil {
		s.Progress(Progress{
			Keys: p.Keys, Bytes: p.Bytes, Pages: p.Pages, Differing: p.Differing, Left: p.ruler.left(), Next: p.from, Stalled: stalled,
		})
	}
}

// rest waits, unless a sweep is to start.
func (s *Sweep) rest(ctx context.Context, d time.Duration) error {
	select {
	case <-s.restart:
		return errAgain
	case <-ctx.Done():
		return context.Cause(ctx)
	default:
	}
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.restart:
		return errAgain
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Once compares the keys that begin with a prefix, from a key on. Members that cannot
// be asked for long are left out, and are named in the result, as is what could not
// be compared. The error says why it ended before the end.
func (s *Sweep) Once(ctx context.Context, from, prefix []byte) (Result, error) {
	if bytes.Compare(from, prefix) < 0 {
		from = prefix
	}
	p := s.newPass(from, successor(prefix))
	p.done = p.stop != nil && !before(from, p.stop)
	err := s.walk(ctx, p, func(*pass) time.Time { return time.Time{} }, func(st stall, since time.Time) error { return s.give(p, st, since) })
	snap := s.Members.Snapshot()
	members := p.members(snap)
	if err == nil {
		err = s.last(ctx, p, members)
	}
	r := p.Result
	r.Members, r.Left = members, p.ruler.left()
	if !p.done {
		r.Next = p.from
	}
	for _, id := range snap.Listed {
		switch m := snap.Member(id); {
		case m == nil:
			r.Away = append(r.Away, Away{ID: id, Reason: judge.Unreachable.Reason()})
		case p.away[id] != "":
			r.Away = append(r.Away, Away{Member: m, ID: id, Reason: p.away[id]})
		}
	}
	if err == nil && p.changed {
		err = errors.New("the cluster's members changed meanwhile: run it again")
	}
	return r, err
}

// last looks whether all members have caught up; who has not in time is away.
func (s *Sweep) last(ctx context.Context, p *pass, members []*member.Member) error {
	for began := time.Now(); ; {
		st := s.caughtUp(ctx, p, members)
		if st.reason == "" {
			return nil
		}
		limit := s.lagBudget()
		if st.reason != judge.FutureRev.Reason() {
			limit = s.patience(st.reason)
		}
		if time.Since(began) > limit {
			for _, id := range st.members {
				p.away[id] = st.reason
			}
			return nil
		}
		if err := s.rest(ctx, firstWait); err != nil {
			return err
		}
	}
}

// patience of Once with a stall.
func (s *Sweep) patience(why judge.Reason) time.Duration {
	patience := s.Patience
	if patience <= 0 {
		patience = 10 * time.Second
	}
	if why != judge.Unreachable.Reason() {
		patience *= 6 // it is there: a slow member rests for half a minute
	}
	return patience
}

// give up on members that cannot be asked for long, as long as two are left.
func (s *Sweep) give(p *pass, st stall, since time.Time) error {
	if time.Since(since) < s.patience(st.reason) {
		return nil
	}
	snap := s.Members.Snapshot()
	if left := len(p.members(snap)) - len(st.members); len(st.members) == 0 || left < 2 {
		return fmt.Errorf("%s: %s", st.reason, strings.Join(names(snap, st.members), ", "))
	}
	for _, id := range st.members {
		p.away[id] = st.reason
	}
	p.revision, p.high = 0, 0
	return nil
}

func names(snap *member.Snapshot, ids []uint64) []string {
	var all []string
	for _, id := range ids {
		name := member.FormatID(id)
		if m := snap.Member(id); m != nil {
			name += " (" + m.Name + ", " + m.URL + ")"
		}
		all = append(all, name)
	}
	return all
}
