package divergence

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

// reports keeps what Report is told.
type reports struct {
	mu  sync.Mutex
	all []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, err)
}

func (r *reports) get() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// start runs the log until the returned function, which gives Run's error.
func start(l *Log) (stop func() error) {
	ended := make(chan error, 1)
	go func() { ended <- l.Run(context.Background()) }()
	return func() error {
		l.Close()
		return <-ended
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func confirmKeys(l *Log, keys ...string) {
	for _, key := range keys {
		l.Confirm(ev(key, 5, "a,b=x@5/5/1|c=-"))
	}
}

func TestRunWritesWhatWaitsAtItsEnd(t *testing.T) {
	sink := new(lines)
	l := New(Config{Sink: sink, Limits: Limits{Burst: 2}})
	confirmKeys(l, "/a", "/b", "/c")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	got := sink.records(t)
	if len(got) != 3 || got[2].Event != record.Folded || got[2].Folded != 1 {
		t.Errorf("want two findings and what was folded, got %v", got)
	}
	if l.Run(ctx) == nil {
		t.Error("a second Run must be refused")
	}
	l.Close() // after Run: nothing to wait for
	confirmKeys(l, "/d")
	if lost := testutil.ToFloat64(l.metrics.lost); lost != 0 {
		t.Errorf("/d was folded, yet %v records are lost", lost)
	}
}

func TestCloseWithoutRun(t *testing.T) {
	l := New(Config{})
	confirmKeys(l, "/a")
	l.Close()
	if lost := testutil.ToFloat64(l.metrics.lost); lost != 1 {
		t.Errorf("want 1 record lost, got %v", lost)
	}
}

func TestAFailingSinkIsReportedOnceAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink, told := new(lines), new(reports)
		l := New(Config{Sink: sink, Report: told.add, Limits: Limits{Waiting: 3}})
		stop := start(l)
		sink.set(syscall.ENOSPC, 7)
		confirmKeys(l, "/a", "/b")
		time.Sleep(time.Hour)
		errs := told.get()
		if len(errs) != 1 || !errors.Is(errs[0], syscall.ENOSPC) {
			t.Fatalf("want one report of a full disk, got %v", errs)
		}
		if n := testutil.ToFloat64(l.metrics.writeErrors); n < 100 || n > 200 {
			t.Errorf("%v attempts in an hour, want one about every 32 s", n)
		}
		if testutil.ToFloat64(l.metrics.usable) != 0 {
			t.Error("log_usable must be 0")
		}
		confirmKeys(l, "/c", "/d", "/e") // /a is in the writer's hands; /b is the oldest that waits
		sink.set(nil, 0)
		time.Sleep(33 * time.Second)
		if errs := told.get(); len(errs) != 2 || errs[1] != nil {
			t.Errorf("want the end reported too, got %v", errs)
		}
		if got := seqs(sink.records(t)); !slices.Equal(got, []int64{1, 3, 4, 5}) {
			t.Errorf("records %v: want all but the oldest that waited", got)
		}
		if testutil.ToFloat64(l.metrics.lost) != 1 || testutil.ToFloat64(l.metrics.usable) != 1 {
			t.Error("want one record lost and the log usable")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestReopenTriesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := new(lines)
		l := New(Config{Sink: sink, Limits: Limits{RetryInterval: time.Hour}})
		stop := start(l)
		sink.set(syscall.ENOSPC, 0)
		confirmKeys(l, "/a")
		synctest.Wait()
		sink.set(nil, 0)
		l.Reopen()
		synctest.Wait()
		if n := len(sink.records(t)); n != 1 {
			t.Errorf("%d records right after Reopen, want 1", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestFullDeviceDoesNotStopAnything(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full here")
	}
	told := new(reports)
	file := NewFile("/dev/full")
	l := New(Config{Sink: file, Report: told.add, Limits: Limits{FlushTimeout: 50 * time.Millisecond}})
	stop := start(l)
	confirmKeys(l, "/a")
	eventually(t, "report of the full device", func() bool { return len(told.get()) == 1 })
	if !errors.Is(told.get()[0], syscall.ENOSPC) {
		t.Error(told.get()[0])
	}
	if err := stop(); err == nil || !strings.Contains(err.Error(), "1 record") {
		t.Errorf("want an error that tells of the record, got %v", err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}

func TestAMissingDirectoryIsReportedAtTheStartAndMayAppear(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	path := filepath.Join(dir, "divergence.ndjson")
	told := new(reports)
	file := NewFile(path)
	l := New(Config{Sink: file, Report: told.add, Limits: Limits{RetryInterval: time.Millisecond}})
	stop := start(l)
	eventually(t, "report, before any finding", func() bool { return len(told.get()) == 1 })
	if !errors.Is(told.get()[0], os.ErrNotExist) || !strings.Contains(told.get()[0].Error(), path) {
		t.Errorf("the report must name the path: %v", told.get()[0])
	}
	confirmKeys(l, "/a", "/b")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log to be usable", func() bool { return len(told.get()) == 2 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := seqs(readFile(t, path)); !slices.Equal(got, []int64{1, 2}) || info.Mode() != 0o600 {
		t.Errorf("records %v, mode %v", got, info.Mode())
	}
}

func readFile(t *testing.T, path string) []*logged {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parseLines(t, b)
}

func TestReopenAfterRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "divergence.ndjson")
	file := NewFile(path)
	l := New(Config{Sink: file})
	stop := start(l)
	written := func(n float64) func() bool {
		return func() bool { return testutil.ToFloat64(l.metrics.records.WithLabelValues(record.Confirmed)) == n }
	}
	confirmKeys(l, "/a")
	eventually(t, "the first record", written(1))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	eventually(t, "the new file", func() bool { _, err := os.Stat(path); return err == nil })
	confirmKeys(l, "/b")
	eventually(t, "the second record", written(2))
	if err := errors.Join(stop(), file.Close()); err != nil {
		t.Fatal(err)
	}
	if a, b := seqs(readFile(t, path+".1")), seqs(readFile(t, path)); !slices.Equal(a, []int64{1}) || !slices.Equal(b, []int64{2}) {
		t.Errorf("old file %v, new file %v", a, b)
	}
}

func TestABlockedPipeBlocksNobody(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for err == nil { // until it is full
		if err := w.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(make([]byte, 4096))
	}
	if err := w.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	l := New(Config{Sink: w, Limits: Limits{Waiting: 5, FlushTimeout: 50 * time.Millisecond}})
	stop := start(l)
	for i := range 50 {
		confirmKeys(l, "/key/"+itoa(int64(i)))
	}
	if lost := testutil.ToFloat64(l.metrics.lost); lost < 44 {
		t.Errorf("%v of 50 records lost: one is being written, five wait", lost)
	}
	confirmKeys(l, "/one/more")
	eventually(t, "the writer to be blocked", func() bool {
		return testutil.ToFloat64(l.metrics.lost)+testutil.ToFloat64(l.metrics.waiting) == 50
	})
	if err := stop(); err == nil {
		t.Error("Run must tell that records were not written")
	}
	r.Close() // lets the writer end, with EPIPE
}

func TestAPipeGetsWholeLinesAlsoAfterAShortWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := new(lines)
		l := New(Config{Sink: sink})
		stop := start(l)
		sink.set(syscall.EAGAIN, 100)
		confirmKeys(l, "/a", "/b")
		synctest.Wait()
		sink.set(nil, 0)
		time.Sleep(time.Second)
		if got := seqs(sink.records(t)); !slices.Equal(got, []int64{1, 2}) {
			t.Errorf("records %v, want 1 and 2, whole", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
