package inspect

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/etcd-parallax/parallax/shadow/diagnose"
)

// page is a report as a person reads it in an incident: the conclusion first.
func page(r diagnose.Report) string {
	var b strings.Builder
	c, f := r.Conclusion, r.Facts
	head := map[diagnose.Verdict]string{diagnose.Divergent: "DIVERGENT", diagnose.Inconclusive: "INCONCLUSIVE", diagnose.Consistent: "NOTHING FOUND"}
	fmt.Fprintf(&b, "%s: %s\n", head[c.Verdict], c.Summary)
	switch {
	case c.Verdict == diagnose.Divergent && len(c.Differs) > 0:
		fmt.Fprintf(&b, "Layer %s. %s from a quorum that agrees; that is not to say who is wrong.\n", c.Layer, differ(r, c.Differs))
	case c.Verdict == diagnose.Divergent:
		fmt.Fprintf(&b, "Layer %s. No quorum is known to agree, so nobody is named.\n", c.Layer)
	case c.Layer != "":
		fmt.Fprintf(&b, "Layer %s.\n", c.Layer)
	}
	list(&b, "WHY", c.Because)
	list(&b, "NEXT", c.Next)
	fmt.Fprintf(&b, "\nMEMBERS of cluster %s, %s, watched for %s\n", f.ClusterID, r.Began.Format(time.RFC3339), time.Duration(r.Seconds*float64(time.Second)).Round(time.Second))
	members(&b, f.Members)
	b.WriteString("\nCHECKS\n")
	for _, check := range r.Checks {
		fmt.Fprintf(&b, "  %-11s %-13s %s\n", check.Rule, check.Verdict, check.Looked)
	}
	if f.Keys.Revision != 0 {
		fmt.Fprintf(&b, "  keys were counted at revision %d\n", f.Keys.Revision)
	}
	bugs(&b, r)
	hashes(&b, r)
	list(&b, "NOT KNOWN", c.Unknown)
	return b.String()
}

func list(b *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s\n", title)
	for _, l := range lines {
		mark := "- "
		if strings.HasPrefix(l, " ") { // belongs to the line before
			mark = ""
		}
		fmt.Fprintf(b, "  %s%s\n", mark, plain(l))
	}
}

func differ(r diagnose.Report, ids []diagnose.ID) string {
	verb := " differs"
	if len(ids) > 1 {
		verb = " differ"
	}
	return named(r.Facts.Members, ids) + verb
}

func named(members []diagnose.Member, ids []diagnose.ID) string {
	var names []string
	for _, id := range ids {
		name := id.String()
		for _, m := range members {
			if m.ID == id && m.Name != "" {
				name = plain(m.Name) + " (" + id.String() + ")"
			}
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

func members(b *strings.Builder, members []diagnose.Member) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { _, _ = fmt.Fprintln(t, "  "+strings.Join(cells, "\t")) } // a Builder does not fail
	row("NAME", "ID", "VERSION", "ROLE", "TERM", "RAFT INDEX", "APPLIED", "REVISION", "DB", "IN USE", "KEYS", "LEASES", "LISTS", "URL")
	for _, m := range members {
		if m.NotAsked != "" {
			row(plain(m.Name), m.ID.String(), "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", plain(m.URL))
			continue
		}
		row(plain(m.Name), m.ID.String(), plain(m.Version), role(m, members), number(m.RaftTerm), number(m.Committed), number(m.Applied),
			strconv.FormatInt(m.Revision, 10), size(m.DBSize), size(m.DBInUse), optional(m.Keys), optional(m.Leases), listed(m), plain(m.URL))
	}
	_ = t.Flush() // a Builder does not fail
	for _, m := range members {
		if m.NotAsked != "" {
			fmt.Fprintf(b, "  %s was not asked: %s\n", named(members, []diagnose.ID{m.ID}), plain(m.NotAsked))
		}
		for _, a := range m.Alarms {
			fmt.Fprintf(b, "  %s says: %s\n", named(members, []diagnose.ID{m.ID}), plain(strings.TrimSpace(a)))
		}
	}
}

func role(m diagnose.Member, members []diagnose.Member) string {
	switch {
	case m.Learner:
		return "learner"
	case m.Leader == m.ID:
		return "leader"
	case m.Leader == 0:
		return "no leader"
	}
	for _, l := range members {
		if l.ID == m.Leader && l.Name != "" {
			return "follows " + plain(l.Name)
		}
	}
	return "follows " + m.Leader.String()
}

func listed(m diagnose.Member) string {
	if len(m.Lists) == 0 {
		return "-"
	}
	return strconv.Itoa(len(m.Lists))
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func optional[T int | int64](n *T) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatInt(int64(*n), 10)
}

func size(n int64) string {
	const kib, mib, gib = 1 << 10, 1 << 20, 1 << 30
	switch {
	case n >= gib:
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	case n >= mib:
		return fmt.Sprintf("%.1f MiB", float64(n)/mib)
	}
	return fmt.Sprintf("%.0f KiB", float64(n)/kib)
}

func bugs(b *strings.Builder, r diagnose.Report) {
	if len(r.Bugs) == 0 {
		return
	}
	b.WriteString("\nKNOWN BUGS of these versions (github.com/etcd-io/etcd/issues/…)")
	if r.Conclusion.Verdict == diagnose.Divergent {
		b.WriteString(", * where one can have done what was found")
	}
	b.WriteString("\n")
	for _, bug := range r.Bugs {
		mark, who := " ", "all members"
		if bug.Fits {
			mark = "*"
		}
		if len(bug.Members) < len(r.Facts.Members) {
			who = named(r.Facts.Members, bug.Members)
		}
		fmt.Fprintf(b, "  %s %d  %s; %s; upgrade to %s\n", mark, bug.Issue, bug.What, who, bug.Upgrade)
	}
}

func hashes(b *strings.Builder, r diagnose.Report) {
	if len(r.Facts.Hashes) == 0 {
		return
	}
	b.WriteString("\nHASHES (no evidence by themselves: healthy members can give different ones; compare only those with the same two revisions)\n")
	for _, h := range r.Facts.Hashes {
		text := fmt.Sprintf("%08x at revision %d, compacted at %d", h.Hash, h.Revision, h.Compact)
		if h.Why != "" {
			text = "not given: " + plain(h.Why)
		}
		fmt.Fprintf(b, "  %s  %s\n", named(r.Facts.Members, []diagnose.ID{h.Member}), text)
	}
}

// plain keeps what members say from moving the cursor of a terminal.
func plain(s string) string {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}
