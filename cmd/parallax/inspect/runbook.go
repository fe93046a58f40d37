package inspect

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/etcd-parallax/parallax/docs"
)

// chapter of the runbook.
type chapter struct{ part, name, text string }

// chapters of docs/runbook.md, in its order.
func chapters() []chapter {
	var all []chapter
	for _, part := range strings.Split("\n"+docs.Runbook, "\n# ")[1:] {
		title, rest, _ := strings.Cut(part, "\n")
		for _, text := range strings.Split("\n"+rest, "\n## ")[1:] {
			name, _, _ := strings.Cut(text, "\n")
			all = append(all, chapter{part: title, name: name, text: "## " + strings.TrimSpace(text) + "\n"})
		}
	}
	return all
}

// gist is the first sentence.
func (c chapter) gist() string {
	_, text, _ := strings.Cut(c.text, "\n\n")
	text, _, _ = strings.Cut(text, "\n\n")
	text = strings.ReplaceAll(text, "\n", " ")
	sentence, _, _ := strings.Cut(text+" ", ". ")
	return strings.TrimSuffix(strings.TrimSpace(sentence), ".")
}

// Runbook is the command that prints docs/runbook.md.
func Runbook(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "runbook [LAYER]",
		Short: "Print what to do about a finding, offline",
		Long: `Print what to do about a finding. Without an argument, the layers in which members can differ (a finding names its own) and the
procedures, one line each. The text is docs/runbook.md.`,
		Example: `  parallax runbook apply`,
		RunE: func(_ *cobra.Command, args []string) error {
			return printRunbook(stdout, args)
		},
	}
}

func printRunbook(w io.Writer, args []string) error {
	all := chapters()
	if len(args) == 0 {
		return listRunbook(w, all)
	}
	var names []string
	for _, c := range all {
		if len(args) == 1 && c.name == args[0] {
			_, err := io.WriteString(w, c.text)
			return err
		}
		names = append(names, c.name)
	}
	return Usage("the runbook has no %s: give one of %s", Quoted(strings.Join(args, " ")), strings.Join(names, ", "))
}

func listRunbook(w io.Writer, all []chapter) error {
	var b strings.Builder
	part := ""
	for _, c := range all {
		if c.part != part {
			part = c.part
			fmt.Fprintf(&b, "%s\n", part)
		}
		fmt.Fprintf(&b, "  %-12s %s\n", c.name, c.gist())
	}
	b.WriteString("\nparallax runbook NAME prints one of them. Keep evidence first.\n")
	_, err := io.WriteString(w, b.String())
	return err
}
