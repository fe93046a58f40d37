package e2e

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// With everything sampled and one client that gets a handful of keys at full speed, no key is read twice while it is known to be
// verified. What Parallax counts is what the members count.
func TestNothingIsSampledTwice(t *testing.T) {
	t.Parallel()
	const keys = 5
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	for i := range keys {
		if _, err := c.Put(t.Context(), fmt.Sprintf("/twice/%d", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	for _, life := range []time.Duration{time.Minute, time.Second} {
		p := parallax.StartT(t, parallax.Options{
			Endpoints: c.Endpoints(), Race: true, Flags: []string{"--sample-reads=1", "--verified-for=" + life.String(), "--sweep=false"},
		})
		allMembers(t, p)
		before := ranges(t, c)
		begin := time.Now()
		gets := map[uint64]float64{} // by the member that served them
		client := connect(t, p.ClientURL)
		for n := 0; time.Since(begin) < 3*time.Second; n++ {
			got, err := client.Get(t.Context(), fmt.Sprintf("/twice/%d", n%keys), clientv3.WithSerializable())
			if err != nil || len(got.Kvs) != 1 {
				t.Fatalf("get: %v, %v", got, err)
			}
			gets[got.Header.MemberId]++
		}
		most := float64(keys * (1 + int(time.Since(begin)/life)))
		quiet(t, p)

		after := ranges(t, c)
		for _, m := range c.Members {
			reads := count(t, p, "parallax_shadow_member_reads_total", fmt.Sprintf(`member="%x"`, m.ID))
			if reads < keys || reads > most {
				t.Errorf("verified for %v: %s was read %v times for %d keys, want at most %v", life, m.Name, reads, keys, most)
			}
			if life < 3*time.Second && reads < 2*keys {
				t.Errorf("verified for %v: %s was read only %v times: a key that is no longer verified has to be read again", life, m.Name, reads)
			}
			// LIN asks idle members for one key now and then, also before and after this.
			lin := count(t, p, "parallax_probe_calls_total", `rule="LIN"`, fmt.Sprintf(`member="%x"`, m.ID))
			if counted := after[m.ID] - before[m.ID] - gets[m.ID]; counted < reads || counted > reads+lin {
				t.Errorf("%s counts %v shadow reads, Parallax %v and at most %v of LIN", m.Name, counted, reads, lin)
			}
		}
		if n := count(t, p, "parallax_shadow_dropped_total", `reason="verified"`); n == 0 {
			t.Errorf("nothing is counted as verified: %v", checks(t, p))
		}
		if sampled, all := count(t, p, "parallax_shadow_calls_total", `outcome="sampled"`), count(t, p, "parallax_shadow_calls_total"); all != sum(gets) || sampled == 0 {
			t.Errorf("%v calls are counted, %v of them sampled; the client made %v", all, sampled, sum(gets))
		}
		silent(t, p)
	}
}

// GUARANTEE G6: Shadow load stays within the configured budget per member, of each Parallax. And it is used up, as long as there is something to look at.
func TestG6Budgets(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Version: binary.Etcd36})
	fill(t, c, "/small/", 6000, 10)
	fill(t, c, "/large/", 400, 64<<10)
	const window = 10 * time.Second
	for _, budget := range []struct {
		metric, prefix string
		keys           int
		pace           time.Duration
		perSecond      float64
		burst, most    float64 // most: what can be under way when the window begins or ends
	}{
		{"parallax_shadow_member_reads_total", "/small/", 6000, 3 * time.Millisecond, 50, 5, 4},
		{"parallax_shadow_member_bytes_total", "/large/", 400, 15 * time.Millisecond, 1 << 20, 1 << 20, 4 * 65 << 10},
	} {
		t.Run(budget.metric, func(t *testing.T) {
			t.Parallel()
			p := parallax.StartT(t, parallax.Options{Endpoints: c.Endpoints(), Race: true, Flags: []string{"--sample-reads=1"}})
			allMembers(t, p)
			readers := startReaders(t, p.ClientURL, budget.prefix, budget.keys, budget.pace)
			used := func(m *cluster.Member) float64 { return count(t, p, budget.metric, fmt.Sprintf(`member="%x"`, m.ID)) }
			// The burst at the beginning is not to be measured.
			eventually(t, 30*time.Second, "the budget to be the limit", func() bool { return used(c.Members[0]) > 1.5*budget.burst })
			begin, before := time.Now(), map[uint64]float64{}
			for _, m := range c.Members {
				before[m.ID] = used(m)
			}
			time.Sleep(window) // it is a rate that is measured
			for _, m := range c.Members {
				spent, seconds := used(m)-before[m.ID], time.Since(begin).Seconds()
				allowed := budget.perSecond * seconds
				t.Logf("%s: %.0f in %.1f s, allowed are %.0f", m.Name, spent, seconds, allowed)
				if spent > 1.05*allowed+budget.burst+budget.most {
					t.Errorf("%s: %.0f in %.1f s is more than %.0f", m.Name, spent, seconds, allowed)
				}
				if spent < 0.5*allowed-budget.most { // on cores that are busy with other tests the shadow may not come to all of it
					t.Errorf("%s: %.0f in %.1f s is less than %.0f: the budget is not used", m.Name, spent, seconds, allowed)
				}
			}
			readers.stop(t)
			m := metrics(t, p)
			drops := parallax.Sum(m, "parallax_shadow_dropped_total") + parallax.Sum(m, "parallax_shadow_calls_total", `outcome="busy"`)
			waiting := parallax.Sum(m, "parallax_shadow_calls_total", `outcome="sampled"`) - parallax.Sum(m, "parallax_shadow_checks_total")
			if drops == 0 && waiting == 0 {
				t.Errorf("more was offered than the budget allows, and nothing tells: %v", checks(t, p))
			}
			silent(t, p)
		})
	}
}

// startReaders gets keys in a random order, at a pace that leaves the machine to the members.
func startReaders(t *testing.T, endpoint, prefix string, keys int, pace time.Duration) *checkers {
	t.Helper()
	w := newCheckers()
	c := connect(t, endpoint)
	w.group.Go(func() error {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for order := rand.Perm(keys); w.ctx.Err() == nil; <-tick.C {
			i := int(w.rounds.Add(1)) % keys
			if got, err := c.Get(t.Context(), key(prefix, order[i])); err != nil || len(got.Kvs) != 1 {
				return fmt.Errorf("get %d: %v, %w", order[i], got, err)
			}
		}
		return nil
	})
	t.Cleanup(func() {
		w.cancel()
		_ = w.group.Wait()
	})
	return w
}

func key(prefix string, i int) string { return fmt.Sprintf("%s%05d", prefix, i) }

// fill writes keys, directly and quickly.
func fill(t *testing.T, c *cluster.Cluster, prefix string, keys, size int) {
	t.Helper()
	value := strings.Repeat("v", size)
	var revision int64
	for i := 0; i < keys; {
		var ops []clientv3.Op
		for bytes := 0; i < keys && len(ops) < 100 && bytes < 1<<20; i++ {
			ops, bytes = append(ops, clientv3.OpPut(key(prefix, i), value)), bytes+size
		}
		txn, err := c.Client().Txn(t.Context()).Then(ops...).Commit()
		if err != nil {
			t.Fatal(err)
		}
		revision = txn.Header.Revision
	}
	if err := c.WaitRevision(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
}

// quiet waits until the shadow has done all its checks: its count of reads no longer changes.
func quiet(t *testing.T, p *parallax.Process) {
	t.Helper()
	eventually(t, 20*time.Second, "all sampled calls to be done with", func() bool {
		m := metrics(t, p)
		done := parallax.Sum(m, "parallax_shadow_checks_total") + parallax.Sum(m, "parallax_shadow_dropped_total") + parallax.Sum(m, "parallax_shadow_skipped_total")
		return parallax.Sum(m, "parallax_shadow_calls_total", `outcome="sampled"`) == done
	})
}

// ranges is how many Range calls each member has answered, as it says itself.
func ranges(t *testing.T, c *cluster.Cluster) map[uint64]float64 {
	t.Helper()
	handled := map[uint64]float64{}
	for _, m := range c.Members {
		for line, value := range scrape(t, m.ClientURL+"/metrics") {
			if strings.HasPrefix(line, "grpc_server_handled_total{") && strings.Contains(line, `grpc_method="Range"`) {
				handled[m.ID] += value
			}
		}
	}
	return handled
}

func scrape(t *testing.T, url string) map[string]float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true // an idle connection would be found as a leak
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	samples := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), "} ")
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			samples[name] = value
		}
	}
	return samples
}

func sum(of map[uint64]float64) (all float64) {
	for _, n := range of {
		all += n
	}
	return all
}
