package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// record are the fields of the divergence log that the demo shows
// (docs/divergence-log.md has all of them).
type record struct {
	Key        string     `json:"key"`
	Kubernetes kubernetes `json:"kubernetes"`
	Revision   int64      `json:"revision"`
	Fields     []string   `json:"fields"`
	Groups     []group    `json:"groups"`
	Basis      string     `json:"basis"`
	Differs    []named    `json:"differs"`
	Trigger    struct {
		Kind   string `json:"kind"`
		Method string `json:"method"`
	} `json:"trigger"`
}

type kubernetes struct {
	Resource  string `json:"resource"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

type group struct {
	Members     []named `json:"members"`
	Present     bool    `json:"present"`
	ModRevision int64   `json:"mod_revision"`
	Version     int64   `json:"version"`
	ValueSize   int     `json:"value_size"`
	ValueHash   string  `json:"value_hash"`
}

type named struct {
	Name string `json:"name"`
}

func names(members []named) string {
	var all []string
	for _, m := range members {
		all = append(all, m.Name)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (g group) String() string {
	if !g.Present {
		return "absent"
	}
	return fmt.Sprintf("present, mod_revision %d, version %d, %d bytes, hash %.8s…", g.ModRevision, g.Version, g.ValueSize, g.ValueHash)
}

// confirmed tells whether a record is the one that the demo waits for.
func confirmed(key string) func(parallax.Record) bool {
	return func(r parallax.Record) bool { return r.Text("key") == key && r.Text("event") == "confirmed" }
}

// show shows a record: what matters first, then the line itself.
func (t *terminal) show(raw []byte, r record) {
	row := func(name, format string, args ...any) { t.say("%-12s %s", name, fmt.Sprintf(format, args...)) }
	row("key", "%s", t.paint(bold, r.Key))
	k := r.Kubernetes
	row("object", "%s %s/%s", k.Resource, k.Namespace, k.Name)
	row("revision", "%d", r.Revision)
	for _, g := range r.Groups {
		row(names(g.Members), "%s", g)
	}
	row("differs", "%s (basis: %s)", names(r.Differs), r.Basis)
	row("fields", "%s", strings.Join(r.Fields, ", "))
	row("trigger", "%s, %s", r.Trigger.Kind, r.Trigger.Method)
	t.say("\nThe line itself:")
	t.detail(string(raw) + "\n")
}
