package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// attackers have an address of their own, as hostile clients do.
var attackers = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}

// attacks are what hostile clients of etcd say behind the preface, again and again until the member has enough.
var attacks = map[string]func(f *http2.Framer, id uint32) error{
	"SETTINGS": func(f *http2.Framer, id uint32) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: id})
	},
	"PING":          func(f *http2.Framer, _ uint32) error { return f.WritePing(false, [8]byte{}) },
	"WINDOW_UPDATE": func(f *http2.Framer, _ uint32) error { return f.WriteWindowUpdate(0, 1) },
	"PRIORITY": func(f *http2.Framer, id uint32) error {
		return f.WritePriority(id, http2.PriorityParam{StreamDep: id + 2})
	},
	"CONTINUATION": func(f *http2.Framer, id uint32) error {
		if id == 1 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1})
		}
		return f.WriteContinuation(1, false, bytes.Repeat([]byte("\x00\x01a\x01b"), 20))
	},
	"rapid reset": func(f *http2.Framer, id uint32) error {
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: rangeHeaders, EndHeaders: true}); err != nil {
			return err
		}
		return f.WriteRSTStream(id, http2.ErrCodeCancel)
	},
	"calls without end": func(f *http2.Framer, id uint32) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: rangeHeaders, EndHeaders: true})
	},
	"empty DATA": func(f *http2.Framer, id uint32) error {
		if id == 1 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: rangeHeaders, EndHeaders: true})
		}
		return f.WriteData(1, false, nil)
	},
	"HPACK table churned": func(f *http2.Framer, id uint32) error {
		return f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: id, BlockFragment: bytes.Repeat([]byte("\x40\x00\x00"), 5000), EndHeaders: true, EndStream: true,
		})
	},
	"HPACK table of 64 KiB churned": func(f *http2.Framer, id uint32) error {
		return f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: id, BlockFragment: append([]byte("\x3f\xe1\xff\x03"), bytes.Repeat([]byte("\x40\x00\x00"), 5000)...), EndHeaders: true, EndStream: true,
		})
	},
	"names of 60,000 bytes": func(f *http2.Framer, id uint32) error {
		block := append([]byte("\x00\x7f\xe1\xd3\x03"), bytes.Repeat([]byte("a"), 60_000)...)
		block = append(block, 0)
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block[:16_000], EndStream: true}); err != nil {
			return err
		}
		for block = block[16_000:]; len(block) > 16_000; block = block[16_000:] {
			if err := f.WriteContinuation(id, false, block[:16_000]); err != nil {
				return err
			}
		}
		return f.WriteContinuation(id, true, block)
	},
	"garbage": func(f *http2.Framer, _ uint32) error {
		return f.WriteRawFrame(http2.FrameType(rand.IntN(256)), http2.Flags(rand.IntN(256)), rand.Uint32N(1<<31), make([]byte, rand.IntN(1000)))
	},
}

// rangeHeaders begin a get. They leave the HPACK table as it is, so that they mean the same each time.
var rangeHeaders = func() []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/etcdserverpb.KV/Range"}, {":authority", "etcd"}, {"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}) // it writes to a buffer
	}
	return block.Bytes()
}()

// Hostile clients cost their own connections. Honest ones notice nothing, the members live, and Parallax stays small.
//
// GUARANTEE G7: Memory is bounded, per connection and in all.
func TestG7HostileClients(t *testing.T) {
	const most = 96 << 20 // in all, after every attack; it has 25 MiB before
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Flags: []string{"--sample-reads=1"}})
	allMembers(t, p)
	honest := startCheckers(t, p.ClientURL, "/honest", 3)
	connections := connected(t, p, 3)
	honest.some(t, 10)
	t.Logf("Parallax has %d MiB before", weight(t, p.PID(), "VmRSS")>>20)
	for name, say := range attacks {
		t.Run(name, func(t *testing.T) {
			before := count(t, p, "parallax_proxy_bytes_total", `direction="up"`)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() { attack(t, p.ClientURL, say) })
			}
			all.Wait()
			honest.some(t, 10)
			left := 0.0
			over := func() bool { left = count(t, p, "parallax_proxy_connections"); return left == connections }
			for end := time.Now().Add(30 * time.Second); !over(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%v connections are left, of %v honest ones", left, connections)
				}
			}
			said := count(t, p, "parallax_proxy_bytes_total", `direction="up"`) - before
			now := weight(t, p.PID(), "VmRSS")
			t.Logf("%.1f MiB were relayed, and Parallax has %d MiB", said/(1<<20), now>>20)
			if now > most {
				t.Errorf("Parallax has %d MiB, want at most %d", now>>20, most>>20)
			}
		})
	}
	for _, m := range c.Members {
		if _, err := m.Client().Status(t.Context(), m.ClientURL); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
	if n := count(t, p, "parallax_proxy_tap_ended_total"); n == 0 {
		t.Error("no tap has ended, of what no tap can follow")
	}
	if n := count(t, p, "parallax_proxy_tap_ended_total", `reason="panic"`); n != 0 {
		t.Errorf("%v taps have panicked", n)
	}
	t.Logf("Parallax had %d MiB at most", weight(t, p.PID(), "VmHWM")>>20)
	honest.cancel()
	// On cores that are busy with the attack, a raft round may take the members longer than they allow; that is theirs.
	if err := honest.group.Wait(); err != nil && !errors.Is(err, rpctypes.ErrTimeout) {
		t.Errorf("a client noticed: %v", err)
	}
	silent(t, p)
}

// connected waits until so many clients have their connections.
func connected(t *testing.T, p *parallax.Process, clients float64) float64 {
	t.Helper()
	eventually(t, 30*time.Second, "all honest clients to be connected", func() bool { return count(t, p, "parallax_proxy_connections") == clients })
	return clients
}

// attack says the same again and again, for a while or until it is thrown out.
func attack(t *testing.T, target string, say func(*http2.Framer, uint32) error) {
	const atMost, frames = 2 * time.Second, 5_000
	c, err := dialFrom(t.Context(), attackers, target)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(atMost))
	var answers sync.WaitGroup
	answers.Go(func() { _, _ = io.Copy(io.Discard, c) })
	defer answers.Wait()
	defer c.Close() // which ends the reading
	var out bytes.Buffer
	out.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&out, nil)
	f.AllowIllegalWrites = true
	_ = f.WriteSettings()
	for i := range uint32(frames) {
		if err := say(f, 2*i+1); err != nil {
			t.Error(err)
			return
		}
		if out.Len() < 32<<10 {
			continue
		}
		if _, err := c.Write(out.Bytes()); err != nil {
			return // thrown out, or held up: a member that does not read
		}
		out.Reset()
	}
	_, _ = c.Write(out.Bytes())
}

// Clients that ask and ask and read no answer hold up themselves: a member that cannot write its answer does not read on. When they
// are gone nothing is left of them, although nobody was reading their connections any more.
func TestStuckClientsLeaveNothingBehind(t *testing.T) {
	const stuck = 10
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36, Size: 1})
	p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints()})
	honest := startCheckers(t, p.ClientURL, "/honest", 2)
	connections, files := connected(t, p, 2), openFiles(t, c.Members[0].PID())
	honest.some(t, 5)
	said := bytes.Repeat([]byte("GET /metrics HTTP/1.1\r\nHost: etcd\r\n\r\n"), 10_000)
	var all sync.WaitGroup
	for range stuck {
		all.Go(func() {
			c, err := dialFrom(t.Context(), attackers, p.ClientURL)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close() // a reset, as it has not read
			for held := false; !held; {
				_ = c.SetWriteDeadline(time.Now().Add(time.Second))
				_, err := c.Write(said)
				held = err != nil
			}
		})
	}
	all.Wait()
	honest.some(t, 5)
	eventually(t, 30*time.Second, "the hostile connections to be over", func() bool {
		return count(t, p, "parallax_proxy_connections") == connections
	})
	eventually(t, 30*time.Second, "the member to be rid of them", func() bool { return openFiles(t, c.Members[0].PID()) < files+stuck })
	honest.stop(t)
}

func dialFrom(ctx context.Context, from net.Addr, target string) (net.Conn, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{LocalAddr: from}).DialContext(ctx, "tcp", u.Host)
}

// 5,000 connections that are opened and left silent, from one address: no member hears of them, other addresses are served, and
// when their time is over nothing is left.
//
// GUARANTEE G7: Memory is bounded, per connection and in all.
func TestG7FloodOfSilentConnections(t *testing.T) {
	const flood, beyond, eachAtMost, patience = 5000, 50, 16 << 10, 15 * time.Second
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36, Size: 1})
	p := parallax.StartT(t, parallax.Options{
		Endpoints: c.Endpoints(), Flags: []string{"--handshake-timeout=" + patience.String(), "--max-connections-per-peer=" + strconv.Itoa(flood)},
	})
	honest := startCheckers(t, p.ClientURL, "/honest", 2)
	connections := connected(t, p, 2)
	honest.some(t, 5)
	before, dials := weight(t, p.PID(), "VmRSS"), count(t, p, "parallax_proxy_dials_total")
	files := openFiles(t, c.Members[0].PID())
	begin := time.Now()
	var all []net.Conn
	defer func() {
		for _, c := range all {
			_ = c.Close()
		}
	}()
	for range flood + beyond {
		c, err := dialFrom(t.Context(), attackers, p.ClientURL)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if took := time.Since(begin); took > patience/2 {
		t.Skipf("it took %v to connect: the first ones are nearly over", took)
	}
	eventually(t, patience/4, "all to be accepted", func() bool { return count(t, p, "parallax_proxy_connections") == connections+flood })
	if n := count(t, p, "parallax_proxy_connections_refused_total", `reason="too-many-of-one-peer"`); n != beyond {
		t.Errorf("%v were refused, want %d", n, beyond)
	}
	grown := weight(t, p.PID(), "VmRSS") - before
	t.Logf("%d connections: %.1f KiB each", flood, float64(grown)/flood/(1<<10))
	if grown > flood*eachAtMost {
		t.Errorf("Parallax has grown by %d MiB, want at most %d", grown>>20, flood*eachAtMost>>20)
	}
	honest.some(t, 5)
	if n := count(t, p, "parallax_proxy_dials_total"); n != dials {
		t.Errorf("%v more members were dialed", n-dials)
	}
	if n := openFiles(t, c.Members[0].PID()); n > files+20 { // it opens others, too
		t.Errorf("the member has %d open files, it had %d", n, files)
	}
	eventually(t, 2*patience, "the flood to be over", func() bool {
		return count(t, p, "parallax_proxy_connections") == connections &&
			count(t, p, "parallax_proxy_connections_refused_total", `reason="silent"`) == flood
	})
	honest.stop(t)
}

// weight is a size from /proc/PID/status, in bytes.
func weight(t *testing.T, pid int, field string) int64 {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == field+":" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no %s", field)
	return 0
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
