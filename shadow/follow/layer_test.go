package follow

import (
	"testing"

	"github.com/etcd-parallax/parallax/shadow/judge"
)

// Each row is a bug, or an injection, of docs/detection.md.
func TestLayer(t *testing.T) {
	for _, c := range []struct {
		name  string
		known Known
		want  string
	}{
		{"13766: entries skipped, while writes flow", Known{Fields: judge.Value | judge.Version, Shifted: true}, "apply"},
		{"13766: entries skipped, and nothing written since", Known{Fields: judge.Value | judge.Version, Rules: []string{"REV"}}, "apply"},
		{"14685: entries applied twice", Known{Fields: judge.Version | judge.ModRevision, Shifted: true, Rules: []string{"REV"}}, "apply"},
		{"17780: revision decreased at restart", Known{Fields: judge.Present, Rules: []string{"REV"}}, "apply"},
		{"18667: the member that served the txn, idle", Known{Fields: judge.Present, Rules: []string{"LIN"}}, "apply"},
		{"18667: the next write is off by one", Known{Fields: judge.CreateRevision | judge.ModRevision, Shifted: true}, "apply"},
		{"11651: the lag is masked, revisions are equal again", Known{Fields: judge.Value, Shifted: true, RevisionsAgree: true}, "apply"},
		{"11651: auth revision ahead, later writes rejected", Known{Fields: judge.Present, Shifted: true, Rules: []string{"REV", "AUTH"}}, "auth"},
		{"14355, 14571: member rejects the writes of others than root", Known{Fields: judge.Present, Rules: []string{"AUTH"}}, "auth"},
		{"11689: leased keys remain on some", Known{Fields: judge.Present, Leased: true, Rules: []string{"LEASE", "REV"}}, "lease"},
		{"12535: a lease is lost at restart, its keys stay", Known{Fields: judge.Present, Leased: true, Shifted: true, Rules: []string{"LEASE"}}, "lease"},
		{"a leased key is missing, and no lease", Known{Fields: judge.Present, Leased: true, RevisionsAgree: true}, "storage"},
		{"a key has another lease", Known{Fields: judge.Lease, RevisionsAgree: true}, "lease"},
		{"18799: part of a txn", Known{Fields: judge.Value | judge.ModRevision | judge.Version, RevisionsAgree: true}, "storage"},
		{"injected: a changed value", Known{Fields: judge.Value, RevisionsAgree: true}, "storage"},
		{"injected: a ghost key, a deleted tombstone", Known{Fields: judge.Present, RevisionsAgree: true}, "storage"},
		{"injected: the index names a record that is not there", Known{Fields: judge.Present, Rules: []string{"member-lost-while-reading", "REV"}}, "storage"},
		{"13196: a zombie member says nothing of a key", Known{Fields: judge.Value, RevisionsAgree: true, Rules: []string{"MEMBERSHIP"}}, "storage"},
		{"a changed value, or a skipped write to a key that is written all the time", Known{Fields: judge.Value}, ""},
		{"13766: one of many writes to a key is skipped", Known{Fields: judge.Value, Rules: []string{"REV"}}, "apply"},
		{"writes flow, and nothing else is known", Known{Fields: judge.Present}, ""},
		{"writes flow, and an older version is shown", Known{Fields: judge.Value | judge.Version | judge.ModRevision}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Layer(c.known); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
