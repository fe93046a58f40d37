package divergence

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

var update = flag.Bool("update", false, "write the transcripts' expected output anew")

// TestTranscripts runs the stories of testdata: commands, "----", and the
// records that they make, up to an empty line. Commands:
//
//	confirm key=… rev=… groups=… [rule=…] [basis=… differs=…] [trigger=…] [served-differing] [n=…]
//	consistent key=… rev=… members=a,b,c [n=…] [ago=1s]
//	members a,b,c       who is in the cluster now
//	cluster rule=… groups=… [subject=…] [layer=…] [basis=… differs=…] [ago=1s]
//	agree rule=… [subject=…] members=a,b,c [ago=1s]
//	open-cluster        the findings of the cluster that wait to be found equal
//	follow key=… [compared=… differing=… shifted=… complete prefixes=/a:3,…] [since=… term=… call=… before=…] [layer=…] [served=…]
//	words               what the last record tells people to do
//	tick 1m             time passes
//	open                the keys that wait to be checked
//	json                the last record in full
//
// With n=5, %d in the key counts from 1 to 5.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runTranscript(t, file) })
	}
}

func runTranscript(t *testing.T, file string) {
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := newStory()
	var got strings.Builder
	output := false // within expected output, which is not copied
	var commands []string
	for line := range strings.Lines(string(want) + "\n") {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case output && line != "":
		case output:
			output = false
			fmt.Fprintln(&got)
		case line == "----":
			output = true
			fmt.Fprintln(&got, line)
			for _, c := range commands {
				got.WriteString(s.run(t, c))
			}
			commands = nil
		default:
			fmt.Fprintln(&got, line)
			if line != "" && line[0] != '#' {
				commands = append(commands, line)
			}
		}
	}
	text := strings.TrimRight(got.String(), "\n") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(strings.Split(strings.TrimRight(string(want), "\n")+"\n", "\n"), strings.Split(text, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

type story struct {
	log   *Log
	clock *clock
	last  string
}

func newStory() *story {
	c := newClock()
	return &story{clock: c, log: New(Config{Clock: c.Now, HashKey: []byte("a key for tests")})}
}

func (s *story) run(t *testing.T, command string) string {
	words := strings.Fields(command)
	args := make(map[string]string)
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		args[k] = v
	}
	n, _ := strconv.Atoi(args["n"])
	for i := range max(n, 1) {
		key := args["key"]
		if n > 0 {
			key = fmt.Sprintf(key, i+1)
		}
		if u, err := strconv.Unquote(`"` + key + `"`); err == nil {
			key = u
		}
		switch words[0] {
		case "confirm":
			s.log.Confirm(s.evidence(t, key, args))
		case "consistent":
			ago, _ := time.ParseDuration(args["ago"])
			s.log.Consistent(0xc1, []byte(key), number(t, args["rev"]), memberIDs(args["members"]), s.clock.Now().Add(-ago))
		case "follow":
			s.log.Follow(0xc1, []byte(key), s.followed(t, args))
		}
	}
	var out strings.Builder
	switch words[0] {
	case "confirm", "consistent", "follow":
	case "cluster", "agree", "open-cluster":
		out.WriteString(s.cluster(words[0], args))
	case "members":
		s.log.Members(0xc1, memberIDs(words[1]))
	case "tick":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			t.Fatal(err)
		}
		for range int(d / time.Second) {
			s.clock.add(time.Second)
			s.log.tick(false)
		}
	case "open":
		for _, o := range s.log.Open(100) {
			fmt.Fprintf(&out, "%s\n", o.Key)
		}
	case "words":
		out.WriteString(s.words(t))
	case "json":
		var b bytes.Buffer
		if err := json.Indent(&b, []byte(s.last), "", "  "); err != nil {
			t.Fatal(err)
		}
		out.Write(b.Bytes())
	default:
		t.Fatalf("unknown command %q", command)
	}
	records := drain(t, s.log)
	for i, r := range records {
		s.last = r.line
		switch { // of many, the first and the last
		case len(records) <= 8 || i == 0 || i == len(records)-1:
			out.WriteString(r.short())
		case i == 1:
			fmt.Fprintf(&out, "… %d more\n", len(records)-2)
		}
	}
	return out.String()
}

func (s *story) evidence(t *testing.T, key string, args map[string]string) Evidence {
	e := ev(key, number(t, args["rev"]), args["groups"])
	e.At = s.clock.Now()
	if v := args["rule"]; v != "" {
		e.Rule = v
	}
	if v := args["trigger"]; v != "" {
		e.Trigger = Trigger{Kind: v}
		if v == TriggerWrite {
			e.Trigger.Method = "/etcdserverpb.KV/Put"
		}
	}
	_, e.Trigger.ServedDiffering = args["served-differing"]
	e.Basis, e.Differs = Basis(args["basis"]), namedMembers(args["differs"])
	e.Members = namedMembers(args["all"])
	return e
}

func namedMembers(names string) []Member {
	var out []Member
	for name := range strings.SplitSeq(names, ",") {
		if name != "" {
			out = append(out, member(name))
		}
	}
	return out
}

func (s *story) cluster(command string, args map[string]string) string {
	ago, _ := time.ParseDuration(args["ago"])
	at := s.clock.Now().Add(-ago)
	switch command {
	case "cluster":
		e := clusterEv(args["rule"], args["subject"], args["groups"])
		e.Layer, e.Basis, e.Differs, e.At = args["layer"], Basis(args["basis"]), namedMembers(args["differs"]), at
		e.Members = namedMembers(args["all"])
		s.log.ConfirmCluster(e)
	case "agree":
		s.log.AgreeCluster(0xc1, args["rule"], args["subject"], memberIDs(args["members"]), at)
	default:
		var out strings.Builder
		for _, o := range s.log.OpenCluster() {
			fmt.Fprintf(&out, "%s %q of %x waits for %x\n", o.Rule, o.Subject, o.Cluster, o.Members)
		}
		return out.String()
	}
	return ""
}

func (s *story) followed(t *testing.T, args map[string]string) Followed {
	got := Followed{Layer: args["layer"]}
	num := func(name string) (n int64) {
		if v := args[name]; v != "" {
			n = number(t, v)
		}
		return n
	}
	got.Served = num("served")
	if args["compared"] != "" {
		_, complete := args["complete"]
		got.Extent = &Extent{
			Revision: num("rev"), Complete: complete, KeysCompared: num("compared"), KeysDiffering: num("differing"),
			ShiftedOnly: num("shifted"), ExampleKeys: []record.Key{record.NewKey(args["key"])},
		}
		for p := range strings.SplitSeq(args["prefixes"], ",") {
			prefix, n, _ := strings.Cut(p, ":")
			got.Extent.ByPrefix = append(got.Extent.ByPrefix, record.NewPrefix([]byte(prefix), number(t, n)))
		}
	}
	if args["since"]+args["before"] != "" {
		got.Since = &Since{Revision: num("since"), CompactedBefore: num("before"), RaftTerm: uint64(num("term"))}
		if m := args["call"]; m != "" {
			got.Since.Call = &record.Call{Method: m, Time: record.Time(s.clock.Now())}
		}
	}
	return got
}

func (s *story) words(t *testing.T) string {
	r := checkLine(t, []byte(s.last))
	return "impact: " + r.Impact + "\n$ " + strings.Join(r.Next, "\n$ ") + "\n" + r.Runbook.Command + ", " + r.Runbook.Page + "\n"
}

func number(t *testing.T, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// short is a record on one line, without the summary's twins.
func (r *logged) short() string {
	s := fmt.Sprintf("#%d %s", r.Seq, r.Event)
	if r.ID != "" {
		s += " " + r.ID[:6]
	}
	if r.Checks > 1 {
		s += fmt.Sprintf(" checks=%d", r.Checks)
	}
	if r.Folded > 0 {
		s += fmt.Sprintf(" folded=%d", r.Folded)
	}
	return s + ": " + r.Summary + "\n"
}
