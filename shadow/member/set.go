package member

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
)

// Set follows the members of one cluster from its configured endpoints.
type Set struct {
	Endpoints   []string      // as configured
	Discover    bool          // ask for the member list, and all who are on it
	DialTimeout time.Duration // of one connection; 0 is 2 s
	// TLS returns the config for a handshake with a host now; it is asked anew at
	// each, so that reloaded certificates are used. nil: https endpoints cannot
	// be reached.
	TLS      func(host string, protos ...string) *tls.Config
	Login    *Login        // where the cluster has authentication on; nil: none
	Interval time.Duration // between two probes of a member; 0 is 1 s
	Logger   *slog.Logger  // nil: silent
	Metrics  *Metrics      // nil: none

	mu    sync.Mutex // guards links and what was said
	links map[string]*link
	said  map[string]complaint // url → the last about it

	epochs atomic.Uint64 // given out so far
	denied sync.Once     // said that a read was refused
	second time.Duration // what the times of this package are counted in; 0 is 1 s, tests hasten

	snap  atomic.Pointer[Snapshot]
	once  sync.Once
	known chan struct{} // closed with the first snapshot
}

// Known is closed when the members are known for the first time.
func (s *Set) Known() <-chan struct{} {
	s.once.Do(func() { s.known = make(chan struct{}) })
	return s.known
}

// Snapshot of the cluster. It is immutable.
type Snapshot struct {
	Cluster uint64
	Members []*Member // ascending by id; only those that can be asked
	Listed  []uint64  // ids of all on the member list, asked or not
	Voters  []uint64  // of them, the voters; none where nobody can tell (etcd before 3.5)

	list       []*pb.Member       // the member list as it was read last
	byEndpoint map[string]*Member // URL → the member behind it
}

// Snapshot of now. Never nil; without members before the first probe.
func (s *Set) Snapshot() *Snapshot {
	if p := s.snap.Load(); p != nil {
		return p
	}
	return &Snapshot{}
}

// Epoch of the member behind a configured endpoint, to be read before a request
// is relayed to it: what is served then is a claim of this epoch. 0 where no
// member can be told (a load balancer, a member that was not reached yet).
func (s *Set) Epoch(endpoint string) uint64 {
	if m := s.Snapshot().Behind(endpoint); m != nil {
		return m.Epoch()
	}
	return 0
}

// Behind returns the member behind a configured endpoint, or nil.
func (p *Snapshot) Behind(endpoint string) *Member { return p.byEndpoint[endpoint] }

// Member by id, or nil.
func (p *Snapshot) Member(id uint64) *Member {
	i, ok := slices.BinarySearchFunc(p.Members, id, func(m *Member, id uint64) int {
		switch {
		case m.ID < id:
			return -1
		case m.ID > id:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return p.Members[i]
}

// FormatID writes a cluster or member id as etcd does, in hex.
func FormatID(id uint64) string { return strconv.FormatUint(id, 16) }

// Run probes and discovers until ctx ends. It is independent of the shadow's
// queues and budgets (GUARANTEE G2): the proxy orders its endpoints by it.
func (s *Set) Run(ctx context.Context) error {
	interval := s.Interval
	if interval == 0 {
		interval = time.Second
	}
	defer s.closeAll()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		s.guard(func() { s.round(ctx, interval) })
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// guard keeps a panic here from ending the clients' connections. GUARANTEE G2.
func (s *Set) guard(f func()) {
	defer func() {
		if recover() != nil && s.Logger != nil {
			s.Logger.Error("a probe panicked; clients are not concerned, please report this", "stack", string(debug.Stack()))
		}
	}()
	f()
}

// round probes every URL at once, so that a hung member delays the round by one
// probe, and then looks at who is there.
func (s *Set) round(ctx context.Context, interval time.Duration) {
	for _, e := range s.Endpoints {
		s.open(e)
	}
	links := s.all()
	var g errgroup.Group
	for _, l := range links {
		g.Go(func() error {
			s.guard(func() { s.probe(ctx, l, max(interval, s.aSecond())) })
			return nil
		})
	}
	_ = g.Wait()
	if ctx.Err() == nil {
		s.look(ctx, links)
		s.Metrics.healths(s)
	}
}

func (s *Set) aSecond() time.Duration { return cmp.Or(s.second, time.Second) }

func (s *Set) all() []*link {
	s.mu.Lock()
	defer s.mu.Unlock()
	links := make([]*link, 0, len(s.links))
	for _, l := range s.links {
		links = append(links, l)
	}
	return links
}

func (s *Set) open(url string) *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.links[url]; l != nil {
		return l
	}
	timeout := s.DialTimeout
	if timeout == 0 {
		timeout = 2 * time.Second
	}
	l, err := s.newLink(url, timeout, s.newSession())
	if err != nil {
		s.say(url, err.Error())
		return nil
	}
	if s.links == nil {
		s.links = map[string]*link{}
	}
	s.links[url] = l
	return l
}

// keep closes the links that no member and no endpoint needs any more.
func (s *Set) keep(urls map[string]bool) {
	s.closeLinks(func(url string) bool { return urls[url] || slices.Contains(s.Endpoints, url) })
}

func (s *Set) closeAll() { s.closeLinks(func(string) bool { return false }) }

// closeLinks closes those that are not needed, outside the lock: Health, which
// new client connections ask, must not wait for gRPC.
func (s *Set) closeLinks(needed func(url string) bool) {
	var over []*link
	s.mu.Lock()
	for url, l := range s.links {
		if !needed(url) {
			over = append(over, l)
			delete(s.links, url)
			delete(s.said, url)
		}
	}
	s.mu.Unlock()
	for _, l := range over {
		l.close()
		l.user.close()
	}
}

// complaint about a URL, and when it was logged.
type complaint struct {
	what string
	at   time.Time
}

// complain says something about a URL once, until it changes.
func (s *Set) complain(url, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.say(url, what)
}

// unreachable begins what is said of a member that does not answer.
const unreachable = "unreachable: "

func (s *Set) say(url, what string) {
	if s.said == nil {
		s.said = map[string]complaint{}
	}
	old := s.said[url]
	if old.what == what {
		return
	}
	// One trouble has several errors (a refused certificate shows as an alert, or
	// as a broken pipe), which alternate.
	if strings.HasPrefix(old.what, unreachable) && strings.HasPrefix(what, unreachable) && time.Since(old.at) < time.Minute {
		return
	}
	s.said[url] = complaint{what, time.Now()}
	if s.Logger == nil {
		return
	}
	if what == "" {
		s.Logger.Info("member answers", "url", url)
	} else {
		s.Logger.Warn("member cannot be compared", "url", url, "reason", what)
	}
}
