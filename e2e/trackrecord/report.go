package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// record plays the rows and writes the table.
func (p *player) record(ctx context.Context, rows []row) error {
	begin := time.Now()
	if err := p.play(ctx, rows); err != nil {
		return err
	}
	table := p.results.table(rows)
	fmt.Print(table)
	p.say("%d rows, each %d times, in %v", len(rows), p.rounds, time.Since(begin).Round(time.Second))
	if p.markdown != "" {
		if err := os.WriteFile(p.markdown, []byte(table), 0o644); err != nil {
			return err
		}
	}
	return p.results.failed()
}

// late are sightings after their bar.
func late(all []sighting) error {
	var errs []error
	for _, s := range all {
		if s.after > s.bar {
			errs = append(errs, fmt.Errorf("late: kind %s after %s, its bar is %v", s.kind, seconds(s.after), s.bar))
		}
	}
	return errors.Join(errs...)
}

// text is an outcome as a line, or what went wrong.
func (o outcome) text(control bool) string {
	text := "silent"
	if !control {
		var parts []string
		for _, s := range o.sightings {
			part := s.rule + " " + s.named
			if n := len(s.keys); n > 0 {
				part += fmt.Sprintf(" (%d keys)", n)
			}
			part += " after " + seconds(s.after)
			if s.after > s.bar {
				part += ", LATE"
			}
			parts = append(parts, part)
		}
		text = strings.Join(parts, "; ")
	}
	text += fmt.Sprintf(" [%v]", o.took.Round(time.Second))
	if o.err != nil {
		return "FAILED, " + text + "\n    " + strings.ReplaceAll(o.err.Error(), "\n", "\n    ")
	}
	return text
}

// failed says which rows and controls were not as they should be.
func (r results) failed() error {
	var bad []string
	for name, outcomes := range r {
		n := 0
		for _, o := range outcomes {
			if o.err != nil {
				n++
			}
		}
		if n > 0 {
			bad = append(bad, fmt.Sprintf("%s (%d of %d rounds)", name, n, len(outcomes)))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	slices.Sort(bad)
	return fmt.Errorf("%d rows and controls failed: %s", len(bad), strings.Join(bad, ", "))
}

// table is the track record in Markdown, as it stands in the README.
func (r results) table(rows []row) string {
	var b strings.Builder
	b.WriteString("| bug | etcd | how it was brought about | what Parallax said | after | control | show it |\n|---|---|---|---|---|---|---|\n")
	for _, row := range rows {
		bug := "injected"
		if row.bug != "" {
			bug = fmt.Sprintf("[%s](https://github.com/etcd-io/etcd/issues/%[1]s)", row.bug)
		}
		said, after := r.said(row)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | `make track-record ONLY=%s` |\n",
			bug, row.version, row.how, said, after, r.control(row), row.name())
	}
	return b.String()
}

// said sums up all rounds of a row: rules and when, for each record that is wanted.
func (r results) said(row row) (said, after string) {
	outcomes := r[row.name()]
	right := 0
	for _, o := range outcomes {
		if o.err == nil {
			right++
		}
	}
	var whats, whens []string
	for i, w := range row.want {
		var rules []string
		var times []time.Duration
		keys := 0
		for _, o := range outcomes {
			if i >= len(o.sightings) || o.sightings[i].kind != w.kind {
				continue // it was missed there, and so may be those after it
			}
			s := o.sightings[i]
			if !slices.Contains(rules, s.rule) {
				rules = append(rules, s.rule)
			}
			times, keys = append(times, s.after), max(keys, len(s.keys))
		}
		if len(times) == 0 {
			continue
		}
		slices.Sort(rules)
		slices.Sort(times)
		whats = append(whats, strings.Join(rules, " or ")+what(w, keys))
		when := seconds(times[len(times)/2])
		if len(times) > 1 {
			when += " (at most " + seconds(times[len(times)-1]) + ")"
		}
		whens = append(whens, when)
	}
	if row.check != "" {
		whats = append(whats, "`parallax check`: exit 1")
	}
	if right < len(outcomes) || right == 0 {
		return fmt.Sprintf("**missed: right in %d of %d rounds**", right, len(outcomes)), strings.Join(whens, "; ")
	}
	return strings.Join(whats, "; ") + fmt.Sprintf(" (%d of %d)", right, len(outcomes)), strings.Join(whens, "; ")
}

// what is named beside the member.
func what(w want, keys int) string {
	switch {
	case w.keys == "":
		return ": the member"
	case keys == 1:
		return ": key and member"
	}
	return fmt.Sprintf(": %d keys, and the member", keys)
}

// control sums up the control of a row.
func (r results) control(row row) string {
	name := row.controlName()
	if name == "" {
		return "before, the same without the edit: silent" // or the row had failed
	}
	outcomes, silent := r[name], 0
	for _, o := range outcomes {
		if o.err == nil {
			silent++
		}
	}
	if silent < len(outcomes) || silent == 0 {
		return fmt.Sprintf("%s: **failed: silent in %d of %d rounds**", row.control, silent, len(outcomes))
	}
	return row.control + ": silent"
}

// seconds are short: what was there before it was looked for is 0.
func seconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
