package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// maxPending bounds what waits for a slow reader of stderr, in bytes.
const maxPending = 1 << 20

// asyncWriter writes lines to a writer that may block for ever (a pipe that nobody reads) or fail (its reader went away).
//
// GUARANTEE G2: No fault, delay or overload of the shadow changes, delays or ends client traffic. A log line is written by a goroutine of its own; when it
// cannot be, up to maxPending bytes wait, and what comes then is dropped, counted, and told when lines flow again.
type asyncWriter struct {
	w    io.Writer
	done chan struct{} // the goroutine has ended

	mu      sync.Mutex
	more    sync.Cond // pending has grown, or closed was set
	pending []entry
	size    int    // bytes of all lines that are not written yet
	full    bool   // lines are dropped until half of maxPending is free again, so that gaps are few
	broken  bool   // the last write failed
	dropped uint64 // since the last note
	lost    uint64 // since the start
	closed  bool
	note    func(dropped uint64) []byte
}

// entry is a line, or the note that stands where lines were dropped.
type entry struct {
	line    []byte
	dropped uint64
}

// newAsyncWriter starts the goroutine; Close ends it.
func newAsyncWriter(w io.Writer) *asyncWriter {
	a := &asyncWriter{w: w, done: make(chan struct{}), note: func(n uint64) []byte {
		return fmt.Appendf(nil, "parallax: %d lines were dropped here: nobody read them\n", n)
	}}
	a.more.L = &a.mu
	go a.writeLines()
	return a
}

// setNote says how dropped lines are told, to fit the lines around.
func (a *asyncWriter) setNote(note func(dropped uint64) []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.note = note
}

// Write takes one whole line, and never blocks or fails.
func (a *asyncWriter) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.size+len(line) > maxPending {
		a.full = true
	} else if a.size <= maxPending/2 {
		a.full = false
	}
	if a.closed || a.full {
		a.drop()
		return len(line), nil
	}
	a.putNote()
	a.pending = append(a.pending, entry{line: append([]byte(nil), line...)})
	a.size += len(line)
	a.more.Signal()
	return len(line), nil
}

// putNote tells the drops up to now, at the place where they happened.
func (a *asyncWriter) putNote() {
	if a.dropped > 0 {
		a.pending = append(a.pending, entry{line: a.note(a.dropped), dropped: a.dropped})
		a.size += len(a.pending[len(a.pending)-1].line)
		a.dropped = 0
	}
}

// Dropped is how many lines were dropped so far.
func (a *asyncWriter) Dropped() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lost
}

func (a *asyncWriter) drop() {
	a.dropped++
	a.lost++
}

// Close waits at most timeout until everything is written. If that is not enough, the goroutine stays in its write: nothing can
// take it out of there, and the process is about to end.
func (a *asyncWriter) Close(timeout time.Duration) {
	a.mu.Lock()
	a.closed = true
	a.more.Signal()
	a.mu.Unlock()
	select {
	case <-a.done:
	case <-time.After(timeout):
	}
}

func (a *asyncWriter) writeLines() {
	defer close(a.done)
	for {
		batch := a.take()
		if len(batch) == 0 {
			return
		}
		for _, e := range batch {
			_, err := a.w.Write(e.line)
			a.written(e, err)
		}
	}
}

// take waits for lines; none come after Close.
func (a *asyncWriter) take() []entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.pending) == 0 && !a.closed && (a.dropped == 0 || a.broken) {
		a.more.Wait()
	}
	// A note need not wait for the next line, unless it would fail as the line before did.
	if len(a.pending) == 0 && !a.broken {
		a.putNote()
	}
	batch := a.pending
	a.pending = nil
	return batch
}

func (a *asyncWriter) written(e entry, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.size -= len(e.line)
	a.broken = err != nil
	switch {
	case err == nil:
	case e.dropped > 0:
		a.dropped += e.dropped // told later; they are in lost already
	default:
		a.drop()
	}
}

// newLogger writes the operational log to w in the format of --log-format, "text" or "json". The level may be changed at any time.
func newLogger(w *asyncWriter, level slog.Leveler, format string) *slog.Logger {
	w.setNote(func(dropped uint64) []byte {
		var line bytes.Buffer
		record := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines were dropped here: the reader of stderr is too slow or gone", 0)
		record.AddAttrs(slog.Uint64("dropped", dropped))
		// A write to a bytes.Buffer does not fail.
		_ = logHandler(&line, slog.LevelDebug, format).Handle(context.Background(), record)
		return line.Bytes()
	})
	return slog.New(logHandler(w, level, format))
}

func logHandler(w io.Writer, level slog.Leveler, format string) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}
