package divergence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// Run writes the records until ctx is done or Close is called, and then what
// still waits, for at most the flush timeout. A sink that blocks for good
// blocks a goroutine of its own, never Run's end.
func (l *Log) Run(ctx context.Context) error {
	if err := l.queue.start(); err != nil {
		return err
	}
	defer close(l.queue.done)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &writer{log: l, sink: l.cfg.Sink}
	written := make(chan struct{})
	go func() {
		defer close(written)
		w.run(ctx)
	}()
	select {
	case <-ctx.Done():
	case <-l.queue.stop:
	}
	cancel()
	// A little longer than the writer tries: it gives up by itself unless it is blocked.
	timeout := time.NewTimer(l.limits.FlushTimeout + 100*time.Millisecond)
	defer timeout.Stop()
	held := 1 // a blocked writer holds a record
	select {
	case <-written:
		held = w.held()
	case <-timeout.C:
	}
	l.metrics.lost.Add(float64(held))
	if n := l.queue.close() + held; n > 0 {
		return fmt.Errorf("divergence log: %d records not written within %v: check the log's reader, disk or permissions",
			n, l.limits.FlushTimeout)
	}
	return nil
}

// Close makes Run end and waits for it. The sink is its owner's to close.
func (l *Log) Close() {
	l.queue.mu.Lock()
	select {
	case <-l.queue.stop:
	default:
		close(l.queue.stop)
	}
	started := l.queue.started
	l.queue.mu.Unlock()
	if started {
		<-l.queue.done
	} else {
		l.queue.close()
	}
}

// Reopen makes Run open a *File anew, after logrotate has moved it.
func (l *Log) Reopen() {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	l.queue.reopen = true
	l.queue.signal()
}

// writer is Run's other half: the only one who touches the sink.
type writer struct {
	log     *Log
	sink    io.Writer
	current *queued // taken from the queue, not written in full
	off     int     // bytes of current that the sink took
	opened  bool
	failed  bool          // Report knows that the sink is unusable
	pause   time.Duration // since the last failure; 0 when there was none
}

const maxPauses = 64 // times the first pause

func (w *writer) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var retry <-chan time.Time // nil: not resting
	for ctx.Err() == nil {
		w.log.tick(false)
		if w.log.queue.reopenWanted() {
			w.opened, retry = false, nil // an operator asks: try now
		}
		if retry == nil && !w.flush() {
			retry = time.After(w.rest())
		}
		select {
		case <-ctx.Done():
		case <-w.log.queue.wake:
		case <-tick.C:
		case <-retry:
			retry = nil
		}
	}
	w.log.tick(true)
	w.flushUntil(time.Now().Add(w.log.limits.FlushTimeout))
}

// rest is how long to leave a failing sink alone.
func (w *writer) rest() time.Duration {
	first := w.log.limits.RetryInterval
	w.pause = min(max(first, 2*w.pause), maxPauses*first)
	return w.pause
}

// flushUntil tries a last time, and again for as long as there is time.
func (w *writer) flushUntil(deadline time.Time) {
	for !w.flush() {
		left := time.Until(deadline)
		if left <= 0 {
			return
		}
		<-time.After(min(left, w.log.limits.RetryInterval))
	}
}

func (w *writer) held() int {
	if w.current != nil {
		return 1
	}
	return 0
}

// flush writes what waits, and reports whether the sink took it all.
func (w *writer) flush() bool {
	if err := w.open(); err != nil {
		return w.fail(err)
	}
	for {
		if w.current == nil {
			r, ok := w.log.queue.take()
			if !ok {
				return w.succeed()
			}
			w.current, w.off = &r, 0
		}
		n, err := w.sink.Write(w.current.line[w.off:])
		w.off += n // of a pipe: the reader has it, so go on from there
		if w.off < len(w.current.line) {
			if err == nil {
				err = io.ErrShortWrite
			}
			return w.fail(err)
		}
		w.log.metrics.records.WithLabelValues(w.current.event).Inc()
		w.current = nil
	}
}

// open opens a *File at the start, so that a wrong path is reported then and
// not with the first finding, after Reopen, and after every failure.
func (w *writer) open() error {
	if f, ok := w.sink.(*File); ok && !w.opened {
		if err := f.Open(); err != nil {
			return err
		}
	}
	w.opened = true
	return nil
}

func (w *writer) fail(err error) bool {
	w.opened = false
	w.log.metrics.writeErrors.Inc()
	if !w.failed {
		w.failed = true
		w.log.metrics.usable.Set(0)
		w.log.cfg.Report(fmt.Errorf("divergence log: cannot be written, records wait: %w", err))
	}
	return false
}

func (w *writer) succeed() bool {
	w.pause = 0
	if w.failed {
		w.failed = false
		w.log.metrics.usable.Set(1)
		w.log.cfg.Report(nil)
	}
	return true
}

// File is a sink that appends to a file of mode 0600. It is for one process:
// what it takes back after a failed write must be its own.
type File struct {
	path string

	mu      sync.Mutex // of f, not held during a write
	f       *os.File
	regular bool
}

// NewFile returns a File. The Log's Run opens it, and tries again for as long
// as it cannot: a log that is unusable must not keep clients from being served.
func NewFile(path string) *File { return &File{path: path} }

// Open opens the file anew, and ends a half line that an earlier process left.
func (f *File) Open() error {
	if err := f.Close(); err != nil {
		return err
	}
	// O_NONBLOCK: without it, opening a FIFO that nobody reads never returns.
	file, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.mu.Lock()
	f.f, f.regular = file, info.Mode().IsRegular()
	f.mu.Unlock()
	if f.regular && endsInHalfLine(f.path, info.Size()) {
		if _, err := file.Write([]byte("\n")); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return nil
}

func endsInHalfLine(path string, size int64) bool {
	if size == 0 {
		return false
	}
	file, err := os.Open(path)
	if err != nil {
		return false // may be written and not read: then nobody can tell
	}
	defer file.Close()
	last := make([]byte, 1)
	_, err = file.ReadAt(last, size-1)
	return err == nil && last[0] != '\n'
}

// Write appends the line in full or not at all. After an error the file is to
// be opened again.
func (f *File) Write(line []byte) (int, error) {
	f.mu.Lock()
	file, regular := f.f, f.regular
	f.mu.Unlock()
	if file == nil {
		return 0, fmt.Errorf("%s: %w", f.path, os.ErrClosed)
	}
	n, err := file.Write(line)
	if err == nil {
		return n, nil
	}
	if n > 0 && regular {
		if info, statErr := file.Stat(); statErr == nil {
			err = errors.Join(err, file.Truncate(info.Size()-int64(n)))
		}
	}
	return 0, err // the whole line again, also to a new reader of a FIFO
}

// Close closes the file, if it is open.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return nil
	}
	err := f.f.Close()
	f.f = nil
	return err
}
