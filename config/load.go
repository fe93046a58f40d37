package config

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// loader reads one source after the other over the defaults.
type loader struct {
	config   *Config
	places   map[string]string // where the value of an option comes from
	bad      map[string]bool   // options that were not understood in some source
	problems Problems
}

// Load makes the configuration out of the flags in fs (see [Flags]), the environment (as os.Environ gives it) and the file that
// one of them names. It may be called again later: the file is read anew, flags and environment are what they were.
//
// The error is of type [Problems] and names everything that is wrong, in sources that a higher one overrides as well:
// a mistake that shows only on the day when a flag is taken away is worse.
func Load(fs *pflag.FlagSet, environ []string) (*Config, error) {
	l := loader{config: Default(), places: make(map[string]string), bad: make(map[string]bool)}
	for _, o := range options() {
		l.places[o.name] = "default"
	}
	env, envProblems := environment(environ)
	l.file(fs, env)
	l.problems = append(l.problems, envProblems...)
	for _, o := range options() {
		if raw, ok := env[o.env()]; ok && !o.fileOnly {
			l.set(o, o.env(), []string{raw})
		}
	}
	for _, o := range options() {
		if flag := fs.Lookup(o.name); flag != nil && flag.Changed {
			l.set(o, "--"+o.name, flag.Value.(*flagValue).texts)
		}
	}
	fillShares(l.config)
	if c := l.config; l.places["max-connections-per-peer"] == "default" {
		c.MaxConnectionsPerPeer = min(c.MaxConnectionsPerPeer, c.MaxConnections)
	}
	l.crossCheck()
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	return l.config, nil
}

// file reads the YAML file, when flag or environment name one.
func (l *loader) file(fs *pflag.FlagSet, env map[string]string) {
	o := options()[0] // config
	path, place := env[o.env()], o.env()
	if flag := fs.Lookup(o.name); flag != nil && flag.Changed {
		texts := flag.Value.(*flagValue).texts
		path, place = texts[len(texts)-1], "--"+o.name
	}
	if path == "" {
		return
	}
	data, err := readFile(path)
	if err != nil {
		l.problems.add(place, "%v", err)
		return
	}
	l.decode(path, data)
}

// set takes what a flag or an environment variable says. A list may come in several texts, each with commas.
func (l *loader) set(o option, place string, texts []string) {
	items := texts
	if o.list {
		items = split(texts)
	}
	for _, f := range o.set(l.config, items) {
		l.bad[o.name] = true
		l.problems.add(place, "%v", f.err)
	}
	l.places[o.name] = place
}

// split cuts comma-separated lists. An empty text is an empty list; an empty piece of a list is kept, and is a problem later.
func split(texts []string) []string {
	var items []string
	for _, text := range texts {
		if strings.TrimSpace(text) == "" {
			continue
		}
		for item := range strings.SplitSeq(text, ",") {
			items = append(items, strings.TrimSpace(item))
		}
	}
	return items
}

// kubernetesEnv are the variables that Kubernetes puts into every pod of a namespace with a service called parallax or parallax-…
// (https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables). Nobody wrote them, so they are no mistake.
// PARALLAX_REUSE_PORT looks like one, of a service called parallax-reuse, but is an option.
var kubernetesEnv = regexp.MustCompile(`^PARALLAX_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// environment picks our variables. Their values are not repeated in messages: an unknown one may hold anything.
func environment(environ []string) (map[string]string, Problems) {
	known := make(map[string]bool)
	for _, o := range options() {
		known[o.env()] = true
	}
	ours := make(map[string]string)
	var problems Problems
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case !strings.HasPrefix(name, envPrefix):
		case !known[name] && kubernetesEnv.MatchString(name):
		case !known[name]:
			problems.add(name, "unknown variable: %s", meant(strings.TrimPrefix(name, envPrefix), option.env))
		case name == samplePrefixes().env():
			problems.add(name, "sample-prefixes can only stand in the file: write it there, and give the file with --config")
		default:
			ours[name] = value
		}
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return cmp.Compare(a.Place, b.Place) })
	return ours, problems
}

// meant advises what to write in place of an unknown name.
func meant(name string, write func(option) string) string {
	if guess := nearest(name); guess != "" {
		i := slices.IndexFunc(options(), func(o option) bool { return o.name == guess })
		return "did you mean " + write(options()[i]) + "? All are in parallax serve --help"
	}
	return "remove it; all that exist are in parallax serve --help"
}

// Reloaded is what holds after a reload of c: c with the reloadable options of next.
// The names that come with it are options that differ in next but need a restart.
func (c *Config) Reloaded(next *Config) (*Config, []string) {
	merged := *c
	var restart []string
	for _, o := range options() {
		switch {
		case o.equal(c, next):
		case o.reloadable:
			o.copyTo(&merged, next)
		default:
			restart = append(restart, o.name)
		}
	}
	return &merged, restart
}
