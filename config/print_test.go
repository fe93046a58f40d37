package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
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
	for _, list := range []*[]URL{&n.ListenClientURLs, &n.ListenAdminURLs} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	if len(n.SamplePrefixes) == 0 {
		n.SamplePrefixes = nil
	}
	return &n
}

// drawConfig says something random about every option, through the parsers, so that only what can be said is drawn.
func drawConfig(rt *rapid.T) *Config {
	c := Default()
	say := func(name string, g *rapid.Generator[string]) {
		for _, o := range options() {
			if o.name != name || !rapid.Bool().Draw(rt, name+" said") {
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
	durations := rapid.StringMatching(`[1-9]{1,3}ms|[1-9]s|[1-9]m[1-5]s|1h2m`)
	short := rapid.StringMatching(`[1-9]{1,3}(ms|us|ns)|[1-9](s|m)`)
	words := rapid.Custom(func(rt *rapid.T) string {
		return rapid.OneOf(rapid.SampledFrom([]string{"true", "null", "~", "0x1F", "1e3", "2026-01-02", "# a", "- a", "a: b", "é", "yes", "", "*a", "!b", "'", `"`, "<<", " a "}),
			rapid.StringMatching(`[ -~]{0,20}`)).Draw(rt, "word")
	})
	shares := rapid.StringMatching(`0|1|0\.[0-9]{1,6}|1e-7`)
	say("listen-client-urls", rapid.StringMatching(`(http://(127\.0\.0\.1|\[::1\]|0\.0\.0\.0|localhost):1[0-9]{3})?`))
	say("endpoints", rapid.StringMatching(`http://[a-z]{1,9}\.com:2[0-9]{3},[a-z]{1,9}\.org:2[0-9]{3},\[fe80::1\]:2379`))
	say("listen-admin-urls", rapid.StringMatching(`(http://127\.0\.0\.1:3[0-9]{3})?`))
	say("log-level", rapid.SampledFrom([]string{"debug", "info", "warn", "error"}))
	say("log-format", rapid.SampledFrom([]string{"text", "json"}))
	say("divergence-log", words)
	say("shadow-pause-file", words)
	say("shutdown-timeout", short)
	say("dial-timeout", short)
	say("lag-budget", short)
	say("verified-for", durations)
	for _, name := range []string{"enable-pprof", "discover-members", "shadow"} {
		say(name, rapid.SampledFrom([]string{"true", "false", "1", "F"}))
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

// FuzzFile: no file makes the decoder panic or hang, and what it accepts prints and loads again.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "endpoints: [a:1, 'http://b:2']\nlag-budget: 3s\n", "sample-prefixes:\n- {prefix: /a/, reads: 0.5}\n", "a: &a [*a]\n", "? [a]\n: b\n", "shadow: yes\n", "--- !!map {}\n...\n",
		"shadow-max-bytes-per-second: 0x10\n", "log-level: |\n  info\n", "\ufeffshadow: true\n", "%YAML 1.1\n---\nshadow: true\n", "[[[[[[[[[[[[[[[[[[[[[[[[[", "sample-reads: .inf\n", "divergence-log: \"\\x00\"\n",
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
