package transport

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// setReusePort lets other sockets of this user bind to the same port.
func setReusePort(_, _ string, c syscall.RawConn) error {
	var err error
	if controlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); controlErr != nil {
		return controlErr
	}
	return err
}

// steerTo makes the listener of that number get all new connections of a port that several listen on, by a program
// of one instruction. When there are fewer the kernel chooses by a hash, as without it. It needs no privilege.
func steerTo(fd int, number uint32) error {
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: number}}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// dropSteering makes the kernel choose by its hash again.
func dropSteering(fd int) {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0) // ENOENT: there was none
}

// sharers says how many listen at the address of a TCP listener, itself included; 0 if that cannot be told.
func sharers(fd int) int {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return 0
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if n := sharersIn(table, strconv.FormatUint(stat.Ino, 10)); n > 0 {
			return n
		}
	}
	return 0
}

// sharersIn looks into a table of the kernel's, where listeners come before connections:
//
//	sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
//	 0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 123456 …
func sharersIn(table, inode string) int {
	const local, state, ino, listening = 1, 3, 9, "0A"
	f, err := os.Open(table)
	if err != nil {
		return 0
	}
	defer f.Close()
	at, ours := map[string]int{}, ""
	lines := bufio.NewScanner(f)
	lines.Scan() // the headings
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) <= ino || fields[state] != listening {
			break
		}
		at[fields[local]]++
		if fields[ino] == inode {
			ours = fields[local]
		}
	}
	return at[ours]
}

// stopListening takes what waits to be accepted, and makes the kernel take nothing more.
func stopListening(fd int, isUnix bool) (waiting []int) {
	if isUnix {
		// New connections are refused from here on, and those in the queue stay in it.
		_ = unix.Shutdown(fd, unix.SHUT_RD)
		return acceptAll(fd)
	}
	// The kernel resets what comes into the queue in between: nothing, if connections have been steered away.
	waiting = acceptAll(fd)
	_ = unix.Shutdown(fd, unix.SHUT_RD)
	return waiting
}

// acceptAll empties the queue. Any error ends it: what it may leave behind (when files run out) cannot be helped.
func acceptAll(listener int) (fds []int) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			fds = append(fds, fd)
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return fds
		}
	}
}

// setModeBeforeBind is the mode that the file of a unix socket will be made with (unix_bind_bsd in the kernel).
func setModeBeforeBind(fd int, mode uint32) error { return unix.Fchmod(fd, mode) }
