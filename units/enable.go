package units

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// wantsDir holds the links of the units that a boot brings up. An instance is enabled by its link here and by nothing
// else. It is made and removed as a file, never over the bus: from systemd 255 on EnableUnitFiles makes every unit of
// the machine ask for a daemon-reload.
const wantsDir = "multi-user.target.wants"

// Enable makes the instance's server start at boot; nothing happens to it now. Repeating it changes nothing: a link
// that systemctl made is left as it is.
func (c Config) Enable(name string) error {
	if err := c.enable(name); err != nil {
		return fmt.Errorf("cannot enable %s: %w", name, err)
	}
	return nil
}

func (c Config) enable(name string) error {
	if !ValidName(name) {
		return fmt.Errorf("%q cannot name an instance", name)
	}
	parent, err := os.Open(c.Dir)
	if err != nil {
		return err
	}
	defer parent.Close()
	for {
		// Again when "systemctl disable" of the last unit takes the directory away under our hands, or when
		// somebody puts something there at the same time.
		again, err := c.link(parent, name)
		if !again {
			return err
		}
	}
}

func (c Config) link(parent *os.File, name string) (again bool, err error) {
	dir, err := makeDir(parent, wantsDir)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist), err
	}
	defer dir.Close()
	failed := func(op string, err error) error {
		return &fs.PathError{Op: op, Path: filepath.Join(dir.Name(), ServerUnit(name)), Err: err}
	}
	switch err := unix.Symlinkat(serverTemplate, int(dir.Fd()), ServerUnit(name)); err {
	case nil:
		return false, dir.Sync()
	case unix.ENOENT:
		return true, nil
	case unix.EEXIST:
	default:
		return false, failed("symlink", err)
	}
	if enabled, err := c.Enabled(name); enabled || err != nil {
		return false, err
	}
	if err := unix.Unlinkat(int(dir.Fd()), ServerUnit(name), 0); err != nil && err != unix.ENOENT {
		return false, failed("remove", err)
	}
	return true, nil
}

// Disable undoes Enable, whoever made the link. Repeating it changes nothing.
func (c Config) Disable(name string) error {
	if err := c.disable(name); err != nil {
		return fmt.Errorf("cannot disable %s: %w", name, err)
	}
	return nil
}

func (c Config) disable(name string) error {
	if !ValidName(name) {
		return fmt.Errorf("%q cannot name an instance", name)
	}
	parent, err := os.Open(c.Dir)
	if err != nil {
		return err
	}
	defer parent.Close()
	dir, err := openDir(parent, wantsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	// The directory stays when it becomes empty, as on a machine where it was never empty.
	switch err := unix.Unlinkat(int(dir.Fd()), ServerUnit(name), 0); err {
	case nil:
		return dir.Sync()
	case unix.ENOENT:
		return nil
	default:
		return &fs.PathError{Op: "remove", Path: filepath.Join(dir.Name(), ServerUnit(name)), Err: err}
	}
}

// Enabled reports whether a boot starts the instance's server: any link of its name, wherever it points, but one to
// /dev/null. It is read from disk; a loaded unit's UnitFileState is what PID 1 remembers.
func (c Config) Enabled(name string) (bool, error) {
	if !ValidName(name) {
		return false, fmt.Errorf("cannot tell whether %q is enabled: it cannot name an instance", name)
	}
	target, err := os.Readlink(filepath.Join(c.Dir, wantsDir, ServerUnit(name)))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EINVAL): // nothing, or no link: systemd ignores it
		return false, nil
	case err != nil:
		return false, fmt.Errorf("cannot tell whether %s is enabled: %w", name, err)
	}
	return target != os.DevNull, nil
}

// Masked reports whether an administrator masked the instance's server unit ("systemctl mask", with or without --runtime):
// it cannot be started.
func (c Config) Masked(name string) bool {
	if !ValidName(name) {
		return false
	}
	volatile := c.VolatileDir
	if volatile == "" {
		volatile = "/run/systemd/system"
	}
	for _, dir := range []string{c.Dir, volatile} {
		if target, err := os.Readlink(filepath.Join(dir, ServerUnit(name))); err == nil && target == os.DevNull {
			return true
		}
	}
	return false
}

// WatchEnablement tells the names of instances whose enablement link, drop-in directory (or a file in it) or mask was
// changed by anyone, this process included. It returns when the watch stands: what changes from then on is told, by
// calls of fn from one goroutine, until ctx ends. A name may be told more than once, and when nothing is left of it.
func (c Config) WatchEnablement(ctx context.Context, fn func(name string)) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch %s: %w", c.Dir, os.NewSyscallError("inotify_init1", err))
	}
	w := &fileWatch{
		fd: fd, file: os.NewFile(uintptr(fd), "inotify"), fn: fn,
		dir: filepath.Clean(c.Dir), wants: filepath.Join(c.Dir, wantsDir),
		dirs: map[int]string{}, known: map[string]bool{},
	}
	if err := w.add(w.dir); err != nil {
		w.file.Close()
		return fmt.Errorf("cannot watch %s: %w", c.Dir, err)
	}
	w.scan()
	go w.run(ctx)
	return nil
}

// fileWatch follows a directory and those of its subdirectories that matter. systemctl removes the wants directory with
// its last link and makes it again, so directories come and go; after each coming all is looked at again, since
// things may have happened in it before it was watched. All of it is used by one goroutine at a time: fsnotify, which
// answers Add and delivers events under one lock, hangs when a directory is renamed and made again.
type fileWatch struct {
	fd         int
	file       *os.File // of fd; its Fd method would make reads block in the kernel
	fn         func(name string)
	dir, wants string
	dirs       map[int]string  // watch descriptor → directory
	known      map[string]bool // every name that was ever met: whoever was told of it may have read what was gone a moment later
}

func (w *fileWatch) run(ctx context.Context) {
	defer w.file.Close()
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 16<<10) // an event is 16 bytes and a file name
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		for events := buf[:n]; len(events) >= unix.SizeofInotifyEvent; {
			// struct inotify_event of inotify(7): wd, mask, cookie, len, name padded with NUL
			wd, mask := int32(binary.NativeEndian.Uint32(events)), binary.NativeEndian.Uint32(events[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
			name := string(bytes.TrimRight(events[unix.SizeofInotifyEvent:end], "\x00"))
			events = events[end:]
			if ctx.Err() != nil {
				return
			}
			w.event(int(wd), mask, name)
		}
	}
}

func (w *fileWatch) event(wd int, mask uint32, base string) {
	dir, watched := w.dirs[wd]
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0: // events were lost: whoever is or was there may have changed
		w.rescan()
	case mask&unix.IN_IGNORED != 0: // the directory is gone
		delete(w.dirs, wd)
	case !watched:
	case mask&unix.IN_MOVE_SELF != 0: // it is not what it was under its new name
		delete(w.dirs, wd)
		_, _ = unix.InotifyRmWatch(w.fd, uint32(wd))
	case dir == w.dir && base == wantsDir:
		w.rescan()
	case dir == w.dir, dir == w.wants:
		unit, isDropIn := strings.CutSuffix(base, ".d")
		if name, ok := InstanceOf(unit); ok {
			w.known[name] = true
			if isDropIn && dir == w.dir {
				_ = w.add(filepath.Join(dir, base)) // if it is gone again, that is told too
			}
			w.fn(name)
		}
	default: // a file in a drop-in directory
		if name, ok := InstanceOf(strings.TrimSuffix(filepath.Base(dir), ".d")); ok {
			w.fn(name)
		}
	}
}

// scan watches all that is to be watched, and takes in the names that are there.
func (w *fileWatch) scan() {
	_ = w.add(w.wants) // may be missing, as may be read below
	for _, dir := range []string{w.dir, w.wants} {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			unit, isDropIn := strings.CutSuffix(entry.Name(), ".d")
			if name, ok := InstanceOf(unit); ok {
				w.known[name] = true
				if isDropIn && dir == w.dir {
					_ = w.add(filepath.Join(dir, entry.Name()))
				}
			}
		}
	}
}

func (w *fileWatch) rescan() {
	w.scan()
	for name := range w.known {
		w.fn(name)
	}
}

// add watches a directory; one that is watched already stays so.
func (w *fileWatch) add(dir string) error {
	wd, err := unix.InotifyAddWatch(w.fd, dir, unix.IN_ONLYDIR|unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_FROM|
		unix.IN_MOVED_TO|unix.IN_MOVE_SELF|unix.IN_CLOSE_WRITE)
	if err != nil {
		return os.NewSyscallError("inotify_add_watch", err)
	}
	w.dirs[wd] = dir
	return nil
}
