package divergence

import (
	"encoding/base64"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestKubernetesOfAKey(t *testing.T) {
	k := func(group, resource, namespace, name string) *kubernetesRecord {
		return &kubernetesRecord{group, resource, namespace, name}
	}
	for key, want := range map[string]*kubernetesRecord{
		"/registry/pods/default/web-0":                         k("", "pods", "default", "web-0"),
		"/registry/deployments/kube-system/coredns":            k("", "deployments", "kube-system", "coredns"),
		"/registry/leases/kube-node-lease/node-1":              k("", "leases", "kube-node-lease", "node-1"),
		"/registry/minions/node-1":                             k("", "nodes", "", "node-1"),
		"/registry/nodes/node-1":                               k("", "nodes", "", "node-1"),
		"/registry/namespaces/default":                         k("", "namespaces", "", "default"),
		"/registry/clusterroles/system:node":                   k("", "clusterroles", "", "system:node"),
		"/registry/controllers/default/rc":                     k("", "replicationcontrollers", "default", "rc"),
		"/registry/ingress/default/web":                        k("", "ingresses", "default", "web"),
		"/registry/services/specs/default/kubernetes":          k("", "services", "default", "kubernetes"),
		"/registry/services/endpoints/default/kubernetes":      k("", "endpoints", "default", "kubernetes"),
		"/registry/apiregistration.k8s.io/apiservices/v1.apps": k("apiregistration.k8s.io", "apiservices", "", "v1.apps"),
		"/registry/apiextensions.k8s.io/customresourcedefinitions/crontabs.example.com": k("apiextensions.k8s.io",
			"customresourcedefinitions", "", "crontabs.example.com"),
		"/registry/example.com/crontabs/default/nightly": k("example.com", "crontabs", "default", "nightly"),
		"/registry/example.com/clusters/main":            k("example.com", "clusters", "", "main"),
		"/registry/ranges/serviceips":                    nil,
		"/registry/masterleases/10.0.0.1":                nil,
		"/registry/services/default/kubernetes":          nil,
		"/registry/health":                               nil,
		"/registry/example.com/crontabs":                 nil,
		"/registry/pods/default/web-0/extra":             nil,
		"/registry/pods//web-0":                          nil,
		"/registry/pods/default/":                        nil,
		"/registry/pods/default/\x00":                    nil,
		"/registry/":                                     nil,
		"compact_rev_key":                                nil,
		"/kubernetes.io/pods/default/web-0":              nil, // OpenShift's prefix: not guessed
	} {
		if diff := cmp.Diff(want, kubernetesOf(key)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", key, diff)
		}
	}
}

func TestLongKeysAreCutBetweenCharacters(t *testing.T) {
	for _, key := range []string{
		"/registry/pods/default/" + strings.Repeat("x", 1<<20),
		strings.Repeat("日本", 1000),
		"x" + strings.Repeat("日本", 1000),
		strings.Repeat("\xbf", 5000),
	} {
		r := newKeyRecord(key)
		shown := r.Key
		if r.KeyBase64 != "" {
			b, err := base64.StdEncoding.DecodeString(r.KeyBase64)
			if err != nil {
				t.Fatal(err)
			}
			shown = string(b)
		}
		if r.KeySize != len(key) || !strings.HasPrefix(key, shown) || len(shown) > keyShown || len(shown) <= keyShown-utf8.UTFMax {
			t.Errorf("%.10q…: shown %d bytes of %d", key, len(shown), r.KeySize)
		}
		if utf8.ValidString(key) != (r.Key != "") || r.Kubernetes != nil {
			t.Errorf("%.10q…: %+v", key, r)
		}
	}
}

// GUARANTEE G8: No value, token, password or key material is logged or served.
func TestG8NoValueInARecord(t *testing.T) {
	// checkLine looks for planted values in every record of every test; here
	// that it would find one, and what stands in their place.
	caught := false
	func() {
		defer func() { _ = recover() }()
		l := New(Config{})
		l.Confirm(ev("/"+planted, 5, "a=x@5/5/1|b=-"))
		drain(fatalFunc(func() { caught = true; panic("caught") }), l)
	}()
	if !caught {
		t.Fatal("the check for planted values finds none in a key")
	}

	one, two := newHasher([]byte("one")), newHasher([]byte("two"))
	value := []byte(planted)
	if one.sum(value) != one.sum([]byte(planted)) || one.sum(value) == one.sum([]byte(planted+"x")) {
		t.Error("equal values, and only they, must have equal hashes")
	}
	if one.sum(value) == two.sum(value) || one.id == two.id {
		t.Error("another key must give other hashes and another id")
	}
	if mine, other := New(Config{}), New(Config{}); mine.hasher.id == other.hasher.id {
		t.Error("without a key of its own each log must have a random one")
	}
}

type fatalFunc func()

func (f fatalFunc) Helper()               {}
func (f fatalFunc) Fatalf(string, ...any) { f() }

func TestFindingIDs(t *testing.T) {
	ids := make(map[string]string)
	for name, id := range map[string]string{
		"key":         findingID(1, classOf(RulePIN), "k"),
		"cluster":     findingID(2, classOf(RulePIN), "k"),
		"other key":   findingID(1, classOf(RulePIN), "l"),
		"served":      findingID(1, classOf(RuleServedWrong), "k"),
		"shifted":     findingID(1, kindShifted, partition{{1}, {2, 3}}.canonical()),
		"other sides": findingID(1, kindShifted, partition{{1, 2}, {3}}.canonical()),
	} {
		if other, ok := ids[id]; ok {
			t.Errorf("%s and %s have the same id", name, other)
		}
		ids[id] = name
	}
	if findingID(1, classOf(RulePIN), "k") != findingID(1, classOf(RuleOracle), "k") {
		t.Error("PIN and ORACLE see the same damage")
	}
	if (partition{{1}, {3, 2}}).canonical() != (partition{{2, 3}, {1}}).canonical() {
		t.Error("the order of groups and members must not matter")
	}
}

func TestPartitionCovers(t *testing.T) {
	whole := partition{{1, 2, 3}, {4, 5}}
	for _, tt := range []struct {
		part partition
		want bool
	}{
		{partition{{1, 2, 3}, {4, 5}}, true},
		{partition{{4, 5}, {1}}, true},
		{partition{{1}, {4}}, true},
		{partition{{1}, {2}}, false},
		{partition{{1, 4}, {2}}, false},
		{partition{{1}, {4}, {5}}, false},
		{partition{{1}, {6}}, false},
	} {
		if whole.covers(tt.part) != tt.want {
			t.Errorf("%v covers %v: want %v", whole, tt.part, tt.want)
		}
	}
}
