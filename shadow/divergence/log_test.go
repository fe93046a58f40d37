package divergence

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

func openKeys(l *Log, limit int) []string {
	var out []string
	for _, o := range l.Open(limit) {
		out = append(out, string(o.Key))
	}
	return out
}

func TestOpenGivesTheLongestUnchecked(t *testing.T) {
	l := New(Config{})
	confirmKeys(l, "/a", "/b", "/c", "/d")
	if got := openKeys(l, 2); !slices.Equal(got, []string{"/a", "/b"}) {
		t.Errorf("first: %v", got)
	}
	confirmKeys(l, "/c")                                               // seen again
	l.Consistent(0xc1, []byte("/d"), 9, memberIDs("a,b"), time.Time{}) // checked, not healed
	if got := openKeys(l, 9); !slices.Equal(got, []string{"/a", "/b", "/c", "/d"}) {
		t.Errorf("then: %v", got)
	}
	if !l.IsOpen([]byte("/a")) || l.IsOpen([]byte("/e")) || l.Open(0) != nil {
		t.Error("/a is open, /e is not, and 0 are none")
	}
}

func TestClustersAreKeptApart(t *testing.T) {
	l := New(Config{})
	here, there := ev("/a", 5, "a,b=x@5/5/1|c=-"), ev("/a", 5, "a,b=x@5/5/1|c=-")
	there.Cluster = 0xc2
	l.Confirm(here)
	l.Confirm(there)
	if got := drain(t, l); len(got) != 2 || got[0].ID == got[1].ID {
		t.Fatalf("want two findings: %v", got)
	}
	l.Members(0xc2, memberIDs("a,b,c"))
	l.Consistent(0xc2, []byte("/a"), 6, memberIDs("a,b,c"), time.Time{})
	if got := drain(t, l); len(got) != 1 || !l.IsOpen([]byte("/a")) {
		t.Errorf("want one healed, the other open: %v", got)
	}
	if open := testutil.ToFloat64(l.metrics.open.WithLabelValues(record.KindKey)); open != 1 {
		t.Errorf("findings_open is %v", open)
	}
}

// GUARANTEE G7: Memory is bounded, per connection and in all.
func TestG7FindingsAreBounded(t *testing.T) {
	l := New(Config{Limits: Limits{Findings: 3, Burst: 1000, KeyBytes: 100, ShiftedKeys: 2, Waiting: 4}})
	confirmKeys(l, "/a", "/b", strings.Repeat("k", 97), "/c", "/d", "/d")
	if folded := testutil.ToFloat64(l.metrics.folded); len(l.findings) != 3 || folded != 3 || l.keyBytes > 100 {
		t.Errorf("%d findings, %v folded, %d bytes of keys", len(l.findings), folded, l.keyBytes)
	}
	if n := testutil.ToFloat64(l.metrics.untracked); n != 3 {
		t.Errorf("%v untracked, want the long key and /d twice", n)
	}
	// Room again when one heals.
	l.Consistent(0xc1, []byte("/a"), 6, memberIDs("a,b,c"), time.Time{})
	confirmKeys(l, "/d")
	if !l.IsOpen([]byte("/d")) || len(l.findings) != 3 {
		t.Error("/d must have taken the place of /a")
	}
	for range 50 {
		confirmKeys(l, "/e")
	}
	if n := len(drain(t, l)); n > 4 {
		t.Errorf("%d records waited, want at most 4", n)
	}
}

func TestShiftedKeysBeyondTheTrackedOnes(t *testing.T) {
	l := New(Config{Limits: Limits{ShiftedKeys: 5}})
	shifted := func(i int) {
		l.Confirm(ev(fmt.Sprintf("/s/%d", i), 30, "a,b=x@20/20/1|c=x@19/19/1"))
	}
	for range 3 { // a key is counted once, tracked or not
		for i := range 120 {
			shifted(i)
		}
	}
	got := drain(t, l)
	if len(got) != 3 || got[2].Keys != 100 || *got[2].Shift != -1 || len(l.keys) != 5 {
		t.Errorf("want records at 1, 10 and 100 keys, 5 of them tracked: %v, %d", got, len(l.keys))
	}
	if n := l.shifted[0].shift.keys; n > 120 || n < 119 { // two keys may share a bit
		t.Errorf("%d keys counted, want 120", n)
	}
	for i := range 120 {
		l.Consistent(0xc1, fmt.Appendf(nil, "/s/%d", i), 40, memberIDs("a,b,c"), time.Time{})
	}
	if got := drain(t, l); len(got) != 0 || len(l.shifted) != 1 {
		t.Errorf("nobody knows whether all keys are equal: %v", got)
	}
	l.Members(0xc1, memberIDs("a,b,d"))
	if got := drain(t, l); len(got) != 1 || got[0].Event != record.Healed || len(l.shifted) != 0 {
		t.Errorf("c has left, want it healed: %v", got)
	}
	if n := testutil.ToFloat64(l.metrics.shiftedKeys); n != 0 {
		t.Errorf("shifted_keys is %v", n)
	}
}

func TestShiftedFindingsAreBounded(t *testing.T) {
	l := New(Config{})
	for i := range 40 { // 40 pairs of members: hardly a cluster
		e := ev("/s", 30, "a=x@20/20/1|b=x@19/19/1")
		e.Groups[0].Members[0].ID = uint64(100 + i)
		e.Groups[1].Members[0].ID = uint64(200 + i)
		l.Confirm(e)
	}
	if len(l.shifted) != maxShifted || len(l.findings) != maxShifted {
		t.Errorf("%d shifted findings, %d in all, want %d", len(l.shifted), len(l.findings), maxShifted)
	}
}

// The sides must not change with who answered: the sign of the shift is the
// second group of the record minus the first.
func TestShiftKeepsItsSign(t *testing.T) {
	l := New(Config{})
	l.Confirm(ev("/1", 30, "b,c=x@20/20/1|a=x@19/19/1"))
	l.Confirm(ev("/2", 30, "c=x@20/20/1|a=x@19/19/1")) // a sorts before c
	l.Confirm(ev("/3", 30, "b=x@20/20/1|a=x@19/19/1"))
	f := l.shifted[0]
	if len(l.shifted) != 1 || !f.shift.even || f.shift.by != -1 {
		t.Errorf("%d findings, shift %+v", len(l.shifted), f.shift)
	}
	// a's side turns out to be the larger one: the groups swap, and so does the sign.
	l.Confirm(ev("/4", 30, "b,c=x@20/20/1|a,d,e=x@19/19/1"))
	r := drain(t, l)
	last := r[len(r)-1]
	if !strings.Contains(last.line, `"groups":[{"members":[{"id":"a"`) || last.Shift == nil || *last.Shift != 1 {
		t.Errorf("want a's side first and a shift of 1: %s", last.line)
	}
	if !strings.Contains(last.line, `"example_keys":[{"key":"/4"}`) {
		t.Errorf("want the key first whose answers are shown: %s", last.line)
	}
}

func TestEvidenceThatIsNone(t *testing.T) {
	good := func() Evidence { return ev("/a", 5, "a,b=x@5/5/1|c=-") }
	for reason, spoil := range map[string]func(*Evidence){
		"key":      func(e *Evidence) { e.Key = nil },
		"revision": func(e *Evidence) { e.Revision = 0 },
		"rule":     func(e *Evidence) { e.Rule = "GUESS" },
		"basis":    func(e *Evidence) { e.Basis = "majority" },
		"trigger":  func(e *Evidence) { e.Trigger.Kind = "" },
		"fields":   func(e *Evidence) { e.Fields = []string{"present", "missing"} },
		"groups":   func(e *Evidence) { e.Groups[1].Members = nil },
	} {
		l := New(Config{})
		e := good()
		spoil(&e)
		l.Confirm(e)
		if got := drain(t, l); len(got) != 0 || testutil.ToFloat64(l.metrics.refused.WithLabelValues(reason)) != 1 {
			t.Errorf("%s: want it refused, got %v", reason, got)
		}
	}
	l := New(Config{})
	e := good()
	e.Differs = []Member{member("c")} // without a basis: nobody is named
	l.Confirm(e)
	if got := drain(t, l); len(got) != 1 || got[0].Differs != nil {
		t.Errorf("want one record that names nobody: %v", got)
	}
}

// The caller may go on using its slices.
func TestConfirmKeepsNothingOfTheCaller(t *testing.T) {
	l := New(Config{})
	e := ev("/a", 5, "c=-|b,a=x@5/5/1")
	l.Confirm(e)
	if e.Groups[1].Members[0].Name != "b" || e.Groups[0].Members[0].Name != "c" {
		t.Error("the evidence was sorted in place")
	}
	e.Key[1], e.Fields[0], e.Groups[1].Members[0].ID = 'z', "lease", 99
	if !l.IsOpen([]byte("/a")) || l.findings[drain(t, l)[0].ID].fields[0] != "present" {
		t.Error("the finding changed with the caller's slices")
	}
}

func TestFloodLimitOverTime(t *testing.T) {
	c := newClock()
	l := New(Config{Clock: c.Now, Limits: Limits{Waiting: 1 << 20}})
	written := 0
	for minute := range 10 {
		for i := range 60 {
			confirmKeys(l, fmt.Sprintf("/%d/%d", minute, i*2), fmt.Sprintf("/%d/%d", minute, i*2+1))
			c.add(time.Second)
			l.tick(false)
		}
		written += len(drain(t, l))
		if limit := 100 + 10*(minute+1); written > limit || written < limit-10 {
			t.Fatalf("%d records after %d minutes of flood, want about %d", written, minute+1, limit)
		}
	}
}

// All methods at once, for the race detector; the sink checks order and form.
func TestConcurrentUse(t *testing.T) {
	sink := new(lines)
	l := New(Config{Sink: sink, Limits: Limits{Burst: 1 << 20, Waiting: 1 << 20}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 200 {
				key := fmt.Appendf(nil, "/k/%d", (worker+i)%20)
				l.Confirm(ev(string(key), 5, "a,b=x@5/5/1|c=-"))
				l.Open(3)
				if l.IsOpen(key) && i%3 == 0 {
					l.Consistent(0xc1, key, 6, memberIDs("a,b,c"), time.Time{})
				}
				if i%10 == 0 {
					l.Follow(0xc1, key, Followed{Extent: &Extent{KeysDiffering: int64(i)}, Layer: record.LayerStorage})
					l.ConfirmCluster(clusterEv(record.RuleLease, itoa(int64(i%7)), "a,b=has_it|c=lacks_it"))
				}
				if o := l.OpenCluster(); len(o) > 3 {
					l.AgreeCluster(o[0].Cluster, o[0].Rule, o[0].Subject, o[0].Members, time.Time{})
				}
				if i%50 == 0 {
					l.Members(0xc1, memberIDs("a,b"))
					l.Reopen()
				}
			}
		})
	}
	wg.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	new(reader).read(t, sink.records(t))
}

// reader follows the log as its readers do: seq rises, and events come in the
// order of a life.
type reader struct {
	last int64
	open map[string]*logged // by id
}

func (b *reader) read(t fataler, records []*logged) {
	t.Helper()
	if b.open == nil {
		b.open = make(map[string]*logged)
	}
	for _, r := range records {
		if r.Seq <= b.last {
			t.Fatalf("seq %d after %d", r.Seq, b.last)
		}
		b.last = r.Seq
		switch r.Event {
		case record.Confirmed:
			if b.open[r.ID] != nil {
				t.Fatalf("confirmed twice: %s%s", b.open[r.ID].line, r.line)
			}
			b.open[r.ID] = r
		case record.Updated, record.Healed:
			if b.open[r.ID] == nil {
				t.Fatalf("%s without confirmed: %s", r.Event, r.line)
			}
			b.open[r.ID] = r
			if r.Event == record.Healed {
				delete(b.open, r.ID)
			}
		}
	}
}

func BenchmarkIsOpenOfAHealthyCluster(b *testing.B) {
	l := New(Config{})
	key := []byte("/registry/pods/default/web-0")
	b.ReportAllocs()
	for b.Loop() {
		l.IsOpen(key)
	}
}

func BenchmarkConfirmAgain(b *testing.B) {
	l := New(Config{})
	e := ev("/registry/pods/default/web-0", 5, "a,b=x@5/5/1|c=-")
	b.ReportAllocs()
	for b.Loop() {
		l.Confirm(e)
	}
}
