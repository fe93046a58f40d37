package sweep

import (
	"bytes"
	"context"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/evidence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

const (
	// oneByOne is how many keys are asked again by themselves; more are asked as one range.
	oneByOne = 4
	// hugeKeys do not fit into one request, which etcd refuses above 2 MiB.
	hugeKeys = 1 << 20
)

// compare judges a page that all members answered, and reports what is proved.
// GUARANTEE G3: what differs is asked once more before it is (docs/detection.md, PIN).
func (s *Sweep) compare(ctx context.Context, p *pass, snap *member.Snapshot, cut []byte, pages []ask.Page) stall {
	q := judge.Question{Key: p.from, End: open(cut), Revision: p.revision}
	first := make([]judge.Answer, len(pages))
	for i, a := range pages {
		first[i] = a.Answer
	}
	// What differs if all hold to what they said.
	suspected := judge.PIN(q, first, first)
	if suspected.Outcome != judge.Divergent {
		s.Metrics.judged(suspected)
		return stall{reason: suspected.Reason}
	}
	members := asked(snap, pages)
	spans := spans(suspected.Diffs, q.Revision)
	again := everything(members, func(collect func([]judge.Answer)) {
		for _, span := range spans {
			collect(s.Ask.All(ctx, members, span, true))
		}
	})
	v := judge.PIN(q, first, again)
	s.Metrics.judged(v)
	if len(v.Diffs) < len(suspected.Diffs) {
		why := v.Reason
		if v.Outcome == judge.Divergent {
			why = judge.Silent
		}
		if p.tries++; p.tries < attempts || ctx.Err() != nil {
			p.revision = 0 // it may have been compacted
			return stall{reason: why}
		}
		p.gap(cut, why)
	}
	s.report(ctx, p, snap, v.Diffs, first, members)
	return stall{}
}

// asked are the members that gave the answers.
func asked(snap *member.Snapshot, pages []ask.Page) []*member.Member {
	members := make([]*member.Member, len(pages))
	for i, a := range pages {
		members[i] = snap.Member(a.Member)
	}
	return members
}

// spans are the questions that keys are asked with again: each by itself, or all
// as one range, which is no larger than the page that they stood in.
func spans(diffs []judge.Diff, revision int64) []judge.Question {
	first, last := diffs[0].Key, diffs[len(diffs)-1].Key
	if len(diffs) > oneByOne && len(first)+len(last) < hugeKeys {
		return []judge.Question{{Key: first, End: append(bytes.Clone(last), 0), Revision: revision}}
	}
	var each []judge.Question
	for _, d := range diffs {
		each = append(each, judge.Question{Key: d.Key, Revision: revision})
	}
	return each
}

// everything that members answered to several questions, as one answer of each.
// It is worth no more than the worst of them.
func everything(members []*member.Member, all func(collect func([]judge.Answer))) []judge.Answer {
	whole := make([]judge.Answer, len(members))
	asked := false
	all(func(answers []judge.Answer) {
		for i, a := range answers {
			switch w := &whole[i]; {
			case !asked:
				*w = a
			case a.Kind != judge.OK && w.Kind == judge.OK:
				w.Kind = a.Kind
			case a.Kind == judge.OK && a.Epoch != w.Epoch:
				w.Kind = judge.EpochChanged
			default:
				w.KVs = append(w.KVs, a.KVs...)
			}
		}
		asked = true
	})
	return whole
}

// report what was proved. Keys that only moved are told as such (judge.Shifted):
// for them all are asked once more, each at its own newest revision.
func (s *Sweep) report(ctx context.Context, p *pass, snap *member.Snapshot, diffs []judge.Diff, first []judge.Answer, members []*member.Member) {
	var newest []judge.Answer
	var highest int64
	var open []judge.Diff
	for _, d := range diffs {
		if evidence.Moves(d) {
			open = append(open, d)
		}
	}
	if len(open) > 0 {
		newest = everything(members, func(collect func([]judge.Answer)) {
			for _, span := range spans(open, 0) {
				answers, high := s.Ask.Newest(ctx, members, span)
				collect(answers)
				highest = max(highest, high)
			}
		})
	}
	for _, proved := range diffs {
		d, moved := judge.Shifted(proved, first, newest)
		e := evidence.Of(snap, p.revision, d)
		if moved && evidence.Moves(proved) {
			e.Revision = highest
		}
		e.Trigger = divergence.Trigger{Kind: divergence.TriggerSweep}
		s.Report(e)
		p.Differing++
		s.Metrics.differs()
	}
}
