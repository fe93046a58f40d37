package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

const (
	cartKey     = "/registry/deployments/default/cart"
	checkoutKey = "/registry/deployments/default/checkout"
	checkout    = `{"spec":{"replicas":3,"image":"checkout:v2"}}`
)

// story is the demo as it goes: what runs, and what is known so far.
type story struct {
	*terminal
	opts   options
	cancel context.CancelCauseFunc
	beside sync.WaitGroup // goroutines beside the story

	dir      string
	shell    *shell
	cluster  *cluster.Cluster
	parallax *parallax.Process
	traffic  *traffic
	timeline *timeline

	told  bool // to its end: --keep holds
	ended sync.Once
	err   error // of the end
}

// tell returns the time from the moment at which the divergence could be seen
// until it was named.
func (s *story) tell(ctx context.Context) (time.Duration, error) {
	s.printf("%s\n", s.paint(bold, "Parallax demo: one ordinary transaction makes etcd members differ, and Parallax says where"))
	for _, chapter := range []func(context.Context) error{s.build, s.start, s.watchTraffic} {
		if err := chapter(ctx); err != nil {
			return 0, err
		}
	}
	apart, err := s.transaction(ctx)
	if err != nil {
		return 0, err
	}
	if apart.missing == nil {
		err := s.nothingDiffers(ctx)
		s.told = ctx.Err() == nil
		return 0, err
	}
	if err := s.compare(ctx, apart); err != nil {
		return 0, err
	}
	named, err := s.record(ctx, apart)
	s.told = ctx.Err() == nil
	return named, err
}

// spawn runs f beside the story. A panic in it ends the story, not the process:
// members that are kept would outlive it, and folders do.
func (s *story) spawn(f func()) {
	s.beside.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				s.cancel(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
		}()
		f()
	})
}

// lastLines shows why a divergence may not have been named.
func (s *story) lastLines(err error) {
	if errors.Is(err, errNotNamed) {
		s.say("\nThe last lines of Parallax's log:")
		s.detail(string(lastLines(s.parallax.Log(), 15)))
	}
}

// end stops everything and removes it, or, where it is to be kept, says how to
// look around. It may be called twice.
func (s *story) end() error {
	s.ended.Do(func() { s.err = s.stop() })
	return s.err
}

func (s *story) stop() error {
	s.cancel(nil)
	s.beside.Wait()
	if s.traffic != nil {
		s.traffic.close()
		s.say("\nThe clients have ended: %s.", s.traffic)
	}
	if s.opts.keep && s.told {
		s.lookAround()
		return nil
	}
	var errs []error
	if s.parallax != nil {
		errs = append(errs, s.parallax.Close())
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.Close())
	}
	if s.dir == "" {
		return nil
	}
	if errs = append(errs, os.RemoveAll(s.dir)); errors.Join(errs...) == nil {
		s.say("Members and Parallax are stopped, their folders removed.")
	}
	return errors.Join(errs...)
}
