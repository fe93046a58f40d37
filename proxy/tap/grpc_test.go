package tap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

var record = flag.Bool("record", false, "write what real clients say to testdata/conversations")

const (
	unary  = "/grpc.testing.TestService/UnaryCall"
	list   = "/grpc.testing.TestService/StreamingOutputCall"
	duplex = "/grpc.testing.TestService/FullDuplexCall"
)

// A gatherer is an observer that several connections share.
type gatherer struct {
	limits func(method string) Limits

	mu     sync.Mutex
	calls  map[string][]Call // by the id in the request
	passed map[string]int
}

func (g *gatherer) Request(method string) int {
	if method == duplex || method == unary || method == list {
		return 1 << 14
	}
	return 0
}

func (g *gatherer) Response(method string, _ []byte) Limits { return g.limits(method) }

func (g *gatherer) Observe(c Call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	id := "not understood"
	if c.Method == unary {
		r := new(pb.SimpleRequest)
		if proto.Unmarshal(c.Request, r) == nil {
			id = string(r.GetPayload().GetBody())
		}
	} else {
		r := new(pb.StreamingOutputCallRequest)
		if proto.Unmarshal(c.Request, r) == nil {
			id = string(r.GetPayload().GetBody())
		}
	}
	g.calls[id] = append(g.calls[id], c)
}

// of waits until the call with this id was handed over to the end.
func (g *gatherer) of(t *testing.T, id string) (calls []Call) {
	await(t, "the end of call "+id, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		calls = g.calls[id]
		return len(calls) > 0 && calls[len(calls)-1].Final
	})
	return calls
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 30s", what)
		}
	}
}

func startGathering(t *testing.T, limits func(string) Limits) (*gatherer, *relay) {
	g := &gatherer{limits: limits, calls: map[string][]Call{}, passed: map[string]int{}}
	return g, startRelay(t, Config{
		Endpoint: "the member", Epoch: func() uint64 { return 7 }, Observer: g, Budget: NewBudget(0),
		Passed: func(why string) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.passed[why]++
		},
	})
}

func wantAll(method string) Limits { return Limits{Bytes: 32 << 10, Each: method == duplex} }

// Real clients and a real member: thousands of calls of every kind at once, and each one is handed over once, as it was.
func TestRealClients(t *testing.T) {
	g, r := startGathering(t, wantAll)
	var callers errgroup.Group
	for conn := range 4 {
		client := dial(t, r)
		for caller := range 16 {
			callers.Go(func() error {
				for i := range 40 {
					if err := oneCall(t.Context(), client, fmt.Sprintf("%d/%d/%d", conn, caller, i), i); err != nil {
						return fmt.Errorf("call %d/%d/%d: %w", conn, caller, i, err)
					}
				}
				return nil
			})
		}
	}
	if err := callers.Wait(); err != nil {
		t.Fatal(err)
	}
	for conn := range 4 {
		for caller := range 16 {
			for i := range 40 {
				id := fmt.Sprintf("%d/%d/%d", conn, caller, i)
				checkCall(t, g.of(t, id), id, i)
			}
		}
	}
	if n := len(g.calls); n != 4*16*40 || len(g.passed) > 0 {
		t.Errorf("%d calls were handed over, passed over: %v; want %d, none", n, g.passed, 4*16*40)
	}
	r.finish(t)
}

const kinds = 8

// oneCall makes a call of the kind i, as a client does; how it went is for checkCall to know.
func oneCall(ctx context.Context, c client, id string, i int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	body := &pb.Payload{Body: []byte(id)}
	switch i % kinds {
	case 0: // get
		_, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: body, ResponseSize: 100})
		return err
	case 1: // gzip
		_, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: body, ResponseSize: 5000}, grpc.UseCompressor(gzip.Name))
		return err
	case 2: // a large answer
		_, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: body, ResponseSize: 300000})
		return err
	case 3: // refused
		_, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: body, ResponseStatus: &pb.EchoStatus{Code: 11, Message: "100% refüsed"}})
		if status.Code(err) != codes.OutOfRange {
			return fmt.Errorf("refused with %w", err)
		}
	case 4: // canceled, while the member hangs
		come := make(chan struct{})
		c.hanging.Store(id, come)
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		go func() { // ends with the call
			select {
			case <-come:
				stop()
			case <-ctx.Done():
			}
		}()
		hang := &pb.EchoStatus{Code: int32(codes.DeadlineExceeded)}
		if _, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: body, ResponseStatus: hang}); status.Code(err) != codes.Canceled {
			return fmt.Errorf("a member that hangs: %w", err)
		}
	case 5, 6: // a server stream, also with gzip
		s, err := c.StreamingOutputCall(ctx, streamRequest(id), compressor(i%kinds == 6)...)
		if err != nil {
			return err
		}
		return drain(s.Recv)
	case 7: // both ways; the messages after the first one are as the first one
		s, err := c.FullDuplexCall(ctx)
		if err != nil {
			return err
		}
		for range 2 {
			if err := s.Send(streamRequest(id)); err != nil {
				return err
			}
		}
		if err := s.CloseSend(); err != nil {
			return err
		}
		return drain(s.Recv)
	}
	return nil
}

func compressor(yes bool) []grpc.CallOption {
	if yes {
		return []grpc.CallOption{grpc.UseCompressor(gzip.Name)}
	}
	return nil
}

func streamRequest(id string) *pb.StreamingOutputCallRequest {
	r := &pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(id)}}
	for _, n := range []int32{0, 10, 20000, 1} {
		r.ResponseParameters = append(r.ResponseParameters, &pb.ResponseParameters{Size: n})
	}
	return r
}

func drain[T any](recv func() (T, error)) error {
	for {
		if _, err := recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// checkCall compares what was handed over with what oneCall did.
func checkCall(t *testing.T, calls []Call, id string, i int) {
	t.Helper()
	var want []Call
	one := Call{Method: unary, Final: true}
	answer := func(size int32) []byte {
		b, err := proto.Marshal(&pb.SimpleResponse{Payload: payload(id, size)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	switch i % kinds {
	case 0:
		one.Responses = [][]byte{answer(100)}
	case 1:
		one.Responses = [][]byte{answer(5000)}
	case 2:
		one.Responses, one.Truncated = [][]byte{answer(300000)[:32<<10]}, true
	case 3:
		one.Code, one.Message = 11, "100% refüsed"
	case 4:
		one.Code = -1
	case 5, 6, 7: // both answers have their payload in field 1
		one.Method = list
		one.Responses = [][]byte{answer(0), answer(10), answer(20000), answer(1)}
	}
	want = append(want, one)
	if i%kinds == 7 {
		want = nil
		for _, m := range append(one.Responses, one.Responses...) {
			want = append(want, Call{Method: duplex, Responses: [][]byte{m}, Code: -1})
		}
		want = append(want, Call{Method: duplex, Final: true})
	}
	if len(calls) != len(want) {
		t.Fatalf("call %s (kind %d) was handed over %d times, want %d", id, i%kinds, len(calls), len(want))
	}
	for n, c := range calls {
		same := c.Method == want[n].Method && c.Code == want[n].Code && c.Message == want[n].Message && c.Final == want[n].Final &&
			c.Truncated == want[n].Truncated && c.Epoch == 7 && c.Endpoint == "the member" && len(c.Responses) == len(want[n].Responses)
		for j := 0; same && j < len(c.Responses); j++ {
			same = bytes.Equal(c.Responses[j], want[n].Responses[j])
		}
		if !same {
			t.Fatalf("call %s (kind %d): handed over %.300q, want %.300q", id, i%kinds, fmt.Sprint(c), fmt.Sprint(want[n]))
		}
	}
}

// Clients that cancel at any moment: nothing is mispaired, and nothing stays behind.
func TestRealClientsThatCancel(t *testing.T) {
	g, r := startGathering(t, wantAll)
	client := dial(t, r)
	var callers errgroup.Group
	for caller := range 16 {
		callers.Go(func() error {
			for i := range 60 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*37%3000)*time.Microsecond)
				_ = oneCall(ctx, client, fmt.Sprintf("%d/%d", caller, i), i)
				cancel()
			}
			return nil
		})
	}
	if err := callers.Wait(); err != nil {
		t.Fatal(err)
	}
	// One whole call more, so that the member's last words on the canceled ones have come.
	if err := oneCall(t.Context(), client, "last", 0); err != nil {
		t.Fatal(err)
	}
	checkCall(t, g.of(t, "last"), "last", 0)
	await(t, "end of every stream", func() bool {
		tap := r.taps[0]
		tap.mu.Lock()
		defer tap.mu.Unlock()
		return len(tap.streams) == 0
	})
	for id, calls := range g.calls {
		for _, c := range calls {
			for _, b := range c.Responses {
				if len(b) > 2 && c.Epoch == 7 && !bytes.Contains(b, []byte(id)) {
					t.Fatalf("the answer %.80q was paired with the request %s", b, id)
				}
			}
		}
	}
	r.finish(t)
}

// The seeds of the fuzz targets and of the chunk test: run it with -record to write them again.
func TestRecord(t *testing.T) {
	if !*record {
		t.Skip("only with -record")
	}
	if err := os.MkdirAll("testdata/conversations", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, concurrent := range map[string]int{"grpc-one-by-one": 1, "grpc-interleaved": 8} {
		g, r := startGathering(t, wantAll)
		client := dial(t, r)
		var callers errgroup.Group
		callers.SetLimit(concurrent)
		for i := range kinds {
			callers.Go(func() error { return smallCall(t.Context(), client, fmt.Sprint(i), i) })
		}
		if err := callers.Wait(); err != nil {
			t.Fatal(err)
		}
		for i := range kinds {
			g.of(t, fmt.Sprint(i))
		}
		r.mu.Lock()
		err := writeConversation("testdata/conversations/"+name+".bin", r.steps)
		r.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// smallCall is oneCall, but not of 300 kB: seeds are to be small.
func smallCall(ctx context.Context, c client, id string, i int) error {
	switch i % kinds {
	case 2, 5, 6, 7:
		r := &pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(id)}}
		for _, n := range []int32{0, 10, 200} {
			r.ResponseParameters = append(r.ResponseParameters, &pb.ResponseParameters{Size: n})
		}
		if i%kinds == 7 {
			s, err := c.FullDuplexCall(ctx)
			if err != nil {
				return err
			}
			if err := errors.Join(s.Send(r), s.Send(r), s.CloseSend()); err != nil {
				return err
			}
			return drain(s.Recv)
		}
		s, err := c.StreamingOutputCall(ctx, r, compressor(i%kinds == 6)...)
		if err != nil {
			return err
		}
		return drain(s.Recv)
	}
	return oneCall(ctx, c, id, i)
}

func TestConversationFormat(t *testing.T) {
	var b []byte
	for _, s := range newTalk().steps {
		b = appendConversation(b, s)
	}
	if n := binary.BigEndian.Uint32(b[1:]); b[0] != 'U' || n != 24 {
		t.Fatalf("begins with %q, %d bytes; want the preface", b[0], n)
	}
	steps := parseConversation(b)
	if len(steps) != 3 || steps[2].d != Down {
		t.Fatalf("read back as %v", steps)
	}
}
