// Package config is the operator's configuration of Parallax: one table of options, each of them a flag, an environment
// variable and a key of the YAML file at once. Only cmd imports it, and translates it into what the packages want.
//
// Precedence is flag > environment > file > default. Reading is strict, and tells every problem at once: see [Load].
package config

import (
	"log/slog"
	"time"
)

// Config is what `parallax serve` was told. It is frozen: nobody changes it after [Load]; a reload makes another one
// (see [Config.Reloaded]). Every field is an option of the table in options.go, which holds its default, range and help.
type Config struct {
	// ConfigFile is the YAML file. Option config, default none.
	ConfigFile string

	// ListenClientURLs are the addresses for clients; none makes Parallax an observer. Option listen-client-urls, default none.
	ListenClientURLs []URL
	// Endpoints are the client addresses of the etcd members, never empty. Option endpoints, default http://127.0.0.1:2379.
	Endpoints []URL
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
	// Scheme is "http", the only one of today.
	Scheme string
	// Address is host:port, as net.Listen and net.Dial take it.
	Address string
}

func (u URL) String() string { return u.Scheme + "://" + u.Address }
