package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcd-parallax/parallax/cmd/parallax/inspect"
	"github.com/etcd-parallax/parallax/config"
)

// Exit codes. A second signal ends with 128 + its number, as a shell shows a process that the signal killed.
const (
	exitOK      = 0
	exitRuntime = 1 // what was asked for could not be done
	exitUsage   = 2 // the command line or the configuration is wrong
)

// flushTimeout bounds how long the end of the process waits for a reader of stderr.
const flushTimeout = time.Second

// process is what the operating system gives `parallax serve`.
type process struct {
	stdout io.Writer
	stderr *asyncWriter
	// hangup receives one value for SIGHUPs that came since the last one was taken.
	hangup <-chan struct{}
}

// run is the whole program but for os.Exit.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	errOut := newAsyncWriter(stderr)
	defer errOut.Close(flushTimeout)

	root := newRoot(environ, stdout, errOut)
	root.SetArgs(append([]string{}, args...)) // never nil: cobra would take os.Args
	root.SetOut(stdout)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if killed, ok := errors.AsType[secondSignalError](err); ok {
		return killed.exitCode()
	}
	found, inspected := errors.AsType[inspect.ExitError](err)
	if inspected && found.Err == nil {
		return found.Code // the command has said what it found
	}
	_, _ = fmt.Fprintf(errOut, "parallax: %v\n", err) // an asyncWriter does not fail
	if inspected {
		return found.Code
	}
	if _, ok := errors.AsType[inspect.UsageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[config.Problems](err); ok {
		return exitUsage
	}
	return exitRuntime
}

func newRoot(environ []string, stdout io.Writer, stderr *asyncWriter) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "parallax",
		Short: "Parallax relays the traffic of etcd clients, and names the keys on which the members differ",
		Long: `Parallax is a proxy for etcd v3. Clients such as kube-apiserver use it as their etcd endpoint. It forwards their traffic
unchanged, and asks every member, beside the traffic, what it holds for the keys that it saw go by. When two members
differ at one revision, it says so: which key, which members, which revision, what differs.`,
		Version:       readVersion().String(),
		SilenceErrors: true, // run prints them, once, and knows the exit code
		SilenceUsage:  true,
	})
	root.SetVersionTemplate("{{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return inspect.Usage("%w: see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(serveCommand(environ, stdout, stderr), inspect.Check(stdout, stderr), inspect.Diagnose(stdout, stderr), inspect.Runbook(stdout),
		configCommand(environ), versionCommand())
	root.InitDefaultHelpCmd()
	for _, sub := range root.Commands() {
		if sub.Name() == "help" {
			strictHelp(sub)
		}
	}
	return root
}

// strictHelp makes `help nonsense` an error, which for cobra is none.
func strictHelp(help *cobra.Command) {
	help.Args = func(cmd *cobra.Command, args []string) error {
		if found, rest, err := cmd.Root().Find(args); err == nil && len(rest) == 0 && found != nil {
			return nil
		}
		return inspect.Usage("no help for %s: see parallax --help", inspect.Quoted(strings.Join(args, " ")))
	}
}

// group is a command that only holds others.
func group(cmd *cobra.Command) *cobra.Command {
	const typo = 2 // letters
	cmd.SuggestionsMinimumDistance = typo
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := "see " + cmd.CommandPath() + " --help"
		if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
			hint = "did you mean " + cmd.CommandPath() + " " + similar[0] + "?"
		}
		return inspect.Usage("unknown command %s: %s", inspect.Quoted(args[0]), hint)
	}
	return cmd
}

// noArguments refuses what is not a flag: mostly the rest of a list with a blank in it, or of --shadow false.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return inspect.Usage("unexpected argument %s: %s takes only flags; write lists with commas and no blanks, and bools as --shadow=false",
		inspect.Quoted(args[0]), cmd.CommandPath())
}

func serveCommand(environ []string, stdout io.Writer, stderr *asyncWriter) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Relay clients to the members, and check what the members hold",
		Long: `Relay clients to the members, and check what the members hold.

Without --listen-client-urls it serves no clients and only observes.

CONFIGURATION
  Each flag is also an environment variable (--lag-budget is PARALLAX_LAG_BUDGET) and a key of the YAML file that --config
  names (lag-budget: 2s). A flag goes before the environment, the environment before the file. A variable that is set to
  nothing counts as set. Lists are written with commas, in the file also as YAML sequences. Everything that is wrong is
  listed at once, and nothing is started then. "parallax config print" shows what holds in the end.

  Only the file can hold sample-prefixes, other shares for the keys of a prefix; the longest prefix wins:

    sample-prefixes:
    - prefix: /registry/events/
      reads: 0
      writes: 0.1

SIGNALS
  SIGHUP             reads the configuration again; a bad one changes nothing. It takes effect for:
                     ` + reloadable() + `;
                     a change of anything else is reported, and needs a restart
  SIGTERM, SIGINT    stop in order: clients within --shutdown-timeout, then the logs within seconds; a second one ends at once

OUTPUT
  stdout   the divergence log, one JSON record per line (unless --divergence-log names a file), and nothing else
  stderr   the operational log

EXIT CODES
  0    stopped in order
  1    could not be done, and why is on stderr
  2    the command line or the configuration is wrong
  130  a second SIGINT; 143 a second SIGTERM`,
		Example: `  parallax serve --listen-client-urls http://127.0.0.1:23790 --endpoints http://10.0.0.1:2379,http://10.0.0.2:2379
  parallax serve --config /etc/parallax.yaml`,
		Args: noArguments,
	}
	config.Flags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		load := func() (*config.Config, error) { return config.Load(cmd.Flags(), environ) }
		cfg, err := load()
		if err != nil {
			return err
		}
		return untilSignal(cmd.Context(), func(ctx context.Context, hangup <-chan struct{}) error {
			return serve(ctx, cfg, load, process{stdout: stdout, stderr: stderr, hangup: hangup})
		})
	}
	return cmd
}

// reloadable names the options that SIGHUP changes, broken to the width of the help.
func reloadable() string {
	var names []string
	for _, o := range config.Options() {
		if o.Reloadable {
			names = append(names, o.Key)
		}
	}
	half := (len(names) + 1) / 2
	return strings.Join(names[:half], ", ") + ",\n                     " + strings.Join(names[half:], ", ")
}

func configCommand(environ []string) *cobra.Command {
	cmd := group(&cobra.Command{Use: "config", Short: "Look at the configuration"})
	printed := &cobra.Command{
		Use:   "print",
		Short: "Print the configuration that serve would use, as YAML",
		Long: `Print the configuration that "parallax serve" with the same flags, environment and file would use.
What is printed is a YAML file for --config. Nothing is started, so this also checks a configuration: exit code 2 if it is wrong.`,
		Example: `  parallax config print --config /etc/parallax.yaml`,
		Args:    noArguments,
	}
	config.Flags(printed.Flags())
	printed.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(cmd.Flags(), environ)
		if err != nil {
			return err
		}
		return cfg.Print(cmd.OutOrStdout())
	}
	cmd.AddCommand(printed)
	return cmd
}
