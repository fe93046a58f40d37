package wire

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// held holds back what is written to it, once told to.
type held struct {
	net.Conn
	mu   sync.Mutex
	hold bool
	sent bytes.Buffer
}

func (h *held) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hold {
		return h.sent.Write(b)
	}
	return h.Conn.Write(b)
}

// SetWriteDeadline does nothing: crypto/tls sets one that is over after a close_notify.
func (h *held) SetWriteDeadline(time.Time) error { return nil }

// script is what a peer sends in the tests of this file: texts, and the ciphertext they became, with the
// close_notify at the end. The peer's socket is still open.
type script struct {
	ours   *Conn
	socket net.Conn
	cipher []byte
	ends   []int // of the records in cipher
	texts  [][]byte
}

func scripted(tb testing.TB, version uint16, b *Buffers, texts ...[]byte) *script {
	tb.Helper()
	k := kind{network: "tcp", version: version}
	_, _, server, client := certificate(tb)
	server.MinVersion, server.MaxVersion = version, version
	c, p := sockets(tb, k.network)
	h := &held{Conn: p}
	ours, peer := k.secure(tb, b, c, h, server, client)
	h.hold = true
	for _, text := range texts {
		if _, err := peer.Write(text); err != nil {
			tb.Fatal(err)
		}
	}
	if err := peer.CloseWrite(); err != nil {
		tb.Fatal(err)
	}
	s := &script{ours: ours, socket: p, cipher: h.sent.Bytes(), texts: texts}
	for i := 0; i < len(s.cipher); {
		i += 5 + int(s.cipher[i+3])<<8 + int(s.cipher[i+4])
		s.ends = append(s.ends, i)
	}
	if len(s.ends) != len(texts)+1 {
		tb.Fatal("a record is not a text")
	}
	return s
}

// The deadline may wake Next at every point inside a record; nothing is lost by it, and nothing held.
func TestDeadlineInsideRecords(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			b := count()
			s := scripted(t, version, &b.Buffers, random(40), random(1), random(200))
			var got []byte
			for i := range s.cipher {
				if _, err := s.socket.Write(s.cipher[i : i+1]); err != nil {
					t.Fatal(err)
				}
				if err := s.ours.SetReadDeadline(time.Now().Add(500 * time.Microsecond)); err != nil {
					t.Fatal(err)
				}
				m, err := s.ours.Next()
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && i < len(s.cipher)-1 {
					t.Fatal(err)
				}
				got = append(got, m...)
				s.ours.Release()
				if b.now() != 0 {
					t.Fatal("a buffer is held at byte", i)
				}
			}
			if err := s.ours.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			rest, err := drain(s.ours)
			if got = append(got, rest...); !errors.Is(err, io.EOF) || !bytes.Equal(got, bytes.Join(s.texts, nil)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			// The other direction is whole, too.
			if _, err := s.ours.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
}

// The end of TCP at every point of a stream is io.EOF after a close_notify only.
func TestTruncation(t *testing.T) {
	texts := [][]byte{random(30), random(30)}
	whole := len(scripted(t, tls.VersionTLS13, &Buffers{}, texts...).cipher)
	for end := 0; end <= whole; end += 7 {
		checkSegments(t, tls.VersionTLS13, texts, nil, end)
	}
	checkSegments(t, tls.VersionTLS13, texts, nil, whole-1)
	checkSegments(t, tls.VersionTLS13, texts, nil, whole)
}

// FuzzSegments cuts an honest stream into arbitrary segments, and ends it anywhere.
func FuzzSegments(f *testing.F) {
	f.Add([]byte{}, uint32(1<<20), false)
	f.Add([]byte{1, 1, 1, 1, 1, 1}, uint32(1<<20), true)
	f.Add([]byte{5, 255, 0, 255, 16, 255}, uint32(40000), false)
	f.Add([]byte{255}, uint32(16411), true)
	f.Fuzz(func(t *testing.T, cuts []byte, end uint32, tls12 bool) {
		version := uint16(tls.VersionTLS13)
		if tls12 {
			version = tls.VersionTLS12
		}
		texts := [][]byte{random(16 << 10), random(1), random(16 << 10), random(300)}
		for range 6 {
			texts = append(texts, random(16<<10))
		}
		checkSegments(t, version, texts, cuts, int(end))
	})
}

// checkSegments sends a script in segments whose sizes cuts says, up to end, and then a FIN.
func checkSegments(t *testing.T, version uint16, texts [][]byte, cuts []byte, end int) {
	t.Helper()
	b := count()
	s := scripted(t, version, &b.Buffers, texts...)
	end = min(end, len(s.cipher))
	var sending sync.WaitGroup
	sending.Go(func() {
		defer func() { _ = closeWrite(s.socket) }()
		for rest, i := s.cipher[:end], 0; len(rest) > 0; i++ {
			n := len(rest)
			if i < len(cuts) {
				n = min(n, 1+int(cuts[i])*int(cuts[i])) // 1 to 65026
			}
			if _, err := s.socket.Write(rest[:n]); err != nil {
				t.Error(err)
				return
			}
			rest = rest[n:]
		}
	})
	var want []byte
	for i, text := range s.texts {
		if s.ends[i] <= end {
			want = append(want, text...)
		}
	}
	wantErr := io.ErrUnexpectedEOF
	if end == len(s.cipher) {
		wantErr = io.EOF
	}
	got, err := drain(s.ours)
	sending.Wait()
	if !errors.Is(err, wantErr) || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v, want %v", len(got), len(want), err, wantErr)
	}
	b.wantNone(t)
	_ = s.ours.Close()
	_ = s.socket.Close()
}

// FuzzRecord compares how a stream is cut into records with a plain walk over all of it.
func FuzzRecord(f *testing.F) {
	f.Add([]byte("\x17\x03\x03\x00\x02ab\x17\x03\x03\x00\x00\x15\x03\x03\x00\x01c"), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, most uint8) {
		var ends []int
		for i := 0; i+5 <= len(b); {
			i += 5 + int(b[i+3])<<8 + int(b[i+4])
			ends = append(ends, i)
		}
		var r record
		for at := 0; at < len(b); {
			n := r.pass(b[at:min(len(b), at+1+int(most))])
			if n < 1 {
				t.Fatal("no progress")
			}
			if at += n; len(ends) > 0 && at > ends[0] {
				t.Fatal("passed the end of a record")
			}
			if len(ends) > 0 && at == ends[0] {
				if ends = ends[1:]; r.passed != 0 {
					t.Fatal("an end was not seen")
				}
			}
		}
	})
}
