package load

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// opening is how many connections are made at the same time.
const opening = 16

// perIdle is far more than what a handshake takes on both sides of a proxy.
const perIdle = 50 * time.Millisecond

// Idle are connections with a watch each on which nothing happens.
type Idle struct {
	cancel context.CancelFunc

	mu    sync.Mutex
	conns Client
}

// OpenIdle opens n of them.
func OpenIdle(ctx context.Context, addr string, config *tls.Config, n int) (*Idle, error) {
	watching, cancel := context.WithCancel(ctx)
	idle := &Idle{cancel: cancel}
	defer time.AfterFunc(readyTimeout+time.Duration(n)*perIdle, cancel).Stop()
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(opening)
	for i := range n {
		group.Go(func() error {
			if groupCtx.Err() != nil {
				return groupCtx.Err()
			}
			// Small buffers: the clients' memory is not what is measured.
			conn, err := dial(addr, config, grpc.WithReadBufferSize(1<<10), grpc.WithWriteBufferSize(1<<10))
			if err != nil {
				return err
			}
			idle.mu.Lock()
			idle.conns.conns = append(idle.conns.conns, conn)
			idle.mu.Unlock()
			_, err = watch(watching, conn, string(key("/bench/idle/", i)), nil)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, idle.Close())
	}
	return idle, nil
}

// Close ends the watches and the connections.
func (i *Idle) Close() error {
	i.cancel()
	return i.conns.Close()
}
