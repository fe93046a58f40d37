package inspect

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcd-parallax/parallax/shadow/diagnose"
)

// diagnosis is the command's flags.
type diagnosis struct {
	target
	duration time.Duration
	hash     bool
	output   string
}

const (
	shortestLook = time.Second
	longestLook  = 10 * time.Minute
)

// Diagnose is the command that looks at a cluster for half a minute.
func Diagnose(stdout, stderr io.Writer) *cobra.Command {
	var d diagnosis
	cmd := &cobra.Command{
		Use:   "diagnose",
		Short: "Look at a cluster for half a minute: do its members differ, where lies it, what to do",
		Long: `Look at a cluster for half a minute, and print a page: who the members are, whether they differ, in which layer the damage lies,
and the next step.

It asks the members directly, needs no proxy, and only reads: Status some hundred times a second while it watches revisions, leases and
member lists; the number of all keys once (etcd walks its index for that; where it takes a second, the other members are spared); a
sample of at most about a hundred keys, compared at one revision. With --user, a login appends an entry to the raft log. For every key
use "parallax check".

What it calls divergent is proved (docs/detection.md). It names who differs from a quorum, and not who is wrong. Ctrl-C ends it with
what was seen so far. --output json is the same page (schema parallax.diagnose/v1: conclusion, checks, bugs, facts), with ids in hex.

EXIT CODES
  0  nothing was found
  1  members differ
  2  the command line is wrong
  3  inconclusive: too little could be compared, and why is on the page`,
		Example: `  parallax diagnose --endpoints https://10.0.0.1:2379 --cacert ca.crt --cert client.crt --key client.key`,
	}
	d.flags(cmd.Flags())
	cmd.Flags().DurationVar(&d.duration, "duration", 20*time.Second, "how long revisions, leases and member lists are watched, 1s to 10m; where nobody writes, a difference is proved only after 12s")
	cmd.Flags().BoolVar(&d.hash, "hash", false, "also ask for HashKV, which blocks each member for a scan of all its keys, wants root, and is no evidence by itself")
	cmd.Flags().StringVar(&d.output, "output", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return Usage("unexpected argument %s: diagnose takes only flags; write lists with commas and no blanks", Quoted(args[0]))
		}
		return untilSignal(cmd, func(ctx context.Context) error { return d.run(ctx, stdout, stderr) })
	}
	return cmd
}

func (d *diagnosis) run(ctx context.Context, stdout, stderr io.Writer) error {
	switch {
	case d.output != "text" && d.output != "json":
		return Usage("--output is %s: use text or json", Quoted(d.output))
	case d.duration < shortestLook || d.duration > longestLook:
		return Usage("--duration is %s: use %s to %s", d.duration, shortestLook, longestLook)
	}
	began := time.Now()
	c, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	facts := diagnose.Look(ctx, diagnose.Options{
		Members: c.Snapshot, Duration: d.duration, Hash: d.hash,
		Progress: func(doing string) { _, _ = fmt.Fprintf(stderr, "parallax: %s\n", doing) }, // what nobody reads
	})
	c.said.tell(&facts)
	report := diagnose.NewReport(facts, began, time.Since(began))
	if err := d.print(stdout, report); err != nil {
		return fmt.Errorf("the report could not be written: %w", err)
	}
	switch report.Conclusion.Verdict {
	case diagnose.Divergent:
		return ExitError{Code: exitDivergent}
	case diagnose.Inconclusive:
		return ExitError{Code: exitInconclusive}
	}
	return nil
}

// tell adds what the members' probes said: why a member was not asked, URLs that lead to none, and what is about neither.
func (s *said) tell(f *diagnose.Facts) {
	urls, other := s.all()
	for url, why := range urls {
		if why == "" {
			continue
		}
		i := slices.IndexFunc(f.Members, func(m diagnose.Member) bool { return m.URL == url })
		switch {
		case i < 0:
			f.Apart = append(f.Apart, diagnose.Apart{URL: url, Why: why})
		case f.Members[i].NotAsked != "":
			f.Members[i].NotAsked = why
		}
	}
	slices.SortFunc(f.Apart, func(a, b diagnose.Apart) int {
		if a.URL < b.URL {
			return -1
		}
		return 1
	})
	f.Remarks = append(f.Remarks, other...)
}

func (d *diagnosis) print(w io.Writer, r diagnose.Report) error {
	if d.output == "text" {
		_, err := io.WriteString(w, page(r))
		return err
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
