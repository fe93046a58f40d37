package ask

import (
	"log/slog"
	"strconv"
	"sync"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// poisonedRanges bounds what is remembered; beyond it, everything is.
const poisonedRanges = 1000

// Poison is ranges over which a member was lost. An etcd whose index names a record that its backend lacks exits on the read (lg.Fatal),
// and would again: such a range is asked of no member any more, until an operator says so. A shadow read must not kill a damaged
// member, nor the next one.
type Poison struct {
	Logger  *slog.Logger     // nil: silent
	Changed func(ranges int) // how many there are now

	mu     sync.Mutex
	ranges []judge.Question
}

// lost notes that a member went away while it read this range.
func (p *Poison) lost(m *member.Member, q judge.Question) {
	p.mu.Lock()
	if len(p.ranges) < poisonedRanges {
		p.ranges = append(p.ranges, q)
	}
	n := len(p.ranges)
	p.mu.Unlock()
	p.Changed(n)
	if p.Logger != nil {
		p.Logger.Warn("a member's connection broke while the shadow read a range from it; the range is read from no member any more until the shadow was paused and goes on, "+
			"in case the read itself ended the member: look at the member's log for a fatal line about this key before that",
			"member", member.FormatID(m.ID), "url", m.URL, "first_key", strconv.Quote(string(q.Key)), "revision", q.Revision)
	}
}

// Covers tells whether a question is not to be asked.
func (p *Poison) Covers(q judge.Question) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.ranges {
		if r.Meets(q) {
			return true
		}
	}
	return len(p.ranges) >= poisonedRanges
}

// Forgive lets poisoned ranges be asked again.
func (p *Poison) Forgive() {
	p.mu.Lock()
	p.ranges = nil
	p.mu.Unlock()
	p.Changed(0)
}
