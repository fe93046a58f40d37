package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type namedPointer struct {
	name    string
	pointer any
}

func fieldPointers(c *Config) []namedPointer {
	v := reflect.ValueOf(c).Elem()
	var list []namedPointer
	for i := range v.NumField() {
		list = append(list, namedPointer{v.Type().Field(i).Name, v.Field(i).Addr().Interface()})
	}
	return list
}

// TestPrintLoadsAgain: whatever an operator may have said, what `config print` writes loads to the same configuration.
func TestPrintLoadsAgain(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		want := drawConfig(rt)
		var first bytes.Buffer
		if err := want.Print(&first); err != nil {
			rt.Fatal(err)
		}
		path := filepath.Join(dir, "p.yaml")
		if err := os.WriteFile(path, first.Bytes(), 0o600); err != nil {
			rt.Fatal(err)
		}
		got, err := load(t, []string{"--config", path}, nil)
		if err != nil {
			rt.Fatalf("%v\n%s", err, &first)
		}
		want.ConfigFile = ""
		got.ConfigFile = ""
		if diff := cmp.Diff(normal(want), normal(got)); diff != "" {
			rt.Fatalf("(-printed +loaded):\n%s\n%s", diff, &first)
		}
	})
}

// normal takes an empty list for none.
func normal(c *Config) *Config {
	n := *c
	for _, list := range []*[]URL{&n.ListenClientURLs, &n.ListenAdminURLs, &n.PreferEndpoints} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	for _, list := range []*[]string{&n.ClientCertAllowedCNs, &n.ClientCertAllowedHostnames} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	if len(n.CipherSuites) == 0 {
		n.CipherSuites = nil
	}
	if len(n.SamplePrefixes) == 0 {
		n.SamplePrefixes = nil
	}
	return &n
}

// drawConfig says something random about every option, through the parsers, so that only what can be said is drawn.
func drawConfig(rt *rapid.T) *Config {
	c := Default()
	must := func(name string, g *rapid.Generator[string]) {
		for _, o := range options() {
			if o.name != name {
				continue
			}
			texts := []string{g.Draw(rt, name)}
			if o.list {
				texts = split(texts)
			}
			if faults := o.set(c, texts); faults != nil {
				rt.Fatalf("%s: %v", name, faults[0].err)
			}
		}
	}
	say := func(name string, g *rapid.Generator[string]) {
		if rapid.Bool().Draw(rt, name+" said") {
			must(name, g)
		}
	}
	durations := rapid.StringMatching(`[1-9]{1,3}ms|[1-9]s|[1-9]m[1-5]s|1h2m`)
	short := rapid.StringMatching(`[1-9]{1,3}(ms|us|ns)|[1-9](s|m)`)
	words := rapid.Custom(func(rt *rapid.T) string {
		return rapid.OneOf(rapid.SampledFrom([]string{"true", "null", "~", "0x1F", "1e3", "2026-01-02", "# a", "- a", "a: b", "é", "yes", "", "*a", "!b", "'", `"`, "<<", " a "}),
			rapid.StringMatching(`[ -~]{0,20}`)).Draw(rt, "word")
	})
	shares := rapid.StringMatching(`0|1|0\.[0-9]{1,6}|1e-7`)
	drawListeners(rt, c, say, must)
	drawMembers(rt, c, say, must)
	say("listen-admin-urls", rapid.StringMatching(`(http://127\.0\.0\.1:3[0-9]{3})?`))
	say("log-level", rapid.SampledFrom([]string{"debug", "info", "warn", "error"}))
	say("log-format", rapid.SampledFrom([]string{"text", "json"}))
	say("divergence-log", words)
	say("shadow-pause-file", words)
	say("shutdown-timeout", short)
	say("dial-timeout", short)
	say("lag-budget", short)
	say("verified-for", durations)
	say("data-dir", words)
	say("sweep-interval", durations)
	say("sweep-max-bytes-per-second", rapid.StringMatching(`[1-9][0-9]{0,8}|[1-9][0-9]{0,2}(B|KiB|MiB|GiB)`))
	for _, name := range []string{"enable-pprof", "discover-members", "shadow", "reuse-port", "move-clients", "sweep", "probe-auth"} {
		say(name, bools)
	}
	if c.Shadow {
		say("rebalance-clients", bools)
	}
	say("shadow-max-reads-per-second", rapid.StringMatching(`[0-9]{1,5}(\.[0-9]{1,3})?|1e6|1e-9`))
	say("shadow-max-bytes-per-second", rapid.StringMatching(`[0-9]{1,9}|[0-9]{1,3}(B|KiB|MiB|GiB)|[0-9] MiB`))
	say("shadow-queue", rapid.StringMatching(`[1-9][0-9]{0,5}`))
	say("verified-keys", rapid.StringMatching(`[1-9][0-9]{0,5}`))
	say("sample-reads", shares)
	say("sample-writes", shares)
	for _, prefix := range rapid.SliceOfNDistinct(rapid.String().Filter(func(s string) bool { return s != "" }), 0, 4, rapid.ID).Draw(rt, "prefixes") {
		c.SamplePrefixes = append(c.SamplePrefixes, PrefixRate{prefix, rapid.Float64Range(0, 1).Draw(rt, "reads"), rapid.Float64Range(0, 1).Draw(rt, "writes")})
	}
	return c
}

type sayer func(name string, g *rapid.Generator[string])

var (
	bools = rapid.SampledFrom([]string{"true", "false", "1", "F"})
	files = rapid.StringMatching(`[ -~]{0,9}/[#~:'"0-9a-z]{1,9}`)
)

// drawListeners says what may stand together.
func drawListeners(rt *rapid.T, c *Config, say, must sayer) {
	say("listen-client-urls", rapid.StringMatching(`(http://(127\.0\.0\.1|\[::1\]|0\.0\.0\.0|localhost):1[0-9]{3})?`))
	if rapid.Bool().Draw(rt, "protected listeners") {
		must("listen-client-urls", rapid.StringMatching(`https://(127\.0\.0\.1|\[::1\]|0\.0\.0\.0|localhost):1[0-9]{3},unix:///run/[ !$&'(*:;@a-z{}/.é"]{0,40}[a-z]`))
		must("cert-file", files)
		must("key-file", files)
		must("trusted-ca-file", files)
		say("client-cert-auth", bools)
		say(rapid.SampledFrom([]string{"client-cert-allowed-cn", "client-cert-allowed-hostname"}).Draw(rt, "allowed"), rapid.StringMatching(`(a[ !-+\--~]{0,9}z,)?[0-9~#-&']{1,9}`))
		say("unix-socket-mode", rapid.StringMatching(`0?[0-7]{3}|0o660|0`))
		say("unix-socket-owner", rapid.StringMatching(`|[0-9]{1,4}(:[0-9]{1,4})?|null|[a-z]{1,8}:[a-z]{1,8}`))
		if rapid.Bool().Draw(rt, "suites") {
			must("cipher-suites", rapid.SampledFrom([]string{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305, TLS_RSA_WITH_AES_128_CBC_SHA", ""}))
		} else {
			say("tls-min-version", rapid.SampledFrom([]string{"TLS1.2", "TLS1.3"}))
		}
	}
	say("max-connections", rapid.StringMatching(`[1-9][0-9]{0,5}`))
	say("max-connections-per-peer", rapid.Map(rapid.IntRange(0, c.MaxConnections), strconv.Itoa))
	c.MaxConnectionsPerPeer = min(c.MaxConnectionsPerPeer, c.MaxConnections) // what Load does with the default
	say("handshake-timeout", rapid.StringMatching(`[1-9]{1,3}ms|[1-9]s`))
}

func drawMembers(rt *rapid.T, c *Config, say, must sayer) {
	say("endpoints", rapid.StringMatching(`http://[a-z]{1,9}\.com:2[0-9]{3},[a-z]{1,9}\.org:2[0-9]{3},\[fe80::1\]:2379`))
	if rapid.Bool().Draw(rt, "TLS of members") {
		must("endpoints", rapid.StringMatching(`https://[a-z]{1,9}\.com:2[0-9]{3},[a-z]{1,9}\.org:2[0-9]{3},https://\[fe80::1\]:2379`))
		must("allow-unauthenticated-clients", rapid.Just("true"))
		say(rapid.SampledFrom([]string{"cacert", "insecure-skip-tls-verify"}).Draw(rt, "verified"), rapid.Just("true"))
		say("tls-server-name", rapid.StringMatching(`[a-z]{0,9}|[0-9.]{1,9}`))
		for _, pair := range []string{"", "shadow-"} {
			if rapid.Bool().Draw(rt, pair+"cert said") {
				must(pair+"cert", files)
				must(pair+"key", files)
			}
		}
	}
	if rapid.Bool().Draw(rt, "user") {
		must("shadow-user", rapid.StringMatching(`[ -9;-~]{1,9}`))
		must("shadow-password-file", files)
	}
	say("prefer-endpoint", rapid.Map(rapid.SampledFrom(c.Endpoints), URL.String))
}

// FuzzFile: no file makes the decoder panic or hang, and what it accepts prints and loads again.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "endpoints: [a:1, 'http://b:2']\nlag-budget: 3s\n", "sample-prefixes:\n- {prefix: /a/, reads: 0.5}\n", "a: &a [*a]\n", "? [a]\n: b\n", "shadow: yes\n", "--- !!map {}\n...\n",
		"shadow-max-bytes-per-second: 0x10\n", "log-level: |\n  info\n", "\ufeffshadow: true\n", "%YAML 1.1\n---\nshadow: true\n", "[[[[[[[[[[[[[[[[[[[[[[[[[", "sample-reads: .inf\n", "divergence-log: \"\\x00\"\n",
		"listen-client-urls: [unix:///run/p.sock, 'https://[::1]:1']\nunix-socket-mode: 0660\n", "cipher-suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\ntls-min-version: TLS1.3\n",
		"client-cert-allowed-cn: ['a,b', \" c\"]\n", "unix-socket-owner: 1:2\nshadow-user: root\n",
	} {
		f.Add([]byte(seed))
	}
	decode := func(data []byte) (*Config, Problems) {
		l := loader{config: Default(), places: make(map[string]string), bad: make(map[string]bool)}
		l.decode("p.yaml", data)
		fillShares(l.config)
		return l.config, l.problems
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, problems := decode(data)
		if len(problems) > 0 {
			_ = problems.Error()
			return
		}
		var printed bytes.Buffer
		if err := c.Print(&printed); err != nil {
			t.Fatal(err)
		}
		again, problems := decode(printed.Bytes())
		if len(problems) > 0 {
			t.Fatalf("%v\n%s", problems, &printed)
		}
		if diff := cmp.Diff(normal(c), normal(again)); diff != "" {
			t.Fatalf("(-first +again):\n%s", diff)
		}
	})
}
