package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
)

// recorder relays to a member, and keeps what its first connection says, in the order in which a relay feeds a tap: towards the
// member before it is written, towards the client after it was.
type recorder struct {
	member   string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	said  []byte
	conns []net.Conn
}

func startRecorder(memberURL string) (*recorder, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &recorder{member: strings.TrimPrefix(memberURL, "http://"), listener: l}
	r.running.Go(r.serve)
	return r, nil
}

func (r *recorder) url() string { return "http://" + r.listener.Addr().String() }

func (r *recorder) serve() {
	for first := true; ; first = false {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		member, err := net.Dial("tcp", r.member)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, client, member)
		r.mu.Unlock()
		keep := r.keep
		if !first {
			keep = func(byte, []byte) {}
		}
		r.running.Go(func() { pump(client, member, func(b []byte) { keep('U', b) }, func([]byte) {}) })
		r.running.Go(func() { pump(member, client, func([]byte) {}, func(b []byte) { keep('D', b) }) })
	}
}

func (r *recorder) keep(direction byte, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, direction)
	r.said = binary.BigEndian.AppendUint32(r.said, uint32(len(b)))
	r.said = append(r.said, b...)
}

// pump relays one direction until it ends, and then ends both.
func pump(from, to net.Conn, before, after func([]byte)) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			before(b[:n])
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
			after(b[:n])
		}
		if err != nil {
			return
		}
	}
}

// stop ends the relay and returns what was said.
func (r *recorder) stop() ([]byte, error) {
	err := r.listener.Close()
	r.mu.Lock()
	for _, c := range r.conns {
		_ = c.Close() // also by pump
	}
	r.mu.Unlock()
	r.running.Wait()
	if len(r.said) == 0 {
		err = errors.Join(err, io.ErrUnexpectedEOF)
	}
	return r.said, err
}
