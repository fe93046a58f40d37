package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"

	"github.com/etcd-parallax/parallax/proxy/tap"
)

// GUARANTEE G1, while a tap listens: what real etcd clients and members said
// (proxy/tap/testdata/conversations) passes byte for byte in both directions,
// whatever the chunks, and is heard.
func TestG1RealConversationsPassUnchangedAndHeard(t *testing.T) {
	files, err := filepath.Glob("tap/testdata/conversations/*.bin")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d conversations: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			members := make(chan net.Conn, 1)
			heard := &counting{}
			p := &Proxy{Endpoints: []string{member(t, func(c net.Conn) {
				members <- c
				<-t.Context().Done()
			})}, Observer: heard}
			client := dialTCP(t, serve(t, p))
			deadline := time.Now().Add(time.Minute)
			_ = client.SetDeadline(deadline)
			steps := conversation(t, file)
			// The member is dialed when the client has spoken, and then may be the first whose words are read.
			begins := slices.IndexFunc(steps, func(s step) bool { return !s.down })
			const spoken = len(http2.ClientPreface)
			if _, err := client.Write(steps[begins].bytes[:spoken]); err != nil {
				t.Fatal(err)
			}
			server := <-members
			_ = server.SetDeadline(deadline)
			if _, err := io.ReadFull(server, make([]byte, spoken)); err != nil {
				t.Fatal(err)
			}
			steps[begins].bytes = steps[begins].bytes[spoken:]
			for i, s := range steps {
				from, to := net.Conn(client), server
				if s.down {
					from, to = server, client
				}
				if err := passes(from, to, s.bytes); err != nil {
					t.Fatalf("chunk %d: %v", i, err)
				}
			}
			eventually(t, "messages to be heard", func() bool { return heard.calls.Load() >= 5 })
			if n := testutil.CollectAndCount(p.Metrics.tapsEnded); n != 0 {
				t.Error("the tap ended")
			}
		})
	}
}

// passes sends bytes in pieces of random sizes, and compares what arrives.
func passes(from, to net.Conn, b []byte) error {
	sent := make(chan error, 1)
	go func() {
		for rest := b; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(1+rand.IntN(4096)))
			if _, err := from.Write(rest[:n]); err != nil {
				sent <- err
				return
			}
			rest = rest[n:]
		}
		sent <- nil
	}()
	got := make([]byte, len(b))
	_, err := io.ReadFull(to, got)
	if err == nil && !bytes.Equal(got, b) {
		err = errors.New("other bytes arrived than were sent")
	}
	return errors.Join(err, <-sent)
}

type step struct {
	down  bool
	bytes []byte
}

// conversation reads a file of the format that its README tells.
func conversation(t *testing.T, file string) (steps []step) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 0 {
		n := 5 + int(binary.BigEndian.Uint32(b[1:5]))
		steps = append(steps, step{down: b[0] == 'D', bytes: b[5:n]})
		b = b[n:]
	}
	return steps
}

// counting wants everything, and counts it.
type counting struct{ calls atomic.Int64 }

func (c *counting) Request(string) int                 { return 1 << 20 }
func (c *counting) Response(string, []byte) tap.Limits { return tap.Limits{Bytes: 1 << 20, Each: true} }
func (c *counting) Observe(tap.Call)                   { c.calls.Add(1) }
