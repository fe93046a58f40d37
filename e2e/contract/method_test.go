package contract

import (
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

// Point 1: every method, also unknown and future ones, half-close, full duplex, cancellation, deadlines.
func methodPoints() []point {
	return []point{
		{name: "unknown methods", run: unknownMethods},
		{name: "calls of all shapes", run: callsOfAllShapes},
		{name: "a range as a stream", run: rangeStream, since: binary.Etcd37},
		{name: "half-close", run: halfClose},
		{name: "full duplex", run: fullDuplex},
		{name: "a canceled call reaches the member", run: canceled},
		{name: "a deadline is the member's", run: deadline},
	}
}

func unknownMethods(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	conn := p.grpc(t)
	for _, c := range [][2]string{
		{"/etcdserverpb.KV/Imagine", "unknown method Imagine for service etcdserverpb.KV"},
		{"/etcdserverpb.KV/RangeStream2", "unknown method RangeStream2 for service etcdserverpb.KV"},
		{"/etcdserverpb.Imagine/Range", "unknown service etcdserverpb.Imagine"},
	} {
		saw.unary(t, conn, c[0], c[1])
	}
	return saw
}

// unary calls a method that does not succeed, and says all that comes back.
func (s *transcript) unary(t *testing.T, conn *grpc.ClientConn, method, want string) {
	t.Helper()
	var header, trailer metadata.MD
	err := conn.Invoke(patient(t), method, new(pb.RangeRequest), new(pb.RangeResponse), grpc.Header(&header), grpc.Trailer(&trailer))
	if got := status.Convert(err); got.Code() != codes.Unimplemented || got.Message() != want {
		t.Errorf("%s: %v, want %q", method, err, want)
	}
	s.lines = append(s.lines, method+" "+err.Error())
	s.say("header %q trailer %q", plain(header), plain(trailer))
}

// What the members of all versions answer to what is right, and to what is not quite.
func callsOfAllShapes(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	for _, c := range []struct {
		name, path string
		further    []string
		raw        []byte // instead of a message
	}{
		{name: "as it should be", path: "/etcdserverpb.KV/Range"},
		{name: "subtype", path: "/etcdserverpb.KV/Range", further: []string{"content-type", "application/grpc+proto"}},
		{name: "metadata", path: "/etcdserverpb.KV/Range", further: []string{"x-text", "a b", "x-binary-bin", "AAEC/w", "x-text", "again"}},
		{name: "not gRPC", path: "/etcdserverpb.KV/Range", further: []string{"content-type", "text/plain"}},
		{name: "no trailers wanted", path: "/etcdserverpb.KV/Range", further: []string{"te", ""}},
		{name: "GET", path: "/etcdserverpb.KV/Range", further: []string{":method", "GET"}},
		{name: "not a method", path: "/nothing"},
		{name: "unknown compression", path: "/etcdserverpb.KV/Range", further: []string{"grpc-encoding", "imagined"}},
		{name: "no number", path: "/etcdserverpb.KV/Range", further: []string{"grpc-timeout", "soon"}},
		{name: "no leader known", path: "/etcdserverpb.KV/Range", further: []string{"hasleader", "true"}},
		{name: "huge header", path: "/etcdserverpb.KV/Range", further: []string{"x-huge", strings.Repeat("h", 40<<10)}},
		{name: "forbidden header", path: "/etcdserverpb.KV/Range", further: []string{"connection", "close"}},
		{name: "cut off", path: "/etcdserverpb.KV/Range", raw: []byte{0, 0, 0, 0, 9, 1}},
		{name: "too long", path: "/etcdserverpb.KV/Range", raw: []byte{0, 255, 255, 255, 255}},
		{name: "compressed without saying how", path: "/etcdserverpb.KV/Range", raw: []byte{1, 0, 0, 0, 1, 1}},
		{name: "not protobuf", path: "/etcdserverpb.KV/Range", raw: []byte{0, 0, 0, 0, 2, 255, 255}},
	} {
		if c.name == "cut off" && p.version() == binary.Etcd34 {
			continue // its gRPC says nothing at all
		}
		saw.say("%s:", c.name)
		w := p.wire(t, saw)
		w.call(1, c.path, c.further...)
		if c.raw == nil {
			w.send(1, &pb.RangeRequest{Key: []byte("k")}, true)
		} else {
			w.must(w.framer.WriteData(1, true, c.raw))
		}
		w.until("end=true", "RST_STREAM", "GOAWAY")
	}
	return saw
}

func rangeStream(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	c := p.client(t)
	prefix := key(t, "stream")
	for i := range 20 {
		ops := make([]clientv3.Op, 100)
		for j := range ops {
			ops[j] = clientv3.OpPut(prefix+string(rune('a'+i))+string(rune('0'+j)), strings.Repeat("v", 2000))
		}
		if _, err := c.Txn(patient(t)).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	ch, err := c.GetStream(patient(t), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for chunk := range ch {
		if err := chunk.Err(); err != nil {
			t.Fatal(err)
		}
		total += len(chunk.Kvs)
		saw.say("%d keys, count %d, more %v", len(chunk.Kvs), chunk.Count, chunk.More)
	}
	if total != 2000 || len(saw.lines) < 2 {
		t.Errorf("%d keys in %d chunks", total, len(saw.lines))
	}
	return saw
}

// A client that sends no more still hears what there is to hear.
func halfClose(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	conn := p.grpc(t)
	lease := pb.NewLeaseClient(conn)
	granted, err := lease.LeaseGrant(patient(t), &pb.LeaseGrantRequest{TTL: 600})
	if err != nil {
		t.Fatal(err)
	}
	alive, err := lease.LeaseKeepAlive(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := alive.Send(&pb.LeaseKeepAliveRequest{ID: granted.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if err := alive.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for {
		r, err := alive.Recv()
		if err != nil {
			saw.say("lease ends with %v, trailer %q", err, plain(alive.Trailer()))
			break
		}
		saw.say("lease lives %d s", r.TTL)
	}
	if len(saw.lines) != 3 || !strings.Contains(saw.lines[2], io.EOF.Error()) {
		t.Errorf("saw %q", saw.lines)
	}
	watch, k := openWatch(t, conn), []byte(key(t, "half"))
	watch.create(&pb.WatchCreateRequest{Key: k})
	saw.say("%s", watch.recv())
	if err := watch.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewKVClient(conn).Put(patient(t), &pb.PutRequest{Key: k}); err != nil {
		t.Fatal(err)
	}
	saw.say("%s", watch.recv()) // a watch goes on
	return saw
}

// Both sides speak whenever they like on one stream.
func fullDuplex(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	conn := p.grpc(t)
	kv := pb.NewKVClient(conn)
	k := key(t, "duplex")
	w := openWatch(t, conn)
	say := func() { t.Helper(); saw.say("%s", w.recv()) }
	put := func(name string) {
		t.Helper()
		if _, err := kv.Put(patient(t), &pb.PutRequest{Key: []byte(k + name), Value: []byte(name)}); err != nil {
			t.Fatal(err)
		}
	}
	w.create(&pb.WatchCreateRequest{Key: []byte(k + "a"), WatchId: 7})
	say()
	put("a")
	say()
	w.create(&pb.WatchCreateRequest{Key: []byte(k + "b"), WatchId: 8, PrevKv: true})
	say()
	put("b")
	say()
	put("b")
	say()
	w.create(&pb.WatchCreateRequest{Key: []byte(k + "c"), WatchId: 8}) // taken
	say()
	w.cancel(7)
	say()
	put("a")
	put("b")
	say() // of b alone
	if got := strings.Count(strings.Join(saw.lines, "\n"), "PUT"); got != 4 {
		t.Errorf("%d events, want 4: %q", got, saw.lines)
	}
	return saw
}

// A canceled call ends at the member, while its connection stays.
func canceled(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	conn := p.grpc(t)
	watchers := func() float64 { return p.memberCount(t, "etcd_debugging_mvcc_watcher_total") }
	before := float64(p.resting)
	eventually(t, "the watchers of the points before to be gone", func() bool { return watchers() == before })
	handled := p.memberCount(t, "grpc_server_handled_total", `grpc_method="Watch"`)
	gone := openWatch(t, conn)
	gone.create(&pb.WatchCreateRequest{Key: []byte(key(t, "gone"))})
	saw.say("%s", gone.recv())
	stays := openWatch(t, conn)
	stays.create(&pb.WatchCreateRequest{Key: []byte(key(t, "stays"))})
	saw.say("%s", stays.recv())
	if got := watchers(); got != before+2 {
		t.Fatalf("the member has %v watchers, want %v", got, before+2)
	}
	gone.end()
	eventually(t, "the member to have one watcher less", func() bool { return watchers() == before+1 })
	eventually(t, "the member to count the call as ended", func() bool {
		return p.memberCount(t, "grpc_server_handled_total", `grpc_method="Watch"`) > handled
	})
	stays.cancel(0)
	saw.say("%s", stays.recv())
	return saw
}

// The time limit travels in a header. No timer of the client helps here: the member ends the call.
func deadline(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	for limit, least := range map[string]time.Duration{"300m": 300 * time.Millisecond, "1n": 0} {
		w := p.wire(t, new(transcript))
		begin := time.Now()
		w.call(1, "/etcdserverpb.Watch/Watch", "grpc-timeout", limit)
		w.until("end=true", "RST_STREAM")
		took := time.Since(begin)
		if took < least || took > 5*time.Second {
			t.Errorf("%s: it took %v", limit, took)
		}
		// How it ends is a race between two timers of the member: with DeadlineExceeded, with Unknown, or with a reset.
		last := w.saw.lines[len(w.saw.lines)-1]
		if !expired.MatchString(last) {
			t.Errorf("%s: it ends with %s", limit, last)
		}
		saw.say("it is ended by the member")
	}
	return saw
}

var expired = regexp.MustCompile(`"grpc-message"="context deadline exceeded"|^RST_STREAM 1 (CANCEL|NO_ERROR)$`)
