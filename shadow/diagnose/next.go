package diagnose

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Layer in which the damage lies, or what else the runbook has a chapter for.
type Layer string

// The layers of docs/runbook.md.
const (
	Apply       Layer = "apply"
	Storage     Layer = "storage"
	Replication Layer = "replication"
	Membership  Layer = "membership"
	Lease       Layer = "lease"
	Auth        Layer = "auth"
	MemberLost  Layer = "member-lost"
)

// Bug of etcd after which members differ.
type Bug struct {
	Issue   int      `json:"issue"` // of github.com/etcd-io/etcd
	What    string   `json:"what"`
	Upgrade string   `json:"upgrade"` // to which versions
	Members []ID     `json:"members"` // whose version has it
	Fits    bool     `json:"fits"`    // to what was found
	Layers  []Layer  `json:"layers"`
	has     []within // versions
}

// within is a range of versions, both ends included.
type within struct{ from, to string }

// bugs are those of docs/detection.md whose presence a version tells.
func bugs() []Bug {
	return []Bug{
		{Issue: 11613, What: "killed in a defragmentation, users, leases and members come back", Upgrade: "3.4.4", Layers: []Layer{Lease, Membership}, has: []within{{"3.3.0", "3.4.3"}}},
		{Issue: 11651, What: "the auth revision runs ahead at a restart, and later writes are refused there", Upgrade: "3.3.21, 3.4.8", Layers: []Layer{Auth, Apply}, has: []within{{"3.0.0", "3.3.20"}, {"3.4.0", "3.4.7"}}},
		{Issue: 12535, What: "a lease with a negative id is lost at a restart, its keys stay", Upgrade: "3.4.20, 3.5.3", Layers: []Layer{Lease, Apply, Storage}, has: []within{{"3.0.0", "3.4.19"}, {"3.5.0", "3.5.2"}}},
		{Issue: 13196, What: "removed members come back, and cannot be removed", Upgrade: "3.5.1", Layers: []Layer{Membership}, has: []within{{"3.5.0", "3.5.0"}}},
		{Issue: 13766, What: "killed under load, a member skips entries: its revision is lower", Upgrade: "3.5.3", Layers: []Layer{Apply}, has: []within{{"3.5.0", "3.5.2"}}},
		{Issue: 14571, What: "users are not loaded, and a member refuses writes of all but root", Upgrade: "3.4.22, 3.5.6", Layers: []Layer{Auth, Apply}, has: []within{{"3.4.20", "3.4.21"}, {"3.5.5", "3.5.5"}}},
		{Issue: 14685, What: "killed in a defragmentation, a member applies entries twice: its revision is higher", Upgrade: "3.5.6", Layers: []Layer{Apply}, has: []within{{"3.5.0", "3.5.5"}}},
		{Issue: 17780, What: "killed in a compaction, a member's revision goes back at the restart", Upgrade: "3.4.32, 3.5.14", Layers: []Layer{Apply}, has: []within{{"3.0.0", "3.4.31"}, {"3.5.0", "3.5.13"}}},
		{Issue: 18667, What: "one ordinary write txn with a get at a compacted or future revision: the member that serves it refuses, the others apply it", Upgrade: "3.7.0", Layers: []Layer{Apply}, has: []within{{"3.0.0", "3.6.9999"}}},
		{Issue: 18799, What: "a part of a txn is applied", Upgrade: "the newest 3.5", Layers: []Layer{Apply}, has: []within{{"3.5.0", "3.5.16"}}},
		{Issue: 19557, What: "voters become learners at the upgrade to 3.6", Upgrade: "3.5.26, before 3.6", Layers: []Layer{Membership}, has: []within{{"3.5.1", "3.5.19"}}},
		{Issue: 20967, What: "removed members come back at the upgrade to 3.6", Upgrade: "3.5.26, before 3.6", Layers: []Layer{Membership}, has: []within{{"3.4.0", "3.5.25"}}},
	}
}

// KnownIssues are the numbers of all bugs that versions are checked for.
func KnownIssues() []int {
	var issues []int
	for _, b := range bugs() {
		issues = append(issues, b.Issue)
	}
	return issues
}

// bugsOf the members' versions.
func bugsOf(members []Member) []Bug {
	var found []Bug
	for _, b := range bugs() {
		for _, m := range members {
			if b.hits(m.Version) {
				b.Members = append(b.Members, m.ID)
			}
		}
		if len(b.Members) > 0 {
			found = append(found, b)
		}
	}
	return found
}

func (b *Bug) hits(version string) bool {
	v, ok := parse(version)
	return ok && slices.ContainsFunc(b.has, func(w within) bool {
		from, _ := parse(w.from)
		to, _ := parse(w.to)
		return slices.Compare(from, v) <= 0 && slices.Compare(v, to) <= 0
	})
}

// parse takes MAJOR.MINOR.PATCH. What follows a hyphen is left out: a release candidate counts as its release.
func parse(version string) ([]int, bool) {
	release, _, _ := strings.Cut(version, "-")
	parts := strings.Split(release, ".")
	if len(parts) != 3 {
		return nil, false
	}
	var v []int
	for _, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil {
			return nil, false
		}
		v = append(v, n)
	}
	return v, true
}

// whatNext is the next step, with the commands, for somebody who has just been woken.
func (f *Facts) whatNext(c *Conclusion) {
	var urls []string
	for _, m := range f.Members {
		if m.URL != "" {
			urls = append(urls, m.URL)
		}
	}
	all := strings.Join(urls, ",")
	check := "parallax check --endpoints " + all
	switch {
	case c.Verdict == Divergent:
		c.Next = append(c.Next, "keep evidence before anything is changed (parallax runbook evidence):")
		for _, m := range f.Members {
			if m.URL != "" {
				c.Next = append(c.Next, fmt.Sprintf("    etcdctl --endpoints=%s snapshot save evidence-%s.db", m.URL, m.ID))
			}
		}
		c.Next = append(c.Next, "see which keys: "+check, "parallax runbook "+string(c.Layer)+": what it means, and how it is mended; a restart mends no data")
		c.Next = append(c.Next, f.whom(c)...)
	case c.Layer != "":
		c.Next = []string{"parallax runbook " + string(c.Layer), "when that is mended: " + check}
	case c.Verdict == Inconclusive:
		c.Next = []string{"mend what could not be asked, and look again; or " + check}
	default:
		c.Next = []string{"to be certain of every key: " + check}
	}
}

// whom to replace, if it comes to that.
func (f *Facts) whom(c *Conclusion) []string {
	others := len(f.asked()) - len(c.Differs)
	switch {
	case c.Basis != "quorum":
		return []string{"remove nobody yet: no quorum is known to agree, so it is open who is off (parallax runbook sides)"}
	case len(c.Differs) > 1:
		return []string{fmt.Sprintf("remove nobody yet: %d members differ from the quorum (parallax runbook sides)", len(c.Differs))}
	case others <= len(f.Voters)/2:
		return []string{"remove nobody yet: not every member could be asked, and without one more there might be no quorum"}
	}
	m := f.member(c.Differs[0])
	if m == nil {
		return nil
	}
	steps := []string{fmt.Sprintf("%s (%s) differs from the quorum; if parallax runbook sides says so, too, it is the one to replace: parallax runbook replace", f.names(c.Differs), m.ID)}
	if i := slices.IndexFunc(f.Members, func(o Member) bool { return o.ID != m.ID && !o.Learner && o.NotAsked == "" }); m.Leader == m.ID && i >= 0 {
		steps = append(steps, fmt.Sprintf("it leads, and a new member would copy it: first etcdctl --endpoints=%s move-leader %s", m.URL, f.Members[i].ID))
	}
	return steps
}

// fit marks the bugs that can have done what was found. What apply once did wrong looks like storage when revisions have
// become equal again (etcd #11651 can).
func fit(bugs []Bug, c Conclusion) []Bug {
	for i, b := range bugs {
		layer := slices.Contains(b.Layers, c.Layer) || c.Layer == Storage && slices.Contains(b.Layers, Apply)
		bugs[i].Fits = c.Verdict == Divergent && layer
	}
	return bugs
}
