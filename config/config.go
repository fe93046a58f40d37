// Package config is the operator's configuration of Parallax: one table of options, each of them a flag, an environment
// variable and a key of the YAML file at once. Only cmd imports it, and translates it into what the packages want.
//
// Precedence is flag > environment > file > default. Reading is strict, and tells every problem at once: see [Load].
package config

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"go.yaml.in/yaml/v4"
)

// Config is what `parallax serve` was told. It is frozen: nobody changes it after [Load]; a reload makes another one
// (see [Config.Reloaded]). Every field is an option of the table in options.go, which holds its default, range and help.
type Config struct {
	// ConfigFile is the YAML file. Option config, default none.
	ConfigFile string

	// ListenClientURLs are the addresses for clients; none makes Parallax an observer. Option listen-client-urls, default none.
	ListenClientURLs []URL
	// CertFile is the PEM file with the certificate of the https listeners. Option cert-file, default none.
	CertFile string
	// KeyFile is the PEM file with the key of CertFile. Option key-file, default none.
	KeyFile string
	// TrustedCAFile is the PEM file with the CAs of client certificates. When it is set, a client of an https listener must show one,
	// as with etcd. Option trusted-ca-file, default none.
	TrustedCAFile string
	// ClientCertAuth says the same in words, and only stands with TrustedCAFile. Option client-cert-auth, default false.
	ClientCertAuth bool
	// ClientCertAllowedCNs are the common names that a client certificate may have; none allows all. Option client-cert-allowed-cn, default none.
	ClientCertAllowedCNs []string
	// ClientCertAllowedHostnames are the names of which a client certificate must be valid for one; none allows all.
	// Option client-cert-allowed-hostname, default none.
	ClientCertAllowedHostnames []string
	// CipherSuites are those of the https listeners up to TLS 1.2; none leaves it to Go. Option cipher-suites, default none.
	CipherSuites []uint16
	// TLSMinVersion is the least version of the https listeners, as in crypto/tls. Option tls-min-version, default TLS 1.2.
	TLSMinVersion uint16
	// UnixSocketMode is the mode of the unix listeners. Option unix-socket-mode, default 0600.
	UnixSocketMode fs.FileMode
	// UnixSocketOwner is USER or USER:GROUP, names or numbers; empty leaves the owner. Option unix-socket-owner, default none.
	UnixSocketOwner string
	// ReusePort lets another process listen on the same ports (SO_REUSEPORT). Option reuse-port, default false.
	ReusePort bool
	// AllowUnauthenticatedClients says that whoever reaches a listener may act with Cert. Option allow-unauthenticated-clients, default false.
	AllowUnauthenticatedClients bool

	// Endpoints are the client addresses of the etcd members, never empty. Option endpoints, default http://127.0.0.1:2379.
	Endpoints []URL
	// CACert is the PEM file with the CAs of the https members; empty means those of the system. Option cacert, default none.
	CACert string
	// Cert is the PEM file with the client certificate that the https members see. Option cert, default none.
	Cert string
	// Key is the PEM file with the key of Cert. Option key, default none.
	Key string
	// InsecureSkipTLSVerify takes any certificate of a member. Option insecure-skip-tls-verify, default false.
	InsecureSkipTLSVerify bool
	// TLSServerName is the name that a member's certificate must hold; empty means the host of the endpoint. Option tls-server-name, default none.
	TLSServerName string
	// PreferEndpoints get the clients while they are healthy; they are some of Endpoints. Option prefer-endpoint, default none.
	PreferEndpoints []URL
	// MoveClients ends connections to members that are positively gone or hung. Option move-clients, default true.
	MoveClients bool
	// RebalanceClients moves clients from members with many connections to those with few. Option rebalance-clients, default false.
	RebalanceClients bool

	// MaxConnections bounds the client connections, > 0. Option max-connections, default 10000.
	MaxConnections int
	// MaxConnectionsPerPeer bounds those of one client address; 0 means only MaxConnections does, and it is never more.
	// Option max-connections-per-peer, default 5000.
	MaxConnectionsPerPeer int
	// HandshakeTimeout bounds the TLS handshake of a client and the wait for its first bytes, > 0. Option handshake-timeout, default 10s.
	HandshakeTimeout time.Duration

	// ListenAdminURLs are the addresses of probes and metrics; none turns them off. Option listen-admin-urls, default http://127.0.0.1:23791.
	ListenAdminURLs []URL
	// EnablePprof adds /debug/pprof/ to the admin listener. Option enable-pprof, default false.
	EnablePprof bool

	// LogLevel is the least level of operational log lines. Option log-level, default info. Reloadable.
	LogLevel slog.Level
	// LogFormat is "text" or "json". Option log-format, default text.
	LogFormat string
	// DivergenceLog is the file of the NDJSON records; empty means stdout. Option divergence-log, default stdout.
	DivergenceLog string

	// ShutdownTimeout bounds an orderly stop, > 0. Option shutdown-timeout, default 1s.
	ShutdownTimeout time.Duration
	// DialTimeout bounds one attempt to reach a member, > 0. Option dial-timeout, default 1.5s: kube-apiserver gives a health check of etcd 2 s.
	DialTimeout time.Duration

	// DiscoverMembers asks the endpoints for the whole member list. Option discover-members, default true.
	DiscoverMembers bool
	// Shadow is the checking; false makes Parallax a plain relay. Option shadow, default true.
	Shadow bool
	// ShadowPauseFile pauses the shadow while that file exists; empty means no such file. Option shadow-pause-file, default none.
	ShadowPauseFile string
	// ShadowCert is the PEM file with the client certificate of the shadow; empty means Cert. Option shadow-cert, default none.
	ShadowCert string
	// ShadowKey is the PEM file with the key of ShadowCert. Option shadow-key, default none.
	ShadowKey string
	// ShadowUser is the etcd user of the shadow; empty means none. Option shadow-user, default none.
	ShadowUser string
	// ShadowPasswordFile holds the password of ShadowUser. Option shadow-password-file, default none.
	ShadowPasswordFile string
	// ShadowMaxReadsPerSecond is the budget per member in requests/s; 0 stops shadow reads. Option of the same name, default 50. Reloadable.
	ShadowMaxReadsPerSecond float64
	// ShadowMaxBytesPerSecond is the budget per member in bytes/s; 0 stops shadow reads. Option of the same name, default 1 MiB. Reloadable.
	ShadowMaxBytesPerSecond int64
	// ShadowQueue is how many sampled calls may wait for their check. Option shadow-queue, default 4096.
	ShadowQueue int

	// SampleReads is the share of read calls that are checked, 0 to 1. Option sample-reads, default 0.1. Reloadable.
	SampleReads float64
	// SampleWrites is the share of write calls that are checked, 0 to 1. Option sample-writes, default 1. Reloadable.
	SampleWrites float64
	// SamplePrefixes are other shares for the keys of a prefix; the longest one wins. File only, default none. Reloadable.
	SamplePrefixes []PrefixRate

	// VerifiedKeys is how many keys found equal a moment ago are remembered. Option verified-keys, default 65536.
	VerifiedKeys int
	// VerifiedFor is how long such a key is not asked for again. Option verified-for, default 60s.
	VerifiedFor time.Duration
	// LagBudget is how long a member may be behind before its answer is called missing, > 0. Option lag-budget, default 2s.
	LagBudget time.Duration

	// Sweep compares the whole key space over and over. Option sweep, default true.
	Sweep bool
	// SweepMaxBytesPerSecond is its budget per member in bytes/s, > 0. Option of the same name, default 4 MiB. Reloadable.
	SweepMaxBytesPerSecond int64
	// SweepInterval is the time for one sweep; 0 is as fast as the budget allows. Option sweep-interval, default 24h.
	SweepInterval time.Duration
	// DataDir keeps the position of the sweep; empty means nowhere. Option data-dir, default none.
	DataDir string
	// ProbeAuth compares auth revisions. Option probe-auth, default false.
	ProbeAuth bool
}

// PrefixRate holds the sampling shares (0 to 1) of the keys that start with Prefix, which is never empty.
// A share that the file leaves out is the general one (sample-reads, sample-writes): Load has filled it in.
type PrefixRate struct {
	Prefix string
	Reads  float64
	Writes float64
}

// URL is an address of a listener or a member.
type URL struct {
	// Scheme is "http" or "https", and for a listener of clients also "unix" or "passthrough" (TLS that is relayed untouched).
	Scheme string
	// Address is host:port, as net.Listen and net.Dial take it, or the absolute path of a unix socket.
	Address string
}

func (u URL) String() string { return u.Scheme + "://" + u.Address }

// Print writes the configuration as a YAML file that loads to the same configuration again.
// It holds no secret: keys and passwords stand in files of their own, and URLs with a password are refused by [Load].
func (c *Config) Print(w io.Writer) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, o := range options() {
		if o.notInFile {
			continue
		}
		var value yaml.Node
		if err := value.Encode(o.encode(c)); err != nil {
			return fmt.Errorf("print option %s: %w", o.name, err)
		}
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: o.name}, &value)
	}
	data, err := yaml.Dump(root)
	if err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	return nil
}
