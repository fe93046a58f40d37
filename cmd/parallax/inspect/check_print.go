package inspect

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/etcd-parallax/parallax/shadow/divergence/record"
	"github.com/etcd-parallax/parallax/shadow/judge"
	"github.com/etcd-parallax/parallax/shadow/member"
	"github.com/etcd-parallax/parallax/shadow/sweep"
)

// findings takes the lines of the divergence log: the last of each finding counts.
type findings struct {
	to  io.Writer // also there, as they come; nil: nowhere
	err error

	order []string
	lines map[string]json.RawMessage
}

func (f *findings) Write(line []byte) (int, error) {
	if f.to != nil {
		if _, err := f.to.Write(line); err != nil {
			f.err = err
		}
	}
	var is struct{ ID string }
	if err := json.Unmarshal(line, &is); err != nil {
		return 0, err
	}
	if f.lines == nil {
		f.lines = map[string]json.RawMessage{}
	}
	if f.lines[is.ID] == nil {
		f.order = append(f.order, is.ID)
	}
	f.lines[is.ID] = bytes.Clone(bytes.TrimSpace(line))
	return len(line), nil
}

// verdict is the result as it is printed: docs in README.md.
type verdict struct {
	Schema    string            `json:"schema"`
	Verdict   string            `json:"verdict"`
	Reasons   []string          `json:"reasons,omitempty"` // why it is not more certain
	ClusterID string            `json:"cluster_id"`
	Members   []compared        `json:"members"`
	Keys      int64             `json:"keys"` // compared
	Differing int64             `json:"keys_differing"`
	Pages     int64             `json:"pages"`
	Bytes     int64             `json:"bytes"`
	Revision  int64             `json:"revision,omitempty"` // of the last page; each has its own
	Seconds   float64           `json:"seconds"`
	Gaps      []gap             `json:"gaps,omitempty"`
	GapCount  int64             `json:"gap_count,omitempty"`
	GoOn      string            `json:"from_key,omitempty"` // for --from-key
	Findings  []json.RawMessage `json:"findings,omitempty"`
}

type compared struct {
	ID       string `json:"id"`
	Name     string `json:"name,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	Compared bool   `json:"compared"`
	Reason   string `json:"reason,omitempty"`
}

func (c compared) String() string {
	if c.Name == "" {
		return c.ID
	}
	return c.Name + " (" + c.ID + ", " + c.Endpoint + ")"
}

type gap struct {
	From   string `json:"from"`
	To     string `json:"to,omitempty"` // none: the end of the key space
	Reason string `json:"reason"`
}

func newVerdict(snap *member.Snapshot, r sweep.Result, err error, said *said) *verdict {
	v := &verdict{
		Schema: "parallax.check/v1", Verdict: judge.Consistent.String(), ClusterID: member.FormatID(snap.Cluster),
		Keys: r.Keys, Differing: r.Differing, Pages: r.Pages, Bytes: r.Bytes, Revision: r.Revision, GapCount: r.GapCount,
	}
	if !r.Began.IsZero() {
		v.Seconds = time.Since(r.Began).Round(time.Millisecond).Seconds()
	}
	if err != nil {
		v.Reasons = append(v.Reasons, err.Error())
	}
	away := map[uint64]judge.Reason{}
	for _, a := range r.Away {
		away[a.ID] = a.Reason
	}
	for _, id := range snap.Listed {
		c := compared{ID: member.FormatID(id), Compared: !errors.Is(err, errAlone)}
		if m := snap.Member(id); m != nil {
			c.Name, c.Endpoint = m.Name, m.URL
		}
		if why := away[id]; why != "" {
			c.Compared, c.Reason = false, string(why)
			text := "member " + c.String() + ": " + inWords(why)
			if more := said.about(c.Endpoint); more != "" && c.Endpoint != "" {
				text += " (" + more + ")"
			}
			v.Reasons = append(v.Reasons, text)
		}
		v.Members = append(v.Members, c)
	}
	for _, g := range r.Gaps {
		one := gap{From: forFlag(g.From), Reason: string(g.Reason)}
		if g.To != nil {
			one.To = forFlag(g.To)
		}
		v.Gaps = append(v.Gaps, one)
		v.Reasons = append(v.Reasons, "keys from "+one.From+" on were not compared: "+inWords(g.Reason))
	}
	if r.Next != nil {
		v.GoOn = forFlag(r.Next)
	}
	switch {
	case r.Differing > 0:
		v.Verdict = judge.Divergent.String()
	case len(v.Reasons) > 0 || r.Next != nil:
		v.Verdict = judge.Inconclusive.String()
	}
	return v
}

// forFlag is a key as --from-key and --prefix take it.
func forFlag(key []byte) string {
	k := record.NewKey(key)
	if k.KeyBase64 != "" || k.KeySize != 0 || strings.HasPrefix(k.Key, "base64:") {
		return "base64:" + base64.StdEncoding.EncodeToString(key)
	}
	return k.Key
}

// pasted is an argument as a shell takes it.
func pasted(s string) string {
	if regexp.MustCompile(`^[A-Za-z0-9/._:@%+=,-]+$`).MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (v *verdict) print(to io.Writer, form string, f *findings) error {
	if form == "table" {
		_, err := io.WriteString(to, v.table(f))
		return err
	}
	enc := json.NewEncoder(to)
	enc.SetEscapeHTML(false)
	if form == "json" {
		enc.SetIndent("", "  ")
		for _, id := range f.order {
			v.Findings = append(v.Findings, f.lines[id])
		}
	}
	return enc.Encode(v)
}

// finding is what the table shows of a record.
type finding struct {
	record.Key
	Kind   string
	Keys   int64
	Fields []string
	Groups []struct {
		Members []record.Member
		record.Held
	}
	Summary string
}

func (v *verdict) table(f *findings) string {
	var b strings.Builder
	for _, id := range f.order {
		var l finding
		if err := json.Unmarshal(f.lines[id], &l); err != nil {
			fmt.Fprintf(&b, "%s\n", f.lines[id])
			continue
		}
		b.WriteString(l.rows())
	}
	fmt.Fprintf(&b, "%s: %s keys differ of %s that were compared on %d members (cluster %s, %s read) in %s\n",
		strings.ToUpper(v.Verdict), thousands(v.Differing), thousands(v.Keys), v.asked(), v.ClusterID, mebibytes(v.Bytes),
		time.Duration(v.Seconds*float64(time.Second)).Round(time.Millisecond))
	for _, why := range v.Reasons {
		fmt.Fprintf(&b, "  - %s\n", why)
	}
	if int64(len(v.Gaps)) < v.GapCount {
		fmt.Fprintf(&b, "  - and %d more parts of the key space\n", v.GapCount-int64(len(v.Gaps)))
	}
	if v.GoOn != "" {
		fmt.Fprintf(&b, "not at the end of the keys; go on with --from-key %s\n", pasted(v.GoOn))
	}
	return b.String()
}

func (v *verdict) asked() int {
	n := 0
	for _, m := range v.Members {
		if m.Reason == "" {
			n++
		}
	}
	return n
}

// rows of one finding: the key, and what each group of members holds.
func (l *finding) rows() string {
	var b strings.Builder
	name := l.Key.Key
	switch {
	case l.Kind == record.KindShifted:
		name = l.Summary
	case l.KeyBase64 != "":
		name = "base64:" + l.KeyBase64
	}
	if l.KeySize > 0 {
		name += fmt.Sprintf("… (%d bytes)", l.KeySize)
	}
	fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(l.Fields, ", "))
	for _, g := range l.Groups {
		var names []string
		for _, m := range g.Members {
			if m.Name == "" {
				m.Name = m.ID
			}
			names = append(names, m.Name)
		}
		holds := "absent"
		if a := g.Answer; g.Present && a != nil {
			holds = fmt.Sprintf("%d bytes, hash %s, create_revision %d, mod_revision %d, version %d, lease %s",
				a.ValueSize, a.ValueHash, a.CreateRevision, a.ModRevision, a.Version, a.Lease)
		}
		fmt.Fprintf(&b, "    %s: %s\n", strings.Join(names, ", "), holds)
	}
	return b.String()
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
