package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// opinions are what the health function says, and may change.
type opinions struct {
	mu sync.Mutex
	of map[string]Health
}

func (o *opinions) health(e string) Health {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.of[e]
}

func (o *opinions) set(of map[string]Health) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of = of
}

// crowd is many clients, each with an open stream (a watch), that it opens again whenever it ends. They come one after the other.
func crowd(t *testing.T, p *Proxy, clients int) {
	t.Helper()
	address := serve(t, p)
	var running sync.WaitGroup
	t.Cleanup(running.Wait) // after the clients were closed, which ends their streams
	for i := range clients {
		client := grpcClient(t, address)
		running.Go(func() {
			for t.Context().Err() == nil {
				watch(t.Context(), client)
			}
		})
		eventually(t, fmt.Sprintf("client %d has its stream", i), func() bool { return p.all() == i+1 })
	}
}

func watch(ctx context.Context, client pb.TestServiceClient) {
	stream, err := client.FullDuplexCall(ctx)
	if err != nil || stream.Send(&pb.StreamingOutputCallRequest{}) != nil {
		return
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return
		}
	}
}

func (p *Proxy) all() (n int) {
	for _, of := range p.count() {
		n += of
	}
	return n
}

func (p *Proxy) count() map[string]int {
	_ = p.init() // Serve may not have yet
	n := make(map[string]int)
	for e, conns := range p.byEndpoint() {
		n[e] = len(conns)
	}
	return n
}

// The connections of a lost member are ended, a few at each look, and only while another member is positively healthy.
func TestClientsOfALostMemberAreMoved(t *testing.T) {
	a, b := grpcMember(t, &service{}), grpcMember(t, &service{})
	var known opinions
	p := &Proxy{Endpoints: []string{a, b}, Observer: observer{}, Metrics: NewMetrics(nil), Health: known.health}
	crowd(t, p, 24)
	if got := p.count(); got[a] != 12 || got[b] != 12 {
		t.Fatalf("%v", got)
	}
	told := make(map[*conn]struct{})
	for name, of := range map[string]map[string]Health{
		"nothing is known":                        nil,
		"nobody is positively healthy":            {a: Lost},
		"both are lost":                           {a: Lost, b: Lost},
		"unfit is not lost":                       {a: Unfit, b: Serving},
		"unfit, and the other one not known well": {a: Lost, b: Unfit},
	} {
		known.set(of)
		p.tend(told, false)
		if got := p.count(); got[a] != 12 || got[b] != 12 || len(told) != 0 {
			t.Fatalf("%s: %v, %d told", name, got, len(told))
		}
	}
	known.set(map[string]Health{a: Lost, b: Serving})
	for look, left := range []int{7, 2, 0, 0} {
		p.tend(told, false)
		eventually(t, fmt.Sprintf("%d left at look %d", left, look), func() bool { return p.count()[a] == left })
	}
	if got := testutil.ToFloat64(p.Metrics.movedLost); got != 12 {
		t.Errorf("counted %v", got)
	}
	eventually(t, "none is left behind", func() bool { return p.count()[a] == 0 })
}

// A call that the lost member does not answer gets one more look, and then it fails as if the member had died.
func TestACallAtALostMemberEnds(t *testing.T) {
	s := &service{asked: make(chan struct{}), proceed: make(chan struct{})}
	defer close(s.proceed)
	a, b := grpcMember(t, s), grpcMember(t, &service{})
	var known opinions
	p := &Proxy{Endpoints: []string{a, b}, Observer: observer{}, Health: known.health}
	client := grpcClient(t, serve(t, p))
	call := make(chan error, 1)
	go func() {
		_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
		call <- err
	}()
	<-s.asked
	known.set(map[string]Health{a: Lost, b: Serving})
	told := make(map[*conn]struct{})
	p.tend(told, false)
	select {
	case err := <-call:
		t.Fatalf("ended at once: %v", err)
	default:
	}
	p.tend(told, false)
	if err := <-call; err == nil {
		t.Error("answered by nobody")
	}
}

// After a restart of the members the last one has no connections: they are evened out, and then left alone.
func TestRebalance(t *testing.T) {
	a, b, c := grpcMember(t, &service{}), grpcMember(t, &service{}), grpcMember(t, &service{})
	all := map[string]Health{a: Serving, b: Serving, c: Serving}
	for _, tc := range []struct {
		name   string
		prefer []string
		before map[string]Health // while the clients come
		even   func(n map[string]int) bool
	}{
		{"evenly", nil, map[string]Health{c: Unfit}, func(n map[string]int) bool {
			return max(n[a], n[b], n[c]) <= 7+1
		}},
		{"to the preferred one", []string{c}, map[string]Health{c: Unfit}, func(n map[string]int) bool {
			return n[a]+n[b] == 0
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var known opinions
			known.set(tc.before)
			p := &Proxy{Endpoints: []string{a, b, c}, Prefer: tc.prefer, Observer: observer{}, Metrics: NewMetrics(nil), Health: known.health}
			const clients = 20
			crowd(t, p, clients)
			known.set(all)
			told := make(map[*conn]struct{})
			p.tend(told, false)
			if got := p.count(); got[a] != 10 || got[b] != 10 {
				t.Fatalf("moved without being asked to: %v", got)
			}
			for i := 0; !tc.even(p.count()) && i < 50; i++ {
				p.tend(told, true)
				p.rest() // as at the next look
				eventually(t, "all clients to be back", func() bool { return p.all() == clients })
			}
			if got := p.count(); !tc.even(got) {
				t.Fatalf("after 50 looks: %v", got)
			}
			moved := testutil.ToFloat64(p.Metrics.movedBalance)
			if moved == 0 {
				t.Fatal("nothing was moved")
			}
			for range 3 {
				p.tend(told, true)
			}
			if got := testutil.ToFloat64(p.Metrics.movedBalance); got != moved {
				t.Errorf("it does not come to rest: %v, then %v", moved, got)
			}
		})
	}
}

// What is relayed blindly is not rebalanced: nobody knows what waits on it.
func TestBlindConnectionsAreNotRebalanced(t *testing.T) {
	a, b := member(t, echo), member(t, echo)
	o := opinions{of: map[string]Health{a: Serving, b: Lost}}
	p := &Proxy{Endpoints: []string{a, b}, Metrics: NewMetrics(nil), Health: o.health}
	address := serve(t, p)
	conns := make([]*net.TCPConn, 8)
	for i := range conns {
		conns[i] = dialTCP(t, address)
		_, _ = io.WriteString(conns[i], "x")
		if _, err := io.ReadFull(conns[i], make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	o.set(map[string]Health{a: Serving, b: Serving})
	p.tend(make(map[*conn]struct{}), true)
	if got := p.count(); got[a] != 8 {
		t.Errorf("%v", got)
	}
}
