package tap

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func TestFirstBytesDecide(t *testing.T) {
	for _, first := range []string{"GET /version HTTP/1.1\r\n", "PRI * HTTP/1.1", "\x16\x03\x01", "\x00", http2.ClientPreface + "\x00\x00\x00\x06"} {
		tap := (&listener{}).tap()
		tap.Feed(Up, []byte(first))
		tap.Feed(Up, make([]byte, 9))
		if why, _ := tap.Ended(); why != ReasonNotHTTP2 {
			t.Errorf("after %q ended %q, want %q", first, why, ReasonNotHTTP2)
		}
	}
	tap := (&listener{}).tap()
	for i := range http2.ClientPreface {
		tap.Feed(Up, []byte(http2.ClientPreface[i:i+1]))
		if why, ended := tap.Ended(); ended {
			t.Fatalf("ended %q at byte %d of the preface", why, i)
		}
	}
}

// The epoch belongs to the moment before the member could see the request, not to the one when it answered.
func TestEpochIsReadAtTheHeaders(t *testing.T) {
	l := &listener{}
	epoch := uint64(3)
	tap := New(Config{Observer: l, Epoch: func() uint64 { return epoch }})
	k := newTalk()
	k.open(1, get)
	k.feed(tap)
	epoch = 4 // the member restarts
	k.steps = nil
	k.data(Up, 1, true, frame("key"))
	k.answer(1, "value")
	k.feed(tap)
	if len(l.calls) != 1 || l.calls[0].Epoch != 3 {
		t.Fatalf("observed %+v, want one call of epoch 3", l.calls)
	}
}

func TestNobodyWantsIt(t *testing.T) {
	asked := 0
	l := &listener{
		room: func(method string) int {
			if method == "/etcdserverpb.Watch/Watch" {
				return 0
			}
			return 10
		},
		limits: func(string, []byte) Limits { asked++; return Limits{} },
	}
	tap := l.tap()
	k := newTalk()
	k.ask(1, "/etcdserverpb.Watch/Watch", "never looked at")
	k.ask(3, get, "sampled out")
	k.ask(5, get, "key")
	k.answer(3, "value")
	k.feed(tap)
	if asked != 1 || len(l.calls) != 0 || !slices.Equal(l.passed, []string{PassedTooLarge}) {
		t.Errorf("asked for %d answers, observed %v, passed %v; want 1, none, one that is too large", asked, l.calls, l.passed)
	}
	if n := tap.cfg.Budget.Used(); n != 0 {
		t.Errorf("%d bytes are held for calls that nobody wants", n)
	}
	if n := tap.Unanswered(); n != 2 {
		t.Errorf("%d unanswered, want 2: also of those that nobody wants", n)
	}
}

// GUARANTEE G7: memory is bounded, per connection.
func TestBytesOfOneConnection(t *testing.T) {
	l := &listener{limits: func(string, []byte) Limits { return Limits{Bytes: 1 << 30} }}
	tap := l.tap()
	k := newTalk()
	const calls, size = 100, 60000
	for i := range uint32(calls) {
		k.ask(2*i+1, get, strings.Repeat("k", size))
	}
	k.feed(tap)
	if n := tap.cfg.Budget.Used(); n > MaxBytes || n < MaxBytes-2*size {
		t.Fatalf("%d bytes held, want nearly %d", n, MaxBytes)
	}
	for _, why := range l.passed {
		if why != PassedMemory {
			t.Fatalf("passed over: %q, want %q", why, PassedMemory)
		}
	}
	k.steps = nil
	for i := range uint32(calls) {
		k.answer(2*i+1, "value")
	}
	k.ask(2*calls+1, get, "later")
	k.begin(2*calls + 1)
	k.data(Down, 2*calls+1, false, prefixed(0, strings.Repeat("v", MaxBytes)))
	k.feed(tap)
	if why, ended := tap.Ended(); ended {
		t.Fatalf("the tap has ended: %q; a full budget costs calls only", why)
	}
	if len(l.calls)+len(l.passed) != calls+1 || len(l.calls) < 15 || tap.cfg.Budget.Used() != 0 {
		t.Fatalf("%d observed, %d passed over, %d bytes held; want every call in one of both, and none held",
			len(l.calls), len(l.passed), tap.cfg.Budget.Used())
	}
}

// GUARANTEE G7: … and in all.
func TestBytesOfAllConnections(t *testing.T) {
	budget := NewBudget(10000)
	observers, taps := [2]listener{}, [2]*Tap{}
	for i := range taps {
		taps[i] = New(Config{Observer: &observers[i], Budget: budget, Passed: func(why string) {
			observers[i].passed = append(observers[i].passed, why)
		}})
		k := newTalk()
		k.ask(1, get, strings.Repeat("k", 6000))
		k.feed(taps[i])
	}
	if n := budget.Used(); n < 6000 || n > 10000 {
		t.Fatalf("%d bytes held, want those of one call", n)
	}
	if !slices.Equal(observers[1].passed, []string{PassedMemory}) || len(observers[0].passed) > 0 {
		t.Fatalf("passed over: %v and %v, want the second", observers[0].passed, observers[1].passed)
	}
	taps[0].Close()
	if n := budget.Used(); n != 0 {
		t.Fatalf("%d bytes held after Close", n)
	}
	taps[0].Feed(Up, []byte("anything")) // a pump that is late
	if n := taps[0].Unanswered(); n != 0 {
		t.Fatalf("%d unanswered after Close", n)
	}
}

func TestGzipWithinTheBudget(t *testing.T) {
	l := &listener{limits: func(string, []byte) Limits { return Limits{Bytes: 1 << 30} }}
	tap := l.tap()
	k := newTalk()
	k.ask(1, get, "key")
	k.begin(1)
	k.data(Down, 1, false, zipped(strings.Repeat("v", 16<<20)))
	k.trailers(1, "0", "")
	k.feed(tap)
	if !slices.Equal(l.passed, []string{PassedMemory}) || tap.cfg.Budget.Used() != 0 {
		t.Fatalf("passed over: %v, %d bytes held, want %q, 0", l.passed, tap.cfg.Budget.Used(), PassedMemory)
	}
}

// Of each message it is asked whether it is wanted; one that is not costs no memory, and the next may be.
func TestEachIsAskedFor(t *testing.T) {
	asked := 0
	l := &listener{limits: func(string, []byte) Limits {
		return Limits{Bytes: 1 << 20, Each: true, Wanted: func() bool { asked++; return asked%3 == 0 }}
	}}
	tap := l.tap()
	k := newTalk()
	k.ask(1, get, "key")
	k.begin(1)
	for _, message := range []string{"one", "two", "three", "four", "five", "six"} {
		k.data(Down, 1, false, frame(message))
	}
	k.feed(tap)
	var heard []string
	for _, c := range l.calls {
		heard = append(heard, string(c.Responses[0]))
	}
	if !slices.Equal(heard, []string{"three", "six"}) || asked != 6 || len(l.passed) > 0 {
		t.Errorf("heard %q, asked %d times, passed over %q", heard, asked, l.passed)
	}
}

// A message of a watch that does not fit costs this message, not the watch.
func TestEachGoesOn(t *testing.T) {
	l := &listener{limits: func(string, []byte) Limits { return Limits{Bytes: 1 << 30, Each: true} }}
	tap := l.tap()
	k := newTalk()
	k.open(1, get)
	k.data(Up, 1, false, frame("watch"))
	k.begin(1)
	k.data(Down, 1, false, prefixed(0, strings.Repeat("v", 2<<20)))
	k.data(Down, 1, false, prefixed(1, "no gzip"))
	for range 100 { // far more than MaxBytes, one after the other
		k.data(Down, 1, false, prefixed(0, strings.Repeat("v", 1<<19)))
	}
	k.feed(tap)
	if len(l.calls) != 100 || !slices.Equal(l.passed, []string{PassedMemory, PassedCompressed}) {
		t.Fatalf("%d observed, passed over %v; want 100, the large and the broken one", len(l.calls), l.passed)
	}
}

// Records are reused, but never what an observer was given.
func TestRequestsAreNotReused(t *testing.T) {
	l := &listener{limits: func(_ string, request []byte) Limits {
		if request[0] == 'x' {
			return Limits{}
		}
		return Limits{Bytes: 10, Each: true}
	}}
	tap := l.tap()
	k := newTalk()
	for i, request := range []string{"x01", "w02", "x03", "w04", "w05"} {
		id := 2*uint32(i) + 1
		k.ask(id, get, request)
		k.begin(id)
		k.data(Down, id, false, frame("event"))
		k.data(Down, id, false, []byte{99, 0, 0, 0, 0}) // passed over, after a message of it was handed over
	}
	k.feed(tap)
	var got []string
	for _, c := range l.calls {
		got = append(got, string(c.Request))
	}
	if want := []string{"w02", "w04", "w05"}; !slices.Equal(got, want) {
		t.Fatalf("observed %q, want %q", got, want)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	tap := (&listener{room: func(string) int { return 0 }}).tap()
	k := newTalk()
	for i := range uint32(maxStreams) {
		k.headers(Up, 2*i+1, true, ":path", get)
	}
	k.feed(tap)
	if n := tap.Unanswered(); n != maxStreams {
		t.Fatalf("%d unanswered, want %d", n, maxStreams)
	}
	k.steps = nil
	k.headers(Up, 2*maxStreams+1, true, ":path", get)
	k.feed(tap)
	if why, _ := tap.Ended(); why != ReasonMemory {
		t.Fatalf("ended %q, want %q", why, ReasonMemory)
	}
}

// An empty message takes no byte on the wire but five, and a record here.
func TestEmptyMessagesAreBounded(t *testing.T) {
	l := &listener{}
	tap := l.tap()
	k := newTalk()
	k.ask(1, get, "key")
	k.begin(1)
	for range 10 {
		k.data(Down, 1, false, bytes.Repeat(frame(""), 10000))
	}
	k.feed(tap)
	if !slices.Equal(l.passed, []string{PassedMemory}) {
		t.Fatalf("passed over: %v, want %q", l.passed, PassedMemory)
	}
}

// GUARANTEE G2: a panic in here, or in the observer, ends the tap of this connection only.
func TestPanicEndsTheTap(t *testing.T) {
	l := &listener{room: func(string) int { panic("a mistake") }}
	tap := l.tap()
	tap.letPanic = false
	k := newTalk()
	k.ask(1, get, "key")
	k.feed(tap) // also goes on to feed after the panic
	if why, _ := tap.Ended(); why != ReasonPanic {
		t.Fatalf("ended %q, want %q", why, ReasonPanic)
	}
	if !bytes.Contains(tap.Stack(), []byte("TestPanicEndsTheTap")) {
		t.Fatalf("the stack does not show the place of the panic:\n%s", tap.Stack())
	}
	if tap.Unanswered() != 0 || tap.cfg.Budget.Used() != 0 {
		t.Fatal("the tap holds on to what it had")
	}
	tap.Close()
}
