package parallax

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Record is one line of the divergence log.
type Record struct {
	// Fields is the line, decoded. Numbers are json.Number: revisions and ids
	// do not fit a float64.
	Fields map[string]any

	// Raw is the line itself.
	Raw json.RawMessage

	// At is when we read it.
	At time.Time
}

// Text returns a field of a path of objects as text ("" if there is none):
// r.Text("kubernetes", "namespace").
func (r Record) Text(path ...string) string {
	var value any = r.Fields
	for _, name := range path {
		object, ok := value.(map[string]any)
		if !ok {
			return ""
		}
		value = object[name]
	}
	switch value.(type) {
	case nil:
		return ""
	case string, json.Number, bool:
		return fmt.Sprint(value)
	default:
		text, _ := json.Marshal(value) // it came from JSON
		return string(text)
	}
}

// Decode decodes the line into v, like json.Unmarshal.
func (r Record) Decode(v any) error { return json.Unmarshal(r.Raw, v) }

// Records returns all records so far.
func (p *Process) Records() []Record {
	p.records.mu.Lock()
	defer p.records.mu.Unlock()
	return append([]Record(nil), p.records.all...)
}

// WaitRecord returns the first record that matches, old or yet to come. It
// fails when ctx ends or Parallax does.
func (p *Process) WaitRecord(ctx context.Context, match func(Record) bool) (Record, error) {
	for next := 0; ; {
		// The end is looked at before the records, so that the last one counts.
		ended := !p.process.Running()
		all, more := p.records.since(next)
		for _, r := range all {
			if match(r) {
				return r, nil
			}
		}
		next += len(all)
		if ended {
			return Record{}, fmt.Errorf("parallax ended (%s), none of its %d records matches", p.process.State(), next)
		}
		select {
		case <-ctx.Done():
			return Record{}, fmt.Errorf("none of %d records matches: %w", next, ctx.Err())
		case <-p.process.Done():
		case <-more:
		}
	}
}

// recorder is the process's stdout: it parses lines as they come.
type recorder struct {
	mu   sync.Mutex
	rest []byte // a line without its end yet
	all  []Record
	bad  []error
	more chan struct{} // closed by the next record
}

func newRecorder() *recorder { return &recorder{more: make(chan struct{})} }

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rest = append(r.rest, b...)
	for {
		line, rest, complete := bytes.Cut(r.rest, []byte("\n"))
		if !complete {
			return len(b), nil
		}
		record := Record{Raw: bytes.Clone(line), At: time.Now()}
		r.rest = rest
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.UseNumber()
		if err := decoder.Decode(&record.Fields); err != nil || decoder.More() {
			r.bad = append(r.bad, fmt.Errorf("stdout has a line that is no record: %q (%w)", line, err))
			continue
		}
		r.all = append(r.all, record)
		close(r.more)
		r.more = make(chan struct{})
	}
}

// since returns the records from index i on, and what the next one will close.
func (r *recorder) since(i int) ([]Record, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Record(nil), r.all[i:]...), r.more
}

func (r *recorder) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := r.bad
	if len(r.rest) > 0 {
		errs = append(errs, fmt.Errorf("stdout ends within a line: %q", r.rest))
	}
	return errors.Join(errs...)
}
