package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// kind is a type of value: how it is read from text and written again. parse and text are inverse to each other.
type kind[T any] struct {
	name   string
	list   bool
	tags   []string // YAML types of a scalar that may stand for it
	parse  func(texts []string) (T, []fault)
	text   func(T) string
	encode func(T) any
}

// fault is what is wrong with one of the texts of a value.
type fault struct {
	item int // index into the texts
	err  error
}

// scalar makes a kind out of a parser of one text.
func scalar[T any](name string, tags []string, parse func(string) (T, error), text func(T) string, encode func(T) any) kind[T] {
	one := func(texts []string) (T, []fault) {
		v, err := parse(texts[len(texts)-1]) // a flag that is given twice: the last one counts, as everywhere
		if err != nil {
			return v, []fault{{len(texts) - 1, err}}
		}
		return v, nil
	}
	return kind[T]{name: name, tags: tags, parse: one, text: text, encode: encode}
}

func itself[T any](v T) any { return v }

func text(name string) kind[string] {
	parse := func(s string) (string, error) {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
			return "", fmt.Errorf("%s holds control characters or is not UTF-8: use plain text", shown(s))
		}
		return s, nil
	}
	return scalar(name, []string{"!!str"}, parse, func(s string) string { return s }, itself)
}

// fileOrStdout is a file name, where "-" is the usual other word for stdout.
func fileOrStdout() kind[string] {
	k := text("file")
	parse := k.parse
	k.parse = func(texts []string) (string, []fault) {
		s, faults := parse(texts)
		if s == "-" {
			s = ""
		}
		return s, faults
	}
	return k
}

func oneOf(words ...string) kind[string] {
	parse := func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return "", fmt.Errorf("%s is unknown: use one of %s", shown(s), strings.Join(words, ", "))
		}
		return s, nil
	}
	return scalar("word", []string{"!!str"}, parse, func(s string) string { return s }, itself)
}

func level() kind[slog.Level] {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	parse := func(s string) (slog.Level, error) {
		l, ok := levels[s]
		if !ok {
			return 0, fmt.Errorf("%s is unknown: use one of debug, info, warn, error", shown(s))
		}
		return l, nil
	}
	write := func(l slog.Level) string { return strings.ToLower(l.String()) }
	return scalar("word", []string{"!!str"}, parse, write, func(l slog.Level) any { return write(l) })
}

func boolean() kind[bool] {
	parse := func(s string) (bool, error) {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return false, fmt.Errorf("%s is neither true nor false: use one of them", shown(s))
		}
		return b, nil
	}
	return scalar("bool", []string{"!!bool"}, parse, strconv.FormatBool, itself)
}

func duration(least, most time.Duration) kind[time.Duration] {
	from := "0"
	if least > 0 {
		from = "more than 0"
	}
	parse := func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("%s is not a duration: write a number with its unit, as 500ms, 2s or 1m30s", shown(s))
		}
		if d < least || d > most {
			return 0, fmt.Errorf("%s is out of range: use %s to %s", shown(s), from, briefly(most))
		}
		return d, nil
	}
	return scalar("duration", []string{"!!str", "!!int"}, parse, briefly, func(d time.Duration) any { return briefly(d) })
}

// briefly writes a duration as people do: 1m, not 1m0s.
func briefly(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// number is a number of 0 to most.
func number(most float64) kind[float64] {
	write := func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
	parse := func(s string) (float64, error) {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || !finite(f) {
			return 0, fmt.Errorf("%s is not a number: write it as 50 or 0.1", shown(s))
		}
		if f < 0 || f > most {
			return 0, fmt.Errorf("%s is out of range: use 0 to %s", shown(s), strconv.FormatFloat(most, 'f', -1, 64))
		}
		return f + 0, nil // -0 becomes 0
	}
	return scalar("number", []string{"!!int", "!!float"}, parse, write, itself)
}

func count(least, most int) kind[int] {
	parse := func(s string) (int, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s is not a whole number: write it as 4096", shown(s))
		}
		if n < int64(least) || n > int64(most) {
			return 0, fmt.Errorf("%s is out of range: use %d to %d", shown(s), least, most)
		}
		return int(n), nil
	}
	return scalar("count", []string{"!!int"}, parse, strconv.Itoa, itself)
}

var byteUnits = []struct {
	name   string
	factor int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// size is a number of bytes, with or without one of the units KiB, MiB and GiB.
func size(least, most int64) kind[int64] {
	parse := func(s string) (int64, error) {
		digits, factor := s, int64(1)
		for _, unit := range byteUnits {
			if d, ok := strings.CutSuffix(s, unit.name); ok {
				digits, factor = strings.TrimSpace(d), unit.factor
				break
			}
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s is not a size: write a whole number of bytes, or of KiB, MiB or GiB, as 4194304 or 4MiB", shown(s))
		}
		if n < least/factor || n > most/factor { // divided, because n*factor may not fit
			return 0, fmt.Errorf("%s is out of range: use %d to %s", shown(s), least, sizeText(most))
		}
		return n * factor, nil
	}
	encode := func(n int64) any {
		if s := sizeText(n); strings.HasSuffix(s, "B") {
			return s
		}
		return n
	}
	return scalar("bytes", []string{"!!str", "!!int"}, parse, sizeText, encode)
}

func sizeText(n int64) string {
	for _, unit := range byteUnits {
		if unit.factor > 1 && n != 0 && n%unit.factor == 0 {
			return strconv.FormatInt(n/unit.factor, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// list makes a kind of several values out of a kind of one.
func list[T comparable](name string, one kind[T]) kind[[]T] {
	parse := func(texts []string) ([]T, []fault) {
		var values []T
		var faults []fault
		for i, s := range texts {
			v, wrong := one.parse([]string{s})
			switch {
			case len(wrong) > 0:
				faults = append(faults, fault{i, wrong[0].err})
			case slices.Contains(values, v):
				faults = append(faults, fault{i, fmt.Errorf("%s is there twice: remove one", shown(s))})
			default:
				values = append(values, v)
			}
		}
		return values, faults
	}
	texts := func(values []T) []string {
		texts := make([]string, len(values))
		for i, v := range values {
			texts[i] = one.text(v)
		}
		return texts
	}
	return kind[[]T]{
		name: name, list: true, tags: []string{"!!str"}, parse: parse,
		text:   func(values []T) string { return strings.Join(texts(values), ",") },
		encode: func(values []T) any { return texts(values) },
	}
}

// refusing is k without the texts for which wrong has an error.
func refusing[T any](k kind[T], wrong func(string) error) kind[T] {
	parse := k.parse
	k.parse = func(texts []string) (T, []fault) {
		last := len(texts) - 1
		if err := wrong(texts[last]); err != nil {
			return *new(T), []fault{{last, err}}
		}
		return parse(texts)
	}
	return k
}

func names() kind[[]string] {
	return list("names", refusing(text("name"), func(s string) error {
		if s == "" {
			return errors.New("an entry is empty: remove it")
		}
		return nil
	}))
}

var ownerForm = regexp.MustCompile(`^([^:/\s]+(:[^:/\s]+)?)?$`)

func owner() kind[string] {
	return refusing(text("owner"), func(s string) error {
		if !ownerForm.MatchString(s) {
			return fmt.Errorf("%s is not an owner: use USER or USER:GROUP, names or numbers", shown(s))
		}
		return nil
	})
}

// userName takes no colon, behind which etcdctl has the password: what is printed must hold none.
func userName() kind[string] {
	return refusing(text("name"), func(s string) error {
		if strings.Contains(s, ":") {
			return errors.New("the value (not shown) holds a colon, as USER:PASSWORD does: give the user only, and the password in the file of --shadow-password-file")
		}
		return nil
	})
}

// fileMode is octal also where YAML would read a decimal number: 384 is nobody's way to write 0600.
func fileMode() kind[fs.FileMode] {
	parse := func(s string) (fs.FileMode, error) {
		n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
		if err != nil || n > uint64(fs.ModePerm) {
			return 0, fmt.Errorf("%s is not a file mode: write it in octal, as 0600 or 0660, at most 0777", shown(s))
		}
		return fs.FileMode(n), nil
	}
	write := func(m fs.FileMode) string { return fmt.Sprintf("%04o", uint32(m)) }
	return scalar("mode", []string{"!!str", "!!int"}, parse, write, func(m fs.FileMode) any { return write(m) })
}

// tlsVersion has etcd's spelling.
func tlsVersion() kind[uint16] {
	parse := func(s string) (uint16, error) {
		switch s {
		case "TLS1.2":
			return tls.VersionTLS12, nil
		case "TLS1.3":
			return tls.VersionTLS13, nil
		}
		return 0, fmt.Errorf("%s is unknown: use TLS1.2 or TLS1.3", shown(s))
	}
	write := func(v uint16) string { return fmt.Sprintf("TLS1.%d", v-tls.VersionTLS10) }
	return scalar("word", []string{"!!str"}, parse, write, func(v uint16) any { return write(v) })
}

// cipherSuites takes the names that etcd takes, but for those of TLS 1.3: Go ignores them, and the operator would not learn it.
func cipherSuites() kind[[]uint16] {
	parse := func(s string) (uint16, error) {
		name := s
		switch s { // etcd's older names
		case "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305":
			name += "_SHA256"
		case "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256":
			return 0, fmt.Errorf("%s belongs to TLS 1.3, whose suites are always on: remove it", s)
		}
		ids := make(map[string]uint16)
		for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
			if slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
				ids[suite.Name] = suite.ID
			}
		}
		if id, ok := ids[name]; ok {
			return id, nil
		}
		advice := "use IANA names, as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
		if guess := closest(strings.ToUpper(strings.ReplaceAll(s, "-", "_")), slices.Sorted(maps.Keys(ids))); guess != "" {
			advice = "did you mean " + guess + "?"
		}
		return 0, fmt.Errorf("%s is unknown: %s", shown(s), advice)
	}
	return list("names", scalar("name", nil, parse, tls.CipherSuiteName, itself))
}
