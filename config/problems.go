package config

import (
	"fmt"
	"strings"
)

// maxShown bounds what is printed for a hostile file; further problems are counted.
const maxShown = 50

// Problem is one thing that is wrong with what the operator wrote.
type Problem struct {
	// Place is where it stands: file.yaml:12, PARALLAX_ENDPOINTS or --endpoints.
	Place string
	// Message says what is wrong and what to do.
	Message string
}

func (p Problem) String() string { return p.Place + ": " + p.Message }

// Problems is the error of [Load]: everything that is wrong, in the order file, environment, flags.
type Problems []Problem //nolint:errname // reads as what it is: config.Problems

func (p Problems) Error() string {
	if len(p) == 1 {
		return p[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems in the configuration:", len(p))
	for _, problem := range p[:min(len(p), maxShown)] {
		b.WriteString("\n  " + problem.String())
	}
	if more := len(p) - maxShown; more > 0 {
		fmt.Fprintf(&b, "\n  and %d more", more)
	}
	return b.String()
}

func (p *Problems) add(place, format string, args ...any) {
	*p = append(*p, Problem{place, fmt.Sprintf(format, args...)})
}

// shown quotes what the operator wrote, for a message.
//
// GUARANTEE G8: No value, token, password or key material is logged or served.
// The passwords that end up in a configuration by mistake are those of http://user:password@host: a text with an @ is not repeated.
func shown(s string) string {
	const longest = 80
	switch {
	case strings.Contains(s, "@"):
		return "the value (not shown: it may hold a password)"
	case len(s) > longest:
		return fmt.Sprintf("%q…", strings.ToValidUTF8(s[:longest], ""))
	}
	return fmt.Sprintf("%q", s)
}

// nearest is the name of the option that was most likely meant, or "".
func nearest(name string) string {
	var names []string
	for _, o := range options() {
		names = append(names, o.name)
	}
	return closest(strings.ToLower(strings.ReplaceAll(name, "_", "-")), names)
}

// closest is that of the candidates that name was most likely meant to be, or "".
func closest(name string, candidates []string) string {
	const longestName, mostSlips = 64, 3
	if len(name) > longestName {
		return ""
	}
	best, least := "", mostSlips+1
	for _, candidate := range candidates {
		// Half of a short name, as key, would be no slip but another word.
		if d := distance(name, candidate); d < least && 2*d < len(candidate) {
			best, least = candidate, d
		}
	}
	return best
}

// distance is Levenshtein's: how many bytes must be put in, taken out or replaced.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
