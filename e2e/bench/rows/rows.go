// Package rows has what `make bench` compares: the ways from a client to a
// member, each started as a process of its own.
package rows

import (
	"path/filepath"

	"github.com/etcd-parallax/parallax/e2e/internal/process"
)

// Row is one way to the member.
type Row struct {
	// Name is for flags and for the JSON file, Title for the table.
	Name, Title string

	// Package is the Debian package of Program, "" where the bench brings its own.
	Package, Program string

	// Three: it stands before a member of three, since with one there is
	// nothing that a shadow could compare.
	Three bool

	// Queues: work goes on after the last answer, and belongs to the price.
	Queues bool

	// Workers: as many children as there are threads do the work.
	Workers bool

	// PlainOnly and TLSOnly rows are left out of the other mode.
	PlainOnly, TLSOnly bool

	// spec is nil for the direct way.
	spec func(Site, place) (process.Spec, error)
}

// Names of rows that others are compared with.
const (
	Direct       = "direct"
	DirectThree  = "direct-three"
	Gateway      = "gateway"
	GatewayAgain = "gateway-again"
	Relay        = "relay"
	RelayAgain   = "relay-again"
	HAProxyTCP   = "haproxy-tcp"
	HAProxyHTTP  = "haproxy-h2"
	Nginx        = "nginx"
	GRPCProxy    = "grpc-proxy"
	Forwarder    = "forwarder"
	ShadowOff    = "parallax-off"
	ShadowZero   = "parallax-0"
	ShadowThree  = "parallax-0-three"
	ShadowSome   = "parallax-default"
	ShadowAll    = "parallax-100"
)

// All returns the rows in the order of the table.
func All() []Row {
	return []Row{
		{Name: Direct, Title: "direct"},
		{Name: Gateway, Title: "blind relay (`etcd gateway`)", spec: gateway},
		{Name: GatewayAgain, Title: "the same once more: the noise", spec: gateway, PlainOnly: true},
		{Name: Relay, Title: "blind Go relay (`io.Copy`)", spec: peer("relay")},
		{Name: RelayAgain, Title: "the same once more: the noise", spec: peer("relay"), TLSOnly: true},
		{Name: HAProxyTCP, Title: "HAProxy, TCP mode", Package: "haproxy", Program: haproxyProgram, spec: haproxy(haproxyTCP)},
		{Name: HAProxyHTTP, Title: "HAProxy, HTTP/2 mode", Package: "haproxy", Program: haproxyProgram, spec: haproxy(haproxyHTTP)},
		{Name: Nginx, Title: "nginx `grpc_pass`", Package: "nginx-light", Program: nginxProgram, Workers: true, spec: nginx},
		{Name: GRPCProxy, Title: "`etcd grpc-proxy`", spec: grpcProxy},
		{Name: Forwarder, Title: "grpc-go raw-bytes forwarder", spec: peer("forward")},
		{Name: ShadowOff, Title: "**Parallax**, `--shadow=false`", spec: parallax("--shadow=false")},
		{Name: ShadowZero, Title: "**Parallax**, tap on, shadow budget 0", spec: parallax(budget("0", "0")...)},
		{Name: DirectThree, Title: "direct ³", Three: true},
		{Name: ShadowThree, Title: "**Parallax**, tap on, shadow budget 0 ³", spec: parallax(budget("0", "0")...), Three: true},
		{Name: ShadowSome, Title: "**Parallax**, shadow at its defaults ³", spec: parallax(), Three: true},
		{Name: ShadowAll, Title: "**Parallax**, shadow at 100 % ³", spec: parallax(everything()...), Three: true, Queues: true},
	}
}

// Site is where the rows of one mode stand.
type Site struct {
	// IP is a loopback address that is ours alone; Port gives its ports.
	IP   string
	Port func() int

	// Dir is for configurations and logs.
	Dir string

	// Member is the client address of a single member, MemberOfThree that of
	// the leader of a cluster of three.
	Member, MemberOfThree string

	// TLS on both sides, nil for none.
	TLS *TLS

	// Threads that a program is given which would take another number by itself.
	Threads int

	// Etcd and Parallax are programs.
	Etcd, Parallax string
}

// TLS names PEM files: the authority of everybody, and one certificate that is good for IP.
type TLS struct{ CA, Cert, Key, CertAndKey string }

// place is where one process stands.
type place struct{ listen, member, dir string }

// config writes a configuration file.
func (p place) config(name, content string) (string, error) {
	path := filepath.Join(p.dir, name)
	return path, writeFile(path, content)
}

// url puts the scheme of this mode before an address.
func (s Site) url(address string) string {
	if s.TLS != nil {
		return "https://" + address
	}
	return "http://" + address
}
