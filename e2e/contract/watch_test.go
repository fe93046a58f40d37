package contract

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Point 2: progress on the same stream, fragments, thousands of watchers on one stream.
func watchPoints() []point {
	return []point{
		{name: "progress is told at once", run: progress},
		{name: "fragments", run: fragments},
		{name: "a thousand watchers on one stream", run: thousandWatchers},
	}
}

// watch is a watch stream, message by message.
type watch struct {
	t      *testing.T
	stream pb.Watch_WatchClient
	end    context.CancelFunc
	base   int64 // revision of the first answer
}

func openWatch(t *testing.T, conn *grpc.ClientConn) *watch {
	t.Helper()
	ctx, cancel := context.WithCancel(patient(t))
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	return &watch{t: t, stream: stream, end: cancel}
}

func (w *watch) send(r *pb.WatchRequest) {
	w.t.Helper()
	if err := w.stream.Send(r); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watch) create(r *pb.WatchCreateRequest) {
	w.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

func (w *watch) cancel(id int64) {
	w.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (w *watch) progress() {
	w.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: new(pb.WatchProgressRequest)}})
}

// recv says what comes next, with revisions counted from the first one.
func (w *watch) recv() string {
	w.t.Helper()
	r, err := w.stream.Recv()
	if err != nil {
		return "end: " + err.Error()
	}
	if w.base == 0 {
		w.base = r.Header.Revision
	}
	line := fmt.Sprintf("watch %d created=%v canceled=%v %q compact=%d fragment=%v +%d", r.WatchId, r.Created, r.Canceled,
		r.CancelReason, r.CompactRevision, r.Fragment, r.Header.Revision-w.base)
	for _, e := range r.Events {
		line += fmt.Sprintf(" %v %d bytes version %d", e.Type, len(e.Kv.Value), e.Kv.Version)
		if e.PrevKv != nil {
			line += fmt.Sprintf(" after %d", e.PrevKv.Version)
		}
	}
	return line
}

// kube-apiserver asks each 100 ms how far the watch is, and lists everything when it is not told within 3 s.
func progress(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	conn := p.grpc(t)
	w := openWatch(t, conn)
	w.create(&pb.WatchCreateRequest{Key: []byte(key(t, "progress"))})
	saw.say("%s", w.recv())
	var took []time.Duration
	for range 50 {
		begin := time.Now()
		w.progress()
		line := w.recv()
		took = append(took, time.Since(begin))
		if !strings.HasPrefix(line, "watch -1 ") {
			t.Fatalf("the answer is %s", line)
		}
		saw.say("%s", line)
	}
	slices.Sort(took)
	t.Logf("median %v, slowest %v", took[len(took)/2], took[len(took)-1])
	// Through a proxy that gathers, or asks its own watch, it would be tens of milliseconds or more.
	if took[len(took)/2] > 20*time.Millisecond {
		t.Errorf("half of the answers took %v and longer", took[len(took)/2])
	}
	return saw
}

// More events at once than a message may have bytes come in fragments, for clients that say they can take them.
func fragments(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	conn := p.grpc(t)
	k := key(t, "fragments")
	value := make([]byte, 1<<20)
	var first int64
	for range 5 {
		put, err := pb.NewKVClient(conn).Put(patient(t), &pb.PutRequest{Key: []byte(k), Value: value})
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = put.Header.Revision
		}
	}
	w := openWatch(t, conn)
	w.create(&pb.WatchCreateRequest{Key: []byte(k), StartRevision: first, Fragment: true})
	parts := 0
	for events := 0; events < 5; {
		line := w.recv()
		if strings.HasPrefix(line, "end") {
			t.Fatal(line)
		}
		events += strings.Count(line, "PUT")
		parts += strings.Count(line, "fragment=true")
		saw.say("%s", line)
	}
	if parts == 0 {
		t.Errorf("nothing came in fragments: %q", saw.lines)
	}
	return saw
}

func thousandWatchers(t *testing.T, p *plumbing) *transcript {
	const many = 1000
	saw := new(transcript)
	conn := p.grpc(t)
	k := key(t, "thousand")
	w := openWatch(t, conn)
	for range many {
		w.create(&pb.WatchCreateRequest{Key: []byte(k)})
	}
	for range many {
		saw.say("%s", w.recv())
	}
	if _, err := pb.NewKVClient(conn).Put(patient(t), &pb.PutRequest{Key: []byte(k)}); err != nil {
		t.Fatal(err)
	}
	var told []string
	for range many {
		told = append(told, w.recv())
	}
	slices.Sort(told) // etcd tells watchers of one key in any order
	if len(slices.Compact(slices.Clone(told))) != many {
		t.Error("a watcher was told twice")
	}
	saw.lines = append(saw.lines, told...)
	return saw
}
