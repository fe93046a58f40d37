// Command demo shows what Parallax is for, with real etcd members: one ordinary
// transaction makes them differ (https://github.com/etcd-io/etcd/issues/18667),
// etcd's own checks stay green, and Parallax names the key.
//
//	cd e2e && go run ./demo [--keep] [--etcd 3.6.16]
//
// The exit code is 0 when the divergence was named, 1 when not, and why is said
// in the last line.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

// patience is how long Parallax gets to name the divergence, from the moment
// at which it can be seen.
const patience = 10 * time.Second

func main() { os.Exit(run(os.Args[1:], os.Stdout)) }

// options of a demo.
type options struct {
	etcd     string        // version of the members
	keep     bool          // leave everything running after the story
	patience time.Duration // see the constant
	flags    []string      // for Parallax; empty but in tests: the demo shows its defaults
}

func run(args []string, out *os.File) (exitCode int) {
	opts, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	// SIGPIPE too: `make demo | head` must not leave a folder behind.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	return demo(ctx, opts, newTerminal(out))
}

func parse(args []string) (options, error) {
	opts := options{patience: patience}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.BoolVar(&opts.keep, "keep", false, "leave members and Parallax running, and print the commands to look around")
	flags.StringVar(&opts.etcd, "etcd", binary.Etcd36,
		"etcd version of the members: "+strings.Join(binary.EtcdVersions(), ", ")+"\n"+
			binary.Etcd37+" is the control: the bug is mended there, nothing differs, and the demo ends with 1")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
		_, _ = fmt.Fprintln(flags.Output(), err)
	}
	return opts, err
}

// demo tells the story, ends it, and sums it up in the last line.
func demo(ctx context.Context, opts options, out *terminal) (exitCode int) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &story{terminal: out, opts: opts, cancel: cancel}
	defer func() { _ = s.end() }() // after a panic; otherwise it has ended already
	named, err := s.tell(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	s.lastLines(err)
	err = errors.Join(err, s.end())
	if err != nil {
		why, detail, _ := strings.Cut(err.Error(), "\n")
		out.detail(detail)
		out.printf("demo: %s\n", why)
		return 1
	}
	out.printf("demo: divergence named in %d ms\n", named.Milliseconds())
	return 0
}
