package divergence

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A disk that fills up in the middle of a line, by way of RLIMIT_FSIZE: the
// kernel writes what fits and refuses the rest.
func TestAFileTakesNoHalfLine(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	path := filepath.Join(t.TempDir(), "divergence.ndjson")
	whole := []byte(strings.Repeat("w", 99) + "\n")
	file := NewFile(path)
	defer func() { _ = file.Close() }()
	if err := file.Open(); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(whole); err != nil {
		t.Fatal(err)
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 150, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	n, err := file.Write(whole)
	if restore := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); restore != nil {
		t.Fatal(restore)
	}
	if n != 0 || !errors.Is(err, syscall.EFBIG) {
		t.Errorf("wrote %d, %v: want nothing and EFBIG", n, err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, whole) {
		t.Errorf("%v: file is %q", err, b)
	}
}

func TestAHalfLineOfAnEarlierProcessIsEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "divergence.ndjson")
	if err := os.WriteFile(path, []byte("{}\n{\"schema\":\"par"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := NewFile(path)
	for range 2 { // the second time there is nothing to end
		if err := file.Open(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := file.Write([]byte("{}\n")); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write([]byte("{}\n")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write to a closed file: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "{}\n{\"schema\":\"par\n{}\n" {
		t.Errorf("file is %q", b)
	}
}

func TestAFIFOWithoutReaderDoesNotBlock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip("no FIFO here:", err)
	}
	if err := NewFile(path).Open(); !errors.Is(err, syscall.ENXIO) {
		t.Errorf("open: %v, want ENXIO", err)
	}
}
