package contract

import (
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// What h2spec finds right and wrong with a member it finds right and wrong through Parallax: 145 cases, most of which no client would
// send. Members themselves fail about thirty of them.
func TestH2spec(t *testing.T) {
	t.Parallel()
	var running sync.WaitGroup
	for _, version := range binary.EtcdVersions() {
		for scheme, secure := range map[string]cluster.TLS{"http": cluster.Plain, "https": cluster.ServerTLS} {
			// With a limit that h2spec can exceed: without one it tries for ever, or not at all.
			c := cluster.StartT(t, cluster.Options{Version: version, Size: 1, TLS: secure, ExtraFlags: []string{"--max-concurrent-streams=10"}})
			direct, proxied := directly(c), through(t, c, place(t), []string{scheme})[0]
			// Not as parallel tests, of which there are only as many as cores: it is nearly all waiting.
			running.Go(func() { sameSpec(t, version+" "+scheme, direct, proxied) })
		}
	}
	running.Wait()
}

// specRuns is how often a case is tried at most whose result differs: some depend on which of two things the member does first, and all on
// an answer within a second, on cores that are busy.
const specRuns = 10

// sameSpec compares the results. A case whose results are not always the same is compared by those that it had at all.
func sameSpec(t *testing.T, what string, direct, proxied *plumbing) {
	want, got := make(results), make(results)
	var sections []string // all at first, then those of the cases that differ
	for range specRuns {
		both := make(chan results)
		go func() { both <- h2spec(t, direct, sections) }()
		got.add(h2spec(t, proxied, sections))
		want.add(<-both)
		if sections = got.differ(want); len(sections) == 0 {
			break
		}
		t.Logf("%s: different so far: %q", what, sections)
	}
	if len(want) < 140 || len(want.passing()) < 100 {
		t.Errorf("%s: h2spec ran %d cases, of which %d passed", what, len(want), len(want.passing()))
	}
	for name := range want {
		if len(want[name]) > 1 {
			t.Logf("%s: directly not always the same: %s: %v", what, name, slices.Sorted(maps.Keys(want[name])))
		}
		if !want.agrees(got, name) {
			t.Errorf("%s: %s: directly %v, proxied %v", what, name, slices.Sorted(maps.Keys(want[name])), slices.Sorted(maps.Keys(got[name])))
		}
	}
	t.Logf("%s: %d cases, %d pass", what, len(want), len(want.passing()))
}

// results are those that each case had, by "section: name".
type results map[string]map[string]string // result → section

func (r results) add(more results) {
	for name, had := range more {
		if r[name] == nil {
			r[name] = make(map[string]string)
		}
		maps.Copy(r[name], had)
	}
}

func (r results) agrees(other results, name string) bool {
	for result := range r[name] {
		if _, has := other[name][result]; has {
			return true
		}
	}
	return false
}

// differ returns the sections of the cases that had no result in common.
func (r results) differ(other results) (sections []string) {
	for name, had := range r {
		if !r.agrees(other, name) {
			for _, section := range had {
				sections = append(sections, section)
			}
		}
	}
	slices.Sort(sections)
	return slices.Compact(sections)
}

func (r results) passing() (names []string) {
	for name, had := range r {
		if _, passed := had["passed"]; passed {
			names = append(names, name)
		}
	}
	return names
}

// h2spec runs the cases of some sections, or all.
func h2spec(t *testing.T, p *plumbing, sections []string) results {
	path, err := binary.Builder{}.H2spec(t.Context())
	if err != nil {
		t.Error(err)
		return nil
	}
	_, address := p.network()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Error(err)
		return nil
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	args := append([]string{"--host=" + host, "--port=" + port, "--timeout=1", "--junit-report=" + report}, sections...)
	if p.tls != nil {
		args = append(args, "--tls", "--insecure")
	}
	// The kernel kills the child when the thread that forked it ends: see internal/process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var failed *exec.ExitError // cases failed
	if out, err := cmd.CombinedOutput(); err != nil && !errors.As(err, &failed) {
		t.Errorf("%v: %v: %s", cmd, err, out)
		return nil
	}
	content, err := os.ReadFile(report)
	if err != nil {
		t.Error(err)
		return nil
	}
	return parseReport(t, content)
}

func parseReport(t *testing.T, content []byte) results {
	var report struct {
		Suites []struct {
			Section string `xml:"package,attr"`
			Cases   []struct {
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(content, &report); err != nil {
		t.Error(err)
	}
	found := make(results)
	for _, suite := range report.Suites {
		for _, c := range suite.Cases {
			result := "passed"
			switch {
			case c.Failure != nil || c.Error != nil:
				result = "failed"
			case c.Skipped != nil:
				result = "skipped"
			}
			found[fmt.Sprintf("%s: %s", suite.Section, c.Name)] = map[string]string{result: suite.Section}
		}
	}
	return found
}
