package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/etcd-parallax/parallax/shadow/member"
)

// Run sweeps again and again until ctx ends. The first sweep goes as fast as the
// budget allows: nothing is verified yet, and nobody knows how many keys there are.
func (s *Sweep) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.Members.Known():
	}
	pos := s.load()
	for ctx.Err() == nil {
		if errors.Is(s.sweep(ctx, &pos), errAgain) {
			pos.begin(time.Now(), nil)
			pos.Total = 0
		}
	}
	return nil
}

// sweep goes on from a position to the end, and waits for the time of the next one.
func (s *Sweep) sweep(ctx context.Context, pos *position) error {
	p := s.newPass(pos.Next, nil)
	p.strict = true
	p.Began = pos.Began
	p.Keys = pos.Keys
	resumed := pos.Next != nil
	s.Metrics.begin(pos)
	var saved time.Time
	due := func(p *pass) time.Time {
		pos.Keys, pos.Next = p.Keys, p.from
		s.Metrics.progress(p.Keys, max(pos.Total, p.Keys+p.ruler.left()))
		if time.Since(saved) >= saveEvery {
			saved = time.Now()
			s.save(pos)
		}
		return s.due(pos)
	}
	err := s.walk(ctx, p, due, func(st stall, since time.Time) error { s.said(st, since); return nil })
	if err != nil {
		s.save(pos)
		return err
	}
	s.complete(pos, p, resumed)
	s.save(pos)
	next := p.Began.Add(max(between, time.Duration(share*float64(s.Interval))))
	if err := s.rest(ctx, time.Until(next)); err != nil {
		return err
	}
	pos.begin(time.Now(), nil)
	return nil
}

// due is when the next page is due, for a sweep to be spread over its interval.
func (s *Sweep) due(pos *position) time.Time {
	if pos.Total == 0 || s.Interval <= 0 {
		return time.Time{}
	}
	done := min(1, float64(pos.Keys)/float64(pos.Total))
	return pos.Began.Add(time.Duration(done * share * float64(s.Interval)))
}

// complete notes that every key was compared on every member; unless there are
// gaps, or a member came that was not asked from the beginning.
func (s *Sweep) complete(pos *position, p *pass, resumed bool) {
	pos.Total = p.Keys
	pos.Next = nil
	members := memberIDs(p.ids)
	whole := p.GapCount == 0 && !p.changed && (!resumed || pos.Members == members)
	if whole {
		pos.Verified = p.Began
	}
	s.Metrics.complete(pos, whole)
	if s.Logger != nil {
		s.Logger.Info("sweep completed", "keys", p.Keys, "differing", p.Differing, "gaps", p.GapCount, "duration", time.Since(p.Began).Round(time.Second))
	}
}

// said tells the operator of a stall that lasts, once.
func (s *Sweep) said(st stall, since time.Time) {
	const tell = time.Minute
	if waited := time.Since(since); s.Logger != nil && waited >= tell && waited < tell+longestWait {
		s.Logger.Warn("the sweep waits", "reason", string(st.reason), "members", names(s.Members.Snapshot(), st.members))
	}
}

func memberIDs(ids []uint64) string {
	all := ""
	for _, id := range ids {
		all += member.FormatID(id) + " "
	}
	return all
}

const (
	positionFile   = "sweep.json"
	positionSchema = "parallax.sweep/v1"
	// largestPosition is what is read of the file: a key has at most 1.5 MiB.
	largestPosition = 4 << 20
	saveEvery       = 5 * time.Second
)

// position is how far the sweep has come.
type position struct {
	Schema  string `json:"schema"`
	Cluster string `json:"cluster_id"`
	Members string `json:"members"` // that are asked
	// Next is the key to go on with; none is the beginning.
	Next  []byte    `json:"next,omitempty"`
	Began time.Time `json:"began"` // the sweep
	Keys  int64     `json:"keys"`  // compared in it
	Total int64     `json:"total"` // compared in the one before; 0: not known
	// Verified is since when every key was compared on every member: the beginning
	// of the last sweep that was complete or, before there is one, of the first.
	Verified time.Time `json:"verified"`
}

// begin a new sweep.
func (pos *position) begin(now time.Time, next []byte) {
	pos.Began, pos.Next, pos.Keys = now, next, 0
	if pos.Verified.IsZero() {
		pos.Verified = now
	}
}

// load the position that was kept, or begin.
func (s *Sweep) load() position {
	snap := s.Members.Snapshot()
	fresh := position{Schema: positionSchema, Cluster: member.FormatID(snap.Cluster), Members: memberIDs(snap.Listed)}
	fresh.begin(time.Now(), nil)
	if s.DataDir == "" {
		return fresh
	}
	kept, err := read(filepath.Join(s.DataDir, positionFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fresh
	case err == nil && kept.Cluster != fresh.Cluster:
		err = fmt.Errorf("it is of cluster %s, and this is %s", kept.Cluster, fresh.Cluster)
	}
	if err != nil {
		s.warn("the position of the sweep cannot be used, and it begins anew", err)
		return fresh
	}
	if kept.Members != fresh.Members {
		kept.Members, kept.Next, kept.Keys, kept.Began = fresh.Members, nil, 0, fresh.Began
	}
	return kept
}

func read(path string) (position, error) {
	var pos position
	info, err := os.Stat(path)
	if err != nil {
		return pos, err
	}
	if !info.Mode().IsRegular() || info.Size() > largestPosition {
		return pos, fmt.Errorf("%s is no file of a sweep", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return pos, err
	}
	if err := json.Unmarshal(b, &pos); err != nil {
		return pos, fmt.Errorf("%s: %w", path, err)
	}
	now := time.Now().Add(time.Minute)
	if pos.Schema != positionSchema || pos.Keys < 0 || pos.Total < 0 || pos.Began.IsZero() || pos.Began.After(now) || pos.Verified.IsZero() || pos.Verified.After(now) {
		return pos, fmt.Errorf("%s holds no %s", path, positionSchema)
	}
	return pos, nil
}

// save the position, in one piece: a reader finds the old file or the new one.
func (s *Sweep) save(pos *position) {
	if s.DataDir == "" {
		return
	}
	if err := pos.write(s.DataDir); err != nil {
		if !s.unsaved {
			s.warn("the position of the sweep cannot be kept, a restart begins anew: check --data-dir", err)
		}
		s.unsaved = true
		return
	}
	s.unsaved = false
}

func (pos *position) write(dir string) error {
	b, err := json.Marshal(pos)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, positionFile+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, positionFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (s *Sweep) warn(what string, err error) {
	if s.Logger != nil {
		s.Logger.Warn(what, "error", err)
	}
}
