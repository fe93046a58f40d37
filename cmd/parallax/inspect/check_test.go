package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// keeping n keys, of which some are another on this member.
func keeping(n int, others ...int) func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return func(_ context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
		resp := &pb.RangeResponse{}
		for i := range n {
			kv := &mvccpb.KeyValue{Key: fmt.Appendf(nil, "/k/%04d", i), Value: []byte("a secret"), CreateRevision: 3, ModRevision: 3, Version: 1}
			for _, o := range others {
				if o == i {
					kv.Value = []byte("another secret")
				}
			}
			end := req.GetRangeEnd()
			if bytes.Compare(kv.Key, req.GetKey()) < 0 || len(end) == 0 && !bytes.Equal(kv.Key, req.GetKey()) ||
				len(end) > 0 && !bytes.Equal(end, []byte{0}) && bytes.Compare(kv.Key, end) >= 0 {
				continue
			}
			if resp.Count++; req.GetLimit() == 0 || resp.Count <= req.GetLimit() {
				resp.Kvs = append(resp.Kvs, kv)
			}
		}
		return resp, nil
	}
}

func check(t *testing.T, args ...string) (code int, stdout string) {
	t.Helper()
	var out bytes.Buffer
	cmd := Check(&out, io.Discard)
	cmd.SetArgs(args)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	if exit, ok := errors.AsType[ExitError](err); ok {
		code = exit.Code
	} else if err != nil {
		code = 2
	}
	return code, out.String()
}

func clusterOf(t *testing.T, others ...int) *membertest.Cluster {
	c := membertest.Start(t, 3, 10)
	for i, m := range c.Members {
		m.Change(func(m *membertest.Member) {
			m.Range = keeping(1000)
			if i == 2 {
				m.Range = keeping(1000, others...)
			}
		})
	}
	return c
}

func TestCheckFindsNothing(t *testing.T) {
	c := clusterOf(t)
	code, out := check(t, "--endpoints", c.URLs()[0], "--rate", "0")
	if code != 0 || !strings.HasPrefix(out, "CONSISTENT: 0 keys differ of 1,000 that were compared on 3 members") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestCheckNamesWhatDiffers(t *testing.T) {
	c := clusterOf(t, 7, 900)
	args := []string{"--endpoints", c.URLs()[0], "--rate", "0"}
	code, out := check(t, args...)
	for _, want := range []string{"/k/0007: value\n", "/k/0900: value\n", "    A, B: 8 bytes, hash ", "    C: 14 bytes, hash ", "DIVERGENT: 2 keys differ of 1,000"} {
		if code != 1 || !strings.Contains(out, want) {
			t.Errorf("exit %d, without %q:\n%s", code, want, out)
		}
	}
	code, doc := check(t, append(args, "--output", "json")...)
	var v verdict
	if err := json.Unmarshal([]byte(doc), &v); err != nil || code != 1 || v.Verdict != "divergent" || v.Keys != 1000 || v.Differing != 2 || len(v.Findings) != 2 || len(v.Members) != 3 {
		t.Errorf("exit %d, %v\n%s", code, err, doc)
	}
	code, lines := check(t, append(args, "--output", "ndjson")...)
	all := strings.Split(strings.TrimSpace(lines), "\n")
	if code != 1 || len(all) != 3 || !strings.Contains(all[0], `"schema":"parallax.divergence/v1"`) || !strings.Contains(all[2], `"schema":"parallax.check/v1"`) {
		t.Errorf("exit %d\n%s", code, lines)
	}
	for _, text := range []string{out, doc, lines} {
		if strings.Contains(text, "secret") {
			t.Errorf("a value is printed (G8):\n%s", text)
		}
	}
}

func TestCheckGoesOn(t *testing.T) {
	c := clusterOf(t, 7, 900)
	code, out := check(t, "--endpoints", c.URLs()[0], "--rate", "0", "--max-findings", "1", "--output", "json")
	var v verdict
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 1 || v.Differing != 1 || v.GoOn == "" {
		t.Fatalf("exit %d, %v\n%s", code, err, out)
	}
	code, out = check(t, "--endpoints", c.URLs()[0], "--rate", "0", "--from-key", v.GoOn)
	if code != 1 || !strings.Contains(out, "/k/0900") || strings.Contains(out, "/k/0007") {
		t.Errorf("exit %d\n%s", code, out)
	}
	code, out = check(t, "--endpoints", c.URLs()[0], "--rate", "0", "--prefix", "/k/00")
	if code != 1 || !strings.Contains(out, "1 keys differ of 100 ") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestCheckThatCannotTell(t *testing.T) {
	t.Run("a member is behind", func(t *testing.T) {
		c := clusterOf(t)
		c.Members[1].Change(func(m *membertest.Member) { m.Revision = 8 })
		code, out := check(t, "--endpoints", c.URLs()[0], "--rate", "0")
		if code != 3 || !strings.Contains(out, "member B (2, "+c.URLs()[1]+"): has a lower revision than others") {
			t.Errorf("exit %d\n%s", code, out)
		}
	})
	t.Run("one member", func(t *testing.T) {
		c := membertest.Start(t, 1, 10)
		code, out := check(t, "--endpoints", c.URLs()[0])
		if code != 3 || !strings.Contains(out, "nothing to compare it with") {
			t.Errorf("exit %d\n%s", code, out)
		}
	})
	t.Run("reads are refused", func(t *testing.T) {
		c := clusterOf(t)
		for _, m := range c.Members {
			m.Stop()
		}
		if code, out := check(t, "--endpoints", c.URLs()[0]); code != 3 {
			t.Errorf("exit %d\n%s", code, out)
		}
	})
}

func TestCheckUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--output", "xml"}, {"--rate", "-1"}, {"--max-findings", "-1"}, {"--from-key", "base64:%%"}, {"--prefix", "a", "--from-key", "b"}, {"key"},
	} {
		if code, out := check(t, args...); code != 2 || out != "" {
			t.Errorf("%q: exit %d, %s", args, code, out)
		}
	}
}

func TestAKeyCanBePasted(t *testing.T) {
	for key, want := range map[string]string{
		"/registry/pods/a": "/registry/pods/a", "it's": `'it'\''s'`, "\x00\xff": "base64:AP8=", "base64:x": "base64:YmFzZTY0Ong=", "": "''",
	} {
		got := pasted(forFlag([]byte(key)))
		if got != want {
			t.Errorf("%q: %s, want %s", key, got, want)
		}
		if strings.HasPrefix(got, "base64:") {
			if b, err := bytesOf("from-key", got); err != nil || string(b) != key {
				t.Errorf("%q comes back as %q, %v", key, b, err)
			}
		}
	}
}
