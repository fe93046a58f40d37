package shadow

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/judge"
)

func putQuestion(c Call) ([]target, skipped) {
	var req pb.PutRequest
	var resp pb.PutResponse
	if c.Truncated {
		return nil, skipTruncated
	}
	if decode(c, &req, &resp) != nil {
		return nil, skipUndecodable
	}
	s := source{call: c, header: resp.GetHeader(), kind: write}
	return s.pinned(s.putTargets(&req, &resp, s.header.GetRevision()))
}

// putTargets: a put that was acknowledged at revision tells value, lease and
// mod_revision in advance (ORACLE), and its prev_kv the state before it.
func (s source) putTargets(req *pb.PutRequest, resp *pb.PutResponse, revision int64) []target {
	q := judge.Question{Key: req.GetKey(), Revision: revision}
	kv := judge.KV{Key: req.GetKey(), Value: req.GetValue(), Lease: req.GetLease(), ModRevision: revision}
	fields := judge.Value | judge.Lease | judge.ModRevision
	if req.GetIgnoreValue() || req.GetIgnoreLease() {
		fields = 0 // no claim but that the key is there
	}
	targets := []target{s.target(q, s.claim(fields, kv))}
	if req.GetPrevKv() {
		targets = append(targets, s.before(req.GetKey(), nil, revision, one(resp.GetPrevKv()))...)
	}
	return targets
}

// watchQuestion asks about one event of those that a watcher was sent together. An event tells of a write that need not have come
// through this Parallax: a PUT what the key held at its revision (WATCH), a DELETE only that it is worth asking. An event that is
// missing says nothing (etcd #15271, #17529, #18089).
func watchQuestion(c Call, pick func(n int) int) ([]target, skipped) {
	var resp pb.WatchResponse
	if c.Truncated {
		return nil, skipTruncated
	}
	if len(c.Responses) == 0 { // the end of the stream
		return nil, skipNothing
	}
	if proto.Unmarshal(c.Responses[0], &resp) != nil {
		return nil, skipUndecodable
	}
	if len(resp.GetEvents()) == 0 {
		return nil, skipNothing
	}
	event := resp.GetEvents()[pick(len(resp.GetEvents()))]
	kv := ask.KVs(one(event.GetKv()))
	if len(kv) == 0 || kv[0].ModRevision < 2 {
		return nil, skipUnpinned
	}
	s := source{call: c, header: resp.GetHeader(), kind: watch, noClaims: event.GetType() != mvccpb.Event_PUT}
	claim := s.claim(served&^judge.Present, kv...)
	claim.Event = true
	t := s.target(judge.Question{Key: kv[0].Key, Revision: kv[0].ModRevision}, claim)
	t.seen = kv
	if s.noClaims {
		t.seen = []judge.KV{{Key: kv[0].Key}}
	}
	return []target{t}, ""
}

func deleteQuestion(c Call) ([]target, skipped) {
	var req pb.DeleteRangeRequest
	var resp pb.DeleteRangeResponse
	if c.Truncated {
		return nil, skipTruncated
	}
	if decode(c, &req, &resp) != nil {
		return nil, skipUndecodable
	}
	s := source{call: c, header: resp.GetHeader(), kind: write}
	return s.pinned(s.deleteTargets(&req, &resp, s.header.GetRevision()))
}

// deleteTargets: a delete that was acknowledged at revision, and found
// something, leaves nothing in its range at that revision (ORACLE).
func (s source) deleteTargets(req *pb.DeleteRangeRequest, resp *pb.DeleteRangeResponse, revision int64) []target {
	q := judge.Question{Key: req.GetKey(), End: req.GetRangeEnd(), Revision: revision}
	switch {
	case resp.GetDeleted() == 0:
		if len(q.End) > 0 {
			return nil // nothing is known, and the range may be long
		}
		return []target{s.target(q)}
	case bytes.Equal(q.End, []byte{0}) || resp.GetDeleted() > sliceKeys:
		return nil // an open end, or more than one question may walk
	}
	targets := []target{s.target(q, s.claim(judge.Present))}
	if req.GetPrevKv() {
		targets = append(targets, s.before(q.Key, q.End, revision, resp.GetPrevKvs())...)
	}
	return targets
}

// before asks for the state before a write: prev_kv is the state at R−1.
func (s source) before(key, end []byte, revision int64, prev []*mvccpb.KeyValue) []target {
	if revision-1 < 2 {
		return nil
	}
	return []target{s.target(judge.Question{Key: key, End: end, Revision: revision - 1}, s.claim(served, ask.KVs(prev)...))}
}

// txnQuestions asks for what the taken branch of a transaction read or wrote.
func txnQuestions(c Call, pick func(int) int) ([]target, skipped) {
	var req pb.TxnRequest
	var resp pb.TxnResponse
	if c.Truncated {
		return nil, skipTruncated
	}
	if decode(c, &req, &resp) != nil {
		return nil, skipUndecodable
	}
	branch := req.GetFailure()
	if resp.GetSucceeded() {
		branch = req.GetSuccess()
	}
	if len(branch) != len(resp.GetResponses()) {
		return nil, skipUndecodable
	}
	s := source{call: c, header: resp.GetHeader(), kind: write}
	nested, writes := shape(branch)
	switch {
	case nested && !writes:
		return nil, skipUnsupported
	case nested, tangled(branch), len(req.ProtoReflect().GetUnknown()) > 0:
		// {txn{put a}; txn{del [a,c)}} is accepted: the put is acked at R and
		// the key is absent at R on every healthy member. What the members
		// hold is asked all the same; what the client was told counts nothing.
		s.noClaims = true
	case !writes:
		s.kind = read
	}
	var targets []target
	// Of a long transaction some neighbors, wherever they stand: what is lost may
	// be its end (etcd #18799).
	first := 0
	if len(branch) > putsPerCall {
		first = pick(len(branch) - putsPerCall + 1)
	}
	for i := first; i < len(branch) && len(targets) < putsPerCall; i++ {
		targets = append(targets, s.opTargets(branch[i], resp.GetResponses()[i], writes, pick)...)
	}
	return s.pinned(targets)
}

// opTargets of one operation of a branch.
func (s source) opTargets(op *pb.RequestOp, resp *pb.ResponseOp, writes bool, pick func(int) int) []target {
	switch {
	case op.GetRequestPut() != nil:
		return s.putTargets(op.GetRequestPut(), resp.GetResponsePut(), s.header.GetRevision())
	case op.GetRequestDeleteRange() != nil:
		return s.deleteTargets(op.GetRequestDeleteRange(), resp.GetResponseDeleteRange(), s.header.GetRevision())
	case op.GetRequestRange() != nil && !writes:
		// In a write txn a range reads an intermediate state, and is skipped.
		targets, _ := s.rangeTarget(op.GetRequestRange(), resp.GetResponseRange(), false, pick)
		return targets
	}
	return nil
}

// shape tells whether a branch holds nested transactions, and whether anything
// in it, at any depth and in either branch of those, writes.
func shape(branch []*pb.RequestOp) (nested, writes bool) {
	for _, op := range branch {
		switch {
		case op.GetRequestTxn() != nil:
			nested = true
			_, a := shape(op.GetRequestTxn().GetSuccess())
			_, b := shape(op.GetRequestTxn().GetFailure())
			writes = writes || a || b
		case op.GetRequestPut() != nil, op.GetRequestDeleteRange() != nil:
			writes = true
		}
	}
	return nested, writes
}

// tangled tells whether two operations of a branch write to one key: then
// neither an acknowledgement nor a prev_kv tells the state at a revision.
func tangled(branch []*pb.RequestOp) bool {
	for i, op := range branch {
		key, end, ok := written(op)
		for _, other := range branch[:i] {
			if k, e, w := written(other); ok && w && (judge.Question{Key: k, End: e}).Meets(judge.Question{Key: key, End: end}) {
				return true
			}
		}
	}
	return false
}

func written(op *pb.RequestOp) (key, end []byte, ok bool) {
	if put := op.GetRequestPut(); put != nil {
		return put.GetKey(), nil, true
	}
	if del := op.GetRequestDeleteRange(); del != nil {
		return del.GetKey(), del.GetRangeEnd(), true
	}
	return nil, nil, false
}

// refusedByMember tells whether a status was given by etcd's own refusal of the
// request, and not by the network, a deadline or missing permission.
func refusedByMember(code int) bool {
	switch codes.Code(code) {
	case codes.OutOfRange, codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound, codes.Unknown, codes.Internal, codes.Aborted:
		return true
	}
	return false
}

// refusedTxn looks at the keys that a refused write transaction would have put:
// the member that refused it may be the only one that did not apply it (etcd
// #18667). Nothing is claimed, and there is no revision to pin to.
func refusedTxn(c Call) ([]target, skipped) {
	var req pb.TxnRequest
	if proto.Unmarshal(c.Request, &req) != nil {
		return nil, skipUndecodable
	}
	var targets []target
	for _, key := range putKeys(nil, &req) {
		targets = append(targets, target{Question: judge.Question{Key: key}, kind: refusedWrite, method: c.Method})
	}
	if len(targets) == 0 {
		return nil, skipRefused
	}
	return targets, ""
}

// putKeys of a transaction, in all its branches, at most putsPerCall of them.
func putKeys(keys [][]byte, txn *pb.TxnRequest) [][]byte {
	for _, branch := range [][]*pb.RequestOp{txn.GetSuccess(), txn.GetFailure()} {
		for _, op := range branch {
			if len(keys) >= putsPerCall {
				return keys
			}
			if put := op.GetRequestPut(); put != nil {
				keys = append(keys, put.GetKey())
			}
			if nested := op.GetRequestTxn(); nested != nil {
				keys = putKeys(keys, nested)
			}
		}
	}
	return keys
}
