package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/etcd-parallax/parallax/proxy/tap"
)

// HTTP/1.1 on the same port (/version, /health, the JSON gateway) is relayed without being listened to, also
// when the answer never ends.
func TestHTTP1(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v3/kv/range", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(bytes.ToUpper(body))
	})
	mux.HandleFunc("POST /v3/watch", func(w http.ResponseWriter, r *http.Request) {
		for i := 0; r.Context().Err() == nil; i++ {
			_, _ = fmt.Fprintf(w, "event %d\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(time.Millisecond):
			case <-r.Context().Done():
			}
		}
	})
	p := &Proxy{Endpoints: []string{httpMember(t, mux)}, Observer: observer{}, Metrics: NewMetrics(nil)}
	url := "http://" + serve(t, p)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for i := range 100 {
		question := strings.Repeat(fmt.Sprintf("q%d ", i), i*i)
		got := post(t, client, url+"/v3/kv/range", question)
		all, err := io.ReadAll(got)
		_ = got.Close()
		if err != nil || string(all) != strings.ToUpper(question) {
			t.Fatalf("%d bytes asked, %d answered, %v", len(question), len(all), err)
		}
	}
	watch := post(t, client, url+"/v3/watch", "{}")
	lines := make([]byte, len("event 0\nevent 1\nevent 2\n"))
	if _, err := io.ReadFull(watch, lines); err != nil || string(lines) != "event 0\nevent 1\nevent 2\n" {
		t.Errorf("%q, %v", lines, err)
	}
	_ = watch.Close()
	if got := testutil.ToFloat64(p.Metrics.tapsEnded.WithLabelValues(string(tap.ReasonNotHTTP2))); got == 0 {
		t.Error("no connection is counted as not HTTP/2")
	}
}

func httpMember(t testing.TB, h http.Handler) (endpoint string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func post(t *testing.T, client *http.Client, url, body string) io.ReadCloser {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Body
}
