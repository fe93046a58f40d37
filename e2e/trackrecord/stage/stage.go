// Package stage has what a row of the track record plays on: real etcd members,
// the built Parallax beside them, and clients.
package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// Users, with etcd authentication on.
const (
	rootUser   = "root"
	shadowUser = "shadow"
	password   = "track-record"

	// Role is that of the shadow: it may read every key.
	Role = "shadow"
)

// Options of a stage.
type Options struct {
	// Version of the members.
	Version string

	// Auth turns etcd authentication on: we are root, Parallax is a user that
	// may read every key.
	Auth bool

	// Parallax is the path of the built program.
	Parallax string

	// Trace, if not nil, is told each step.
	Trace func(format string, args ...any)
}

// Stage is a cluster, with Parallax beside it once Serve or Observe was called.
// It belongs to one goroutine.
type Stage struct {
	Cluster  *cluster.Cluster
	Parallax *parallax.Process

	// Client comes through Parallax; nil beside an observer.
	Client *clientv3.Client

	opts    Options
	dir     string // of the shadow's password
	direct  map[*cluster.Member]*clientv3.Client
	clients []*clientv3.Client
	loads   []*Load
}

// New starts three members. Close ends them, also when New failed.
func New(ctx context.Context, opts Options) (*Stage, error) {
	s := &Stage{opts: opts, direct: make(map[*cluster.Member]*clientv3.Client)}
	var err error
	if s.dir, err = os.MkdirTemp("", "parallax-track-record-"); err != nil {
		return s, err
	}
	// 3.4 has no --unsafe-no-fsync.
	s.Cluster, err = cluster.Start(ctx, cluster.Options{Version: opts.Version, Fsync: strings.HasPrefix(opts.Version, "3.4.")})
	if err != nil {
		return s, err
	}
	for _, m := range s.Cluster.Members {
		status, err := m.Status(ctx)
		if err != nil {
			return s, err
		}
		if status.Version != opts.Version {
			return s, fmt.Errorf("member %s says that it is etcd %s, want %s: remove e2e/bin/%s", m.Name, status.Version, opts.Version, opts.Version)
		}
	}
	if opts.Auth {
		if err := s.enableAuth(ctx); err != nil {
			return s, fmt.Errorf("turn authentication on: %w", err)
		}
	}
	for _, m := range s.Cluster.Members {
		if s.direct[m], err = s.Connect(ctx, m.ClientURL); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *Stage) enableAuth(ctx context.Context) (err error) {
	c := s.Cluster.Client()
	must := func(_ any, failed error) {
		if err == nil {
			err = failed
		}
	}
	must(c.UserAdd(ctx, rootUser, password))
	must(c.UserGrantRole(ctx, rootUser, "root"))
	must(c.RoleAdd(ctx, Role))
	must(c.RoleGrantPermission(ctx, Role, "\x00", "\x00", clientv3.PermissionType(clientv3.PermRead)))
	must(c.UserAdd(ctx, shadowUser, password))
	must(c.UserGrantRole(ctx, shadowUser, Role))
	must(c.AuthEnable(ctx))
	return err
}

// Connect returns a client of these endpoints; the stage closes it.
func (s *Stage) Connect(ctx context.Context, endpoints ...string) (*clientv3.Client, error) {
	config := clientv3.Config{
		Endpoints: endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop(), Context: ctx,
		// A restarted member is found again at once, not after a second.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 250 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		})},
	}
	if s.opts.Auth {
		config.Username, config.Password = rootUser, password
	}
	c, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", endpoints, err)
	}
	s.clients = append(s.clients, c)
	return c, nil
}

// Direct returns a client of this member alone.
func (s *Stage) Direct(m *cluster.Member) *clientv3.Client { return s.direct[m] }

// Restart restarts a member. With authentication it logs in anew there: the
// tokens of a member die with it, and this version of the client shows the dead
// one when it asks 3.4 for another, which is refused.
func (s *Stage) Restart(ctx context.Context, m *cluster.Member) (err error) {
	if err := m.Restart(ctx); err != nil || !s.opts.Auth {
		return err
	}
	s.direct[m], err = s.Connect(ctx, m.ClientURL)
	return err
}

// Others returns the members but m.
func (s *Stage) Others(m *cluster.Member) (others []*cluster.Member) {
	for _, other := range s.Cluster.Members {
		if other != m {
			others = append(others, other)
		}
	}
	return others
}

// Serve puts Parallax before the members, at its defaults but for which of them
// gets the clients, and connects Client.
func (s *Stage) Serve(ctx context.Context, prefer ...*cluster.Member) error {
	var flags []string
	for _, m := range prefer {
		flags = append(flags, "--prefer-endpoint="+m.ClientURL)
	}
	if err := s.watch(ctx, parallax.Options{Flags: flags}); err != nil {
		return err
	}
	var err error
	s.Client, err = s.Connect(ctx, s.Parallax.ClientURL)
	return err
}

// Observe puts Parallax beside the members, at its defaults and without clients.
func (s *Stage) Observe(ctx context.Context) error {
	return s.watch(ctx, parallax.Options{Observer: true})
}

func (s *Stage) watch(ctx context.Context, opts parallax.Options) (err error) {
	opts.Endpoints = s.Cluster.Endpoints()
	if s.opts.Auth {
		user, file, err := s.user()
		if err != nil {
			return err
		}
		opts.Flags = append(opts.Flags, "--shadow-user="+user, "--shadow-password-file="+file)
	}
	if s.Parallax, err = parallax.StartBuilt(ctx, s.opts.Parallax, opts); err != nil {
		return err
	}
	return s.Seen(ctx)
}

// user is that of Parallax, with the file of its password.
func (s *Stage) user() (name, passwordFile string, err error) {
	file := filepath.Join(s.dir, "password")
	return shadowUser, file, os.WriteFile(file, []byte(password+"\n"), 0o600)
}

// Seen returns when Parallax has had an answer of every member to its probe.
func (s *Stage) Seen(ctx context.Context) error {
	return s.each(ctx, "Parallax to hear of every member", func(samples map[string]float64, id string) error {
		if up := parallax.Sum(samples, "parallax_member_up", id); up != 1 {
			return fmt.Errorf("parallax_member_up is %v", up)
		}
		return nil
	})
}

// Asked returns when a check has had an answer of every member since it was
// called; somebody has to write meanwhile. What differs can be seen from then on:
// a probe may have missed a restart, and then the next check meets a dead connection.
func (s *Stage) Asked(ctx context.Context) error {
	before := make(map[string]float64)
	answers := func(samples map[string]float64, id string) float64 {
		const reads = "parallax_shadow_member_reads_total"
		return parallax.Sum(samples, reads, id) - parallax.Sum(samples, reads, id, `answer="unreachable"`)
	}
	return s.each(ctx, "Parallax to read from every member", func(samples map[string]float64, id string) error {
		now := answers(samples, id)
		if _, known := before[id]; !known {
			before[id] = now
		}
		if now == before[id] {
			return fmt.Errorf("%v answers, none of them new", now)
		}
		return nil
	})
}

// each waits until a condition on Parallax's metrics is true of every member,
// whose id it is given as a label.
func (s *Stage) each(ctx context.Context, what string, cond func(samples map[string]float64, id string) error) error {
	return until(ctx, what, func(ctx context.Context) error {
		samples, err := s.Parallax.Metrics(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for _, m := range s.Cluster.Members {
			if err := cond(samples, fmt.Sprintf(`member="%x"`, m.ID)); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
			}
		}
		return errors.Join(errs...)
	})
}

// Trace tells a step.
func (s *Stage) Trace(format string, args ...any) {
	if s.opts.Trace != nil {
		s.opts.Trace(format, args...)
	}
}

// Close ends everything and removes the temporary folders. It says what was
// wrong with the life of Parallax.
func (s *Stage) Close() error {
	for _, l := range s.loads {
		l.Stop()
	}
	for _, c := range s.clients {
		_ = c.Close() // the end of its context, which nobody waits for
	}
	var errs []error
	if s.Parallax != nil {
		errs = append(errs, s.Parallax.Close())
	}
	if s.Cluster != nil {
		errs = append(errs, s.Cluster.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// until waits for a condition, at most as long as ctx; the error then has its last one.
func until(ctx context.Context, what string, cond func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := cond(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w, last: %w", what, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}
