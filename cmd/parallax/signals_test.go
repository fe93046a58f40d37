package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
)

func send(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

func TestFirstSignalStopsInOrder(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		err := untilSignal(t.Context(), func(ctx context.Context, _ <-chan struct{}) error {
			send(t, s)
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if stopped, ok := errors.AsType[stoppedError](err); !ok || stopped.signal != s {
			t.Errorf("got %v, want the cause %v", err, s)
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	for first, second := range map[syscall.Signal]syscall.Signal{syscall.SIGTERM: syscall.SIGTERM, syscall.SIGINT: syscall.SIGINT} {
		release, ended := make(chan struct{}), make(chan struct{})
		err := untilSignal(t.Context(), func(ctx context.Context, _ <-chan struct{}) error {
			defer close(ended)
			send(t, first)
			<-ctx.Done()
			send(t, second)
			<-release // hangs
			return nil
		})
		killed, ok := errors.AsType[secondSignalError](err)
		if !ok || killed.exitCode() != 128+int(second) {
			t.Errorf("got %v, want the second %v", err, second)
		}
		close(release)
		<-ended
	}
}

func TestHangupIsNotLostAndNotPiledUp(t *testing.T) {
	err := untilSignal(t.Context(), func(_ context.Context, hangup <-chan struct{}) error {
		for range 3 {
			send(t, syscall.SIGHUP)
			<-hangup
		}
		return errors.New("served")
	})
	if err == nil || err.Error() != "served" {
		t.Errorf("got %v, want what serve returned", err)
	}
}

// GUARANTEE G2: the reader of stdout going away is an error of that write, not the end of the proxy.
func TestG2ClosedStdoutDoesNotKill(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	closeQuietly(r)
	// Only descriptors 1 and 2 end a process with SIGPIPE (os/signal), so the pipe must be stdout for a moment.
	saved, err := syscall.Dup(1)
	if err != nil {
		t.Fatal(err)
	}
	err = untilSignal(t.Context(), func(context.Context, <-chan struct{}) error {
		if err := syscall.Dup3(int(w.Fd()), 1, 0); err != nil {
			return err
		}
		_, wrote := os.Stdout.WriteString("x")
		if err := syscall.Dup3(saved, 1, 0); err != nil {
			return err
		}
		return wrote
	})
	_ = syscall.Close(saved)
	closeQuietly(w)
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %v, want EPIPE", err)
	}
}
