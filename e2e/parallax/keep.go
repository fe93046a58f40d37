package parallax

import (
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/etcd-parallax/parallax/e2e/internal/process"
)

// The files in Options.KeepIn.
const (
	RecordsFile = "divergence.ndjson"
	LogFile     = "parallax.log"
)

// followInterval is the most by which Record.At is late when records are read
// from a file, which tells nobody that it grew.
const followInterval = time.Millisecond

// startKept starts a Parallax that outlives us.
func (p *Process) startKept(spec process.Spec, dir string) (err error) {
	if p.stderr, err = os.Create(filepath.Join(dir, LogFile)); err != nil {
		return err
	}
	stdout, err := os.Create(filepath.Join(dir, RecordsFile))
	if err != nil {
		p.stderr.Close()
		return err
	}
	spec.Stdout, spec.Stderr, spec.Outlive = stdout, p.stderr, true
	if p.process, err = process.Start(spec); err != nil {
		stdout.Close()
		p.stderr.Close()
		return err
	}
	p.followed = make(chan struct{})
	go p.follow(stdout)
	return nil
}

// follow reads the records until Parallax has ended. ReadAt leaves the offset
// alone, which the child shares.
func (p *Process) follow(file *os.File) {
	defer close(p.followed)
	defer file.Close()
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	buffer := make([]byte, 64<<10)
	for offset := int64(0); ; {
		ended := !p.process.Running() // before the read, so that the last line counts
		n, err := file.ReadAt(buffer, offset)
		offset += int64(n)
		_, _ = p.records.Write(buffer[:n]) // it never fails
		if n > 0 {
			continue
		}
		if ended || err != io.EOF {
			return
		}
		select {
		case <-p.process.Done():
		case <-tick.C:
		}
	}
}
