package tap

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2/hpack"
)

// sound compares what the tap counts as it goes with what is there.
func (t *Tap) sound() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	unanswered, wanted, held := 0, 0, int64(0)
	for id, s := range t.streams {
		if !s.downEnded && (s.upEnded || !s.answered) {
			unanswered++
		}
		if s.call != nil {
			wanted++
			held += int64(s.call.charged)
		}
		if s.upEnded && s.downEnded || id > t.top {
			return fmt.Errorf("stream %d should not be among those that are open: %+v, highest is %d", id, s, t.top)
		}
	}
	for id, s := range t.early {
		if s.call != nil {
			wanted++
			held += int64(s.call.charged)
		}
		if id <= t.top {
			return fmt.Errorf("stream %d is no longer early, the highest is %d", id, t.top)
		}
	}
	if unanswered != t.unanswered {
		return fmt.Errorf("counts %d unanswered calls, has %d", t.unanswered, unanswered)
	}
	if wanted != t.wanted {
		return fmt.Errorf("counts %d calls that are wanted, has %d", t.wanted, wanted)
	}
	if held != t.held || held > MaxBytes {
		return fmt.Errorf("counts %d bytes held, its calls %d, of at most %d", t.held, held, MaxBytes)
	}
	if len(t.streams) > maxStreams || len(t.early) > maxEarly {
		return fmt.Errorf("%d streams, %d early ones", len(t.streams), len(t.early))
	}
	return nil
}

// Whatever a client and a member say: no panic, no more memory than allowed, and how the bytes were cut changes nothing.
// The seeds are testdata/conversations/*.bin (helpers_test.go says how such a file is written) and every story.
func FuzzFeed(f *testing.F) {
	files, err := filepath.Glob("testdata/conversations/*.bin")
	if err != nil {
		f.Fatal(err)
	}
	for i, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint64(i))
	}
	for i, s := range slices.Concat(stories, violations) {
		k := newTalk()
		s.tell(k)
		var b []byte
		for _, s := range k.steps {
			b = appendConversation(b, s)
		}
		if len(b) < 10000 {
			f.Add(b, uint64(i))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		steps := parseConversation(b)
		chance := rand.New(rand.NewPCG(seed, 0))
		most := 1 + chance.IntN(40)
		whole, wholeEnd := fuzzed(t, steps, seed)
		pieces, piecesEnd := fuzzed(t, chopped(steps, func() int { return 1 + chance.IntN(most) }), seed)
		if diff := cmp.Diff(whole, pieces); diff != "" || wholeEnd != piecesEnd {
			t.Fatalf("ended %q, in pieces %q; (-whole +in pieces):\n%s", wholeEnd, piecesEnd, diff)
		}
	})
}

// fuzzed feeds a tap, whose observer and budget are as seed says.
func fuzzed(t *testing.T, steps []step, seed uint64) ([]string, Reason) {
	budget := NewBudget([]int64{0, 3000, 100000}[seed/4%3])
	l := &listener{limits: func(_ string, request []byte) Limits {
		return Limits{Bytes: []int{1 << 30, 10, 3000, 0}[(uint64(len(request))+seed)%4], Each: (uint64(len(request))+seed)%5 == 0}
	}}
	tap := New(Config{Observer: l, Budget: budget, Epoch: func() uint64 { return 7 },
		Passed: func(why string) { l.passed = append(l.passed, why) }})
	tap.letPanic = true
	var end Reason
	for _, s := range steps {
		tap.Feed(s.d, s.b)
		if used := budget.Used(); used > budget.max || used > MaxBytes {
			t.Fatalf("%d bytes of %d are held", used, budget.max)
		}
		if why, ended := tap.Ended(); end != "" && why != end || ended != (why != "") {
			t.Fatalf("ended %q after it had ended %q", why, end)
		} else {
			end = why
		}
	}
	if err := tap.sound(); err != nil {
		t.Fatal(err)
	}
	tap.Close()
	if used := budget.Used(); used != 0 {
		t.Fatalf("%d bytes are held after Close", used)
	}
	return l.lines(), end
}

// Header blocks, however they are split into HEADERS and CONTINUATION, are what HPACK says.
func FuzzHeaderBlock(f *testing.F) {
	k := newTalk()
	f.Add(k.fields(Up, ":path", get, ":method", "POST", "grpc-encoding", "gzip", "token", "abc"), k.fields(Up, ":path", get, "x", "y"), uint8(3))
	f.Add(k.fields(Down, ":status", "200", "grpc-status", "5", "grpc-message", "a%20b"), []byte{0x3f, 0xe1, 0xff, 0x03}, uint8(0))
	f.Add([]byte{0x3f, 0xe1, 0x1f, 0x20}, []byte{0x80}, uint8(1))
	f.Fuzz(func(t *testing.T, first, second []byte, piece uint8) {
		var h half
		h.init()
		var size int
		naive := hpack.NewDecoder(4096, func(hpack.HeaderField) {})
		naive.SetAllowedMaxDynamicTableSize(maxTable)
		naive.SetMaxStringLength(maxBlock)
		for _, block := range [][]byte{first, second, second, first, second, first, first} { // a block may be known, or no longer
			want := map[string]string{}
			fields, err := naive.DecodeFull(block)
			size = 0
			for _, field := range fields {
				want[field.Name] = field.Value
				size += int(field.Size())
			}
			if h.headers.begin(1, false); !h.headers.fits(len(block)) {
				return
			}
			for p := range slices.Chunk(block, 1+int(piece)) {
				h.headers.add(p)
			}
			why := h.headers.decode()
			if err != nil && why != ReasonHPACK && why != ReasonMemory || err == nil && (size > maxFields) != (why == ReasonMemory) {
				t.Fatalf("decoded with %q; hpack said %v, %d bytes", why, err, size)
			}
			if why != "" {
				return
			}
			got := []string{h.headers.path, h.headers.status, h.headers.encoding, h.headers.code, h.headers.message}
			if diff := cmp.Diff([]string{want[":path"], want[":status"], want["grpc-encoding"], want["grpc-status"], want["grpc-message"]}, got); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

// Whatever an answer's DATA holds, what is copied is what the naive way finds, which has all of it at once.
func FuzzMessages(f *testing.F) {
	f.Add(append(frame("one"), zipped("two")...), uint16(4), uint8(3))
	f.Add(append(zipped(string(bytes.Repeat([]byte("v"), 1000))), frame("")...), uint16(999), uint8(100))
	f.Add([]byte{0, 255, 255, 255, 255, 1}, uint16(10), uint8(1))
	f.Add(append(zipped(""), prefixed(1, "")...), uint16(1), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, room uint16, piece uint8) {
		l := &listener{limits: func(string, []byte) Limits { return Limits{Bytes: 1 + int(room)} }}
		tap := l.tap()
		k := newTalk()
		k.ask(1, get, "key")
		k.begin(1)
		for p := range slices.Chunk(b, 1+int(piece)) {
			k.data(Down, 1, false, p)
		}
		k.trailers(1, "0", "")
		k.feed(tap)
		if err := tap.sound(); err != nil {
			t.Fatal(err)
		}
		want, cut, why := naiveMessages(b, 1+int(room))
		switch {
		case why != "":
			if !slices.Equal(l.passed, []string{why}) && !slices.Equal(l.passed, []string{PassedMemory}) {
				t.Fatalf("observed %v, passed over %v, want %q", l.calls, l.passed, why)
			}
		case len(l.calls) == 1:
			got := l.calls[0]
			if diff := cmp.Diff(want, got.Responses); diff != "" || got.Truncated != cut {
				t.Fatalf("truncated: %v, want %v; (-want +got):\n%s", got.Truncated, cut, diff)
			}
		case !slices.Equal(l.passed, []string{PassedMemory}):
			t.Fatalf("observed %v, passed over %v, want %q", l.calls, l.passed, want)
		}
	})
}

// naiveMessages cuts an answer that is there as a whole.
func naiveMessages(b []byte, room int) (messages [][]byte, cut bool, why string) {
	for len(b) > 0 {
		if len(b) < 5 {
			return nil, false, PassedIncomplete
		}
		flag, n := b[0], int(binary.BigEndian.Uint32(b[1:]))
		b = b[5:]
		if flag > 1 {
			return nil, false, PassedMalformed
		}
		if n > len(b) {
			return nil, false, PassedIncomplete
		}
		m := b[:n]
		b = b[n:]
		if cut {
			continue
		}
		wire := room + room/256 + 64
		if flag == 1 && n > 0 {
			short := n > wire
			if m, why = naiveGunzip(m[:min(n, wire)], room, short); why != "" {
				return nil, false, why
			}
			cut = short
		}
		if len(m) > room {
			m, cut = m[:room], true
		}
		if room -= len(m); len(m) > 0 || !cut {
			messages = append(messages, append([]byte{}, m...))
		}
	}
	return messages, cut, ""
}

func naiveGunzip(b []byte, room int, short bool) ([]byte, string) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, PassedCompressed
	}
	m, err := io.ReadAll(io.LimitReader(z, int64(room)+1))
	if len(m) > room {
		return m, "" // what is broken past the cap is not looked at
	}
	if err != nil && (!short || !errors.Is(err, io.ErrUnexpectedEOF)) {
		return nil, PassedCompressed
	}
	return m, ""
}

func FuzzPercentDecode(f *testing.F) {
	for _, s := range []string{"", "%", "%4", "%41", "a%zzb", "100%25", "%C3%BC%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := percentDecode(s)
		if want, err := url.PathUnescape(s); err == nil && got != want {
			t.Fatalf("%q was decoded as %q, want %q", s, got, want)
		}
		if len(got) > len(s) {
			t.Fatalf("%q became longer: %q", s, got)
		}
		if again := percentDecode(url.PathEscape(s)); again != s {
			t.Fatalf("%q came back as %q", s, again)
		}
	})
}
