module github.com/etcd-parallax/parallax/e2e/etcd/v3.4.3

// Before 1.17 a module graph is not pruned: etcd 3.4.3 is built from what its
// own go.mod requires.
go 1.15

require go.etcd.io/etcd v0.0.0-20191023171146-3cf2f69b5738
