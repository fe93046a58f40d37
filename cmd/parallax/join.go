package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/etcd-parallax/parallax/config"
	"github.com/etcd-parallax/parallax/proxy"
	"github.com/etcd-parallax/parallax/proxy/certs"
	"github.com/etcd-parallax/parallax/proxy/tap"
	"github.com/etcd-parallax/parallax/proxy/transport"
	"github.com/etcd-parallax/parallax/shadow"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// ear is where the two wings meet: what the tap hears goes to the shadow.
type ear struct{ shadow *shadow.Shadow }

func (e ear) Request(method string) int { return e.shadow.Request(method) }

func (e ear) Response(method string, request []byte) tap.Limits {
	l := tap.Limits{Bytes: e.shadow.Answer(method, request)}
	if e.shadow.Watch(method) {
		l.Each, l.Wanted = true, e.shadow.Event
	}
	return l
}

func (e ear) Observe(c tap.Call) {
	e.shadow.Observe(shadow.Call{
		Method: c.Method, Endpoint: c.Endpoint, Epoch: c.Epoch, Request: c.Request, Responses: c.Responses, Truncated: c.Truncated, Code: c.Code,
	})
}

// health translates what the probes know of an endpoint for the picker.
func (s *server) health(endpoint string) proxy.Health {
	switch s.members.Health(endpoint) {
	case member.Serving:
		return proxy.Serving
	case member.Unfit:
		return proxy.Unfit
	case member.Lost:
		if s.cfg.MoveClients {
			return proxy.Lost
		}
		return proxy.Unfit
	}
	return proxy.Unknown
}

// certificates are all that come from files, and are read again when the files change.
type certificates struct {
	listener       *certs.Server // nil: no https listener
	member, shadow *certs.Client // the same, unless the shadow has a certificate of its own
	watcher        *certs.Watcher
}

func newCertificates(cfg *config.Config, log *slog.Logger, registry prometheus.Registerer) (c certificates, err error) {
	c.watcher = &certs.Watcher{Logger: log, Metrics: certs.NewMetrics(registry)}
	if slices.ContainsFunc(cfg.ListenClientURLs, func(u config.URL) bool { return u.Scheme == "https" }) {
		if c.listener, err = certs.NewServer(certs.ServerOptions{
			CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, TrustedCAFile: cfg.TrustedCAFile, ClientCertAuth: cfg.ClientCertAuth,
			AllowedCNs: cfg.ClientCertAllowedCNs, AllowedHostnames: cfg.ClientCertAllowedHostnames,
			CipherSuites: cfg.CipherSuites, MinVersion: cfg.TLSMinVersion,
		}); err != nil {
			return c, fmt.Errorf("tls of the https listeners: %w", err)
		}
		c.watcher.Watched = append(c.watcher.Watched, certs.Watched{Role: "listener", Files: c.listener})
	}
	options := certs.ClientOptions{
		CACert: cfg.CACert, Cert: cfg.Cert, Key: cfg.Key, InsecureSkipVerify: cfg.InsecureSkipTLSVerify, ServerName: cfg.TLSServerName,
	}
	if c.member, err = certs.NewClient(options); err != nil {
		return c, fmt.Errorf("tls towards the members: %w", err)
	}
	c.shadow = c.member
	c.watcher.Watched = append(c.watcher.Watched, certs.Watched{Role: "member", Files: c.member})
	if cfg.ShadowCert != "" {
		options.Cert, options.Key = cfg.ShadowCert, cfg.ShadowKey
		if c.shadow, err = certs.NewClient(options); err != nil {
			return c, fmt.Errorf("tls of the shadow: %w", err)
		}
		c.watcher.Watched = append(c.watcher.Watched, certs.Watched{Role: "shadow", Files: c.shadow})
	}
	return c, nil
}

func login(cfg *config.Config) *member.Login {
	if cfg.ShadowUser == "" {
		return nil
	}
	return &member.Login{User: cfg.ShadowUser, PasswordFile: cfg.ShadowPasswordFile}
}

// listen opens one address for clients.
func (s *server) listen(ctx context.Context, u config.URL) (*proxy.Listener, error) {
	opened, err := transport.Listen(ctx, u.String(), transport.ListenOptions{
		SocketMode: s.cfg.UnixSocketMode, SocketOwner: s.cfg.UnixSocketOwner, ReusePort: s.cfg.ReusePort,
	})
	if err != nil {
		return nil, err
	}
	l := &proxy.Listener{Listener: opened, Passthrough: opened.Passthrough}
	if opened.TLS {
		l.TLS = s.certs.listener.Config
	}
	if s.cfg.ReusePort {
		l.Handover = func(ctx context.Context) bool {
			opened.CloseGently(ctx)
			return opened.Successor(ctx)
		}
	}
	return l, nil
}

// methods of etcd, that the metrics tell apart.
func methods() []string {
	list := []string{ // of services whose descriptions belong to etcd's server module
		"/v3electionpb.Election/Campaign", "/v3electionpb.Election/Proclaim", "/v3electionpb.Election/Leader",
		"/v3electionpb.Election/Observe", "/v3electionpb.Election/Resign",
		"/v3lockpb.Lock/Lock", "/v3lockpb.Lock/Unlock",
		"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
	}
	for _, service := range []grpc.ServiceDesc{
		pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc, pb.Cluster_ServiceDesc, pb.Maintenance_ServiceDesc, pb.Auth_ServiceDesc,
	} {
		for _, m := range service.Methods {
			list = append(list, "/"+service.ServiceName+"/"+m.MethodName)
		}
		for _, m := range service.Streams {
			list = append(list, "/"+service.ServiceName+"/"+m.StreamName)
		}
	}
	return list
}

// filesPerConnection: the client's, and the member's.
const filesPerConnection = 2

// warnOfFileLimit: when files run out clients cannot connect, and logs cannot be opened.
func (s *server) warnOfFileLimit() {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return
	}
	if want := filesPerConnection * uint64(s.cfg.MaxConnections); limit.Cur < want {
		s.log.Warn("the limit of open files does not suffice for --max-connections: raise it (LimitNOFILE), or lower --max-connections",
			"limit", limit.Cur, "needed", want)
	}
}

var (
	errDeaf     = errors.New("clients cannot connect: Parallax stops, or a client listener failed (see the log, and restart Parallax)")
	errNoMember = errors.New("no member answered its last probe: check --endpoints, and the members")
)

func (s *server) listening() error {
	if s.deaf.Load() {
		return errDeaf
	}
	return nil
}

func (s *server) memberReachable() error {
	if s.members.Reachable(s.proxy != nil) == 0 {
		return errNoMember
	}
	return nil
}

// reportLog is told when the divergence log cannot be written, and when it can
// again.
func (s *server) reportLog(err error) {
	if err == nil {
		s.log.Info("divergence log can be written again")
		return
	}
	s.log.Error("divergence log cannot be written; records wait, and it is tried again: check path, permissions, disk, or the reader of stdout", "error", err)
}

func rates(c *config.Config) shadow.Rates {
	r := shadow.Rates{
		ReadsPerSecond: c.ShadowMaxReadsPerSecond, BytesPerSecond: float64(c.ShadowMaxBytesPerSecond),
		Reads: c.SampleReads, Writes: c.SampleWrites,
	}
	for _, p := range c.SamplePrefixes {
		r.Prefixes = append(r.Prefixes, shadow.PrefixRate{Prefix: p.Prefix, Reads: p.Reads, Writes: p.Writes})
	}
	return r
}

// buildInfo is a metric that is always 1, with the build as its labels.
func buildInfo() prometheus.Collector {
	v := readVersion()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "parallax_build_info", Help: "Always 1; the labels name the build.",
		ConstLabels: prometheus.Labels{"version": v.Parallax, "revision": v.Revision, "go_version": v.Go},
	}, func() float64 { return 1 })
}

// droppedLines counts what the operational log lost.
func droppedLines(w *asyncWriter) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "parallax_log_lines_dropped_total", Help: "Lines of the operational log that were dropped, because the reader of stderr is too slow or gone.",
	}, func() float64 { return float64(w.Dropped()) })
}

func texts(urls []config.URL) []string {
	list := make([]string, len(urls))
	for i, u := range urls {
		list[i] = u.String()
	}
	return list
}

func addresses(urls []config.URL) []string {
	list := make([]string, len(urls))
	for i, u := range urls {
		list[i] = u.Address
	}
	return list
}
