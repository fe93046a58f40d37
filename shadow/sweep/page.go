package sweep

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

const (
	// fresh is how long pages are compared at one revision.
	fresh = time.Second
	// attempts at a page whose differences are not confirmed, before it is left as a gap.
	attempts = 5
	// attemptsTooLarge is how often less is asked for around a single key-value over [member.MaxAnswer].
	attemptsTooLarge = 24
)

// stall is why a pass does not move on; none has no reason.
type stall struct {
	reason  judge.Reason
	members []uint64 // because of whom; none: nobody in particular
}

// step compares one page.
//
// GUARANTEE G5: whatever the answers, the page is compared, or tried again, or
// said to be a gap.
func (s *Sweep) step(ctx context.Context, p *pass) stall {
	snap := s.Members.Snapshot()
	members := p.members(snap)
	if len(members) < 2 {
		return stall{reason: judge.TooFew}
	}
	if st := s.pin(ctx, p, members); st.reason != "" || p.done {
		return st
	}
	end := p.end()
	q := judge.Question{Key: p.from, End: open(end), Revision: p.revision}
	if from, to, poisoned := s.Ask.Poison.Ahead(q); poisoned {
		if bytes.Compare(from, q.Key) <= 0 {
			s.skip(p, to, judge.Poisoned.Reason())
			return stall{}
		}
		end, q.End = from, from
	}
	if p.ruler.lost {
		nearby, st := s.scout(ctx, p, members, q, end)
		if st.reason != "" {
			return st
		}
		end, q.End = nearby, open(nearby)
	}
	pages := s.Ask.Pages(ctx, members, q, p.limit, false)
	if st := s.heard(p, end, pages); st.reason != "" {
		if st.reason == judge.Unreachable.Reason() {
			s.Ask.Poison.Narrow(q, open(furthest(pages, end)))
		}
		return st
	}
	cut, sound := trim(pages, end)
	if !sound {
		return stall{reason: judge.Refused.Reason()}
	}
	if st := s.compare(ctx, p, snap, cut, pages); st.reason != "" {
		return st
	}
	s.advance(p, end, cut, pages)
	return stall{}
}

// scout asks one member, where nobody knows how many keys there are, so that not
// all of them walk them. It returns a nearer end when there are many.
func (s *Sweep) scout(ctx context.Context, p *pass, members []*member.Member, q judge.Question, end []byte) ([]byte, stall) {
	i, limit := int(p.Pages)%len(members), min(firstKeys, p.limit)
	pages := s.Ask.Pages(ctx, members[i:i+1], q, limit, false)
	if pages[0].Kind == judge.Unreachable {
		s.blame(ctx, members[(i+1)%len(members)], q, end, limit)
	}
	if st := s.heard(p, end, pages); st.reason != "" {
		return nil, st
	}
	a := pages[0]
	n := len(a.KVs)
	if n == 0 || a.Count <= walkFactor*p.limit {
		return end, stall{}
	}
	p.ruler.remember(end, a.Count)
	return append(bytes.Clone(a.KVs[n-1].Key), 0), stall{}
}

// blame, where a member was lost over a question whose end is far, only the keys
// that it read: another member tells which.
func (s *Sweep) blame(ctx context.Context, other *member.Member, q judge.Question, end []byte, limit int64) {
	first := q
	first.End = append(bytes.Clone(q.Key), 0)
	s.Ask.Poison.Narrow(q, first.End)
	q.Key = first.End
	pages := s.Ask.Pages(ctx, []*member.Member{other}, q, limit, false)
	s.Metrics.read(other.ID, pages[0].Bytes)
	s.Ask.Poison.Narrow(first, open(furthest(pages, end)))
}

// pin finds the highest revision that all members can answer, and keeps it for a
// moment.
func (s *Sweep) pin(ctx context.Context, p *pass, members []*member.Member) stall {
	if p.revision != 0 && (p.hold || time.Since(p.pinned) < fresh) {
		return stall{}
	}
	revisions := s.Ask.Revisions(ctx, members)
	if away := those(members, func(i int) bool { return revisions[i] == 0 }); away != nil {
		return stall{judge.Unreachable.Reason(), away}
	}
	low, high := slices.Min(revisions), slices.Max(revisions)
	if high < 2 { // nothing was ever written
		p.move(nil)
		return stall{}
	}
	if low >= p.high || high < p.high { // … or all went back: a restore
		p.high, p.highAt = high, time.Now()
	}
	p.behind = those(members, func(i int) bool { return revisions[i] < p.high })
	if low < 2 || p.strict && time.Since(p.highAt) > s.lagBudget() {
		return stall{judge.FutureRev.Reason(), p.behind}
	}
	p.revision, p.pinned, p.hold = low, time.Now(), false
	return stall{}
}

// caughtUp tells whether every member has by now what any of them had at the
// beginning or later. A member whose revision stands still agrees with all others at
// the revisions that it has.
func (s *Sweep) caughtUp(ctx context.Context, p *pass, members []*member.Member) stall {
	revisions := s.Ask.Revisions(ctx, members)
	if away := those(members, func(i int) bool { return revisions[i] == 0 }); away != nil {
		return stall{judge.Unreachable.Reason(), away}
	}
	high := min(p.high, slices.Max(revisions))
	if behind := those(members, func(i int) bool { return revisions[i] < high }); behind != nil {
		return stall{judge.FutureRev.Reason(), behind}
	}
	return stall{}
}

func those(members []*member.Member, are func(i int) bool) []uint64 {
	var ids []uint64
	for i, m := range members {
		if are(i) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// heard says what keeps answers from being compared, if something does.
func (s *Sweep) heard(p *pass, end []byte, pages []ask.Page) stall {
	var st stall
	for _, a := range pages {
		p.Bytes += int64(a.Bytes)
		s.Metrics.read(a.Member, a.Bytes)
		if a.Kind == judge.OK {
			continue
		}
		if st.reason == "" {
			st.reason = a.Kind.Reason()
		}
		st.members = append(st.members, a.Member)
		switch a.Kind {
		case judge.Compacted:
			p.revision = 0         // another one
			if len(p.behind) > 0 { // because of whom it was so low
				return stall{judge.FutureRev.Reason(), p.behind}
			}
		case judge.FutureRev:
			p.revision = 0
		case judge.Timeout:
			p.limit = max(1, p.limit/2)
		}
	}
	if st.reason == judge.Exhausted.Reason() {
		return s.tooLarge(p, end, st)
	}
	return st
}

// tooLarge asks for less, and looks for the end of a single key-value that is too
// large: nobody can tell its key.
func (s *Sweep) tooLarge(p *pass, end []byte, st stall) stall {
	if p.limit > 1 {
		p.limit = max(1, p.limit/4)
		return st
	}
	if p.oversize++; p.oversize <= attemptsTooLarge {
		p.ruler.scale(1, widening)
		return st
	}
	s.skip(p, end, st.reason)
	return stall{}
}

// skip what cannot be compared.
func (s *Sweep) skip(p *pass, to []byte, why judge.Reason) {
	if s.Logger != nil {
		s.Logger.Warn("the sweep passes over keys that it could not compare", "reason", string(why), "from", strconv.Quote(string(shown(p.from))))
	}
	p.gap(to, why)
	s.Metrics.skipped(why)
	p.move(to)
	p.oversize = 0
	p.ruler.begin(p.from)
}

// trim cuts the pages to what all members have answered, and says where that
// ends. It is false when a member speaks of keys and shows none.
func trim(pages []ask.Page, end []byte) (cut []byte, sound bool) {
	cut = end
	for _, a := range pages {
		n := len(a.KVs)
		if a.Count <= int64(n) {
			continue
		}
		if n == 0 {
			return nil, false
		}
		cut = nearer(append(bytes.Clone(a.KVs[n-1].Key), 0), cut)
	}
	for i := range pages {
		kvs := pages[i].KVs
		n := len(kvs)
		for n > 0 && !before(kvs[n-1].Key, cut) {
			n--
		}
		pages[i].KVs = kvs[:n]
	}
	return cut, true
}

// furthest is where the pages end of those who answered. A member that was lost
// over the same question read no keys behind it, if it has the same.
func furthest(pages []ask.Page, end []byte) []byte {
	var far []byte
	for _, a := range pages {
		switch n := len(a.KVs); {
		case a.Kind != judge.OK:
		case n == 0 || a.Count <= int64(n):
			return end
		case far == nil || before(far, a.KVs[n-1].Key):
			far = append(bytes.Clone(a.KVs[n-1].Key), 0)
		}
	}
	if far == nil {
		return end
	}
	return far
}

// advance to what lies behind a page that was compared.
func (s *Sweep) advance(p *pass, end, cut []byte, pages []ask.Page) {
	var longest ask.Page
	count, bytes, equal := int64(0), 0, true
	for _, a := range pages {
		if len(a.KVs) >= len(longest.KVs) {
			longest = a
		}
		count, bytes = max(count, a.Count), max(bytes, a.Bytes)
		equal = equal && a.Count == pages[0].Count
	}
	p.Revision = p.revision
	p.Pages++
	p.Keys += int64(len(longest.KVs))
	p.fits(longest.KVs, bytes, s.Ask.Budget().Bytes)
	p.ruler.learn(longest.KVs, end, count, p.limit)
	// Members that count differently differ in what is behind this page: it is to
	// be looked at as it was at this revision.
	p.hold = !equal && before(cut, end)
	p.move(cut)
	s.Metrics.page(len(longest.KVs))
}
