package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

const (
	// maxFile bounds the file: what is larger was not written by an operator.
	maxFile = 128 << 10
	// maxDepth bounds its nesting; the deepest option, sample-prefixes, needs 3.
	maxDepth = 16
)

// readFile wants a regular file: a pipe could block the start for ever, and is empty at the first reload.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read the file: %w: check its name and permissions", err)
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory: give the YAML file in it", shown(path))
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file: a reload could not read it again", shown(path))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w: check its name and permissions", err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w: check its name and permissions", err)
	}
	return data, nil
}

// decode takes the text of the file; name stands in the problems.
func (l *loader) decode(name string, data []byte) {
	root, problem := parse(data)
	if problem != nil {
		place := name
		if problem.Place != "" {
			place += ":" + problem.Place
		}
		l.problems.add(place, "%s", problem.Message)
		return
	}
	at := func(n *yaml.Node) string { return fmt.Sprintf("%s:%d", name, n.Line) }
	seen := make(map[string]int)
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if l.enough(at(key)) {
			return
		}
		o, err := fileOption(key)
		if err != nil {
			l.problems.add(at(key), "%v", err)
			continue
		}
		if line, twice := seen[o.name]; twice {
			l.bad[o.name] = true
			l.problems.add(at(key), "%s: stands in line %d already: remove one of them", o.name, line)
			continue
		}
		seen[o.name] = key.Line
		l.places[o.name] = at(key)
		if o.fileOnly {
			l.decodePrefixes(value, at)
			continue
		}
		l.decodeValue(o, value, at)
	}
}

// enough ends the reading of a file that is no configuration of ours, and says so once.
func (l *loader) enough(place string) bool {
	if len(l.problems) == maxShown {
		l.problems.add(place, "the rest of the file was not read: mend what is wrong above first")
	}
	return len(l.problems) > maxShown
}

// parse makes the nodes of the one mapping that a file must be. The place of a problem is the line, when there is one.
func parse(data []byte) (*yaml.Node, *Problem) {
	switch {
	case len(data) > maxFile:
		return nil, &Problem{"", fmt.Sprintf("the file is larger than %s: this cannot be a configuration", sizeText(maxFile))}
	case !utf8.Valid(data) || slices.Contains(data, 0):
		return nil, &Problem{"", "the file is not UTF-8 text: write it in YAML"}
	case strings.TrimSpace(string(data)) == "":
		return nil, &Problem{"", "the file is empty: write at least one option, or {} if that is meant"}
	}
	const nothing = "the file holds no option: write at least one, or {} if that is meant"
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithUniqueKeys(false), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, &Problem{"", err.Error()}
	}
	var document, second yaml.Node
	switch err := loader.Load(&document); {
	case errors.Is(err, io.EOF):
		return nil, &Problem{"", nothing}
	case err != nil:
		return nil, invalid(err)
	}
	if err := loader.Load(&second); !errors.Is(err, io.EOF) {
		return nil, &Problem{"", "the file holds more than one YAML document: keep one"}
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		if root.ShortTag() == "!!null" {
			return nil, &Problem{"", nothing}
		}
		return nil, &Problem{strconv.Itoa(root.Line), "the file is " + what(root) + ": write options as name: value"}
	}
	return root, nil
}

// invalid tells what the YAML parser said, and the line if it knows one.
func invalid(err error) *Problem {
	wrong, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		return &Problem{"", "not valid YAML: " + err.Error()}
	}
	problem := &Problem{"", "not valid YAML: " + wrong.Message}
	if wrong.Mark.Line > 0 {
		problem.Place = strconv.Itoa(wrong.Mark.Line)
	}
	return problem
}

func fileOption(key *yaml.Node) (option, error) {
	if key.Kind != yaml.ScalarNode {
		return option{}, fmt.Errorf("a key is %s: use the name of an option", what(key))
	}
	i := slices.IndexFunc(options(), func(o option) bool { return o.name == key.Value })
	if i < 0 {
		return option{}, fmt.Errorf("unknown key %s: %s", shown(key.Value), meant(key.Value, func(o option) string { return o.name }))
	}
	if o := options()[i]; !o.notInFile {
		return o, nil
	}
	return option{}, fmt.Errorf("%s: cannot stand in the file: give it as a flag or environment variable", key.Value)
}

// decodeValue takes a scalar, or a sequence of scalars for a list.
func (l *loader) decodeValue(o option, value *yaml.Node, at func(*yaml.Node) string) {
	fail := func(n *yaml.Node, format string, args ...any) {
		l.bad[o.name] = true
		l.problems.add(at(n), "%s: %s", o.name, fmt.Sprintf(format, args...))
	}
	nodes := []*yaml.Node{value}
	if o.list && value.Kind == yaml.SequenceNode {
		nodes = value.Content
	}
	texts := make([]string, len(nodes))
	for i, n := range nodes {
		if n.Kind != yaml.ScalarNode || !slices.Contains(o.tags, n.ShortTag()) {
			fail(n, "is %s: write %s", what(n), article(o))
			continue
		}
		texts[i] = n.Value
	}
	if l.bad[o.name] {
		return
	}
	if o.list && value.Kind == yaml.ScalarNode {
		texts = split(texts)
	}
	for _, f := range o.set(l.config, texts) {
		n := value
		if value.Kind == yaml.SequenceNode && f.item < len(nodes) {
			n = nodes[f.item]
		}
		fail(n, "%v", f.err)
	}
}

func article(o option) string {
	if o.list {
		return "a list of texts, or one text with commas"
	}
	switch o.tags[0] {
	case "!!bool":
		return "true or false"
	case "!!int":
		return "a number"
	}
	return "a text (in quotes, if YAML takes it for something else)"
}

// what names the type of a node for a message.
func what(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a sequence"
	case yaml.AliasNode:
		return "an alias, which is not supported"
	}
	switch tag := n.ShortTag(); tag {
	case "!!null":
		return "without a value"
	case "!!str":
		return "a text"
	case "!!bool":
		return "a bool"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	default:
		return "of an unsupported YAML type"
	}
}

// decodePrefixes reads sample-prefixes: a sequence of {prefix, reads, writes}.
func (l *loader) decodePrefixes(list *yaml.Node, at func(*yaml.Node) string) {
	const name = "sample-prefixes"
	fail := func(n *yaml.Node, format string, args ...any) {
		l.problems.add(at(n), "%s: %s", name, fmt.Sprintf(format, args...))
	}
	if list.Kind != yaml.SequenceNode {
		fail(list, "is %s: write a list of {prefix: …, reads: 0.1, writes: 1}", what(list))
		return
	}
	first := make(map[string]int)
	for _, entry := range list.Content {
		if l.enough(at(entry)) {
			return
		}
		if entry.Kind != yaml.MappingNode {
			fail(entry, "an entry is %s: write {prefix: …, reads: 0.1, writes: 1}", what(entry))
			continue
		}
		rate := l.decodePrefix(entry, fail)
		if line, twice := first[rate.Prefix]; twice && rate.Prefix != "" {
			fail(entry, "prefix %s stands in line %d already: remove one of them", shown(rate.Prefix), line)
		}
		first[rate.Prefix] = entry.Line
		l.config.SamplePrefixes = append(l.config.SamplePrefixes, rate)
	}
}

// decodePrefix reads one entry. A share that is left out stays NaN until the general ones are known: see fillShares.
func (l *loader) decodePrefix(entry *yaml.Node, fail func(*yaml.Node, string, ...any)) PrefixRate {
	rate := PrefixRate{Reads: math.NaN(), Writes: math.NaN()}
	share := number(1)
	seen, wrong := make(map[string]bool), false
	for i := 0; i+1 < len(entry.Content); i += 2 {
		key, value := entry.Content[i], entry.Content[i+1]
		if key.Kind == yaml.ScalarNode && seen[key.Value] {
			fail(key, "key %s stands twice: remove one of them", shown(key.Value))
			continue
		}
		seen[key.Value] = true
		target := map[string]*float64{"reads": &rate.Reads, "writes": &rate.Writes}[key.Value]
		switch {
		case key.Value == "prefix" && value.Kind == yaml.ScalarNode && value.ShortTag() == "!!str":
			rate.Prefix = value.Value
		case key.Value == "prefix":
			wrong = true
			fail(value, "prefix is %s: write a text (in quotes, if YAML takes it for something else)", what(value))
		case target == nil:
			fail(key, "unknown key %s: use prefix, reads and writes", shown(key.Value))
		case value.Kind != yaml.ScalarNode || !slices.Contains(share.tags, value.ShortTag()):
			fail(value, "%s is %s: write a number of 0 to 1", key.Value, what(value))
		default:
			v, faults := share.parse([]string{value.Value})
			for _, f := range faults {
				fail(value, "%s: %v", key.Value, f.err)
			}
			*target = v
		}
	}
	switch {
	case !seen["prefix"]:
		fail(entry, "an entry has no prefix: write prefix: /registry/…/")
	case rate.Prefix == "" && !wrong:
		fail(entry, "an entry has an empty prefix: for all keys use sample-reads and sample-writes")
	}
	return rate
}

// fillShares gives the prefixes the general shares that they left out.
func fillShares(c *Config) {
	for i := range c.SamplePrefixes {
		p := &c.SamplePrefixes[i]
		if math.IsNaN(p.Reads) {
			p.Reads = c.SampleReads
		}
		if math.IsNaN(p.Writes) {
			p.Writes = c.SampleWrites
		}
	}
}
