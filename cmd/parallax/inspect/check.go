package inspect

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/sweep"
)

// comparison is the command's flags.
type comparison struct {
	target
	prefix, from string
	rate         int64
	output       string
	most         int64
}

const defaultRate = 8 << 20

// Check is the command that compares the whole key space once.
func Check(stdout, stderr io.Writer) *cobra.Command {
	var o comparison
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare every key on all members, once",
		Long: `Compare every key on all members, once, and name the keys on which they differ.

It asks the members directly, needs no proxy, and only reads: the keys in their order, page by page, each page at one revision from all
members at once, one request at a time from each. A page that differs is asked once more before anything is said. It may run at any time:
--rate bounds what it reads from each member in a second, and a member that is slow is left alone for a while. With --user, a login appends
an entry to the raft log.

Keys are given as text, or as base64:… (base64 of the key's bytes). Values are not printed: only their size, and a hash whose secret
ends with the command. Ctrl-C ends it with what was found so far, and with the key to go on from.

EXIT CODES
  0  every key was compared on all members, and none differs
  1  members differ
  2  the command line is wrong
  3  inconclusive: something could not be compared, and what and why is printed`,
		Example: `  parallax check --endpoints https://10.0.0.1:2379 --cacert ca.crt --cert client.crt --key client.key
  parallax check --prefix /registry/secrets/ --rate 1048576 --output json`,
	}
	o.flags(cmd.Flags())
	cmd.Flags().StringVar(&o.prefix, "prefix", "", "only the keys that begin with it")
	cmd.Flags().StringVar(&o.from, "from-key", "", "go on from this key; all before it are left out")
	cmd.Flags().Int64Var(&o.rate, "rate", defaultRate, "bytes that are read from each member in a second at most; 0: as many as it answers")
	cmd.Flags().StringVar(&o.output, "output", "table", "table, json (one document), or ndjson (each record of the divergence log as it is found, and the result in the last line)")
	cmd.Flags().Int64Var(&o.most, "max-findings", 1000, "stop when so many keys are found differing; 0: never")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return Usage("unexpected argument %s: check takes only flags; write lists with commas and no blanks", Quoted(args[0]))
		}
		return untilSignal(cmd, func(ctx context.Context) error { return o.run(ctx, stdout, stderr) })
	}
	return cmd
}

// bytesOf a key on the command line.
func bytesOf(flag, s string) ([]byte, error) {
	encoded, found := strings.CutPrefix(s, "base64:")
	if !found {
		return []byte(s), nil
	}
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, Usage("--%s: what follows base64: is none: %w", flag, err)
	}
	return b, nil
}

func (o *comparison) run(ctx context.Context, stdout, stderr io.Writer) error {
	prefix, err := bytesOf("prefix", o.prefix)
	if err != nil {
		return err
	}
	from, err := bytesOf("from-key", o.from)
	switch {
	case err != nil:
		return err
	case o.output != "table" && o.output != "json" && o.output != "ndjson":
		return Usage("--output is %s: use table, json or ndjson", Quoted(o.output))
	case o.rate < 0 || o.most < 0:
		return Usage("--rate and --max-findings cannot be negative")
	case len(from) > 0 && len(prefix) > 0 && bytes.Compare(from, prefix) > 0 && !bytes.HasPrefix(from, prefix):
		return Usage("--from-key lies behind all keys of --prefix")
	}
	c, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return o.compare(ctx, c, from, prefix, stdout, stderr)
}

// errEnough ends a check that has found what was asked for.
var errEnough = errors.New("as many keys differ as --max-findings says")

func (o *comparison) compare(ctx context.Context, c *connection, from, prefix []byte, stdout, stderr io.Writer) error {
	sink := &findings{}
	if o.output == "ndjson" {
		sink.to = stdout
	}
	room := 10_000
	if o.most > 0 {
		room = int(min(o.most, 1<<20)) + 1024 // the rest of the page
	}
	log := divergence.New(divergence.Config{Sink: sink, Limits: divergence.Limits{Findings: room, Burst: room, Waiting: room}})
	written := make(chan error, 1)
	go func() { written <- log.Run(context.WithoutCancel(ctx)) }()

	sweeping, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	found := int64(0)
	shown := newProgress(stderr)
	s := &sweep.Sweep{
		Members: c.Set, Ask: asker(o.rate, slog.New(c.said)), Progress: shown.show,
		Report: func(e divergence.Evidence) {
			log.Confirm(e)
			if found++; o.most > 0 && found >= o.most {
				stop(errEnough)
			}
		},
	}
	snap := c.Snapshot()
	var r sweep.Result
	err := errAlone
	if len(snap.Listed) > 1 {
		r, err = s.Once(sweeping, from, prefix)
	}
	shown.end()
	log.Close()
	logged := <-written
	switch {
	case errors.Is(err, errEnough):
	case ctx.Err() != nil:
		err = errors.New("interrupted")
	}
	v := newVerdict(snap, r, err, c.said)
	if err := errors.Join(v.print(stdout, o.output, sink), logged, sink.err); err != nil {
		return ExitError{Code: exitInconclusive, Err: fmt.Errorf("the result could not be written: %w", err)}
	}
	switch v.Verdict {
	case judge.Divergent.String():
		return ExitError{Code: exitDivergent}
	case judge.Inconclusive.String():
		return ExitError{Code: exitInconclusive}
	}
	return nil
}

var errAlone = errors.New("the cluster has one member: there is nothing to compare it with")

// asker within a rate.
func asker(rate int64, logger *slog.Logger) *ask.Asker {
	budget := sweep.Budget(rate)
	return &ask.Asker{
		Budget: func() ask.Budget { return budget }, Guard: func(f func()) { f() }, Paused: func() bool { return false },
		Poison: &ask.Poison{Logger: logger, Changed: func(int) {}},
		Asked:  func(uint64, judge.Kind) {}, Answered: func(uint64, int) {}, Timeout: sweep.Timeout,
	}
}

// reasons in words; they follow the name of a member or a part of the key space.
func inWords(why judge.Reason) string {
	switch why {
	case judge.FutureRev.Reason():
		return "has a lower revision than others, and does not catch up: it is behind, or its state is: run parallax diagnose"
	case judge.Compacted.Reason():
		return "has compacted what the others can still answer: one of them is far behind, run parallax diagnose"
	case judge.Unreachable.Reason():
		return "does not answer"
	case judge.Timeout.Reason(), judge.Resting.Reason():
		return "is slow: try again, or with a lower --rate"
	case judge.Denied.Reason():
		return "refuses the read: give --user one with READ on all keys"
	case judge.Exhausted.Reason():
		return fmt.Sprintf("an answer is over %d MiB, or the member has too much to do", member.MaxAnswer>>20)
	case judge.Poisoned.Reason():
		return "a member's connection broke while it read this: look at its log for a fatal line before it is read again"
	case judge.Foreign.Reason():
		return "another member or cluster answered"
	case judge.EpochChanged.Reason():
		return "its connection changed again and again"
	case judge.Unstable, judge.Silent:
		return "it differed, and did not differ alike when it was asked again: try again"
	case judge.OverBudget.Reason():
		return "--rate is too low for what is there"
	}
	return string(why)
}

// progress tells how far a check is: on a terminal in one line, otherwise every ten seconds.
type progress struct {
	to       io.Writer
	terminal bool
	began    time.Time
	last     time.Time
	width    int // of the line that is shown
}

func newProgress(to io.Writer) *progress {
	now := time.Now()
	p := &progress{to: to, began: now, last: now}
	if info, err := os.Stderr.Stat(); err == nil {
		p.terminal = info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

const (
	perLine = 200 * time.Millisecond
	perText = 10 * time.Second
)

func (p *progress) show(s sweep.Progress) {
	now := time.Now()
	every := perText
	if p.terminal {
		every = perLine
	}
	if now.Sub(p.last) < every {
		return
	}
	p.last = now
	p.say(progressLine(s, now.Sub(p.began)))
}

func (p *progress) say(line string) {
	if !p.terminal {
		_, _ = fmt.Fprintf(p.to, "parallax: %s\n", line) // what nobody reads
		return
	}
	pad := max(0, p.width-len(line))
	p.width = len(line)
	_, _ = fmt.Fprintf(p.to, "\r%s%s", line, strings.Repeat(" ", pad))
}

// end takes the line away.
func (p *progress) end() {
	if p.terminal && p.width > 0 {
		_, _ = fmt.Fprintf(p.to, "\r%s\r", strings.Repeat(" ", p.width))
	}
}

// progressLine with the rate and, where the number of keys that are left is known, the time that they take.
func progressLine(s sweep.Progress, took time.Duration) string {
	seconds := max(took.Seconds(), 0.001)
	line := fmt.Sprintf("%s keys compared, %s read, %.1f MiB/s from all members", thousands(s.Keys), mebibytes(s.Bytes), float64(s.Bytes)/(1<<20)/seconds)
	if s.Left > 0 && s.Keys > 0 {
		eta := time.Duration(float64(s.Left) / float64(s.Keys) * float64(took))
		line += fmt.Sprintf(", %d%%, %s left", 100*s.Keys/(s.Keys+s.Left), eta.Round(time.Second))
	}
	if s.Differing > 0 {
		line += fmt.Sprintf(", %s differ", thousands(s.Differing))
	}
	if s.Stalled != "" {
		line += ", waits: " + string(s.Stalled)
	}
	return line
}
