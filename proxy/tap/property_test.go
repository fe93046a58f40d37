package tap

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// How the bytes are cut into reads is chance, and changes nothing.
func TestChunksOfRecordedConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/conversations/*.bin")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded conversations: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			steps := parseConversation(b)
			want := heard(t, steps)
			if len(want) < 5 {
				t.Fatalf("heard only %d calls", len(want))
			}
			rapid.Check(t, func(t *rapid.T) {
				most := rapid.SampledFrom([]int{1, 3, 20, 1000, 100000}).Draw(t, "most")
				size := rapid.IntRange(1, most)
				got := heard(t, chopped(steps, func() int { return size.Draw(t, "size") }))
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("heard otherwise (-as recorded +chopped):\n%s", diff)
				}
			})
		})
	}
}

func heard(t rapid.TB, steps []step) []string {
	l := &listener{limits: func(method string, _ []byte) Limits {
		return Limits{Bytes: 1000, Each: strings.Contains(method, "Duplex") || strings.Contains(method, "Watch")}
	}}
	tap := l.tap()
	for _, s := range steps {
		tap.Feed(s.d, s.b)
	}
	if why, ended := tap.Ended(); ended {
		t.Fatalf("the tap has ended: %q", why)
	}
	return l.lines()
}

// Calls that the test makes up, told in a random order of frames (each stream in its own order), come out as they went in.
func TestMadeUpCalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{Bytes: rapid.IntRange(1, 300).Draw(t, "bytes")}
		k, want := newTalk(), []string{}
		var streams [][]func() // what is still to be told of each stream
		message := rapid.Map(rapid.IntRange(0, 200), func(n int) string { return strings.Repeat("m", n) })
		for i := range rapid.IntRange(1, 8).Draw(t, "calls") {
			id := uint32(2*i + 1)
			request := fmt.Sprint(i, message.Draw(t, "request"))
			answers := rapid.SliceOfN(message, 0, 4).Draw(t, "answers")
			code := rapid.SampledFrom([]string{"0", "11"}).Draw(t, "code")
			k.open(id, get)
			tell := tellData(t, k, Up, id, true, request)
			tell = append(tell, func() { k.begin(id) })
			tell = append(tell, tellData(t, k, Down, id, false, answers...)...)
			tell = append(tell, func() { k.trailers(id, code, "") })
			streams = append(streams, tell)
			want = append(want, expected(request, answers, limits.Bytes, code))
		}
		for len(streams) > 0 {
			i := rapid.IntRange(0, len(streams)-1).Draw(t, "next")
			streams[i][0]()
			if streams[i] = streams[i][1:]; len(streams[i]) == 0 {
				streams = slices.Delete(streams, i, i+1)
			}
		}
		l := &listener{limits: func(string, []byte) Limits { return limits }}
		tap := l.tap()
		k.feed(tap)
		got := l.lines()
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-made up +heard):\n%s", diff)
		}
		if used := tap.cfg.Budget.Used(); used != 0 || tap.Unanswered() != 0 || len(tap.streams) != 0 {
			t.Fatalf("%d bytes, %d unanswered, %d streams are left", used, tap.Unanswered(), len(tap.streams))
		}
	})
}

// tellData is a half of a stream, in random DATA frames.
func tellData(t *rapid.T, k *talk, d Direction, id uint32, end bool, messages ...string) (tell []func()) {
	var b []byte
	for _, m := range messages {
		if rapid.Bool().Draw(t, "zipped") {
			b = append(b, zipped(m)...)
		} else {
			b = append(b, frame(m)...)
		}
	}
	for len(b) > 0 {
		n := rapid.IntRange(1, len(b)).Draw(t, "frame")
		part, last := bytes.Clone(b[:n]), n == len(b)
		tell = append(tell, func() { k.data(d, id, end && last, part) })
		b = b[n:]
	}
	return tell
}

// expected is the naive way: everything is there at once.
func expected(request string, answers []string, room int, code string) string {
	kept, cut := []string{}, false
	for _, a := range answers {
		if a != "" && room == 0 {
			cut = true
			break
		}
		if len(a) > room {
			kept, cut = append(kept, a[:room]), true
			break
		}
		kept, room = append(kept, a), room-len(a)
	}
	line := fmt.Sprintf("%s %q → %q code=%s", get, request, kept, code)
	if cut {
		line += " truncated"
	}
	return line
}
