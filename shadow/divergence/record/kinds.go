package record

import "slices"

// The kinds of a finding: of one key, of many keys, and of no key at all.
const (
	KindKey        = "key"
	KindShifted    = "shifted"
	KindRevision   = "revision"
	KindLease      = "lease"
	KindMembership = "membership"
	KindAuth       = "auth"
	KindMemberLost = "member-lost"
)

// The rules of docs/detection.md.
const (
	RulePIN         = "PIN"
	RuleOracle      = "ORACLE"
	RuleServedWrong = "served-wrong"
	RuleWatch       = "WATCH"
	RuleREV         = "REV"
	RuleLIN         = "LIN"
	RuleLease       = "LEASE"
	RuleMembership  = "MEMBERSHIP"
	RuleAuth        = "AUTH"
	RuleMemberLost  = "member-lost-while-reading"
)

// The layers of etcd in which the damage can lie.
const (
	LayerApply       = "apply"
	LayerStorage     = "storage"
	LayerLease       = "lease"
	LayerMembership  = "membership"
	LayerAuth        = "auth"
	LayerReplication = "replication"
)

// Layers are all layers.
func Layers() []string {
	return []string{LayerApply, LayerStorage, LayerLease, LayerMembership, LayerAuth, LayerReplication}
}

// ClusterKind is what a rule finds that is not about a key. REV and LIN see one
// and the same: a member whose revision is off.
type ClusterKind struct {
	Rule, Kind string
	Layer      string // that its damage lies in, empty when that is open
	Subjects   bool   // one finding for each subject, else one for the cluster
}

// ClusterKinds are all of them.
func ClusterKinds() []ClusterKind {
	return []ClusterKind{
		{RuleREV, KindRevision, LayerApply, false},
		{RuleLIN, KindRevision, LayerApply, false},
		{RuleLease, KindLease, LayerLease, true},
		{RuleMembership, KindMembership, LayerMembership, true},
		{RuleAuth, KindAuth, LayerAuth, false},
		{RuleMemberLost, KindMemberLost, "", true},
	}
}

// ClusterKindOf is the kind of the rule, and zero when it is about keys.
func ClusterKindOf(rule string) ClusterKind {
	kinds := ClusterKinds()
	if i := slices.IndexFunc(kinds, func(k ClusterKind) bool { return k.Rule == rule }); i >= 0 {
		return kinds[i]
	}
	return ClusterKind{}
}
