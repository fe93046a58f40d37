// Command trackrecord reproduces real bugs of etcd with real members, of the
// versions that have them, and tells what Parallax said (`make track-record`).
// Each bug has a control that must not be accused: a version in which it is
// fixed, or the same members without the fault.
//
//	cd e2e && go run ./trackrecord [-only 18667,index-back-3.6.16] [-rounds 20]
//
// The table goes to stdout, progress to stderr. The exit code is 0 when
// everything was named as it should be, and every control was silent.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:])) }

// options of a run.
type options struct {
	rounds   int
	only     string
	parallel int
	strict   bool
	list     bool
	verbose  bool
	markdown string
	parallax string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("trackrecord", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 1, "how often each row is played; each time another member is off")
	flags.StringVar(&o.only, "only", "", "only rows whose names contain one of these `words`, separated by commas")
	flags.IntVar(&o.parallel, "parallel", 2, "rows that are played at once, each with three members")
	flags.BoolVar(&o.strict, "strict", false, "what is named later than its bar fails; otherwise it is only said")
	flags.BoolVar(&o.list, "list", false, "list the rows and play none")
	flags.BoolVar(&o.verbose, "v", false, "tell every step")
	flags.StringVar(&o.markdown, "markdown", "", "`file` for the table, beside stdout")
	flags.StringVar(&o.parallax, "parallax", "", "`program` to play with, instead of what is built from the sources")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.rounds < 1 || o.parallel < 1:
		err = errors.New("-rounds and -parallel are at least 1")
	}
	if err != nil {
		_, _ = fmt.Fprintln(flags.Output(), "track record:", err)
	}
	return o, err
}

func run(args []string) (exitCode int) {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	some, err := selected(o.only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "track record:", err)
		return 2
	}
	if o.list {
		for _, r := range some {
			fmt.Printf("%-24s %s\n", r.name(), r.how)
		}
		return 0
	}
	// Not SIGPIPE: who asks for it gets it for sockets, too, and members are killed here.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	p := &player{options: o}
	if err := p.record(ctx, some); err != nil {
		fmt.Fprintln(os.Stderr, "track record:", err)
		return 1
	}
	return 0
}
