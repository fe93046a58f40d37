package member_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcd-parallax/parallax/shadow/member/membertest"
)

// balance is a TCP load balancer before all members of a cluster.
func balance(t *testing.T, c *membertest.Cluster) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", c.Members[i%len(c.Members)].URL[len("http://"):])
			if err != nil {
				_ = down.Close()
				continue
			}
			pump := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				_ = to.Close()
				_ = from.Close()
			}
			wg.Go(func() { pump(up, down) })
			wg.Go(func() { pump(down, up) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		for _, m := range c.Members {
			m.Stop()
		}
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

// dying ends the member in the middle of a read, as an etcd does whose index
// names a record that its backend lacks.
func dying(m *membertest.Member) func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return func(ctx context.Context, _ *pb.RangeRequest) (*pb.RangeResponse, error) {
		go m.Stop()
		<-ctx.Done()
		return nil, ctx.Err()
	}
}
