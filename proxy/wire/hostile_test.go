package wire

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// A request for new keys is answered by the goroutine that reads, in the right place among what the other one writes.
func TestKeyUpdateWhileWriting(t *testing.T) {
	b := count()
	ours, f := forge(t, &b.Buffers)
	sent := random(8 << 20)
	const updates = 200
	var all sync.WaitGroup
	all.Go(func() {
		for rest := sent; len(rest) > 0; rest = rest[min(len(rest), BufferSize):] {
			if _, err := ours.Write(rest[:min(len(rest), BufferSize)]); err != nil {
				t.Error(err)
				return
			}
		}
	})
	all.Go(func() {
		for i := range updates {
			text := []byte(fmt.Sprint("text ", i))
			f.send(t, f.requestKeyUpdate(), f.record(dataRecord, text...))
		}
	})
	all.Go(func() {
		var got []byte
		defer ours.Release()
		want := 0
		for i := range updates {
			want += len(fmt.Sprint("text ", i))
		}
		for len(got) < want {
			m, err := ours.Next()
			if err != nil {
				t.Error(err)
				return
			}
			got = append(got, m...)
			ours.Release()
		}
		if !bytes.HasSuffix(got, []byte("text 199")) {
			t.Error("another text")
		}
	})
	got, answers, err := f.data(len(sent))
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
	}
	all.Wait()
	// The writes may have been done before all requests came; the answers to them are in front of this.
	if _, err := ours.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	last, more, err := f.data(4)
	if err != nil || string(last) != "last" || answers+more != updates {
		t.Errorf("%q and %d answers, %v", last, answers+more, err)
	}
	b.wantNone(t)
}

// The answer to a KeyUpdate is not held up until somebody writes.
func TestKeyUpdateIsAnsweredAtOnce(t *testing.T) {
	ours, f := forge(t, &Buffers{})
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = drain(ours) })
	f.send(t, f.requestKeyUpdate())
	for {
		typ, data, err := f.next()
		if err != nil {
			t.Fatal(err)
		}
		if typ == handshakeRecord && data[0] == keyUpdate {
			break
		}
	}
	_ = ours.Close()
	reading.Wait()
}

// A message after the handshake may be cut over records, and Next woken in between.
func TestSplitKeyUpdate(t *testing.T) {
	ours, f := forge(t, &Buffers{})
	wait := func(want string) {
		t.Helper()
		if err := ours.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		m, err := ours.Next()
		for err != nil && want != "" && errors.Is(err, os.ErrDeadlineExceeded) {
			_ = ours.SetReadDeadline(time.Now().Add(patience))
			m, err = ours.Next()
		}
		if string(m) != want || want == "" && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q, %v, want %q", m, err, want)
		}
		ours.Release()
	}
	for range 10 {
		f.send(t, f.record(handshakeRecord, keyUpdate, 0))
		wait("")
		second := f.record(handshakeRecord, 0, 1, 1)
		f.out.update()
		f.send(t, second[:10])
		wait("")
		f.send(t, second[10:])
		wait("")
		f.send(t, f.record(dataRecord, []byte("new keys")...))
		wait("new keys")
	}
}

// Whatever comes, Next ends with an error, holds nothing and goes no further than a few records.
func TestHostilePeers(t *testing.T) {
	const many = 1000
	for name, send := range map[string]func(f *forger, i int) []byte{
		"garbage":             func(*forger, int) []byte { return random(1000) },
		"a huge record":       func(*forger, int) []byte { return append([]byte{dataRecord, 3, 3, 0xff, 0xff}, random(1000)...) },
		"a huge first part":   func(*forger, int) []byte { return []byte{dataRecord, 3, 3, 0xff, 0xff} },
		"another version":     func(*forger, int) []byte { return []byte{dataRecord, 3, 9, 0, 1, 0} },
		"an unknown type":     func(f *forger, _ int) []byte { return f.record(99, 1) },
		"plain data":          func(*forger, int) []byte { return []byte{dataRecord, 3, 3, 0, 1, 0} },
		"empty records":       func(f *forger, _ int) []byte { return f.record(dataRecord) },
		"warnings":            func(f *forger, _ int) []byte { return f.record(alertRecord, 1, 90) },
		"change cipher specs": func(*forger, int) []byte { return []byte{20, 3, 3, 0, 1, 1} },
		"key updates":         func(f *forger, _ int) []byte { return f.requestKeyUpdate() },
		"a huge message": func(f *forger, i int) []byte {
			if i == 0 {
				return f.record(handshakeRecord, keyUpdate, 0xff, 0xff, 0xff)
			}
			return f.record(handshakeRecord, random(1<<10)...)
		},
		"an alert":       func(f *forger, _ int) []byte { return f.record(alertRecord, 2, 80) },
		"a second hello": func(f *forger, _ int) []byte { return f.record(handshakeRecord, 1, 0, 0, 1, 0) },
		"a forged record": func(f *forger, _ int) []byte {
			b := f.record(dataRecord, 1)
			b[len(b)-1]++
			return b
		},
	} {
		for _, gathered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s gathered=%t", name, gathered), func(t *testing.T) {
				b := count()
				ours, f := forge(t, &b.Buffers)
				var all sync.WaitGroup
				all.Go(func() {
					defer func() { _ = closeWrite(f.conn) }()
					var train []byte
					for i := range many {
						train = append(train, send(f, i)...)
						if gathered && i < 100 {
							continue
						}
						if _, err := f.conn.Write(train); err != nil {
							return
						}
						train = nil
					}
				})
				all.Go(func() { _, _ = io.Copy(io.Discard, f.conn) })
				got, err := drain(ours)
				if err == nil || len(got) > 0 || errors.Is(err, io.EOF) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if errors.Is(err, io.ErrUnexpectedEOF) {
					t.Error("it read on to the end")
				}
				b.wantNone(t)
				_ = ours.Close()
				all.Wait()
			})
		}
	}
}

// A peer that asks for new keys and reads nothing holds up itself; Close ends it.
func TestCloseWhileAnsweringKeyUpdates(t *testing.T) {
	b := count()
	ours, f := forge(t, &b.Buffers)
	fill(t, ours.conn)
	var all sync.WaitGroup
	all.Go(func() { _, _ = drain(ours) })
	all.Go(func() { _, _ = ours.Write(make([]byte, BufferSize)) })
	for range 10 {
		f.send(t, f.requestKeyUpdate(), f.record(dataRecord, 1))
	}
	start := time.Now()
	_ = ours.Close()
	all.Wait()
	if took := time.Since(start); took > closeNotifyTime/2 {
		t.Error("it took", took)
	}
	b.wantNone(t)
}

// Another implementation of TLS asks for new keys.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	_, _, server, _ := certificate(t)
	server.MinVersion = tls.VersionTLS13
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := exec.CommandContext(ctx, openssl, "s_client", "-connect", l.Addr().String(), "-tls1_3")
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	client.Stderr = client.Stdout
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = client.Wait() }()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := Server(ctx, &Buffers{}, c, server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ours.Close() }()
	if err := ours.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	hear := func(want string) {
		t.Helper()
		for said.Scan() {
			if said.Text() == want {
				return
			}
		}
		t.Fatalf("openssl did not say %q", want)
	}
	for i := range 5 {
		line := fmt.Sprint("line ", i)
		if _, err := fmt.Fprintln(in, line); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for len(got) < len(line)+1 {
			m, err := ours.Next()
			if err != nil {
				t.Fatalf("%q, %v", got, err)
			}
			got = append(got, m...)
			ours.Release()
		}
		if string(got) != line+"\n" {
			t.Errorf("got %q, want %q", got, line)
		}
		if _, err := fmt.Fprintln(ours, "answer to", line); err != nil {
			t.Fatal(err)
		}
		hear("answer to " + line)
		if _, err := fmt.Fprintln(in, "K"); err != nil { // a command: new keys in both directions
			t.Fatal(err)
		}
		hear("KEYUPDATE")
	}
	if _, err := fmt.Fprintln(in, "Q"); err != nil { // quit
		t.Fatal(err)
	}
	if _, err := drain(ours); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
