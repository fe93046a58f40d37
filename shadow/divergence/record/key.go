package record

import (
	"encoding/base64"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Key is a key as it is shown: as text or, where it has none, in base64.
type Key struct {
	Key        string      `json:"key,omitempty"`
	KeyBase64  string      `json:"key_base64,omitempty"`
	KeySize    int         `json:"key_size,omitempty"` // of the whole key, when only its beginning is shown
	Kubernetes *Kubernetes `json:"kubernetes,omitempty"`
}

// keyShown bounds a key in a record, and so the memory of waiting records: etcd
// takes keys of up to 1.5 MiB, Kubernetes' have at most some hundred bytes.
const keyShown = 1024

// NewKey is the key as it is shown.
func NewKey[T string | []byte](key T) Key {
	var r Key
	shown := string(key[:min(len(key), keyShown)])
	if len(key) > keyShown {
		r.KeySize = len(key)
		for cut := keyShown; cut > keyShown-utf8.UTFMax; cut-- {
			if utf8.RuneStart(key[cut]) { // not in the middle of a character
				shown = shown[:cut]
				break
			}
		}
	}
	if printable(shown) {
		r.Key = shown
	} else {
		r.KeyBase64 = base64.StdEncoding.EncodeToString([]byte(shown))
	}
	if r.KeySize == 0 {
		r.Kubernetes = kubernetesOf(shown)
	}
	return r
}

// name is the key within a sentence.
func (k *Key) name() string {
	name := k.Key
	if name == "" {
		name = "base64 " + k.KeyBase64
	}
	if k.KeySize > 0 {
		name += "…"
	}
	return name
}

// printable reports whether a key is shown as text. Control characters and
// direction marks could make a terminal show another key than the real one.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// Text is what others call something, as it is shown: escaped where it is not
// printable, and cut.
func Text(s string, most int) string {
	if !printable(s) {
		s = strconv.QuoteToASCII(s)
	}
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// Kubernetes is the Kubernetes object that a key stands for.
type Kubernetes struct {
	Group     string `json:"group,omitempty"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// registry is the prefix that kube-apiserver uses unless --etcd-prefix says
// otherwise. Under another prefix nothing is guessed.
const registry = "/registry/"

// storedAs are the resources that kube-apiserver stores under another name
// (SpecialDefaultResourcePrefixes in k8s.io/kubernetes/pkg/kubeapiserver).
var storedAs = map[string]string{
	"controllers":       "replicationcontrollers",
	"ingress":           "ingresses",
	"minions":           "nodes",
	"podsecuritypolicy": "podsecuritypolicies",
}

// notObjects are kube-apiserver's own bookkeeping, which no API serves.
var notObjects = map[string]bool{"masterleases": true, "peerserverleases": true, "ranges": true}

// kubernetesOf reads a key of kube-apiserver, and is nil where it would have
// to guess. The number of segments tells the scope: a namespaced object has
// one more than a cluster-scoped one, and names contain no slash.
func kubernetesOf(key string) *Kubernetes {
	rest, ok := strings.CutPrefix(key, registry)
	if !ok || !printable(rest) {
		return nil
	}
	segments := strings.Split(rest, "/")
	for _, s := range segments {
		if s == "" {
			return nil
		}
	}
	k := new(Kubernetes)
	switch first := segments[0]; {
	case strings.Contains(first, "."):
		// Only CRDs and aggregated APIs have their group in the key, and such a
		// group has a dot; a built-in resource has none, whatever its group.
		k.Group, segments = first, segments[1:]
	case first == "services":
		// services/specs/ns/name, services/endpoints/ns/name
		if len(segments) != 4 || segments[1] != "specs" && segments[1] != "endpoints" {
			return nil
		}
		segments = segments[1:]
		if segments[0] == "specs" {
			segments[0] = "services"
		}
	case notObjects[first]:
		return nil
	case storedAs[first] != "":
		segments[0] = storedAs[first]
	}
	switch len(segments) {
	case 2:
		k.Resource, k.Name = segments[0], segments[1]
	case 3:
		k.Resource, k.Namespace, k.Name = segments[0], segments[1], segments[2]
	default:
		return nil
	}
	return k
}

// name is the object within a sentence.
func (k *Kubernetes) name() string {
	name := k.Resource + " "
	if k.Namespace != "" {
		name += k.Namespace + "/"
	}
	return name + k.Name
}
