package shadow

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-parallax/parallax/shadow/divergence"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // a message of ours
	}
	return b
}

// An event tells of a write that came another way: a member that contradicts it is named, also where the writer was somebody else's client.
func TestAnEventIsASample(t *testing.T) {
	found := make(chan string, 1)
	r := newRig(t, func(s *Shadow) { s.Found = func(_ uint64, key []byte, _ int64) { found <- string(key) } })
	r.allHold(red())
	blue := red()
	blue.Value = []byte("blue")
	r.holds(2, blue)
	if !r.Watch(methodWatch) || r.Request(methodWatch) == 0 || r.Answer(methodWatch, nil) == 0 || !r.Event() {
		t.Fatal("watches are not followed")
	}
	kv, m := red(), r.cluster.Members[1]
	kv.Key = []byte("a")
	message := marshal(&pb.WatchResponse{Header: &pb.ResponseHeader{ClusterId: m.ClusterID, MemberId: m.ID, Revision: 10}, Events: []*mvccpb.Event{{Kv: kv}}})
	r.Observe(Call{Method: methodWatch, Endpoint: m.URL, Epoch: 1, Responses: [][]byte{message}, Code: -1})
	r.until("a record", func() bool { return len(r.records.all(t)) == 1 })
	if got := <-found; got != "a" {
		t.Errorf("found %q", got)
	}
}

// Where a member stays behind somebody else has to look whether it is stuck.
func TestDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		observe func(r *rig)
		refused bool
	}{
		"a member stays behind": {func(r *rig) { r.Observe(r.put("a")) }, false},
		"a write was refused": {func(r *rig) {
			request := marshal(&pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a")}}}}})
			r.Observe(Call{Method: methodTxn, Endpoint: r.cluster.Members[0].URL, Epoch: 1, Request: request, Code: int(codes.OutOfRange)})
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			doubted := make(chan bool, 100)
			r := newRig(t, func(s *Shadow) { s.Doubt = func(refused bool) { doubted <- refused } })
			r.allHold(red())
			r.cluster.Members[2].Change(func(m *membertest.Member) { m.ReadErr = membertest.ErrFutureRev })
			c.observe(r)
			if refused := <-doubted; refused != c.refused {
				t.Errorf("refused: %v", refused)
			}
		})
	}
}

// While revisions drift, what was verified before is not taken for verified: the member that applied an entry twice still answers the old revisions
// as all others do.
func TestADriftVoidsWhatWasVerified(t *testing.T) {
	r := newRig(t, func(s *Shadow) { s.Recheck = 20 * time.Millisecond })
	r.allHold(red())
	r.Observe(r.put("a"))
	r.verdicts(1, write, judge.Consistent, "")
	snap := r.Members.Snapshot()
	var groups []divergence.ClusterGroup
	for i, m := range snap.Members[:2] {
		groups = append(groups, divergence.ClusterGroup{Members: []divergence.Member{{ID: m.ID}}, Shows: "a revision", Revision: int64(9 - i)})
	}
	r.Log.ConfirmCluster(divergence.ClusterEvidence{Cluster: snap.Cluster, Rule: "REV", Groups: groups, Gap: 1, Layer: "apply"})
	r.until("the key to be looked at again", func() bool {
		r.Observe(r.get(0, red()))
		return r.ended() > 1
	})
}
