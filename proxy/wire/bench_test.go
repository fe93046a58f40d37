package wire

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// The relays run in a process of their own (this test binary, see TestMain), so that what they cost can be told
// apart from what the ends cost: "wire" is the package, "copy" the plainest relay that can be written, two io.Copy
// on *net.TCPConn or *tls.Conn.
//
//	go test -run='^$' -bench=Relay -benchtime=15x ./proxy/wire

// BenchmarkRelayCPU is CPU per exchange: b.N rounds, in each of which every relay gets its turn; medians. A
// second io.Copy relay is the control: its ratio is the noise.
func BenchmarkRelayCPU(b *testing.B) {
	for _, secure := range []bool{false, true} {
		for _, load := range []struct {
			name               string
			request, answer    int
			exchanges, clients int
		}{
			{"small", 120, 1200, 3000, 1}, {"concurrent", 120, 1200, 4000, 8},
			{"list", 120, 500 << 10, 150, 1}, {"bulk", 120, 16 << 20, 8, 1},
		} {
			b.Run(fmt.Sprintf("tls=%t/load=%s", secure, load.name), func(b *testing.B) {
				b.StopTimer()
				kinds := []string{"copy", "control", "wire"}
				cost := map[string][]float64{}
				relays := map[string]*relayed{}
				for _, kind := range kinds {
					relays[kind] = startRelay(b, kind, secure, load.clients)
					relays[kind].exchange(b, load.request, load.answer, 10)
				}
				for range b.N {
					for _, kind := range kinds {
						r := relays[kind]
						before := r.ask(b, "cpu")
						r.exchange(b, load.request, load.answer, load.exchanges/load.clients)
						cost[kind] = append(cost[kind], float64(r.ask(b, "cpu")-before)/float64(load.exchanges))
					}
				}
				b.ReportMetric(0, "ns/op")
				for _, kind := range kinds {
					slices.Sort(cost[kind])
					b.ReportMetric(cost[kind][len(cost[kind])/2]/1e3, kind+"-µs")
				}
				b.ReportMetric(cost["wire"][b.N/2]/cost["copy"][b.N/2], "wire/copy")
				b.ReportMetric(cost["control"][b.N/2]/cost["copy"][b.N/2], "control/copy")
			})
		}
	}
}

// BenchmarkRelayIdle is memory per idle connection pair (RSS), after a small exchange and after a list of 1 MiB.
func BenchmarkRelayIdle(b *testing.B) {
	const pairs = 2000
	for _, secure := range []bool{false, true} {
		for _, kind := range []string{"copy", "wire"} {
			b.Run(fmt.Sprintf("tls=%t/relay=%s", secure, kind), func(b *testing.B) {
				for range b.N {
					r := startRelay(b, kind, secure, 1)
					r.exchange(b, 120, 1200, 10)
					before := r.ask(b, "rss")
					r.connect(b, pairs)
					per := func(name, ask string) {
						b.ReportMetric(float64(r.ask(b, ask)-before)/pairs/1024, name)
					}
					r.exchange(b, 120, 1200, 1)
					per("KiB-small", "rss")
					per("KiB-small-gc", "gc")
					r.exchangeOneByOne(b, 120, 1<<20)
					per("KiB-list", "rss")
					per("KiB-list-gc", "gc")
					per("stacks", "stacks")
					b.ReportMetric(0, "ns/op")
					r.stop()
				}
			})
		}
	}
}

// relayed is a relay's process, and the ends of the connections through it.
type relayed struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	address string
	secure  bool
	clients []net.Conn
	server  net.Listener
	stop    func()
}

func startRelay(b *testing.B, kind string, secure bool, clients int) *relayed {
	b.Helper()
	r := &relayed{secure: secure}
	pemCert, pemKey, serverConfig, _ := certificate(b)
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	if secure {
		server = tls.NewListener(server, serverConfig)
	}
	r.server = server
	var answering sync.WaitGroup
	answering.Go(func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			answering.Go(func() { answer(c) })
		}
	})
	r.cmd = exec.Command(os.Args[0])
	r.cmd.Env = append(os.Environ(), "WIRE_RELAY="+kind, "WIRE_TO="+server.Addr().String())
	if secure {
		r.cmd.Env = append(r.cmd.Env, "WIRE_CERT="+pemCert, "WIRE_KEY="+pemKey)
	}
	r.cmd.Stderr = os.Stderr
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	r.out = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	r.stop = sync.OnceFunc(func() {
		_ = server.Close()
		for _, c := range r.clients {
			_ = c.Close()
		}
		_ = r.in.Close()
		_ = r.cmd.Wait()
		answering.Wait()
	})
	b.Cleanup(r.stop)
	line, err := r.out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	r.address = strings.TrimSpace(line)
	r.connect(b, clients)
	return r
}

func (r *relayed) connect(b *testing.B, n int) {
	for range n {
		c, err := net.Dial("tcp", r.address)
		if err != nil {
			b.Fatal(err)
		}
		if r.secure {
			t := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			if err := t.Handshake(); err != nil {
				b.Fatal(err)
			}
			c = t
		}
		r.clients = append(r.clients, c)
	}
}

func (r *relayed) ask(b *testing.B, what string) (n int64) {
	if _, err := fmt.Fprintln(r.in, what); err != nil {
		b.Fatal(err)
	}
	if _, err := fmt.Fscanln(r.out, &n); err != nil {
		b.Fatal(err)
	}
	return n
}

func (r *relayed) exchange(b *testing.B, request, response, times int) {
	var all sync.WaitGroup
	for _, c := range r.clients {
		all.Go(func() { call(b, c, request, response, times) })
	}
	all.Wait()
}

func (r *relayed) exchangeOneByOne(b *testing.B, request, response int) {
	for _, c := range r.clients {
		call(b, c, request, response, 1)
	}
}

// call sends requests that say how long they are and how long an answer is wanted.
func call(b *testing.B, c net.Conn, request, response, times int) {
	ask, buf := make([]byte, request), make([]byte, 256<<10)
	binary.BigEndian.PutUint32(ask, uint32(request))
	binary.BigEndian.PutUint32(ask[4:], uint32(response))
	for range times {
		if _, err := c.Write(ask); err != nil {
			b.Error(err)
			return
		}
		for left := response; left > 0; {
			n, err := c.Read(buf[:min(left, len(buf))])
			if err != nil {
				b.Error(err)
				return
			}
			left -= n
		}
	}
}

func answer(c net.Conn) {
	defer c.Close()
	head, body := make([]byte, 8), make([]byte, 64<<10)
	for {
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		if _, err := io.ReadFull(c, body[:binary.BigEndian.Uint32(head)-8]); err != nil {
			return
		}
		for left := int(binary.BigEndian.Uint32(head[4:])); left > 0; {
			n, err := c.Write(body[:min(left, len(body))])
			if err != nil {
				return
			}
			left -= n
		}
	}
}

// relayProcess is the relay's side of it.
func relayProcess(kind string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr())
	relay := relayCopy
	if kind == "wire" {
		relay = relayWire
	}
	var server *tls.Config
	if cert := os.Getenv("WIRE_CERT"); cert != "" {
		pair, err := tls.X509KeyPair([]byte(cert), []byte(os.Getenv("WIRE_KEY")))
		if err != nil {
			panic(err)
		}
		server = &tls.Config{Certificates: []tls.Certificate{pair}, DynamicRecordSizingDisabled: kind == "wire"}
	}
	client := &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: kind == "wire"}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go relay(c, os.Getenv("WIRE_TO"), server, client)
		}
	}()
	for scan := bufio.NewScanner(os.Stdin); scan.Scan(); {
		fmt.Println(measure(scan.Text()))
	}
}

func measure(what string) int64 {
	switch what {
	case "cpu":
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			panic(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	case "gc":
		debug.FreeOSMemory()
		return status("VmRSS:")
	case "stacks":
		return stacks()
	default:
		return status("VmRSS:")
	}
}

func status(field string) int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, rest, _ := bytes.Cut(b, []byte(field))
	var kib int64
	if _, err := fmt.Sscan(string(rest), &kib); err != nil {
		panic(err)
	}
	return kib << 10
}

func relayCopy(c net.Conn, to string, server, client *tls.Config) {
	up, err := net.Dial("tcp", to)
	if err != nil {
		panic(err)
	}
	if server != nil {
		c, up = tls.Server(c, server), tls.Client(up, client)
	}
	go func() {
		_, _ = io.Copy(c, up)
		_ = c.Close()
	}()
	_, _ = io.Copy(up, c)
	_ = up.Close()
}

var buffers Buffers

func relayWire(client net.Conn, to string, serverConfig, clientConfig *tls.Config) {
	member, err := net.Dial("tcp", to)
	if err != nil {
		panic(err)
	}
	var c, up *Conn
	if serverConfig != nil {
		if c, err = Server(context.Background(), &buffers, client, serverConfig); err != nil {
			panic(err)
		}
		if up, err = Client(context.Background(), &buffers, member, clientConfig); err != nil {
			panic(err)
		}
	} else {
		c, up = Plain(&buffers, client), Plain(&buffers, member)
	}
	go pump(c, up)
	pump(up, c)
}

func pump(to, from *Conn) {
	defer func() { _ = to.Close() }()
	defer from.Release()
	for {
		b, err := from.Next()
		if err != nil {
			return
		}
		if _, err := to.Write(b); err != nil {
			return
		}
		from.Release()
	}
}

func stacks() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
