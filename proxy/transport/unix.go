package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// socketFile is the file of a unix socket that listens. A nil one is none.
type socketFile struct {
	path string
	info fs.FileInfo // what was made by us
}

// listenUnix makes a socket at path, in place of one that nobody listens on.
func listenUnix(ctx context.Context, path string, o ListenOptions) (net.Listener, *socketFile, error) {
	uid, gid, err := lookUp(o.SocketOwner)
	if err != nil {
		return nil, nil, err
	}
	mode := o.SocketMode
	if mode == 0 {
		mode = DefaultSocketMode
	}
	if mode&^fs.ModePerm != 0 {
		return nil, nil, fmt.Errorf("the socket mode %v is more than permissions: give one such as 0660", mode)
	}
	// Of two that start at once, one would remove the socket that the other has just made, as it did not listen
	// yet. They take turns.
	unlock, err := lock(ctx, filepath.Dir(path))
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	if err := removeStale(ctx, path); err != nil {
		return nil, nil, err
	}
	l, err := bind(ctx, path, mode)
	if err != nil {
		return nil, nil, err
	}
	file := &socketFile{path: path}
	if file.info, err = os.Lstat(path); err == nil {
		err = open(path, mode, uid, gid)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(path)
		return nil, nil, err
	}
	return l, file, nil
}

// bind makes the socket, closed to everybody but its owner. The umask would be the usual way, but it is the whole
// process's, and other goroutines make files. On Linux the file gets its mode from the socket: so that is set before
// there is a file, and there is never a moment in which others could connect.
func bind(ctx context.Context, path string, mode fs.FileMode) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if controlErr := c.Control(func(fd uintptr) { err = setModeBeforeBind(int(fd), uint32(mode&0o600)) }); controlErr != nil {
			return controlErr
		}
		return err
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	// It would remove whatever is there by then: a successor's, too.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

// open gives the file to its owner, and then, no earlier, opens it to others.
func open(path string, mode fs.FileMode, uid, gid int) error {
	if uid >= 0 || gid >= 0 {
		if err := os.Lchown(path, uid, gid); err != nil {
			return fmt.Errorf("change the owner of the socket: %w: "+
				"only root may give files away, others may choose one of their groups (:GROUP)", err)
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("change the mode of the socket: %w", err)
	}
	return nil
}

// removeStale removes the socket that a process which was killed has left behind, and nothing else.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file at this path that is no socket: remove it, or choose another path")
	}
	d := net.Dialer{Timeout: probeTimeout}
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = c.Close()
		return errors.New("another process serves there: stop it, or choose another path")
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("there is a socket, and it is not known whether somebody serves there: %w: "+
			"remove it if not, or choose another path", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the socket that another process has left behind: %w", err)
	}
	return nil
}

// remove removes the file, if it is still the one that we made: another may have been put in its place. As long as the
// socket is open no other file can get its inode number, so this comes before closing it.
func (f *socketFile) remove() {
	if f == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	unlock, err := lock(ctx, filepath.Dir(f.path))
	if err != nil {
		return // the next one finds that nobody listens there, and removes it
	}
	defer unlock()
	if info, err := os.Lstat(f.path); err == nil && os.SameFile(info, f.info) {
		_ = os.Remove(f.path)
	}
}

const (
	lockTimeout = 5 * time.Second
	lockPause   = 5 * time.Millisecond
)

// lock keeps other instances of Parallax from making and removing sockets in dir. It leaves nothing behind.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: create the directory", err)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // which unlocks
		}
		if ctx.Err() != nil || !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock the directory %s: %w: see who holds it (lslocks)", dir, err)
		}
		wait(ctx, lockPause)
	}
}

// lookUp finds the numbers of USER[:GROUP]; -1 is for what is not to be changed.
func lookUp(owner string) (uid, gid int, err error) {
	uid, gid = -1, -1
	name, group, hasGroup := strings.Cut(owner, ":")
	if hasGroup && group == "" {
		return 0, 0, fmt.Errorf("the socket owner %q ends with a colon: write USER, USER:GROUP or :GROUP", owner)
	}
	if name != "" {
		uid, err = number(name, func() (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
	}
	if err == nil && hasGroup {
		gid, err = number(group, func() (string, error) {
			g, err := user.LookupGroup(group)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
	}
	if err != nil {
		return 0, 0, fmt.Errorf("the socket owner %q: %w: give a name or number that this machine has", owner, err)
	}
	return uid, gid, nil
}

// number takes a number as it is; it need not have a name, as in a container.
func number(text string, lookUp func() (string, error)) (int, error) {
	if n, err := strconv.ParseInt(text, 10, 32); err == nil && n >= 0 {
		return int(n), nil
	}
	found, err := lookUp()
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(found)
}
