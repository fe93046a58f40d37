package member_test

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// user is called parallax and has its password in a file, as editors write it.
func user(t *testing.T, password string) *member.Login {
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, password+"\n")
	return &member.Login{User: "parallax", PasswordFile: file}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ask lets the members ask for that user.
func ask(c *membertest.Cluster) {
	for _, m := range c.Members {
		m.Change(func(m *membertest.Member) { m.User, m.Password = "parallax", "secret" })
	}
}

func calls(m *membertest.Member, method string) (n int) {
	m.Change(func(m *membertest.Member) { n = m.Methods[method] })
	return n
}

func logins(m *membertest.Member) int { return calls(m, pb.Auth_Authenticate_FullMethodName) }

// loggedIn is a cluster of one that asks for a user, followed by one who knows
// the password.
func loggedIn(t *testing.T, change func(*membertest.Member)) (*membertest.Member, *member.Set, *logBook) {
	c := membertest.Start(t, 1, 7)
	ask(c)
	c.Members[0].Change(change)
	s := &member.Set{Endpoints: c.URLs(), Login: user(t, "secret")}
	book := follow(t, s)
	until(t, "the member", func() bool { return s.Health(c.Members[0].URL) == member.Serving })
	return c.Members[0], s, book
}

// A token dies with the member's memory, without use, and with a change of users.
func TestATokenThatDiedIsReplaced(t *testing.T) {
	for _, one := range []struct {
		name   string
		jwt    bool
		end    func(*membertest.Member)
		logins int // afterwards
	}{
		{"restart", false, func(m *membertest.Member) { m.Restart(t) }, 2},
		{"restart, JWT", true, func(m *membertest.Member) { m.Restart(t) }, 1},
		{"five minutes, or a JWT that expired", false, (*membertest.Member).Forget, 2},
		{"another auth revision", false, func(m *membertest.Member) { m.Change(func(m *membertest.Member) { m.AuthRevision++ }) }, 2},
	} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			m, s, _ := loggedIn(t, func(m *membertest.Member) { m.JWT = one.jwt })
			one.end(m)
			until(t, "a read with the new token", func() bool {
				return s.Snapshot().Members[0].Range(t.Context(), []byte("a"), nil, 7, 0).Err == nil
			})
			until(t, "the member to serve", func() bool { return s.Health(m.URL) == member.Serving })
			if n := logins(m); n != one.logins {
				t.Errorf("%d logins, not %d", n, one.logins)
			}
		})
	}
}

// A busy member takes longer for a bcrypt than a probe waits for it.
func TestALoginMayTakeLongerThanAProbe(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	ask(c)
	m, hold := c.Members[0], make(chan struct{})
	m.Change(func(m *membertest.Member) { m.HoldLogin = hold })
	// The other's never ends: the Set does, and leaves no goroutine.
	c.Members[1].Change(func(m *membertest.Member) { m.HoldLogin = make(chan struct{}) })
	s := &member.Set{Endpoints: c.URLs(), Login: user(t, "secret")}
	s.Hasten(hasty)
	follow(t, s)
	until(t, "probes that give up", func() bool { return calls(m, pb.Maintenance_Status_FullMethodName) > 2 })
	if h := s.Health(m.URL); h != member.Unknown || s.Reachable(true) != 2 {
		t.Errorf("health %v, %d reachable", h, s.Reachable(true))
	}
	close(hold)
	becomes(t, s, m, member.Serving)
	if n := logins(m); n != 1 {
		t.Errorf("%d logins", n)
	}
}

// A wrong password must cost the members next to nothing, whatever the shadow
// asks. The file is read again, and the right one is found without a restart.
func TestAWrongPasswordIsTriedSeldom(t *testing.T) {
	c := membertest.Start(t, 1, 7)
	ask(c)
	wrong := user(t, "not-this-one")
	s := &member.Set{Endpoints: c.URLs(), Login: wrong}
	began := time.Now()
	book := follow(t, s)
	m := c.Members[0]
	until(t, "a second attempt", func() bool { return logins(m) >= 2 })
	if n, most := calls(m, pb.Maintenance_Status_FullMethodName), int(time.Since(began)/member.BetweenLogins)+1; logins(m) > most || n < 10 {
		t.Errorf("%d logins, at most %d; %d probes", logins(m), most, n)
	}
	until(t, "a clear word", func() bool { return book.count("cannot log in as parallax: etcdserver: authentication failed") == 1 })
	// It refuses us, and is there: not unreachable, and not unfit for clients.
	if h := s.Health(m.URL); h != member.Unknown || s.Reachable(true) != 1 || book.count("unreachable") != 0 {
		t.Errorf("health %v, %d reachable", h, s.Reachable(true))
	}
	write(t, wrong.PasswordFile, "secret")
	until(t, "the right password", func() bool { return s.Health(m.URL) == member.Serving })
	until(t, "the complaint to end", func() bool { return book.count("member answers") == 1 })
}

func TestManyCallsLogInOnce(t *testing.T) {
	m, s, _ := loggedIn(t, func(*membertest.Member) {})
	before := logins(m)
	m.Forget()
	var wg sync.WaitGroup
	var answered atomic.Int64
	for range 20 {
		wg.Go(func() {
			for began := time.Now(); time.Since(began) < 20*time.Second; { // the next login may be a second away
				if s.Snapshot().Members[0].Range(t.Context(), []byte("a"), nil, 7, 0).Err == nil {
					answered.Add(1)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := answered.Load(); n != 20 {
		t.Errorf("%d of 20 were answered", n)
	}
	if n := logins(m) - before; n != 1 {
		t.Errorf("%d logins", n)
	}
}

func TestThePasswordFileIsMissedClearly(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	write(t, empty, "\n")
	for _, one := range []struct{ file, word string }{
		{filepath.Join(dir, "none"), "password file " + filepath.Join(dir, "none") + ": no such file"},
		{empty, "is empty"},
		{dir, "not a regular file"},
	} {
		c := membertest.Start(t, 1, 7)
		ask(c)
		s := &member.Set{Endpoints: c.URLs(), Login: &member.Login{User: "parallax", PasswordFile: one.file}}
		book := follow(t, s)
		until(t, one.word, func() bool { return book.count(one.word) == 1 })
		if n := logins(c.Members[0]); n != 0 {
			t.Errorf("%d logins without a password", n)
		}
	}
}

func TestAPasswordFileForAllIsWarnedOf(t *testing.T) {
	c := membertest.Start(t, 3, 7)
	ask(c)
	login := user(t, "secret")
	if err := os.Chmod(login.PasswordFile, 0o640); err != nil {
		t.Fatal(err)
	}
	s := &member.Set{Endpoints: c.URLs(), Login: login}
	book := follow(t, s)
	readAll(t, s)
	if n := book.count("mode=-rw-r-----"); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

func TestWithoutAUserTheLogSaysWhatToDo(t *testing.T) {
	c := membertest.Start(t, 1, 7)
	ask(c)
	s := &member.Set{Endpoints: c.URLs()}
	book := follow(t, s)
	until(t, "a word", func() bool { return book.count("authentication is on, give the shadow a user") == 1 })
	if s.Reachable(true) != 1 || book.count("unreachable") != 0 {
		t.Error("the member is there")
	}
}

func TestAUserWhoMayNotReadIsSaidOnce(t *testing.T) {
	m, s, book := loggedIn(t, func(m *membertest.Member) {
		m.ReadErr = status.Error(codes.PermissionDenied, "etcdserver: permission denied")
	})
	for range 3 {
		if r := s.Snapshot().Members[0].Range(t.Context(), []byte("a"), nil, 7, 0); status.Code(r.Err) != codes.PermissionDenied || r.Lost {
			t.Fatalf("%+v", r)
		}
	}
	if n := book.count("grant the shadow's user READ"); n != 1 || logins(m) != 1 {
		t.Errorf("said %d times, %d logins", n, logins(m))
	}
	if h := s.Health(m.URL); h != member.Serving {
		t.Errorf("health %v: it serves, whatever our user may", h)
	}
}

// GUARANTEE G8: no token or password in the log, whatever goes wrong.
func TestG8NoSecretIsLogged(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	ask(c)
	c.Members[1].Change(func(m *membertest.Member) { m.Password = "token-another" })
	login := user(t, "secret")
	s := &member.Set{Endpoints: c.URLs(), Login: login}
	book := follow(t, s)
	until(t, "one login, and one refusal", func() bool {
		return s.Health(c.Members[0].URL) == member.Serving && book.count("cannot log in") == 1
	})
	if err := os.Chmod(login.PasswordFile, 0o644); err != nil {
		t.Fatal(err)
	}
	c.Members[0].Restart(t)
	until(t, "another login", func() bool { return logins(c.Members[0]) >= 2 && book.count("mode=-rw-r--r--") == 1 })
	c.Members[0].Stop()
	until(t, "a word about the end", func() bool { return book.count("unreachable") == 1 })
	if book.count("secret") != 0 || book.count("token-") != 0 {
		t.Errorf("a secret was logged:\n%s", book.all())
	}
}
