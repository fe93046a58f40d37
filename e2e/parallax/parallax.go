// Package parallax runs the product as a process, built from this source tree.
//
//	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true})
//	record, err := p.WaitRecord(ctx, func(r parallax.Record) bool { return r.Text("key") == "/k" })
package parallax

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/internal/process"
)

const (
	// readyTimeout is for cores that are busy with other tests.
	readyTimeout = 30 * time.Second

	// stopGrace is well above the default --shutdown-timeout of 1 s.
	stopGrace = 10 * time.Second
)

// Options of a `parallax serve`.
type Options struct {
	// Endpoints are the client URLs of etcd members.
	Endpoints []string

	// Flags are appended to ours.
	Flags []string

	// Env is added to the environment. PARALLAX_* of our own is not passed on.
	Env []string

	// Race runs a build with the race detector, if there is a C compiler: slower,
	// and Close reports races.
	Race bool

	// Listen are the schemes of the client listeners: http, https, unix and
	// passthrough, each at most once. Default http alone.
	Listen []string

	// IP is the loopback address of all listeners, for those who need to know it
	// before: a certificate says it. Default one that is free.
	IP string

	// Observer leaves out --listen-client-urls: no clients, only probes.
	Observer bool

	// NotReady makes Start return once the process runs, without waiting for
	// /readyz: when no member is reachable, or the start is to fail.
	NotReady bool

	// KeepIn is a folder. If set, Parallax goes on when this process ends
	// without Close, and its records and log are files there that Close leaves:
	// a pipe would end with us.
	KeepIn string

	// Progress of the build, when a source changed.
	Progress func(binary.Progress)
}

// Process is a running Parallax.
type Process struct {
	// ClientURL is where clients connect, the first one of Options.Listen; empty for an observer.
	ClientURL string

	// AdminURL has /livez, /readyz, /metrics and /version.
	AdminURL string

	listen   *listeners
	process  *process.Process
	records  *recorder
	stderr   *os.File
	followed chan struct{} // closed when a kept file of records is read to its end; nil without one

	closed   sync.Once
	closeErr error
}

// Start builds Parallax if a source changed, starts it and waits until it is ready.
func Start(ctx context.Context, opts Options) (*Process, error) {
	path, err := binary.Builder{Progress: opts.Progress}.Parallax(ctx, opts.Race && binary.CanRace())
	if err != nil {
		return nil, err
	}
	return start(ctx, path, opts)
}

func start(ctx context.Context, path string, opts Options) (*Process, error) {
	if opts.Observer {
		opts.Listen = nil
	} else if opts.Listen == nil {
		opts.Listen = []string{"http"}
	}
	listen, err := newListeners(opts)
	if err != nil {
		return nil, err
	}
	p := &Process{AdminURL: listen.admin, listen: listen, records: newRecorder()}
	args := []string{"serve", "--listen-admin-urls=" + p.AdminURL, "--endpoints=" + strings.Join(opts.Endpoints, ",")}
	if !opts.Observer {
		p.ClientURL = p.URL(opts.Listen[0])
		args = append(args, "--listen-client-urls="+strings.Join(listen.urls(opts.Listen), ","))
	}
	spec := process.Spec{Path: path, Args: append(args, opts.Flags...), Env: opts.Env, DropEnv: []string{"PARALLAX_"}}
	if opts.KeepIn != "" {
		err = p.startKept(spec, opts.KeepIn)
	} else {
		err = p.startPiped(spec)
	}
	if err != nil {
		return nil, errors.Join(err, listen.close())
	}
	if opts.NotReady {
		return p, nil
	}
	if err := p.WaitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w, its log:\n%s", err, p.Log()), p.process.Kill(), p.dropLog(), listen.close())
	}
	return p, nil
}

// startPiped starts a Parallax that ends with us.
func (p *Process) startPiped(spec process.Spec) (err error) {
	if p.stderr, err = os.CreateTemp("", "parallax-stderr-"); err != nil {
		return err
	}
	spec.Stdout, spec.Stderr = p.records, p.stderr
	if p.process, err = process.Start(spec); err != nil {
		return errors.Join(err, p.dropLog())
	}
	return nil
}

// WaitReady returns when /readyz answers 200.
func (p *Process) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		body, err := p.get(ctx, "/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-p.process.Done():
			return fmt.Errorf("parallax ended before it was ready: %s", p.process.State())
		case <-ctx.Done():
			return fmt.Errorf("parallax is not ready: %w, last: %w %s", ctx.Err(), err, body)
		case <-tick.C:
		}
	}
}

// Metrics returns the samples of /metrics by name{labels}, as they are written there.
func (p *Process) Metrics(ctx context.Context) (map[string]float64, error) {
	body, err := p.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	return ParseMetrics(body)
}

// PID returns the process id.
func (p *Process) PID() int { return p.process.PID() }

// Signal sends a signal.
func (p *Process) Signal(sig os.Signal) error { return p.process.Signal(sig) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.process.Done() }

// ExitCode is -1 while the process runs, and after a signal ended it.
func (p *Process) ExitCode() int { return p.process.ExitCode() }

// Log returns what it has written to stderr. It is gone after Close, unless kept.
func (p *Process) Log() []byte {
	content, err := os.ReadFile(p.stderr.Name())
	if err != nil {
		return []byte(err.Error())
	}
	return content
}

// Kill ends the process with SIGKILL. Close no longer minds the exit code then,
// but still needs to be called.
func (p *Process) Kill() error { return p.process.Kill() }

// Close ends the process with SIGTERM, unless it has ended already, and says
// what was wrong with its life: an exit code other than 0, a data race, or
// anything on stdout that is not a record. Records stay readable. A second
// Close does nothing and returns the same.
func (p *Process) Close() error {
	p.closed.Do(func() { p.closeErr = p.close() })
	return p.closeErr
}

func (p *Process) close() error {
	var errs []error
	if p.process.Running() {
		errs = append(errs, p.process.Terminate(stopGrace))
	}
	if code := p.process.ExitCode(); code > 0 || code < 0 && p.process.Signaled() != syscall.SIGKILL {
		errs = append(errs, fmt.Errorf("parallax ended with %s, want 0; its log:\n%s", p.process.State(), p.Log()))
	}
	if log := p.Log(); bytes.Contains(log, []byte("DATA RACE")) {
		errs = append(errs, fmt.Errorf("parallax has a data race:\n%s", log))
	}
	dropped := p.dropLog() // first: it waits for the last record
	return errors.Join(append(errs, p.records.err(), dropped, p.listen.close())...)
}

func (p *Process) dropLog() error {
	if p.followed != nil {
		<-p.followed
		return p.stderr.Close()
	}
	return errors.Join(p.stderr.Close(), os.Remove(p.stderr.Name()))
}

// get asks the admin listener, on a connection that is closed afterwards: an
// idle one would be held by a goroutine that a leak check finds.
func (p *Process) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.AdminURL+path, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return body, err
}
