// Package diagnose looks at a cluster for half a minute, and says which of the five guesses of docs/detection.md holds:
// the cluster split, the log is not replicated, apply skipped or repeated entries, the index or the backend is wrong,
// or nothing was found.
//
// Look asks, and only reads; Conclude judges what was seen, and is pure.
//
// GUARANTEE G3: No healthy cluster is ever accused. What is called divergent is proved by a rule of packages judge and
// drift; whatever else is remarkable (lag, elections, alarms, hashes) is told as what it is.
package diagnose

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// Options of a look.
type Options struct {
	Members  func() *member.Snapshot
	Duration time.Duration      // of watching revisions; keys and hashes come on top
	Hash     bool               // ask for HashKV, which blocks each member for a scan of its keys
	Progress func(doing string) // nil: none
}

const (
	patience = time.Second     // for one answer
	rest     = 2 * time.Second // for a member that gave none
	// hashPatience is for a scan of all keys.
	hashPatience = time.Minute
)

// run is one look, by one goroutine.
type run struct {
	Options
	facts Facts

	rev    drift.Rev
	lin    drift.Lin
	leases drift.Lease
	lists  drift.Membership

	last    map[uint64]drift.Status
	resting map[uint64]time.Time // not asked before
	doubts  map[[2]uint64]drift.Suspicion
	highest uint64 // raftIndex since the last round of MEMBERSHIP
	reverse bool   // the order of the next round of LEASE
	apart   map[[2]uint64]drift.Finding
	points  points
}

// Look at the cluster. It ends early with ctx, with what it has seen until then.
func Look(ctx context.Context, o Options) Facts {
	r := &run{
		Options: o, last: map[uint64]drift.Status{}, resting: map[uint64]time.Time{}, doubts: map[[2]uint64]drift.Suspicion{},
		apart: map[[2]uint64]drift.Finding{}, points: points{},
	}
	if r.Progress == nil {
		r.Progress = func(string) {}
	}
	for _, step := range []struct {
		doing string
		do    func(context.Context)
		leave bool
	}{
		{doing: "asking who is there", do: r.meet},
		{doing: "comparing a sample of keys", do: r.keys},
		{doing: "watching revisions, leases and member lists for " + o.Duration.String(), do: r.rounds},
		{doing: "asking for hashes", do: r.hashes, leave: !o.Hash},
	} {
		if ctx.Err() == nil && !step.leave {
			r.Progress(step.doing)
			step.do(ctx)
		}
	}
	r.facts.Interrupted = ctx.Err() != nil
	r.facts.Found = append(r.grouped(), r.facts.Found...)
	return r.facts
}

// NewReport concludes from the facts of a look that began then.
func NewReport(f Facts, began time.Time, took time.Duration) Report {
	c, checks := Conclude(f)
	return Report{
		Schema: Schema, Began: began.UTC(), Seconds: took.Seconds(),
		Conclusion: c, Checks: checks, Bugs: fit(bugsOf(f.Members), c), Facts: f,
	}
}

// meet asks every listed member for its Status.
func (r *run) meet(ctx context.Context) {
	p := r.Members()
	r.facts.ClusterID = ID(p.Cluster)
	for _, v := range p.Voters {
		r.facts.Voters = append(r.facts.Voters, ID(v))
	}
	for _, id := range p.Listed {
		m := Member{ID: ID(id), NotAsked: "no address is known at which it answers"}
		if at := p.Member(id); at != nil {
			m.Name, m.URL, m.Learner = at.Name, at.URL, at.Learner
		}
		r.facts.Members = append(r.facts.Members, m)
	}
	slices.SortFunc(r.facts.Members, func(a, b Member) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	for _, m := range p.Members {
		if s, ok := r.status(ctx, m); ok {
			r.facts.member(ID(m.ID)).AppliedBefore = s.Applied
		}
	}
}

// able are the members that can be asked now, by id.
func (r *run) able() []*member.Member {
	var able []*member.Member
	for _, m := range r.Members().Members {
		known := r.facts.member(ID(m.ID)) // not: added meanwhile
		if known != nil && time.Now().After(r.resting[m.ID]) {
			able = append(able, m)
		}
	}
	return able
}

// asked asks a member one thing in its turn.
func asked[T any](ctx context.Context, m *member.Member, patience time.Duration, call func(*member.Member, context.Context) member.Answer[T]) (T, uint64, error) {
	var none T
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	release, err := m.Turn(ctx)
	if err != nil {
		return none, 0, err
	}
	defer release()
	a := call(m, ctx)
	switch {
	case a.Err != nil:
		return none, 0, a.Err
	case a.Changed || a.Epoch == 0:
		return none, 0, errChanged
	case a.Foreign:
		return none, 0, errForeign
	}
	return a.Body, a.Epoch, nil
}

const (
	errChanged = failure("its connection changed meanwhile")
	errForeign = failure("another cluster or member answered")
)

type failure string

func (f failure) Error() string { return string(f) }

func why(err error) string {
	if f, ok := err.(failure); ok { //nolint:errorlint // made above, and never wrapped
		return string(f)
	}
	return status.Convert(err).Message()
}

// refused notes, once, what a member was asked in vain.
func (r *run) refused(ctx context.Context, m *member.Member, what string, err error) {
	if ctx.Err() != nil {
		return // it is we who end
	}
	text := what + ": " + why(err)
	if status.Code(err) == codes.Unavailable && strings.Contains(text, "connection") { // each has other ports in it
		text = what + ": the connection broke, or could not be made"
	}
	known := r.facts.member(ID(m.ID))
	if !slices.Contains(known.Refused, text) && len(known.Refused) < 10 {
		known.Refused = append(known.Refused, text)
	}
}

// status asks for one Status, and gives it to REV.
func (r *run) status(ctx context.Context, m *member.Member) (drift.Status, bool) {
	body, epoch, err := asked(ctx, m, patience, (*member.Member).Status)
	known := r.facts.member(ID(m.ID))
	if err != nil {
		r.resting[m.ID] = time.Now().Add(rest)
		if ctx.Err() == nil && known.Version == "" {
			known.NotAsked = why(err)
		} else {
			r.refused(ctx, m, "Status", err)
		}
		return drift.Status{}, false
	}
	s := drift.Status{
		Member: m.ID, Epoch: epoch, Revision: body.GetHeader().GetRevision(), RaftIndex: body.GetRaftIndex(), Applied: body.GetRaftAppliedIndex(),
		RaftTerm: body.GetRaftTerm(), Leader: body.GetLeader(), Learner: body.GetIsLearner(),
	}
	known.learn(body)
	r.see(s)
	return s, true
}

func (m *Member) learn(s *pb.StatusResponse) {
	m.NotAsked, m.Version, m.Leader, m.RaftTerm = "", s.GetVersion(), ID(s.GetLeader()), s.GetRaftTerm()
	m.Committed, m.Applied, m.Revision = s.GetRaftIndex(), s.GetRaftAppliedIndex(), s.GetHeader().GetRevision()
	m.DBSize, m.DBInUse, m.Alarms, m.Learner = s.GetDbSize(), s.GetDbSizeInUse(), s.GetErrors(), s.GetIsLearner()
}

// hashes asks one member after the other, at one revision.
func (r *run) hashes(ctx context.Context) {
	members := r.able()
	var revision int64
	for _, m := range members {
		if s, ok := r.status(ctx, m); ok && (revision == 0 || s.Revision < revision) {
			revision = s.Revision
		}
	}
	for _, m := range members {
		body, _, err := asked(ctx, m, hashPatience, func(m *member.Member, ctx context.Context) member.Answer[*pb.HashKVResponse] {
			return m.HashKV(ctx, revision)
		})
		h := Hash{Member: ID(m.ID), Revision: revision}
		if err != nil {
			h.Why = why(err)
		} else {
			h.Hash, h.Compact = body.GetHash(), body.GetCompactRevision()
		}
		r.facts.Hashes = append(r.facts.Hashes, h)
	}
}
