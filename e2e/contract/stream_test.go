package contract

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// Points 7 and 10: keepalive is end to end, there is no time limit of our own, and no number of streams or connections.
func streamPoints() []point {
	return []point{
		{name: "pings", run: pings},
		{name: "hundreds of connections with a watch each", run: manyConnections, heavy: true},
	}
}

// What a member thinks of pings is between it and the client that sends them: a gRPC server ends a connection on which they come
// more often than every five seconds.
func pings(t *testing.T, p *plumbing) *transcript {
	const many = 10
	saw := new(transcript)
	w := p.wire(t, saw)
	w.until("SETTINGS")
	for i := range byte(many) {
		if err := w.framer.WritePing(false, [8]byte{i}); err != nil {
			break // it has been ended
		}
	}
	for w.pongs < many && !w.ended {
		if line := w.next(); line != "" {
			saw.say("%s", line)
		}
	}
	if p.cluster.PKI == nil && !strings.Contains(strings.Join(saw.lines, " "), `ENHANCE_YOUR_CALM "too_many_pings"`) {
		t.Errorf("the member bears it: %q", saw.lines)
	}
	return saw
}

// A connection that is idle while the whole suite runs is a connection still: the function that is returned tries it.
func rest(t *testing.T, p *plumbing) (wake func()) {
	t.Helper()
	since := time.Now()
	conn := p.grpc(t)
	k := []byte(key(t, "idle"))
	stream, err := pb.NewWatchClient(conn).Watch(t.Context()) // with no end of its own
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{t: t, stream: stream}
	w.create(&pb.WatchCreateRequest{Key: k})
	w.recv()
	return func() {
		t.Helper()
		before := time.Now()
		if _, err := pb.NewKVClient(conn).Put(patient(t), &pb.PutRequest{Key: k}); err != nil {
			t.Errorf("%s: after %v: %v", p.name, time.Since(since), err)
		}
		if line := w.recv(); !strings.Contains(line, "PUT") {
			t.Errorf("%s: after %v: %s", p.name, time.Since(since), line)
		}
		if took := time.Since(before); took > 5*time.Second {
			t.Errorf("%s: it took %v", p.name, took)
		}
		t.Logf("%s: idle for %v", p.name, before.Sub(since))
	}
}

// kube-apiserver opens a connection and a watch for each resource type.
func manyConnections(t *testing.T, p *plumbing) *transcript {
	const many = 500
	k := []byte(key(t, "many"))
	watches := make([]*watch, many)
	var opening sync.WaitGroup
	for i := range watches {
		conn := p.grpc(t)
		watches[i] = openWatch(t, conn)
		opening.Go(func() {
			watches[i].create(&pb.WatchCreateRequest{Key: k})
			watches[i].recv()
		})
	}
	opening.Wait()
	if p.parallax != nil {
		if open := p.count(t, "parallax_proxy_connections"); open < many {
			t.Errorf("%v connections through Parallax", open)
		}
	}
	begin := time.Now()
	if _, err := pb.NewKVClient(p.grpc(t)).Put(patient(t), &pb.PutRequest{Key: k}); err != nil {
		t.Fatal(err)
	}
	saw := new(transcript)
	for _, w := range watches {
		saw.say("%s", w.recv())
	}
	t.Logf("%d connections know it after %v", many, time.Since(begin))
	if told := strings.Count(strings.Join(saw.lines, "\n"), "PUT"); told != many {
		t.Errorf("%d of %d are told", told, many)
	}
	return saw
}

// As many streams as the member allows, and what comes beyond them is the member's to answer.
func TestStreamsThatTheMemberAllows(t *testing.T) {
	for _, version := range binary.EtcdVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := cluster.StartT(t, cluster.Options{Version: version, Size: 1, ExtraFlags: []string{"--max-concurrent-streams=5"}})
			var want *transcript
			for _, p := range append([]*plumbing{directly(c)}, through(t, c, place(t), []string{"http"})...) {
				saw := manyStreams(t, p)
				waitingStreams(t, p)
				if want == nil {
					want = saw
				}
				want.compare(t, saw)
			}
		})
	}
}

// manyStreams opens more than are allowed on one connection, which no client does.
func manyStreams(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	w := p.wire(t, saw)
	w.until("SETTINGS")
	if !strings.Contains(saw.lines[0], "MAX_CONCURRENT_STREAMS = 5") {
		t.Errorf("the member allows %s", saw.lines[0])
	}
	for i := range uint32(5) {
		w.call(1+2*i, "/etcdserverpb.Watch/Watch")
		w.send(1+2*i, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}, false)
	}
	for range 5 {
		w.until("DATA")
	}
	slices.Sort(saw.lines) // streams that are open side by side are answered in any order
	w.call(11, "/etcdserverpb.Watch/Watch")
	w.until("RST_STREAM", "GOAWAY", "HEADERS 11")
	// One that ends makes room.
	w.must(w.framer.WriteRSTStream(1, http2.ErrCodeCancel))
	w.call(13, "/etcdserverpb.KV/Range")
	w.send(13, new(pb.RangeRequest), true)
	w.until("HEADERS 13", "RST_STREAM 13", "GOAWAY")
	return saw
}

// waitingStreams: a client that keeps to the limit opens the sixth when one has ended.
func waitingStreams(t *testing.T, p *plumbing) {
	t.Helper()
	conn := p.grpc(t)
	var open []*watch
	for range 5 {
		w := openWatch(t, conn)
		w.create(&pb.WatchCreateRequest{Key: []byte("k")})
		w.recv()
		open = append(open, w)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := pb.NewKVClient(conn).Range(patient(t), &pb.RangeRequest{Key: []byte("k")})
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Errorf("a sixth call was answered with %v", err)
	case <-time.After(200 * time.Millisecond): // it is not told otherwise that it waits
	}
	open[0].end()
	select {
	case err := <-answered:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the sixth call is never answered")
	}
}
