package shadow

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

// The transcripts in testdata/question tell, call by call, what is asked of the
// members and what the client was told. A case is
//
//	Put|Range|RangeStream|DeleteRange|Txn|Watch [epoch=N] [code=N] [cut=BYTES]
//	the request, as text
//	==
//	the answer, as text (several messages of a stream are split by ==)
//
// Of a list, the first possible slice is picked.
func TestQuestionTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/question", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			targets, why := questions(parseCall(t, d), func(int) int { return 0 })
			if why != "" {
				return fmt.Sprintf("nothing is asked (%s)\n", why)
			}
			var b strings.Builder
			for _, q := range targets {
				renderTarget(&b, q)
			}
			return b.String()
		})
	})
}

func parseCall(t *testing.T, d *datadriven.TestData) Call {
	c := Call{Method: "/etcdserverpb.KV/" + d.Cmd, Epoch: 1}
	if d.Cmd == "Watch" {
		c.Method = methodWatch
	}
	d.MaybeScanArgs(t, "epoch", &c.Epoch)
	d.MaybeScanArgs(t, "code", &c.Code)
	parts := strings.Split(d.Input, "==\n")
	req, resp := messages(t, d.Cmd)
	c.Request = encode(t, parts[0], req)
	for _, text := range parts[1:] {
		c.Responses = append(c.Responses, encode(t, text, resp))
	}
	if cut := 0; d.MaybeScanArgs(t, "cut", &cut) {
		last := len(c.Responses) - 1
		c.Responses[last] = c.Responses[last][:cut]
		c.Truncated = true
	}
	return c
}

func messages(t *testing.T, method string) (req, resp proto.Message) {
	switch method {
	case "Range":
		return &pb.RangeRequest{}, &pb.RangeResponse{}
	case "RangeStream":
		return &pb.RangeRequest{}, &pb.RangeStreamResponse{}
	case "Put":
		return &pb.PutRequest{}, &pb.PutResponse{}
	case "DeleteRange":
		return &pb.DeleteRangeRequest{}, &pb.DeleteRangeResponse{}
	case "Watch":
		return &pb.WatchRequest{}, &pb.WatchResponse{}
	case "Txn":
		return &pb.TxnRequest{}, &pb.TxnResponse{}
	}
	t.Fatalf("unknown method %q", method)
	return nil, nil
}

func encode(t *testing.T, text string, m proto.Message) []byte {
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func renderTarget(b *strings.Builder, q target) {
	fmt.Fprintf(b, "%s: ask %q", q.kind, q.Key)
	if len(q.End) > 0 {
		fmt.Fprintf(b, " to %q", q.End)
	}
	switch q.Revision {
	case 0:
		b.WriteString(" at the highest revision of all\n")
	default:
		fmt.Fprintf(b, " at %d\n", q.Revision)
	}
	for _, c := range q.claims {
		fmt.Fprintf(b, "  member %d, epoch %d, said", c.Member, c.Epoch)
		for _, kv := range c.KVs {
			fmt.Fprintf(b, " %s", renderKV(kv, c.Fields))
		}
		if len(c.KVs) == 0 {
			b.WriteString(" nothing is there")
		} else if c.Fields&judge.Present != 0 {
			b.WriteString(" and nothing else")
		}
		b.WriteByte('\n')
	}
}

func renderKV(kv judge.KV, fields judge.Fields) string {
	s := string(kv.Key)
	if fields&judge.Value != 0 {
		s += "=" + string(kv.Value)
	}
	for _, f := range []struct {
		field judge.Fields
		name  string
		v     int64
	}{{judge.CreateRevision, "create", kv.CreateRevision}, {judge.ModRevision, "mod", kv.ModRevision}, {judge.Version, "version", kv.Version}, {judge.Lease, "lease", kv.Lease}} {
		if fields&f.field != 0 {
			s += fmt.Sprintf(",%s:%d", f.name, f.v)
		}
	}
	return s
}

// Hostile bytes in either direction are no question, and no panic.
func TestQuestionsOfAnyBytes(t *testing.T) {
	methods := []string{methodRange, methodRangeStream, methodPut, methodDelete, methodTxn, "/x"}
	rapid.Check(t, func(t *rapid.T) {
		c := Call{
			Method: rapid.SampledFrom(methods).Draw(t, "method"), Epoch: 1,
			Request:   rapid.SliceOf(rapid.Byte()).Draw(t, "request"),
			Responses: rapid.SliceOfN(rapid.SliceOf(rapid.Byte()), 0, 3).Draw(t, "responses"),
			Truncated: rapid.Bool().Draw(t, "truncated"), Code: rapid.IntRange(-1, 17).Draw(t, "code"),
		}
		targets, why := questions(c, func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") })
		if (len(targets) == 0) != (why != "") {
			t.Fatalf("%d targets and reason %q", len(targets), why)
		}
		firstKey(c.Method, c.Request)
	})
}

func FuzzQuestions(f *testing.F) {
	f.Add(uint8(0), []byte("\n\x01a"), []byte("\n\x06\b\x01\x10\x01\x18\a"), false)
	f.Fuzz(func(_ *testing.T, method uint8, request, response []byte, truncated bool) {
		methods := []string{methodRange, methodRangeStream, methodPut, methodDelete, methodTxn}
		m := methods[int(method)%len(methods)]
		firstKey(m, request)
		questions(Call{Method: m, Request: request, Responses: [][]byte{response}, Truncated: truncated}, func(int) int { return 0 })
		questions(Call{Method: m, Request: request, Code: 11}, func(int) int { return 0 })
	})
}

// What a slice asks for is bounded and closed, whatever the client listed, and
// its claim speaks of nothing outside it.
func TestSlicesAreClosedAndBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 400).Draw(t, "keys")
		keysOnly := rapid.Bool().Draw(t, "keys only")
		size := rapid.SampledFrom([]int{0, 10, 4 << 10, 300 << 10}).Draw(t, "value size")
		if size > 4<<10 {
			n = min(n, 5)
		}
		resp := &pb.RangeResponse{Header: &pb.ResponseHeader{MemberId: 1, Revision: 9}}
		for i := range n {
			resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: fmt.Appendf(nil, "k%04d", i), Value: make([]byte, size)})
		}
		s := source{call: Call{Epoch: 1}, header: resp.Header, kind: read}
		targets, why := s.rangeTarget(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: int64(n), KeysOnly: keysOnly}, resp, false,
			func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") })
		if why != "" || len(targets) != 1 {
			t.Fatalf("got %d targets, %q", len(targets), why)
		}
		q, claim := targets[0].Question, targets[0].claims[0]
		if len(q.End) == 0 || string(q.End) != string(claim.KVs[len(claim.KVs)-1].Key)+"\x00" || string(q.Key) != string(claim.KVs[0].Key) {
			t.Fatalf("asks [%q, %q) around %d claimed keys", q.Key, q.End, len(claim.KVs))
		}
		total := 0
		for _, kv := range claim.KVs {
			total += len(kv.Value)
		}
		if keysOnly && len(claim.KVs) > blindKeys || len(claim.KVs) > sliceKeys || len(claim.KVs) > 1 && total > sliceBytes {
			t.Fatalf("a slice of %d keys and %d bytes", len(claim.KVs), total)
		}
	})
}
