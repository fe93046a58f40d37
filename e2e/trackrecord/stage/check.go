package stage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/etcd-parallax/parallax/e2e/internal/process"
)

// Checked is what `parallax check` said.
type Checked struct {
	ExitCode int

	// Keys that it named, those of which only the revisions are shifted among them.
	Keys []string

	// Said is its output as a whole, for messages.
	Said string
}

// Check lets `parallax check` look at the whole key space once.
func (s *Stage) Check(ctx context.Context) (Checked, error) {
	args := []string{"check", "--output=ndjson", "--endpoints=" + strings.Join(s.Cluster.Endpoints(), ",")}
	if s.opts.Auth {
		user, file, err := s.user()
		if err != nil {
			return Checked{}, err
		}
		args = append(args, "--user="+user, "--password-file="+file)
	}
	var stdout, stderr bytes.Buffer
	p, err := process.Start(process.Spec{Path: s.opts.Parallax, Args: args, DropEnv: []string{"PARALLAX_"}, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return Checked{}, err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return Checked{}, fmt.Errorf("parallax check did not end: %w %w", context.Cause(ctx), p.Kill())
	}
	c := Checked{ExitCode: p.ExitCode(), Said: stdout.String() + stderr.String()}
	lines := bufio.NewScanner(&stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Key     string
			Shifted []struct{ Key string } `json:"example_keys"`
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			continue // it is about no key
		}
		c.Keys = append(c.Keys, line.Key)
		for _, shifted := range line.Shifted {
			c.Keys = append(c.Keys, shifted.Key)
		}
	}
	return c, lines.Err()
}
