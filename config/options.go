package config

import (
	"crypto/tls"
	"io/fs"
	"log/slog"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

const envPrefix = "PARALLAX_"

// option is one row of the table: everything that flag, environment, file, help and docs need to know of it.
type option struct {
	name       string // of the flag, and the key of the file
	kind       string // what the help calls the value
	usage      string
	list       bool     // several texts, separated by commas or a YAML sequence
	tags       []string // YAML types that a scalar may have
	reloadable bool     // takes effect with SIGHUP
	fileOnly   bool     // neither flag nor environment variable
	notInFile  bool

	init   func(*Config)
	set    func(*Config, []string) []fault
	text   func(*Config) string
	encode func(*Config) any // what Print writes
	field  func(*Config) any // pointer to the field
}

func (o option) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(o.name, "-", "_"))
}

// copyTo and equal serve Reloaded. Fields are compared deeply, and shared: a Config is frozen.
func (o option) copyTo(to, from *Config) {
	reflect.ValueOf(o.field(to)).Elem().Set(reflect.ValueOf(o.field(from)).Elem())
}

func (o option) equal(a, b *Config) bool { return reflect.DeepEqual(o.field(a), o.field(b)) }

// row ties an option to its field, its kind of value and its default.
func row[T any](name string, field func(*Config) *T, k kind[T], def T, usage string) option {
	return option{
		name: name, kind: k.name, usage: usage, list: k.list, tags: k.tags,
		init: func(c *Config) { *field(c) = def },
		set: func(c *Config, texts []string) []fault {
			v, faults := k.parse(texts)
			if len(faults) == 0 {
				*field(c) = v
			}
			return faults
		},
		text:   func(c *Config) string { return k.text(*field(c)) },
		encode: func(c *Config) any { return k.encode(*field(c)) },
		field:  func(c *Config) any { return field(c) },
	}
}

func (o option) reload() option { o.reloadable = true; return o }

// options is the table. Its order is that of the help, of Print and of the README.
func options() []option {
	file := row("config", func(c *Config) *string { return &c.ConfigFile }, text("file"), "",
		"YAML file with further options; its keys are the names of the flags")
	file.notInFile = true
	addresses := []option{
		file,
		row("listen-client-urls", func(c *Config) *[]URL { return &c.ListenClientURLs }, urls(listener), nil,
			"where clients connect: http://IP:PORT, https://IP:PORT, unix:///PATH or passthrough://IP:PORT (TLS relayed untouched, unseen by the shadow); port 0 takes a free one; none: an observer without clients"),
		row("endpoints", func(c *Config) *[]URL { return &c.Endpoints }, urls(endpoint), []URL{{"http", "127.0.0.1:2379"}},
			"client addresses of the etcd members, http://HOST:PORT, https://HOST:PORT or HOST:PORT (http)"),
	}
	return slices.Concat(addresses, listenerOptions(), memberOptions(), operatorOptions(), shadowOptions(), sweepOptions())
}

const (
	// long is more than anybody waits for on purpose.
	long = 10 * time.Minute
	// maxConnections is far above what one machine can hold open.
	maxConnections = 1_000_000
)

func listenerOptions() []option {
	return []option{
		row("cert-file", func(c *Config) *string { return &c.CertFile }, text("file"), "",
			"PEM file with the certificate of the https listeners; read again when it changes, as every file of certificates and keys"),
		row("key-file", func(c *Config) *string { return &c.KeyFile }, text("file"), "",
			"PEM file with the key of --cert-file"),
		row("trusted-ca-file", func(c *Config) *string { return &c.TrustedCAFile }, text("file"), "",
			"PEM file with the CAs of client certificates; with it, clients of the https listeners must show one (as with etcd)"),
		row("client-cert-auth", func(c *Config) *bool { return &c.ClientCertAuth }, boolean(), false,
			"clients of the https listeners must show a certificate; needs --trusted-ca-file, which says the same"),
		row("client-cert-allowed-cn", func(c *Config) *[]string { return &c.ClientCertAllowedCNs }, names(), nil,
			"common names that a client certificate may have; none: all"),
		row("client-cert-allowed-hostname", func(c *Config) *[]string { return &c.ClientCertAllowedHostnames }, names(), nil,
			"host names or IPs, of which a client certificate must be valid for one; none: all"),
		row("cipher-suites", func(c *Config) *[]uint16 { return &c.CipherSuites }, cipherSuites(), nil,
			"cipher suites of the https listeners for TLS 1.2, by their IANA names; none: those of Go; the ones of TLS 1.3 are always on"),
		row("tls-min-version", func(c *Config) *uint16 { return &c.TLSMinVersion }, tlsVersion(), tls.VersionTLS12,
			"least TLS version of the https listeners: TLS1.2 or TLS1.3"),
		row("unix-socket-mode", func(c *Config) *fs.FileMode { return &c.UnixSocketMode }, fileMode(), 0o600,
			"who may connect to the unix listeners, in octal as for chmod"),
		row("unix-socket-owner", func(c *Config) *string { return &c.UnixSocketOwner }, owner(), "",
			"owner of the sockets of the unix listeners, USER or USER:GROUP, names or numbers; none: who runs Parallax"),
		row("reuse-port", func(c *Config) *bool { return &c.ReusePort }, boolean(), false,
			"let the next Parallax listen on the same ports (SO_REUSEPORT) before this one stops"),
		row("allow-unauthenticated-clients", func(c *Config) *bool { return &c.AllowUnauthenticatedClients }, boolean(), false,
			"whoever reaches a listener may act with --cert, without a certificate of its own"),
		row("max-connections", func(c *Config) *int { return &c.MaxConnections }, count(1, maxConnections), 10_000,
			"how many client connections may be open at once"),
		row("max-connections-per-peer", func(c *Config) *int { return &c.MaxConnectionsPerPeer }, count(0, maxConnections), 5_000,
			"how many of them one client address may have, never more than --max-connections; 0: no limit of its own"),
		row("handshake-timeout", func(c *Config) *time.Duration { return &c.HandshakeTimeout }, duration(1, long), 10*time.Second,
			"how long a client may take for the TLS handshake, then for its first bytes, and to leave when its member has ended the connection"),
	}
}

func memberOptions() []option {
	return []option{
		row("cacert", func(c *Config) *string { return &c.CACert }, text("file"), "",
			"PEM file with the CAs of the members' certificates; none: the CAs of the system"),
		row("cert", func(c *Config) *string { return &c.Cert }, text("file"), "",
			"PEM file with the client certificate that https members see in place of the clients' own"),
		row("key", func(c *Config) *string { return &c.Key }, text("file"), "",
			"PEM file with the key of --cert"),
		row("insecure-skip-tls-verify", func(c *Config) *bool { return &c.InsecureSkipTLSVerify }, boolean(), false,
			"take any certificate of a member (CAUTION: only for testing)"),
		row("tls-server-name", func(c *Config) *string { return &c.TLSServerName }, text("name"), "",
			"name that the members' certificates must hold; none: the host of the endpoint"),
		row("prefer-endpoint", func(c *Config) *[]URL { return &c.PreferEndpoints }, urls(preferred), nil,
			"those of --endpoints that get the clients while one of them is well, such as the member on the same machine"),
		row("move-clients", func(c *Config) *bool { return &c.MoveClients }, boolean(), true,
			"end connections to a member that hangs, was removed, is a learner or has no leader, while another member is well"),
		row("rebalance-clients", func(c *Config) *bool { return &c.RebalanceClients }, boolean(), false,
			"move clients from members with many connections to members with few"),
		row("dial-timeout", func(c *Config) *time.Duration { return &c.DialTimeout }, duration(1, long), 1500*time.Millisecond,
			"how long one attempt to reach a member may take"),
		row("discover-members", func(c *Config) *bool { return &c.DiscoverMembers }, boolean(), true,
			"check every member that the endpoints list, not only the endpoints"),
	}
}

func operatorOptions() []option {
	return []option{
		row("listen-admin-urls", func(c *Config) *[]URL { return &c.ListenAdminURLs }, urls(admin), []URL{{"http", "127.0.0.1:23791"}},
			"where /livez, /readyz, /metrics and /version are served, http://IP:PORT; \"\" turns them off"),
		row("enable-pprof", func(c *Config) *bool { return &c.EnablePprof }, boolean(), false,
			"serve /debug/pprof/ on the admin addresses"),
		row("log-level", func(c *Config) *slog.Level { return &c.LogLevel }, level(), slog.LevelInfo,
			"least level of the operational log on stderr: debug, info, warn or error").reload(),
		row("log-format", func(c *Config) *string { return &c.LogFormat }, oneOf("text", "json"), "text",
			"format of the operational log on stderr: text or json"),
		row("divergence-log", func(c *Config) *string { return &c.DivergenceLog }, fileOrStdout(), "",
			"file of the NDJSON records of divergence; \"\" or - writes them to stdout"),
		row("shutdown-timeout", func(c *Config) *time.Duration { return &c.ShutdownTimeout }, duration(1, long), time.Second,
			"how long an orderly stop may take"),
	}
}

func shadowOptions() []option {
	return []option{
		row("shadow", func(c *Config) *bool { return &c.Shadow }, boolean(), true,
			"check what the members hold; false: only relay"),
		row("shadow-pause-file", func(c *Config) *string { return &c.ShadowPauseFile }, text("file"), "",
			"no shadow reads while this file exists"),
		row("shadow-cert", func(c *Config) *string { return &c.ShadowCert }, text("file"), "",
			"PEM file with a client certificate of the shadow's own; none: --cert"),
		row("shadow-key", func(c *Config) *string { return &c.ShadowKey }, text("file"), "",
			"PEM file with the key of --shadow-cert"),
		row("shadow-user", func(c *Config) *string { return &c.ShadowUser }, userName(), "",
			"etcd user of the shadow, where etcd has authentication on; none: no user"),
		row("shadow-password-file", func(c *Config) *string { return &c.ShadowPasswordFile }, text("file"), "",
			"file with the password of --shadow-user, in one line"),
		row("shadow-max-reads-per-second", func(c *Config) *float64 { return &c.ShadowMaxReadsPerSecond }, number(1e6), 50,
			"budget of shadow requests for each member; 0 stops them").reload(),
		row("shadow-max-bytes-per-second", func(c *Config) *int64 { return &c.ShadowMaxBytesPerSecond }, size(0, 1<<40), 1<<20,
			"budget of shadow traffic for each member, as 1MiB or 1048576; 0 stops it").reload(),
		row("shadow-queue", func(c *Config) *int { return &c.ShadowQueue }, count(1, 1<<20), 4096,
			"how many sampled calls may wait for their check; further ones are dropped and counted"),
		row("sample-reads", func(c *Config) *float64 { return &c.SampleReads }, number(1), 0.1,
			"share of the read calls that are checked when more than a second of work waits, 0 to 1; 0 means never").reload(),
		row("sample-writes", func(c *Config) *float64 { return &c.SampleWrites }, number(1), 1,
			"share of the write calls that are checked when more than a second of work waits, 0 to 1; 0 means never").reload(),
		samplePrefixes(),
		row("verified-keys", func(c *Config) *int { return &c.VerifiedKeys }, count(1, 1<<24), 65536,
			"how many keys that were found equal a moment ago are remembered"),
		row("verified-for", func(c *Config) *time.Duration { return &c.VerifiedFor }, duration(0, 24*time.Hour), time.Minute,
			"how long a key that was found equal is not asked for again"),
		row("lag-budget", func(c *Config) *time.Duration { return &c.LagBudget }, duration(1, long), 2*time.Second,
			"how long a check waits for a member that is behind"),
	}
}

func sweepOptions() []option {
	return []option{
		row("sweep", func(c *Config) *bool { return &c.Sweep }, boolean(), true,
			"compare the whole key space, page by page, over and over; of several Parallaxes before one cluster, one is enough"),
		row("sweep-max-bytes-per-second", func(c *Config) *int64 { return &c.SweepMaxBytesPerSecond }, size(1, 1<<40), 4<<20,
			"budget of the sweep for each member, as 4MiB or 4194304").reload(),
		row("sweep-interval", func(c *Config) *time.Duration { return &c.SweepInterval }, duration(0, 366*24*time.Hour), 24*time.Hour,
			"time for one sweep, which goes as slowly as that allows; 0: as fast as its budget allows"),
		row("data-dir", func(c *Config) *string { return &c.DataDir }, text("folder"), "",
			"folder in which the position of the sweep outlives a restart; none: it begins anew"),
		row("probe-auth", func(c *Config) *bool { return &c.ProbeAuth }, boolean(), false,
			"compare the members' auth revisions every few minutes (etcd 3.5 and later, needs root up to 3.6; each look is an entry in the raft log)"),
	}
}

// samplePrefixes is the only option that is not a text: decodePrefixes in file.go reads it.
func samplePrefixes() option {
	return option{
		name: "sample-prefixes", kind: "list of {prefix, reads, writes}", reloadable: true, fileOnly: true,
		usage: "shares for the keys of a prefix, the longest prefix wins; a share left out is the general one",
		init:  func(*Config) {},
		text:  func(*Config) string { return "" },
		encode: func(c *Config) any {
			type entry struct {
				Prefix string  `yaml:"prefix"`
				Reads  float64 `yaml:"reads"`
				Writes float64 `yaml:"writes"`
			}
			entries := make([]entry, len(c.SamplePrefixes))
			for i, p := range c.SamplePrefixes {
				entries[i] = entry(p)
			}
			return entries
		},
		field: func(c *Config) any { return &c.SamplePrefixes },
	}
}

// Option describes one option, for docs and help.
type Option struct {
	Key        string // of the file; "" when it cannot stand there
	Flag       string // without the dashes; "" when there is none
	Env        string // "" when there is none
	Default    string // as it would be written behind the flag
	Kind       string // of the value: duration, bytes, …
	Usage      string
	Reloadable bool // takes effect with SIGHUP; all else needs a restart
}

// Options describes every option, in the order of the help.
func Options() []Option {
	defaults := Default()
	var list []Option
	for _, o := range options() {
		described := Option{Key: o.name, Flag: o.name, Env: o.env(), Default: o.text(defaults), Kind: o.kind, Usage: o.usage, Reloadable: o.reloadable}
		if o.fileOnly {
			described.Flag, described.Env = "", ""
		}
		if o.notInFile {
			described.Key = ""
		}
		list = append(list, described)
	}
	return list
}

// Default is the configuration of an operator who says nothing.
func Default() *Config {
	c := new(Config)
	for _, o := range options() {
		o.init(c)
	}
	return c
}

// Flags registers every option onto fs. What is written behind a flag is only kept here, and judged by [Load],
// so that a mistake in a flag is told together with all others.
func Flags(fs *pflag.FlagSet) {
	defaults := Default()
	fs.SortFlags = false // the table is in the order in which an operator needs them
	for _, o := range options() {
		if o.fileOnly {
			continue
		}
		flag := fs.VarPF(&flagValue{kind: o.kind, def: o.text(defaults)}, o.name, "", o.usage)
		if _, ok := o.field(defaults).(*bool); ok {
			flag.NoOptDefVal = "true"
		}
	}
}

// flagValue keeps what stands behind a flag, each time that the flag is given.
type flagValue struct {
	kind, def string
	texts     []string
}

func (f *flagValue) Set(s string) error { f.texts = append(f.texts, s); return nil }
func (f *flagValue) Type() string       { return f.kind }

func (f *flagValue) String() string {
	if f.texts == nil {
		return f.def
	}
	return strings.Join(f.texts, ",")
}

// finite keeps NaN and infinities out of a range check that would let NaN pass.
func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
