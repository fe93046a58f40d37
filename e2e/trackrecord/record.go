package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// record are the fields of the divergence log that a row looks at
// (docs/divergence-log.md has all of them).
type record struct {
	Event   string
	Kind    string
	Rule    string
	Key     string
	Subject string
	Fields  []string
	Groups  []struct{ Members members }
	Differs members
	Extent  struct {
		Keys []struct{ Key string } `json:"example_keys"`
	}
}

type members []struct{ Name string }

func (m members) String() string {
	var names []string
	for _, one := range m {
		names = append(names, one.Name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// read decodes a line. One that cannot be read is about nothing, and so met by no want.
func read(line parallax.Record) (r record) {
	_ = line.Decode(&r)
	return r
}

// met tells whether a record is the one that is wanted: of the subject, by one
// of the rules, and about this member.
func (w want) met(r record, subject, member string) bool {
	if r.Event != "confirmed" && r.Event != "updated" || !r.blames(member) {
		return false
	}
	if w.extent && slices.Contains(r.Extent.Keys, struct{ Key string }{subject}) {
		return true
	}
	about := r.Subject
	if w.keys != "" {
		about = r.Key
	}
	return r.Kind == w.kind && about == subject && slices.Contains(w.rules, r.Rule) &&
		(len(w.fields) == 0 || slices.ContainsFunc(w.fields, func(f string) bool { return slices.Contains(r.Fields, f) }))
}

// blames tells whether a record is about this member: it is the one that
// differs or, where nobody is named, stands alone in its group.
func (r record) blames(member string) bool {
	if len(r.Differs) > 0 {
		return r.Differs.String() == member
	}
	alone, groups := 0, 0
	for _, g := range r.Groups {
		groups++
		if g.Members.String() == member {
			alone++
		}
	}
	return groups == 2 && alone == 1
}

// whom tells who a record is about, for the table.
func (r record) whom() string {
	if len(r.Differs) > 0 {
		return r.Differs.String()
	}
	var sides []string
	for _, g := range r.Groups {
		sides = append(sides, g.Members.String())
	}
	return strings.Join(sides, " and ")
}

// text is the want, for a message.
func (w want) text(subject, member string) string {
	text := fmt.Sprintf("a record of kind %s by %s about %s", w.kind, strings.Join(w.rules, " or "), member)
	if subject != "" {
		text += ", " + subject
	}
	return text
}

// strays are what must not have been said: of other kinds, keys and members
// than those that differ, and that a difference which is still there is healed.
func (s *scene) strays(lines []parallax.Record) error {
	for _, line := range lines {
		r := read(line)
		if why := s.stray(r); why != "" {
			return fmt.Errorf("wrong: %s: %s", why, line.Raw)
		}
	}
	return nil
}

func (s *scene) stray(r record) string {
	if r.Event == "folded" {
		return ""
	}
	wanted := slices.IndexFunc(s.row.want, func(w want) bool {
		return w.kind == r.Kind && (w.keys == "" || strings.HasPrefix(r.Key, w.keys))
	})
	drifted := s.row.drift && slices.Contains([]string{"key", "shifted", "revision"}, r.Kind)
	switch {
	case s.off == nil:
		return "nothing differs"
	case wanted < 0 && !drifted && !slices.Contains(s.row.besides, r.Kind):
		return "nothing of this kind, or not this key, differs"
	case len(r.Differs) > 0 && r.Differs.String() != s.off.Name:
		return "it is " + s.off.Name + " that differs"
	case wanted >= 0 && r.Event == "healed":
		return "what differs is called healed"
	}
	return ""
}
