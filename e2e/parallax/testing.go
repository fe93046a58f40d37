package parallax

import (
	"bytes"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// StartT starts a Parallax that ends with the test, which fails if Close finds
// something wrong, or a record does not follow the schema in docs. A test that
// failed shows its records and its log.
func StartT(t testing.TB, opts Options) *Process {
	t.Helper()
	p, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("start parallax: %v", err)
	}
	t.Cleanup(func() {
		for _, r := range p.Records() {
			if err := validate(r.Raw); err != nil {
				t.Errorf("a record does not follow the schema: %v", err)
			}
		}
		if t.Failed() { // before Close, with which the log goes
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

var schema = sync.OnceValue(func() *jsonschema.Schema {
	_, file, _, _ := runtime.Caller(0)
	return jsonschema.NewCompiler().MustCompile(filepath.Join(filepath.Dir(file), "../../docs/divergence-log.schema.json"))
})

func validate(record []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(record))
	if err != nil {
		return err
	}
	return schema().Validate(v)
}
