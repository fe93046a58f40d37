package judge

// Shifted tells a key that only moved from a key that really differs. After one
// skipped apply every later write lands at another revision on the member that
// skipped: read at one revision, the newest keys are missing or old there, and
// a moment later they are not.
//
// It is asked of a difference that PIN has proved, and settles no guilt: newest
// are the answers of the same members, each at its own newest revision. Where
// they agree in value, version and lease, and differ in create_revision or
// mod_revision alone, it returns that difference in place of d.
func Shifted(d Diff, newest []Answer) (Diff, bool) {
	if d.Rule != RulePIN || d.Fields&^revisions == 0 {
		return d, d.Rule == RulePIN
	}
	var answers []Answer
	for _, g := range d.Groups {
		for _, m := range g.Members {
			a, found := of(newest, m)
			if !found || a.Kind != OK {
				return d, false
			}
			answers = append(answers, a)
		}
	}
	moved, differs := groupByKey(answers, d.Key)
	if !differs || moved.Fields&^revisions != 0 {
		return d, false
	}
	return moved, true
}

const revisions = CreateRevision | ModRevision
