package cluster_test

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
)

func TestWhoMaySpeakToMembersWithTLS(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]cluster.TLS{"server": cluster.ServerTLS, "mutual": cluster.MutualTLS} {
		c := cluster.StartT(t, cluster.Options{Version: binary.Etcd37, Size: 1, TLS: secure})
		if _, err := c.Put(t.Context(), "k", "v"); err != nil {
			t.Fatal(err)
		}
		anonymous, err := c.PKI.ClientTLS()
		if err != nil {
			t.Fatal(err)
		}
		for who, config := range map[string]*tls.Config{"plain": nil, "anonymous": anonymous} {
			want := who == "anonymous" && secure == cluster.ServerTLS
			if served := serves(t, c.Members[0].ClientURL, config); served != want {
				t.Errorf("%s TLS serves a %s client: %v", name, who, served)
			}
		}
	}
}

func serves(t *testing.T, url string, config *tls.Config) bool {
	t.Helper()
	if config == nil {
		url = "http" + url[len("https"):]
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, TLS: config, DialTimeout: time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // a refused one tries for ever
	defer cancel()
	got, err := client.Get(ctx, "k")
	return err == nil && got.Count == 1
}

func TestOldEtcd(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd34, TLS: cluster.MutualTLS})
	if _, err := c.Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
}
