package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/etcd-parallax/parallax/e2e/parallax"
)

// lookAround prints what to do with all that is left running.
func (s *story) lookAround() {
	s.step("Look around: members and Parallax go on")
	s.command("export PATH=$PATH:" + filepath.Dir(s.shell.etcdctl))
	for _, v := range append(s.shell.variables, quietClient) {
		s.command("export " + v.String())
	}
	for _, line := range []string{
		"etcdctl endpoint status -w table --endpoints=$M1,$M2,$M3",
		"etcdctl get /registry --prefix --keys-only --endpoints=$PARALLAX",
		"curl $ADMIN/readyz",
		"curl -s $ADMIN/metrics | grep ^parallax_",
		"tail -f " + filepath.Join(s.dir, parallax.RecordsFile),
		"ls " + s.dir + "   # data and logs of the members, Parallax's log and records",
	} {
		s.command(line)
	}
	pids := []string{fmt.Sprint(s.parallax.PID())}
	for _, m := range s.cluster.Members {
		pids = append(pids, fmt.Sprint(m.PID()))
	}
	s.say("To stop and remove everything:")
	s.command(fmt.Sprintf("kill -9 %s; rm -rf %s", strings.Join(pids, " "), s.dir))
}
