package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// futureRevision is one that the demo does not reach.
const futureRevision = "1000000"

// spreadShown bounds the further findings that are listed.
const spreadShown = 5

// difference between the members, as they tell it themselves.
type difference struct {
	revision int64           // at which the others hold the key
	missing  *cluster.Member // does not; nil when no member holds it
	since    time.Time       // when they could be seen to differ at the revision
}

// transaction sends the transaction of etcd issue 18667 through Parallax, and
// asks the members what became of it.
func (s *story) transaction(ctx context.Context) (difference, error) {
	s.step("A client sends one ordinary transaction: put one key, get another")
	s.say("The get asks for a revision that does not exist yet. (etcd issue 18667)")
	s.timeline = newTimeline()
	ctx, cancel := context.WithCancel(ctx) // the timeline ends with this chapter
	defer cancel()
	for _, m := range s.cluster.Members {
		s.spawn(func() { s.timeline.follow(ctx, m, checkoutKey) })
	}
	txn := "\nput " + checkoutKey + " " + checkout + "\nget " + cartKey + " --rev=" + futureRevision + "\n\n\n"
	refused, err := s.shell.run(ctx, "", txn, "--endpoints="+s.parallax.ClientURL, "txn")
	if err != nil {
		return difference{}, err
	}
	if !refused {
		return difference{}, errors.New("the transaction was accepted, want it refused")
	}
	return s.outcome(ctx)
}

// outcome asks each member with a linearizable read, which waits until the
// member has applied the transaction, and so tells lag from loss.
func (s *story) outcome(ctx context.Context) (d difference, err error) {
	ctx, cancel := context.WithTimeout(ctx, chapterTimeout)
	defer cancel()
	var without []*cluster.Member
	for _, m := range s.cluster.Members {
		resp, err := m.Client().Get(ctx, checkoutKey)
		switch {
		case err != nil:
			return d, fmt.Errorf("ask %s: %w", m.Name, err)
		case len(resp.Kvs) == 0:
			without = append(without, m)
		default:
			d.revision = resp.Kvs[0].ModRevision
		}
	}
	switch {
	case d.revision == 0:
		return d, nil
	case len(without) != 1:
		return d, fmt.Errorf("%d of %d members miss the key, want one: the transaction did not do what etcd issue 18667 says", len(without), len(s.cluster.Members))
	}
	d.missing = without[0]
	if d.since, err = s.timeline.wait(ctx, s.cluster.Members, d.revision); err != nil {
		return d, err
	}
	s.say("The client is told that it failed. So it did on %s, which served it.", s.paint(bold, d.missing.Name))
	s.say("The other two members have applied the put.")
	return d, nil
}

// compare shows the difference, and what etcd says of itself.
func (s *story) compare(ctx context.Context, d difference) error {
	s.step("The members differ, and etcd does not notice")
	s.say("Each member, asked for its own state at one revision (one that lags would refuse):")
	for _, m := range s.cluster.Members {
		if err := s.get(ctx, m, fmt.Sprintf("--rev=%d", d.revision)); err != nil {
			return err
		}
	}
	s.say("\netcd's own checks are green, no alarm is raised:")
	if err := s.green(ctx); err != nil {
		return err
	}
	s.say("Client traffic goes on: %s.", s.traffic)
	return nil
}

func (s *story) get(ctx context.Context, m *cluster.Member, flags ...string) error {
	args := append([]string{"get", checkoutKey, "--consistency=s"}, flags...)
	refused, err := s.shell.run(ctx, m.Name, "", append(args, "--endpoints="+m.ClientURL)...)
	if refused {
		err = fmt.Errorf("%s refuses a read", m.Name)
	}
	return err
}

// green shows etcd's own checks.
func (s *story) green(ctx context.Context) error {
	endpoints := "--endpoints=" + strings.Join(s.cluster.Endpoints(), ",")
	for _, check := range [][]string{{"endpoint", "health"}, {"alarm", "list"}} {
		refused, err := s.shell.run(ctx, "", "", append(check, endpoints)...)
		if err != nil {
			return err
		}
		if refused {
			return fmt.Errorf("etcdctl %s is not green, want it to notice nothing", strings.Join(check, " "))
		}
	}
	return nil
}

// nothingDiffers ends the story of an etcd without the bug.
func (s *story) nothingDiffers(ctx context.Context) error {
	s.step("The members agree")
	for _, m := range s.cluster.Members {
		if err := s.get(ctx, m); err != nil {
			return err
		}
	}
	checks, err := s.checks(ctx, "refused-write", 1)
	if err != nil {
		return err
	}
	s.say("No member applied it. Parallax looked at the key of the refused transaction:")
	if err := s.silent(checks); err != nil {
		return err
	}
	return fmt.Errorf("nothing to name, the members of etcd %s agree", s.opts.etcd)
}

// record waits for the record that names the key, and shows it.
func (s *story) record(ctx context.Context, d difference) (time.Duration, error) {
	s.step("Parallax names the key, the member and the revision")
	ctx, cancel := context.WithDeadline(ctx, d.since.Add(s.opts.patience))
	defer cancel()
	got, err := s.parallax.WaitRecord(ctx, confirmed(checkoutKey))
	if err != nil {
		return 0, fmt.Errorf("%w within %v: %w", errNotNamed, s.opts.patience, err)
	}
	took := got.At.Sub(d.since)
	var r record
	if err := got.Decode(&r); err != nil {
		return 0, err
	}
	s.show(got.Raw, r)
	switch {
	case took > s.opts.patience:
		return 0, fmt.Errorf("%w within %v, it took %v", errNotNamed, s.opts.patience, took)
	case names(r.Differs) != d.missing.Name || r.Revision < d.revision:
		return 0, fmt.Errorf("the record names %q at revision %d, but it is %s that differs, since revision %d", names(r.Differs), r.Revision, d.missing.Name, d.revision)
	}
	s.say("\nIt came %d ms after the members could be seen to differ: from the last direct", took.Milliseconds())
	s.say("question that %s answered below revision %d, until the line was read.", d.missing.Name, d.revision)
	s.spread(got.Raw)
	return took, nil
}

// spread shows what else Parallax has named by now.
func (s *story) spread(shown []byte) {
	var others []string
	for _, r := range s.parallax.Records() {
		if !bytes.Equal(r.Raw, shown) {
			others = append(others, r.Text("summary"))
		}
	}
	if len(others) == 0 {
		return
	}
	s.say("\nIt spreads: kube-apiserver writes only if mod_revision is what it was told, and that")
	s.say("differs now, so a write that one member applies another one leaves out. Also named:")
	for _, summary := range others[:min(len(others), spreadShown)] {
		s.detail(summary)
	}
	if more := len(others) - spreadShown; more > 0 {
		s.detail(fmt.Sprintf("and %d more", more))
	}
}
