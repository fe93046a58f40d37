package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

const indent = "   "

// terminal writes the story: to a terminal with colors and a line that moves
// while something is built, elsewhere as plain lines.
type terminal struct {
	out    io.Writer
	moving bool // the last line may be written over
	color  bool
	steps  int
}

func newTerminal(file *os.File) *terminal {
	info, err := file.Stat()
	moving := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &terminal{out: file, moving: moving, color: moving && os.Getenv("NO_COLOR") == ""}
}

// The few colors there are, as parameters of SGR.
const (
	bold = "1"
	dim  = "2"
	cyan = "36"
)

func (t *terminal) paint(sgr, text string) string {
	if !t.color || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

// printf ignores errors: a terminal that went away sends SIGHUP or SIGPIPE, which
// end the demo in order.
func (t *terminal) printf(format string, args ...any) { _, _ = fmt.Fprintf(t.out, format, args...) }

// step begins the next part of the story.
func (t *terminal) step(title string) {
	t.steps++
	t.printf("\n%s\n", t.paint(bold, fmt.Sprintf("%d. %s", t.steps, title)))
}

// say writes lines of the story itself.
func (t *terminal) say(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		t.printf("%s\n", strings.TrimRight(indent+line, " \n"))
	}
}

// command shows what is run, as one would type it.
func (t *terminal) command(text string) {
	prompt := "$ "
	for line := range strings.Lines(text) {
		t.say("%s", t.paint(cyan, strings.TrimSuffix(prompt+line, "\n")))
		prompt = "> "
	}
}

// detail shows what somebody else wrote, as it is.
func (t *terminal) detail(text string) {
	for line := range strings.Lines(text) {
		t.printf("%s%s\n", indent, t.paint(dim, strings.TrimRight(line, "\r\n")))
	}
}

// Elsewhere than on a terminal a build says that it goes on first after a
// second, then every ten.
const (
	redraw     = 200 * time.Millisecond
	firstLine  = time.Second
	furtherGap = 10 * time.Second
)

// build shows that a build goes on, while it does; a build of nothing is quiet.
func (t *terminal) build(title string, build func(binary.Builder) (path string, err error)) (string, error) {
	var path string
	var err error
	steps, done := make(chan binary.Progress), make(chan struct{})
	go func() {
		defer close(done)
		path, err = build(binary.Builder{Progress: func(p binary.Progress) { steps <- p }})
	}()
	start := time.Now()
	wait := firstLine
	if t.moving {
		wait = redraw
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for last := (binary.Progress{}); ; {
		select {
		case last = <-steps:
		case <-timer.C:
			t.building(title, last, time.Since(start))
			if wait = furtherGap; t.moving {
				wait = redraw
			}
			timer.Reset(wait)
		case <-done:
			if t.moving {
				t.printf("\r\x1b[K")
			}
			how := "there already"
			if last.Done {
				how = fmt.Sprintf("built in %.1f s", time.Since(start).Seconds())
			}
			if err == nil {
				t.say("%-13s %s", title, how)
			}
			return path, err
		}
	}
}

func (t *terminal) building(title string, p binary.Progress, elapsed time.Duration) {
	line := fmt.Sprintf("%-13s building, %.0f s", title, elapsed.Seconds())
	if p.Compiled > 0 {
		line += fmt.Sprintf(", %d of at most %d packages compiled", p.Compiled, p.Packages)
	}
	if t.moving {
		t.printf("\r\x1b[K%s%s", indent, line)
	} else {
		t.say("%s", line)
	}
}
