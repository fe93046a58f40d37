package member

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fingerprints is how many more connections are opened to a configured endpoint
// when it answers for the first time: a load balancer shows another member on
// one of them.
const fingerprints = 3

// probe asks a link for its Status and keeps what it learned.
func (s *Set) probe(ctx context.Context, l *link, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	old := l.state.Load()
	next := *old
	next.at = time.Now()
	resp, err := pb.NewMaintenanceClient(l.conn).Status(ctx, &pb.StatusRequest{})
	next.err = err
	if err != nil {
		next.misses++
		l.state.Store(&next)
		if c := l.open.Load(); c != nil && silent(err) && next.misses%givenUp == 0 {
			_ = c.Close() // gRPC dials again
		}
		return
	}
	next.misses = 0
	next.cluster, next.member = resp.GetHeader().GetClusterId(), resp.GetHeader().GetMemberId()
	next.learner = resp.GetIsLearner()
	next.leaderless = resp.GetLeader() == 0
	next.local = strings.HasPrefix(resp.GetVersion(), "3.4.") || strings.HasPrefix(resp.GetVersion(), "3.3.")
	switch {
	case next.balancer:
	case next.cluster == 0 || next.member == 0:
		next.refused = "cluster_id or member_id is 0: this is not an etcd that can be compared (kine?)"
	case next.member != old.member:
		next.refused = s.fingerprint(ctx, l, next.member)
		next.balancer = next.refused != ""
	}
	l.state.Store(&next)
}

// fingerprint tells whether fresh connections to a configured endpoint reach the
// same member. Behind a load balancer they do not, and an epoch would mean
// nothing: such an endpoint serves clients, and is not read by the shadow.
func (s *Set) fingerprint(ctx context.Context, l *link, member uint64) string {
	for range fingerprints {
		other, err := newLink(l.url, time.Second, &s.epochs)
		if err != nil {
			return err.Error()
		}
		resp, err := pb.NewMaintenanceClient(other.conn).Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(true))
		other.close()
		if err != nil {
			return "" // busy or going away: the ids in every answer are checked all the same
		}
		if id := resp.GetHeader().GetMemberId(); id != member {
			return fmt.Sprintf("answers with changing member ids (%x, %x): a load balancer; name the members themselves in --endpoints, or leave --discover-members on", member, id)
		}
	}
	return ""
}

// Health of a configured endpoint for new client connections.
type Health uint8

// What can be said of an endpoint.
const (
	Unknown Health = iota // not probed yet, or the answer does not tell
	Serving
	Unfit // unreachable twice in a row, a learner, or without a leader
)

// Health of a configured endpoint. It never blocks.
func (s *Set) Health(endpoint string) Health {
	s.mu.Lock()
	l := s.links[endpoint]
	s.mu.Unlock()
	if l == nil {
		return Unknown
	}
	st := l.state.Load()
	switch {
	case st.at.IsZero():
		return Unknown
	case st.err == nil && (st.learner || st.leaderless):
		return Unfit
	case st.err == nil:
		return Serving
	case silent(st.err) && st.misses > 1:
		return Unfit
	}
	return Unknown // an error of the member itself: it is there
}

// Reachable returns how many members, configured or found, answered their last
// probe, even with an error of their own. configured counts only those that
// clients can be relayed to.
func (s *Set) Reachable(configured bool) int {
	n := 0
	for _, l := range s.all() {
		if configured && !slices.Contains(s.Endpoints, l.url) {
			continue
		}
		if st := l.state.Load(); !st.at.IsZero() && !silent(st.err) {
			n++
		}
	}
	return n
}

func silent(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return false
}
