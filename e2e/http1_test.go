package e2e

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// HTTP/1.1 on the same port: every byte of the answers is that of a direct one, but for the Date header.
func TestHTTP1(t *testing.T) {
	t.Parallel()
	for _, version := range binary.EtcdVersions() {
		c := cluster.StartT(t, cluster.Options{Version: version, Size: 1})
		p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true})
		if _, err := c.Put(t.Context(), "/http", strings.Repeat("v", 100<<10)); err != nil {
			t.Fatal(err)
		}
		post := func(path, body string) string {
			return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
		}
		requests := map[string]string{
			"version":      "GET /version HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n",
			"health":       "GET /health HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n",
			"one point oh": "GET /version HTTP/1.0\r\n\r\n",
			"pipelined":    "GET /version HTTP/1.1\r\nHost: etcd\r\n\r\nGET /health HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n",
			"range":        post("/v3/kv/range", `{"key":"L2h0dHA="}`),
			"future":       post("/v3/kv/range", `{"key":"L2h0dHA=","revision":"1000"}`),
			"not JSON":     post("/v3/kv/range", `{`),
			"not there":    "GET /nothing HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n",
			"not HTTP":     "what is this?\r\n\r\n",
		}
		for name, request := range requests {
			want, got := talk(t, c.Members[0].ClientURL, request), talk(t, p.ClientURL, request)
			if got != want {
				t.Errorf("etcd %s, %s: got %.2000q, directly %.2000q", version, name, got, want)
			}
			if fine := strings.HasPrefix(want, "HTTP/1.1 200") || strings.HasPrefix(want, "HTTP/1.0 200"); fine == (strings.HasPrefix(name, "not") || name == "future") {
				t.Errorf("etcd %s, %s: the member itself answers %.200q", version, name, want)
			}
		}
		eventually(t, 10*time.Second, "a tap that knows it for what it is", func() bool {
			return count(t, p, "parallax_proxy_tap_ended_total", `reason="not-http2"`) > 0
		})
	}
}

var date = regexp.MustCompile(`\r\nDate: [^\r]*`)

// talk sends a request and returns all that is answered until the other side closes.
func talk(t *testing.T, endpoint, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return date.ReplaceAllString(string(answer), "")
}
