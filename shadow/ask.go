package shadow

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

const (
	askTimeout   = time.Second            // of one shadow read
	payPatience  = 30 * time.Second       // for the budget; a longer wait is not begun
	turnPatience = 2 * time.Second        // for the reads of other checks
	slowRead     = 500 * time.Millisecond // after which a member is left alone for a while
	restFirst    = time.Second
	restLongest  = 30 * time.Second
	// poisonedRanges bounds what is remembered; beyond it, everything is.
	poisonedRanges = 1000
)

// asker asks members within what each was promised.
type asker struct {
	rates   func() *Rates
	metrics *Metrics
	logger  *slog.Logger
	guard   func(func()) // keeps a panic in the shadow
	paused  func() bool

	mu       sync.Mutex
	accounts map[uint64]*account
	poison   []judge.Question
	rushing  int           // checks that confirm what they suspect
	calm     chan struct{} // closed when none does any more
}

// rush lets the reads of a check that suspects something go before those that
// begin one, until the returned function is called: what is found is to be named
// soon, also when the budget is spent by the second.
func (a *asker) rush() (done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rushing++; a.rushing == 1 {
		a.calm = make(chan struct{})
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.rushing--; a.rushing == 0 {
			close(a.calm)
		}
	}
}

// wait until nobody rushes. It is called where a check begins.
func (a *asker) wait(ctx context.Context) {
	a.mu.Lock()
	calm, rushing := a.calm, a.rushing > 0
	a.mu.Unlock()
	if !rushing {
		return
	}
	select {
	case <-calm:
	case <-ctx.Done():
	}
}

func (a *asker) account(id uint64) *account {
	a.mu.Lock()
	defer a.mu.Unlock()
	acc := a.accounts[id]
	if acc == nil {
		acc = &account{reads: rate.NewLimiter(0, 1), bytes: rate.NewLimiter(0, 1)}
		if a.accounts == nil {
			a.accounts = map[uint64]*account{}
		}
		a.accounts[id] = acc
	}
	r := a.rates()
	// Bursts are short, so that a budget holds over any second, too.
	setLimit(acc.reads, r.ReadsPerSecond, max(1, int(r.ReadsPerSecond/10)))
	setLimit(acc.bytes, r.BytesPerSecond, max(1, int(r.BytesPerSecond)))
	return acc
}

// all asks every member the same question at once. insist asks also those that
// rest: a difference that one of them showed is confirmed all the same.
func (a *asker) all(ctx context.Context, members []*member.Member, q judge.Question, insist bool) []judge.Answer {
	answers := make([]judge.Answer, len(members))
	a.each(members, func(i int, m *member.Member) {
		answers[i] = judge.Answer{Member: m.ID, Kind: judge.Refused} // what a panic leaves
		answers[i] = a.one(ctx, m, q, insist)
	})
	return answers
}

// each does something with every member at once.
func (a *asker) each(members []*member.Member, do func(i int, m *member.Member)) {
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { a.guard(func() { do(i, m) }) })
	}
	wg.Wait()
}

func (a *asker) one(ctx context.Context, m *member.Member, q judge.Question, insist bool) judge.Answer {
	answer := judge.Answer{Member: m.ID, Epoch: m.Epoch()}
	refusal := func(acc *account) judge.Kind {
		if a.poisoned(q) {
			return judge.Poisoned
		}
		return a.mayAsk(acc, insist)
	}
	answer.Kind = a.inTurn(ctx, m, refusal, func(ctx context.Context) judge.Kind {
		r := m.Range(ctx, q.Key, q.End, q.Revision)
		kind := kindOf(r)
		if kind == judge.Exhausted {
			r.Bytes = member.MaxAnswer // nobody knows how much came
		}
		a.account(m.ID).charge(r.Bytes)
		a.metrics.answered(m.ID, r.Bytes)
		if r.Lost {
			a.lost(m, q)
		}
		answer.Epoch = r.Epoch
		if kind == judge.OK {
			answer.KVs = kvs(r.Range.GetKvs())
		}
		return kind
	})
	return answer
}

// mayAsk tells why a member is not asked now; OK where it may be.
func (a *asker) mayAsk(acc *account, insist bool) judge.Kind {
	switch {
	case a.paused():
		return judge.Paused
	case !insist && acc.resting(time.Now()):
		return judge.Resting
	}
	return judge.OK
}

// inTurn pays for one RPC and does it when the member's turn has come. What would
// forbid it is looked at before and, because both take time, once more right
// before it is sent.
func (a *asker) inTurn(ctx context.Context, m *member.Member, refusal func(*account) judge.Kind, do func(context.Context) judge.Kind) judge.Kind {
	acc := a.account(m.ID)
	if k := refusal(acc); k != judge.OK {
		return k
	}
	if acc.pay(ctx) != nil {
		return judge.OverBudget
	}
	waiting, stop := context.WithTimeout(ctx, turnPatience)
	release, err := m.Turn(waiting)
	stop()
	if err != nil {
		return judge.Resting
	}
	defer release()
	if k := refusal(acc); k != judge.OK {
		return k
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	begin := time.Now()
	k := do(ctx)
	acc.took(time.Since(begin), k, time.Now())
	a.metrics.asked(m.ID, k)
	return k
}

// kindOf tells what an answer is worth. FutureRev and Compacted share a code:
// they are told apart by their text.
func kindOf(r member.Reply) judge.Kind {
	switch {
	case r.Changed:
		return judge.EpochChanged
	case r.Err == nil && r.Foreign:
		return judge.Foreign
	case r.Err == nil:
		return judge.OK
	}
	switch status.Code(r.Err) {
	case codes.OutOfRange:
		switch rpctypes.ErrorDesc(r.Err) {
		case rpctypes.ErrorDesc(rpctypes.ErrGRPCFutureRev):
			return judge.FutureRev
		case rpctypes.ErrorDesc(rpctypes.ErrGRPCCompacted):
			return judge.Compacted
		}
	case codes.PermissionDenied, codes.Unauthenticated:
		return judge.Denied
	case codes.InvalidArgument: // with authentication on, and no user, or one whose token is of before a change
		switch rpctypes.ErrorDesc(r.Err) {
		case rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty), rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthOldRevision):
			return judge.Denied
		}
	case codes.Unavailable, codes.Canceled:
		return judge.Unreachable
	case codes.DeadlineExceeded:
		return judge.Timeout
	case codes.ResourceExhausted:
		return judge.Exhausted
	}
	return judge.Refused
}

// revision is the highest that all members who can be heard can answer; 0 when
// fewer than two can.
func (a *asker) revision(ctx context.Context, members []*member.Member) int64 {
	lowest, heard := int64(0), 0
	for _, r := range a.revisions(ctx, members) {
		if r > 0 {
			heard++
			if lowest == 0 || r < lowest {
				lowest = r
			}
		}
	}
	if heard < 2 {
		return 0
	}
	return lowest
}

// newest asks every member at its own newest revision, and returns the highest
// of these.
func (a *asker) newest(ctx context.Context, members []*member.Member, q judge.Question) (answers []judge.Answer, highest int64) {
	answers = make([]judge.Answer, len(members))
	revisions := a.revisions(ctx, members)
	a.each(members, func(i int, m *member.Member) {
		answers[i] = judge.Answer{Member: m.ID, Kind: judge.Unreachable}
		if own := q; revisions[i] >= 2 {
			own.Revision = revisions[i]
			answers[i] = a.one(ctx, m, own, true)
		}
	})
	return answers, slices.Max(append(revisions, 0))
}

// revisions of all members now; 0 where one was not heard.
func (a *asker) revisions(ctx context.Context, members []*member.Member) []int64 {
	revisions := make([]int64, len(members))
	a.each(members, func(i int, m *member.Member) {
		refusal := func(acc *account) judge.Kind { return a.mayAsk(acc, false) }
		a.inTurn(ctx, m, refusal, func(ctx context.Context) judge.Kind {
			r, err := m.Revision(ctx)
			revisions[i] = r
			return kindOf(member.Reply{Err: err})
		})
	})
	return revisions
}

// lost notes that a member went away while it read this range. An etcd whose
// index names a record that its backend lacks exits on the read (lg.Fatal), and
// would again: the range is asked of no member any more, until an operator says
// so. A shadow read must not kill a damaged member, nor the next one.
func (a *asker) lost(m *member.Member, q judge.Question) {
	a.mu.Lock()
	if len(a.poison) < poisonedRanges {
		a.poison = append(a.poison, q)
	}
	n := len(a.poison)
	a.mu.Unlock()
	a.metrics.poisoned(n)
	if a.logger != nil {
		a.logger.Warn("a member's connection broke while the shadow read a range from it; the range is read from no member any more until the shadow was paused and goes on, "+
			"in case the read itself ended the member: look at the member's log for a fatal line about this key before that",
			"member", member.FormatID(m.ID), "url", m.URL, "first_key", strconv.Quote(string(q.Key)), "revision", q.Revision)
	}
}

func (a *asker) poisoned(q judge.Question) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.poison {
		if intersect(p.Key, p.End, q.Key, q.End) {
			return true
		}
	}
	return len(a.poison) >= poisonedRanges
}

// forgive lets poisoned ranges be asked again.
func (a *asker) forgive() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.poison = nil
	a.metrics.poisoned(0)
}
