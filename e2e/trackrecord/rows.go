package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

// row is one line of the track record: what happens to real members, and what
// Parallax has to say of it.
type row struct {
	story
	version string
}

// story is what rows of several versions share.
type story struct {
	id string // with the version, the name of the row

	// control is a version in which the bug is fixed. Where there is none, the
	// play has the control in it: the same members, before, without the fault.
	control string

	auth bool // etcd authentication is on

	bug, how string // for people

	play func(context.Context, *scene) error
	want []want

	// drift tells that revisions move apart: then any key may differ, and be named.
	drift bool
	// besides are kinds of records that may come as well.
	besides []string

	// quiet is how long a control is watched, and must not be accused.
	quiet time.Duration
	// check is a prefix: `parallax check` must name all keys that differ below it, and end with 1; "" where it is not asked.
	check string
}

// want is a record that has to come: of docs/divergence-log.md.
type want struct {
	kind   string
	rules  []string      // one of these
	keys   string        // prefix of the keys, where the kind is of a key: all that differ are to be named
	fields []string      // one of these, where it matters
	extent bool          // a key may also be named by the extent of another finding about this member
	within time.Duration // the bar, from the moment at which it can be seen
}

// The bars of the project: a key that clients touch, a revision that is off
// while writes flow, and on an idle cluster.
const (
	keyBar      = time.Second
	revisionBar = 5 * time.Second
	idleBar     = 20 * time.Second
	leaseBar    = 20 * time.Second

	// driftBar is for keys that no client wrote since: a drift is found, and then followed.
	driftBar = 10 * time.Second
)

func key(prefix string, fields ...string) want {
	return want{kind: "key", rules: []string{"PIN", "ORACLE"}, keys: prefix, fields: fields, within: keyBar}
}

// drifted are keys that differ because revisions moved apart.
func drifted(prefix string) want {
	w := key(prefix)
	w.extent, w.within = true, driftBar
	return w
}

func revision(within time.Duration) want {
	return want{kind: "revision", rules: []string{"REV", "LIN"}, within: within}
}

// quietBriefly is long against a check of what clients touch.
const quietBriefly = 3 * time.Second

// rows are all of them: the expectations of the track record stand here, and
// nowhere else.
func rows() []row {
	var all []row
	add := func(s story, versions ...string) {
		for _, version := range versions {
			all = append(all, row{s, version})
		}
	}
	add(story{
		id: "18667-live", control: binary.Etcd37, bug: "18667", play: txnUnderLoad, drift: true, quiet: revisionBar, check: txnPrefix,
		how:  "a client's transaction, a put with a get at a future revision, while clients write",
		want: []want{key(txnPrefix, "present"), revision(revisionBar)},
	}, binary.Etcd35, binary.Etcd36)
	add(story{
		id: "18667-idle", control: binary.Etcd37, bug: "18667", play: txnThenIdle, drift: true, quiet: idleBar,
		how:  "the same transaction; then Parallax is started, as an observer, and nobody writes",
		want: []want{revision(idleBar)},
	}, binary.Etcd35, binary.Etcd36)
	add(story{
		id: "11651", control: binary.Etcd34, auth: true, bug: "11651", play: grantsThenRestart, drift: true, quiet: revisionBar, check: "/",
		how:  "authentication on, two `role grant-permission`, a restart of one member, writes through the others",
		want: []want{revision(revisionBar)},
	}, binary.Etcd343)
	add(story{
		id: "11651-masked", control: binary.Etcd34, auth: true, bug: "11651", play: maskedRevision, quiet: quietBriefly, check: maskedPrefix,
		how:  "the same, then transactions that only the stale member lets pass: the revisions are equal again",
		want: []want{key(maskedPrefix, "value")},
	}, binary.Etcd343)
	add(story{
		id: "14685", control: binary.Etcd35, bug: "14685", play: killInDefrag, drift: true, quiet: revisionBar, check: stressPrefix,
		how:  "SIGKILL in the middle of an online defragmentation, under load",
		want: []want{revision(revisionBar), drifted(stressPrefix)},
	}, binary.Etcd355)
	for _, in := range injections() {
		add(in, binary.EtcdVersions()...)
	}
	return all
}

// name is how -only and people call the row.
func (r row) name() string { return r.id + "-" + r.version }

// controlName is how the results call the control of a row, "" for one that is in the play.
func (r row) controlName() string {
	if r.control == "" {
		return ""
	}
	return r.id + "-control-" + r.control
}

// selected are the rows whose names contain one of the words; all without any.
func selected(only string) ([]row, error) {
	words := strings.FieldsFunc(only, func(r rune) bool { return r == ',' || r == ' ' })
	if len(words) == 0 {
		return rows(), nil
	}
	var some []row
	for _, word := range words {
		found := false
		for _, r := range rows() {
			if strings.Contains(r.name(), word) {
				some, found = append(some, r), true
			}
		}
		if !found {
			return nil, fmt.Errorf("-only: no row is called like %q, -list shows them all", word)
		}
	}
	return some, nil
}
