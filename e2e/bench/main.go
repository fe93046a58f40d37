// Command bench measures what it costs to put Parallax between a client and a
// member, beside every other way to do so, in one run (`make bench`).
//
// The table goes to stdout, progress to stderr. It judges no figure: the exit
// code says only whether the bench itself worked.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/etcd-parallax/parallax/e2e/bench/peers"
)

func main() {
	if played, err := peers.Main(); played {
		fmt.Fprintln(os.Stderr, os.Getenv(peers.Role), err)
		os.Exit(1)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run parses the flags, measures, and writes the table and the raw figures.
func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, out, err := parse(args)
	if err != nil {
		return err
	}
	b := &bench{options: o, say: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	report, err := b.run(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out.json), 0o755); err != nil {
		return err
	}
	if err := report.WriteJSON(out.json); err != nil {
		return err
	}
	text := report.Markdown()
	fmt.Print(text)
	fmt.Fprintln(os.Stderr, "raw figures:", out.json)
	if out.markdown == "" {
		return nil
	}
	return os.WriteFile(out.markdown, []byte(text), 0o644)
}

type outputs struct{ markdown, json string }

func parse(args []string) (o options, out outputs, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	o = defaults()
	flags.IntVar(&o.rounds, "rounds", o.rounds, "how often everything is measured")
	flags.BoolVar(&o.quick, "quick", false, "measure next to nothing: only to see that all of it runs")
	flags.BoolVar(&o.plain, "plain", false, "only without TLS")
	flags.BoolVar(&o.tls, "tls", false, "only with TLS on both sides")
	flags.StringVar(&o.parallax, "parallax", "", "`program` to measure, instead of what is built from the sources")
	flags.DurationVar(&o.measured, "measured", o.measured, "how long a small request is measured in each round")
	flags.IntVar(&o.rate, "rate", o.rate, "requests per second at which latencies are measured")
	list := func(target *[]string) func(string) error {
		return func(value string) error {
			*target = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
			return nil
		}
	}
	flags.Func("rows", "only these rows, by `names`: "+strings.Join(rowNames(), " "), list(&o.rows))
	flags.Func("workloads", "only these workloads, by `names`: "+strings.Join(workloadNames(), " "), list(&o.workloads))
	flags.StringVar(&out.markdown, "markdown", "", "`file` for the table, beside stdout")
	flags.StringVar(&out.json, "json", filepath.Join(os.TempDir(), "parallax-bench.json"), "`file` for the raw figures of all rounds")
	if err := flags.Parse(args); err != nil {
		return o, out, err
	}
	if flags.NArg() > 0 {
		return o, out, fmt.Errorf("argument %q is not a flag", flags.Arg(0))
	}
	if !o.plain && !o.tls {
		o.plain, o.tls = true, true
	}
	return o, out, o.check()
}
