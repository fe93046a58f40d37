package member_test

import (
	"context"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// answers to all that is not about keys, without their bodies.
func answers(ctx context.Context, m *member.Member) map[string]member.Answer[any] {
	return map[string]member.Answer[any]{
		"Status":      anybody(m.Status(ctx)),
		"ReadIndex":   anybody(m.ReadIndex(ctx)),
		"LeaseLeases": anybody(m.LeaseLeases(ctx)),
		"MemberList":  anybody(m.MemberList(ctx)),
		"AuthStatus":  anybody(m.AuthStatus(ctx)),
	}
}

func anybody[T any](a member.Answer[T]) member.Answer[any] {
	return member.Answer[any]{Err: a.Err, Epoch: a.Epoch, Changed: a.Changed, Foreign: a.Foreign, Bytes: a.Bytes}
}

// GUARANTEE G4: nothing that could change a cluster is ever sent, and
// Authenticate only with a Login, where a member asks for a user.
func TestOnlyReadsAreSent(t *testing.T) {
	reads := []string{
		pb.KV_Range_FullMethodName, pb.Maintenance_Status_FullMethodName, pb.Cluster_MemberList_FullMethodName,
		pb.Lease_LeaseLeases_FullMethodName, pb.Auth_AuthStatus_FullMethodName,
	}
	login := append([]string{pb.Auth_Authenticate_FullMethodName}, reads...)
	for _, one := range []struct {
		name    string
		asks    bool // the cluster, for a user
		login   *member.Login
		allowed []string
	}{
		{name: "no authentication", allowed: reads},
		{name: "no authentication, with a login", login: user(t, "secret"), allowed: reads},
		{name: "authentication", asks: true, allowed: reads},
		{name: "authentication, with a login", asks: true, login: user(t, "secret"), allowed: login},
	} {
		t.Run(one.name, func(t *testing.T) {
			c := membertest.Start(t, 3, 7)
			s := &member.Set{Endpoints: c.URLs()[:1], Discover: true, Login: one.login}
			if one.asks {
				ask(c)
			}
			follow(t, s)
			if one.asks && one.login == nil {
				until(t, "some probes", func() bool { return calls(c.Members[0], pb.Maintenance_Status_FullMethodName) > 3 })
			} else {
				readAll(t, s)
			}
			for _, m := range c.Members {
				m.Change(func(m *membertest.Member) {
					for method := range m.Methods {
						if !slices.Contains(one.allowed, method) {
							t.Errorf("%s was called", method)
						}
					}
				})
			}
			if len(one.allowed) == len(login) && calls(c.Members[2], pb.Auth_Authenticate_FullMethodName) != 1 {
				t.Error("not one Authenticate")
			}
		})
	}
}

func readAll(t *testing.T, s *member.Set) {
	t.Helper()
	until(t, "three members that answer", func() bool { return s.Reachable(false) == 3 && len(s.Snapshot().Members) == 3 })
	for _, m := range s.Snapshot().Members {
		if r := m.Range(t.Context(), []byte("a"), []byte("b"), 7, 0); r.Err != nil {
			t.Fatal(r.Err) // the scripted member refuses any other form than a serializable, pinned one
		}
		if _, err := m.Revision(t.Context()); err != nil {
			t.Fatal(err)
		}
		for what, a := range answers(t.Context(), m) {
			if a.Err != nil || a.Changed || a.Foreign || a.Epoch != m.Epoch() || a.Bytes == 0 {
				t.Errorf("%s of member %d: %+v", what, m.ID, a)
			}
		}
	}
}

// What an answer is worth, and why there is none, can be told.
func TestAnswersThatProveNothing(t *testing.T) {
	c := membertest.Start(t, 2, 7)
	s := &member.Set{Endpoints: c.URLs()}
	follow(t, s)
	until(t, "both members", func() bool { return len(s.Snapshot().Members) == 2 })
	m := s.Snapshot().Members[0]
	c.Members[0].Change(func(m *membertest.Member) {
		m.Refuse = map[string]error{pb.Lease_LeaseLeases_FullMethodName: status.Error(codes.Unimplemented, "unknown service")}
	})
	if a := m.LeaseLeases(t.Context()); status.Code(a.Err) != codes.Unimplemented || a.Body != nil {
		t.Errorf("a call that the member does not know: %+v", a)
	}
	c.Members[0].Change(func(m *membertest.Member) { m.ID = 9 })
	for what, a := range answers(t.Context(), m) {
		if what != "LeaseLeases" && !a.Foreign {
			t.Errorf("%s of another member is not told from the one that was asked", what)
		}
	}
	c.Members[0].Change(func(m *membertest.Member) { m.ID = 1 })
	before := m.Epoch()
	c.Members[0].Restart(t)
	until(t, "an answer on another connection", func() bool {
		a := m.Status(t.Context())
		return a.Err == nil && !a.Changed && a.Epoch != before
	})
}
