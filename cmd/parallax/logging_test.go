package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

const testTimeout = 20 * time.Second

func TestLinesArriveInOrder(t *testing.T) {
	var out strings.Builder
	w := newAsyncWriter(&out)
	var want strings.Builder
	for i := range 1000 {
		_, _ = fmt.Fprintf(w, "line %d\n", i)
		_, _ = fmt.Fprintf(&want, "line %d\n", i)
	}
	w.Close(testTimeout)
	if out.String() != want.String() {
		t.Errorf("got %d bytes, want %d", out.Len(), want.Len())
	}
	if n, err := w.Write([]byte("late\n")); n != 5 || err != nil || w.Dropped() != 1 {
		t.Errorf("after Close: %d %v, %d dropped; want 5 <nil>, 1 dropped", n, err, w.Dropped())
	}
}

// GUARANTEE G2: a pipe that nobody reads, as stderr, holds up nobody; what was dropped is counted to the line.
func TestG2StderrThatNobodyReads(t *testing.T) {
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w := newAsyncWriter(pipe)
	log := newLogger(w, slog.LevelInfo, "json")
	const lines = 40_000 // some MiB: more than the pipe and the buffer hold
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range lines {
			log.Info("a line", "number", i, "padding", strings.Repeat("x", 64))
		}
	}()
	select {
	case <-written:
	case <-time.After(testTimeout):
		t.Fatal("the logger waits for the reader of stderr")
	}
	if w.Dropped() == 0 {
		t.Fatal("nothing was dropped: the test is too small for the buffers")
	}

	began := time.Now()
	w.Close(10 * time.Millisecond)
	if took := time.Since(began); took > testTimeout {
		t.Errorf("Close took %v", took)
	}

	// The reader comes back.
	read := make(chan error, 1)
	go func() { read <- readLines(r, lines) }()
	<-w.done
	closeQuietly(pipe)
	if err := <-read; err != nil {
		t.Error(err)
	}
	closeQuietly(r)
}

// readLines checks that every line arrived, in order, or is in the count of a note at its place.
func readLines(r io.Reader, lines int) error {
	next, notes := 0, 0
	for scanner := bufio.NewScanner(r); scanner.Scan(); {
		var line struct {
			Number  *int
			Dropped int
		}
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			return fmt.Errorf("%s: %w", scanner.Text(), err)
		}
		switch {
		case line.Dropped > 0:
			notes++
			next += line.Dropped
		case line.Number == nil || *line.Number != next:
			return fmt.Errorf("got %s, want line %d", scanner.Text(), next)
		default:
			next++
		}
	}
	if next != lines || notes == 0 {
		return fmt.Errorf("%d lines are accounted for (%d notes), want %d", next, notes, lines)
	}
	return nil
}

func TestDropsAreToldInPlaceAsLinesFlowAgain(t *testing.T) {
	out := &gate{failing: true}
	w := newAsyncWriter(out)
	defer w.Close(testTimeout)
	_, _ = fmt.Fprintln(w, "lost 1")
	_, _ = fmt.Fprintln(w, "lost 2")
	waitFor(t, "both writes to fail", func() bool { return w.Dropped() == 2 })
	_, _ = fmt.Fprintln(w, "lost 3") // with a note about the first two before it, which is lost as well
	waitFor(t, "the third to fail", func() bool { return w.Dropped() == 3 })
	out.set(false)
	_, _ = fmt.Fprintln(w, "found")
	waitFor(t, "the note and the line", func() bool {
		return out.text() == "parallax: 3 lines were dropped here: nobody read them\nfound\n"
	})
	// The reader that went away for good is tried once for each line and note, and never in a loop.
	out.set(true)
	before := out.count()
	for range 3 {
		_, _ = fmt.Fprintln(w, "lost")
	}
	w.Close(testTimeout)
	if tries := out.count() - before; tries > 6 {
		t.Errorf("%d writes for 3 lines", tries)
	}
	if w.Dropped() != 6 {
		t.Errorf("%d dropped, want 6", w.Dropped())
	}
}

// gate is a writer that fails on demand.
type gate struct {
	mu      sync.Mutex
	failing bool
	writes  int
	out     strings.Builder
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.writes++
	if g.failing {
		return 0, errors.New("broken pipe")
	}
	return g.out.Write(p)
}

func (g *gate) set(failing bool) { g.mu.Lock(); defer g.mu.Unlock(); g.failing = failing }
func (g *gate) text() string     { g.mu.Lock(); defer g.mu.Unlock(); return g.out.String() }
func (g *gate) count() int       { g.mu.Lock(); defer g.mu.Unlock(); return g.writes }

func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(testTimeout); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

func TestLevelCanBeChanged(t *testing.T) {
	var out strings.Builder
	w := newAsyncWriter(&out)
	var level slog.LevelVar
	log := newLogger(w, &level, "text")
	log.Debug("one")
	level.Set(slog.LevelDebug)
	log.Debug("two")
	level.Set(slog.LevelError)
	log.Warn("three")
	w.Close(testTimeout)
	if s := out.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "level=DEBUG msg=two") {
		t.Errorf("got %q", s)
	}
}
