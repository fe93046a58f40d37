package record

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// The words are for people who read them in an incident: one sentence of what
// is, one of what clients notice, and commands. #18667: the member that differs
// from the quorum may be the one that told its client the truth, so nobody is
// called wrong, let alone anything worse.

// impact is one row of the table: the first one whose kind, rule and layer fit
// is taken; an empty word fits all.
type impact struct{ kind, rule, layer, text string }

// impacts may use {reads}, what is read of the key; {who}, the members in
// question; {key}; {apart}, how two states are apart.
func impacts() []impact {
	return []impact{
		{KindKey, RuleServedWrong, "", "a client was given an answer for {key} that is not the one given now, and may have acted on it"},
		{KindKey, "", LayerApply, "{reads}; members did not apply the log alike, so keys that are written from now on may differ too"},
		{KindKey, "", LayerStorage, "{reads}; members applied the log alike, so the difference is in what is stored, and any other key may be concerned, whenever it was written"},
		{KindKey, "", LayerLease, "{reads}; members do not have the same leases, so leased keys go on some and stay on others"},
		{KindKey, "", LayerMembership, "{reads}; members do not agree on who belongs to the cluster"},
		{KindKey, "", LayerAuth, "{reads}; members do not have the same users, roles or permissions, so a write can pass on one and fail on another"},
		{KindKey, "", LayerReplication, "{reads}; a member does not get the log, so its answers grow older until it does"},
		{KindKey, "", "", "{reads}"},
		{KindShifted, "", "", "values are equal, but what compares revisions (Kubernetes' resourceVersion, transactions guarded by mod_revision) goes one way or the other depending on the member that answers, and what it guards can then differ"},
		{KindRevision, "", "", "clients served by {who} see a state that is {apart}: other values, watch events that do not come, guarded transactions that go another way"},
		{KindLease, "", "", "when this lease ends, its keys go on some members and stay on others, and from then on answers differ"},
		{KindMembership, "", "", "members do not agree on who belongs to the cluster: they may count the quorum differently, and adding, removing or promoting a member can fail or end a member"},
		{KindAuth, "", "", "members may not have the same users, roles or permissions: a request can pass on one and be refused by another, and a write that only some apply makes the data differ"},
		{KindMemberLost, "", "", "the read may have ended {who} (a member that is killed at that moment looks the same); if it did, a client that reads the same can end it too"},
	}
}

// healedImpact is for every kind: clients do not get back what they were told.
const healedImpact = "none from now on; what clients did with the answers that they got before is not undone"

// Describe adds the words to a record of a finding. The commands are for all
// members of the cluster, also those that have no part in the finding, but for
// those that have left.
func (r *Record) Describe(all []Member, left []string) {
	r.Summary = r.summary()
	r.Advice = &Advice{Impact: r.impact(), Next: r.next(all, left), Runbook: r.runbook()}
}

// DescribeFolded adds the words to the record that only tells of folded changes.
func (r *Record) DescribeFolded(perMinute int) {
	r.Summary = counted(r.Folded, "change") + " not written: more than " + strconv.Itoa(perMinute) + " records a minute"
}

func (r *Record) impact() string {
	if r.Event == Healed {
		return healedImpact
	}
	table := impacts()
	text := table[slices.IndexFunc(table, func(i impact) bool {
		return i.kind == r.Kind && (i.rule == "" || i.rule == r.Rule) && (i.layer == "" || i.layer == r.Layer)
	})].text
	if r.Key != nil && r.Kubernetes != nil {
		text += "; Kubernetes components see different states of {object}, depending on the API server that they ask"
	}
	words := []string{"{who}", r.who(), "{apart}", r.apart()}
	if key := r.Key; key != nil {
		text = strings.Replace(text, "{reads}", r.reads(), 1)
		words = append(words, "{key}", key.name())
		if r.Kubernetes != nil {
			words = append(words, "{object}", r.Kubernetes.name())
		}
	}
	return strings.NewReplacer(words...).Replace(text)
}

// reads says what clients read of a key.
func (r *Record) reads() string {
	if r.Basis == "oracle" {
		return "a write of {key} that {who} acknowledged is not what is answered now"
	}
	mine, other := r.named()
	switch {
	case mine == nil:
		return "which answer clients get for {key} depends on the member that serves them"
	case !mine.Present:
		return "clients served by {who} do not find {key}, which is there for clients of the other members"
	case !other.Present:
		return "clients served by {who} find {key}, which is not there for clients of the other members"
	case !slices.Contains(r.Fields, "value"):
		return "clients served by {who} see {key} under another revision, version or lease than clients of the other members"
	case mine.ModRevision < other.ModRevision:
		return "clients served by {who} read an older value of {key} than clients of the other members"
	}
	return "clients served by {who} read another value of {key} than clients of the other members"
}

// apart says how the revisions of a cluster are apart.
func (r *Record) apart() string {
	gap := counted(r.Gap, "revision")
	switch mine, _ := r.named(); mine {
	case nil:
		return gap + " apart from the other's"
	case &r.Groups[0]:
		return gap + " ahead of the others'"
	}
	return gap + " behind the others'"
}

// named is the group of the members that are named, and one of the others'.
func (r *Record) named() (mine, other *Group) {
	if len(r.Differs) == 0 {
		return nil, nil
	}
	for i := range r.Groups {
		if slices.Contains(r.Groups[i].Members, r.Differs[0]) {
			mine = &r.Groups[i]
		} else {
			other = &r.Groups[i]
		}
	}
	if mine == nil || other == nil {
		return nil, nil
	}
	return mine, other
}

// who is in question: those that are named, or one side or the other.
func (r *Record) who() string {
	if len(r.Differs) > 0 {
		return names(r.Differs)
	}
	var sides []string
	for _, g := range r.Groups {
		sides = append(sides, names(g.Members))
	}
	return strings.Join(sides, " or ")
}

// next are commands to run as they stand, but for certificates and users, which
// etcdctl also takes from its environment. The evidence comes first, because
// whatever mends a member destroys it; none of them changes anything.
func (r *Record) next(members []Member, left []string) []string {
	for _, g := range r.Groups {
		members = slices.Concat(members, g.Members)
	}
	var snapshots, endpoints []string
	for _, m := range members {
		if m.Endpoint == "" || !printable(m.Endpoint) || slices.Contains(endpoints, m.Endpoint) || slices.Contains(left, m.ID) {
			continue
		}
		endpoints = append(endpoints, m.Endpoint)
		snapshots = append(snapshots, "etcdctl --endpoints="+quote(m.Endpoint)+" snapshot save evidence-"+m.ID+".db")
	}
	if endpoints == nil {
		return nil
	}
	all := quote(strings.Join(endpoints, ","))
	look := []string{"etcdctl --endpoints=" + all + " endpoint status --write-out=table", "parallax diagnose --endpoints=" + all}
	if r.Event == Healed {
		return look
	}
	return append(snapshots, look...)
}

// quote makes one word of a shell of it: endpoints are what members say, and
// brackets of an IPv6 address are a pattern to some shells.
func quote(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:,@", r)
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// runbook is the chapter of the layer. Of a member that was lost, the kind has one.
func (r *Record) runbook() Runbook {
	chapter := r.Layer
	if r.Kind == KindMemberLost {
		chapter = KindMemberLost
	}
	if chapter == "" {
		return Runbook{Command: "parallax runbook", Page: "docs/runbook.md"}
	}
	return Runbook{Command: "parallax runbook " + chapter, Page: "docs/runbook.md#" + chapter}
}

func (r *Record) summary() string {
	what := r.subject()
	switch {
	case r.Event == Healed:
		return r.healedSummary(what)
	case r.Kind == KindMemberLost:
		return what + ": " + r.sides() + "; this proves no difference"
	case r.Kind == KindKey || r.Kind == KindShifted:
		return what + " at revision " + itoa(r.Revision) + ": " + r.disagreement() + " (" + r.differences() + ")" + r.reach()
	}
	return what + ": " + r.disagreement() + " (" + r.sides() + ")"
}

// subject is what the finding is about.
func (r *Record) subject() string {
	switch key := r.Key; r.Kind {
	case KindKey:
		return key.name()
	case KindShifted:
		s := counted(r.Keys, "key") + " with shifted revisions"
		if r.ModRevisionShift != nil {
			s += " (by " + itoa(*r.ModRevisionShift) + ")"
		}
		return s
	case KindRevision:
		return "revisions " + itoa(r.Gap) + " apart"
	case KindMemberLost:
		return strings.TrimSpace("member lost while reading " + r.Subject)
	}
	return strings.TrimSpace(r.Kind + " " + r.Subject)
}

func (r *Record) disagreement() string {
	differs := names(r.Differs)
	switch {
	case r.Rule == RuleServedWrong:
		return names(r.Groups[0].Members) + " served an answer that is not the one given now"
	case r.Basis == "quorum" && differs != "":
		return differs + plural(len(r.Differs), " differs", " differ") + " from the quorum"
	case r.Basis == "oracle" && differs != "":
		return differs + plural(len(r.Differs), " contradicts its", " contradict their") + " own acknowledged write"
	}
	var sides []string
	for _, g := range r.Groups {
		sides = append(sides, names(g.Members))
	}
	return "members disagree: " + strings.Join(sides, " | ")
}

// differences names the fields, and where the key is missing.
func (r *Record) differences() string {
	words := slices.Clone(r.Fields)
	if i := slices.Index(words, "present"); i >= 0 {
		var missing []Member
		for _, g := range r.Groups {
			if !g.Present {
				missing = append(missing, g.Members...)
			}
		}
		words[i] = "missing on " + names(missing)
	}
	return strings.Join(words, ", ")
}

// sides says what each group shows.
func (r *Record) sides() string {
	var sides []string
	for _, g := range r.Groups {
		sides = append(sides, names(g.Members)+": "+g.Shows)
	}
	return strings.Join(sides, " | ")
}

// reach is what following the finding has shown, in a few words.
func (r *Record) reach() string {
	var s string
	if r.Layer != "" && r.Kind == KindKey {
		s += "; layer " + r.Layer
	}
	if e := r.Extent; e != nil {
		s += "; " + itoa(e.KeysDiffering) + " of " + counted(e.KeysCompared, "key") + " differ"
		if !e.Complete {
			s += " so far"
		}
	}
	switch {
	case r.Since == nil:
	case r.Since.Revision > 0:
		s += "; since revision " + itoa(r.Since.Revision)
	case r.Since.CompactedBefore > 0:
		s += "; since before revision " + itoa(r.Since.CompactedBefore)
	}
	return s
}

func (r *Record) healedSummary(what string) string {
	switch {
	case len(r.Healed.Members) == 0 && r.Kind == KindMemberLost:
		return what + ": no longer in the cluster (removed: " + strings.Join(r.Healed.Removed, ", ") + ")"
	case len(r.Healed.Members) == 0:
		return what + ": the members that disagreed are no longer all in the cluster (removed: " + strings.Join(r.Healed.Removed, ", ") + ")"
	case r.Kind == KindMemberLost:
		return what + ": read in full since"
	case r.Healed.Revision > 0:
		what += " at revision " + itoa(r.Healed.Revision)
	}
	return what + ": equal again on every member of the finding"
}

func names(members []Member) string {
	var out []string
	for _, m := range members {
		out = append(out, cmp.Or(m.Name, m.ID))
	}
	return strings.Join(out, ", ")
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func counted(n int64, what string) string { return itoa(n) + " " + what + plural(int(n), "", "s") }

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
