package member_test

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// hasty is a second where 10 of them would be long. It is also what a probe has
// for its answer, a TLS handshake on busy cores included.
const hasty = 250 * time.Millisecond

// watch follows a cluster and waits until all of it serves.
func watch(t *testing.T, c *membertest.Cluster, s *member.Set) *logBook {
	t.Helper()
	s.Endpoints = c.URLs()
	book := follow(t, s)
	for _, m := range c.Members {
		becomes(t, s, m, member.Serving)
	}
	return book
}

func becomes(t *testing.T, s *member.Set, m *membertest.Member, want member.Health) {
	t.Helper()
	until(t, m.URL+" to be "+want.String(), func() bool { return s.Health(m.URL) == want })
}

// untilLost waits until the member is Lost, and returns which states it went
// through on its way.
func untilLost(t *testing.T, s *member.Set, m *membertest.Member) []member.Health {
	t.Helper()
	var seen []member.Health
	deadline := time.Now().Add(20 * time.Second)
	for {
		if h := s.Health(m.URL); len(seen) == 0 || seen[len(seen)-1] != h {
			seen = append(seen, h)
		}
		if seen[len(seen)-1] == member.Lost {
			return seen
		}
		if time.Now().After(deadline) {
			t.Fatalf("not lost within 20 s: %v", seen)
		}
		time.Sleep(time.Millisecond)
	}
}

// mute accepts connections and says nothing, as the kernel does for a process
// that is stopped.
func mute(t *testing.T, addr string) (stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	})
	return sync.OnceFunc(func() {
		_ = l.Close()
		wg.Wait()
		for _, c := range conns {
			_ = c.Close()
		}
	})
}

func TestAHungMemberIsLost(t *testing.T) {
	plain := membertest.Start(t, 2, 7)
	secret, _, w := secured(t, 2)
	for name, c := range map[string]*membertest.Cluster{"plaintext": plain, "tls": secret} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &member.Set{TLS: w.config}
			s.Hasten(hasty)
			watch(t, c, s)
			m := c.Members[1]
			m.Stop()
			stop := mute(t, m.Addr())
			defer stop()
			if seen := untilLost(t, s, m); !slices.Contains(seen, member.Unfit) {
				t.Errorf("%v: clients were sent there until it was lost", seen)
			}
			// The stop may have cut off the last answers: less than the full time, and
			// more than the silent probes alone would take.
			m.Change(func(m *membertest.Member) {
				if after := time.Since(m.LastStatus); after < 6*hasty {
					t.Errorf("lost %v after its last answer, 10 seconds are %v", after, 10*hasty)
				}
			})
			if h := s.Health(c.Members[0].URL); h != member.Serving {
				t.Errorf("the other is %v", h)
			}
			stop()
			m.Listen(t, m.Addr())
			becomes(t, s, m, member.Serving)
		})
	}
}

// A defrag lets Status wait, and not HTTP/2.
func TestASlowMemberIsNeverLost(t *testing.T) {
	plain := membertest.Start(t, 2, 7)
	secret, _, w := secured(t, 2)
	for name, c := range map[string]*membertest.Cluster{"plaintext": plain, "tls": secret} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &member.Set{TLS: w.config}
			s.Hasten(hasty)
			book := watch(t, c, s)
			m := c.Members[1]
			m.Change(func(m *membertest.Member) { m.Slow = true })
			becomes(t, s, m, member.Unfit)
			for began := time.Now(); time.Since(began) < 15*hasty; time.Sleep(time.Millisecond) {
				if h := s.Health(m.URL); h == member.Lost {
					t.Fatalf("%v after %v", h, time.Since(began))
				}
			}
			until(t, "it to be there, as slow", func() bool {
				return s.Health(m.URL) == member.Unfit && s.Reachable(true) == 2 && book.count("slow: it answers HTTP/2") > 0
			})
			m.Change(func(m *membertest.Member) { m.Slow = false })
			becomes(t, s, m, member.Serving)
		})
	}
}

func TestADeadMemberIsLostAndComesBack(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	s := &member.Set{}
	s.Hasten(hasty)
	watch(t, c, s)
	m := c.Members[0]
	m.Stop()
	if seen := untilLost(t, s, m); !slices.Contains(seen, member.Unfit) {
		t.Errorf("%v", seen)
	}
	m.Listen(t, m.Addr())
	becomes(t, s, m, member.Serving)
}

func TestALeaderlessMemberIsLostAfterAWhile(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	s := &member.Set{}
	s.Hasten(hasty)
	watch(t, c, s)
	m := c.Members[1]
	began := time.Now()
	m.Change(func(m *membertest.Member) { m.Leader = 0 })
	if seen := untilLost(t, s, m); !slices.Contains(seen, member.Unfit) {
		t.Errorf("%v", seen)
	}
	if after := time.Since(began); after < 5*hasty {
		t.Errorf("lost after %v: an election takes as long", after)
	}
	m.Change(func(m *membertest.Member) { m.Leader = 1 })
	becomes(t, s, m, member.Serving)
}

// Elections one after another are not five seconds without a leader.
func TestALeaderInBetweenCounts(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	s := &member.Set{}
	s.Hasten(hasty)
	watch(t, c, s)
	m := c.Members[1]
	for range 4 {
		m.Change(func(m *membertest.Member) { m.Leader = 0 })
		for began := time.Now(); time.Since(began) < 3*hasty; time.Sleep(time.Millisecond) {
			if s.Health(m.URL) == member.Lost {
				t.Fatal("lost")
			}
		}
		m.Change(func(m *membertest.Member) { m.Leader = 1 })
		becomes(t, s, m, member.Serving)
	}
}

func TestALearnerIsLostUntilItIsPromoted(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	s := &member.Set{}
	watch(t, c, s)
	m := c.Members[1]
	m.Change(func(m *membertest.Member) { m.Learner = true })
	becomes(t, s, m, member.Lost)
	m.Change(func(m *membertest.Member) { m.Learner = false })
	becomes(t, s, m, member.Serving)
}

// Removed, and still running, with what it takes for a leader.
func TestARemovedMemberIsLost(t *testing.T) {
	c := membertest.Start(t, 3, 7)
	s := &member.Set{}
	watch(t, c, s)
	m := c.Members[1]
	m.Change(func(m *membertest.Member) { m.Removed = true })
	if seen := untilLost(t, s, m); seen[0] == member.Lost {
		t.Errorf("%v", seen)
	}
	m.Change(func(m *membertest.Member) { m.Removed = false })
	becomes(t, s, m, member.Serving)
}

// What only the member itself says of the list, or one of the old ones, which
// answer with their own, removes nobody.
func TestOnlyTheClusterRemoves(t *testing.T) {
	t.Run("itself", func(t *testing.T) {
		c := membertest.Start(t, 2, 7)
		s := &member.Set{Endpoints: c.URLs()[:1]} // nobody else is asked
		follow(t, s)
		becomes(t, s, c.Members[0], member.Serving)
		c.Members[0].Change(func(m *membertest.Member) { m.Removed = true })
		unknownForLong(t, s, c.Members[0])
	})
	t.Run("etcd 3.4", func(t *testing.T) {
		c := membertest.Start(t, 2, 7)
		for _, m := range c.Members {
			m.Change(func(m *membertest.Member) { m.Version = "3.4.23" })
		}
		s := &member.Set{}
		watch(t, c, s)
		c.Members[1].Change(func(m *membertest.Member) { m.Removed = true })
		unknownForLong(t, s, c.Members[1])
	})
}

func unknownForLong(t *testing.T, s *member.Set, m *membertest.Member) {
	t.Helper()
	becomes(t, s, m, member.Unknown)
	for began := time.Now(); time.Since(began) < time.Second; time.Sleep(time.Millisecond) {
		if h := s.Health(m.URL); h != member.Unknown {
			t.Fatalf("%v", h)
		}
	}
}

// Clients behind a balancer are not where our connection is.
func TestABalancerIsNeverLost(t *testing.T) {
	c := membertest.Start(t, 3, 7)
	lb := balance(t, c)
	s := &member.Set{Endpoints: []string{lb}}
	book := follow(t, s)
	until(t, "it to be known", func() bool { return book.count("load balancer") == 1 })
	for _, m := range c.Members {
		m.Change(func(m *membertest.Member) { m.Learner = true })
	}
	for began := time.Now(); time.Since(began) < time.Second; time.Sleep(time.Millisecond) {
		if h := s.Health(lb); h == member.Lost {
			t.Fatal("lost")
		}
	}
	if h := s.Health(lb); h != member.Unfit {
		t.Errorf("health %v", h)
	}
}

func TestTheMetricTellsTheHealth(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	registry := prometheus.NewRegistry()
	s := &member.Set{Metrics: member.NewMetrics(registry)}
	watch(t, c, s)
	states := func() map[string]string { // endpoint → the state that is 1
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "parallax_endpoint_health" && m.GetGauge().GetValue() == 1 {
					got[m.GetLabel()[0].GetValue()] += m.GetLabel()[1].GetValue()
				}
			}
		}
		return got
	}
	is := func(first, second string) func() bool {
		return func() bool {
			got := states()
			return len(got) == 2 && got[c.Members[0].URL] == first && got[c.Members[1].URL] == second
		}
	}
	until(t, "both to serve", is("serving", "serving"))
	c.Members[1].Change(func(m *membertest.Member) { m.Learner = true })
	until(t, "one to be lost", is("serving", "lost"))
	c.Members[1].Change(func(m *membertest.Member) { m.Learner, m.Leader = false, 0 })
	until(t, "one to be unfit", is("serving", "unfit"))
}
