package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// What etcdctl prints to stdout and stderr, and how it ends, is the same through Parallax as directly.
//
// A cluster of one member is told the same script twice, directly and through Parallax, each time from the same copy of its data
// folder. So ids, revisions, raft terms, even the headers in JSON have to be equal, and the only things to be normalised are those
// that chance or the clock decides: see normal.
func TestEtcdctl(t *testing.T) {
	for _, version := range binary.EtcdVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			etcdctl := etcdctlPath(t)
			c := cluster.StartT(t, cluster.Options{Version: version, Size: 1, Dir: t.TempDir()})
			m := c.Members[0]
			p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--sample-reads=1"}})
			begin := t.TempDir()
			stopped(t, m)
			if err := os.CopyFS(begin, os.DirFS(m.DataDir)); err != nil {
				t.Fatal(err)
			}

			var direct []said
			// The same address, written so that it can be told from the one that the member itself gives, in a member list for example.
			own := strings.Replace(strings.Replace(m.ClientURL, "http://", "http://[::ffff:", 1), ":2379", "]:2379", 1)
			for i, endpoint := range []string{own, p.ClientURL} {
				rewind(t, m, begin)
				told := &script{t: t, ctl: etcdctlAt{path: etcdctl, endpoint: endpoint, dir: t.TempDir()}, direct: own}
				told.run(etcdctlScript())
				if i == 0 {
					direct = told.said
					continue
				}
				compare(t, direct, told.said)
			}
			silent(t, p)
		})
	}
}

// A leader moves away when asked through Parallax, with the words of a direct one.
func TestEtcdctlMoveLeader(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	from, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	to := c.Members[0]
	if to == from {
		to = c.Members[1]
	}
	p := parallax.StartT(t, parallax.Options{Endpoints: []string{from.ClientURL}, Race: true})
	path := etcdctlPath(t)
	move := func(endpoint string, to *cluster.Member) said {
		s := etcdctlAt{path: path, endpoint: endpoint, dir: t.TempDir()}.run(t, step{args: []string{"move-leader", fmt.Sprintf("%x", to.ID)}})
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	proxied := move(p.ClientURL, to)
	if back := move(to.ClientURL, from); back.end != "exit status 0" {
		t.Fatalf("the way back: %+v", back)
	}
	direct := move(from.ClientURL, to)
	direct.endpoint, proxied.endpoint = "", ""
	if direct != proxied || !strings.Contains(direct.stdout, "Leadership transferred") {
		t.Errorf("directly %+v\nproxied  %+v", direct, proxied)
	}
}

// rewind starts a stopped or running member with the data that it had at the beginning.
func rewind(t *testing.T, m *cluster.Member, begin string) {
	t.Helper()
	stopped(t, m)
	if err := os.RemoveAll(m.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(m.DataDir, os.DirFS(begin)); err != nil {
		t.Fatal(err)
	}
	// etcd wants its data folder for itself, and says so in its log otherwise.
	if err := os.Chmod(m.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// script is etcdctl called once per step, and what it said.
type script struct {
	t      *testing.T
	ctl    etcdctlAt
	direct string // endpoint of the member itself
	lease  string // granted last, in hex
	said   []said
}

var granted = regexp.MustCompile(`lease ([0-9a-f]{16}) granted`)

func (s *script) run(steps []step) {
	for _, st := range steps {
		args := make([]string, len(st.args))
		for i, a := range st.args {
			args[i] = strings.ReplaceAll(a, "{lease}", s.lease)
		}
		st.args = args
		var got said
		if st.live && s.ctl.endpoint != s.direct {
			got = s.sandwich(st)
		} else {
			got = s.ctl.run(s.t, st)
		}
		if id := granted.FindStringSubmatch(got.stdout); id != nil {
			s.lease = id[1]
		}
		s.said = append(s.said, s.normal(got))
		if s.t.Failed() {
			return // what follows would build on what failed
		}
	}
}

// sandwich compares an answer of the moment (sizes, hashes, raft index) with those that the member gives directly just before and just after: when
// these two are equal, the one in between has to be equal, too. It takes the place of the comparison with the other run.
func (s *script) sandwich(st step) said {
	directly := s.ctl
	directly.endpoint = s.direct
	for attempt := 1; ; attempt++ {
		before := s.normal(directly.run(s.t, st))
		proxied := s.ctl.run(s.t, st)
		after := s.normal(directly.run(s.t, st))
		if before == after {
			compare(s.t, []said{before}, []said{s.normal(proxied)})
			return proxied
		}
		if attempt == 5 {
			s.t.Fatalf("%v: the member answers differently each time, %+v and %+v", st.args, before, after)
		}
	}
}

var (
	// In log lines: a pointer, and the two ends of the client's connection.
	chance    = regexp.MustCompile(`0x[0-9a-f]{8,}|Addr: '[^']*'`)
	took      = regexp.MustCompile(`(took(?: =|":)? ?"?)[0-9.]+[nµm]?s\b|\ba few seconds ago\b|\bnow\b`)
	wide      = regexp.MustCompile(`([- ])[- ]+`)
	stamp     = regexp.MustCompile(`"ts":"[^"]*"`)
	remaining = regexp.MustCompile(`remaining\(\d+s\)|"ttl":5\d\d\b|"TTL" : 5\d\d\b`)
)

// normal leaves out what has to differ: the endpoint that etcdctl was given, durations and times, and the ids of leases, which
// etcd makes from the time.
func (s *script) normal(from said) said {
	clean := func(text string) string {
		if len(text) > 64<<10 { // of values only
			return fmt.Sprintf("%d bytes sha256 %x", len(text), sha256.Sum256([]byte(text)))
		}
		text = strings.ReplaceAll(text, from.endpoint, "ENDPOINT")
		text = strings.ReplaceAll(text, strings.TrimPrefix(from.endpoint, "http://"), "ENDPOINT")
		if s.lease != "" {
			text = strings.ReplaceAll(text, s.lease, "LEASE")
			if id, err := strconv.ParseUint(s.lease, 16, 64); err == nil {
				text = strings.ReplaceAll(text, strconv.FormatUint(id, 10), "LEASE")
			}
		}
		text = chance.ReplaceAllString(text, "CHANCE")
		text = took.ReplaceAllString(text, "${1}DURATION")
		text = stamp.ReplaceAllString(text, `"ts":"TIME"`)
		if strings.HasPrefix(text, "+-") { // a table is as wide as the endpoint is long
			text = wide.ReplaceAllString(text, "$1")
		}
		text = remaining.ReplaceAllString(text, "REMAINING")
		return lock.ReplaceAllString(text, "${1}LEASE")
	}
	from.command, from.stdout, from.stderr, from.endpoint = clean(from.command), clean(from.stdout), clean(from.stderr), ""
	return from
}

// lock matches the keys of locks and elections, which end with a lease's id.
var lock = regexp.MustCompile(`((?:lock|election)/)[0-9a-f]+`)

func compare(t *testing.T, direct, proxied []said) {
	t.Helper()
	if len(direct) != len(proxied) {
		t.Fatalf("%d answers directly, %d through Parallax", len(direct), len(proxied))
	}
	well := 0
	for i, want := range direct {
		if want.end == "exit status 0" {
			well++
		}
		got := proxied[i]
		if want.live {
			want.stdout, want.stderr, want.files = got.stdout, got.stderr, got.files // compared by sandwich
		}
		if got != want {
			t.Errorf("etcdctl %s\ndirectly: %s\nstdout %s\nstderr %s\nfiles %s\n\nproxied:  %s\nstdout %s\nstderr %s\nfiles %s", want.command,
				want.end, short(want.stdout), short(want.stderr), want.files, got.end, short(got.stdout), short(got.stderr), got.files)
		}
	}
	if len(direct) > 1 && well < len(direct)/2 {
		t.Errorf("only %d of %d calls succeeded directly: nothing was tested", well, len(direct))
	}
}

func short(text string) string {
	if len(text) > 2000 {
		return fmt.Sprintf("%.1000q … (%d bytes)", text, len(text))
	}
	return fmt.Sprintf("%q", text)
}

func etcdctlPath(t *testing.T) string {
	t.Helper()
	path, err := binary.Builder{}.Etcdctl(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if path, err = filepath.Abs(path); err != nil {
		t.Fatal(err)
	}
	return path
}
