package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/internal/loopback"
)

// partition stands between the members of a cluster, and can cut one off from the others, while its clients reach it. Who dials is told by a
// header of etcd's peer protocol, at the beginning of a connection. A connection that begins with a probe has none, and passes: it carries
// nothing to the member that is cut off, which is enough.
type partition struct {
	listeners []net.Listener
	running   sync.WaitGroup

	mu    sync.Mutex
	away  uint64 // the member that is cut off; 0: none
	links map[*peerLink]struct{}
}

// peerLink is one connection between two members.
type peerLink struct {
	from, to   net.Conn
	server     uint64 // the member that accepts
	clientSaid []byte // its first bytes
}

// split restarts the members of a cluster, each with an address of its own behind the one that the others know, at which we are.
func split(t *testing.T, c *cluster.Cluster) *partition {
	t.Helper()
	p := &partition{links: make(map[*peerLink]struct{})}
	t.Cleanup(p.close)
	if err := c.StopAll(); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Members {
		const port = 2380
		ip, err := loopback.Address(port)
		if err != nil {
			t.Fatal(err)
		}
		behind := loopback.URL("http", ip, port)
		m.Flags = append(m.Flags, "--listen-peer-urls="+behind)
		l, err := net.Listen("tcp", strings.TrimPrefix(m.PeerURL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		p.listeners = append(p.listeners, l)
		p.running.Go(func() { p.serve(l, m.ID, strings.TrimPrefix(behind, "http://")) })
	}
	if err := c.StartAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// cut separates a member from all others; 0 ends that.
func (p *partition) cut(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = id
	for l := range p.links {
		if p.separates(l) {
			l.close()
		}
	}
}

func (p *partition) separates(l *peerLink) bool {
	return p.away != 0 && (l.server == p.away || bytes.Contains(l.clientSaid, fmt.Appendf(nil, "X-Server-From: %x\r\n", p.away)))
}

func (p *partition) serve(l net.Listener, server uint64, address string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return // by close
		}
		p.running.Go(func() { p.relay(&peerLink{from: from, server: server}, address) })
	}
}

func (p *partition) relay(l *peerLink, address string) {
	defer l.close()
	first := make([]byte, 4096) // a request's head comes in one packet
	_ = l.from.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := l.from.Read(first)
	if err != nil {
		return
	}
	_ = l.from.SetReadDeadline(time.Time{})
	l.clientSaid = first[:n]
	if l.to, err = net.Dial("tcp", address); err != nil {
		return
	}
	if !p.add(l) {
		return
	}
	defer p.remove(l)
	if _, err := l.to.Write(first[:n]); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(l.from, l.to)
		l.close()
	})
	_, _ = io.Copy(l.to, l.from)
	l.close()
	back.Wait()
}

func (p *partition) add(l *peerLink) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.separates(l) {
		return false
	}
	p.links[l] = struct{}{}
	return true
}

func (p *partition) remove(l *peerLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

func (l *peerLink) close() {
	_ = l.from.Close()
	if l.to != nil {
		_ = l.to.Close()
	}
}

// close ends everything. The members may be gone already, or not.
func (p *partition) close() {
	for _, l := range p.listeners {
		_ = l.Close()
	}
	p.mu.Lock()
	for l := range p.links {
		l.close()
	}
	p.mu.Unlock()
	p.running.Wait()
}
