package follow

import (
	"slices"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
	"github.com/etcd-parallax/parallax/shadow/judge"
)

// Known is what a key's difference shows of where the damage lies.
type Known struct {
	Fields  judge.Fields // in which the members differ
	Leased  bool         // some members have the key, with a lease, and others do not have it
	Shifted bool         // this key or others have equal content under other revisions
	// RevisionsAgree: the members number their revisions alike now. False where nobody can tell.
	RevisionsAgree bool
	Rules          []string // of open findings of the same cluster that are not about a key
}

// Layer guesses in which layer of etcd the damage lies (docs/detection.md, "Where the damage lies"); "" where the evidence is for none.
// It is a guess of where to look first, and settles no guilt.
//
// Two layers are not for keys: `membership` has its own rule, whose finding says so, and `replication` is members that lag, which PIN
// never calls a difference.
func Layer(k Known) string {
	open := func(rule string) bool { return slices.Contains(k.Rules, rule) }
	switch {
	case open(record.RuleMemberLost):
		// etcd exits where its index names a record that the backend lacks: whatever else is off, these two are not in step.
		return record.LayerStorage
	case k.Fields == judge.Lease:
		return record.LayerLease
	case k.Leased && open(record.RuleLease):
		// The end of a lease deletes its keys in one revision: where the lease itself is missing, they stay, and the revisions drift apart
		// from then on. So it goes before apply (etcd #11689, #12535).
		return record.LayerLease
	case open(record.RuleAuth):
		// A member that has other permissions refuses writes that the others apply. So do the revisions drift apart, too
		// (etcd #11651, #14355, #14571).
		return record.LayerAuth
	case k.Shifted, open(record.RuleREV), open(record.RuleLIN):
		return record.LayerApply
	case k.RevisionsAgree:
		return record.LayerStorage
	}
	// Not even a value that differs alone, under one revision and version, shows that it was applied alike: where a member skipped one of
	// many writes to a key, at each revision it has the next one of them.
	return ""
}
