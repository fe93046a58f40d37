package divergence

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

// world is a cluster of four members and a few keys, where any member may hold
// anything, with a Log beside a naive model of what is open.
type world struct {
	clock    *clock
	log      *Log
	revision int64
	reader   reader
	told     int64           // changes that the log says were folded
	open     map[string]bool // key: differs, by the model
	cluster  map[string]bool // kind and subject: differ, by the model
}

func newWorld(limits Limits) *world {
	c := newClock()
	return &world{clock: c, log: New(Config{Clock: c.Now, Limits: limits}), revision: 5, open: make(map[string]bool), cluster: make(map[string]bool)}
}

// evidence lets each member that answers hold one of three states.
func (w *world) evidence(t *rapid.T, key string, rule string) (Evidence, bool) {
	e := Evidence{
		Cluster: 0xc1, Rule: rule, Key: []byte(key), Revision: w.revision, At: w.clock.Now(),
		Trigger: Trigger{Kind: TriggerRead}, Basis: BasisNone,
	}
	states := []State{{}, state("x@5/9/3"), state("x@5/8/3"), state("y@5/9/3")}
	holds := make(map[int][]Member)
	for _, name := range []string{"a", "b", "c", "d"} {
		if s := rapid.IntRange(-1, len(states)-1).Draw(t, name); s >= 0 { // -1: no answer
			holds[s] = append(holds[s], member(name))
		}
	}
	for s, st := range states {
		if holds[s] != nil {
			e.Groups = append(e.Groups, Group{holds[s], st})
		}
	}
	e.Fields = differing(e.Groups)
	return e, len(e.Groups) > 1
}

func (w *world) confirm(t *rapid.T, key string) {
	if e, ok := w.evidence(t, key, rapid.SampledFrom(ruleNames).Draw(t, "rule")); ok {
		w.log.Confirm(e)
		w.open[key] = true
	}
}

// equal makes the key equal on all members, at a new revision.
func (w *world) equal(key string) {
	w.revision++
	w.log.Consistent(0xc1, []byte(key), w.revision, memberIDs("a,b,c,d"), w.clock.Now())
	delete(w.open, key)
}

// drift lets the cluster differ: some members are ahead, or have what others lack.
func (w *world) drift(t *rapid.T) {
	rule := rapid.SampledFrom(record.ClusterKinds()).Draw(t, "rule")
	sides := make([]string, 2)
	for _, name := range []string{"a", "b", "c", "d"} {
		if side := rapid.IntRange(-1, 1).Draw(t, name); side >= 0 { // -1: no answer
			sides[side] += "," + name
		}
	}
	if sides[0] == "" || sides[1] == "" {
		return
	}
	subject := drawSubject(t)
	behind := rapid.SampledFrom([]int{1, 5, 20, 400}).Draw(t, "gap")
	groups := fmt.Sprintf("%s=@%d|%s=@%d", sides[0][1:], 1000, sides[1][1:], 1000-behind)
	if rule.Kind == record.KindMemberLost {
		groups = sides[0][1:] + "=lost"
	}
	e := clusterEv(rule.Rule, subject, groups)
	e.At = w.clock.Now()
	w.log.ConfirmCluster(e)
	w.cluster[clusterID(rule, 0xc1, subject)] = true
	if f := w.log.findings[clusterID(rule, 0xc1, subject)]; f != nil && rule.Kind == record.KindRevision {
		for _, m := range e.Groups[1].Members { // whoever was seen behind is shown behind
			if f.part.group(m.ID) < 1 {
				t.Fatalf("%s is behind in %s and not in %v", m.Name, groups, f.part)
			}
		}
	}
}

func drawSubject(t *rapid.T) string {
	return rapid.SampledFrom([]string{"7b", "7c"}).Draw(t, "subject")
}

// agree lets everything that a rule compares be equal on all members.
func (w *world) agree(rule record.ClusterKind, subject string) {
	w.log.AgreeCluster(0xc1, rule.Rule, subject, memberIDs("a,b,c,d"), w.clock.Now())
	delete(w.cluster, clusterID(rule, 0xc1, subject))
}

func (w *world) follow(t *rapid.T) {
	w.log.Follow(0xc1, []byte(drawKey(t)), Followed{
		Layer:  rapid.SampledFrom(append([]string{""}, record.Layers()...)).Draw(t, "layer"),
		Served: int64(rapid.IntRange(0, 9).Draw(t, "served")),
		Extent: rapid.SampledFrom([]*Extent{nil, {Revision: 5}, {KeysDiffering: 30, Complete: true}}).Draw(t, "extent"),
		Since:  rapid.SampledFrom([]*Since{nil, {}, {Revision: 7}, {Revision: 4, CompactedBefore: 3}, {CompactedBefore: 3}}).Draw(t, "since"),
	})
}

func (w *world) settle(t *rapid.T) {
	records := drain(t, w.log)
	w.reader.read(t, records)
	for _, r := range records {
		w.told += r.Folded
	}
}

func drawKey(t *rapid.T) string { return fmt.Sprintf("/k/%d", rapid.IntRange(0, 9).Draw(t, "key")) }

func (w *world) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"confirm":  func(t *rapid.T) { w.confirm(t, drawKey(t)) },
		"confirm2": func(t *rapid.T) { w.confirm(t, drawKey(t)) },
		"equal":    func(t *rapid.T) { w.equal(drawKey(t)) },
		"some": func(t *rapid.T) { // says nothing about the members that did not answer
			w.log.Consistent(0xc1, []byte(drawKey(t)), w.revision, memberIDs("b"), w.clock.Now())
		},
		"drift":  w.drift,
		"agree":  func(t *rapid.T) { w.agree(rapid.SampledFrom(record.ClusterKinds()).Draw(t, "rule"), drawSubject(t)) },
		"follow": w.follow,
		"write":  func(*rapid.T) { w.revision++ },
		"tick": func(t *rapid.T) {
			w.clock.add(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
			w.log.tick(false)
		},
		"": w.invariants,
	}
}

func (w *world) invariants(t *rapid.T) {
	w.settle(t)
	l := w.log
	extents := 0
	for _, f := range l.findings {
		if f.learned.extent != nil {
			extents++
		}
	}
	if extents != l.extents || len(l.cluster) > maxCluster {
		t.Fatalf("%d findings with an extent, counted %d; %d of the cluster", extents, l.extents, len(l.cluster))
	}
	if len(l.findings)-len(l.cluster) > l.limits.Findings || len(l.shifted) > maxShifted || l.checked.Len() != len(l.keys) ||
		len(l.owed) > len(l.findings) || l.openKeys.Load() != int64(len(l.keys)) {
		t.Fatalf("%d findings, %d shifted, %d keys, %d in order, %d owed",
			len(l.findings), len(l.shifted), len(l.keys), l.checked.Len(), len(l.owed))
	}
	bytes := 0
	for key, k := range l.keys {
		bytes += len(key)
		if len(k.findings) == 0 {
			t.Fatalf("%s is watched for nothing", key)
		}
	}
	if bytes != l.keyBytes {
		t.Fatalf("%d bytes of keys, counted %d", bytes, l.keyBytes)
	}
}

// What the log's reader believes, against the model: without a flood they are
// the same at every moment.
func TestPropertyTheLogIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(Limits{Burst: 1 << 20})
		actions := w.actions()
		actions[""] = func(t *rapid.T) {
			w.invariants(t)
			for i := range 10 {
				key := fmt.Sprintf("/k/%d", i)
				if w.log.IsOpen([]byte(key)) != w.open[key] {
					t.Fatalf("%s: IsOpen is %v, the members differ: %v", key, !w.open[key], w.open[key])
				}
			}
			w.checkCluster(t)
			keys := make(map[string]bool)
			for _, r := range w.reader.open {
				if r.Kind == record.KindKey || r.Kind == record.KindShifted {
					keys[r.Key] = true
				}
			}
			for key := range w.open { // a shifted key is in a finding that does not name it
				if !keys[key] && !keys[""] {
					t.Fatalf("%s differs and the log does not say so", key)
				}
			}
			for key := range keys {
				if key != "" && !w.open[key] {
					t.Fatalf("%s is equal and the log says that it differs", key)
				}
			}
		}
		t.Repeat(actions)
	})
}

// checkCluster compares the model with what readers know of the cluster, and
// what they know with what is known here: nothing changes without a record.
func (w *world) checkCluster(t *rapid.T) {
	for id, f := range w.log.findings {
		if f.rift == nil {
			if r := w.reader.open[id]; r != nil && r.Layer != f.layer {
				t.Fatalf("layer %q, the log says %q", f.layer, r.Layer)
			}
			continue
		}
		r := w.reader.open[id]
		if r == nil || !w.cluster[id] {
			t.Fatalf("%s %s is open, in the log: %v, by the model: %v", f.kind, f.rift.subject, r != nil, w.cluster[id])
		}
		var shown partition
		for _, g := range r.Groups {
			var ids []uint64
			for _, m := range g.Members {
				ids = append(ids, memberID(m.Name))
			}
			shown = append(shown, ids)
		}
		if shown.canonical() != f.part.canonical() {
			t.Fatalf("the log shows %v, known is %v", shown, f.part)
		}
		if f.kind == record.KindRevision && !slices.Contains(shown[0], f.part[0][0]) {
			t.Fatalf("the log shows %v, ahead is %v", shown, f.part[0])
		}
	}
	for id := range w.cluster {
		if w.reader.open[id] == nil {
			t.Fatalf("%s differs and the log does not say so", id)
		}
	}
}

// In a flood the log may be late, but never wrong: life order holds, each
// change is written or counted, and when all is equal and time has passed the
// log says so.
func TestPropertyAFloodEndsInTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{Burst: 3, PerMinute: 2, Findings: rapid.IntRange(2, 30).Draw(t, "findings")}
		w := newWorld(limits)
		t.Repeat(w.actions())
		for i := range 10 {
			w.equal(fmt.Sprintf("/k/%d", i))
		}
		for _, rule := range record.ClusterKinds() {
			w.agree(rule, "7b")
			w.agree(rule, "7c")
		}
		for range 200 {
			w.clock.add(time.Minute)
			w.log.tick(false)
		}
		w.invariants(t)
		if open := w.reader.open; len(open) != 0 || len(w.log.findings) != 0 || len(w.log.keys) != 0 || len(w.log.cluster) != 0 || w.log.extents != 0 {
			t.Fatalf("all is equal, and open are %v in the log, %v here", open, w.log.findings)
		}
		if w.log.folded != 0 || w.told != counterValue(w.log.metrics.folded) {
			t.Fatalf("%d changes folded, the log tells of %d", counterValue(w.log.metrics.folded), w.told)
		}
	})
}

// covers, against a naive second look at every pair of members.
func TestPropertyCovers(t *testing.T) {
	draw := func(t *rapid.T, label string) (p partition) {
		sides := make(map[int][]uint64)
		for id := range uint64(5) {
			if side := rapid.IntRange(-1, 2).Draw(t, label); side >= 0 {
				sides[side] = append(sides[side], id)
			}
		}
		for side := range 3 {
			if sides[side] != nil {
				p = append(p, sides[side])
			}
		}
		return p
	}
	rapid.Check(t, func(t *rapid.T) {
		p, q := draw(t, "p"), draw(t, "q")
		want := true
		for _, a := range q.members() {
			want = want && slices.Contains(p.members(), a)
			for _, b := range q.members() {
				want = want && (p.group(a) == p.group(b)) == (q.group(a) == q.group(b))
			}
		}
		if p.covers(q) != want {
			t.Fatalf("%v covers %v: want %v", p, q, want)
		}
	})
}

func counterValue(c prometheus.Counter) int64 { return int64(testutil.ToFloat64(c)) }
