package inspect

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/etcd-parallax/parallax/shadow/diagnose"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// someFacts of three members, the third of which could not be asked when down.
func someFacts(down bool) diagnose.Facts {
	f := diagnose.Facts{ClusterID: 0x5c6e5a5cfbe981f6, Voters: []diagnose.ID{0x1a, 0x2b, 0x3c}, Samples: 4224, LeaseReads: 30, LeaseEqual: true, ListRounds: 10,
		Keys: diagnose.Keys{Revision: 61, Compared: 90, Ranges: 25}}
	for i, id := range f.Voters {
		keys, leases := int64(60), 3
		f.Members = append(f.Members, diagnose.Member{
			ID: id, Name: "m" + string(rune('1'+i)), URL: "http://10.0.0." + string(rune('1'+i)) + ":2379", Version: "3.6.16", Leader: 0x1a, RaftTerm: 4,
			Committed: 72, Applied: 72, AppliedBefore: 70, Revision: 62, DBSize: 3 << 20, DBInUse: 36 << 10, Live: true, Keys: &keys, Leases: &leases,
			Lists: []diagnose.Listed{{ID: 0x1a}, {ID: 0x2b}, {ID: 0x3c}},
		})
	}
	for _, a := range f.Voters {
		for _, b := range f.Voters {
			if a != b {
				f.Pairs = append(f.Pairs, diagnose.Pair{A: a, B: b, Rounds: 10, Seconds: 18, RevSlack: new(int64), LinSlack: new(int64)})
			}
		}
	}
	f.Members[1].Alarms = []string{"memberID:43 alarm:NOSPACE "}
	if down {
		f.Members[2] = diagnose.Member{ID: 0x3c, Name: "m3\x1b[2J", URL: "http://10.0.0.3:2379", NotAsked: "unreachable: connection refused"}
	}
	return f
}

// What an operator reads at night. To write the files anew, set PARALLAX_WRITE_GOLDEN=1, and look at what changed.
func TestPage(t *testing.T) {
	found := someFacts(false)
	found.Members[1].Revision = 61
	found.Found = []diagnose.Found{{Rule: "LIN", Gap: 1, Groups: []diagnose.Group{
		{Members: []diagnose.ID{0x1a, 0x3c}, Shows: "revision 62", Revision: 62},
		{Members: []diagnose.ID{0x2b}, Shows: "revision 61 in a linearizable read afterwards", Revision: 61},
	}}}
	found.Hashes = []diagnose.Hash{{Member: 0x1a, Hash: 0x1f71d7b0, Revision: 61, Compact: 12}, {Member: 0x2b, Why: "permission denied"}}
	down := someFacts(true)
	down.Remarks = []string{"others may read the password file: set its mode to 0600 file=/tmp/p mode=-rw-r--r--"}
	for name, f := range map[string]diagnose.Facts{"divergent": found, "nothing-found": someFacts(false), "inconclusive": down} {
		t.Run(name, func(t *testing.T) {
			got := page(diagnose.NewReport(f, time.Date(2026, 11, 22, 3, 4, 5, 0, time.UTC), 22*time.Second))
			file := filepath.Join("testdata", "diagnose", name+".txt")
			if os.Getenv("PARALLAX_WRITE_GOLDEN") != "" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the page is not that of %s (-want +got):\n%s", file, diff)
			}
		})
	}
}

func runDiagnose(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, progress strings.Builder
	cmd := Diagnose(&out, &progress)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append([]string{}, args...))
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func exitCode(err error) int {
	if _, ok := errors.AsType[UsageError](err); ok {
		return 2
	}
	if e, ok := errors.AsType[ExitError](err); ok {
		return e.Code
	}
	if err != nil {
		return -1
	}
	return 0
}

// One member is down: inconclusive, and the report says why.
func TestDiagnoseJSON(t *testing.T) {
	c := membertest.Start(t, 3, 1)
	c.Members[2].Stop()
	out, err := runDiagnose(t, "--endpoints", c.URLs()[0], "--duration", "1s", "--output", "json")
	if got := exitCode(err); got != exitInconclusive {
		t.Fatalf("exit code %d (%v), want 3", got, err)
	}
	var r struct {
		Schema     string
		Conclusion struct {
			Verdict string
			Because []string
		}
		Facts struct {
			ClusterID string `json:"cluster_id"`
			Members   []struct{ ID, Name, URL string }
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r.Schema != diagnose.Schema || r.Conclusion.Verdict != "inconclusive" || !strings.Contains(strings.Join(r.Conclusion.Because, " "), "could not be asked: unreachable") || r.Facts.ClusterID != "64" || len(r.Facts.Members) != 3 || r.Facts.Members[0].URL == "" {
		t.Errorf("got %+v", r)
	}
}

// Nobody writes, and nothing was ever written.
func TestDiagnoseText(t *testing.T) {
	c := membertest.Start(t, 3, 1)
	out, err := runDiagnose(t, "--endpoints", c.URLs()[0], "--duration", "1s")
	for wait := 2; err != nil && wait < 10; wait *= 2 { // on busy cores
		out, err = runDiagnose(t, "--endpoints", c.URLs()[0], "--duration", strconv.Itoa(wait)+"s")
	}
	if err != nil || !strings.HasPrefix(out, "NOTHING FOUND: ") || strings.Count(out, c.URLs()[2]) == 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestDiagnoseUsage(t *testing.T) {
	for _, args := range [][]string{{"extra"}, {"--output", "yaml"}, {"--duration", "0s"}, {"--duration", "1h"}, {"--endpoints", ""}} {
		if out, err := runDiagnose(t, args...); exitCode(err) != 2 || out != "" {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
}
