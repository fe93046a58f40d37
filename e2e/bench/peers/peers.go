// Package peers has the two peers that are ours: a blind relay and a plain
// gRPC forwarder. Each is what one writes in an afternoon, and runs as a
// process of its own, so that the kernel can tell what it costs.
package peers

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"net"
	"os"
)

// Role is the environment variable that makes a program which calls Main one of the peers.
const Role = "PARALLAX_BENCH_PEER"

// The values of Role.
const (
	Relay   = "relay"
	Forward = "forward"
)

// Main plays the part that Role names, until the process is ended from outside.
// It returns false, at once, when there is none.
func Main() (played bool, err error) {
	run := map[string]func(options) error{Relay: relay, Forward: forward}[os.Getenv(Role)]
	if run == nil {
		return false, nil
	}
	var o options
	flags := flag.NewFlagSet(os.Getenv(Role), flag.ContinueOnError)
	flags.StringVar(&o.listen, "listen", "", "`address` to listen on")
	flags.StringVar(&o.member, "member", "", "`address` of the member")
	flags.StringVar(&o.cert, "cert-file", "", "`file` of the certificate shown to clients: TLS on both sides")
	flags.StringVar(&o.key, "key-file", "", "`file` of its key")
	flags.StringVar(&o.ca, "cacert", "", "`file` of the authority that members are checked against")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return true, err
	}
	return true, run(o)
}

type options struct{ listen, member, cert, key, ca string }

func (o options) tls() bool { return o.cert != "" }

func (o options) serverTLS() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}, nil
}

func (o options) clientTLS() (*tls.Config, error) {
	pem, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(o.member)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", o.ca)
	}
	return &tls.Config{RootCAs: pool, ServerName: host, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}, nil
}
