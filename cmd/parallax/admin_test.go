package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// closeQuietly closes what a test is done with; that it may be closed already is no matter.
func closeQuietly(c io.Closer) { _ = c.Close() }

// recorded keeps what is logged.
type recorded struct {
	mu  sync.Mutex
	out strings.Builder
}

func (r *recorded) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(p)
}
func (r *recorded) count(s string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.out.String(), s)
}

func newTestAdmin(log io.Writer) *admin {
	return &admin{metrics: prometheus.NewRegistry(), log: slog.New(slog.NewTextHandler(log, nil)), retryFirst: time.Millisecond, retryMost: 20 * time.Millisecond}
}

// serveAdmin runs a on a free port until the test ends, and returns its URL.
func serveAdmin(t *testing.T, a *admin) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.serve(ctx, listener, a.handler()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return "http://" + listener.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(response.Body)
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestAdminPages(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "parallax_test_total", Help: "x"})
	registry.MustRegister(counter)
	counter.Inc()
	var unreachable atomic.Bool
	a := newTestAdmin(io.Discard)
	a.metrics = registry
	a.checks = []check{{"listening", func() error { return nil }}, {"member", func() error {
		if unreachable.Load() {
			return errors.New("no member is reachable")
		}
		return nil
	}}}
	a.coverage = func() []string { return []string{"REV: 2 of 3 members"} }
	url := serveAdmin(t, a)

	expect := func(path string, status int, body string) {
		t.Helper()
		if gotStatus, got := get(t, url+path); gotStatus != status || got != body {
			t.Errorf("%s: got %d %q, want %d %q", path, gotStatus, got, status, body)
		}
	}
	expect("/livez", 200, "ok\n")
	expect("/readyz", 200, "ok\n")
	expect("/readyz?verbose", 200, "[+]listening ok\n[+]member ok\n[i]coverage REV: 2 of 3 members\nok\n")
	unreachable.Store(true)
	expect("/readyz", 503, "[+]listening ok\n[-]member failed: no member is reachable\nnot ready\n")
	expect("/livez", 200, "ok\n")
	expect("/debug/pprof/", 404, "404 page not found\n")
	if _, body := get(t, url+"/metrics"); !strings.Contains(body, "parallax_test_total 1\n") {
		t.Errorf("/metrics: %s", body)
	}
	var v version
	if _, body := get(t, url+"/version"); json.Unmarshal([]byte(body), &v) != nil || v != readVersion() {
		t.Errorf("/version: got %s, want %+v", body, readVersion())
	}
}

func TestPprofOnlyWhenAskedFor(t *testing.T) {
	a := newTestAdmin(io.Discard)
	a.pprof = true
	url := serveAdmin(t, a)
	for _, page := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline"} {
		if status, _ := get(t, url+page); status != 200 {
			t.Errorf("%s: %d, want 200", page, status)
		}
	}
}

// GUARANTEE G2: a busy admin port ends nothing. It is reported, tried again, and served once it is free.
func TestG2BusyAdminPort(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log recorded
	a := newTestAdmin(&log)
	a.addresses = []string{busy.Addr().String(), "127.0.0.1:0"}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); a.Run(ctx) }()
	waitFor(t, "the other address to be served", func() bool { return log.count("admin listener is up") == 1 })
	waitFor(t, "reports of the busy port", func() bool { return log.count("address already in use") >= 2 })
	closeQuietly(busy)
	waitFor(t, "the freed address to be served", func() bool { return log.count("admin listener is up") == 2 })
	if status, _ := get(t, "http://"+busy.Addr().String()+"/livez"); status != 200 {
		t.Errorf("/livez: %d, want 200", status)
	}
	cancel()
	<-ended
}

func TestStopWhileThePortIsBusy(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(busy)
	var log recorded
	a := newTestAdmin(&log)
	a.addresses, a.retryFirst, a.retryMost = []string{busy.Addr().String()}, time.Hour, time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); a.Run(ctx) }()
	waitFor(t, "the report", func() bool { return log.count("address already in use") == 1 })
	cancel()
	select {
	case <-ended:
	case <-time.After(testTimeout):
		t.Fatal("Run waits for its retry")
	}
}

// A page that streams ends with the process, and a client that says nothing does not hold it up.
func TestStopEndsStreamsAndIdleClients(t *testing.T) {
	streaming, streamEnd := make(chan struct{}), make(chan error, 1)
	stop := errors.New("stop")
	a := newTestAdmin(io.Discard)
	stream := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		close(streaming)
		<-r.Context().Done()
		streamEnd <- context.Cause(r.Context())
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.serve(ctx, listener, stream) }()
	silent, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(silent)
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(client)
	if _, err := io.WriteString(client, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-streaming
	cancel(stop)
	if cause := <-streamEnd; !errors.Is(cause, stop) {
		t.Errorf("the stream ended for %v, want it to end with the process", cause)
	}
	select {
	case err := <-ended: // with or without the error of a bounded Shutdown: the silent client may not have been seen yet
		t.Logf("stopped: %v", err)
	case <-time.After(testTimeout):
		t.Fatal("a client holds up the stop")
	}
	if _, err := bufio.NewReader(silent).ReadByte(); err == nil {
		t.Error("the silent client got an answer")
	}
}
