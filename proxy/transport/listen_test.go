package transport

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestListen(t *testing.T) {
	for rawURL, want := range map[string]struct{ tls, passthrough bool }{
		"http://127.0.0.1:0":                 {},
		"127.0.0.1:0":                        {},
		"https://127.0.0.1:0":                {tls: true},
		"passthrough://127.0.0.1:0":          {passthrough: true},
		"unix://" + tempSocket(t) + "%20b?@": {},
	} {
		s := serve(t, "s", rawURL, ListenOptions{})
		if s.URL != rawURL || s.TLS != want.tls || s.Passthrough != want.passthrough {
			t.Errorf("%s: TLS %v, passthrough %v, %s", rawURL, s.TLS, s.Passthrough, s.URL)
		}
		if name, err := ask(s.Addr().Network(), s.Addr().String()); err != nil || name != "s" {
			t.Errorf("%s: %q, %v", rawURL, name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-s.loop; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", rawURL, err)
		}
	}
}

// What the relay gets has a file descriptor to wait on, whichever way it was accepted.
func TestAcceptedConnectionsAreTheKernels(t *testing.T) {
	for rawURL, want := range map[string]net.Conn{
		"http://127.0.0.1:0":      (*net.TCPConn)(nil),
		"unix://" + tempSocket(t): (*net.UnixConn)(nil),
	} {
		l, err := Listen(t.Context(), rawURL, ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, gentle := range []bool{false, true} {
			client, err := net.Dial(l.Addr().Network(), l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if gentle {
				go l.CloseGently(t.Context())
				<-l.closed
			}
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := fmt.Sprintf("%T", c); got != fmt.Sprintf("%T", want) {
				t.Errorf("%s, gently closed %v: a %s", rawURL, gentle, got)
			}
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}

func TestPortInUse(t *testing.T) {
	for _, test := range []struct {
		first, second ListenOptions
		want          string
	}{
		{ListenOptions{}, ListenOptions{}, "address already in use: another process listens there"},
		{ListenOptions{}, ListenOptions{ReusePort: true}, "must have been started with reuse-port, too"},
		{ListenOptions{ReusePort: true}, ListenOptions{}, "address already in use"},
	} {
		s := serve(t, "s", "http://127.0.0.1:0", test.first)
		_, err := Listen(t.Context(), "http://"+s.Addr().String(), test.second)
		fails(t, fmt.Sprint(test.first, test.second), err, test.want)
	}
}

// tempSocket returns a path that is short enough.
func tempSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func modeOf(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func TestSocketMode(t *testing.T) {
	for _, umask := range []int{0, 0o077} {
		old := syscall.Umask(umask)
		t.Cleanup(func() { syscall.Umask(old) })
		for mode, want := range map[fs.FileMode]fs.FileMode{0: 0o600, 0o600: 0o600, 0o660: 0o660, 0o666: 0o666, 0o060: 0o060} {
			path := tempSocket(t)
			l, err := Listen(t.Context(), "unix://"+path, ListenOptions{SocketMode: mode})
			if err != nil {
				t.Fatal(err)
			}
			if got := modeOf(t, path); got != fs.ModeSocket|want {
				t.Errorf("umask %o, mode %o: the socket has %v", umask, mode, got)
			}
			_ = l.Close()
		}
	}
	_, err := Listen(t.Context(), "unix://"+tempSocket(t), ListenOptions{SocketMode: fs.ModeSetuid | 0o600})
	fails(t, "setuid", err, "more than permissions")
}

// The socket listens before its final mode is set: until then nobody but its owner may connect, whatever the umask.
func TestSocketIsNeverOpenToOthersBeforeItsOwnerIsSet(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := tempSocket(t)
	l, err := bind(t.Context(), path, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := modeOf(t, path); got != fs.ModeSocket|0o600 {
		t.Errorf("the socket begins with %v", got)
	}
}

func TestSocketOwner(t *testing.T) {
	for owner, want := range map[string]string{
		"no-such-user":       "the socket owner \"no-such-user\"",
		"root:no-such-group": "the socket owner \"root:no-such-group\"",
		"root:":              "ends with a colon",
		"-1":                 "the socket owner \"-1\"",
	} {
		path := tempSocket(t)
		_, err := Listen(t.Context(), "unix://"+path, ListenOptions{SocketOwner: owner})
		fails(t, owner, err, want)
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s: the socket is there all the same", owner)
		}
	}
	t.Run("not permitted", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may give files away")
		}
		path := tempSocket(t)
		_, err := Listen(t.Context(), "unix://"+path, ListenOptions{SocketOwner: "root"})
		fails(t, "root", err, "change the owner of the socket")
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is there all the same")
		}
	})
	t.Run("given away", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root may give files away")
		}
		for owner, want := range map[string][2]uint32{
			"": {0, 0}, "12345": {12345, 0}, "12345:54321": {12345, 54321}, ":54321": {0, 54321}, "root": {0, 0}, "root:root": {0, 0},
		} {
			path := tempSocket(t)
			l, err := Listen(t.Context(), "unix://"+path, ListenOptions{SocketOwner: owner, SocketMode: 0o660})
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			stat := info.Sys().(*syscall.Stat_t)
			if stat.Uid != want[0] || stat.Gid != want[1] || info.Mode().Perm() != 0o660 {
				t.Errorf("%q: the socket is %d:%d %v", owner, stat.Uid, stat.Gid, info.Mode())
			}
			_ = l.Close()
		}
	})
}

// leaveBehind makes a socket as a process that was killed leaves it.
func leaveBehind(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
}

func TestStaleSocketIsRemoved(t *testing.T) {
	path := tempSocket(t)
	leaveBehind(t, path)
	serve(t, "s", "unix://"+path, ListenOptions{})
	if name, err := ask("unix", path); err != nil || name != "s" {
		t.Errorf("%q, %v", name, err)
	}
}

func TestLiveSocketIsRespected(t *testing.T) {
	path := tempSocket(t)
	serve(t, "first", "unix://"+path, ListenOptions{})
	_, err := Listen(t.Context(), "unix://"+path, ListenOptions{})
	fails(t, "second", err, "another process serves there: stop it, or choose another path")
	if name, err := ask("unix", path); err != nil || name != "first" {
		t.Errorf("%q, %v", name, err)
	}
}

func TestWhatIsNoSocketIsNeverRemoved(t *testing.T) {
	dir := filepath.Dir(tempSocket(t))
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "link", "dir"} {
		_, err := Listen(t.Context(), "unix://"+filepath.Join(dir, name), ListenOptions{})
		fails(t, name, err, "no socket: remove it, or choose another path")
	}
	if b, err := os.ReadFile(link); err != nil || string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
	_, err := Listen(t.Context(), "unix://"+filepath.Join(dir, "missing", "s"), ListenOptions{})
	fails(t, "no directory", err, "create the directory")
}

// Both ends of a listener remove its file, and never that of somebody who has put another in its place.
func TestSocketFileAtTheEnd(t *testing.T) {
	for name, end := range map[string]func(*Listener){
		"close":  func(l *Listener) { _ = l.Close() },
		"gently": func(l *Listener) { l.CloseGently(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			path := tempSocket(t)
			s := serve(t, "s", "unix://"+path, ListenOptions{})
			end(s.Listener)
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the socket is still there: %v", err)
			}

			first := serve(t, "first", "unix://"+path, ListenOptions{})
			if err := os.Remove(path); err != nil { // by an operator, say
				t.Fatal(err)
			}
			serve(t, "second", "unix://"+path, ListenOptions{})
			end(first.Listener)
			if name, err := ask("unix", path); err != nil || name != "second" {
				t.Errorf("%q, %v", name, err)
			}
		})
	}
}

// Many start at once on a stale socket: one of them serves, and the others see that.
func TestOneOfManyGetsTheSocket(t *testing.T) {
	path := tempSocket(t)
	leaveBehind(t, path)
	var mu sync.Mutex
	var won []*Listener
	var running sync.WaitGroup
	for range 20 {
		running.Go(func() {
			l, err := Listen(t.Context(), "unix://"+path, ListenOptions{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, l)
			} else if !strings.Contains(err.Error(), "another process serves there") {
				t.Error(err)
			}
		})
	}
	running.Wait()
	for _, l := range won {
		t.Cleanup(func() { _ = l.Close() })
	}
	if len(won) != 1 {
		t.Fatalf("%d listen at one path", len(won))
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}
