package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// load is what `parallax serve` does with its arguments.
func load(t *testing.T, args, environ []string) (*Config, error) {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	Flags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatalf("flags are judged by Load, not while they are parsed: %v", err)
	}
	return Load(fs, environ)
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantProblems compares whole lines; FILE stands for the path of the file.
func wantProblems(t *testing.T, err error, path string, want ...string) {
	t.Helper()
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got error %v, want Problems", err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, strings.ReplaceAll(p.String(), path, "FILE"))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	got, err := load(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Endpoints:               []URL{{"http", "127.0.0.1:2379"}},
		TLSMinVersion:           tls.VersionTLS12,
		UnixSocketMode:          0o600,
		MoveClients:             true,
		MaxConnections:          10_000,
		MaxConnectionsPerPeer:   5_000,
		HandshakeTimeout:        10 * time.Second,
		ListenAdminURLs:         []URL{{"http", "127.0.0.1:23791"}},
		LogLevel:                slog.LevelInfo,
		LogFormat:               "text",
		ShutdownTimeout:         time.Second,
		DialTimeout:             1500 * time.Millisecond,
		DiscoverMembers:         true,
		Shadow:                  true,
		ShadowMaxReadsPerSecond: 50,
		ShadowMaxBytesPerSecond: 1 << 20,
		ShadowQueue:             4096,
		SampleReads:             0.1,
		SampleWrites:            1,
		VerifiedKeys:            65536,
		VerifiedFor:             time.Minute,
		LagBudget:               2 * time.Second,
		Sweep:                   true,
		SweepMaxBytesPerSecond:  4 << 20,
		SweepInterval:           24 * time.Hour,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, "lag-budget: 3s\nendpoints: [file:1, file:2]\n")
	inFile := []string{"--config", file}
	inEnv := []string{"PARALLAX_LAG_BUDGET=4s", "PARALLAX_ENDPOINTS=env:1, env:2"}
	inFlag := []string{"--lag-budget=5s", "--endpoints", "flag:1", "--endpoints=flag:2,flag:3"}
	for _, c := range []struct {
		name          string
		args, environ []string
		lag           time.Duration
		endpoints     string
	}{
		{"default", nil, nil, 2 * time.Second, "[http://127.0.0.1:2379]"},
		{"file over default", inFile, nil, 3 * time.Second, "[http://file:1 http://file:2]"},
		{"file named by the environment", nil, []string{"PARALLAX_CONFIG=" + file}, 3 * time.Second, "[http://file:1 http://file:2]"},
		{"environment over file", inFile, inEnv, 4 * time.Second, "[http://env:1 http://env:2]"},
		{"flag over environment", append(inFile, inFlag...), inEnv, 5 * time.Second, "[http://flag:1 http://flag:2 http://flag:3]"},
		{"empty flag: no file", []string{"--config="}, []string{"PARALLAX_CONFIG=/nowhere"}, 2 * time.Second, "[http://127.0.0.1:2379]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := load(t, c.args, c.environ)
			if err != nil {
				t.Fatal(err)
			}
			if got.LagBudget != c.lag || fmt.Sprint(got.Endpoints) != c.endpoints {
				t.Errorf("got %v %v, want %v %v", got.LagBudget, got.Endpoints, c.lag, c.endpoints)
			}
		})
	}
}

func TestEveryProblemIsTold(t *testing.T) {
	path := writeFile(t, `endpoint: http://127.0.0.1:2379
lag-budget: 5
lag-budget: 3s
endpoints:
  - http://a:1
  - https://a:2
  - 7
log-level: loud
shadow: 1
sample-prefixes:
  - {prefix: /a/, reads: 2, rights: 1}
  - {reads: 0}
  - {prefix: /a/}
config: other.yaml
`)
	_, err := load(t,
		[]string{"--config", path, "--sample-reads", "NaN", "--listen-client-urls=http://127.0.0.1:23791", "--shutdown-timeout=0s"},
		[]string{"PARALLAX_SAMPLE_RATE=1", "PARALLAX_LOG_FORMAT=xml", "PARALLAX_SAMPLE_PREFIXES=x", "HOME=/root"})
	wantProblems(t, err, path,
		`FILE:1: unknown key "endpoint": did you mean endpoints? All are in parallax serve --help`,
		`FILE:2: lag-budget: "5" is not a duration: write a number with its unit, as 500ms, 2s or 1m30s`,
		`FILE:3: lag-budget: stands in line 2 already: remove one of them`,
		`FILE:7: endpoints: is a number: write a list of texts, or one text with commas`,
		`FILE:8: log-level: "loud" is unknown: use one of debug, info, warn, error`,
		`FILE:9: shadow: is a number: write true or false`,
		`FILE:11: sample-prefixes: reads: "2" is out of range: use 0 to 1`,
		`FILE:11: sample-prefixes: unknown key "rights": use prefix, reads and writes`,
		`FILE:12: sample-prefixes: an entry has no prefix: write prefix: /registry/…/`,
		`FILE:13: sample-prefixes: prefix "/a/" stands in line 11 already: remove one of them`,
		`FILE:14: config: cannot stand in the file: give it as a flag or environment variable`,
		`PARALLAX_SAMPLE_PREFIXES: sample-prefixes can only stand in the file: write it there, and give the file with --config`,
		`PARALLAX_SAMPLE_RATE: unknown variable: did you mean PARALLAX_SAMPLE_READS? All are in parallax serve --help`,
		`PARALLAX_LOG_FORMAT: "xml" is unknown: use one of text, json`,
		`--shutdown-timeout: "0s" is out of range: use more than 0 to 10m`,
		`--sample-reads: "NaN" is not a number: write it as 50 or 0.1`,
		`--listen-client-urls: http://127.0.0.1:23791 is the same address as http://127.0.0.1:23791 of listen-admin-urls: give one of them another port`,
	)
	if lines := strings.Count(err.Error(), "\n"); lines != 17 || !strings.HasPrefix(err.Error(), "17 problems in the configuration:\n  "+path) {
		t.Errorf("every problem is a line below a headline, got:\n%v", err)
	}
}

func TestBadFlags(t *testing.T) {
	for _, c := range []struct{ arg, want string }{
		{"--endpoints=", `is empty: give at least one http://HOST:PORT or https://HOST:PORT`},
		{"--endpoints=a:1,,b:2", `"" is not a URL: use http://HOST:PORT or https://HOST:PORT`},
		{"--endpoints=a:1,http://A:1", `"http://A:1" is there twice: remove one`},
		{"--endpoints=a", `"a" has no port (or an IPv6 address without brackets): use http://HOST:PORT`},
		{"--endpoints=::1:2379", `"::1:2379" has no port (or an IPv6 address without brackets): use http://HOST:PORT`},
		{"--endpoints=http://a:", `"http://a:" has no port (or an IPv6 address without brackets): use http://HOST:PORT`},
		{"--endpoints=http://:2379", `"http://:2379" has no valid host: use http://HOST:PORT`},
		{"--endpoints=http://a b:2379", `"http://a b:2379" has no valid host: use http://HOST:PORT`},
		{"--endpoints=http://a:0", `"http://a:0" has a port that is not a number of 1 to 65535: use http://HOST:PORT`},
		{"--endpoints=http://a:65536", `"http://a:65536" has a port that is not a number of 1 to 65535: use http://HOST:PORT`},
		{"--endpoints=http://a:1/v3", `a URL has a path, query or fragment behind its address: use only http://HOST:PORT`},
		{"--endpoints=http://a:1?token=hunter2", `a URL has a path, query or fragment behind its address: use only http://HOST:PORT`},
		{"--endpoints=http://a:1,https://a:1", `"https://a:1" is the same address as "http://a:1": remove one`},
		{"--endpoints=https://a", `"https://a" has no port (or an IPv6 address without brackets): use https://HOST:PORT`},
		{"--endpoints=unix:///run/etcd.sock", `"unix:///run/etcd.sock": unix is not possible here: use http://HOST:PORT or https://HOST:PORT`},
		{"--endpoints=passthrough://a:1", `"passthrough://a:1": passthrough is not possible here: use http://HOST:PORT or https://HOST:PORT`},
		{"--endpoints=ftp://a:1", `"ftp://a:1" has an unknown scheme: use http://HOST:PORT or https://HOST:PORT`},
		{"--listen-admin-urls=https://127.0.0.1:1", `"https://127.0.0.1:1": https is not possible here: use http://IP:PORT`},
		{"--listen-client-urls=unix://run/p.sock", `"unix://run/p.sock" has a relative path, which means another file in another directory: use unix:///PATH, with three slashes`},
		{"--listen-client-urls=unix:p.sock", `"unix:p.sock" is not a URL: use http://IP:PORT, https://IP:PORT, passthrough://IP:PORT or unix:///PATH`},
		{"--listen-client-urls=unix://", `"unix://" has a relative path, which means another file in another directory: use unix:///PATH, with three slashes`},
		{"--listen-client-urls=unix://@parallax", `a socket is abstract (unix://@NAME): it has no mode and owner, so every process of the machine could connect; use unix:///PATH`},
		{"--listen-client-urls=unixs:///run/p.sock", `"unixs:///run/p.sock": TLS on a unix socket is not supported, its mode and owner say who may connect: use http://IP:PORT, https://IP:PORT, passthrough://IP:PORT or unix:///PATH`},
		{"--listen-client-urls=unix:///run/parallax/", `"unix:///run/parallax/" is a directory: name the socket in it, as unix:///run/parallax/client.sock`},
		{"--listen-client-urls=unix:///run/p%41?x", `a URL has one of ?, # and % in its path: use unix:///PATH without them`},
		{"--listen-client-urls=unix:///run/\x00p", `"unix:///run/\x00p" holds control characters or is not UTF-8: use plain text`},
		{"--listen-client-urls=unix:///" + strings.Repeat("p", 107), `"unix:///` + strings.Repeat("p", 72) + `"… has a path of 108 bytes: a socket can have 107 at most`},
		{"--listen-client-urls=unix:///run/p,unix:///run//p", `"unix:///run//p" is there twice: remove one`},
		{"--listen-client-urls=http://127.0.0.1:1,https://127.0.0.1:1", `"https://127.0.0.1:1" is the same address as "http://127.0.0.1:1": remove one`},
		{"--listen-client-urls=127.0.0.1:1", `"127.0.0.1:1" is not a URL: use http://IP:PORT, https://IP:PORT, passthrough://IP:PORT or unix:///PATH`},
		{"--listen-client-urls=passthrough://example.com:1", `"passthrough://example.com:1" does not name an IP address to listen on: use passthrough://IP:PORT (0.0.0.0 for all) or localhost`},
		{"--listen-client-urls=http://example.com:1", `"http://example.com:1" does not name an IP address to listen on: use http://IP:PORT (0.0.0.0 for all) or localhost`},
		{"--listen-client-urls=http://:1", `"http://:1" does not name an IP address to listen on: use http://IP:PORT (0.0.0.0 for all) or localhost`},
		{"--client-cert-allowed-cn=a,,b", `an entry is empty: remove it`},
		{"--client-cert-allowed-hostname=a,b,a", `"a" is there twice: remove one`},
		{"--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA265", `"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA265" is unknown: did you mean TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256?`},
		{"--cipher-suites=tls-ecdhe-rsa-with-aes-256-gcm-sha384", `"tls-ecdhe-rsa-with-aes-256-gcm-sha384" is unknown: did you mean TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384?`},
		{"--cipher-suites=ECDHE-RSA-AES128-GCM-SHA256", `"ECDHE-RSA-AES128-GCM-SHA256" is unknown: use IANA names, as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256`},
		{"--cipher-suites=TLS_AES_128_GCM_SHA256", `TLS_AES_128_GCM_SHA256 belongs to TLS 1.3, whose suites are always on: remove it`},
		{"--cipher-suites=TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", `"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" is there twice: remove one`},
		{"--tls-min-version=1.2", `"1.2" is unknown: use TLS1.2 or TLS1.3`},
		{"--tls-min-version=TLS1.1", `"TLS1.1" is unknown: use TLS1.2 or TLS1.3`},
		{"--unix-socket-mode=0688", `"0688" is not a file mode: write it in octal, as 0600 or 0660, at most 0777`},
		{"--unix-socket-mode=01777", `"01777" is not a file mode: write it in octal, as 0600 or 0660, at most 0777`},
		{"--unix-socket-mode=rw-------", `"rw-------" is not a file mode: write it in octal, as 0600 or 0660, at most 0777`},
		{"--unix-socket-owner=:etcd", `":etcd" is not an owner: use USER or USER:GROUP, names or numbers`},
		{"--unix-socket-owner=a:b:c", `"a:b:c" is not an owner: use USER or USER:GROUP, names or numbers`},
		{"--max-connections=0", `"0" is out of range: use 1 to 1000000`},
		{"--max-connections-per-peer=-1", `"-1" is out of range: use 0 to 1000000`},
		{"--handshake-timeout=0s", `"0s" is out of range: use more than 0 to 10m`},
		{"--prefer-endpoint=a", `"a" has no port (or an IPv6 address without brackets): use http://HOST:PORT`},
		{"--shadow-user=root:hunter2", `the value (not shown) holds a colon, as USER:PASSWORD does: give the user only, and the password in the file of --shadow-password-file`},
		{"--divergence-log=a\x00b", `"a\x00b" holds control characters or is not UTF-8: use plain text`},
		{"--log-level=INFO", `"INFO" is unknown: use one of debug, info, warn, error`},
		{"--enable-pprof=maybe", `"maybe" is neither true nor false: use one of them`},
		{"--dial-timeout=2", `"2" is not a duration: write a number with its unit, as 500ms, 2s or 1m30s`},
		{"--dial-timeout=-1s", `"-1s" is out of range: use more than 0 to 10m`},
		{"--lag-budget=11m", `"11m" is out of range: use more than 0 to 10m`},
		{"--verified-for=25h", `"25h" is out of range: use 0 to 24h`},
		{"--shadow-max-reads-per-second=-1", `"-1" is out of range: use 0 to 1000000`},
		{"--shadow-max-reads-per-second=Inf", `"Inf" is not a number: write it as 50 or 0.1`},
		{"--shadow-max-bytes-per-second=1MB", `"1MB" is not a size: write a whole number of bytes, or of KiB, MiB or GiB, as 4194304 or 4MiB`},
		{"--shadow-max-bytes-per-second=9223372036854775807GiB", `"9223372036854775807GiB" is out of range: use 0 to 1024GiB`},
		{"--shadow-max-bytes-per-second=-1", `"-1" is out of range: use 0 to 1024GiB`},
		{"--sample-writes=1.1", `"1.1" is out of range: use 0 to 1`},
		{"--shadow-queue=0", `"0" is out of range: use 1 to 1048576`},
		{"--shadow-queue=1e3", `"1e3" is not a whole number: write it as 4096`},
		{"--verified-keys=many", `"many" is not a whole number: write it as 4096`},
		{"--verified-keys=" + strings.Repeat("9", 1000), `"` + strings.Repeat("9", 80) + `"… is not a whole number: write it as 4096`},
	} {
		t.Run(c.arg[:min(len(c.arg), 60)], func(t *testing.T) {
			flag, value, _ := strings.Cut(c.arg, "=")
			_, err := load(t, []string{c.arg}, nil)
			wantProblems(t, err, "none", flag+": "+c.want)

			if strings.Contains(value, "\x00") {
				return // no environment variable can hold it
			}
			env := envPrefix + strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(flag, "--"), "-", "_"))
			_, err = load(t, nil, []string{env + "=" + value})
			wantProblems(t, err, "none", env+": "+c.want)
		})
	}
}

func TestAddressesThatMeet(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		ok   bool
	}{
		{"admin on all addresses", []string{"--listen-client-urls=http://127.0.0.1:5", "--listen-admin-urls=http://0.0.0.0:5"}, false},
		{"localhost is 127.0.0.1", []string{"--listen-client-urls=http://127.0.0.1:5", "--listen-admin-urls=http://localhost:5"}, false},
		{"[::] takes IPv4 too", []string{"--listen-client-urls=http://127.0.0.1:5", "--listen-admin-urls=http://[::]:5"}, false},
		{"two in one list", []string{"--listen-client-urls=http://127.0.0.1:5,http://0.0.0.0:5"}, false},
		{"a member that is Parallax", []string{"--listen-client-urls=http://0.0.0.0:2379"}, false},
		{"a member that is the admin listener", []string{"--endpoints=localhost:23791"}, false},
		{"0.0.0.0 takes IPv6, too", []string{"--listen-client-urls=http://[::1]:5", "--listen-admin-urls=http://0.0.0.0:5"}, false},
		{"other port", []string{"--listen-client-urls=http://127.0.0.1:5", "--listen-admin-urls=http://127.0.0.1:6"}, true},
		{"other address", []string{"--listen-client-urls=http://127.0.0.2:5", "--listen-admin-urls=http://127.0.0.1:5"}, true},
		{"free ports", []string{"--listen-client-urls=http://127.0.0.1:0,http://127.0.0.1:0", "--listen-admin-urls=http://127.0.0.1:0"}, true},
		{"a member on another machine", []string{"--listen-client-urls=http://0.0.0.0:2379", "--endpoints=10.0.0.1:2379"}, true},
		{"TLS beside plain", []string{"--listen-client-urls=passthrough://127.0.0.1:5", "--listen-admin-urls=http://0.0.0.0:5", "--endpoints=https://a:1"}, false},
		{"passthrough to itself", []string{"--listen-client-urls=passthrough://127.0.0.1:5", "--endpoints=https://localhost:5"}, false},
		{"sockets", []string{"--listen-client-urls=unix:///run/a,unix:///run/b,http://127.0.0.1:5"}, true},
		{"admin off", []string{"--listen-client-urls=http://127.0.0.1:23791", "--listen-admin-urls="}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.args, nil)
			if (err == nil) != c.ok {
				t.Fatalf("got %v, want ok = %v", err, c.ok)
			}
			if problems, _ := errors.AsType[Problems](err); !c.ok && len(problems) != 1 {
				t.Errorf("one cause, one problem; got %v", err)
			}
		})
	}
}

func TestHostileFiles(t *testing.T) {
	bomb := "a: &a [x, x]\nb: &b [*a, *a]\nendpoints: *b\n"
	for _, c := range []struct{ name, text, want string }{
		{"empty", " \n\n", `FILE: the file is empty: write at least one option, or {} if that is meant`},
		{"only comments", "# nothing\n", `FILE: the file holds no option: write at least one, or {} if that is meant`},
		{"null", "null\n", `FILE: the file holds no option: write at least one, or {} if that is meant`},
		{"binary", "\x7fELF\x00\xff", `FILE: the file is not UTF-8 text: write it in YAML`},
		{"huge", strings.Repeat("#\n", maxFile), `FILE: the file is larger than 128KiB: this cannot be a configuration`},
		{"a text", "endpoints\n", `FILE:1: the file is a text: write options as name: value`},
		{"a list", "\n- endpoints\n", `FILE:2: the file is a sequence: write options as name: value`},
		{"no value", "lag-budget:\n", `FILE:1: lag-budget: is without a value: write a text (in quotes, if YAML takes it for something else)`},
		{"a mapping", "log-level: {a: b}\n", `FILE:1: log-level: is a mapping: write a text (in quotes, if YAML takes it for something else)`},
		{"a date", "divergence-log: 2026-01-02\n", `FILE:1: divergence-log: is a date: write a text (in quotes, if YAML takes it for something else)`},
		{"a key that is none", "? [a]\n: b\n", `FILE:1: a key is a sequence: use the name of an option`},
		{"own tag", "log-level: !mine info\n", `FILE:1: log-level: is of an unsupported YAML type: write a text (in quotes, if YAML takes it for something else)`},
		{"binary tag", "log-level: !!binary aW5mbw==\n", `FILE:1: log-level: is of an unsupported YAML type: write a text (in quotes, if YAML takes it for something else)`},
		{"merge key", "<<: {log-level: info}\n", `FILE:1: unknown key "<<": remove it; all that exist are in parallax serve --help`},
		{"prefixes of a text", "sample-prefixes: /a/\n", `FILE:1: sample-prefixes: is a text: write a list of {prefix: …, reads: 0.1, writes: 1}`},
		{"prefix without a value", "sample-prefixes: [{prefix: }]\n", `FILE:1: sample-prefixes: prefix is without a value: write a text (in quotes, if YAML takes it for something else)`},
		{"empty prefix", "sample-prefixes: [{prefix: ''}]\n", `FILE:1: sample-prefixes: an entry has an empty prefix: for all keys use sample-reads and sample-writes`},
		{"prefix twice in an entry", "sample-prefixes: [{prefix: a, prefix: b}]\n", `FILE:1: sample-prefixes: key "prefix" stands twice: remove one of them`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := writeFile(t, c.text)
			_, err := load(t, []string{"--config", path}, nil)
			wantProblems(t, err, path, c.want)
		})
	}
	for _, c := range []struct{ name, text, want string }{
		{"bomb", bomb, "FILE:3: endpoints: is an alias, which is not supported"},
		{"deep", "endpoints: " + strings.Repeat("[", 5000), "FILE:1: not valid YAML: exceeded"},
		{"syntax", "shadow: true\nlog-level: \"info\nshadow-queue: 1\n", "FILE:4: not valid YAML: "},
		{"two documents", "shadow: true\n---\nshadow: false\n", "FILE: the file holds more than one YAML document: keep one"},
		{"tab", "endpoints:\n\t- a:1\n", "FILE:2: not valid YAML: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := writeFile(t, c.text)
			_, err := load(t, []string{"--config", path}, nil)
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), path, "FILE"), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			t.Log(err)
		})
	}
}

func TestUnreadableFiles(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:                          fmt.Sprintf("--config: %q is a directory: give the YAML file in it", dir),
		fifo:                         fmt.Sprintf("--config: %q is not a regular file: a reload could not read it again", fifo),
		filepath.Join(dir, "absent"): "--config: cannot read the file: stat " + filepath.Join(dir, "absent") + ": no such file or directory: check its name and permissions",
	} {
		_, err := load(t, []string{"--config", path}, nil)
		wantProblems(t, err, "none", want)
	}
}

func TestManyProblemsAreCut(t *testing.T) {
	_, err := load(t, []string{"--config", writeFile(t, strings.Repeat("unknown: 1\n", 1000))}, nil)
	if s := err.Error(); !strings.HasPrefix(s, "51 problems") || !strings.HasSuffix(s, "\n  and 1 more") {
		t.Errorf("got %s", s)
	}
	_, err = load(t, []string{"--endpoints", strings.Repeat("a:1,", 100) + "b:1"}, nil)
	wantProblems(t, err, "none", "--endpoints: has 101 addresses: give at most 100")
}

// GUARANTEE G8: No value, token, password or key material is logged or served.
func TestG8PasswordsAreNotRepeated(t *testing.T) {
	const secret = "hunter2"
	for _, url := range []string{
		"http://root:hunter2@a:1", "root:hunter2@a:1", "http://root:x,hunter2@a:1", "http://root:hunter2,x@a:1", "https://root:hunter2@a:1", "http://a:1?password=hunter2", "http://a:1/hunter2",
		"unix://root:hunter2@a", "unixs://root:hunter2@a", "passthrough://root:hunter2@a:1", "unix:///run/p,http://root:hunter2@a:1", "http://root:x,unix:///hunter2@a:1",
	} {
		quoted := fmt.Sprintf("%q", url)
		for name, source := range map[string]struct{ args, environ []string }{
			"flag":        {args: []string{"--endpoints=" + url}},
			"listener":    {args: []string{"--listen-client-urls=" + url}},
			"user":        {args: []string{"--shadow-password-file=p", "--shadow-user=root:hunter2"}},
			"environment": {environ: []string{"PARALLAX_ENDPOINTS=" + url}},
			"unknown":     {environ: []string{"PARALLAX_ENDPOINT=" + url}},
			"file":        {args: []string{"--config", writeFile(t, "endpoints: "+quoted)}},
			"sequence":    {args: []string{"--config", writeFile(t, "endpoints:\n- a:2\n- "+quoted)}},
			"other":       {args: []string{"--config", writeFile(t, "log-level: root:hunter2@a:1")}},
			"key":         {args: []string{"--config", writeFile(t, "root:hunter2@a:1: x")}},
		} {
			_, err := load(t, source.args, source.environ)
			if err == nil {
				t.Errorf("%s: %s is accepted", name, url)
			} else if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the password is repeated: %v", name, err)
			}
		}
	}
}

func TestServiceVariablesOfKubernetesAreIgnored(t *testing.T) {
	_, err := load(t, nil, []string{
		"PARALLAX_SERVICE_HOST=10.0.0.1", "PARALLAX_SERVICE_PORT=2379", "PARALLAX_SERVICE_PORT_ADMIN=23791", "PARALLAX_PORT=tcp://10.0.0.1:2379",
		"PARALLAX_PORT_2379_TCP=tcp://10.0.0.1:2379", "PARALLAX_PORT_2379_TCP_ADDR=10.0.0.1", "PARALLAX_PORT_2379_TCP_PORT=2379", "PARALLAX_PORT_2379_TCP_PROTO=tcp",
		"PARALLAX_CLIENT_SERVICE_HOST=10.0.0.1", "PARALLAX_CLIENT_PORT_2379_TCP=tcp://10.0.0.1:2379",
	})
	if err != nil {
		t.Error(err)
	}
	for _, o := range Options() {
		if ours, _ := environment([]string{o.Env + "=x"}); o.Env != "" && ours[o.Env] == "" {
			t.Errorf("%s is taken for a variable of Kubernetes", o.Env)
		}
	}
}

func TestPrefixesTakeTheGeneralShares(t *testing.T) {
	path := writeFile(t, "sample-prefixes:\n- {prefix: /registry/events/, reads: 0}\n- {prefix: /registry/, writes: 0.25}\nsample-writes: 0.5\n")
	got, err := load(t, []string{"--config", path, "--sample-reads=0.75"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []PrefixRate{{"/registry/events/", 0, 0.5}, {"/registry/", 0.75, 0.25}}
	if !slices.Equal(got.SamplePrefixes, want) {
		t.Errorf("got %v, want %v", got.SamplePrefixes, want)
	}
}

func TestReloaded(t *testing.T) {
	old, err := load(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, "sample-reads: 0.5\nlog-level: debug\nsample-prefixes: [{prefix: a}]\nshadow-max-reads-per-second: 0\nshadow-max-bytes-per-second: 2MiB\nsample-writes: 0\nlag-budget: 3s\nendpoints: a:1\n")
	next, err := load(t, []string{"--config", path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := *old
	got, restart := old.Reloaded(next)
	want := *old
	want.SampleReads, want.SampleWrites, want.LogLevel = 0.5, 0, slog.LevelDebug
	want.ShadowMaxReadsPerSecond, want.ShadowMaxBytesPerSecond = 0, 2<<20
	want.SamplePrefixes = []PrefixRate{{"a", 0.5, 0}}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("after the reload (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"config", "endpoints", "lag-budget"}, restart); diff != "" {
		t.Errorf("what needs a restart (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&before, old); diff != "" {
		t.Errorf("the old configuration changed (-before +after):\n%s", diff)
	}
}

func TestEveryFieldIsAnOption(t *testing.T) {
	c, fields := new(Config), make(map[any]bool)
	for _, o := range options() {
		fields[o.field(c)] = true
	}
	for _, field := range fieldPointers(c) {
		if !fields[field.pointer] {
			t.Errorf("Config.%s is no option", field.name)
		}
	}
}

// TestLargeFilesAreQuick: what parsers tend to stumble over, as much as a file may hold.
func TestLargeFilesAreQuick(t *testing.T) {
	for _, piece := range []string{"[", "? ", "&a ", "\"", "a: b\n", "[a],", "- {prefix: a}\n"} {
		data := []byte("sample-prefixes:\n" + strings.Repeat(piece, (maxFile-20)/len(piece)))
		l := loader{config: Default(), places: make(map[string]string), bad: make(map[string]bool)}
		began := time.Now()
		l.decode("p.yaml", data)
		if took := time.Since(began); took > 20*time.Second { // quadratic ones took minutes
			t.Errorf("%q: %v", piece, took)
		}
	}
}
