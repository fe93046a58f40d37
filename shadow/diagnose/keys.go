package diagnose

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

const (
	sampleKeys   = 100             // are compared
	sampleProbes = 100             // look for them
	sampleTime   = 5 * time.Second // at most
	samplePage   = 10              // keys of one range
	// sampleWalk bounds what the search makes a member walk of its index, in keys. A range costs its whole length,
	// whatever the limit.
	sampleWalk = 200_000
	// keysShown bounds the findings that are told one by one.
	keysShown = 20
)

// sampler looks for keys, and compares them.
type sampler struct {
	*run
	asker   *ask.Asker
	members []*member.Member
	known   [][]byte
	seen    map[string]bool // compared
	walked  int64
}

// keys counts all keys of every member at one revision, and compares a sample (PIN).
func (r *run) keys(ctx context.Context) {
	r.facts.Keys.Unclear = map[string]int{}
	s := &sampler{run: r, members: r.able(), seen: map[string]bool{}, asker: &ask.Asker{
		Budget: func() ask.Budget { return ask.Budget{Reads: 200, Bytes: 16 << 20} }, // an operator waits
		Guard:  func(do func()) { do() }, Paused: func() bool { return false },
		Poison: &ask.Poison{Changed: func(int) {}},
		Asked:  func(uint64, judge.Kind) {}, Answered: func(uint64, int) {},
	}}
	revision := s.revision(ctx)
	if revision < 2 { // nothing was ever written, or fewer than two members can be heard
		for _, m := range s.members {
			if known := r.facts.member(ID(m.ID)); known.Revision == 1 {
				known.Keys = new(int64)
			}
		}
		return
	}
	s.count(ctx, revision)
	s.sample(ctx)
}

// revision is the lowest that the members are at; 0 where fewer than two tell.
func (s *sampler) revision(ctx context.Context) int64 {
	lowest, heard := int64(0), 0
	for _, m := range s.members {
		if now, ok := s.status(ctx, m); ok {
			heard++
			if lowest == 0 || now.Revision < lowest {
				lowest = now.Revision
			}
		}
	}
	if heard < 2 {
		return 0
	}
	return lowest
}

// count walks each member's whole index once, one member after the other, the leader last. One that takes longer than
// a read may spares the others.
func (s *sampler) count(ctx context.Context, revision int64) {
	q := judge.Question{Key: []byte{0}, End: []byte{0}, Revision: revision} // to the last key
	s.facts.Keys.Revision = revision
	members := slices.Clone(s.members)
	slices.SortStableFunc(members, func(a, b *member.Member) int { return leads(s.last[a.ID].Leader, a) - leads(s.last[b.ID].Leader, b) })
	first := map[uint64]ask.Page{}
	for _, m := range members {
		page := s.asker.Pages(ctx, []*member.Member{m}, q, 2, true)[0]
		if s.wasLost(q, page.Answer) || ctx.Err() != nil {
			return
		}
		if page.Kind != judge.OK {
			s.facts.Keys.Uncounted = fmt.Sprintf("%s: %s (a count walks the whole index; members after it were not asked)", s.facts.names([]ID{ID(m.ID)}), page.Kind.Reason())
			return
		}
		n := page.Count
		s.facts.member(ID(m.ID)).Keys = &n
		first[m.ID] = page
		for _, kv := range page.KVs {
			s.known = append(s.known, kv.Key)
		}
	}
	s.compareCounts(ctx, q, members, first)
}

func leads(leader uint64, m *member.Member) int {
	if leader == m.ID {
		return 1
	}
	return 0
}

// compareCounts asks once more where they differ: each side has to hold to its count, in its epoch.
func (s *sampler) compareCounts(ctx context.Context, q judge.Question, members []*member.Member, first map[uint64]ask.Page) {
	if !slices.ContainsFunc(members, func(m *member.Member) bool { return first[m.ID].Count != first[members[0].ID].Count }) {
		return
	}
	x := Found{Rule: "PIN", Subject: fmt.Sprintf("the number of all keys at revision %d", q.Revision)}
	for _, m := range members {
		page := s.asker.Pages(ctx, []*member.Member{m}, q, 2, true)[0]
		if was := first[m.ID]; page.Kind != judge.OK || page.Epoch != was.Epoch || page.Count != was.Count {
			continue
		}
		shows := strconv.FormatInt(page.Count, 10)
		i := slices.IndexFunc(x.Groups, func(g Group) bool { return g.Shows == shows })
		if i < 0 {
			i = len(x.Groups)
			x.Groups = append(x.Groups, Group{Shows: shows})
		}
		x.Groups[i].Members = append(x.Groups[i].Members, ID(m.ID))
	}
	if len(x.Groups) > 1 {
		s.facts.Found = append(s.facts.Found, x)
	}
}

// sample compares keys from all over the key space. It looks beside keys that it knows: in a range that shares a part of
// one, of random length, and goes on differently. The longer the part, the smaller the range; most of them are.
func (s *sampler) sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sampleTime)
	defer cancel()
	switch most := s.most(); {
	case len(s.known) == 0:
		s.guess(ctx)
	case most <= sampleKeys: // no sample, all of them
		s.compare(ctx, []byte{0}, bytes.Repeat([]byte{0xff}, 64))
		if s.facts.Keys.Compared > 0 {
			return
		}
	default: // the beginning, too
		s.compare(ctx, slices.MinFunc(s.known, bytes.Compare), slices.MaxFunc(s.known, bytes.Compare))
	}
	for range sampleProbes {
		if len(s.known) == 0 || s.facts.Keys.Compared >= sampleKeys || s.walked > sampleWalk || ctx.Err() != nil || s.facts.Keys.LostOver != "" {
			return
		}
		if q, ok := beside(s.known[rand.IntN(len(s.known))], common(s.known)); ok {
			s.page(ctx, q)
		}
	}
}

// most keys that a member has; beyond any sample where some were not counted.
func (s *sampler) most() int64 {
	var most int64
	for _, m := range s.members {
		n := s.facts.member(ID(m.ID)).Keys
		if n == nil {
			return sampleKeys + 1
		}
		most = max(most, *n)
	}
	return most
}

// guess where keys are, where no count has shown any: in Kubernetes' smaller ranges.
func (s *sampler) guess(ctx context.Context) {
	for _, prefix := range []string{"/registry/namespaces/", "/registry/clusterroles/", "/registry/configmaps/kube-system/"} {
		if s.facts.Keys.LostOver == "" && ctx.Err() == nil {
			s.page(ctx, judge.Question{Key: []byte(prefix), End: []byte(prefix[:len(prefix)-1] + "0")})
		}
	}
}

// page asks any one member for keys of a range, and compares all members on what it has.
func (s *sampler) page(ctx context.Context, q judge.Question) {
	if q.Revision = s.revision(ctx); q.Revision < 2 {
		return
	}
	finder := s.members[rand.IntN(len(s.members))]
	page := s.asker.Pages(ctx, []*member.Member{finder}, q, samplePage, true)[0]
	s.walked += page.Count
	if s.wasLost(q, page.Answer) || len(page.KVs) == 0 {
		return
	}
	for _, kv := range page.KVs {
		s.known = append(s.known, kv.Key)
	}
	s.compare(ctx, page.KVs[0].Key, page.KVs[len(page.KVs)-1].Key)
}

// common is how long the beginning is that all keys share.
func common(keys [][]byte) int {
	n := len(keys[0])
	for _, k := range keys {
		for n > 0 && !bytes.HasPrefix(k, keys[0][:n]) {
			n--
		}
	}
	return n
}

// beside picks a closed range near a key: what follows it and shares a long part of it, or some of the ranges that stand
// before or behind a shorter part of it, mostly behind what all known keys have in common.
func beside(key []byte, common int) (judge.Question, bool) {
	if len(key) == 0 {
		return judge.Question{}, false
	}
	const far = 12
	deep := len(key) * 2 / 3
	i := rand.IntN(len(key))
	switch rand.IntN(3) {
	case 0:
		i = deep + rand.IntN(len(key)-deep)
	case 1:
		if common < len(key) {
			i = common + rand.IntN(len(key)-common)
		}
	}
	with := func(c int) []byte { return append(bytes.Clone(key[:i]), byte(min(max(c, 0), 0xff))) }
	c, n := int(key[i]), 1+rand.IntN(far)
	q := judge.Question{Key: with(c + 1), End: with(c + 1 + n)}
	switch {
	case i >= deep:
		q.Key = append(bytes.Clone(key), 0)
	case rand.IntN(2) == 0:
		q = judge.Question{Key: with(c - n), End: with(c)}
	}
	return q, bytes.Compare(q.Key, q.End) < 0
}

// compare is PIN with all keys from first to last.
func (s *sampler) compare(ctx context.Context, first, last []byte) {
	q := judge.Question{Key: first, End: append(bytes.Clone(last), 0), Revision: s.revision(ctx)}
	if q.Revision < 2 {
		return // fewer than two members tell theirs by now
	}
	answers := s.asker.All(ctx, s.members, q, true)
	var again []judge.Answer
	if judge.Suspects(answers) {
		again = s.asker.All(ctx, s.members, q, true)
	}
	for _, a := range slices.Concat(answers, again) {
		if s.wasLost(q, a) {
			return
		}
	}
	if ctx.Err() != nil {
		return
	}
	v := judge.PIN(q, answers, again)
	s.facts.Keys.Ranges++
	switch v.Outcome {
	case judge.Inconclusive:
		s.facts.Keys.Unclear[string(v.Reason)]++
		return
	case judge.Divergent:
		for _, d := range v.Diffs {
			s.tell(d)
		}
	}
	for _, a := range answers {
		for _, kv := range a.KVs {
			s.seen[string(kv.Key)] = true
		}
	}
	s.facts.Keys.Compared = len(s.seen)
}

// tell of a key that differs. GUARANTEE G8: sizes, and no values.
func (s *sampler) tell(d judge.Diff) {
	if len(s.facts.Found) >= keysShown {
		return
	}
	x := Found{Rule: "PIN", Subject: fmt.Sprintf("%q (%s)", d.Key, d.Fields)}
	if slices.ContainsFunc(s.facts.Found, func(o Found) bool { return o.Subject == x.Subject }) {
		return
	}
	for _, g := range d.Groups {
		shows := "absent"
		if g.KV != nil {
			shows = fmt.Sprintf("mod_revision %d, version %d, %d bytes", g.KV.ModRevision, g.KV.Version, len(g.KV.Value))
		}
		x.Groups = append(x.Groups, Group{Members: ids(g.Members), Shows: shows})
	}
	s.facts.Found = append(s.facts.Found, x)
}

// wasLost notes that a member went away while it read a range. Nobody is asked for keys any more then.
func (s *sampler) wasLost(q judge.Question, a judge.Answer) bool {
	if a.Kind != judge.Unreachable || !s.asker.Poison.Covers(q) {
		return false
	}
	s.facts.Keys.LostOver = fmt.Sprintf("%q to %q", q.Key, q.End)
	if id := ID(a.Member); !slices.Contains(s.facts.Keys.LostWhom, id) {
		s.facts.Keys.LostWhom = append(s.facts.Keys.LostWhom, id)
	}
	return true
}
