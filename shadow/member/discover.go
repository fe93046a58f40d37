package member

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// look makes a new snapshot from the links' states and the member list, and
// opens links to members that no endpoint led to.
func (s *Set) look(ctx context.Context, links []*link) {
	cluster := s.cluster(links)
	if cluster == 0 { // nobody answered: who the members are has not changed
		for _, l := range links {
			s.complain(l.url, l.complaint(s.Snapshot().Cluster))
		}
		s.Metrics.members(s.Snapshot())
		return
	}
	list, voters, by := s.memberList(ctx, links, cluster)
	if list == nil {
		if p := s.Snapshot(); p.Cluster == cluster { // another cluster's list would name strangers
			seats(links, cluster, p.list, 0)
			s.publish(cluster, p.list, p.Voters, links)
		}
		return
	}
	opened := false
	if s.Discover {
		links, opened = s.discover(list, links)
	}
	if opened { // probe the new ones now, not an interval later
		for _, l := range links {
			if l.state.Load().at.IsZero() {
				s.probe(ctx, l, s.aSecond())
			}
		}
	}
	seats(links, cluster, list, by)
	s.publish(cluster, list, voters, links)
}

// cluster is the id that most links name; at a tie the one known before.
func (s *Set) cluster(links []*link) uint64 {
	votes := map[uint64]int{}
	for _, l := range links {
		if st := l.state.Load(); st.err == nil && st.cluster != 0 {
			votes[st.cluster]++
		}
	}
	best, known := uint64(0), s.Snapshot().Cluster
	for id, n := range votes {
		if n > votes[best] || n == votes[best] && (id == known || best != known && id < best) {
			best = id
		}
	}
	return best
}

// memberList asks the first link that can answer. The list of names and voters
// is linearizable: a member that was cut off must not shrink the cluster. Before
// 3.5 it is always the member's own; then nobody knows the voters, and no
// minority can be named. by is the member that answered linearizably, or 0.
func (s *Set) memberList(ctx context.Context, links []*link, cluster uint64) (list []*pb.Member, voters []uint64, by uint64) {
	for _, l := range links {
		st := l.state.Load()
		if st.err != nil || st.cluster != cluster || st.learner {
			continue
		}
		if st.leaderless > 0 && !st.local { // it could only let the round wait
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, s.aSecond())
		resp, err := pb.NewClusterClient(l.conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
		cancel()
		if err != nil || resp.GetHeader().GetClusterId() != cluster {
			continue
		}
		if st.local {
			return resp.GetMembers(), nil, 0
		}
		for _, m := range resp.GetMembers() {
			if !m.GetIsLearner() {
				voters = append(voters, m.GetID())
			}
		}
		return resp.GetMembers(), voters, resp.GetHeader().GetMemberId()
	}
	return nil, nil, 0
}

// discover opens a link for every client URL of a member that no link leads to
// yet.
func (s *Set) discover(list []*pb.Member, links []*link) ([]*link, bool) {
	opened := false
	for _, m := range list {
		if slices.ContainsFunc(links, func(l *link) bool { return l.leadsTo(m.GetID()) }) {
			continue
		}
		for _, url := range m.GetClientURLs() {
			if slices.ContainsFunc(links, func(l *link) bool { return l.url == url }) {
				continue
			}
			if l := s.open(url); l != nil {
				links, opened = append(links, l), true
			}
		}
	}
	return links, opened
}

func (l *link) leadsTo(id uint64) bool {
	st := l.state.Load()
	return st.member == id && st.refused == ""
}

// publish stores the new snapshot, says which URLs cannot be compared, and
// closes what is not needed any more.
func (s *Set) publish(cluster uint64, list []*pb.Member, voters []uint64, links []*link) {
	p := &Snapshot{Cluster: cluster, Voters: voters, list: list, byEndpoint: map[string]*Member{}}
	needed := map[string]bool{}
	for _, m := range list {
		p.Listed = append(p.Listed, m.GetID())
		for _, url := range m.GetClientURLs() {
			needed[url] = true
		}
		if l := s.choose(m, cluster, links); l != nil {
			p.Members = append(p.Members, &Member{
				ID: m.GetID(), Name: m.GetName(), URL: l.url, Learner: m.GetIsLearner(), cluster: cluster, link: l,
			})
		}
	}
	slices.SortFunc(p.Members, func(a, b *Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	for _, l := range links {
		st := l.state.Load()
		s.complain(l.url, l.complaint(cluster))
		if st.cluster == cluster && st.refused == "" {
			if m := p.Member(st.member); m != nil {
				p.byEndpoint[l.url] = m
			}
		}
	}
	if s.snap.Swap(p) == nil {
		s.Known()
		close(s.known)
	}
	s.Metrics.members(p)
	s.keep(needed)
}

// choose the link by which a member is read: one that answered as this member,
// a configured one first; else, so that the member counts as unreachable rather
// than not at all, one that should lead to it.
func (s *Set) choose(m *pb.Member, cluster uint64, links []*link) *link {
	var best *link
	rank := 0
	for _, l := range links {
		st := l.state.Load()
		r := 0
		switch {
		case st.refused != "":
		case l.leadsTo(m.GetID()) && st.cluster == cluster:
			r = 2
			if st.err == nil {
				r += 2
			}
			if slices.Contains(s.Endpoints, l.url) {
				r++
			}
		case s.Discover && st.member == 0 && slices.Contains(m.GetClientURLs(), l.url):
			r = 1
		}
		if r > rank || r == rank && r > 0 && l.url < best.url {
			best, rank = l, r
		}
	}
	return best
}

func (l *link) complaint(cluster uint64) string {
	st := l.state.Load()
	switch problem := l.user.problem.Load(); {
	case st.refused != "":
		return st.refused
	case silent(st.err) && st.misses > 1 && st.echo == settings:
		return "slow: it answers HTTP/2, and not Status"
	case silent(st.err) && st.misses > 1:
		return unreachable + st.err.Error()
	case problem != nil:
		return *problem
	case st.err != nil && !silent(st.err) && st.errs > 1:
		return l.user.refusal(st.err)
	case st.err == nil && st.cluster != 0 && st.cluster != cluster:
		return fmt.Sprintf("belongs to cluster %x, the others to %x: take it out of --endpoints", st.cluster, cluster)
	}
	return ""
}
