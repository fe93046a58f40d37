package shadow

import (
	"errors"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-parallax/parallax/shadow/ask"
	"github.com/etcd-parallax/parallax/shadow/judge"
)

// The methods of which the shadow knows what they say about keys.
const (
	methodRange       = "/etcdserverpb.KV/Range"
	methodRangeStream = "/etcdserverpb.KV/RangeStream"
	methodPut         = "/etcdserverpb.KV/Put"
	methodDelete      = "/etcdserverpb.KV/DeleteRange"
	methodTxn         = "/etcdserverpb.KV/Txn"
	methodWatch       = "/etcdserverpb.Watch/Watch"
)

// Bounds of one question. Of a list, a slice of neighboring keys is asked,
// never the open end: the index is walked to range_end whatever the limit.
const (
	sliceKeys  = 100
	blindKeys  = 4 // of a list that was served without values
	sliceBytes = 256 << 10
	// putsPerCall bounds what one transaction can ask for.
	putsPerCall = 8
)

// kind of the call that made a question worth asking.
type kind string

const (
	read         kind = "read"
	write        kind = "write"
	refusedWrite kind = "refused-write"
	recheck      kind = "recheck"
	watch        kind = "watch"
)

// target is one question with what is known of its answer.
type target struct {
	judge.Question               // Revision 0: the highest that all members can answer
	claims         []judge.Claim // what the member told the client
	kind           kind
	method         string
	servedBy       uint64
	seen           []judge.KV // key-values that the client was served, for the verified keys
	old            bool       // … at a revision that the client chose, so not what it would be served now
}

// skipped says why a call gives no question. It is a label of a metric.
type skipped string

const (
	skipUndecodable skipped = "undecodable"
	skipTruncated   skipped = "truncated"   // a write whose answer (its prev_kv, mostly) is longer than what is copied
	skipRefused     skipped = "refused"     // the call failed, and gives no reason to look at a write
	skipNothing     skipped = "nothing"     // the answer names no key that can be asked for
	skipUnpinned    skipped = "unpinned"    // no revision to pin to
	skipUnsupported skipped = "unsupported" // an intermediate state, or a form that PIN does not allow
)

// questions turns a call into pinned reads. It is pure; pick(n) chooses a
// number below n, and decides which slice of a list is asked.
func questions(c Call, pick func(n int) int) ([]target, skipped) {
	if c.Method == methodWatch {
		return watchQuestion(c, pick)
	}
	if c.Code != 0 {
		if c.Method == methodTxn && refusedByMember(c.Code) {
			return refusedTxn(c)
		}
		return nil, skipRefused
	}
	switch c.Method {
	case methodRange, methodRangeStream:
		return rangeQuestion(c, pick)
	case methodPut:
		return putQuestion(c)
	case methodDelete:
		return deleteQuestion(c)
	case methodTxn:
		return txnQuestions(c, pick)
	}
	return nil, skipUnsupported
}

var errNoAnswer = errors.New("no whole answer was copied")

// source is what a served or acknowledged operation is known of.
type source struct {
	call     Call
	header   *pb.ResponseHeader
	kind     kind
	old      bool
	noClaims bool // what the client was told proves nothing
}

func (s source) target(q judge.Question, claims ...judge.Claim) target {
	t := target{Question: q, kind: s.kind, method: s.call.Method, servedBy: s.header.GetMemberId(), old: s.old}
	if !s.noClaims {
		t.claims = claims
	}
	return t
}

// claim of the serving member, in the epoch that was read before the request
// was relayed to it.
func (s source) claim(fields judge.Fields, kvs ...judge.KV) judge.Claim {
	return judge.Claim{Member: s.header.GetMemberId(), Epoch: s.call.Epoch, Fields: fields, KVs: kvs}
}

const served = judge.Present | judge.Value | judge.CreateRevision | judge.ModRevision | judge.Version | judge.Lease

func rangeQuestion(c Call, pick func(int) int) ([]target, skipped) {
	var req pb.RangeRequest
	if proto.Unmarshal(c.Request, &req) != nil {
		return nil, skipUndecodable
	}
	resp, err := decodeRange(c)
	if err != nil {
		return nil, skipUndecodable
	}
	s := source{call: c, header: resp.GetHeader(), kind: read}
	// A field that is not known may be a filter of a later version. And a stream
	// at a negative revision, which etcd does not refuse, reads each chunk at
	// another revision.
	s.noClaims = len(req.ProtoReflect().GetUnknown()) > 0 || c.Method == methodRangeStream && req.GetRevision() < 0
	return s.rangeTarget(&req, resp, c.Truncated, pick)
}

// rangeTarget asks for what a Range returned, at the revision that it was read
// at: header.revision of an unpinned read is the revision of its answer.
func (s source) rangeTarget(req *pb.RangeRequest, resp *pb.RangeResponse, truncated bool, pick func(int) int) ([]target, skipped) {
	revision := req.GetRevision()
	if revision <= 0 {
		revision = s.header.GetRevision()
	}
	s.old = req.GetRevision() > 0
	if truncated && s.header == nil { // the head of a RangeStream: its last chunk would have told
		revision, s.noClaims = 0, true
	} else if revision < 2 {
		return nil, skipUnpinned
	}
	fields := served
	if req.GetKeysOnly() {
		fields &^= judge.Value | judge.Lease // the lease is left out on ≥ 3.7.0, etcd #22209
	}
	if len(req.GetRangeEnd()) == 0 {
		q := judge.Question{Key: req.GetKey(), Revision: revision}
		if truncated || req.GetCountOnly() || filtered(req) {
			return []target{s.target(q)}, ""
		}
		t := s.target(q, s.claim(fields, ask.KVs(resp.GetKvs())...))
		t.seen = append(t.seen, ask.KVs(resp.GetKvs())...)
		if len(t.seen) == 0 {
			t.seen = []judge.KV{{Key: req.GetKey()}}
		}
		return []target{t}, ""
	}
	return s.sliceTarget(req, resp, revision, fields, pick)
}

// sliceTarget asks for at most sliceKeys neighbors of a list that the client
// was served.
func (s source) sliceTarget(req *pb.RangeRequest, resp *pb.RangeResponse, revision int64, fields judge.Fields, pick func(int) int) ([]target, skipped) {
	all := ask.KVs(resp.GetKvs())
	if len(all) == 0 {
		return nil, skipNothing // counts and empty lists: to ask for them is to walk an unknown stretch of the index
	}
	if filtered(req) || req.GetSortTarget() != pb.RangeRequest_KEY || req.GetSortOrder() == pb.RangeRequest_DESCEND {
		// What stands side by side in the answer need not be neighbors in the
		// key space: what is known of one key stands alone.
		one := all[pick(len(all))]
		t := s.target(judge.Question{Key: one.Key, Revision: revision}, s.claim(fields&^judge.Present, one))
		t.seen = []judge.KV{one}
		return []target{t}, ""
	}
	most, first := sliceKeys, 0
	if req.GetKeysOnly() {
		most = blindKeys // how large their values are, nobody knows
	}
	if len(all) > most {
		first = pick(len(all) - most + 1)
	}
	slice := slices.Clone(all[first:min(first+most, len(all))]) // and let go of the rest
	for n, size := 0, 0; n < len(slice); n++ {
		if size += len(slice[n].Key) + len(slice[n].Value); size > sliceBytes && n > 0 {
			slice = slice[:n]
		}
	}
	last := slice[len(slice)-1].Key
	q := judge.Question{Key: slice[0].Key, End: append(slices.Clone(last), 0), Revision: revision}
	t := s.target(q, s.claim(fields, slice...)) // between two served neighbors, absence counts
	t.seen = slice
	return []target{t}, ""
}

// filtered tells whether a Range may have left out keys inside its range.
func filtered(req *pb.RangeRequest) bool {
	return req.GetMinModRevision() != 0 || req.GetMaxModRevision() != 0 || req.GetMinCreateRevision() != 0 || req.GetMaxCreateRevision() != 0
}

// pinned leaves out what cannot be pinned.
func (s source) pinned(targets []target) ([]target, skipped) {
	if s.header.GetRevision() < 2 {
		return nil, skipUnpinned
	}
	if len(targets) == 0 {
		return nil, skipNothing
	}
	return targets, ""
}

func one(kv *mvccpb.KeyValue) []*mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	return []*mvccpb.KeyValue{kv}
}

func decode(c Call, req, resp proto.Message) error {
	if len(c.Responses) != 1 {
		return errNoAnswer
	}
	if err := proto.Unmarshal(c.Request, req); err != nil {
		return err
	}
	return proto.Unmarshal(c.Responses[0], resp)
}

// decodeRange reads the answer to a Range, or the chunks of a RangeStream, of
// which the last carries the header. Of a truncated answer it reads the whole
// key-values at its head.
func decodeRange(c Call) (*pb.RangeResponse, error) {
	if len(c.Responses) == 0 {
		return nil, errNoAnswer
	}
	all := &pb.RangeResponse{}
	for i, b := range c.Responses {
		cut := c.Truncated && i == len(c.Responses)-1
		if c.Method == methodRangeStream {
			if b = unwrap(b); b == nil {
				continue
			}
		}
		if cut {
			b = wholeFields(b)
		}
		if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(b, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// unwrap returns the RangeResponse in a RangeStreamResponse (its field 1), as
// far as it is there.
func unwrap(b []byte) []byte {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return nil
	}
	size, m := protowire.ConsumeVarint(b[n:])
	if m < 0 {
		return nil
	}
	b = b[n+m:]
	return b[:min(uint64(len(b)), size)]
}

// wholeFields cuts off a field that is not whole.
func wholeFields(b []byte) []byte {
	for n := 0; ; {
		_, _, m := protowire.ConsumeField(b[n:])
		if m < 0 || n+m > len(b) {
			return b[:n]
		}
		if n += m; n == len(b) {
			return b
		}
	}
}
