package member_test

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// follow runs a Set until the test ends.
func follow(t *testing.T, s *member.Set) *logBook {
	book := &logBook{}
	s.Logger = slog.New(slog.NewTextHandler(book, nil))
	s.Interval = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return book
}

type logBook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBook) count(s string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), s)
}

func (b *logBook) all() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestEveryMemberIsFoundFromOneEndpoint(t *testing.T) {
	c := membertest.Start(t, 3, 7)
	s := &member.Set{Endpoints: c.URLs()[1:2], Discover: true}
	follow(t, s)
	until(t, "three members", func() bool { return len(s.Snapshot().Members) == 3 })
	p := s.Snapshot()
	if p.Cluster != 100 || len(p.Voters) != 3 {
		t.Fatalf("cluster %d with voters %v", p.Cluster, p.Voters)
	}
	for i, m := range p.Members {
		if m.ID != uint64(i+1) || m.URL != c.Members[i].URL {
			t.Errorf("member %d is %d at %s", i, m.ID, m.URL)
		}
		if r := m.Range(t.Context(), []byte("a"), nil, 7, 0); r.Err != nil || r.Changed || r.Foreign || r.Epoch == 0 {
			t.Errorf("member %d: %+v", i, r)
		}
	}
}

func TestWithoutDiscoveryOnlyTheConfiguredAreAsked(t *testing.T) {
	c := membertest.Start(t, 3, 7)
	s := &member.Set{Endpoints: c.URLs()[:2]}
	follow(t, s)
	until(t, "two members", func() bool { return len(s.Snapshot().Members) == 2 })
	if p := s.Snapshot(); len(p.Voters) != 3 {
		t.Errorf("%d voters: a minority could be named without a quorum", len(p.Voters))
	}
}

func TestAnEpochEndsWithItsConnection(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	s := &member.Set{Endpoints: c.URLs()}
	follow(t, s)
	until(t, "both members", func() bool { return len(s.Snapshot().Members) == 2 })
	before := s.Epoch(c.Members[0].URL)
	if before == 0 {
		t.Fatal("no epoch of a member that answers")
	}
	for range 5 {
		if r := s.Snapshot().Members[0].Range(t.Context(), []byte("a"), nil, 7, 0); r.Epoch != before {
			t.Fatalf("epoch %d became %d on one connection", before, r.Epoch)
		}
	}
	c.Members[0].Restart(t)
	until(t, "another epoch", func() bool { return s.Epoch(c.Members[0].URL) > before })
}

func TestALostConnectionIsToldFromADeadMember(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	s := &member.Set{Endpoints: c.URLs()}
	follow(t, s)
	until(t, "both members", func() bool { return len(s.Snapshot().Members) == 2 })
	m := c.Members[0]
	m.Change(func(m *membertest.Member) { m.Range = dying(m) })
	if r := s.Snapshot().Members[0].Range(t.Context(), []byte("a"), nil, 7, 0); r.Err == nil || !r.Lost {
		t.Fatalf("a member that died over a read: %+v", r)
	}
	until(t, "a read that fails at once", func() bool {
		r := s.Snapshot().Members[0].Range(t.Context(), []byte("a"), nil, 7, 0)
		return r.Err != nil && !r.Lost
	})
}

func TestALoadBalancerIsRefused(t *testing.T) {
	c := membertest.Start(t, 3, 7)
	lb := balance(t, c)
	s := &member.Set{Endpoints: []string{lb}, Discover: true}
	book := follow(t, s)
	until(t, "three members behind it", func() bool {
		n := 0
		for _, m := range s.Snapshot().Members {
			if m.URL != lb {
				n++
			}
		}
		return n == 3
	})
	until(t, "a clear message", func() bool { return book.count("load balancer") == 1 })
	if e := s.Epoch(lb); e != 0 {
		t.Errorf("epoch %d of a load balancer: what is served through it would be a claim", e)
	}
	if h := s.Health(lb); h != member.Serving {
		t.Errorf("health %d: clients may well use it", h)
	}
}

func TestWhatIsNoMemberOfTheClusterIsNotAsked(t *testing.T) {
	c := membertest.Start(t, 3, 7)
	kine := membertest.Start(t, 1, 7).Members[0]
	kine.Change(func(m *membertest.Member) { m.ID, m.ClusterID = 0, 0 })
	foreign := membertest.Start(t, 1, 7).Members[0]
	foreign.Change(func(m *membertest.Member) { m.ID, m.ClusterID = 9, 200 })
	s := &member.Set{Endpoints: append(c.URLs(), kine.URL, foreign.URL)}
	book := follow(t, s)
	until(t, "three members", func() bool { return len(s.Snapshot().Members) == 3 })
	until(t, "a word about each", func() bool { return book.count("kine?") == 1 && book.count("belongs to cluster c8") == 1 })
	for _, m := range s.Snapshot().Members {
		if m.URL == kine.URL || m.URL == foreign.URL {
			t.Errorf("%s is asked", m.URL)
		}
	}
}

func TestHealthOrdersNewConnections(t *testing.T) {
	c := membertest.Start(t, 4, 7)
	c.Members[1].Change(func(m *membertest.Member) { m.Learner = true })
	c.Members[2].Change(func(m *membertest.Member) { m.Leader = 0 })
	c.Members[3].Change(func(m *membertest.Member) {
		m.StatusErr = status.Error(codes.PermissionDenied, "etcdserver: permission denied")
	})
	s := &member.Set{Endpoints: c.URLs()}
	if h := s.Health(c.Members[0].URL); h != member.Unknown {
		t.Errorf("health %d before the first probe", h)
	}
	follow(t, s)
	for i, want := range []member.Health{member.Serving, member.Lost, member.Unfit, member.Unknown} {
		until(t, "health of member "+c.Members[i].URL, func() bool { return s.Health(c.Members[i].URL) == want })
	}
	if n := s.Reachable(true); n != 4 {
		t.Errorf("%d members are reachable, 4 are there", n)
	}
	c.Members[0].Stop()
	until(t, "a dead member to be unfit", func() bool { return s.Health(c.Members[0].URL) == member.Unfit })
	c.Members[0].Listen(t, c.Members[0].Addr())
	until(t, "it to come back by itself", func() bool { return s.Health(c.Members[0].URL) == member.Serving })
}

func TestAMemberThatIsAwayStaysAMember(t *testing.T) {
	c := membertest.Start(t, 3, 7)
	s := &member.Set{Endpoints: c.URLs()[:1], Discover: true}
	c.Members[2].Stop() // before it was ever reached
	book := follow(t, s)
	until(t, "three members", func() bool { return len(s.Snapshot().Members) == 3 })
	until(t, "a word about it", func() bool { return book.count("unreachable") == 1 })
	if r := s.Snapshot().Member(3).Range(t.Context(), []byte("a"), nil, 7, 0); r.Err == nil {
		t.Error("a member that is away answered")
	}
}

// GUARANTEE G6: one shadow request in flight per member.
func TestOneReadIsInFlightPerMember(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	s := &member.Set{Endpoints: c.URLs()}
	follow(t, s)
	until(t, "both members", func() bool { return len(s.Snapshot().Members) == 2 })
	var flying, most atomic.Int64
	c.Members[0].Change(func(m *membertest.Member) {
		m.Range = func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
			n := flying.Add(1)
			for {
				if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
					break
				}
			}
			runtime.Gosched()
			flying.Add(-1)
			return &pb.RangeResponse{}, nil
		}
	})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			release, err := s.Snapshot().Members[0].Turn(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			s.Snapshot().Members[0].Range(t.Context(), []byte("a"), nil, 7, 0)
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d reads were in flight at once", most.Load())
	}
	// Who waits for a turn that does not come gives up with its context.
	release, err := s.Snapshot().Members[0].Turn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Snapshot().Members[0].Turn(ctx); err == nil {
		t.Error("two have the turn")
	}
}

// When nobody answers any more, the log says so, and the metric does.
func TestAllMembersAreAway(t *testing.T) {
	c := membertest.Start(t, 3, 7)
	registry := prometheus.NewRegistry()
	s := &member.Set{Endpoints: c.URLs(), Metrics: member.NewMetrics(registry)}
	book := follow(t, s)
	up := func(want float64) func() bool {
		return func() bool {
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			sum := 0.0
			for _, f := range families {
				if f.GetName() == "parallax_member_up" {
					for _, m := range f.GetMetric() {
						sum += m.GetGauge().GetValue()
					}
				}
			}
			return sum == want
		}
	}
	until(t, "three members to be up", up(3))
	for _, m := range c.Members {
		m.Stop()
	}
	until(t, "none to be up", up(0))
	until(t, "a word about each", func() bool { return book.count("unreachable") == 3 })
	if len(s.Snapshot().Members) != 3 || s.Reachable(true) != 0 {
		t.Errorf("%d members, %d reachable", len(s.Snapshot().Members), s.Reachable(true))
	}
}

func TestADeadEndpointIsReportedFromTheStart(t *testing.T) {
	c := membertest.Start(t, 1, 7)
	c.Members[0].Stop()
	book := follow(t, &member.Set{Endpoints: c.URLs()})
	until(t, "a word about it", func() bool { return book.count("unreachable") == 1 })
}
