package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// pollInterval is short against an election, long against a Status call.
const pollInterval = 20 * time.Millisecond

// pollTimeout is for a cluster on cores that are busy with other tests; what is
// waited for takes a second on idle ones.
const pollTimeout = 60 * time.Second

// poll calls check until it returns nil or says stop, at most for pollTimeout;
// the error then has its last one. A call that hangs is given up after a second.
func poll(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		err := check(attempt)
		cancel()
		if final := (stopError{}); errors.As(err, &final) {
			return fmt.Errorf("wait for %s: %w", what, final.error)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w, last: %w", what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// stopError ends a poll: waiting longer cannot help.
type stopError struct{ error }

func stop(err error) error { return stopError{err} }

// newClient returns a client that finds a restarted member again at once: the
// backoff of grpc's default is longer than most tests.
func newClient(endpoints []string, secure *tls.Config) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints,
		TLS:       secure,
		Logger:    zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 250 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		})},
	})
}

// Tail returns the last lines of a file, for messages; what cannot be read is
// said in its place.
func Tail(path string, lines int) []byte {
	content, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	end := len(bytes.TrimRight(content, "\n"))
	begin := end
	for ; lines > 0 && begin > 0; lines-- {
		begin = max(0, bytes.LastIndexByte(content[:begin], '\n'))
	}
	return bytes.TrimLeft(content[begin:end], "\n")
}

// lastWords returns the end of an etcd log, where the reason of an exit stands,
// unless etcd ends by printing its usage: then the reason stands before it.
func lastWords(path string) string {
	tail := string(Tail(path, 1000))
	if before, _, usage := strings.Cut(tail, "\nUsage:\n"); usage {
		tail = before
	}
	lines := strings.Split(tail, "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
