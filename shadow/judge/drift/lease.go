package drift

import (
	"maps"
	"slices"
)

// Lease applies LEASE: it finds a lease that one member has and another one lacks.
// LeaseLeases is local (LeaseTimeToLive is forwarded to the leader: useless here).
//
//	B lacks the lease in a read, A shows it in a later one: B.raftIndex after its read ≤
//	A.applied before its; both live; and each entry from B.applied before its read to
//	A.raftIndex after its made a revision; twice, each time from new reads of both, and
//	nothing to the contrary in between                            ⇒ divergent {A, B}
//
// Proof. B shows the leases at an index jB, B.applied ≤ jB ≤ B.raftIndex, and A those
// at jA, A.applied ≤ jA ≤ A.raftIndex, with jB ≤ jA. A lease that is absent at jB and
// present at jA was granted in between. A grant is a log entry that makes no
// revision, and there is none. Contradiction. (A lease that expires is revoked
// through the log: absent at jA, which accuses nobody.)
//
// That the interval in which A shows it and the one in which B lacks it meet is not
// enough. It takes for granted that a lease present in two reads is present in
// between, and a client may choose its lease ids: one that revokes and grants the
// same id again can be met present by each read of A and absent by each of B.
//
// So the window between the two reads has to be short. Read the members one after
// the other, in ascending order in one round and in descending order in the next:
// then each of a pair is read right after the other one in every second round.
//
// The zero value is ready. It is not safe for concurrent use.
type Lease struct {
	last     map[uint64]heldLeases
	suspects map[leaseSuspect]*proofs
	readings uint64
}

// maxSuspects is how many pairs of a lease and two members are followed at once.
// Others wait until these are settled.
const maxSuspects = 1024

// LeaseReading is what LeaseLeases of a member showed, between two Status of it.
type LeaseReading struct {
	Member, Epoch  uint64
	Live           bool    // Rev.Live, once the second Status was seen
	AppliedBefore  uint64  // raftAppliedIndex of the first Status
	Leases         []int64 // See takes it over
	Revision       int64   // of the second Status; without it, only a cluster without any entry in the window is judged
	CommittedAfter uint64  // raftIndex of the second Status
}

type heldLeases struct {
	LeaseReading
	number uint64
}

type leaseSuspect struct {
	lease      int64
	has, lacks uint64
}

type proofs struct {
	n       int
	reading uint64 // number of the newest that is in the last proof
}

// See takes a reading, and returns the leases of which it completed or renewed the
// proof.
func (l *Lease) See(r LeaseReading) []Finding {
	l.readings++
	if was, known := l.last[r.Member]; known && was.Epoch != r.Epoch || !r.sound() {
		l.forget(r.Member)
	}
	if !r.sound() {
		return nil
	}
	slices.Sort(r.Leases)
	l.contradict(r)
	var proved []int64
	for _, b := range l.last {
		if b.Member != r.Member && b.CommittedAfter <= r.AppliedBefore &&
			onlyWrites(b.AppliedBefore, b.Revision, r.CommittedAfter, r.Revision) {
			proved = append(proved, l.compare(b, r)...)
		}
	}
	if l.last == nil {
		l.last, l.suspects = make(map[uint64]heldLeases), make(map[leaseSuspect]*proofs)
	}
	l.last[r.Member] = heldLeases{r, l.readings}
	return l.findings(proved)
}

func (r LeaseReading) sound() bool {
	return r.Epoch != 0 && r.Live && r.CommittedAfter >= r.AppliedBefore
}

// contradict drops the suspicions that this reading contradicts.
func (l *Lease) contradict(r LeaseReading) {
	maps.DeleteFunc(l.suspects, func(s leaseSuspect, _ *proofs) bool {
		if s.has != r.Member && s.lacks != r.Member {
			return false
		}
		_, has := slices.BinarySearch(r.Leases, s.lease)
		return has != (s.has == r.Member)
	})
}

// compare counts a proof for each lease that a has and b, read before, lacks. It
// returns those with a second one.
func (l *Lease) compare(b heldLeases, a LeaseReading) []int64 {
	var proved []int64
	rest := b.Leases
	for _, lease := range a.Leases {
		for len(rest) > 0 && rest[0] < lease {
			rest = rest[1:]
		}
		if len(rest) > 0 && rest[0] == lease {
			continue
		}
		s := leaseSuspect{lease, a.Member, b.Member}
		p := l.suspects[s]
		switch {
		case p == nil && len(l.suspects) >= maxSuspects:
			continue
		case p == nil:
			p = new(proofs)
			l.suspects[s] = p
		case b.number <= p.reading:
			continue // b has not been read since
		}
		p.n++
		p.reading = l.readings
		if p.n >= 2 {
			proved = append(proved, lease)
		}
	}
	return proved
}

// findings of these leases, each with all members of which it is proved.
func (l *Lease) findings(leases []int64) []Finding {
	if len(leases) == 0 {
		return nil
	}
	slices.Sort(leases)
	leases = slices.Compact(leases)
	has, lacks := make([]groups, len(leases)), make([]groups, len(leases))
	for s, p := range l.suspects {
		if i, of := slices.BinarySearch(leases, s.lease); of && p.n >= 2 {
			has[i].add(s.has, "has the lease")
			lacks[i].add(s.lacks, "lacks the lease")
		}
	}
	found := make([]Finding, len(leases))
	for i, lease := range leases {
		found[i] = Finding{Rule: RuleLEASE, Subject: hex(uint64(lease)), Groups: append(has[i], lacks[i]...)}
	}
	return found
}

// Keep forgets all members but these.
func (l *Lease) Keep(members []uint64) {
	for m := range l.last {
		if !slices.Contains(members, m) {
			l.forget(m)
		}
	}
}

func (l *Lease) forget(member uint64) {
	delete(l.last, member)
	maps.DeleteFunc(l.suspects, func(s leaseSuspect, _ *proofs) bool { return s.has == member || s.lacks == member })
}
