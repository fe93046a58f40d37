//go:build !linux

package transport

import (
	"errors"
	"syscall"
)

// Parallax runs on Linux. Elsewhere it can be built, for its other parts to be worked on.

func setReusePort(_, _ string, _ syscall.RawConn) error {
	return errors.New("reuse-port is supported on Linux only: leave it out")
}

func steerTo(int, uint32) error { return errors.ErrUnsupported }

func dropSteering(int) {}

func sharers(int) int { return 0 }

func stopListening(int, bool) []int { return nil }

func setModeBeforeBind(int, uint32) error { return nil }
