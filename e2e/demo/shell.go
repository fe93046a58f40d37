package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// shell runs etcdctl, and shows each command with what it printed. Addresses and
// the key are shown as the variables that the story introduced.
type shell struct {
	*terminal
	etcdctl   string // its path
	variables []variable
}

type variable struct{ name, value string }

func (v variable) String() string { return v.name + "=" + v.value }

// quietClient lets etcdctl's client log errors only, not the warnings that
// repeat in JSON what etcdctl says itself.
var quietClient = variable{"ETCD_CLIENT_DEBUG", "error"}

// run shows a command and its output. stdin is shown as a here-document. A
// command that refuses is no error: what it says belongs to the story.
func (s *shell) run(ctx context.Context, comment, stdin string, args ...string) (refused bool, err error) {
	line := "etcdctl " + strings.Join(args, " ")
	if stdin != "" {
		line += " <<END\n" + stdin + "END"
	}
	for _, v := range s.variables {
		line = strings.ReplaceAll(line, v.value, "$"+v.name)
	}
	if comment != "" {
		line = fmt.Sprintf("%-65s # %s", line, comment)
	}
	s.command(line)
	cmd := exec.CommandContext(ctx, s.etcdctl, args...)
	cmd.Env = environ()
	cmd.Stdin = strings.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	s.detail(out.String() + said.String())
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("run etcdctl %s: %w", args[0], err)
	}
	if out.Len() == 0 {
		s.say("%s", s.paint(dim, "(prints nothing)"))
	}
	return false, nil
}

// environ is ours without what configures etcdctl behind the story's back.
func environ() []string {
	kept := []string{quietClient.String()}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ETCDCTL_") && !strings.HasPrefix(v, quietClient.name) {
			kept = append(kept, v)
		}
	}
	return kept
}
