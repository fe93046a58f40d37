package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// quietChecks is how many checks Parallax makes, and is silent, before anything happens.
const quietChecks = 50

// chapterTimeout bounds what an idle machine does in a second or two.
const chapterTimeout = 60 * time.Second

var errNotNamed = errors.New("not named")

// build builds what is not there yet.
func (s *story) build(ctx context.Context) (err error) {
	s.step("Build (the first time takes some minutes)")
	s.shell = &shell{terminal: s.terminal, variables: []variable{{"KEY", checkoutKey}}}
	if _, err = s.terminal.build("etcd "+s.opts.etcd, func(b binary.Builder) (string, error) { return b.Etcd(ctx, s.opts.etcd) }); err != nil {
		return err
	}
	if s.shell.etcdctl, err = s.terminal.build("etcdctl", func(b binary.Builder) (string, error) { return b.Etcdctl(ctx) }); err != nil {
		return err
	}
	_, err = s.terminal.build("parallax", func(b binary.Builder) (string, error) { return b.Parallax(ctx, false) })
	return err
}

// start starts the members, and Parallax with its defaults before them.
func (s *story) start(ctx context.Context) (err error) {
	s.step("Start three members of etcd " + s.opts.etcd + ", and Parallax before them")
	if s.dir, err = os.MkdirTemp("", "parallax-demo-"); err != nil {
		return err
	}
	// Timers and fsync as etcd has them: it is not the members' haste that makes them differ.
	s.cluster, err = cluster.Start(ctx, cluster.Options{
		Version: s.opts.etcd, Dir: s.dir, ElectionTimeout: time.Second, Fsync: true, Outlive: s.opts.keep,
	})
	if err != nil {
		return err
	}
	po := parallax.Options{Endpoints: s.cluster.Endpoints(), Flags: s.opts.flags}
	if s.opts.keep {
		po.KeepIn = s.dir
	}
	if s.parallax, err = parallax.Start(ctx, po); err != nil {
		return err
	}
	for _, m := range s.cluster.Members {
		s.shell.variables = append(s.shell.variables, variable{strings.ToUpper(m.Name), m.ClientURL})
	}
	s.shell.variables = append(s.shell.variables, variable{"PARALLAX", s.parallax.ClientURL}, variable{"ADMIN", s.parallax.AdminURL})
	for _, v := range s.shell.variables {
		s.say("%s", v)
	}
	s.say("%s # etcdctl without its JSON log lines", quietClient)
	s.command("parallax serve --endpoints=$M1,$M2,$M3 \\\n  --listen-client-urls=$PARALLAX --listen-admin-urls=$ADMIN")
	return nil
}

// watchTraffic lets clients work until the end of the story, and waits until
// Parallax has looked at some of what they do.
func (s *story) watchTraffic(ctx context.Context) (err error) {
	s.step("Clients read and write through Parallax, as kube-apiserver does")
	if s.traffic, err = newTraffic(s.parallax.ClientURL); err != nil {
		return err
	}
	for i := range objects {
		s.spawn(func() { s.traffic.run(ctx, i) })
	}
	checks, err := s.checks(ctx, "", quietChecks)
	if err != nil {
		return err
	}
	s.say("%s so far.", s.traffic)
	s.say("Parallax asked all members what they hold:")
	return s.silent(checks)
}

// silent shows what was checked, and that nothing was said.
func (s *story) silent(checks string) error {
	records := s.parallax.Records()
	s.say("%s; %d records.", checks, len(records))
	if len(records) > 0 {
		return fmt.Errorf("parallax accuses a healthy cluster, please report it\n%s", records[0].Raw)
	}
	return nil
}

// checks waits until Parallax has made n checks, and counts them by verdict.
func (s *story) checks(ctx context.Context, kind string, n float64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, chapterTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		samples, err := s.parallax.Metrics(ctx)
		if err != nil {
			return "", err
		}
		of := func(verdict string) float64 {
			labels := []string{`verdict="` + verdict + `"`}
			if kind != "" {
				labels = append(labels, `kind="`+kind+`"`)
			}
			return parallax.Sum(samples, "parallax_shadow_checks_total", labels...)
		}
		consistent, divergent, inconclusive := of("consistent"), of("divergent"), of("inconclusive")
		if all := consistent + divergent + inconclusive; all >= n {
			return fmt.Sprintf("%.0f checks, %.0f consistent, %.0f divergent, %.0f inconclusive", all, consistent, divergent, inconclusive), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("parallax has made less than %.0f checks in %v: %w", n, chapterTimeout, ctx.Err())
		case <-tick.C:
		}
	}
}

func lastLines(log []byte, n int) []byte {
	lines := bytes.SplitAfter(log, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n-1):], nil)
}
