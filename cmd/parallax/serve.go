package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/etcd-parallax/parallax/config"
	"github.com/etcd-parallax/parallax/proxy"
	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// server is what `parallax serve` runs: the two wings, and what joins them.
type server struct {
	cfg   *config.Config
	level *slog.LevelVar
	log   *slog.Logger

	certs     certificates
	members   *member.Set
	proxy     *proxy.Proxy      // nil: an observer without clients
	listeners []*proxy.Listener // of clients
	readers   *readers          // nil with --shadow=false
	records   *divergence.Log   // nil with --shadow=false
	file      *divergence.File  // nil where the records go to stdout
	admin     *admin
	deaf      atomic.Bool // a client listener failed, or Parallax stops
}

// serve runs until ctx ends, and then stops in order.
func serve(ctx context.Context, cfg *config.Config, load func() (*config.Config, error), p process) error {
	s, err := newServer(ctx, cfg, p)
	if err != nil {
		return err
	}
	return s.run(ctx, load, p.hangup)
}

// newServer joins everything. GUARANTEE G2: only what keeps clients from being
// served stops the start; members, divergence log and admin port are tried again
// while clients are served.
func newServer(ctx context.Context, cfg *config.Config, p process) (*server, error) {
	s := &server{cfg: cfg, level: new(slog.LevelVar)}
	s.level.Set(cfg.LogLevel)
	s.log = newLogger(p.stderr, s.level, cfg.LogFormat)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(buildInfo(), droppedLines(p.stderr))

	var err error
	if s.certs, err = newCertificates(cfg, s.log, registry); err != nil {
		return nil, err
	}
	s.members = &member.Set{
		Endpoints: texts(cfg.Endpoints), Discover: cfg.DiscoverMembers && cfg.Shadow, DialTimeout: cfg.DialTimeout,
		TLS: s.certs.shadow.Config, Login: login(cfg), Logger: s.log, Metrics: member.NewMetrics(registry),
	}
	if cfg.Shadow {
		s.newShadow(p, registry)
	}
	if err := s.newProxy(ctx, registry); err != nil {
		return nil, err
	}
	s.admin = &admin{
		addresses: addresses(cfg.ListenAdminURLs), metrics: registry, pprof: cfg.EnablePprof, log: s.log,
		// Divergence is no reason not to be ready: taking Parallax out of service would not mend it.
		checks: []check{{name: "listening", ready: s.listening}, {name: "member-reachable", ready: s.memberReachable}},
	}
	if s.readers != nil {
		s.admin.coverage = s.readers.probe.Coverage
	}
	return s, nil
}

func (s *server) newShadow(p process, registry prometheus.Registerer) {
	log := divergence.Config{Sink: p.stdout, Metrics: registry, Report: s.reportLog}
	if s.cfg.DivergenceLog != "" {
		s.file = divergence.NewFile(s.cfg.DivergenceLog)
		log.Sink = s.file
	}
	s.records = divergence.New(log)
	s.readers = s.newReaders(registry)
}

func (s *server) newProxy(ctx context.Context, registry prometheus.Registerer) error {
	for _, u := range s.cfg.ListenClientURLs {
		l, err := s.listen(ctx, u)
		if err != nil {
			s.closeListeners()
			return fmt.Errorf("listen for clients, --listen-client-urls: %w", err)
		}
		s.listeners = append(s.listeners, l)
	}
	if len(s.listeners) == 0 {
		return nil
	}
	s.proxy = &proxy.Proxy{
		Endpoints: texts(s.cfg.Endpoints), Prefer: texts(s.cfg.PreferEndpoints), Health: s.health,
		MemberTLS: s.certs.member.Config, DialTimeout: s.cfg.DialTimeout, HandshakeTimeout: s.cfg.HandshakeTimeout,
		MaxConnections: s.cfg.MaxConnections, MaxPerPeer: s.cfg.MaxConnectionsPerPeer,
		Methods: methods(), Epoch: s.members.Epoch, Logger: s.log, Metrics: proxy.NewMetrics(registry),
	}
	s.warnOfFileLimit()
	if s.readers != nil {
		s.proxy.Observer = ear{s.readers.shadow}
	}
	return nil
}

func (s *server) closeListeners() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
}

// run serves until ctx ends. At the end the clients go first, then what watched
// them, and last the divergence log, so that the last word is written.
func (s *server) run(ctx context.Context, load func() (*config.Config, error), hangup <-chan struct{}) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	s.log.Info("starting", "version", readVersion().String())
	var clients, rest sync.WaitGroup
	for _, l := range s.listeners {
		s.log.Info("serving clients", "address", l.Addr().String(), "tls", l.TLS != nil, "passthrough", l.Passthrough, "endpoints", texts(s.cfg.Endpoints))
		clients.Go(func() {
			if err := s.proxy.Serve(l); !errors.Is(err, proxy.ErrClosed) {
				s.deaf.Store(true)
				s.log.Error("client listener failed; clients cannot connect there any more, restart Parallax", "address", l.Addr().String(), "error", err)
			}
		})
	}
	if s.proxy == nil {
		s.log.Info("observing without clients: --listen-client-urls is empty", "endpoints", texts(s.cfg.Endpoints))
	}
	rest.Go(func() { _ = s.members.Run(background) }) // ends only with its context
	rest.Go(func() { s.admin.Run(background) })
	rest.Go(func() { s.certs.watcher.Run(background) })
	if s.proxy != nil && (s.cfg.MoveClients || s.cfg.RebalanceClients) {
		rest.Go(func() { s.proxy.Tend(background, s.cfg.RebalanceClients) })
	}
	rest.Go(func() { s.control(background, load, hangup) })
	if s.readers != nil {
		rest.Go(func() { s.readers.run(background) })
	}
	var logged error
	var records sync.WaitGroup
	if s.records != nil {
		records.Go(func() { logged = s.records.Run(context.WithoutCancel(ctx)) })
	}

	<-ctx.Done()
	s.deaf.Store(true)
	s.log.Info("stopping", "reason", context.Cause(ctx), "timeout", s.cfg.ShutdownTimeout)
	s.drain(ctx)
	clients.Wait()
	stop()
	var hung error
	if !within(lastWords, rest.Wait) { // a pause file on a hung file system, for one
		hung = errors.New("stopped, but not all of it ended: something hangs, a pause file on a hung file system for one")
	}
	if s.records != nil {
		s.records.Close()
		records.Wait()
	}
	if s.file != nil {
		logged = errors.Join(logged, s.file.Close())
	}
	if logged != nil {
		s.log.Error("records were lost at the end", "error", logged)
	}
	s.log.Info("stopped")
	return hung
}

// lastWords is how long what is not the clients' may take to end, once they are
// gone; what waits for the divergence log is written in it.
const lastWords = 3 * time.Second

// within tells whether wait returned in time.
func within(limit time.Duration, wait func()) bool {
	over := make(chan struct{})
	go func() { wait(); close(over) }()
	select {
	case <-over:
		return true
	case <-time.After(limit):
		return false
	}
}

// drain lets the clients go: see proxy.Shutdown.
func (s *server) drain(ctx context.Context) {
	if s.proxy == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
	defer cancel()
	if err := s.proxy.Shutdown(ctx); err != nil {
		s.log.Warn("connections were still open when --shutdown-timeout was over, and were ended: open watches come back by themselves, a call under way fails; give it longer if that happens", "error", err)
	}
}
