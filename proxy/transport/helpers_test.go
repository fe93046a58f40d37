package transport

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers each connection with its name, after a byte.
type server struct {
	*Listener
	name     string
	accepted atomic.Int64
	running  sync.WaitGroup
	loop     chan error // why the accept loop ended
}

func serve(t *testing.T, name, rawURL string, o ListenOptions) *server {
	t.Helper()
	l, err := Listen(t.Context(), rawURL, o)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: l, name: name, loop: make(chan error, 1)}
	s.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				s.loop <- err
				return
			}
			s.accepted.Add(1)
			s.running.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
					_, _ = io.WriteString(c, name)
					_, _ = io.Copy(io.Discard, c)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.running.Wait()
	})
	return s
}

// ask connects, and returns the name of the server that has answered.
func ask(network, address string) (string, error) {
	d := net.Dialer{Timeout: time.Minute}
	c, err := d.Dial(network, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // thousands in TIME_WAIT would use up the ports
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write([]byte{1}); err != nil {
		return "", err
	}
	name := make([]byte, 16)
	n, err := c.Read(name)
	if err != nil {
		return "", err
	}
	return string(name[:n]), nil
}

// traffic is clients that connect one after the other, as fast as they can.
type traffic struct {
	ok, lost atomic.Int64
	once     sync.Once
	stop     chan struct{}
	running  sync.WaitGroup
}

func startTraffic(t *testing.T, clients int, network, address string) *traffic {
	tr := &traffic{stop: make(chan struct{})}
	t.Cleanup(tr.end)
	for range clients {
		tr.running.Go(func() {
			for {
				select {
				case <-tr.stop:
					return
				default:
				}
				if _, err := ask(network, address); err != nil {
					tr.lost.Add(1)
					t.Log(err)
				} else {
					tr.ok.Add(1)
				}
			}
		})
	}
	return tr
}

// flow waits for some more answers: enough for both of two listeners to have given some.
func (tr *traffic) flow(t *testing.T) {
	t.Helper()
	want := tr.ok.Load() + 20
	eventually(t, func() bool { return tr.ok.Load() >= want })
}

func (tr *traffic) end() {
	tr.once.Do(func() { close(tr.stop) })
	tr.running.Wait()
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("it has not happened in a minute")
		}
		time.Sleep(time.Millisecond)
	}
}

// loopbacks are URLs to listen on, of IPv6 only where there is any.
func loopbacks() []string {
	urls := []string{"http://127.0.0.1:0"}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		urls = append(urls, "http://[::1]:0")
	}
	return urls
}
