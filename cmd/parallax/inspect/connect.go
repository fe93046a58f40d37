package inspect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/etcd-parallax/parallax/proxy/certs"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// target is the cluster that a command is to look at, by its flags.
type target struct {
	endpoints          []string
	tls                certs.ClientOptions
	user, passwordFile string
}

// flags have the names of serve's, which are etcdctl's; a password is taken from a file only.
func (t *target) flags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&t.endpoints, "endpoints", []string{"http://127.0.0.1:2379"}, "client addresses of members, http://HOST:PORT, https://HOST:PORT or HOST:PORT (http); the others are found by the member list")
	fs.StringVar(&t.tls.CACert, "cacert", "", "PEM file with the CAs of the members' certificates; none: the CAs of the system")
	fs.StringVar(&t.tls.Cert, "cert", "", "PEM file with the client certificate that https members see")
	fs.StringVar(&t.tls.Key, "key", "", "PEM file with the key of --cert")
	fs.BoolVar(&t.tls.InsecureSkipVerify, "insecure-skip-tls-verify", false, "take any certificate of a member (CAUTION: only for testing)")
	fs.StringVar(&t.tls.ServerName, "tls-server-name", "", "name that the members' certificates must hold; none: the host of the endpoint")
	fs.StringVar(&t.user, "user", "", "etcd user, where etcd's authentication is on; it needs READ on all keys")
	fs.StringVar(&t.passwordFile, "password-file", "", "file with the password of --user, one line")
}

// untilSignal runs a command. The first SIGINT or SIGTERM ends its context, a second one the process.
func untilSignal(cmd *cobra.Command, run func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return run(ctx)
}

// check finds what is wrong before anybody is asked.
func (t *target) check() error {
	if len(t.endpoints) == 0 {
		return Usage("--endpoints is empty: give at least one http://HOST:PORT or https://HOST:PORT")
	}
	secure := false
	for i, e := range t.endpoints {
		u, err := endpoint(e)
		if err != nil {
			return UsageError{err}
		}
		if slices.Contains(t.endpoints[:i], u) {
			return Usage("--endpoints: %s is there twice: remove one", u)
		}
		t.endpoints[i] = u
		secure = secure || strings.HasPrefix(u, "https://")
	}
	switch o := t.tls; {
	case !secure && o != certs.ClientOptions{}:
		return Usage("flags of TLS are given, but no endpoint is https: write https://HOST:PORT (HOST:PORT alone is http), or leave them out")
	case o.CACert != "" && o.InsecureSkipVerify:
		return Usage("--insecure-skip-tls-verify makes --cacert useless, every certificate is taken: remove one of them")
	case strings.Contains(t.user, ":"):
		return Usage("--user (not shown) holds a colon, as USER:PASSWORD does: give the user only, and the password in the file of --password-file")
	case (t.user == "") != (t.passwordFile == ""):
		return Usage("--user and --password-file stand together: give both, or none")
	}
	if t.passwordFile != "" {
		f, err := os.Open(t.passwordFile)
		if err != nil {
			return Usage("--password-file: %w: name a file that parallax may read", err)
		}
		_ = f.Close() // nothing was written
	}
	return nil
}

// endpoint does not use net/url, whose errors repeat the password of a URL.
func endpoint(s string) (string, error) {
	const want = "write http://HOST:PORT or https://HOST:PORT"
	if strings.Contains(s, "@") {
		return "", errors.New("--endpoints: a URL (not shown) holds a user name or password: leave it out, and use --user and --password-file")
	}
	scheme, address, found := strings.Cut(s, "://")
	if !found {
		scheme, address = "http", s // as for etcdctl
	}
	scheme = strings.ToLower(scheme)
	if scheme != "http" && scheme != "https" {
		return "", fmt.Errorf("--endpoints: %s has an unknown scheme: %s", Quoted(s), want)
	}
	host, port, err := net.SplitHostPort(strings.TrimSuffix(address, "/"))
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" || strings.ContainsAny(host, "/?# ") {
		return "", fmt.Errorf("--endpoints: %s is no address: %s", Quoted(s), want)
	}
	return scheme + "://" + net.JoinHostPort(host, port), nil
}

const (
	knowPatience = 10 * time.Second // until some member has told who the members are
	hearPatience = 5 * time.Second  // until each of them has answered, too
	hearTimeout  = time.Second      // of one answer
	lookAgain    = 50 * time.Millisecond
)

// connection to the members of one cluster. Close it.
type connection struct {
	*member.Set
	said *said

	stop  context.CancelFunc
	ended chan struct{}
}

// connect finds the members, and waits until all that are listed have answered once. Who has not within hearPatience is
// left to the command: it is in the snapshot, or in said.
func (t *target) connect(ctx context.Context) (*connection, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	files, err := certs.NewClient(t.tls)
	if err != nil {
		return nil, UsageError{err}
	}
	c := &connection{said: &said{}, ended: make(chan struct{})}
	c.Set = &member.Set{Endpoints: t.endpoints, Discover: true, TLS: files.Config, Logger: slog.New(c.said)}
	if t.user != "" {
		c.Login = &member.Login{User: t.user, PasswordFile: t.passwordFile}
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	go func() { defer close(c.ended); _ = c.Run(running) }() // ends only with its context
	if err := c.know(ctx); err != nil {
		c.Close()
		if ctx.Err() != nil {
			err = errors.New("interrupted before the members were known")
		}
		return nil, ExitError{Code: exitInconclusive, Err: err}
	}
	c.hear(ctx)
	return c, nil
}

// Close ends all connections.
func (c *connection) Close() {
	c.stop()
	<-c.ended
}

// know waits until the members are known, or every endpoint has said why not.
func (c *connection) know(ctx context.Context) error {
	patience := time.NewTimer(knowPatience)
	defer patience.Stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		select {
		case <-c.Known():
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-patience.C:
			return c.unknown()
		case <-again.C:
			if c.said.allOf(c.Endpoints) {
				return c.unknown()
			}
		}
	}
}

// unknown says of each endpoint why the members could not be learned from it.
func (c *connection) unknown() error {
	var reasons []string
	for _, e := range c.Endpoints {
		why := c.said.about(e)
		if why == "" {
			why = "no answer"
		}
		reasons = append(reasons, e+": "+why)
	}
	return fmt.Errorf("no member could be asked who the members are: %s: check --endpoints, the flags of TLS, --user, and the members", strings.Join(reasons, "; "))
}

// hear waits until every listed member has answered once.
func (c *connection) hear(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, hearPatience)
	defer cancel()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	heard := map[uint64]bool{}
	for {
		missing := false
		p := c.Snapshot()
		for _, id := range p.Listed {
			heard[id] = heard[id] || answers(ctx, p.Member(id))
			missing = missing || !heard[id]
		}
		if !missing {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

func answers(ctx context.Context, m *member.Member) bool {
	if m == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, hearTimeout)
	defer cancel()
	release, err := m.Turn(ctx)
	if err != nil {
		return false
	}
	defer release()
	return m.Status(ctx).Err == nil
}

// said keeps what the members' probes log, for a command to tell in its own words: the last about each URL, and what is
// about none, once.
type said struct {
	mu    sync.Mutex
	urls  map[string]string
	other []string
}

// about a URL: why the member there cannot be compared, "" when it can.
func (s *said) about(url string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.urls[url]
}

// allOf tells whether there is something about each of the URLs.
func (s *said) allOf(urls []string) bool {
	return !slices.ContainsFunc(urls, func(u string) bool { return s.about(u) == "" })
}

// all that was said: of URLs, and beside.
func (s *said) all() (urls map[string]string, other []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.urls), slices.Clone(s.other)
}

// Enabled by slog.Handler: what is below Info is for debugging serve.
func (s *said) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle one record.
func (s *said) Handle(_ context.Context, r slog.Record) error {
	var url, reason, rest string
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "url":
			url = a.Value.String()
		case "reason":
			// serve's flags have other names
			reason = strings.ReplaceAll(a.Value.String(), "give the shadow a user (--shadow-user, --shadow-password-file)", "give --user and --password-file")
		default:
			rest += " " + a.String()
		}
		return true
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if url != "" {
		if s.urls == nil {
			s.urls = map[string]string{}
		}
		s.urls[url] = reason // none: it answers again
		return nil
	}
	if text := r.Message + rest; r.Level >= slog.LevelWarn && !slices.Contains(s.other, text) {
		s.other = append(s.other, text)
	}
	return nil
}

// WithAttrs is not used by those who log here.
func (s *said) WithAttrs([]slog.Attr) slog.Handler { return s }

// WithGroup is not used by those who log here.
func (s *said) WithGroup(string) slog.Handler { return s }
