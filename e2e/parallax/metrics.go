package parallax

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseMetrics reads the text format of Prometheus: the value follows the last
// space, since client_golang writes no timestamps.
func ParseMetrics(text []byte) (map[string]float64, error) {
	samples := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		if space < 0 {
			return nil, fmt.Errorf("metrics: line %q has no value", line)
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: line %q: %w", line, err)
		}
		samples[line[:space]] = value
	}
	return samples, nil
}

// Sum adds up the samples of a metric whose labels contain all of the given
// ones, each written as in /metrics: Sum(m, "parallax_checks_total", `verdict="divergent"`).
func Sum(samples map[string]float64, name string, labels ...string) (sum float64) {
next:
	for sample, value := range samples {
		metric, got, _ := strings.Cut(sample, "{")
		if metric != name {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(","+got, ","+label) {
				continue next
			}
		}
		sum += value
	}
	return sum
}
