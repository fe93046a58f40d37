// Package osstat reads from the Linux kernel what other processes cost: CPU
// time and resident memory.
package osstat

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// CPUSource names the counter of CPU, for the report.
const CPUSource = "clock_gettime on the process CPU clock: the scheduler's sum_exec_runtime in nanoseconds, which is the first field of /proc/PID/schedstat, but of all threads, those that have ended too"

// CPU returns the CPU time that the processes have used in all, user and system.
//
// The scheduler's own counter is behind it. /proc/PID/schedstat shows it for one
// thread, and that of a thread that ends is lost; /proc/PID/stat shows the sum
// in ticks of 10 ms. The process's CPU clock (clock_getcpuclockid(3)) has neither fault.
func CPU(pids ...int) (total time.Duration, err error) {
	for _, pid := range pids {
		// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel's posix-timers_types.h.
		clock := int32(^uint32(pid))<<3 | 2
		var spent syscall.Timespec
		if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&spent)), 0); errno != 0 {
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, errno)
		}
		total += time.Duration(spent.Nano())
	}
	return total, nil
}

// Memory is the resident memory of processes, in bytes. Pages that two of them
// share count twice.
type Memory struct{ RSS, Peak int64 }

// ReadMemory adds up VmRSS and VmHWM of the processes.
func ReadMemory(pids ...int) (sum Memory, err error) {
	for _, pid := range pids {
		rss, err := statusKiB(pid, "VmRSS")
		if err != nil {
			return Memory{}, err
		}
		peak, err := statusKiB(pid, "VmHWM")
		if err != nil {
			return Memory{}, err
		}
		sum.RSS += rss << 10
		sum.Peak += peak << 10
	}
	return sum, nil
}

// ResetPeak makes the processes' peak what they hold now. Without
// CONFIG_PROC_PAGE_MONITOR the kernel cannot, and the peak is that of their whole lives.
func ResetPeak(pids ...int) error {
	for _, pid := range pids {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// WithChildren returns the process and its children: nginx's master does not
// relay, its workers do.
func WithChildren(pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	pids := []int{pid}
	for _, path := range stats {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		// The name in brackets may hold anything; after it come state and parent.
		_, rest, _ := bytes.Cut(content[bytes.LastIndexByte(content, ')')+1:], []byte(" "))
		fields := strings.Fields(string(rest))
		if len(fields) < 2 || fields[1] != strconv.Itoa(pid) {
			continue
		}
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, child)
	}
	return pids, nil
}

func statusKiB(pid int, field string) (int64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, field)
}
