package tap

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
)

const get = "/etcdserverpb.KV/Range"

// Each story is a conversation, and what the tap must have understood of it.
type story struct {
	name   string
	tell   func(k *talk)
	limits Limits // 64 KiB, if zero
	want   []string
	ended  Reason
	open   int // Unanswered
}

var stories = []story{
	{name: "a unary call", tell: func(k *talk) {
		k.ask(1, get, "key")
		k.answer(1, "value")
	}, want: []string{get + ` "key" → ["value"] code=0`}},

	{name: "two calls interleaved", tell: func(k *talk) {
		k.ask(1, get, "a")
		k.ask(3, get, "b")
		k.begin(3)
		k.begin(1)
		k.data(Down, 3, false, frame("B"))
		k.data(Down, 1, false, frame("A"))
		k.trailers(1, "0", "")
		k.trailers(3, "0", "")
	}, want: []string{get + ` "a" → ["A"] code=0`, get + ` "b" → ["B"] code=0`}},

	{name: "empty request and empty answer", tell: func(k *talk) {
		k.ask(1, get, "")
		k.answer(1, "")
	}, want: []string{get + ` "" → [""] code=0`}},

	{name: "a refused call: trailers only, with a percent-encoded message", tell: func(k *talk) {
		k.ask(1, get, "key")
		k.headers(Down, 1, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "11",
			"grpc-message", "etcdserver: mvcc: 100%25 %C3%BC, %zz")
	}, want: []string{get + ` "key" → [] code=11 "etcdserver: mvcc: 100% ü, %zz"`}},

	{name: "refused after a part of the answer", tell: func(k *talk) {
		k.ask(1, get, "key")
		k.begin(1)
		k.data(Down, 1, false, append(frame("one"), frame("two")[:6]...))
		k.trailers(1, "14", "gone")
	}, want: []string{get + ` "key" → ["one"] code=14 "gone"`}},

	{name: "an answer that ends well within a message", tell: func(k *talk) {
		k.ask(1, get, "key")
		k.begin(1)
		k.data(Down, 1, false, frame("one")[:6])
		k.trailers(1, "0", "")
	}, want: []string{"passed: incomplete"}},

	{name: "a server stream: several messages in a DATA frame, one message over several, prefix split", tell: func(k *talk) {
		k.ask(1, get, "key")
		k.begin(1)
		k.data(Down, 1, false, append(append(frame("one"), frame("")...), frame("three")[:3]...))
		k.data(Down, 1, false, nil)
		k.data(Down, 1, false, frame("three")[3:7])
		k.data(Down, 1, false, frame("three")[7:])
		k.trailers(1, "0", "")
	}, want: []string{get + ` "key" → ["one" "" "three"] code=0`}},

	{name: "the cap cuts within a message, and nothing after the cut is taken", limits: Limits{Bytes: 5}, tell: func(k *talk) {
		k.ask(1, get, "key")
		k.answer(1, "one", "three", "x", "")
	}, want: []string{get + ` "key" → ["one" "th"] code=0 truncated`}},

	{name: "the cap cuts between messages", limits: Limits{Bytes: 3}, tell: func(k *talk) {
		k.ask(1, get, "key")
		k.answer(1, "one", "", "x")
	}, want: []string{get + ` "key" → ["one" ""] code=0 truncated`}},

	{name: "an answer as large as the cap is whole", limits: Limits{Bytes: 8}, tell: func(k *talk) {
		k.ask(1, get, "key")
		k.answer(1, "one", "three")
	}, want: []string{get + ` "key" → ["one" "three"] code=0`}},

	{name: "each message by itself, cut by itself, then the end", limits: Limits{Bytes: 3, Each: true}, tell: func(k *talk) {
		k.open(1, get)
		k.data(Up, 1, false, frame("watch"))
		k.begin(1)
		k.data(Down, 1, false, append(frame("one"), frame("three")...))
		k.data(Up, 1, false, frame("another"))
		k.data(Down, 1, false, frame("six"))
		k.trailers(1, "1", "bye")
	}, want: []string{
		get + ` "watch" → ["one"] code=-1 goes on`,
		get + ` "watch" → ["thr"] code=-1 truncated goes on`,
		get + ` "watch" → ["six"] code=-1 goes on`,
		get + ` "watch" → [] code=1 "bye"`,
	}},

	{name: "gzip, both ways", tell: func(k *talk) {
		k.open(1, get)
		k.data(Up, 1, true, zipped("key"))
		k.begin(1)
		k.data(Down, 1, false, append(zipped("value"), zipped(strings.Repeat("v", 2000))...))
		k.data(Down, 1, false, zipped(""))
		k.trailers(1, "0", "")
	}, want: []string{get + ` "key" → ["value" "` + strings.Repeat("v", 2000) + `" ""] code=0`}},

	{name: "gzip cut by the cap, as decoded", limits: Limits{Bytes: 100}, tell: func(k *talk) {
		k.open(1, get)
		k.data(Up, 1, true, frame("key"))
		k.begin(1)
		k.data(Down, 1, false, zipped(strings.Repeat("v", 1<<20)))
		k.trailers(1, "0", "")
	}, want: []string{get + ` "key" → ["` + strings.Repeat("v", 100) + `"] code=0 truncated`}},

	{name: "gzip exactly as large as the cap is whole", limits: Limits{Bytes: 100}, tell: func(k *talk) {
		k.ask(1, get, "key")
		k.begin(1)
		k.data(Down, 1, false, zipped(strings.Repeat("v", 100)))
		k.trailers(1, "0", "")
	}, want: []string{get + ` "key" → ["` + strings.Repeat("v", 100) + `"] code=0`}},

	{name: "a request that only decoded exceeds what is wanted", tell: func(k *talk) {
		k.open(1, get)
		k.data(Up, 1, true, zipped(strings.Repeat("k", 1<<20)))
		k.answer(1, "value")
	}, want: []string{"passed: too-large"}},

	{name: "a request that exceeds what is wanted", tell: func(k *talk) {
		k.open(1, get)
		k.data(Up, 1, true, frame(strings.Repeat("k", 1<<16+1)))
		k.answer(1, "value")
	}, want: []string{"passed: too-large"}},

	{name: "broken gzip", tell: func(k *talk) {
		k.open(1, get)
		k.data(Up, 1, true, prefixed(1, "no gzip at all"))
		k.answer(1, "value")
		k.ask(3, get, "key")
		k.begin(3)
		bad := zipped("value")
		bad[len(bad)-1] ^= 1
		k.data(Down, 3, false, bad)
		k.trailers(3, "0", "")
	}, want: []string{"passed: compressed", "passed: compressed"}},

	{name: "another compression", tell: func(k *talk) {
		k.ask(1, get, "key")
		k.headers(Down, 1, false, ":status", "200", "grpc-encoding", "zstd")
		k.data(Down, 1, false, prefixed(1, "value"))
		k.trailers(1, "0", "")
		k.ask(3, get, "key")
		k.headers(Down, 3, false, ":status", "200", "grpc-encoding", "zstd")
		k.data(Down, 3, false, prefixed(0, "as it is"))
		k.trailers(3, "0", "")
	}, want: []string{get + ` "key" → ["as it is"] code=0`, "passed: compressed"}},

	{name: "not a gRPC message", tell: func(k *talk) {
		k.open(1, get)
		k.data(Up, 1, true, []byte("{\"key\": \"a\"}"))
		k.answer(1, "value")
	}, want: []string{"passed: malformed"}},

	{name: "the client cancels", tell: func(k *talk) {
		k.ask(1, get, "key")
		k.begin(1)
		k.data(Down, 1, false, append(frame("one"), frame("two")[:6]...))
		k.reset(Up, 1)
		k.data(Down, 1, false, frame("two")[6:]) // was under way
		k.trailers(1, "0", "")
	}, want: []string{get + ` "key" → ["one"] code=-1`}},

	{name: "the member resets", tell: func(k *talk) {
		k.ask(1, get, "key")
		k.reset(Down, 1)
	}, want: []string{get + ` "key" → [] code=-1`}},

	{name: "the client cancels before its request is whole", tell: func(k *talk) {
		k.open(1, get)
		k.data(Up, 1, false, frame("key")[:6])
		k.reset(Up, 1)
	}, want: []string{"passed: incomplete"}},

	{name: "a request without a message", tell: func(k *talk) {
		k.open(1, get)
		k.data(Up, 1, true, nil)
		k.answer(1, "value")
	}, want: []string{"passed: incomplete"}},

	{name: "GOAWAY: streams above the last one are not answered", tell: func(k *talk) {
		k.ask(1, get, "a")
		k.ask(3, get, "b")
		k.say(Down, func(f *http2.Framer) error { return f.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil) })
		k.say(Down, func(f *http2.Framer) error { return f.WriteGoAway(1, http2.ErrCodeNo, []byte("bye")) })
		k.ask(5, get, "c")
		k.answer(1, "A")
	}, want: []string{get + ` "b" → [] code=-1`, get + ` "a" → ["A"] code=0`}},

	{name: "informational headers, unknown frames, padding, priority, continuation", tell: func(k *talk) {
		block := k.fields(Up, ":path", get, ":method", "POST")
		k.say(Up, func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:2], PadLength: 9,
				Priority: http2.PriorityParam{StreamDep: 3, Weight: 4}})
		})
		k.say(Up, func(f *http2.Framer) error { return f.WriteContinuation(1, false, nil) })
		k.say(Up, func(f *http2.Framer) error { return f.WriteContinuation(1, true, block[2:]) })
		k.say(Up, func(f *http2.Framer) error { return f.WriteDataPadded(1, false, frame("key")[:4], make([]byte, 255)) })
		k.say(Up, func(f *http2.Framer) error { return f.WriteRawFrame(99, 255, 1, []byte("unknown")) })
		k.say(Up, func(f *http2.Framer) error { return f.WritePing(false, [8]byte{1}) })
		k.say(Up, func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 99) })
		k.say(Up, func(f *http2.Framer) error { return f.WritePriority(1, http2.PriorityParam{StreamDep: 3}) })
		k.say(Up, func(f *http2.Framer) error { return f.WriteDataPadded(1, true, frame("key")[4:], make([]byte, 1)) })
		k.headers(Down, 1, false, ":status", "103", "link", "x")
		k.answer(1, "value")
	}, want: []string{get + ` "key" → ["value"] code=0`}},

	{name: "padded HEADERS without priority, priority without padding", tell: func(k *talk) {
		for i, prio := range []http2.PriorityParam{{}, {StreamDep: 1 << 20, Weight: 200}} {
			id := uint32(2*i + 1)
			block := k.fields(Up, ":path", get)
			k.say(Up, func(f *http2.Framer) error {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, Priority: prio,
					PadLength: uint8(30 * (1 - i))})
			})
			k.data(Up, id, true, frame("key"))
			k.answer(id, "value")
		}
	}, want: []string{get + ` "key" → ["value"] code=0`, get + ` "key" → ["value"] code=0`}},

	{name: "a member's HPACK table of 64 KiB", tell: func(k *talk) {
		k.hpack[Down].SetMaxDynamicTableSizeLimit(1 << 16)
		k.hpack[Down].SetMaxDynamicTableSize(1 << 16)
		for i := range uint32(3) {
			k.ask(2*i+1, get, "key")
			k.headers(Down, 2*i+1, false, ":status", "200", "token", strings.Repeat("t", 20000)) // the second and third come from the table
		}
	}, open: 3},

	{name: "a client's HPACK table beyond what members allow", tell: func(k *talk) {
		k.hpack[Up].SetMaxDynamicTableSizeLimit(4097)
		k.hpack[Up].SetMaxDynamicTableSize(4097)
		k.ask(1, get, "key")
	}, ended: ReasonHPACK},

	{name: "a member's HPACK table beyond", tell: func(k *talk) {
		k.hpack[Down].SetMaxDynamicTableSizeLimit(1 << 17)
		k.hpack[Down].SetMaxDynamicTableSize(1 << 17)
		k.ask(1, get, "key")
		k.answer(1, "value")
	}, ended: ReasonHPACK},

	{name: "an answer fed before its request is held, and its epoch is void", tell: func(k *talk) {
		k.answer(1, "A")
		k.answer(3, "B")
		k.ask(1, get, "a")
		k.ask(3, get, "b")
		k.ask(5, get, "c")
		k.answer(5, "C")
	}, want: []string{get + ` "a" → ["A"] code=0 epoch=0`, get + ` "b" → ["B"] code=0 epoch=0`, get + ` "c" → ["C"] code=0`}},

	{name: "half of an answer fed before its request", limits: Limits{Bytes: 7}, tell: func(k *talk) {
		k.begin(1)
		k.data(Down, 1, false, append(frame("one"), frame("three")[:7]...))
		k.ask(1, get, "a")
		k.data(Down, 1, false, frame("three")[7:])
		k.trailers(1, "0", "")
	}, want: []string{get + ` "a" → ["one" "thre"] code=0 truncated epoch=0`}},

	{name: "half of an answer fed before its request, each message", limits: Limits{Bytes: 4, Each: true}, tell: func(k *talk) {
		k.begin(1)
		k.data(Down, 1, false, append(frame("one"), zipped("three")[:7]...))
		k.ask(1, get, "a")
		k.data(Down, 1, false, zipped("three")[7:])
		k.trailers(1, "0", "")
	}, want: []string{
		get + ` "a" → ["one"] code=-1 goes on epoch=0`,
		get + ` "a" → ["thre"] code=-1 truncated goes on epoch=0`,
		get + ` "a" → [] code=0 epoch=0`,
	}},

	{name: "a stream refused before it was seen", tell: func(k *talk) {
		k.reset(Down, 1)
		k.ask(1, get, "a")
	}},

	{name: "too much held of an early answer", tell: func(k *talk) {
		k.answer(1, strings.Repeat("v", maxHeld), "x")
		k.ask(1, get, "a")
		k.ask(3, get, "b")
		k.begin(5)
		k.data(Down, 5, false, zipped(strings.Repeat("v", maxHeld+1)))
		k.answer(3, "B")
	}, want: []string{get + ` "b" → ["B"] code=0`, "passed: early", "passed: early"}},

	{name: "the member answers before the request is whole", tell: func(k *talk) {
		k.open(1, get)
		k.data(Up, 1, false, frame("key")[:7])
		k.answer(1, "value")
		k.data(Up, 1, true, frame("key")[7:])
	}, want: []string{get + ` "key" → ["value"] code=0`}},

	{name: "an answer to a stream that is never opened", tell: func(k *talk) {
		k.answer(1, "A")
		k.ask(3, get, "b")
	}, ended: ReasonUnpaired},

	{name: "the body of an answer without a head", tell: func(k *talk) {
		k.data(Down, 1, false, frame("A"))
	}, ended: ReasonUnpaired},

	{name: "more early answers than can be held", tell: func(k *talk) {
		for i := range uint32(maxEarly + 1) {
			k.begin(2*i + 1)
		}
	}, ended: ReasonUnpaired},

	{name: "an answer on a pushed stream", tell: func(k *talk) { k.begin(2) }, ended: ReasonUnpaired},

	{name: "an answer from something that speaks no gRPC", tell: func(k *talk) {
		k.ask(1, get, "a")
		k.headers(Down, 1, false, ":status", "502", "content-type", "text/html")
		k.data(Down, 1, true, []byte("<html>"))
	}, want: []string{get + ` "a" → [] code=-1`}},

	{name: "unanswered: half-sent requests too, but not what both sides keep open", tell: func(k *talk) {
		k.ask(1, get, "a")
		k.open(3, get) // a watch that was answered
		k.data(Up, 3, false, frame("w"))
		k.begin(3)
		k.open(5, get) // one that was not, yet
		k.data(Up, 5, false, frame("w"))
		k.open(7, get) // half-closed with an empty DATA frame, as a client stream is
		k.data(Up, 7, false, frame("x"))
		k.data(Up, 7, true, nil)
		k.open(9, get) // half of a request
		k.data(Up, 9, false, frame("half")[:6])
		k.headers(Down, 9, false, ":status", "103") // says nothing
		k.ask(11, get, "c")
		k.reset(Up, 11)
		k.open(13, get) // given up before it was sent
		k.reset(Up, 13)
		k.open(15, get) // answered before it was sent
		k.answer(15, "no")
		k.begin(17) // heard before it was opened
		k.open(17, get)
	}, want: []string{get + ` "c" → [] code=-1`, "passed: incomplete"}, open: 4},

	{name: "frames of streams that have ended", tell: func(k *talk) {
		k.ask(1, get, "a")
		k.answer(1, "A")
		k.data(Up, 1, true, frame("late"))
		k.data(Down, 1, true, frame("late"))
		k.headers(Up, 1, true, "new-in-the-table", "x")
		k.headers(Down, 1, true, "new-in-the-table", "x")
		k.reset(Up, 1)
		k.reset(Down, 1)
		k.headers(Up, 3, false, ":path", get, "new-in-the-table", "x")
		k.data(Up, 3, true, frame("b"))
		k.answer(3, "B")
	}, want: []string{get + ` "a" → ["A"] code=0`, get + ` "b" → ["B"] code=0`}},
}

func TestStories(t *testing.T) {
	for _, s := range slices.Concat(stories, violations) {
		t.Run(s.name, func(t *testing.T) {
			k := newTalk()
			s.tell(k)
			for name, steps := range map[string][]step{"frame by frame": k.steps, "byte by byte": chopped(k.steps, func() int { return 1 })} {
				l := &listener{}
				if s.limits.Bytes > 0 {
					l.limits = func(string, []byte) Limits { return s.limits }
				}
				tap := l.tap()
				for _, step := range steps {
					tap.Feed(step.d, step.b)
				}
				if diff := cmp.Diff(s.want, l.lines()); diff != "" {
					t.Errorf("%s: observed (-want +got):\n%s", name, diff)
				}
				if why, ended := tap.Ended(); why != s.ended || ended != (s.ended != "") {
					t.Errorf("%s: ended %q, %v, want %q", name, why, ended, s.ended)
				}
				if n := tap.Unanswered(); n != s.open {
					t.Errorf("%s: %d unanswered, want %d", name, n, s.open)
				}
				tap.Close()
				if n := tap.cfg.Budget.Used(); n != 0 {
					t.Errorf("%s: %d bytes of the budget are still held", name, n)
				}
			}
		})
	}
}

// chopped cuts a conversation into chunks of the sizes that size says.
func chopped(steps []step, size func() int) (chunks []step) {
	for _, s := range steps {
		for b := s.b; len(b) > 0; {
			n := min(size(), len(b))
			chunks = append(chunks, step{s.d, b[:n]})
			b = b[n:]
		}
	}
	return chunks
}
