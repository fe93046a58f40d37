// Package shadow asks every member what it holds for the keys that clients
// touch, at one and the same revision, and tells which members differ.
//
// The way of an observation is straight: Observe (which never blocks) →
// questions (what to ask, and at which revision; pure) → ask all members →
// judge (pure) → ask once more before anything is said → divergence log.
package shadow

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/judge/drift"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// Call is a finished call as the tap saw it.
type Call struct {
	Method    string
	Endpoint  string
	Epoch     uint64 // of the member's connection to us, read before the request was relayed; 0 voids all claims
	Request   []byte
	Responses [][]byte
	Truncated bool
	Code      int
}

// Shadow of the clients' traffic. Its fields are set before Run and not changed
// after; SetRates and Pause may be called at any time.
type Shadow struct {
	Members *member.Set
	Log     *divergence.Log
	Metrics *Metrics
	Logger  *slog.Logger // nil: silent
	Poison  *ask.Poison  // ranges that are not read; nil: its own

	// Both may be nil, and must not block. Found is told of each sighting of a key on which members differ; Doubt of what PIN cannot judge: a
	// member that stays behind (it may be stuck, REV), and a write that was refused (etcd #18667).
	Found func(cluster uint64, key []byte, revision int64)
	Doubt func(refused bool)

	LagBudget    time.Duration // that a member gets to apply a revision; 0 is 2 s
	QueueSize    int           // calls, and checks, that wait; 0 is 4,096
	VerifiedKeys int           // remembered; 0 is 65,536
	VerifiedFor  time.Duration // 0 is 60 s
	Recheck      time.Duration // of open findings; 0 is 10 s

	once     sync.Once
	sampler  sampler
	calls    chan Call
	held     atomic.Int64 // bytes in calls
	queue    *queue
	verified *verified
	old      *verified // of reads at a revision that the client chose
	refused  *verified // keys of refused writes that are being looked at
	decoded  *rate.Limiter
	ask      *ask.Asker
}

const (
	// workers do checks. More than a few only wait for their turn: one shadow
	// request is in flight per member.
	workers = 4
	// callBytes bounds what calls hold before they are decoded. GUARANTEE G7.
	callBytes = 32 << 20
	// requestBytes and answerBytes are copied of one call at most.
	requestBytes = 1 << 20
	answerBytes  = 512 << 10
	// watchBytes are copied of a watcher's request, and of one message to it.
	watchBytes = 64 << 10
	// decodeBytes are looked at in a second: what was verified a moment ago costs
	// no read, but it has to be decoded to be known.
	decodeBytes = 16 << 20
	// oldKeys are remembered of reads at a revision that the client chose.
	oldKeys = 4096
	// rechecks is how many open findings are looked at again in one round.
	rechecks = 10
)

// refusedLooks are the times after a refused write at which its keys are looked
// at (etcd #18667: the difference shows with the next writes).
var refusedLooks = []time.Duration{100 * time.Millisecond, 400 * time.Millisecond, time.Second, 5 * time.Second}

// Init makes the zero Shadow ready to observe, with the rates to begin with.
func (s *Shadow) Init(r Rates) {
	s.SetRates(r)
	s.once.Do(func() {
		size := orDefault(s.QueueSize, 4096)
		s.calls = make(chan Call, size)
		if s.Found == nil {
			s.Found = func(uint64, []byte, int64) {}
		}
		if s.Doubt == nil {
			s.Doubt = func(bool) {}
		}
		s.queue = newQueue(size, func() int { return int(s.sampler.rates.Load().ReadsPerSecond) })
		s.sampler.waiting = s.queue.len
		s.verified = newVerified(orDefault(s.VerifiedKeys, 65536), orDefault(s.VerifiedFor, time.Minute))
		s.old = newVerified(oldKeys, orDefault(s.VerifiedFor, time.Minute))
		s.decoded = rate.NewLimiter(decodeBytes, decodeBytes)
		s.refused = newVerified(orDefault(s.QueueSize, 4096), time.Second)
		if s.Poison == nil {
			s.Poison = &ask.Poison{Logger: s.Logger, Changed: s.Metrics.poisoned}
		}
		s.ask = s.Asker(s.budget, s.Metrics.asked, s.Metrics.answered)
	})
}

// Asker is for another reader beside the shadow, after Init: with a budget and
// counts of its own, and the same pause and poisoned ranges.
func (s *Shadow) Asker(budget func() ask.Budget, asked func(uint64, judge.Kind), answered func(uint64, int)) *ask.Asker {
	return &ask.Asker{Budget: budget, Guard: s.Guard, Paused: s.Paused, Poison: s.Poison, Asked: asked, Answered: answered}
}

// Yield returns when no check confirms what it suspects.
func (s *Shadow) Yield(ctx context.Context) { s.ask.Wait(ctx) }

func (s *Shadow) budget() ask.Budget {
	r := s.sampler.rates.Load()
	return ask.Budget{Reads: r.ReadsPerSecond, Bytes: r.BytesPerSecond}
}

func orDefault[T int | time.Duration](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}

func (s *Shadow) lagBudget() time.Duration { return orDefault(s.LagBudget, 2*time.Second) }

// SetRates changes rates and budgets from the next call on.
func (s *Shadow) SetRates(r Rates) { s.sampler.rates.Store(&r) }

// Pause stops all shadow reads, from the next one on, or lets them go on. What
// waits is dropped. To go on is an operator's word, and so ranges are read again
// over which a member was lost.
func (s *Shadow) Pause(paused bool) {
	if was := s.sampler.paused.Swap(paused); was && !paused {
		s.Poison.Forgive()
	}
	s.Metrics.pause(paused)
}

// Paused tells whether Pause is in force.
func (s *Shadow) Paused() bool { return s.sampler.paused.Load() }

// Request tells how many bytes of a request to copy at most; 0 where nobody
// wants the call.
func (s *Shadow) Request(method string) int {
	if s.Watch(method) {
		if r := s.sampler.rates.Load(); r.ReadsPerSecond <= 0 || r.BytesPerSecond <= 0 {
			return 0
		}
		return watchBytes
	}
	k, known := methodKind(method)
	if !known {
		return 0
	}
	if why, decided := s.sampler.early(k, time.Now()); decided {
		s.Metrics.sampled(k, why)
		if why != taken {
			return 0
		}
	}
	return requestBytes
}

// Answer decides, when the request is known, how many bytes of the answer to
// copy; 0 where the call is not sampled.
func (s *Shadow) Answer(method string, request []byte) int {
	if s.Watch(method) {
		return watchBytes
	}
	k, known := methodKind(method)
	if !known {
		return 0
	}
	if why, decided := s.sampler.late(method, k, request, time.Now()); decided {
		s.Metrics.sampled(k, why)
		if why != taken {
			return 0
		}
	}
	return answerBytes
}

// Watch tells whether the answers of a method are events, which are followed one by one.
func (s *Shadow) Watch(method string) bool { return method == methodWatch }

// Event tells whether a message to a watcher is to be copied.
func (s *Shadow) Event() bool {
	why := s.sampler.event(time.Now())
	s.Metrics.sampled(watch, why)
	return why == taken
}

// Observe takes a finished call. GUARANTEE G2: it never blocks; when there is
// no room, the call is dropped and counted.
func (s *Shadow) Observe(c Call) {
	size := int64(c.size())
	if s.held.Add(size) > callBytes {
		s.held.Add(-size)
		s.Metrics.dropped(dropMemory, 1)
		return
	}
	select {
	case s.calls <- c:
	default:
		s.held.Add(-size)
		s.Metrics.dropped(dropQueue, 1)
	}
}

func (c Call) size() int {
	n := len(c.Request)
	for _, r := range c.Responses {
		n += len(r)
	}
	return n
}

// Run until ctx ends.
func (s *Shadow) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.intake(ctx); return nil })
	g.Go(func() error { s.recheckOpen(ctx); return nil })
	for range workers {
		g.Go(func() error { s.work(ctx); return nil })
	}
	return g.Wait()
}

// Guard keeps a panic of the shadow inside the shadow. GUARANTEE G2.
func (s *Shadow) Guard(f func()) {
	defer func() {
		if recover() != nil {
			s.Metrics.dropped(dropPanic, 1)
			if s.Logger != nil { // without the panic's value, which may hold a client's (G8)
				s.Logger.Error("the shadow panicked over a check; clients are not concerned, please report this", "stack", string(debug.Stack()))
			}
		}
	}()
	f()
}

// work does checks, one at a time. What was sampled before the members are
// known waits.
func (s *Shadow) work(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-s.Members.Known():
	}
	for {
		c := s.queue.pop(ctx)
		if c == nil {
			return
		}
		if r := s.sampler.rates.Load(); s.Paused() || r.ReadsPerSecond <= 0 || r.BytesPerSecond <= 0 {
			c.known.remove(c.seen)
			s.Metrics.dropped(dropPaused, 1)
			continue
		}
		s.Guard(func() {
			v, done := s.run(ctx, c)
			switch {
			case ctx.Err() != nil: // answers were cut short by our own stop
			case done:
				s.conclude(ctx, c, v)
			default:
				s.enqueue(c)
			}
		})
	}
}

// recheckOpen looks at open findings again, so that a finding is healed when it
// is, even where no client touches its key.
func (s *Shadow) recheckOpen(ctx context.Context) {
	tick := time.NewTicker(orDefault(s.Recheck, 10*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.Guard(s.recheckSome)
	}
}

func (s *Shadow) recheckSome() {
	if snap := s.Members.Snapshot(); snap.Cluster != 0 {
		s.Log.Members(snap.Cluster, snap.Listed)
	}
	// Where revisions drift, a key that was equal may have been written at other revisions since, and look as it did.
	if slices.ContainsFunc(s.Log.OpenCluster(), func(f divergence.OpenCluster) bool {
		return f.Rule == string(drift.RuleREV) || f.Rule == string(drift.RuleLIN)
	}) {
		s.verified.clear()
	}
	for _, f := range s.Log.Open(rechecks) {
		s.look(&check{target: target{Question: judge.Question{Key: f.Key}, kind: recheck}, known: s.verified, since: time.Now()})
	}
}
