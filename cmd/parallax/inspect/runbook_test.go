package inspect

import (
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/etcd-parallax/parallax/docs"
	"github.com/etcd-parallax/parallax/shadow/diagnose"
)

func runRunbook(args ...string) (string, error) {
	var out strings.Builder
	cmd := Runbook(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append([]string{}, args...))
	cmd.SetErr(io.Discard)
	err := cmd.Execute()
	return out.String(), err
}

// Every layer that a finding can name has its chapter.
func TestRunbookHasEveryLayer(t *testing.T) {
	for _, layer := range []diagnose.Layer{
		diagnose.Apply, diagnose.Storage, diagnose.Replication, diagnose.Membership, diagnose.Lease, diagnose.Auth, diagnose.MemberLost,
	} {
		text, err := runRunbook(string(layer))
		if err != nil || !strings.HasPrefix(text, "## "+string(layer)+"\n") || !strings.Contains(text, "**First.**") && !strings.Contains(text, "**Look at**") {
			t.Errorf("%s: %v\n%s", layer, err, text)
		}
	}
}

func TestRunbookList(t *testing.T) {
	text, err := runRunbook()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chapters() {
		if !strings.Contains(text, "  "+c.name+" ") || c.gist() == "" || len(c.gist()) > 140 {
			t.Errorf("%s: %q", c.name, c.gist())
		}
	}
	if !strings.HasPrefix(text, "Layers\n  apply ") || !strings.Contains(text, "\nProcedures\n  evidence ") {
		t.Errorf("got\n%s", text)
	}
}

func TestRunbookUsage(t *testing.T) {
	for _, args := range [][]string{{"nonsense"}, {"apply", "storage"}, {"Layers"}, {""}} {
		text, err := runRunbook(args...)
		if _, ok := errors.AsType[UsageError](err); !ok || text != "" || !strings.Contains(err.Error(), "apply, storage, replication") {
			t.Errorf("%q: %v\n%s", args, err, text)
		}
	}
}

// Whatever chapter the runbook sends a reader to is there.
func TestRunbookRefersToItself(t *testing.T) {
	var names []string
	for _, c := range chapters() {
		names = append(names, c.name)
	}
	for _, text := range strings.Split(docs.Runbook, "parallax runbook ")[1:] {
		name := text[:strings.IndexFunc(text, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') })]
		if !slices.Contains(names, name) {
			t.Errorf("there is no chapter %q", name)
		}
	}
}

// Bugs that versions are checked for are in the runbook's table.
func TestRunbookKnowsTheBugs(t *testing.T) {
	text, err := runRunbook("bugs")
	if err != nil {
		t.Fatal(err)
	}
	for _, issue := range diagnose.KnownIssues() {
		if !strings.Contains(text, "/issues/"+strconv.Itoa(issue)+")") {
			t.Errorf("issue %d is not in the table", issue)
		}
	}
}
