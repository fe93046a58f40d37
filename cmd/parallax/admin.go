package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// check is one condition of readiness. It must answer at once: a probe waits for it.
type check struct {
	name  string
	ready func() error
}

// admin serves probes, metrics and what else the caller has, on addresses of its own.
//
// GUARANTEE G2: No fault, delay or overload of the shadow changes, delays or ends client traffic. Only a mistake in syntax, client listener or TLS stops the
// start: an admin port that is busy is reported and tried again, and no error of this listener leaves Run.
type admin struct {
	addresses []string            // host:port
	metrics   prometheus.Gatherer // of /metrics
	checks    []check             // of /readyz
	coverage  func() []string     // what is looked at, for /readyz?verbose; may be nil
	pprof     bool                // serve /debug/pprof/
	log       *slog.Logger

	retryFirst time.Duration // wait before a busy port is tried again, doubled each time; if 0, 500 ms
	retryMost  time.Duration // if 0, 30 s
}

const (
	adminHeaderTimeout = 5 * time.Second
	adminReadTimeout   = 10 * time.Second
	adminWriteTimeout  = 2 * time.Minute // a CPU profile takes 30 s; a handler that streams lifts it with http.ResponseController
	adminIdleTimeout   = 2 * time.Minute
	adminHeaderBytes   = 64 << 10
	adminStopTimeout   = time.Second // requests that run when ctx ends
	adminScrapes       = 4           // scrapes of /metrics at a time
)

// Run serves until ctx ends, and returns when every connection is closed.
func (a *admin) Run(ctx context.Context) {
	handler := a.handler()
	var listeners sync.WaitGroup
	for _, address := range a.addresses {
		listeners.Go(func() { a.runOne(ctx, address, handler) })
	}
	listeners.Wait()
}

// runOne listens on one address, again and again when that fails.
func (a *admin) runOne(ctx context.Context, address string, handler http.Handler) {
	first, most := a.retryFirst, a.retryMost
	if first == 0 {
		first = 500 * time.Millisecond
	}
	if most == 0 {
		most = 30 * time.Second
	}
	for wait := first; ctx.Err() == nil; wait = min(2*wait, most) {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil {
			a.log.Info("admin listener is up", "address", listener.Addr().String())
			wait = first
			err = a.serve(ctx, listener, handler)
		}
		if ctx.Err() != nil {
			return
		}
		a.log.Warn("admin listener failed: /livez, /readyz and /metrics cannot be reached there; free the port or change --listen-admin-urls",
			"address", address, "error", err, "retry_in", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// serve ends with ctx, or when the listener fails. The contexts of requests end with ctx too.
func (a *admin) serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: adminHeaderTimeout,
		ReadTimeout:       adminReadTimeout,
		WriteTimeout:      adminWriteTimeout,
		IdleTimeout:       adminIdleTimeout,
		MaxHeaderBytes:    adminHeaderBytes,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminStopTimeout)
		err = server.Shutdown(stopping)
		cancel()
		if ended := <-failed; !errors.Is(ended, http.ErrServerClosed) {
			err = errors.Join(err, ended)
		}
	}
	// What is still open: a client that does not read, or a request that does not end.
	return errors.Join(err, server.Close())
}

func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(readVersion()) // the client went away
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError, // one broken collector must not hide the others
		MaxRequestsInFlight: adminScrapes,
	}))
	if a.pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// readyz answers as etcd and Kubernetes do: the list of checks when one fails or ?verbose asks for it.
func (a *admin) readyz(w http.ResponseWriter, r *http.Request) {
	status, verdict := http.StatusOK, "ok\n"
	var list strings.Builder
	for _, c := range a.checks {
		if err := c.ready(); err != nil {
			status, verdict = http.StatusServiceUnavailable, "not ready\n"
			fmt.Fprintf(&list, "[-]%s failed: %v\n", c.name, err)
		} else {
			fmt.Fprintf(&list, "[+]%s ok\n", c.name)
		}
	}
	if a.coverage != nil && r.URL.Query().Has("verbose") {
		for _, line := range a.coverage() {
			fmt.Fprintf(&list, "[i]coverage %s\n", line)
		}
	}
	if r.URL.Query().Has("verbose") || status != http.StatusOK {
		verdict = list.String() + verdict
	}
	reply(w, status, verdict)
}

func reply(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client went away
}
