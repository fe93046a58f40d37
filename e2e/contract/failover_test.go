package contract

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// Point 4 where it matters: who asks for a leader is told that there is none, and who does not is served what the member has.
func TestWithoutLeader(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	ways := append([]*plumbing{directly(c)}, through(t, c, place(t), []string{"http"})...)
	for _, m := range c.Members[1:] {
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	var want *transcript
	for _, p := range ways {
		saw := new(transcript)
		conn := p.grpc(t)
		read := &pb.RangeRequest{Key: []byte("k"), Serializable: true}
		asking := metadata.AppendToOutgoingContext(patient(t), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
		eventually(t, "the member to miss its leader", func() bool {
			_, err := pb.NewKVClient(conn).Range(asking, read)
			return err != nil
		})
		_, err := pb.NewKVClient(conn).Range(asking, read)
		saw.say("asking: %v", err)
		_, err = pb.NewKVClient(conn).Range(patient(t), read)
		saw.say("not asking: %v", err)
		stream, err := pb.NewWatchClient(conn).Watch(asking)
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		saw.say("watching: %v", err)
		if !strings.Contains(saw.lines[0], rpctypes.ErrGRPCNoLeader.Error()) || saw.lines[1] != "not asking: <nil>" {
			t.Errorf("%s: %q", p.name, saw.lines)
		}
		if want == nil {
			want = saw
		}
		want.compare(t, saw)
	}
}

// Point 12: a member is killed under load. The connections to it end, those to others do not; clients go on with another member; and
// no write was made twice, whatever its client was told.
func TestMemberDies(t *testing.T) {
	for _, version := range binary.AllEtcdVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := cluster.StartT(t, cluster.Options{Version: version})
			for _, p := range append([]*plumbing{directly(c)}, through(t, c, place(t), []string{"http"})...) {
				t.Run(p.name, func(t *testing.T) { memberDies(t, p) })
			}
		})
	}
}

func memberDies(t *testing.T, p *plumbing) {
	prefix := key(t, "dies")
	var writers []*writer
	for i := range 4 {
		writers = append(writers, &writer{client: p.client(t, p.allEndpoints), prefix: fmt.Sprintf("%s%d-", prefix, i)})
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for _, w := range writers {
		running.Go(func() { w.write(ctx) })
	}
	for _, w := range writers {
		w.wait(t, 20)
	}
	victim := memberOf(p.cluster, writers[0].lastAnswer())
	watches := p.watchAll(t, key(t, "watched"))
	if err := victim.Kill(); err != nil {
		t.Fatal(err)
	}
	watches.onlyThoseOf(t, victim)
	for i, w := range writers {
		w.wait(t, 20)
		if w.lastAnswer() == victim.ID {
			t.Errorf("writer %d is answered by the dead member", i)
		}
	}
	stop()
	running.Wait()
	if err := victim.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.cluster.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, w := range writers {
		w.account(t, p.cluster)
	}
}

// allEndpoints is what a client has that is not told of Parallax.
func (p *plumbing) allEndpoints(config *clientv3.Config) {
	if p.parallax == nil {
		config.Endpoints = p.cluster.Endpoints()
	}
}

// writer puts keys, each one once.
type writer struct {
	client *clientv3.Client
	prefix string

	mu     sync.Mutex
	tried  int
	acked  []string
	member uint64        // of the last answer
	gap    time.Duration // longest time between two answers
}

func (w *writer) write(ctx context.Context) {
	last := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		k := fmt.Sprintf("%s%06d", w.prefix, i)
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		put, err := w.client.Put(attempt, k, "v")
		cancel()
		w.mu.Lock()
		w.tried++
		if err == nil {
			w.acked = append(w.acked, k)
			w.member = put.Header.MemberId
			w.gap, last = max(w.gap, time.Since(last)), time.Now()
		}
		w.mu.Unlock()
	}
}

// wait until that many more writes are acknowledged.
func (w *writer) wait(t *testing.T, more int) {
	t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acked)
	}
	before := count()
	eventually(t, "more writes", func() bool { return count() >= before+more })
}

func (w *writer) lastAnswer() (member uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.member
}

// account holds what is there against what was tried: all that was acknowledged, and everything once.
func (w *writer) account(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	got, err := c.Client().Get(patient(t), w.prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]bool)
	for _, kv := range got.Kvs {
		there[string(kv.Key)] = true
		if kv.Version != 1 {
			t.Errorf("%s was written %d times", kv.Key, kv.Version)
		}
	}
	for _, k := range w.acked {
		if !there[k] {
			t.Errorf("%s was acknowledged and is not there", k)
		}
	}
	t.Logf("%d writes, %d acknowledged, %d there; longest time without an answer %v", w.tried, len(w.acked), len(there), w.gap)
}

// watching are watches on connections of their own, and the member of each.
type watching map[*watch]uint64

// watchAll opens as many watches as there are members; directly one at each, through Parallax where it takes them.
func (p *plumbing) watchAll(t *testing.T, k string) watching {
	t.Helper()
	all := make(watching)
	for _, m := range p.cluster.Members {
		way := *p
		if p.parallax == nil {
			way.url = m.ClientURL
		}
		w := openWatch(t, way.grpc(t))
		w.create(&pb.WatchCreateRequest{Key: []byte(k)})
		created, err := w.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		all[w] = created.Header.MemberId
	}
	return all
}

// onlyThoseOf waits for the end of those of a member that was killed, and checks that the others live.
func (all watching) onlyThoseOf(t *testing.T, victim *cluster.Member) {
	t.Helper()
	ended := 0
	for w, id := range all {
		if id != victim.ID {
			w.progress()
		}
		line := w.recv()
		if over := strings.HasPrefix(line, "end: "); over != (id == victim.ID) {
			t.Errorf("%x was killed, and %x says %s", victim.ID, id, line)
		} else if over {
			ended++
		}
	}
	if ended == 0 || ended == len(all) {
		t.Errorf("%d of %d watches ended", ended, len(all))
	}
}
