package diagnose

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTimeout = 20 * time.Second

// store answers as an etcd with these keys does.
func store(kvs []*mvccpb.KeyValue) func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return func(_ context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
		resp := &pb.RangeResponse{}
		for _, kv := range kvs {
			end := req.GetRangeEnd()
			if bytes.Compare(kv.Key, req.GetKey()) < 0 || !bytes.Equal(end, []byte{0}) && bytes.Compare(kv.Key, end) >= 0 {
				continue
			}
			if resp.Count++; req.GetLimit() == 0 || resp.Count <= req.GetLimit() {
				resp.Kvs = append(resp.Kvs, kv)
			}
		}
		return resp, nil
	}
}

func someKeys() []*mvccpb.KeyValue {
	var kvs []*mvccpb.KeyValue
	for _, kind := range []string{"configmaps", "events", "pods", "secrets"} {
		for i := range 40 {
			kvs = append(kvs, &mvccpb.KeyValue{Key: fmt.Appendf(nil, "/registry/%s/default/name-%02d", kind, i), Value: []byte("v"), CreateRevision: 2, ModRevision: 2, Version: 1})
		}
	}
	return kvs
}

// start a cluster of three that somebody writes to, until the test ends.
func start(t *testing.T, change func(*membertest.Cluster)) *member.Set {
	t.Helper()
	c := membertest.Start(t, 3, 100)
	for _, m := range c.Members {
		m.Change(func(m *membertest.Member) {
			m.Version, m.RaftIndex, m.Applied, m.Range = "3.7.3", 200, 200, store(someKeys())
		})
	}
	if change != nil {
		change(c)
	}
	set := &member.Set{Endpoints: c.URLs(), Discover: true}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { _ = set.Run(ctx); ended <- struct{}{} }()
	go func() { write(ctx, c); ended <- struct{}{} }()
	t.Cleanup(func() {
		cancel()
		<-ended
		<-ended
	})
	select {
	case <-set.Known():
	case <-time.After(testTimeout):
		t.Fatal("the members are not known")
	}
	return set
}

func write(ctx context.Context, c *membertest.Cluster) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, m := range c.Members {
			m.Change(func(m *membertest.Member) { m.Revision++; m.RaftIndex++; m.Applied++ })
		}
	}
}

// look until it shows what is wanted: on busy cores a short look shows little.
func look(t *testing.T, set *member.Set, wanted func(Facts, Conclusion) bool) {
	t.Helper()
	for d := 200 * time.Millisecond; ; d *= 2 {
		f := Look(t.Context(), Options{Members: set.Snapshot, Duration: d})
		c, _ := Conclude(f)
		if wanted(f, c) {
			return
		}
		t.Logf("in %s: %s: %s\n%s\nunknown: %s\n%+v", d, c.Verdict, c.Summary, strings.Join(c.Because, "\n"), strings.Join(c.Unknown, "\n"), f)
		if d > testTimeout {
			t.Fatal("that is not what was wanted")
		}
	}
}

func TestLookAtAHealthyCluster(t *testing.T) {
	t.Parallel()
	look(t, start(t, nil), func(f Facts, c Conclusion) bool {
		if c.Verdict == Divergent {
			t.Fatalf("accused: %+v", f.Found)
		}
		all := f.Keys.Compared >= 20 && len(f.Pairs) == 6 && f.ListRounds > 0 && f.ClusterID == 100
		for _, m := range f.Members {
			all = all && m.Live && m.Keys != nil && *m.Keys == 160 && m.Leases != nil && len(m.Lists) == 3 && m.Version == "3.7.3" && m.AppliedBefore != 0
		}
		return all && c.Verdict == Consistent
	})
}

func TestLookFindsAStuckRevision(t *testing.T) {
	t.Parallel()
	set := start(t, func(c *membertest.Cluster) {
		c.Members[2].Change(func(m *membertest.Member) { m.Revision -= 5 })
	})
	look(t, set, func(_ Facts, c Conclusion) bool {
		if slices.Contains(c.Differs, 1) || slices.Contains(c.Differs, 2) || c.Verdict == Consistent {
			t.Fatalf("got %+v", c)
		}
		return c.Verdict == Divergent && c.Layer == Apply && c.Basis == "quorum" && slices.Equal(c.Differs, []ID{3})
	})
}

func TestLookFindsAGhostKey(t *testing.T) {
	t.Parallel()
	set := start(t, func(c *membertest.Cluster) {
		ghost := &mvccpb.KeyValue{Key: []byte("/registry/configmaps/default/aaa"), CreateRevision: 3, ModRevision: 3, Version: 1}
		c.Members[1].Change(func(m *membertest.Member) {
			m.Range = store(append([]*mvccpb.KeyValue{ghost}, someKeys()...))
		})
	})
	look(t, set, func(_ Facts, c Conclusion) bool {
		because := strings.Join(c.Because, "\n")
		return c.Verdict == Divergent && c.Layer == Storage && slices.Equal(c.Differs, []ID{2}) &&
			strings.Contains(because, `aaa" (present)`) && strings.Contains(because, "number of all keys")
	})
}

func TestLookWithoutAMember(t *testing.T) {
	t.Parallel()
	set := start(t, func(c *membertest.Cluster) { c.Members[2].Stop() })
	look(t, set, func(f Facts, c Conclusion) bool {
		return c.Verdict == Inconclusive && strings.Contains(strings.Join(c.Because, "\n"), "C could not be asked") && f.Keys.Compared > 0
	})
}

func TestLookWithoutPermission(t *testing.T) {
	t.Parallel()
	set := start(t, func(c *membertest.Cluster) {
		for _, m := range c.Members {
			m.Change(func(m *membertest.Member) {
				m.ReadErr = status.Error(codes.PermissionDenied, "etcdserver: permission denied")
			})
		}
	})
	look(t, set, func(f Facts, c Conclusion) bool {
		return c.Verdict == Inconclusive && strings.Contains(strings.Join(c.Because, "\n"), "no key was compared") &&
			strings.Contains(f.Keys.Uncounted, "permission-denied") && strings.Contains(strings.Join(c.Unknown, "\n"), "linearizable read: etcdserver: permission denied")
	})
}

// A member that ends on a read is not asked for keys again, and neither are the others.
func TestLookLosesAMember(t *testing.T) {
	t.Parallel()
	for range 5 { // on busy cores the read may time out before the connection breaks
		set := start(t, func(c *membertest.Cluster) {
			m := c.Members[1]
			m.Change(func(m *membertest.Member) {
				m.Range = func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
					go m.Stop()
					<-t.Context().Done()
					return nil, context.Canceled
				}
			})
		})
		f := Look(t.Context(), Options{Members: set.Snapshot, Duration: time.Millisecond})
		c, _ := Conclude(f)
		if c.Verdict == Divergent || f.Keys.Compared != 0 {
			t.Fatalf("got %+v, facts %+v", c, f.Keys)
		}
		if f.Keys.LostOver != "" && slices.Equal(f.Keys.LostWhom, []ID{2}) {
			return
		}
	}
	t.Fatal("the loss was not seen")
}

func TestLookEndsAtOnce(t *testing.T) {
	t.Parallel()
	set := start(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	began := make(chan string, 10)
	done := make(chan Facts)
	go func() {
		done <- Look(ctx, Options{Members: set.Snapshot, Duration: time.Hour, Progress: func(doing string) { began <- doing }})
	}()
	for doing := range began {
		if strings.HasPrefix(doing, "watching") {
			break
		}
	}
	cancel()
	select {
	case f := <-done:
		if c, _ := Conclude(f); !f.Interrupted || c.Verdict != Inconclusive || f.Keys.Compared == 0 {
			t.Errorf("got %+v", f)
		}
	case <-time.After(2 * time.Second):
		t.Fatal("it goes on")
	}
}
