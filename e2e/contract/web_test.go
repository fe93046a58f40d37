package contract

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"testing"
)

// Point 11: HTTP/1.1 on the same port. Point 13: what client and member agree on.
func webPoints() []point {
	return []point{
		{name: "version, health and metrics", run: webPages},
		{name: "the JSON gateway", run: gateway},
		{name: "a watch through the JSON gateway", run: gatewayWatch},
		{name: "what TLS agrees on", run: negotiation, bothTLS: true},
	}
}

func webPages(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	client, base := p.web(t)
	for _, path := range []string{"/version", "/health", "/version", "/nothing"} { // on one connection
		saw.say("%s", get(t, client, base+path))
	}
	if !strings.Contains(saw.lines[0], p.version()) || !strings.Contains(saw.lines[1], `"health":"true"`) {
		t.Errorf("saw %q", saw.lines)
	}
	head, metrics, _ := strings.Cut(get(t, client, base+"/metrics"), "# HELP")
	saw.say("%s", head)
	for _, name := range regexp.MustCompile(`(?m)^# TYPE (etcd_server\S*)`).FindAllStringSubmatch(metrics, -1) {
		saw.say("%s", name[1])
	}
	if len(saw.lines) < 15 {
		t.Errorf("few metrics: %q", saw.lines)
	}
	return saw
}

func gateway(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	client, base := p.web(t)
	k := base64.StdEncoding.EncodeToString([]byte(key(t, "json")))
	for _, c := range []struct{ path, body string }{
		{"kv/put", `{"key":"` + k + `","value":"` + strings.Repeat("dmFs", 1000) + `"}`},
		{"kv/range", `{"key":"` + k + `"}`},
		{"kv/txn", `{"success":[{"requestDeleteRange":{"key":"` + k + `"}}]}`},
		{"kv/range", `{"key":"` + k + `","revision":"1000000"}`},
		{"kv/range", `{`},
		{"maintenance/status", `{}`},
		{"lease/timetolive", `{"ID":"4711"}`},
		{"no/thing", `{}`},
	} {
		resp, err := client.Post(base+"/v3/"+c.path, "application/json", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		saw.say("%s %s %v %s", c.path, resp.Status, headers(resp), moving.ReplaceAll(body, []byte("N")))
	}
	if !strings.Contains(saw.lines[1], "200 OK") || !strings.Contains(saw.lines[3], "required revision is a future revision") {
		t.Errorf("saw %q", saw.lines)
	}
	return saw
}

// moving are figures that other points move, and the key.
var moving = regexp.MustCompile(`"(revision|create_revision|mod_revision|dbSize|dbSizeInUse|raftIndex|raftAppliedIndex|key)":"[^"]*"`)

func gatewayWatch(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	client, base := p.web(t)
	k := base64.StdEncoding.EncodeToString([]byte(key(t, "jsonwatch")))
	resp, err := client.Post(base+"/v3/watch", "application/json", strings.NewReader(`{"create_request":{"key":"`+k+`"}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	saw.say("%s %v", resp.Status, headers(resp))
	lines := bufio.NewReader(resp.Body)
	next := func() {
		t.Helper()
		line, err := lines.ReadBytes('\n')
		if err != nil || !json.Valid(line) {
			t.Fatalf("%s, %v", line, err)
		}
		saw.say("%s", moving.ReplaceAll(line, []byte("N")))
	}
	next()
	for i := range 3 { // each arrives before the next one is written
		value := base64.StdEncoding.EncodeToString([]byte{byte(i)})
		put, err := client.Post(base+"/v3/kv/put", "application/json", strings.NewReader(`{"key":"`+k+`","value":"`+value+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, put.Body)
		put.Body.Close()
		next()
		if !strings.Contains(saw.lines[len(saw.lines)-1], value) {
			t.Errorf("event %d is %s", i, saw.lines[len(saw.lines)-1])
		}
	}
	return saw
}

// negotiation: what a client offers comes to the same. etcd names no protocol to clients that offer no HTTP/2, where Parallax names
// the HTTP/1.1 that they offered: both mean that it is spoken.
func negotiation(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	for _, offer := range [][]string{{"h2"}, {"http/1.1"}, {"h2", "http/1.1"}, {"http/1.1", "h2"}, {"imagined", "h2"}, nil} {
		conn := p.dial(t, offer...).(*tls.Conn)
		if got := conn.ConnectionState().NegotiatedProtocol; got == "h2" {
			saw.say("%q: %s", offer, got)
			continue
		}
		if _, err := fmt.Fprint(conn, "GET /version HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		saw.say("%q: %s", offer, regexp.MustCompile(`\r\nDate: [^\r]*`).ReplaceAll(answer, nil))
	}
	return saw
}

// get says all of an answer that does not depend on the time.
func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %s %v %s", resp.Proto, resp.Status, headers(resp), content)
}

// headers in an order of ours, without the time and the length of what moves.
func headers(resp *http.Response) (lines []string) {
	for name, values := range resp.Header {
		if name != "Date" && name != "Content-Length" {
			lines = append(lines, fmt.Sprintf("%s: %q", name, values))
		}
	}
	sort.Strings(lines)
	return append(lines, fmt.Sprint(resp.TransferEncoding))
}
