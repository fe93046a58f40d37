package contract

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// Points 8 and 9: sizes are what client and member make of them, and so is the speed.
func sizePoints() []point {
	return []point{
		{name: "too big a request", run: tooBig},
		{name: "a window of bytes", run: window},
		{name: "an answer of a hundred MiB", run: bigAnswer, heavy: true},
		{name: "a client that does not read", run: slowReader, heavy: true},
	}
}

// etcd itself says what is too big: 1.5 MiB of request, and 512 KiB more for a message.
func tooBig(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	kv := pb.NewKVClient(p.grpc(t))
	k := []byte(key(t, "big"))
	for _, size := range []int{1<<20 + 1<<19 - 100, 1<<20 + 1<<19, 2<<20 - 100, 2 << 20, 8 << 20} {
		_, err := kv.Put(patient(t), &pb.PutRequest{Key: k, Value: make([]byte, size)})
		saw.say("%d bytes: %v %q", size, status.Code(err), status.Convert(err).Message())
	}
	for i, want := range []string{"OK", "etcdserver: request is too large", "etcdserver: request is too large", "larger than max", "larger than max"} {
		if !strings.Contains(saw.lines[i], want) {
			t.Errorf("%s, want %q", saw.lines[i], want)
		}
	}
	return saw
}

// The flow of bytes is between client and member: a window of nothing lets nothing through, one of 1,000 bytes that much.
func window(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	k := []byte(key(t, "window"))
	if _, err := pb.NewKVClient(p.grpc(t)).Put(patient(t), &pb.PutRequest{Key: k, Value: make([]byte, 100<<10)}); err != nil {
		t.Fatal(err)
	}
	w := p.wire(t, saw, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	w.call(1, "/etcdserverpb.KV/Range")
	w.send(1, &pb.RangeRequest{Key: k}, true)
	w.until("HEADERS")
	for _, size := range []uint32{1000, 5, 20000} {
		w.must(w.framer.WriteWindowUpdate(1, size))
		w.quota(1, size)
	}
	w.must(w.framer.WriteWindowUpdate(0, 1<<20))
	w.must(w.framer.WriteWindowUpdate(1, 1<<20))
	for more := true; more; {
		line := w.next()
		more = !strings.Contains(line, "end=true")
	}
	return saw
}

// quota reads as many bytes of a stream, which have to come, and then makes sure that no more do.
func (w *wire) quota(stream, size uint32) {
	w.t.Helper()
	var got uint32
	for got < size {
		var id, n uint32
		line := w.next()
		if line == "" {
			continue
		}
		if _, err := fmt.Sscanf(line, "DATA %d end=false %d bytes", &id, &n); err != nil || id != stream {
			w.t.Fatalf("after %d of %d bytes: %s", got, size, line)
		}
		got += n
	}
	// A member that were not held back would send the rest before it answers a ping.
	w.must(w.framer.WritePing(false, [8]byte{1}))
	w.pong(&got)
	w.saw.say("%d bytes", got)
	if got != size {
		w.t.Errorf("%d bytes, the window has %d", got, size)
	}
}

const bigKeys, bigValue = 110, 1 << 20

// stock fills the member with more than 100 MiB, once.
func stock(t *testing.T, p *plumbing) (prefix []byte) {
	t.Helper()
	prefix = []byte("/stock/")
	kv := pb.NewKVClient(directly(p.cluster).grpc(t))
	there, err := kv.Range(patient(t), &pb.RangeRequest{Key: prefix, RangeEnd: []byte("/stock0"), CountOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := there.Count; i < bigKeys; i++ {
		value := bytes.Repeat([]byte{byte(i)}, bigValue)
		if _, err := kv.Put(patient(t), &pb.PutRequest{Key: fmt.Appendf(nil, "/stock/%03d", i), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	return prefix
}

func bigAnswer(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	prefix := stock(t, p)
	begin := time.Now()
	got, err := pb.NewKVClient(p.grpc(t)).Range(patient(t), &pb.RangeRequest{Key: prefix, RangeEnd: []byte("/stock0")})
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	for _, kv := range got.Kvs {
		hash.Write(fmt.Appendf(nil, "%s %d ", kv.Key, kv.ModRevision))
		hash.Write(kv.Value)
	}
	t.Logf("%d MiB in %v", bigKeys*bigValue>>20, time.Since(begin))
	saw.say("%d keys %x", len(got.Kvs), hash.Sum(nil))
	if len(got.Kvs) != bigKeys {
		t.Error(saw.lines[0])
	}
	return saw
}

// A client that does not read stops the member, and nothing piles up in between, however big the windows that it gave.
func slowReader(t *testing.T, p *plumbing) *transcript {
	const calls = 3
	saw := new(transcript)
	prefix := stock(t, p)
	rss, sent := p.weight(t), p.relayedDown(t)
	w := p.wire(t, new(transcript), http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32})
	w.must(w.framer.WriteWindowUpdate(0, math.MaxInt32-65535))
	for stream := uint32(1); stream < 2*calls; stream += 2 {
		w.call(stream, "/etcdserverpb.KV/Range")
		w.send(stream, &pb.RangeRequest{Key: prefix, RangeEnd: []byte("/stock0")}, true)
	}
	if p.parallax != nil {
		p.quiet(t, sent)
		relayed, grown := p.relayedDown(t)-sent, p.weight(t)-rss
		t.Logf("%.1f MiB relayed to a client that does not read, %.1f MiB more memory", relayed/(1<<20), grown/(1<<20))
		// What fits into the sockets of three processes. Memory of Go's race detector is several times that of the program.
		if relayed > 32<<20 || grown > 24<<20 {
			t.Errorf("%.1f MiB relayed and %.1f MiB more memory", relayed/(1<<20), grown/(1<<20))
		}
	}
	// Others are served meanwhile.
	if _, err := pb.NewKVClient(p.grpc(t)).Range(patient(t), &pb.RangeRequest{Key: []byte("k")}); err != nil {
		t.Error(err)
	}
	bytes, ended := 0, 0
	for ended < calls && !w.ended {
		var id, n int
		line := w.next()
		if _, err := fmt.Sscanf(line, "DATA %d end=false %d bytes", &id, &n); err == nil {
			bytes += n
		} else if strings.Contains(line, "end=true") {
			ended++
		}
	}
	saw.say("%d answers, more than %d MiB: %v", ended, calls*bigKeys, bytes > calls*bigKeys*bigValue)
	if ended != calls {
		t.Error(saw.lines[0])
	}
	return saw
}

// quiet waits until Parallax has begun to relay an answer, and relays no more.
func (p *plumbing) quiet(t *testing.T, before float64) {
	t.Helper()
	last, since := before, time.Now()
	eventually(t, "the bytes to stand still", func() bool {
		if now := p.relayedDown(t); now != last {
			last, since = now, time.Now()
		}
		return last > before+1<<20 && time.Since(since) > 500*time.Millisecond
	})
}

func (p *plumbing) relayedDown(t *testing.T) float64 {
	t.Helper()
	if p.parallax == nil {
		return 0
	}
	return p.count(t, "parallax_proxy_bytes_total", `direction="down"`)
}

// count adds up a metric of Parallax.
func (p *plumbing) count(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	m, err := p.parallax.Metrics(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	return parallax.Sum(m, name, labels...)
}

// memberCount adds up a metric of the member, which is asked directly.
func (p *plumbing) memberCount(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	client, base := directly(p.cluster).web(t)
	resp, err := client.Get(base + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m, err := parallax.ParseMetrics(body)
	if err != nil {
		t.Fatal(err)
	}
	return parallax.Sum(m, name, labels...)
}

// weight is the resident memory of Parallax in bytes.
func (p *plumbing) weight(t *testing.T) float64 {
	t.Helper()
	if p.parallax == nil {
		return 0
	}
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.parallax.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib * 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
