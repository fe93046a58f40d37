package parallax

import "testing"

// StartT starts a Parallax that ends with the test, which fails if Close finds
// something wrong. A test that failed shows its records and its log.
func StartT(t testing.TB, opts Options) *Process {
	t.Helper()
	p, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("start parallax: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("parallax said:\n%s", p.Log())
			for _, r := range p.Records() {
				t.Logf("record: %s", r.Raw)
			}
		}
		if err := p.Close(); err != nil {
			t.Errorf("close parallax: %v", err)
		}
	})
	return p
}
