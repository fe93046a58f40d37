package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"github.com/etcd-parallax/parallax/e2e/binary"
)

// conversation of one client connection. It has at least five calls that end, or messages of a watch.
type conversation struct {
	name, version string
	hold          func(ctx context.Context, endpoint string) error
}

var conversations = []conversation{
	{"keys", binary.Etcd36, withClient(keys)},
	{"txn", binary.Etcd36, withClient(txns)},
	{"list", binary.Etcd36, withClient(list)},
	{"watch", binary.Etcd36, withClient(watch)},
	{"lease", binary.Etcd36, withClient(lease)},
	{"concurrent", binary.Etcd36, withClient(concurrent)},
	{"cancel", binary.Etcd36, withClient(canceled)},
	{"gzip", binary.Etcd36, withClient(compressed)},
	{"maintenance", binary.Etcd36, withClient(maintenance)},
	{"etcdctl-watch", binary.Etcd36, etcdctl("watch keys/0 --rev=1\nwatch txn/ --prefix --rev=1 --prev-kv\nwatch lease/a --rev=1\n",
		[]string{"keys/0", "txn/", "lease/a"}, "watch", "-i")},
	{"errors", binary.Etcd36, withClient(failures)}, // compacts what the others watch
	{"keys-3.7", binary.Etcd37, withClient(keys)},
	{"range-stream-3.7", binary.Etcd37, withClient(rangeStream)},
}

func withClient(talk func(context.Context, *clientv3.Client) error) func(context.Context, string) error {
	return func(ctx context.Context, endpoint string) error {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Context: ctx, Logger: zap.NewNop()})
		if err != nil {
			return err
		}
		return errors.Join(talk(ctx, c), c.Close())
	}
}

func keys(ctx context.Context, c *clientv3.Client) error {
	for i := range 5 {
		key := fmt.Sprintf("keys/%d", i)
		_, put := c.Put(ctx, key, strings.Repeat("v", 100*i), clientv3.WithPrevKV())
		_, get := c.Get(ctx, key)
		_, old := c.Get(ctx, key, clientv3.WithSerializable(), clientv3.WithRev(2))
		if err := errors.Join(put, get, old); err != nil {
			return err
		}
	}
	_, err := c.Delete(ctx, "keys/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	return err
}

// txns are as kube-apiserver sends them.
func txns(ctx context.Context, c *clientv3.Client) error {
	revision := int64(0)
	for i := range 6 {
		const key = "txn/registry/pods/default/a"
		resp, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
			Then(clientv3.OpPut(key, strings.Repeat("p", 300))).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return err
		}
		if revision = resp.Header.Revision; i%3 == 2 {
			revision = 1 // so that the next one fails
		}
	}
	return nil
}

// list reads a list that spans several frames, in pages too.
func list(ctx context.Context, c *clientv3.Client) error {
	for i := range 20 {
		if _, err := c.Put(ctx, fmt.Sprintf("list/%02d", i), strings.Repeat("v", 900)); err != nil {
			return err
		}
	}
	_, all := c.Get(ctx, "list/", clientv3.WithPrefix())
	_, page := c.Get(ctx, "list/", clientv3.WithPrefix(), clientv3.WithLimit(5))
	_, names := c.Get(ctx, "list/", clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend))
	_, count := c.Get(ctx, "list/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	return errors.Join(all, page, names, count)
}

func failures(ctx context.Context, c *clientv3.Client) error {
	put, err := c.Put(ctx, "errors/a", "v")
	if err != nil {
		return err
	}
	if _, err := c.Compact(ctx, put.Header.Revision); err != nil {
		return err
	}
	_, compacted := c.Get(ctx, "errors/a", clientv3.WithRev(2))
	_, future := c.Get(ctx, "errors/a", clientv3.WithRev(1<<40))
	_, noLease := c.Put(ctx, "errors/a", "v", clientv3.WithLease(1234))
	_, fine := c.Put(ctx, "errors/a", "")
	_, twice := c.Txn(ctx).Then(clientv3.OpPut("errors/a", ""), clientv3.OpPut("errors/a", "")).Commit()
	return errors.Join(want(compacted, rpctypes.ErrCompacted), want(future, rpctypes.ErrFutureRev),
		want(noLease, rpctypes.ErrLeaseNotFound), fine, want(twice, rpctypes.ErrDuplicateKey))
}

func want(got, wanted error) error {
	if errors.Is(got, wanted) {
		return nil
	}
	return errors.Join(errors.New("want "+wanted.Error()), got)
}

// watch is told of puts on its own connection, of progress, and of its end.
func watch(ctx context.Context, c *clientv3.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := c.Watch(ctx, "watch/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(1), clientv3.WithFragment())
	for i := range 5 {
		if _, err := c.Put(ctx, "watch/a", fmt.Sprint(i)); err != nil {
			return err
		}
		if r := <-events; r.Err() != nil {
			return r.Err()
		}
	}
	if err := c.RequestProgress(ctx); err != nil {
		return err
	}
	if r := <-events; r.Err() != nil || !r.IsProgressNotify() {
		return fmt.Errorf("want progress, got %v", r)
	}
	return nil
}

func lease(ctx context.Context, c *clientv3.Client) error {
	granted, err := c.Grant(ctx, 60)
	if err != nil {
		return err
	}
	_, put := c.Put(ctx, "lease/a", "v", clientv3.WithLease(granted.ID))
	_, alive := c.KeepAliveOnce(ctx, granted.ID)
	_, ttl := c.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
	_, all := c.Leases(ctx)
	_, revoked := c.Revoke(ctx, granted.ID)
	return errors.Join(put, alive, ttl, all, revoked)
}

func concurrent(ctx context.Context, c *clientv3.Client) error {
	var callers errgroup.Group
	for i := range 8 {
		callers.Go(func() error {
			_, put := c.Put(ctx, fmt.Sprint("concurrent/", i), strings.Repeat("v", 200*i))
			_, get := c.Get(ctx, "concurrent/", clientv3.WithPrefix())
			return errors.Join(put, get)
		})
	}
	return callers.Wait()
}

// canceled calls are reset by the client, some before and some after their answer began.
func canceled(ctx context.Context, c *clientv3.Client) error {
	for i := range 10 {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(i)*100*time.Microsecond)
		_, _ = c.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly()) // an error, or not
		cancel()
		if _, err := c.Put(context.WithoutCancel(ctx), "cancel/a", "v"); err != nil {
			return err
		}
	}
	return nil
}

// compressed requests are refused by members, which know no gzip; the client sends them all the same.
func compressed(ctx context.Context, c *clientv3.Client) error {
	kv := pb.NewKVClient(c.ActiveConnection())
	for range 5 {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("gzip/a"), Value: []byte(strings.Repeat("v", 3000))}, grpc.UseCompressor(gzip.Name))
		if err != nil && status.Code(err) != codes.Unimplemented {
			return err
		}
		if _, err := c.Get(ctx, "gzip/a"); err != nil {
			return err
		}
	}
	return nil
}

func maintenance(ctx context.Context, c *clientv3.Client) error {
	m, cl, au := pb.NewMaintenanceClient(c.ActiveConnection()), pb.NewClusterClient(c.ActiveConnection()), pb.NewAuthClient(c.ActiveConnection())
	_, state := m.Status(ctx, &pb.StatusRequest{})
	_, hash := m.HashKV(ctx, &pb.HashKVRequest{})
	_, alarms := m.Alarm(ctx, &pb.AlarmRequest{})
	_, members := cl.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	_, users := au.UserList(ctx, &pb.AuthUserListRequest{})
	_, auth := au.AuthStatus(ctx, &pb.AuthStatusRequest{})
	return errors.Join(state, hash, alarms, members, users, auth)
}

func rangeStream(ctx context.Context, c *clientv3.Client) error {
	for i := range 10 {
		if _, err := c.Put(ctx, fmt.Sprintf("stream/%d", i), strings.Repeat("v", 1000)); err != nil {
			return err
		}
	}
	kv := pb.NewKVClient(c.ActiveConnection())
	for _, limit := range []int64{0, 3} {
		stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("stream/"), RangeEnd: []byte("stream0"), Limit: limit})
		if err != nil {
			return err
		}
		for err == nil {
			_, err = stream.Recv()
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// etcdctl holds a conversation of one command. Its stdin is left open until stdout has had all of these words.
func etcdctl(stdin string, until []string, args ...string) func(context.Context, string) error {
	return func(ctx context.Context, endpoint string) error {
		path, err := binary.Builder{}.Etcdctl(ctx)
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, path, append([]string{"--endpoints=" + endpoint}, args...)...)
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if _, err := io.WriteString(in, stdin); err != nil {
			return err
		}
		if err := readUntil(out, until); err != nil {
			return err
		}
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // the end of stdin is an error to etcdctl
		return nil
	}
}

func readUntil(r io.Reader, words []string) error {
	var all strings.Builder
	missing := func(word string) bool { return !strings.Contains(all.String(), word) }
	for b := make([]byte, 4096); slices.ContainsFunc(words, missing); {
		n, err := r.Read(b)
		all.Write(b[:n])
		if err != nil {
			return fmt.Errorf("%w before %q in %.500q", err, words, all.String())
		}
	}
	return nil
}
