package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// chaosFor is how long each healthy cluster is shaken; PARALLAX_CHAOS=15m makes
// it longer.
func chaosFor(t *testing.T) time.Duration {
	d := 15 * time.Second
	if s := os.Getenv("PARALLAX_CHAOS"); s != "" {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			t.Fatalf("PARALLAX_CHAOS: %v", err)
		}
	}
	return d
}

// A healthy cluster stays unaccused, whatever happens to it (GUARANTEE G3): load,
// members that are killed, stopped and restarted, all of them at once too,
// leaders that move, compaction, defragmentation.
func TestHealthyChaosIsSilent(t *testing.T) {
	versions := [][]string{nil, nil, nil, {binary.Etcd36, binary.Etcd37, binary.Etcd36}}
	for i, v := range binary.EtcdVersions() {
		versions[i] = []string{v, v, v}
	}
	for _, vs := range versions {
		name := vs[0]
		if vs[1] != vs[0] {
			name = "mixed " + vs[0] + " and " + vs[1]
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Snapshots and their catch-up happen within seconds.
			c := cluster.StartT(t, cluster.Options{Versions: vs, ExtraFlags: []string{"--snapshot-count=200"}})
			operator := filepath.Join(t.TempDir(), "pause")
			p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{
				"--shadow-pause-file=" + operator, "--sample-reads=1", "--shadow-max-reads-per-second=1000", "--shadow-max-bytes-per-second=64MiB",
				"--sweep-interval=0", "--probe-auth", // everything that could accuse anybody
			}})
			begin := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), chaosFor(t))
			defer cancel()
			l := load(ctx, t, p.ClientURL)
			s := shaker{t: t, c: c}
			for ctx.Err() == nil {
				s.shake(ctx)
				absolve(t, p, operator)
			}
			l.Wait()
			s.mend()
			still(t, p)
			silent(t, p)
			m := metrics(t, p)
			compared := parallax.Sum(m, "parallax_shadow_checks_total", `verdict="consistent"`)
			rounds := parallax.Sum(m, "parallax_probe_rounds_total", `verdict="consistent"`)
			swept := parallax.Sum(m, "parallax_sweep_keys_total")
			t.Logf("%v of chaos: %d calls answered, %d kills, %d pauses, %d compactions, %d defragmentations, %d leaders moved; %v checks consistent, %v divergent, %v keys swept, %v rounds of rules consistent, inconclusive: %s",
				time.Since(begin).Round(time.Second), l.answered.Load(), s.kills, s.pauses, s.compactions, s.defrags, s.moves, compared,
				parallax.Sum(m, "parallax_shadow_checks_total", `verdict="divergent"`), swept, rounds, reasons(m))
			if s.kills == 0 || compared < 100 || swept == 0 || rounds == 0 {
				t.Errorf("the test proves nothing: %d kills, %v comparisons, %v keys swept, %v rounds", s.kills, compared, swept, rounds)
			}
		})
	}
}

// reasons of the inconclusive checks, the most frequent first.
func reasons(m map[string]float64) string {
	byReason := map[string]float64{}
	for name, n := range m {
		if _, rest, ok := strings.Cut(name, `parallax_shadow_checks_total{`); ok && n > 0 {
			_, reason, _ := strings.Cut(rest, `reason="`)
			reason, _, _ = strings.Cut(reason, `"`)
			byReason[reason] += n
		}
	}
	delete(byReason, "")
	names := slices.SortedFunc(maps.Keys(byReason), func(a, b string) int { return int(byReason[b] - byReason[a]) })
	for i, name := range names {
		names[i] = fmt.Sprint(name, " ", byReason[name])
	}
	return strings.Join(names, ", ")
}

// absolve is what an operator does after members died while they were read: they
// died of the test, so their ranges may be read again. Otherwise hardly any would
// be left after some kills.
func absolve(t *testing.T, p *parallax.Process, file string) {
	t.Helper()
	if count(t, p, "parallax_shadow_poisoned_ranges") == 0 {
		return
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	paused := func(want float64) func() bool {
		return func() bool {
			if err := p.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			return count(t, p, "parallax_shadow_paused") == want
		}
	}
	eventually(t, 10*time.Second, "the shadow to pause", paused(1))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the shadow to go on", paused(0))
}

// still checks that after all that every member is compared: a key written now
// is found consistent on all of them.
func still(t *testing.T, p *parallax.Process) {
	t.Helper()
	client := connect(t, p.ClientURL)
	before := count(t, p, "parallax_shadow_checks_total", `verdict="consistent"`)
	n := 0
	eventually(t, time.Minute, "a check of all members to be consistent again", func() bool {
		n++
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, _ = client.Put(ctx, fmt.Sprint("/after/", n), "v") // the leader may just be changing
		return count(t, p, "parallax_shadow_checks_total", `verdict="consistent"`) > before
	})
}

// shaker does to a cluster what happens to clusters.
type shaker struct {
	t                                          *testing.T
	c                                          *cluster.Cluster
	kills, pauses, compactions, defrags, moves int
}

func (s *shaker) shake(ctx context.Context) {
	m := s.c.Members[rand.IntN(len(s.c.Members))]
	switch rand.IntN(8) {
	case 0, 1, 2:
		s.kill(ctx, m)
	case 3:
		s.kill(ctx, s.c.Members...)
	case 4:
		s.pauses++
		s.must(m.Pause())
		pause(ctx, time.Duration(100+rand.IntN(900))*time.Millisecond)
		s.must(m.Resume())
	case 5:
		if st, err := m.Status(ctx); err == nil && st.Header.Revision > 50 {
			if _, err := m.Client().Compact(ctx, st.Header.Revision-int64(rand.IntN(40))); err == nil {
				s.compactions++
			}
		}
	case 6:
		if _, err := m.Client().Defragment(ctx, m.ClientURL); err == nil {
			s.defrags++
		}
	case 7:
		if leader, err := s.c.Leader(ctx); err == nil && leader != m {
			if _, err := leader.Client().MoveLeader(ctx, m.ID); err == nil {
				s.moves++
			}
		}
	}
	pause(ctx, time.Duration(rand.IntN(700))*time.Millisecond)
}

// kill members and start them again, all of them at once if so.
func (s *shaker) kill(ctx context.Context, members ...*cluster.Member) {
	for _, m := range members {
		s.kills++
		s.must(m.Kill())
	}
	pause(ctx, time.Duration(rand.IntN(500))*time.Millisecond)
	for _, m := range members {
		s.must(m.Launch(s.t.Context()))
	}
	for _, m := range members {
		s.must(m.WaitReady(s.t.Context()))
	}
}

func (s *shaker) mend() { s.must(s.c.WaitReady(s.t.Context())) }

func (s *shaker) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// pause is part of what happens: it is no wait for an event.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// workload is what clients do meanwhile.
type workload struct {
	sync.WaitGroup
	answered atomic.Int64
}

// load starts clients that read, write, list, delete and lease through Parallax
// until ctx ends. What they are refused while members are away is no failure.
func load(ctx context.Context, t *testing.T, url string) *workload {
	w := &workload{}
	for i := range 4 {
		client := connect(t, url)
		w.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for ctx.Err() == nil {
				call, cancel := context.WithTimeout(ctx, 2*time.Second)
				if one(call, client, r, i) == nil {
					w.answered.Add(1)
				}
				cancel()
				pause(ctx, time.Duration(r.IntN(10))*time.Millisecond)
			}
		})
	}
	return w
}

// one call of a client, of the kinds that kube-apiserver makes and some more.
func one(ctx context.Context, c *clientv3.Client, r *rand.Rand, i int) error {
	key := fmt.Sprintf("/registry/pods/ns-%d/pod-%d", i, r.IntN(30))
	value := fmt.Sprint(r.Uint64())
	var err error
	switch r.IntN(10) {
	case 0, 1:
		_, err = c.Get(ctx, key)
	case 2:
		_, err = c.Get(ctx, key, clientv3.WithSerializable())
	case 3:
		_, err = c.Get(ctx, fmt.Sprintf("/registry/pods/ns-%d/", i), clientv3.WithPrefix(), clientv3.WithLimit(20))
	case 4:
		_, err = c.Put(ctx, key, value, clientv3.WithPrevKV())
	case 5:
		_, err = c.Delete(ctx, key, clientv3.WithPrevKV())
	case 6:
		var lease *clientv3.LeaseGrantResponse
		if lease, err = c.Grant(ctx, 2); err == nil {
			_, err = c.Put(ctx, key, value, clientv3.WithLease(lease.ID))
		}
	default:
		var got *clientv3.GetResponse
		if got, err = c.Get(ctx, key); err == nil {
			var mod int64
			if len(got.Kvs) > 0 {
				mod = got.Kvs[0].ModRevision
			}
			_, err = c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", mod)).
				Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
		}
	}
	return err
}
