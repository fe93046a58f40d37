package ask

import (
	"bytes"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

// Ahead returns the first poisoned range [from, to) that a question meets, for those who read what lies before and behind it; to is
// nil where it has no end.
func (p *Poison) Ahead(q judge.Question) (from, to []byte, found bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.ranges {
		if !r.Meets(q) || found && bytes.Compare(r.Key, from) >= 0 {
			continue
		}
		found, from = true, r.Key
		switch {
		case len(r.End) == 0:
			to = append(bytes.Clone(r.Key), 0)
		case bytes.Equal(r.End, []byte{0}):
			to = nil
		default:
			to = r.End
		}
	}
	return from, to, found
}

// Narrow ends a poisoned range earlier: of a page only its first keys were read.
func (p *Poison) Narrow(q judge.Question, end []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, r := range p.ranges {
		if r.Revision == q.Revision && bytes.Equal(r.Key, q.Key) && bytes.Equal(r.End, q.End) {
			p.ranges[i].End = end
		}
	}
}
