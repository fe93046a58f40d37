package sweep

import (
	"bytes"
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

const (
	// mostKeys of a page, and so the entries of the index that one read walks; more where speed is all that counts.
	mostKeys, mostKeysAtOnce = 512, 1024
	// pageBytes is how large a page is to be at most, and at most this share of what may be read in a second.
	pageBytes, pageShare = 1280 << 10, 8
	// firstKeys are asked for before anything is known of the values' size.
	firstKeys = 16
	// heaviest is what a page may become, by the largest value that was seen, when values of one
	// size are followed by larger ones: the member holds it in memory before anybody can refuse it.
	heaviest = 128 << 20
	// mostGaps are told one by one.
	mostGaps = 100
)

// pass is one way through a key space.
type pass struct {
	from, stop []byte // the next key; where to end, nil is the end of the key space
	ruler      ruler
	limit      int64 // keys of the next page …
	most       int64 // … and of any
	largest    int64 // bytes of the largest key-value that was seen
	done       bool  // all was compared, or has been said not to be

	revision int64     // all members can answer it
	pinned   time.Time // when that was found
	hold     bool      // the revision, until the end of the range
	high     int64     // the highest of any member at a look
	highAt   time.Time
	behind   []uint64 // members that have not what was the highest

	tries    int  // at the same page, whose differences were not confirmed
	oversize int  // … at a key-value that is too large
	strict   bool // a member that is behind is waited for

	Result

	cluster uint64
	ids     []uint64 // of the members at the beginning
	changed bool     // … are not those of the end
	away    map[uint64]judge.Reason
}

// Result of a pass.
type Result struct {
	Began time.Time
	// Revision at which the last page was compared; each page has its own.
	Revision int64
	// Members that were asked to the end. Nothing is said of others.
	Members []*member.Member
	// Away are those that could not be compared, and why.
	Away        []Away
	Keys, Pages int64
	Bytes       int64 // of all members' answers
	// Differing keys; each is reported.
	Differing int64
	// Gaps could not be compared, and why; the first hundred of them.
	Gaps     []Gap
	GapCount int64
	// Next is the key to go on from, when the pass is not at its end.
	Next []byte
	// Left is how many keys are known to be left; there may be more.
	Left int64
}

// Away is a member that could not be compared.
type Away struct {
	Member *member.Member // nil: on the member list, and nobody knows how to ask it
	ID     uint64
	Reason judge.Reason
}

// Gap is a part of the key space that could not be compared.
type Gap struct {
	From, To []byte // To nil: the end of the key space
	Reason   judge.Reason
}

func (s *Sweep) newPass(from, stop []byte) *pass {
	if len(from) == 0 {
		from = []byte{0} // the first key there can be
	}
	p := &pass{from: from, stop: stop, limit: firstKeys, most: mostKeys, away: map[uint64]judge.Reason{}}
	if s.Ask.Budget().Bytes >= unthrottled {
		p.most = mostKeysAtOnce
	}
	if s.most > 0 {
		p.limit, p.most = min(p.limit, s.most), s.most
	}
	p.Began = time.Now()
	p.ruler.begin(from)
	return p
}

// members of a snapshot that are asked in this pass.
func (p *pass) members(snap *member.Snapshot) []*member.Member {
	if p.ids == nil {
		p.cluster, p.ids = snap.Cluster, slices.Clone(snap.Listed)
	}
	p.changed = p.changed || snap.Cluster != p.cluster || !slices.Equal(p.ids, snap.Listed)
	var asked []*member.Member
	for _, m := range snap.Members {
		if p.away[m.ID] == "" {
			asked = append(asked, m)
		}
	}
	return asked
}

// end of the next page.
func (p *pass) end() []byte {
	return nearer(p.ruler.next(p.from, p.limit), p.stop)
}

// gap notes that what lies before a key cannot be compared.
func (p *pass) gap(to []byte, why judge.Reason) {
	p.GapCount++
	if len(p.Gaps) < mostGaps {
		p.Gaps = append(p.Gaps, Gap{From: shown(p.from), To: shown(to), Reason: why})
	}
}

// shown is as much of a key as is kept: a key can have 1.5 MiB.
func shown(key []byte) []byte {
	const most = 4 << 10
	return bytes.Clone(key[:min(len(key), most)]) // nil stays nil
}

// move on to the next key.
func (p *pass) move(next []byte) {
	p.tries, p.from = 0, next
	p.done = next == nil || p.stop != nil && !before(next, p.stop)
}

// fits says how many keys the next page is to have, after one of a size.
func (p *pass) fits(kvs []judge.KV, size int, budget float64) {
	if len(kvs) == 0 {
		return
	}
	p.oversize = 0
	for _, kv := range kvs {
		p.largest = max(p.largest, int64(len(kv.Key)+len(kv.Value)))
	}
	target := max(pageLeast, int64(min(pageBytes, budget/pageShare)))
	most := min(p.most, heaviest/max(1, p.largest), target*int64(len(kvs))/int64(max(1, size)))
	p.limit = max(1, min(most, 4*p.limit))
}

// pageLeast is what a page has under the smallest budget.
const pageLeast = 16 << 10

// open is an end as etcd wants it: "\x00" is none.
func open(end []byte) []byte {
	if end == nil {
		return []byte{0}
	}
	return end
}

// nearer of two ends.
func nearer(a, b []byte) []byte {
	if before(a, b) {
		return a
	}
	return b
}
