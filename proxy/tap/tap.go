// Package tap listens to a copy of the plaintext bytes of one client connection, in both directions, and hands over the gRPC
// calls that it hears. It is pure: no sockets, no clock, no log, no goroutine.
//
//	frame.go    bytes → HTTP/2 frames, whatever the chunks
//	header.go   header blocks (HPACK) → the five fields that matter
//	stream.go   who has opened, half-closed, reset which stream; answers that are fed before their request
//	call.go     one wanted call: its request, and when it is handed over
//	answer.go   … what of its answer is copied
//	message.go  gRPC message framing, gzip
//	budget.go   the bytes that all taps hold together
//
// A tap understands what etcd's clients and members say to one another, and no more. What it does not understand ends the tap of
// that connection, never the connection.
package tap

import (
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Direction says who sent the bytes.
type Direction uint8

const (
	Up   Direction = iota // client -> member
	Down                  // member -> client
)

// A Call is what one client asked a member, and what the member said.
type Call struct {
	Method    string   // "/etcdserverpb.KV/Range"
	Endpoint  string   // Config.Endpoint
	Epoch     uint64   // Config.Epoch(), read when the request's headers were fed; 0 (void as a claim) when an answer was fed before its request
	Request   []byte   // the first request message, decompressed; not to be changed (calls of one stream share it)
	Responses [][]byte // the answer's messages in order: one of a unary call, several of a server stream. With Limits.Each exactly one, or none when Final
	Truncated bool     // Responses are only the first bytes of the answer: Limits.Bytes cut it
	Code      int      // grpc-status; -1 while it is unknown, or never came (RST_STREAM, no gRPC server)
	Message   string   // grpc-message, percent-decoded
	Final     bool     // the call has ended; false only for the single messages of Limits.Each
}

// Limits says what of an answer is to be copied.
type Limits struct {
	Bytes int  // at most so many bytes of the whole answer, of each message with Each; 0: nobody wants it, the call is forgotten
	Each  bool // hand over every message as its own Call when it is whole, and the end of the stream as a Final one

	// Wanted is asked at each message, with Each, whether it is to be copied. If nil, all are. It is called as the Observer's methods are.
	Wanted func() bool
}

// An Observer says which calls are wanted, and gets them. Its methods are called in the relay's goroutine under the lock of the
// connection: they must not block, and must not call the tap.
type Observer interface {
	// Request is asked once per call, at its headers: copy how many bytes of the first request message at most? 0: not wanted.
	Request(method string) int
	// Response is asked when the first request message is whole, and only if it fitted. It must not keep request, which may be reused.
	Response(method string, request []byte) Limits
	// Observe gets a call that ended or, with Limits.Each, an answer message. Refused calls (trailers only, or a status other
	// than 0) and reset ones (Code -1) come too, whatever Responses hold. The slices belong to the observer from then on.
	Observe(Call)
}

// Config of the tap of one connection.
type Config struct {
	Endpoint string              // the member endpoint of this connection
	Epoch    func() uint64       // of that member; if nil, 0
	Observer Observer            // must be set
	Budget   *Budget             // shared by all taps; if nil, one of its own
	Passed   func(reason string) // if set, told of each wanted call (with Limits.Each: message) that is not handed over; called like Observer

	// If all three are set, calls are counted, and some are timed, wanted or not; called like Observer.
	Opened   func(method string) int              // told of each call at its headers; what it returns is handed to Answered
	Answered func(opened int, took time.Duration) // told of one call in sixteen (see isTimed) how long its answer took, from the end of the request; not of calls that are broken off
	Clock    func() time.Duration                 // monotonic
}

// Why a wanted call, or one message of it, was passed over (Config.Passed).
const (
	PassedTooLarge   = "too-large"  // the first request message exceeds what Observer.Request allowed
	PassedCompressed = "compressed" // not gzip, or not well-formed
	PassedMemory     = "memory"     // the copy did not fit into MaxBytes or the Budget
	PassedMalformed  = "malformed"  // not a gRPC message
	PassedIncomplete = "incomplete" // it ended (reset, half-closed, GOAWAY) before the request message, or within an answer message
	PassedEarly      = "early"      // more than maxHeld was answered before the request was whole
)

// A Reason says why a tap has ended.
type Reason string

const (
	ReasonNotHTTP2 Reason = "not-http2" // HTTP/1.1 for example
	ReasonFrame    Reason = "frame"     // framing that HTTP/2 forbids
	ReasonStreamID Reason = "stream-id" // the client opened or used a stream with an id that it may not use
	ReasonPush     Reason = "push"      // PUSH_PROMISE: gRPC has none
	ReasonHPACK    Reason = "hpack"     // a header block that cannot be decoded, so neither can the next ones
	ReasonMemory   Reason = "memory"    // headers or open streams beyond the tap's bounds
	ReasonUnpaired Reason = "unpaired"  // answers that belong to no request
	ReasonPanic    Reason = "panic"     // a mistake of ours, see Tap.Stack
)

// A Tap follows one connection. Both pumps of the relay may feed it at the same time.
type Tap struct {
	cfg   Config
	timed bool // calls are counted and timed
	ended atomic.Pointer[Reason]

	mu         sync.Mutex
	halves     [2]half
	streams    map[uint32]*stream // opened by the client, and not ended on both sides
	early      map[uint32]*stream // answered by the member, and not opened yet
	spare      []*stream          // for reuse: a call that nobody wants must not cost an allocation
	spareCalls []*call
	top        uint32 // the highest stream id that the client has opened
	last       uint32 // the highest stream id that the member answers (GOAWAY)
	unanswered int
	wanted     int   // streams with a call
	held       int64 // bytes taken from the budget
	closed     bool
	stack      []byte // of a panic

	letPanic bool // tests only: a panic must not hide
}

// New returns the tap of a new connection.
func New(cfg Config) *Tap {
	if cfg.Budget == nil {
		cfg.Budget = NewBudget(0)
	}
	if cfg.Epoch == nil {
		cfg.Epoch = func() uint64 { return 0 }
	}
	if cfg.Passed == nil {
		cfg.Passed = func(string) {}
	}
	t := &Tap{cfg: cfg, timed: cfg.Opened != nil && cfg.Answered != nil && cfg.Clock != nil, streams: make(map[uint32]*stream), early: make(map[uint32]*stream), last: maxStreamID}
	t.halves[Up].init()
	t.halves[Up].headers.decoder.SetAllowedMaxDynamicTableSize(defaultTable)
	t.halves[Down].init()
	return t
}

// Feed shows the tap the next bytes of a direction, in chunks of any size. The relay feeds what a client sent before it writes it
// to the member, and what a member sent after it wrote it to the client: so a request is fed before its answer. b is not kept.
//
// GUARANTEE G2: nothing that is fed can block or fail the relay.
func (t *Tap) Feed(d Direction, b []byte) {
	if len(b) == 0 || t.ended.Load() != nil {
		return
	}
	t.mu.Lock()
	defer t.leave()
	if t.closed || t.ended.Load() != nil {
		return
	}
	if why := t.parse(d, b); why != "" {
		t.end(why)
	}
}

// leave ends a Feed. It is one of the few places of the project that recover (the others are the shadow's workers): a mistake in here, or in the observer, costs the tap
// of this connection, and the client nothing.
func (t *Tap) leave() {
	defer t.mu.Unlock()
	if t.letPanic {
		return
	}
	if recover() != nil {
		t.stack = debug.Stack()
		t.end(ReasonPanic)
	}
}

// Ended says whether and why the tap has given up. It is cheap enough to be asked at every read.
func (t *Tap) Ended() (Reason, bool) {
	if why := t.ended.Load(); why != nil {
		return *why, true
	}
	return "", false
}

// Stack is where the panic was that ended the tap; nil for every other reason. (The panic's value is not kept: G8.)
func (t *Tap) Stack() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stack
}

// Unanswered counts the calls that the client waits for, half-sent ones among them: the relay drains on it. Streams that client and
// member keep open (Watch, LeaseKeepAlive) do not count once their answer has begun. It is 0, and means nothing, once the tap has ended.
func (t *Tap) Unanswered() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unanswered
}

// Close gives the tap's bytes back to the budget: the connection is gone. Calls under way are not handed over.
func (t *Tap) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.drop()
}

func (t *Tap) end(why Reason) {
	t.ended.Store(&why)
	t.drop()
}

// drop lets go of everything: thousands of connections may go on for months after their taps have ended.
func (t *Tap) drop() {
	t.cfg.Budget.give(t.held)
	t.held, t.unanswered, t.wanted = 0, 0, 0
	t.halves = [2]half{}
	t.streams, t.early, t.spare, t.spareCalls = nil, nil, nil, nil
}
