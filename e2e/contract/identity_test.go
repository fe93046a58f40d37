package contract

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/etcd-parallax/parallax/e2e/binary"
	"github.com/etcd-parallax/parallax/e2e/cluster"
)

// Points 5 and 6: the header of answers and Status are the serving member's own.
func identityPoints() []point {
	return []point{{name: "who answers", run: whoAnswers}}
}

func whoAnswers(t *testing.T, p *plumbing) *transcript {
	saw := new(transcript)
	conn := p.grpc(t)
	got, err := pb.NewKVClient(conn).Range(patient(t), &pb.RangeRequest{Key: []byte("none")})
	if err != nil {
		t.Fatal(err)
	}
	state, err := pb.NewMaintenanceClient(conn).Status(patient(t), new(pb.StatusRequest))
	if err != nil {
		t.Fatal(err)
	}
	if got.Header.MemberId != p.member().ID || state.Header.MemberId != p.member().ID || state.Version != p.version() || got.Header.RaftTerm == 0 {
		t.Errorf("header %v, status %v of member %x", got.Header, state, p.member().ID)
	}
	got.Header.Revision, state.Header.Revision = 0, 0 // other points write
	saw.say("%s", got.Header)
	// What moves by itself.
	state.DbSize, state.DbSizeInUse, state.RaftIndex, state.RaftAppliedIndex = 0, 0, 0, 0
	saw.say("%s", prototext.MarshalOptions{}.Format(state))
	list, err := pb.NewClusterClient(conn).MemberList(patient(t), new(pb.MemberListRequest))
	if err != nil {
		t.Fatal(err)
	}
	saw.say("%s", prototext.Format(list))
	return saw
}

// Points 5 and 6 where members differ: all that is said on one connection is said by one member, in its own name and version, and
// connections go to all of them.
func TestEachMemberSpeaksForItself(t *testing.T) {
	t.Parallel()
	c := cluster.StartT(t, cluster.Options{Versions: []string{binary.Etcd35, binary.Etcd36, binary.Etcd36}})
	p := through(t, c, place(t), []string{"http"})[0]
	seen := make(map[uint64]bool)
	for range 6 {
		conn := p.grpc(t)
		var id uint64
		for range 5 {
			state, err := pb.NewMaintenanceClient(conn).Status(patient(t), new(pb.StatusRequest))
			if err != nil {
				t.Fatal(err)
			}
			got, err := pb.NewKVClient(conn).Range(patient(t), &pb.RangeRequest{Key: []byte("k")})
			if err != nil {
				t.Fatal(err)
			}
			if id == 0 {
				id = state.Header.MemberId
			}
			m := memberOf(c, id)
			if m == nil || got.Header.MemberId != id || state.Header.MemberId != id || state.Version != m.Version || got.Header.ClusterId != state.Header.ClusterId {
				t.Fatalf("the connection to %x has status %v and header %v", id, state, got.Header)
			}
		}
		seen[id] = true
	}
	if len(seen) != 3 {
		t.Errorf("six connections went to %d of three members", len(seen))
	}
}

func memberOf(c *cluster.Cluster, id uint64) *cluster.Member {
	for _, m := range c.Members {
		if m.ID == id {
			return m
		}
	}
	return nil
}
