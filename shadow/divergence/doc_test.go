package divergence

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

const docFile = "../../docs/divergence-log.md"

// TestEveryFieldIsDocumented compares the schema with the table of fields, in
// both directions. That the code writes nothing that the schema does not have
// is checked in every test: additionalProperties is false everywhere.
func TestEveryFieldIsDocumented(t *testing.T) {
	var root map[string]any
	b, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &root); err != nil {
		t.Fatal(err)
	}
	properties := make(map[string]bool)
	walkSchema(t, root, root, "", properties)
	compare(t, properties, documented(t, `(?m)^\| `+"`"+`([a-z_0-9.\[\]]+)`+"`"+` \| .*[a-z]`, "parallax_"))
}

// walkSchema collects the paths of properties, as the documentation writes them.
func walkSchema(t *testing.T, root, node map[string]any, path string, into map[string]bool) {
	if ref, ok := node["$ref"].(string); ok {
		at := any(root)
		for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			at = at.(map[string]any)[part]
		}
		node = at.(map[string]any)
	}
	if node["type"] == "object" && node["additionalProperties"] != false {
		t.Errorf("%q: additionalProperties is not false", path)
	}
	if items, ok := node["items"].(map[string]any); ok {
		into[path+"[]"] = true
		delete(into, path)
		walkSchema(t, root, items, path+"[]", into)
	}
	children, _ := node["properties"].(map[string]any)
	for name, child := range children {
		p := strings.TrimPrefix(path+"."+name, ".")
		into[p] = true
		walkSchema(t, root, child.(map[string]any), p, into)
	}
}

func TestEveryMetricIsDocumented(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	l := New(Config{Metrics: reg})
	l.Confirm(Evidence{})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metrics := make(map[string]bool)
	for _, f := range families {
		name := f.GetName()
		var labels []string
		for _, p := range f.Metric[0].Label {
			labels = append(labels, p.GetName())
		}
		if labels != nil {
			name += "{" + strings.Join(labels, ",") + "}"
		}
		metrics[name] = true
	}
	compare(t, metrics, documented(t, "(?m)^\\| `(parallax_[a-z_{}]+)` \\| .*[a-z]", "-"))
}

func documented(t *testing.T, pattern, except string) map[string]bool {
	b, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]bool)
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(b), -1) {
		if !strings.HasPrefix(m[1], except) {
			out[m[1]] = true
		}
	}
	return out
}

func compare(t *testing.T, have, documented map[string]bool) {
	t.Helper()
	sorted := func(m map[string]bool) (out []string) {
		for k := range m {
			out = append(out, k)
		}
		slices.Sort(out)
		return out
	}
	if len(have) == 0 {
		t.Fatal("nothing found: the test reads the wrong place")
	}
	if diff := cmp.Diff(sorted(documented), sorted(have)); diff != "" {
		t.Errorf("documentation and code differ (-%s +code):\n%s", docFile, diff)
	}
}
