package proxy

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/etcd-parallax/parallax/proxy/tap"
)

// What a client said first, or in one large header block, is let go when it was passed on: thousands of idle connections
// keep nothing of it.
func TestIdleConnectionsKeepNothingOfWhatWasSaid(t *testing.T) {
	const idle, eachAtMost = 100, 32 << 10
	for name, said := range map[string]struct {
		first []byte
		state string
	}{
		"64 KiB at once":           {[]byte(strings.Repeat("x", 64<<10)), blind},
		"a method of 60,000 bytes": {opening().open(1, "/"+strings.Repeat("~", 60_000)).bytes(), tapped},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Proxy{
				Endpoints: []string{member(t, deaf)}, Metrics: NewMetrics(nil),
				Observer: observer{request: func(string) int { return 0 }}, Methods: []string{unaryMethod},
			}
			address := serve(t, ready(p))
			before := inUse()
			for range idle {
				if _, err := dialTCP(t, address).Write(said.first); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "all to be passed on", func() bool {
				return testutil.ToFloat64(p.Metrics.up) == float64(idle*len(said.first)) &&
					testutil.ToFloat64(p.Metrics.memberConnections.WithLabelValues(p.Endpoints[0], said.state)) == idle
			})
			if each := (inUse() - before) / idle; each > eachAtMost {
				t.Errorf("an idle connection holds %d bytes, want at most %d", each, eachAtMost)
			}
			if said.state == tapped && testutil.ToFloat64(p.Metrics.callsVec.WithLabelValues(otherMethods)) != idle {
				t.Error("the calls are not counted as those of other methods")
			}
			if n := testutil.CollectAndCount(p.Metrics.callsVec); n != 2 {
				t.Errorf("there are %d series of calls, want 2: methods that clients think up make none", n)
			}
		})
	}
}

// Calls are counted when they begin, by method if it is known, and timed when they are answered.
func TestCallsAreCountedAndTimed(t *testing.T) {
	const stream = "/grpc.testing.TestService/FullDuplexCall"
	s := &service{asked: make(chan struct{}), proceed: make(chan struct{})}
	p := &Proxy{
		Endpoints: []string{grpcMember(t, s)}, Metrics: NewMetrics(nil), Methods: []string{unaryMethod, stream},
		Observer: observer{request: func(string) int { return 0 }}, // counted whether wanted or not
	}
	client := grpcClient(t, serve(t, ready(p)))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	call := func(ctx context.Context) chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := client.UnaryCall(ctx, &pb.SimpleRequest{})
			ended <- err
		}()
		<-s.asked
		return ended
	}
	answered := func(n int) {
		for range n {
			ended := call(ctx)
			s.proceed <- struct{}{}
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		}
	}
	// One call in sixteen is timed: the first, then one that is broken off, and then the next one.
	answered(16)
	brokenOff, breakOff := context.WithCancel(ctx)
	ended := call(brokenOff)
	breakOff()
	if err := <-ended; err == nil {
		t.Error("a call that was broken off went well")
	}
	answered(16)
	if _, err := client.EmptyCall(ctx, &pb.Empty{}); err == nil {
		t.Error("a call that the member does not know went well")
	}
	watch, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Send(&pb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]float64{unaryMethod: 33, stream: 1, otherMethods: 1} {
		if got := testutil.ToFloat64(p.Metrics.callsVec.WithLabelValues(method)); got != want {
			t.Errorf("%v calls of %s, want %v", got, method, want)
		}
	}
	p.Close() // the end of an answer is heard after it was written: the client may have it first
	if got := durations(t, p, unaryMethod); got != 2 {
		t.Errorf("%d durations, want 2", got)
	}
	if got := durations(t, p, stream); got != 0 {
		t.Errorf("%d durations of a stream that was broken off", got)
	}
	nothingLeft(t, p)
}

func durations(t *testing.T, p *Proxy, method string) uint64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(p.Metrics.durationsVec)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if m.GetLabel()[0].GetValue() == method {
				return m.GetHistogram().GetSampleCount()
			}
		}
	}
	return 0
}

// A tap that ends leaves its connection blind, in the count as well.
func TestATapThatEndsIsCountedAsBlind(t *testing.T) {
	p := &Proxy{Endpoints: []string{member(t, deaf)}, Observer: observer{}, Metrics: NewMetrics(nil)}
	c := dialTCP(t, serve(t, ready(p)))
	state := func(state string) float64 {
		return testutil.ToFloat64(p.Metrics.memberConnections.WithLabelValues(p.Endpoints[0], state))
	}
	_, _ = io.WriteString(c, http2.ClientPreface)
	eventually(t, "the connection to be tapped", func() bool { return state(tapped) == 1 && state(blind) == 0 })
	_, _ = io.WriteString(c, "what is this?")
	eventually(t, "the connection to be blind", func() bool { return state(tapped) == 0 && state(blind) == 1 })
	eventually(t, "all to be passed on", func() bool {
		return testutil.ToFloat64(p.Metrics.up) == float64(len(http2.ClientPreface)+len("what is this?"))
	})
	if got := testutil.ToFloat64(p.Metrics.tapsEnded.WithLabelValues(string(tap.ReasonNotHTTP2))); got != 1 {
		t.Errorf("%v taps are counted as ended", got)
	}
	_ = c.Close()
	nothingLeft(t, p)
}
