package judge

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// The transcripts in testdata read as stories. A case is a command (pin, or
// oracle with claims) and what members answered, in one or two rounds:
//
//	pin key=a [end=c] rev=7 [voters=A,B,C]
//	A@1 a=red/3,7,2,0      member A, on its first connection: value/create,mod,version[,lease]
//	B@1 -                  the key is absent
//	C@1 future-revision    any other kind of answer
//	again                  the second round
//	…
//	newest                 each at its own newest revision (Shifted)
//	…
//	claim A@1 put a=red/,7,,0    what A told a client (put, delete, served)
//
// Members are A to E, with ids 1 to 5. `go test -rewrite` writes the expectations.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s := parse(t, d)
			v := Judge(s.q, s.claims, s.first, s.again)
			for i, diff := range v.Diffs {
				if moved, ok := Shifted(diff, s.first, s.newest); ok {
					v.Diffs[i] = moved
				}
			}
			return render(v, s.voters)
		})
	})
}

type story struct {
	q            Question
	first, again []Answer
	newest       []Answer
	claims       []Claim
	voters       []uint64
}

func parse(t *testing.T, d *datadriven.TestData) story {
	var s story
	var key, end string
	d.ScanArgs(t, "key", &key)
	d.MaybeScanArgs(t, "end", &end)
	d.MaybeScanArgs(t, "rev", &s.q.Revision)
	s.q.Key, s.q.End = []byte(key), []byte(end)
	voters := "A,B,C"
	d.MaybeScanArgs(t, "voters", &voters)
	for v := range strings.SplitSeq(voters, "|") {
		for m := range strings.SplitSeq(v, ",") {
			s.voters = append(s.voters, uint64(m[0]-'A'+1))
		}
	}
	round := &s.first
	for line := range strings.Lines(d.Input) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "again":
			round = &s.again
			s.again = []Answer{}
		case words[0] == "newest":
			round = &s.newest
		case words[0] == "claim":
			s.claims = append(s.claims, parseClaim(t, words[1:]))
		default:
			*round = append(*round, parseAnswer(t, words))
		}
	}
	return s
}

func parseMember(t *testing.T, word string) (member, epoch uint64) {
	name, e, ok := strings.Cut(word, "@")
	epoch, err := strconv.ParseUint(e, 10, 64)
	if !ok || err != nil || len(name) != 1 {
		t.Fatalf("want MEMBER@EPOCH, got %q", word)
	}
	return uint64(name[0] - 'A' + 1), epoch
}

func parseAnswer(t *testing.T, words []string) Answer {
	var a Answer
	a.Member, a.Epoch = parseMember(t, words[0])
	if i := slices.Index(kinds[:], Reason(words[1])); i > 0 {
		a.Kind = Kind(i)
		return a
	}
	a.KVs = parseKVs(t, words[1:])
	return a
}

func parseKVs(t *testing.T, words []string) []KV {
	var kvs []KV
	for _, w := range words {
		if w == "-" {
			continue
		}
		key, rest, _ := strings.Cut(w, "=")
		value, nums, ok := strings.Cut(rest, "/")
		if !ok {
			t.Fatalf("want key=value/create,mod,version,lease, got %q", w)
		}
		kv := KV{Key: []byte(key), Value: []byte(value)}
		for i, n := range strings.Split(nums, ",") {
			x, _ := strconv.ParseInt(n, 10, 64)
			*[]*int64{&kv.CreateRevision, &kv.ModRevision, &kv.Version, &kv.Lease}[i] = x
		}
		kvs = append(kvs, kv)
	}
	return kvs
}

func parseClaim(t *testing.T, words []string) Claim {
	var c Claim
	c.Member, c.Epoch = parseMember(t, words[0])
	switch words[1] {
	case "put":
		c.Fields = Value | Lease | ModRevision
	case "delete":
		c.Fields = Present
	case "event":
		c.Fields, c.Event = everyField&^Present, true
	case "served":
		c.Fields = everyField
	case "served-keys-only":
		c.Fields = everyField &^ (Value | Lease)
	default:
		t.Fatalf("unknown claim %q", words[1])
	}
	c.KVs = parseKVs(t, words[2:])
	return c
}

func render(v Verdict, voters []uint64) string {
	var b strings.Builder
	b.WriteString(v.Outcome.String())
	if v.Reason != "" {
		fmt.Fprintf(&b, " (%s)", v.Reason)
	}
	b.WriteByte('\n')
	for _, d := range v.Diffs {
		fmt.Fprintf(&b, "%s %s: %s\n", d.Rule, d.Key, d.Fields)
		for _, g := range d.Groups {
			verb := "hold"
			if g.Claimed {
				verb = "said"
			}
			fmt.Fprintf(&b, "  %s %s %s\n", names(g.Members), verb, renderKV(g.KV))
		}
		basis, differs := WhoDiffers(d, voters)
		if len(differs) > 0 {
			fmt.Fprintf(&b, "  %s differs (%s)\n", names(differs), basis)
		} else {
			fmt.Fprintf(&b, "  open who differs (%s)\n", basis)
		}
	}
	return b.String()
}

func renderKV(kv *KV) string {
	if kv == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s create=%d mod=%d version=%d lease=%d", kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
}

func names(members []uint64) string {
	var b strings.Builder
	for _, m := range members {
		b.WriteByte(byte('A' + m - 1))
	}
	return b.String()
}
