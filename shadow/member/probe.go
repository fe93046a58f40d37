package member

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fingerprints is how many more connections are opened to a configured endpoint
// when it answers for the first time: a load balancer shows another member on
// one of them.
const fingerprints = 3

// givenUp is after how many probes without an answer a connection is opened
// anew: after a partition the old one may hang for minutes.
const givenUp = 5

// probe asks a link for its Status and keeps what it learned. A member that
// missed the last one is knocked at meanwhile, so that slow is told from hung
// without a longer round.
func (s *Set) probe(ctx context.Context, l *link, timeout time.Duration) {
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	knock, enough := context.WithCancel(bounded)
	defer enough()
	old := l.state.Load()
	next := *old
	next.echo = nothing
	var knocking sync.WaitGroup
	if old.misses > 0 {
		knocking.Go(func() { s.guard(func() { next.echo = l.knock(knock) }) })
	}
	resp, err := pb.NewMaintenanceClient(l.conn).Status(bounded, &pb.StatusRequest{})
	if !silent(err) {
		enough() // the member has said more than a knock can
	}
	knocking.Wait()
	if ctx.Err() != nil {
		return // it is we who end
	}
	next.at, next.err = time.Now(), err
	next.hear(began)
	if err != nil {
		next.errs++
		next.leaderless = 0
		l.state.Store(&next)
		if c := l.open.Load(); c != nil && next.misses > 0 && next.misses%givenUp == 0 {
			_ = c.Close() // gRPC dials again
		}
		return
	}
	next.errs = 0
	next.learn(resp)
	switch {
	case next.balancer:
	case next.cluster == 0 || next.member == 0:
		next.refused = "cluster_id or member_id is 0: this is not an etcd that can be compared (kine?)"
	case next.member != old.member:
		next.refused = s.fingerprint(bounded, l, next.member)
		next.balancer = next.refused != ""
	}
	l.state.Store(&next)
}

// hear counts whether the probe that just ended was answered.
func (st *state) hear(began time.Time) {
	st.misses++
	if !silent(st.err) {
		st.misses = 0
	}
	switch {
	case st.misses == 0 || st.echo != nothing:
		st.heard, st.unheard = st.at, 0
	case st.heard.IsZero():
		st.heard, st.unheard = began, 1
	default:
		st.unheard++
	}
}

// learn what a Status says.
func (st *state) learn(resp *pb.StatusResponse) {
	cluster, member := resp.GetHeader().GetClusterId(), resp.GetHeader().GetMemberId()
	if cluster != st.cluster || member != st.member { // another member at this URL
		st.seat, st.absences, st.leaderless = unseated, 0, 0
	}
	st.cluster, st.member = cluster, member
	st.learner = resp.GetIsLearner()
	switch {
	case resp.GetLeader() != 0:
		st.leaderless = 0
	case st.leaderless == 0:
		st.leaderless, st.leaderlessSince = 1, st.at
	default:
		st.leaderless++
	}
	st.local = strings.HasPrefix(resp.GetVersion(), "3.4.") || strings.HasPrefix(resp.GetVersion(), "3.3.")
}

// fingerprint tells whether fresh connections to a configured endpoint reach the
// same member. Behind a load balancer they do not, and an epoch would mean
// nothing: such an endpoint serves clients, and is not read by the shadow.
func (s *Set) fingerprint(ctx context.Context, l *link, member uint64) string {
	for range fingerprints {
		other, err := s.newLink(l.url, s.aSecond(), l.user)
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

func silent(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return false
}

// echo is what a knock at a member gave.
type echo uint8

const (
	nothing  echo = iota // no connection, or one on which nothing comes back
	settings             // HTTP/2: the member is slow, not hung
	refusal              // a TLS handshake that one side does not want: somebody is there
)

// knock opens a connection and waits for the server's SETTINGS, without a call.
// The kernel accepts connections for a process that is stopped; SETTINGS are
// sent by one that runs.
func (l *link) knock(ctx context.Context) echo {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return nothing
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	ear := &hearing{Conn: c}
	secured, _, err := l.secure(ctx, ear)
	switch {
	case errors.Is(err, errNoTLS), err != nil && ear.heard.Load():
		return refusal
	case err != nil:
		return nothing
	}
	framer := http2.NewFramer(secured, secured)
	framer.SetMaxReadFrameSize(1 << 14) // what HTTP/2 allows before SETTINGS say more
	if _, err := secured.Write([]byte(http2.ClientPreface)); err != nil {
		return nothing
	}
	if err := framer.WriteSettings(); err != nil {
		return nothing
	}
	frame, err := framer.ReadFrame()
	// crypto/tls names an alert so. With TLS 1.3 the refusal of a client's
	// certificate comes after the handshake.
	if alert := (*net.OpError)(nil); errors.As(err, &alert) && alert.Op == "remote error" {
		return refusal
	}
	if _, ok := frame.(*http2.SettingsFrame); !ok || err != nil {
		return nothing
	}
	return settings
}

// hearing notes that a byte came. It is atomic because a handshake that is given
// up goes on reading for a moment.
type hearing struct {
	net.Conn
	heard atomic.Bool
}

func (c *hearing) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(true)
	}
	return n, err
}
