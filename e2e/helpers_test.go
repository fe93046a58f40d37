package e2e

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// connect returns a client of the given endpoints.
func connect(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// eventually waits for a condition.
func eventually(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// count sums up a metric over the labels that are not named.
func count(t testing.TB, p *parallax.Process, name string, labels ...string) float64 {
	t.Helper()
	return parallax.Sum(metrics(t, p), name, labels...)
}

func metrics(t testing.TB, p *parallax.Process) map[string]float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m, err := p.Metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// checks are the verdicts so far, for messages.
func checks(t testing.TB, p *parallax.Process) map[string]float64 {
	t.Helper()
	m := metrics(t, p)
	maps.DeleteFunc(m, func(name string, _ float64) bool {
		return !strings.HasPrefix(name, "parallax_shadow_") || strings.Contains(name, "_bucket")
	})
	return m
}

// silent checks that nothing was said.
func silent(t testing.TB, p *parallax.Process) {
	t.Helper()
	for _, r := range p.Records() {
		t.Errorf("a healthy cluster was accused: %s", r.Raw)
	}
}
