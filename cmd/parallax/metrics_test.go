package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-parallax/parallax/proxy"
	"github.com/etcd-parallax/parallax/proxy/certs"
	"github.com/etcd-parallax/parallax/shadow"
	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/follow"
	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/probe"
	"github.com/etcd-parallax/parallax/shadow/sweep"
)

// catalog is a Registerer that writes down what is registered.
type catalog struct{ names []string }

var described = regexp.MustCompile(`fqName: "(\w+)".*constLabels: \{(.*?)\}, variableLabels: \{(.*?)\}`)

func (c *catalog) Register(m prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 10)
	m.Describe(descs)
	close(descs)
	for d := range descs {
		f := described.FindStringSubmatch(d.String())
		name := f[1]
		if f[3] != "" {
			name += "{" + f[3] + "}"
		}
		c.names = append(c.names, name)
	}
	return nil
}

func (c *catalog) MustRegister(all ...prometheus.Collector) {
	for _, m := range all {
		_ = c.Register(m)
	}
}

func (c *catalog) Unregister(prometheus.Collector) bool { return false }

// A metric that is not documented does not exist, and no documented one is
// missing; with its labels.
func TestEveryMetricIsDocumented(t *testing.T) {
	var c catalog
	proxy.NewMetrics(&c)
	certs.NewMetrics(&c)
	member.NewMetrics(&c)
	shadow.NewMetrics(&c)
	probe.NewMetrics(&c)
	sweep.NewMetrics(&c)
	follow.NewMetrics(&c)
	divergence.New(divergence.Config{Metrics: &c})
	c.MustRegister(droppedLines(nil))
	c.names = append(c.names, "parallax_build_info{version,revision,go_version}")
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(parallax_[^`]*)`").FindAllSubmatch(doc, -1) {
		documented = append(documented, string(m[1]))
	}
	for _, name := range c.names {
		if !slices.Contains(documented, name) {
			t.Errorf("docs/metrics.md lacks %s", name)
		}
	}
	for _, name := range documented {
		if !slices.Contains(c.names, name) {
			t.Errorf("docs/metrics.md has %s, and nobody registers it", name)
		}
		if _, labels, _ := strings.Cut(name, "{"); strings.Contains(labels, "key") {
			t.Errorf("%s: a key must never be a label", name)
		}
	}
}
