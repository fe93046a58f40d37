package divergence

import (
	"testing"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
)

// GUARANTEE G8: No value, token, password or key material is logged or served.
func TestG8NoValueInARecord(t *testing.T) {
	// checkLine looks for planted values in every record of every test; here
	// that it would find one, and what stands in their place.
	caught := false
	func() {
		defer func() { _ = recover() }()
		l := New(Config{})
		l.Confirm(ev("/"+planted, 5, "a=x@5/5/1|b=-"))
		drain(fatalFunc(func() { caught = true; panic("caught") }), l)
	}()
	if !caught {
		t.Fatal("the check for planted values finds none in a key")
	}

	one, two := newHasher([]byte("one")), newHasher([]byte("two"))
	value := []byte(planted)
	if one.sum(value) != one.sum([]byte(planted)) || one.sum(value) == one.sum([]byte(planted+"x")) {
		t.Error("equal values, and only they, must have equal hashes")
	}
	if one.sum(value) == two.sum(value) || one.id == two.id {
		t.Error("another key must give other hashes and another id")
	}
	if mine, other := New(Config{}), New(Config{}); mine.hasher.id == other.hasher.id {
		t.Error("without a key of its own each log must have a random one")
	}
}

type fatalFunc func()

func (f fatalFunc) Helper()               {}
func (f fatalFunc) Fatalf(string, ...any) { f() }

func TestFindingIDs(t *testing.T) {
	ids := make(map[string]string)
	for name, id := range map[string]string{
		"key":         findingID(1, classOf(RulePIN), "k"),
		"cluster":     findingID(2, classOf(RulePIN), "k"),
		"other key":   findingID(1, classOf(RulePIN), "l"),
		"served":      findingID(1, classOf(RuleServedWrong), "k"),
		"shifted":     findingID(1, record.KindShifted, partition{{1}, {2, 3}}.canonical()),
		"other sides": findingID(1, record.KindShifted, partition{{1, 2}, {3}}.canonical()),
	} {
		if other, ok := ids[id]; ok {
			t.Errorf("%s and %s have the same id", name, other)
		}
		ids[id] = name
	}
	if findingID(1, classOf(RulePIN), "k") != findingID(1, classOf(RuleOracle), "k") {
		t.Error("PIN and ORACLE see the same damage")
	}
	if (partition{{1}, {3, 2}}).canonical() != (partition{{2, 3}, {1}}).canonical() {
		t.Error("the order of groups and members must not matter")
	}
}

func TestPartitionCovers(t *testing.T) {
	whole := partition{{1, 2, 3}, {4, 5}}
	for _, tt := range []struct {
		part partition
		want bool
	}{
		{partition{{1, 2, 3}, {4, 5}}, true},
		{partition{{4, 5}, {1}}, true},
		{partition{{1}, {4}}, true},
		{partition{{1}, {2}}, false},
		{partition{{1, 4}, {2}}, false},
		{partition{{1}, {4}, {5}}, false},
		{partition{{1}, {6}}, false},
	} {
		if whole.covers(tt.part) != tt.want {
			t.Errorf("%v covers %v: want %v", whole, tt.part, tt.want)
		}
	}
}
