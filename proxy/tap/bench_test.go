package tap

import (
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// silent is an observer that keeps nothing, so that a benchmark shows what the tap costs.
type silent struct{ room, bytes int }

func (s silent) Request(string) int             { return s.room }
func (s silent) Response(string, []byte) Limits { return Limits{Bytes: s.bytes} }
func (s silent) Observe(Call)                   {}

// A client reuses one connection for ever: stream ids grow, and the HPACK tables have long been filled. rounds tells so many calls.
func rounds(from uint32, n int, size int) []step {
	k := newTalk()
	value := strings.Repeat("v", size)
	for i := range n {
		id := from + 2*uint32(i)
		k.ask(id, get, "/registry/pods/default/a-pod-with-an-ordinary-name")
		k.answer(id, value)
	}
	return k.steps
}

// The conversation of 1,000 calls is fed again and again, each time to a new tap: one op is one call.
func benchmarkFeed(b *testing.B, o Observer, size int) {
	const calls = 1000
	steps := rounds(1, calls, size)
	budget := NewBudget(0)
	b.ReportAllocs()
	for n := 0; n < b.N; n += calls {
		tap := New(Config{Observer: o, Budget: budget})
		for _, s := range steps {
			tap.Feed(s.d, s.b)
		}
		if why, ended := tap.Ended(); ended {
			b.Fatal(why)
		}
		tap.Close()
	}
}

func BenchmarkUnwantedGet(b *testing.B)  { benchmarkFeed(b, silent{0, 0}, 1024) }
func BenchmarkForgottenGet(b *testing.B) { benchmarkFeed(b, silent{4096, 0}, 1024) }
func BenchmarkWantedGet(b *testing.B)    { benchmarkFeed(b, silent{4096, 1 << 16}, 1024) }

// What a blind relay pays for the same call, at the least: it reads and writes every byte, by system calls. The target is
// UnwantedGet <= 15 % of it.
func BenchmarkBlindRelay(b *testing.B) {
	const calls = 1000
	steps := rounds(1, calls, 1024)
	down, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer down.Close()
	from, err := net.Dial("tcp", down.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close()
	to, err := down.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer to.Close()
	buf := make([]byte, 32<<10)
	b.ReportAllocs()
	for n := 0; n < b.N; n += calls {
		for i := 3; i+5 <= len(steps); i += 5 { // a request is one write and one read, its answer too, on either side of the relay: here on one
			for _, part := range [][]step{steps[i : i+2], steps[i+2 : i+5]} {
				size := 0
				for _, s := range part {
					size += copy(buf[size:], s.b)
				}
				if _, err := from.Write(buf[:size]); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(to, buf[:size]); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}

// What is fed of calls that nobody wants, or of an answer under way, allocates nothing.
func TestNoAllocations(t *testing.T) {
	for name, o := range map[string]Observer{"unwanted": silent{0, 0}, "looked at, not wanted": silent{4096, 0}, "wanted": silent{4096, 1 << 20}} {
		tap := New(Config{Observer: o})
		tap.letPanic = true
		k := newTalk()
		k.open(1, get)
		k.data(Up, 1, false, frame("key"))
		k.begin(1)
		k.data(Down, 1, false, []byte{0, 0, 8, 0, 0, 'a'}) // a message of 512 KiB begins
		k.feed(tap)
		tap.Feed(Down, []byte{0, 0x40, 0, byte(http2.FrameData), 0, 0, 0, 0, 1}) // 16 KiB
		if n := testing.AllocsPerRun(100, func() {
			tap.Feed(Down, []byte("of 16 KiB, so many"))
		}); n != 0 {
			t.Errorf("%s: %v allocations per chunk of DATA", name, n)
		}
		if copies := tap.cfg.Budget.Used() > 1<<19; copies != (name == "wanted") {
			t.Errorf("%s: copies: %v", name, copies)
		}
	}
}
