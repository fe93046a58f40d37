// Package evidence puts what was proved of a key into the form of the divergence log.
package evidence

import (
	"slices"
	"time"

	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
)

// Of a difference that was proved at a revision. Trigger is left to the caller.
func Of(p *member.Snapshot, revision int64, d judge.Diff) divergence.Evidence {
	basis, differs := judge.WhoDiffers(d, p.Voters)
	e := divergence.Evidence{
		Cluster: p.Cluster, Rule: string(d.Rule), Key: d.Key, Revision: revision, Fields: d.Fields.Names(),
		Basis: divergence.Basis(basis), Differs: Named(p, differs), At: time.Now(),
	}
	for _, m := range p.Members {
		e.Members = append(e.Members, divergence.Member{ID: m.ID, Name: m.Name, Endpoint: m.URL})
	}
	for _, g := range d.Groups {
		group := divergence.Group{Members: Named(p, g.Members), State: state(g.KV)}
		if g.Claimed { // the log puts what was said first
			e.Groups = slices.Insert(e.Groups, 0, group)
			continue
		}
		e.Groups = append(e.Groups, group)
	}
	return e
}

// Moves tells whether it is open if a key really differs, or only moved: then
// [judge.Shifted] has to be asked, with answers at each member's newest revision.
func Moves(d judge.Diff) bool {
	_, moved := judge.Shifted(d, nil, nil)
	return d.Rule == judge.RulePIN && !moved
}

// Named gives members their names and URLs.
func Named(p *member.Snapshot, ids []uint64) []divergence.Member {
	named := make([]divergence.Member, len(ids))
	for i, id := range ids {
		named[i] = divergence.Member{ID: id}
		if m := p.Member(id); m != nil {
			named[i].Name, named[i].Endpoint = m.Name, m.URL
		}
	}
	return named
}

func state(kv *judge.KV) divergence.State {
	if kv == nil {
		return divergence.State{}
	}
	return divergence.State{
		Present: true, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease, Value: kv.Value,
	}
}
