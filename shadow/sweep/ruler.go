package sweep

import (
	"bytes"
	"slices"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

const (
	// learned is how many positions of the keys are learned of. Where keys differ
	// only behind them, they are measured as if every byte could stand there.
	learned = 256
	// deepest position at which a page ends: etcd takes requests of up to 2 MiB, and
	// keys of nearly 1.5 MiB.
	deepest = 64 << 10
	// mostKnown is how many stretches with a known number of keys are remembered.
	mostKnown = 8
	// widening is how much wider a page at most is than the one before.
	widening = 4
	// walkFactor is how many times the keys of a page its end may lie away, when it is known.
	walkFactor = 2
	// fine is how many steps a page is measured in at least.
	fine = 16
	// longest page in steps. It only keeps numbers from overflowing.
	longest = 1 << 30
)

// ruler chooses where the pages of a sweep end. A page must have an end, because
// etcd walks its index to it whatever the limit; and nobody knows how many keys lie
// before an end.
//
// A page tells where the next one should end: how far apart its first and its
// last key are is how many keys there are to a distance. Distances are counted in
// the bytes that were seen at each position: in keys that end in decimal numbers
// 1999 is followed by 2000. So pages do not end in a void, and the successor of a
// prefix is taken for an end only where all that begins with it is known to be little,
// or where nothing else is known (at the beginning, and behind what was known), which
// begins with narrow ones.
type ruler struct {
	digits []digit  // by position
	all    alphabet // at any position
	at     int      // the position at which the next page is measured …
	steps  int64    // … and its length in digits there
	lost   bool     // what was learned does not hold here: every byte is a digit
	voids  int      // pages without a key, in a row

	last  []byte  // key that was seen
	known []known // the widest first, each within the one before
}

// digit is what was seen at one position.
type digit struct {
	alphabet
	// whole: what stood before it changed, so that all that can stand here did. Before that, what stands elsewhere is
	// likely to follow.
	whole bool
}

// known is how many keys are left up to an end.
type known struct {
	end  []byte // nil: that of the key space
	left int64
}

// begin at a key; nothing is known.
func (r *ruler) begin(from []byte) {
	*r = ruler{at: min(len(from), deepest-1), steps: 1, lost: true}
	if bytes.Equal(from, []byte{0}) {
		r.at = 0
	}
}

// next says where the page from a key should end, when it is to have want keys;
// nil is the end of the key space.
func (r *ruler) next(from []byte, want int64) []byte {
	end := r.reach(from, r.steps)
	for wider := r.steps; end != nil && bytes.Compare(end, from) <= 0; {
		wider *= widening
		end = r.reach(from, wider)
	}
	r.known = slices.DeleteFunc(r.known, func(k known) bool { return !before(from, k.end) })
	if len(r.known) == 0 {
		return end
	}
	k := r.known[len(r.known)-1]
	for tries := 8; tries > 0 && before(k.end, end) && k.left > walkFactor*want; tries-- {
		r.scale(1, widening) // it cannot be so far
		end = r.reach(from, r.steps)
	}
	switch nearer := !before(k.end, end); {
	case nearer && k.left > walkFactor*want:
		return end
	case !nearer && k.left <= want/2 && r.voids == 0:
		return end // so little is left that the page goes on behind it
	}
	return k.end
}

// reach is from and a number of steps.
func (r *ruler) reach(from []byte, steps int64) []byte {
	base := r.base(from)
	i, carry := r.at, int(steps)
	if len(base) < i {
		i, carry = len(base), int(steps/r.steps)
	}
	var tail []byte // in reverse
	for ; i >= 0; i-- {
		rank := -1 // before the lowest
		if i < len(base) {
			rank = r.rank(base, i)
		}
		size := r.size(i)
		if rank+carry < size {
			end := append(bytes.Clone(base[:i]), r.nth(i, rank+carry))
			slices.Reverse(tail)
			return append(end, tail...)
		}
		tail = append(tail, r.nth(i, (rank+carry)%size))
		carry = max(1, (rank+carry)/size)
	}
	return beyond(base)
}

// base of the steps from a key: the last key that was seen, when from is right
// behind it; and where it is shorter than what is measured, the lowest that is likely
// to stand there.
func (r *ruler) base(from []byte) []byte {
	base := from
	if n := len(from) - 1; n >= 0 && n == len(r.last) && from[n] == 0 && bytes.HasPrefix(from, r.last) {
		base = r.last
	}
	if r.lost || len(base) > r.at {
		return base
	}
	base = bytes.Clone(base)
	for len(base) <= r.at && len(base) < len(r.digits) && r.digits[len(base)].size() > 0 {
		base = append(base, r.digits[len(base)].nth(0))
	}
	return base
}

// beyond is where to end when there is no greater key by what is known.
func beyond(base []byte) []byte {
	if len(base) == 0 || base[0] < 0xff {
		return []byte{0xff}
	}
	return nil
}

// learn from a page up to end of which count keys are in the range; want is how
// many the next one should have.
func (r *ruler) learn(page []judge.KV, end []byte, count, want int64) {
	n := int64(len(page))
	for i := range r.known {
		r.known[i].left = max(0, r.known[i].left-n)
	}
	if count > n {
		r.remember(end, count-n)
	}
	if n == 0 {
		r.void(end)
		return
	}
	first, last := page[0].Key, page[n-1].Key
	if r.lost { // of another kind from where they begin to differ
		same := common(first, r.last)
		r.digits = r.digits[:min(same+1, len(r.digits))]
	}
	for _, kv := range page {
		r.see(kv.Key, r.last)
		r.last = kv.Key
	}
	r.voids = 0
	aim := want + want/2 // so that most pages are full
	switch {
	case n > 1 && (r.lost || count > n):
		r.lost = false
		r.measure(first, last)
		r.scale(min(widening*n, aim), n)
	case count > n:
		r.scale(aim, count)
	default:
		r.scale(min(widening*n, aim), n)
	}
}

// void widens the next page. It is measured from where the page's end left what
// was seen.
func (r *ruler) void(end []byte) {
	r.voids++
	switch {
	case !r.lost:
		r.lost, r.at, r.steps = true, min(r.at, common(end, r.last)), 1
	case r.at == 0 || r.varies(r.at) && r.steps*widening < everyByte:
		r.steps = min(r.steps*widening, everyByte)
	default:
		r.up()
	}
}

// up takes in what begins alike in fewer positions: after many voids in many
// fewer, but never all at once where it is known to be more than what was seen.
func (r *ruler) up() {
	const patience = 4
	r.steps = 1
	for n := 1 + r.voids/patience; n > 0 && r.at > 0; n-- {
		if r.at--; r.varies(r.at) {
			return
		}
	}
}

// varies tells whether more than one byte was seen at a position.
func (r *ruler) varies(i int) bool { return i < len(r.digits) && r.digits[i].size() > 1 }

// remember how many keys are left up to an end.
func (r *ruler) remember(end []byte, left int64) {
	if n := len(r.known); n > 0 && !before(end, r.known[n-1].end) {
		r.known = r.known[:n-1] // it is the same end
	}
	if len(r.known) == mostKnown {
		r.known = slices.Delete(r.known, 1, 2) // not the widest, which tells how much is to be done
	}
	r.known = append(r.known, known{end, left})
}

// left is how many keys are known to be left.
func (r *ruler) left() int64 {
	if len(r.known) == 0 {
		return 0
	}
	return r.known[0].left
}

// see what stands in a key, and what stood in the one before it to the end.
func (r *ruler) see(key, before []byte) {
	for i := common(key, before) + 1; i < min(len(before), len(r.digits)); i++ {
		r.digits[i].whole = true
	}
	key = key[:min(len(key), learned)]
	if n := len(key) - len(r.digits); n > 0 {
		r.digits = append(r.digits, make([]digit, n)...)
	}
	for i, b := range key {
		r.digits[i].add(b)
		r.all.add(b)
	}
}

// measure the distance of two keys in as many positions as it takes to be exact:
// from 0999 to 1001 is not a thousand.
func (r *ruler) measure(first, last []byte) {
	r.at, r.steps = min(common(first, last), deepest-1), 0
	for ; ; r.at++ {
		from := -1
		if r.at < len(first) {
			from = r.rank(first, r.at)
		}
		r.steps = r.steps*int64(r.size(r.at)) + int64(r.rank(last, r.at)-from)
		if r.steps >= fine || r.at+1 >= min(len(last), deepest) {
			break
		}
	}
	r.steps = max(1, r.steps)
}

// scale the next page's length by a ratio.
func (r *ruler) scale(num, den int64) {
	for r.steps*num/den < fine/widening && r.at+1 < min(len(r.last), deepest) {
		r.at++
		r.steps *= int64(r.size(r.at))
	}
	r.steps = max(1, min(r.steps*num/den, longest))
}

// standing is what can stand at a position; nil is every byte.
func (r *ruler) standing(i int) *alphabet {
	switch {
	case r.lost || i >= len(r.digits) || r.digits[i].size() == 0:
		return nil
	case r.digits[i].whole:
		return &r.digits[i].alphabet
	}
	return &r.all
}

func (r *ruler) size(i int) int {
	if a := r.standing(i); a != nil {
		return a.size()
	}
	return everyByte
}

func (r *ruler) rank(key []byte, i int) int {
	if a := r.standing(i); a != nil {
		return a.rank(key[i])
	}
	return int(key[i])
}

func (r *ruler) nth(i, rank int) byte {
	if a := r.standing(i); a != nil {
		return a.nth(rank)
	}
	return byte(rank)
}

// common is how many bytes two keys begin with alike.
func common(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// successor is the first key that is above all that begin with a prefix; nil when
// there is none.
func successor(prefix []byte) []byte {
	for n := len(prefix); n > 0; n-- {
		if prefix[n-1] < 0xff {
			end := bytes.Clone(prefix[:n])
			end[n-1]++
			return end
		}
	}
	return nil
}

// before tells whether a key lies before an end, or an end before another; nil is
// the end of the key space.
func before(a, end []byte) bool {
	return a != nil && (end == nil || bytes.Compare(a, end) < 0)
}
