package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/etcd-parallax/parallax/config"
)

// stoppedError is the cause of a context that SIGTERM or SIGINT ended.
type stoppedError struct{ signal os.Signal }

func (e stoppedError) Error() string { return "stopped by " + e.signal.String() }

// secondSignalError ends the process at once.
type secondSignalError struct{ signal os.Signal }

func (e secondSignalError) Error() string { return "ended at once by a second " + e.signal.String() }

// exitCode is what a shell shows for a process that the signal killed.
func (e secondSignalError) exitCode() int {
	const base = 128
	if number, ok := e.signal.(syscall.Signal); ok {
		return base + int(number)
	}
	return exitRuntime
}

// untilSignal runs serve. The first SIGTERM or SIGINT ends its context; a second one makes untilSignal return while serve
// may still hang, because then the process is to end whatever serve does.
func untilSignal(ctx context.Context, serve func(ctx context.Context, hangup <-chan struct{}) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	const room = 4 // signal.Notify does not wait for a receiver
	stop, hup, pipe := make(chan os.Signal, room), make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(hup, syscall.SIGHUP)
	// Asked for and not looked at: a write to stdout or stderr whose reader went away then fails with EPIPE, instead of ending the process,
	// and every client's connection with it (os/signal, "SIGPIPE").
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(stop)
	defer signal.Stop(hup)
	defer signal.Stop(pipe)

	hangup := make(chan struct{}, 1)
	served := make(chan error, 1)
	go func() { served <- serve(ctx, hangup) }()
	for {
		select {
		case err := <-served:
			return err
		case s := <-stop:
			if ctx.Err() != nil {
				return secondSignalError{s}
			}
			cancel(stoppedError{s})
		case <-hup:
			select {
			case hangup <- struct{}{}:
			default: // one waits already; it stands for both
			}
		}
	}
}

// pauseInterval is how often --shadow-pause-file is looked for; SIGHUP looks at
// once.
const pauseInterval = time.Second

// control carries out what an operator says while it runs: the pause file, and
// SIGHUP.
func (s *server) control(ctx context.Context, load func() (*config.Config, error), hangup <-chan struct{}) {
	live := s.cfg // as reloaded; what s.cfg holds is frozen
	tick := time.NewTicker(pauseInterval)
	defer tick.Stop()
	s.pause()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.pause()
		case <-hangup:
			s.pause()
			live = s.reload(live, load)
		}
	}
}

// pause stops the shadow while the pause file exists. A file that cannot be
// looked for counts as there: the switch has to work when things are broken.
func (s *server) pause() {
	if s.readers == nil || s.cfg.ShadowPauseFile == "" {
		return
	}
	_, err := os.Stat(s.cfg.ShadowPauseFile)
	paused := !errors.Is(err, fs.ErrNotExist)
	if paused == s.readers.shadow.Paused() {
		return
	}
	s.readers.shadow.Pause(paused)
	if paused {
		s.log.Warn("shadow paused: members are read no more, clients are served on", "file", s.cfg.ShadowPauseFile)
	} else {
		s.log.Info("shadow goes on: the pause file is gone", "file", s.cfg.ShadowPauseFile)
	}
}

// reload takes over what may change while running. A bad configuration changes
// nothing.
func (s *server) reload(live *config.Config, load func() (*config.Config, error)) *config.Config {
	next, err := load()
	if err != nil {
		s.log.Error("configuration not reloaded, the old one stays in force", "error", err)
	} else {
		var restart []string
		live, restart = live.Reloaded(next)
		s.level.Set(live.LogLevel)
		if s.readers != nil {
			s.readers.reload(live)
		}
		s.log.Info("configuration reloaded")
		if len(restart) > 0 {
			s.log.Warn("changed options that need a restart keep their old values", "options", restart)
		}
	}
	s.certs.watcher.Reload()
	if s.readers != nil {
		s.records.Reopen() // logrotate
	}
	return live
}
