// Package ask puts questions to members, within what each of them was promised: a budget a second, one request in flight,
// time to rest where it was slow, and no range a second time over which a member was lost.
package ask

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

const (
	askTimeout   = time.Second      // of one shadow read, unless an Asker has its own
	payPatience  = 30 * time.Second // for the budget; a longer wait is not begun
	turnPatience = 2 * time.Second  // for the reads of others
)

// Budget of each member, per second.
type Budget struct {
	Reads float64 // every RPC counts
	Bytes float64 // of its answers
}

// Asker asks members. Its fields are set before its first use.
type Asker struct {
	Budget   func() Budget
	Guard    func(func()) // keeps a panic from ending the process
	Paused   func() bool
	Poison   *Poison                           // may be shared
	Asked    func(member uint64, k judge.Kind) // told of every RPC
	Answered func(member uint64, bytes int)    // … and of the size of every answer to a Range
	Timeout  time.Duration                     // of one read; 0 is 1 s

	mu       sync.Mutex
	accounts map[uint64]*account
	rushing  int           // checks that confirm what they suspect
	calm     chan struct{} // closed when none does any more
}

// Rush lets the reads of a check that suspects something go before those that
// begin one, until the returned function is called: what is found is to be named
// soon, also when the budget is spent by the second.
func (a *Asker) Rush() (done func()) {
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

// Wait until nobody rushes. It is called where a check begins.
func (a *Asker) Wait(ctx context.Context) {
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

func (a *Asker) account(id uint64) *account {
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
	r := a.Budget()
	// Bursts are short, so that a budget holds over any second, too.
	setLimit(acc.reads, r.Reads, max(1, int(r.Reads/10)))
	setLimit(acc.bytes, r.Bytes, max(1, int(r.Bytes)))
	return acc
}

// All asks every member the same question at once. insist asks also those that
// rest: a difference that one of them showed is confirmed all the same.
func (a *Asker) All(ctx context.Context, members []*member.Member, q judge.Question, insist bool) []judge.Answer {
	answers := make([]judge.Answer, len(members))
	for i, p := range a.Pages(ctx, members, q, 0, insist) {
		answers[i] = p.Answer
	}
	return answers
}

// Page is an answer, and what else it says about the range.
type Page struct {
	judge.Answer
	Count int64 // keys in the whole range
	Bytes int
}

// Pages asks every member for the first keys of a range, at most limit of them; 0 is all. The range must have an end: etcd walks
// its index to it whatever the limit.
func (a *Asker) Pages(ctx context.Context, members []*member.Member, q judge.Question, limit int64, insist bool) []Page {
	pages := make([]Page, len(members))
	a.Each(members, func(i int, m *member.Member) {
		pages[i].Answer = judge.Answer{Member: m.ID, Kind: judge.Refused} // what a panic leaves
		pages[i] = a.page(ctx, m, q, limit, insist)
	})
	return pages
}

// Each does something with every member at once.
func (a *Asker) Each(members []*member.Member, do func(i int, m *member.Member)) {
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { a.Guard(func() { do(i, m) }) })
	}
	wg.Wait()
}

func (a *Asker) page(ctx context.Context, m *member.Member, q judge.Question, limit int64, insist bool) Page {
	p := Page{Answer: judge.Answer{Member: m.ID, Epoch: m.Epoch()}}
	refusal := func(acc *account) judge.Kind {
		if a.Poison.Covers(q) {
			return judge.Poisoned
		}
		return a.mayAsk(acc, insist)
	}
	p.Kind = a.inTurn(ctx, m, refusal, func(ctx context.Context) judge.Kind {
		r := m.Range(ctx, q.Key, q.End, q.Revision, limit)
		kind := kindOf(r)
		if kind == judge.Exhausted {
			r.Bytes = member.MaxAnswer // nobody knows how much came
		}
		a.account(m.ID).charge(r.Bytes)
		a.Answered(m.ID, r.Bytes)
		if r.Lost {
			a.Poison.lost(m, q)
		}
		p.Epoch, p.Bytes = r.Epoch, r.Bytes
		if kind == judge.OK {
			p.KVs, p.Count = KVs(r.Range.GetKvs()), r.Range.GetCount()
		}
		return kind
	})
	return p
}

// mayAsk tells why a member is not asked now; OK where it may be.
func (a *Asker) mayAsk(acc *account, insist bool) judge.Kind {
	switch {
	case a.Paused():
		return judge.Paused
	case !insist && acc.resting(time.Now()):
		return judge.Resting
	}
	return judge.OK
}

// inTurn pays for one RPC and does it when the member's turn has come. What would
// forbid it is looked at before and, because both take time, once more right
// before it is sent.
func (a *Asker) inTurn(ctx context.Context, m *member.Member, refusal func(*account) judge.Kind, do func(context.Context) judge.Kind) judge.Kind {
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
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(a.Timeout, askTimeout))
	defer cancel()
	begin := time.Now()
	k := do(ctx)
	acc.took(time.Since(begin), k, time.Now())
	a.Asked(m.ID, k)
	return k
}

// Revision is the highest that all members who can be heard can answer; 0 when
// fewer than two can.
func (a *Asker) Revision(ctx context.Context, members []*member.Member) int64 {
	lowest, heard := int64(0), 0
	for _, r := range a.Revisions(ctx, members) {
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

// Newest asks every member at its own newest revision, and returns the highest
// of these.
func (a *Asker) Newest(ctx context.Context, members []*member.Member, q judge.Question) (answers []judge.Answer, highest int64) {
	answers = make([]judge.Answer, len(members))
	revisions := a.Revisions(ctx, members)
	a.Each(members, func(i int, m *member.Member) {
		answers[i] = judge.Answer{Member: m.ID, Kind: judge.Unreachable}
		if own := q; revisions[i] >= 2 {
			own.Revision = revisions[i]
			answers[i] = a.page(ctx, m, own, 0, true).Answer
		}
	})
	return answers, slices.Max(append(revisions, 0))
}

// Revisions of all members now; 0 where one was not heard.
func (a *Asker) Revisions(ctx context.Context, members []*member.Member) []int64 {
	revisions := make([]int64, len(members))
	a.Each(members, func(i int, m *member.Member) {
		refusal := func(acc *account) judge.Kind { return a.mayAsk(acc, false) }
		a.inTurn(ctx, m, refusal, func(ctx context.Context) judge.Kind {
			r, err := m.Revision(ctx)
			revisions[i] = r
			return kindOf(member.Reply{Err: err})
		})
	})
	return revisions
}
