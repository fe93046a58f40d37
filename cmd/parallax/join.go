package main

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-parallax/parallax/config"
	"github.com/etcd-parallax/parallax/proxy"
	"github.com/etcd-parallax/parallax/proxy/tap"
	"github.com/etcd-parallax/parallax/shadow"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// ear is where the two wings meet: what the tap hears goes to the shadow.
type ear struct{ shadow *shadow.Shadow }

func (e ear) Request(method string) int { return e.shadow.Request(method) }

func (e ear) Response(method string, request []byte) tap.Limits {
	return tap.Limits{Bytes: e.shadow.Answer(method, request)}
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
	}
	return proxy.Unknown
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
