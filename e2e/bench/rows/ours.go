package rows

import (
	"net"
	"os"
	"strconv"

	"github.com/etcd-parallax/parallax/e2e/bench/peers"
	"github.com/etcd-parallax/parallax/e2e/internal/process"
)

// parallax with further flags.
func parallax(flags ...string) func(Site, place) (process.Spec, error) {
	return func(s Site, p place) (process.Spec, error) {
		args := []string{
			"serve", "--listen-client-urls=" + s.url(p.listen), "--endpoints=" + s.url(p.member),
			"--listen-admin-urls=http://" + net.JoinHostPort(s.IP, strconv.Itoa(s.Port())), "--log-level=warn",
		}
		if s.TLS != nil {
			args = append(args, "--cert-file="+s.TLS.Cert, "--key-file="+s.TLS.Key, "--cacert="+s.TLS.CA)
		}
		return process.Spec{Path: s.Parallax, Args: append(args, flags...)}, nil
	}
}

func budget(reads, bytes string) []string {
	return []string{"--shadow-max-reads-per-second=" + reads, "--shadow-max-bytes-per-second=" + bytes}
}

// everything is to check every call; no more than one key is remembered as checked, which is the least.
func everything() []string {
	return append(budget("1000000", "100GiB"), "--sample-reads=1", "--sample-writes=1", "--verified-keys=1")
}

// peer is one of ours: this program again, in another role.
func peer(role string) func(Site, place) (process.Spec, error) {
	return func(s Site, p place) (process.Spec, error) {
		self, err := os.Executable()
		args := []string{"-listen=" + p.listen, "-member=" + p.member}
		if s.TLS != nil {
			args = append(args, "-cert-file="+s.TLS.Cert, "-key-file="+s.TLS.Key, "-cacert="+s.TLS.CA)
		}
		return process.Spec{Path: self, Args: args, Env: []string{peers.Role + "=" + role}}, err
	}
}

// gateway relays what it gets: with TLS, encrypted bytes.
func gateway(s Site, p place) (process.Spec, error) {
	return process.Spec{Path: s.Etcd, Args: []string{"gateway", "start", "--endpoints=" + p.member, "--listen-addr=" + p.listen}}, nil
}

func grpcProxy(s Site, p place) (process.Spec, error) {
	args := []string{
		"grpc-proxy", "start", "--endpoints=" + s.url(p.member), "--listen-addr=" + p.listen,
		"--advertise-client-url=" + p.listen, "--data-dir=" + p.dir,
	}
	if s.TLS != nil {
		// It asks for a certificate of its own as soon as it is told whom to believe.
		args = append(args, "--cert-file="+s.TLS.Cert, "--key-file="+s.TLS.Key, "--cacert="+s.TLS.CA, "--cert="+s.TLS.Cert, "--key="+s.TLS.Key)
	}
	return process.Spec{Path: s.Etcd, Args: args}, nil
}
