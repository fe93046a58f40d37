package judge

import "slices"

// Basis on which members are named as those that differ.
type Basis string

// The bases.
const (
	BasisQuorum Basis = "quorum" // a quorum of the voters agrees with one another
	BasisOracle Basis = "oracle" // a member contradicts its own acknowledgement or answer
	BasisNone   Basis = "none"   // it is open who is off
)

// WhoDiffers names the members that differ, and on what basis. A rule proves
// only that groups disagree; a minority is named only with a quorum of voters
// in one group. It is the minority that may have told the client the truth
// (etcd #18667), so the word is "differs", never "corrupt".
func WhoDiffers(d Diff, voters []uint64) (Basis, []uint64) {
	if d.Rule == RuleServedWrong {
		for _, g := range d.Groups {
			if g.Claimed {
				return BasisOracle, g.Members
			}
		}
	}
	for i, g := range d.Groups {
		if g.Claimed || !quorum(g.Members, voters) {
			continue
		}
		var differs []uint64
		for j, other := range d.Groups {
			if i != j {
				differs = append(differs, other.Members...)
			}
		}
		slices.Sort(differs)
		return BasisQuorum, differs
	}
	return BasisNone, nil
}

func quorum(group, voters []uint64) bool {
	n := 0
	for _, m := range group {
		if slices.Contains(voters, m) {
			n++
		}
	}
	return n > 0 && n > len(voters)/2
}
