//go:build !linux

package wire

import (
	"errors"
	"syscall"
)

// Parallax runs on Linux. Elsewhere it can be built, for its other parts to be worked on.

func readNow(fd uintptr, b []byte) (int, syscall.Errno)  { return told(syscall.Read(int(fd), b)) }
func writeNow(fd uintptr, b []byte) (int, syscall.Errno) { return told(syscall.Write(int(fd), b)) }

func told(n int, err error) (int, syscall.Errno) {
	errno, _ := errors.AsType[syscall.Errno](err)
	return n, errno
}
