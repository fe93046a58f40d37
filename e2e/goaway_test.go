package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	etcd "github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// GUARANTEE G1: What a client and a member exchange through Parallax is byte for byte what they sent, but for a GOAWAY when a connection is
// to move: one, that refuses nothing that was asked. The connection then ends, though a watch is open on it.
func TestG1GoAwayAtSIGTERM(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: etcd.Etcd37, Size: 1})
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shutdown-timeout=60s"}})
	w := openWatch(t, p.ClientURL)
	told := time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var goaways []http2.GoAwayFrame
	for {
		f, err := w.ReadFrame()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the connection did not end in order: %v", err)
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			goaways = append(goaways, *f)
		case *http2.PingFrame, *http2.WindowUpdateFrame: // the member's own
		default:
			t.Errorf("after SIGTERM: %v", f)
		}
	}
	took := time.Since(told)
	if len(goaways) != 1 || goaways[0].LastStreamID != 1<<31-1 || goaways[0].ErrCode != http2.ErrCodeNo || len(goaways[0].DebugData()) != 0 {
		t.Errorf("%d GOAWAYs: %v, want one of NO_ERROR and the highest stream id", len(goaways), goaways)
	}
	if took > 20*time.Second { // of 60
		t.Errorf("a connection with nothing but a watch ended after %v", took)
	}
	t.Logf("from SIGTERM to the end of the connection: %v", took)
	ended(t, p, 20*time.Second)
}

// What a client waits for at SIGTERM, it gets, while the answer comes within --shutdown-timeout; and its connection, with an
// open watch, ends when it has it.
func TestAnAnswerIsWaitedFor(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: etcd.Etcd36, Size: 1})
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--shutdown-timeout=60s"}})
	client, conns := observed(t, p.ClientURL)
	watch := client.Watch(t.Context(), "/waited", clientv3.WithCreatedNotify())
	if r := <-watch; !r.Created {
		t.Fatalf("watch: %v", r)
	}
	if err := c.Members[0].Pause(); err != nil {
		t.Fatal(err)
	}
	up := count(t, p, "parallax_proxy_bytes_total", `direction="up"`)
	type answer struct {
		put *clientv3.PutResponse
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		put, err := client.Put(t.Context(), "/waited", "v")
		answered <- answer{put, err}
	}()
	eventually(t, 10*time.Second, "the put to be under way", func() bool { return count(t, p, "parallax_proxy_bytes_total", `direction="up"`) > up })
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the client to be told", func() bool { return count(t, p, "parallax_proxy_goaways_total") == 1 })
	told := time.Now()
	select {
	case a := <-answered:
		t.Fatalf("the put was not waited for: %v, %v", a.put, a.err)
	case <-time.After(500 * time.Millisecond):
	}
	if err := c.Members[0].Resume(); err != nil {
		t.Fatal(err)
	}
	a := <-answered
	if a.err != nil {
		t.Fatalf("a put that was under way at SIGTERM: %v", a.err)
	}
	ended(t, p, 20*time.Second)
	if end := conns.endAfter(told); end.IsZero() {
		t.Error("the connection did not end")
	}
	got, err := c.Client().Get(t.Context(), "/waited")
	if err != nil || len(got.Kvs) != 1 || got.Kvs[0].ModRevision != a.put.Header.Revision || got.Kvs[0].Version != 1 {
		t.Errorf("acknowledged at revision %d, and there is %v, %v", a.put.Header.Revision, got, err)
	}
}

// openWatch speaks HTTP/2 by hand, to see each frame: it opens a watch and reads what comes up to the news that it is open.
func openWatch(t *testing.T, url string) *http2.Framer {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(90 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer // what is written to it cannot fail
	out.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&out, conn)
	_ = f.WriteSettings()
	var block bytes.Buffer
	header := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/etcdserverpb.Watch/Watch"}, {":authority", "etcd"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = header.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	const stream = 1
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
	create, err := proto.Marshal(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("/goaway")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	_ = f.WriteData(stream, false, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(create))), create...))
	_ = f.WriteSettingsAck()
	if _, err := conn.Write(out.Bytes()); err != nil {
		t.Fatal(err)
	}
	for first := true; ; first = false {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch kind := frame.Header().Type; {
		case first && kind != http2.FrameSettings, kind == http2.FrameGoAway:
			t.Fatalf("unexpected: %v", frame)
		case kind == http2.FrameData:
			return f
		}
	}
}
