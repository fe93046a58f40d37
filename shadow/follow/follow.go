// Package follow learns more of a difference that is proved: since which revision the members answer differently, which other keys
// differ, and in which layer of etcd the damage seems to lie.
//
// It opens no finding and accuses nobody. What it learns is added to a finding that is open, and every key that it counts as
// differing was proved by PIN in two rounds, as any finding is. GUARANTEE G3.
package follow

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

const (
	// longest is the time that one finding gets.
	longest = 3 * time.Minute
	// beat is how often a follower that is paused looks whether it still is.
	beat = time.Second
	// attempts at one finding in a row, when members restart meanwhile.
	attempts = 3
)

// Budget of each member for following: small, because nobody waits for it, and the checks that find what is not known yet
// have their own.
func Budget() ask.Budget { return ask.Budget{Reads: 20, Bytes: 512 << 10} }

// Log takes what was learned about a key of which a finding is open.
type Log interface {
	Follow(cluster uint64, key []byte, f divergence.Followed)
}

// Follower follows findings, one at a time. Its fields are set before Run and Found, and not changed after.
type Follower struct {
	Members *member.Set
	Ask     *ask.Asker // its own; the Poison is shared with all who read
	Log     Log
	// Rules names the rules of the open findings of a cluster that are not about a key (REV, LIN, …). If nil, none is known of.
	Rules   func(cluster uint64) []string
	Metrics *Metrics
	Logger  *slog.Logger // nil: silent

	once  sync.Once
	queue *queue
	wide  dense
}

func (f *Follower) init() {
	f.once.Do(func() { f.queue = newQueue() })
}

// Found takes a key that was confirmed to differ at a revision. It never blocks, and may be called for every sighting: a key that was
// followed lately is not followed again. GUARANTEE G7: what waits is bounded, and what finds no room is counted.
func (f *Follower) Found(cluster uint64, key []byte, revision int64) {
	f.init()
	if len(key) > longestKey {
		f.Metrics.dropped(dropKeySize)
		return
	}
	if f.queue.add(lead{cluster: cluster, key: bytes.Clone(key), revision: revision}, time.Now()) {
		f.Metrics.dropped(dropQueue)
	}
}

// Run follows findings until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	f.init()
	select {
	case <-ctx.Done():
		return nil
	case <-f.Members.Known():
	}
	for {
		l, ok := f.next(ctx)
		if !ok {
			return nil
		}
		how := panicked
		f.Ask.Guard(func() { how = f.follow(ctx, l) })
		if ctx.Err() != nil {
			return nil // answers were cut short by our own stop
		}
		f.ended(l, how)
	}
}

// next waits for a finding to follow, and while everything is paused.
func (f *Follower) next(ctx context.Context) (lead, bool) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		if !f.Ask.Paused() {
			if l, ok := f.queue.pop(time.Now()); ok {
				return l, true
			}
		}
		select {
		case <-ctx.Done():
			return lead{}, false
		case <-f.queue.wake:
		case <-tick.C:
		}
	}
}

// outcome of following one finding. It is a label of a metric.
type outcome string

const (
	followed   outcome = "followed"
	partly     outcome = "partly"     // since, extent or layer could not be learned in full
	gone       outcome = "gone"       // the answers do not differ any more, or the cluster is another one
	void       outcome = "void"       // a member's epoch changed: what was learned is of a state that may be no more
	unanswered outcome = "unanswered" // the members that differ did not answer
	paused     outcome = "paused"
	panicked   outcome = "panic"
)

// ended says how it went, and when the finding is to be followed again.
func (f *Follower) ended(l lead, how outcome) {
	f.Metrics.ended(how)
	if f.Logger != nil {
		f.Logger.Debug("followed a finding", "outcome", string(how), "attempt", l.tries+1)
	}
	switch {
	case how == followed:
		f.queue.leave(l, time.Now())
		return
	case how == void && l.tries+1 < attempts:
		l.tries++
	case how != paused:
		f.queue.soon(l, time.Now()) // when it is seen again
		return
	}
	if f.queue.putBack(l) {
		f.Metrics.dropped(dropQueue)
	}
}

// follow one finding: since when, how far, where.
func (f *Follower) follow(ctx context.Context, l lead) outcome {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	t, why := f.open(ctx, l)
	if t == nil {
		return why
	}
	since, k := t.since(ctx)
	if how, stop := hindered(k); stop {
		return how
	}
	if since != nil { // what takes longer need not be waited for
		f.Log.Follow(l.cluster, l.key, divergence.Followed{Since: since})
	}
	learned := divergence.Followed{Since: since}
	learned.Extent, k = t.extent(ctx)
	if how, stop := hindered(k); stop {
		return how
	}
	learned.Layer = Layer(t.known(ctx, since))
	if t.held() != judge.OK { // what was compared last is of the same processes, too
		return void
	}
	f.Log.Follow(l.cluster, l.key, learned)
	for _, key := range t.moved { // after one skipped entry it is every key that is written: what is learned of one is learned of all
		f.queue.leave(lead{cluster: l.cluster, key: key}, time.Now())
	}
	if since == nil || k != judge.OK || learned.Layer == "" { // a finding of REV or LIN may come yet, and tell
		return partly
	}
	return followed
}

// hindered tells whether an answer ends the following, with nothing said: members that are paused or that came back are
// asked everything anew.
func hindered(k judge.Kind) (outcome, bool) {
	switch k {
	case judge.EpochChanged, judge.Foreign:
		return void, true
	case judge.Paused:
		return paused, true
	}
	return "", false
}
