package record

import (
	"encoding/base64"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestKubernetesOfAKey(t *testing.T) {
	k := func(group, resource, namespace, name string) *Kubernetes {
		return &Kubernetes{group, resource, namespace, name}
	}
	for key, want := range map[string]*Kubernetes{
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
		r := NewKey(key)
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

func TestTextOfOthers(t *testing.T) {
	for in, want := range map[string]string{
		"[/a, /b)":                    "[/a, /b)",
		"/a\x1b[2J":                   `"/a\x1b[2J"`,
		"\xff":                        `"\xff"`,
		"x" + strings.Repeat("ö", 20): "x" + strings.Repeat("ö", 9) + "…",
	} {
		if got := Text(in, 20); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
