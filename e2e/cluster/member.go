package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/internal/process"
)

// stopGrace is what a member gets between SIGTERM and SIGKILL. etcd moves its
// leadership and waits for open streams first.
const stopGrace = 20 * time.Second

var errAddressInUse = errors.New("a port was taken between probe and start")

// Member is one etcd process, or the place of one that is stopped.
type Member struct {
	Name      string
	ClientURL string
	PeerURL   string
	DataDir   string
	Log       string // path of its log, of all its lives

	// ID is the member id, known since it first served.
	ID uint64

	// Version is the etcd version of the next start: change it while the
	// member is stopped for an upgrade or downgrade.
	Version string

	// Flags are appended at the next start, after Options.ExtraFlags.
	Flags []string

	initialCluster, initialState string

	cluster *Cluster
	client  *clientv3.Client

	mu      sync.Mutex
	process *process.Process // the newest, nil before the first
	ended   bool             // by us, not by itself
	paused  bool
}

// DB returns the path of the bbolt database, for package fault.
func (m *Member) DB() string { return filepath.Join(m.DataDir, "member", "snap", "db") }

// Running reports whether the process exists (a paused one does).
func (m *Member) Running() bool {
	p, _ := m.current()
	return p != nil && p.Running()
}

// Start starts a stopped member and returns when it serves and has a leader.
// Without a quorum it fails after a minute: use Launch, or StartAll.
func (m *Member) Start(ctx context.Context) error {
	if err := m.Launch(ctx); err != nil {
		return err
	}
	return m.WaitReady(ctx)
}

// Launch starts the process and waits for nothing.
func (m *Member) Launch(ctx context.Context) error {
	if m.Running() {
		return fmt.Errorf("member %s runs already", m.Name)
	}
	path, err := (binary.Builder{Progress: m.cluster.opts.Progress}).Etcd(ctx, m.Version)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(m.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own descriptor
	args := []string{
		"--name=" + m.Name, "--data-dir=" + m.DataDir,
		"--listen-client-urls=" + m.ClientURL, "--advertise-client-urls=" + m.ClientURL,
		"--listen-peer-urls=" + m.PeerURL, "--initial-advertise-peer-urls=" + m.PeerURL,
		"--initial-cluster=" + m.initialCluster, "--initial-cluster-state=" + m.initialState,
		"--initial-cluster-token=" + m.cluster.ip,
	}
	args = append(append(args, m.cluster.tlsFlags()...), m.cluster.opts.flags(m.Version)...)
	started, err := process.Start(process.Spec{
		Path: path, Args: append(args, m.Flags...),
		Env: m.cluster.opts.Env, DropEnv: []string{"ETCD_"},
		Stdout: log, Stderr: log, Outlive: m.cluster.opts.Outlive,
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.process, m.ended, m.paused = started, false, false
	return nil
}

// WaitReady returns when the member serves and has a leader.
func (m *Member) WaitReady(ctx context.Context) error {
	return poll(ctx, "member "+m.Name+" to be ready", func(ctx context.Context) error {
		if err := m.died(); err != nil {
			return stop(err)
		}
		if !m.Running() {
			return stop(errors.New("it is stopped"))
		}
		status, err := m.Status(ctx)
		if err != nil {
			return err
		}
		if status.Leader == 0 {
			return errors.New("it has no leader")
		}
		m.learnID(status)
		return nil
	})
}

// Kill ends the process with SIGKILL and waits for its end.
func (m *Member) Kill() error {
	if p := m.end(); p != nil {
		return p.Kill()
	}
	return nil
}

// Stop ends the process with SIGTERM and waits for its end. Unlike after Kill,
// everything it applied is then in its database.
func (m *Member) Stop() error {
	if p := m.end(); p != nil {
		return p.Terminate(stopGrace)
	}
	return nil
}

// Restart stops the member in an orderly way, and starts it again.
func (m *Member) Restart(ctx context.Context) error {
	if err := m.Stop(); err != nil {
		return err
	}
	return m.Start(ctx)
}

// Pause stops the process with SIGSTOP: it holds its connections and answers nothing.
func (m *Member) Pause() error { return m.signal(syscall.SIGSTOP, true) }

// Resume lets a paused process go on.
func (m *Member) Resume() error { return m.signal(syscall.SIGCONT, false) }

// PID returns the process id of the newest process; the member must have been started.
func (m *Member) PID() int {
	p, _ := m.current()
	return p.PID()
}

// Client returns a client of this member alone. Close of the cluster closes it.
func (m *Member) Client() *clientv3.Client { return m.client }

// Status asks this member. Unlike clientv3's Status it dials no connection of its own.
func (m *Member) Status(ctx context.Context) (*etcdserverpb.StatusResponse, error) {
	return etcdserverpb.NewMaintenanceClient(m.client.ActiveConnection()).Status(ctx, &etcdserverpb.StatusRequest{})
}

// Get reads a key from this member's own state, at a revision or (0) as it is
// now. A member that has not applied the revision yet answers FutureRev.
func (m *Member) Get(ctx context.Context, key string, revision int64) (*clientv3.GetResponse, error) {
	return m.client.Get(ctx, key, clientv3.WithSerializable(), clientv3.WithRev(revision))
}

// learnID keeps the id that etcd gave the member; it never changes.
func (m *Member) learnID(status *etcdserverpb.StatusResponse) {
	if m.ID == 0 {
		m.ID = status.Header.MemberId
	}
}

// current returns the newest process, and whether we ended it.
func (m *Member) current() (p *process.Process, ended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process, m.ended
}

// end notes that the end which follows is ours, and returns the process.
func (m *Member) end() *process.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	return m.process
}

// serves reports whether the member can be expected to answer.
func (m *Member) serves() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process != nil && m.process.Running() && !m.paused
}

func (m *Member) signal(sig syscall.Signal, paused bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil || !m.process.Running() {
		return fmt.Errorf("member %s does not run", m.Name)
	}
	m.paused = paused
	return m.process.Signal(sig)
}

// close may be called twice, like Close of the cluster.
func (m *Member) close() error {
	err := m.Kill()
	if m.client != nil {
		err = errors.Join(err, m.client.Close())
		m.client = nil
	}
	return err
}

// died returns nil, or how the process ended that nobody ended, with its last words.
func (m *Member) died() error {
	p, ended := m.current()
	if p == nil || ended || p.Running() {
		return nil
	}
	words := lastWords(m.Log)
	err := fmt.Errorf("member %s (etcd %s) ended by itself, %s:\n%s", m.Name, m.Version, p.State(), words)
	if strings.Contains(words, "address already in use") {
		err = errors.Join(errAddressInUse, err)
	}
	return err
}
