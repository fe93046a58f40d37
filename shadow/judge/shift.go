package judge

import "slices"

// Shifted tells a key that only moved from a key that really differs. After one
// skipped apply every later write lands at another revision on the member that
// skipped: read at one revision, the newest keys are missing or old there, and
// a moment later they are not.
//
// It is asked of a difference that PIN has proved from first, and settles no
// guilt. newest are answers of the same members, in the same epochs, each at its
// own newest revision. Where the same groups of members agree in value, version
// and lease, and differ in create_revision or mod_revision alone, it returns that
// difference in place of d.
func Shifted(d Diff, first, newest []Answer) (Diff, bool) {
	if d.Rule != RulePIN || d.Fields&^revisions == 0 {
		return d, d.Rule == RulePIN
	}
	var answers []Answer
	for _, g := range d.Groups {
		for _, m := range g.Members {
			was, _ := of(first, m)
			a, found := of(newest, m)
			if !found || a.Kind != OK || a.Epoch != was.Epoch {
				return d, false
			}
			answers = append(answers, a)
		}
	}
	moved, differs := groupByKey(answers, d.Key)
	if !differs || moved.Fields&^revisions != 0 || !samePartition(d, moved) {
		return d, false
	}
	return moved, true
}

const revisions = CreateRevision | ModRevision

// samePartition tells whether the members stand in the same groups. Otherwise
// somebody would be named whom nothing was proved of.
func samePartition(a, b Diff) bool {
	return slices.EqualFunc(a.Groups, b.Groups, func(x, y Group) bool { return slices.Equal(x.Members, y.Members) })
}
