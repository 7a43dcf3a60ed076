package units

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// This file works beneath directory descriptors. A game server owns what lies below its upper directory and may have
// planted anything there, so the rules are:
//
//   - a path is opened beneath a descriptor, no link on the way or at its end is followed;
//   - what was opened is looked at and changed through its descriptor, not through its name again;
//   - names go into errors quoted: they may hold any byte but "/" and NUL.
//
// openat2(2) would open a path in one call, but systemd blocks it (ENOSYS) in a unit with RestrictSUIDSGID=, which left4d, its
// workers and left4-overlay have. So a path is walked name by name: as ".." is refused and no link is followed at any
// step, the walk can only go down. What openat2 promises with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS and,
// by the mounts' ids, RESOLVE_NO_XDEV is promised here too, and with its errors.

// tempPrefix begins the names of files that are being written aside. No name of ours begins so.
const tempPrefix = ".left4-"

// OpenBeneath opens path, which is relative, below the directory dir. It fails with EXDEV where the path leads out of dir
// and with ELOOP where a link is on the way or at its end. It may cross into a mount. mode counts where flags create.
// The descriptor is close-on-exec and the caller's to close.
func OpenBeneath(dir int, path string, flags int, mode uint32) (int, error) {
	return openBeneath(dir, path, flags, mode, false)
}

// openSame is OpenBeneath that fails with EXDEV rather than cross into another mount, a bind of the same file system included.
func openSame(dir int, path string, flags int, mode uint32) (int, error) {
	return openBeneath(dir, path, flags, mode, true)
}

func openBeneath(dir int, path string, flags int, mode uint32, same bool) (int, error) {
	names := strings.Split(path, "/")
	if strings.HasPrefix(path, "/") || slices.Contains(names, "..") {
		return -1, pathError(path, unix.EXDEV)
	}
	for _, name := range names {
		if err := oneName(name); err != nil && path != "." {
			return -1, err
		}
	}
	at := dir
	for i, name := range names {
		how := unix.O_PATH | unix.O_DIRECTORY
		if i == len(names)-1 {
			how = flags
		}
		next, err := openName(at, name, how, mode, same)
		if at != dir {
			unix.Close(at)
		}
		if err != nil {
			return -1, pathError(path, err)
		}
		at = next
	}
	return at, nil
}

// openName is one step of openBeneath.
func openName(dir int, name string, flags int, mode uint32, same bool) (int, error) {
	fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	for err == unix.EINTR {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	}
	var st unix.Stat_t
	if err == unix.ENOTDIR && unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return -1, unix.ELOOP
	}
	if err != nil {
		return -1, err
	}
	if flags&unix.O_PATH != 0 {
		// Such a descriptor can hold a link itself.
		if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			err = unix.ELOOP
		}
	}
	if err == nil && same {
		var here, there uint64
		if here, err = mountID(dir); err == nil {
			there, err = mountID(fd)
		}
		if err == nil && here != there {
			err = unix.EXDEV
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func mountID(fd int) (uint64, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	return st.Mnt_id, err
}

// pathError tells what is wrong with path in words that fit what the resolution rules refuse.
func pathError(path string, err error) error {
	switch err {
	case unix.ELOOP:
		return fmt.Errorf("%q: a link is in the way (%w)", path, err)
	case unix.EXDEV:
		return fmt.Errorf("%q: leads out of its directory or into another mount (%w)", path, err)
	}
	return fmt.Errorf("%q: %w", path, err)
}

// cause is the bare reason in an error of package os, whose own text does not quote the name.
func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// openAbs opens a directory of the system by its absolute path, which only root could have made.
func openAbs(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, pathError(path, err)
	}
	return fd, nil
}

// MkdirAllBeneath makes the directory path below dir and all that are missing on the way, and opens the last one for
// reading. Those it makes get mode, uid and gid (-1: as they come); those that are there stay as they are.
func MkdirAllBeneath(dir int, path string, mode uint32, uid, gid int) (int, error) {
	at := dir
	for _, name := range strings.Split(path, "/") {
		next, err := mkdirOpen(at, name, mode, uid, gid)
		if at != dir {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

func mkdirOpen(dir int, name string, mode uint32, uid, gid int) (int, error) {
	if err := oneName(name); err != nil {
		return -1, err
	}
	made := unix.Mkdirat(dir, name, 0o700)
	if made != nil && made != unix.EEXIST {
		return -1, pathError(name, made)
	}
	fd, err := OpenBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == nil && made == nil {
		if err = own(fd, mode, uid, gid); err != nil {
			unix.Close(fd)
			err = pathError(name, err)
		}
	}
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// own sets the mode first: whoever gives a file away may need a capability to change its mode afterwards.
func own(fd int, mode uint32, uid, gid int) error {
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	if uid == -1 && gid == -1 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && int(st.Uid) == uid && int(st.Gid) == gid {
		return nil // the worker's seccomp filter refuses the call, even one that would change nothing
	}
	return unix.Fchown(fd, uid, gid)
}

// oneName refuses what is not the name of one directory entry.
func oneName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q: not a file name (%w)", name, unix.EINVAL)
	}
	return nil
}

// ReadFileBeneath reads the regular file path below dir. A file larger than limit bytes is an error, and so is anything that is
// no regular file: a FIFO is not waited for.
func ReadFileBeneath(dir int, path string, limit int64) ([]byte, error) {
	data, _, err := regularBeneath(dir, path, limit)
	return data, err
}

func regularBeneath(dir int, path string, limit int64) ([]byte, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := OpenBeneath(dir, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, st, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, st, pathError(path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, fmt.Errorf("%q: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, st, fmt.Errorf("%q: %w", path, cause(err))
	}
	if int64(len(data)) > limit {
		return nil, st, fmt.Errorf("%q: larger than %d bytes", path, limit)
	}
	return data, st, nil
}

// WriteFileAtomic gives the directory dir (open for reading) a regular file name with these bytes, mode and owner (-1: as they
// come). Whatever the name meant before, other than a directory, is replaced and not written to. After a crash there is the
// old file or the new one, whole; a file that was being written aside may stay, its name begins with ".left4-".
// A file that is already as wanted is left alone, and changed is false.
func WriteFileAtomic(dir int, name string, data []byte, mode uint32, uid, gid int) (changed bool, err error) {
	if err := oneName(name); err != nil {
		return false, err
	}
	old, st, err := regularBeneath(dir, name, int64(len(data)))
	if err == nil && bytes.Equal(old, data) && st.Mode&0o7777 == mode &&
		(uid < 0 || st.Uid == uint32(uid)) && (gid < 0 || st.Gid == uint32(gid)) {
		return false, nil
	}

	temp := tempPrefix + rand.Text()
	if err := createFile(dir, temp, data, mode, uid, gid); err != nil {
		return false, err
	}
	if err := unix.Renameat(dir, temp, dir, name); err != nil {
		unix.Unlinkat(dir, temp, 0)
		return false, pathError(name, err)
	}
	if err := unix.Fsync(dir); err != nil {
		return true, pathError(name, err)
	}
	return true, nil
}

// createFile makes a file that was not there, and leaves none when it fails.
func createFile(dir int, name string, data []byte, mode uint32, uid, gid int) (err error) {
	fd, err := openSame(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	defer func() {
		if err != nil {
			unix.Unlinkat(dir, name, 0)
			err = pathError(name, cause(err))
		}
	}()
	if err := own(fd, mode, uid, gid); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return unix.Fsync(fd)
}

// readNames calls each for every name in the directory dir, in batches, so that memory does not grow with their number.
// Names that come or go meanwhile may be missed.
func readNames(dir int, each func(name string) error) error {
	fd, err := openSame(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	for {
		names, err := f.Readdirnames(512)
		for _, name := range names {
			if err := each(name); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// removeDepth is how deep RemoveTree descends with a descriptor per level. What lies deeper is moved up first.
const removeDepth = 32

// RemoveTree removes name, a path below dir, and everything in it. Links are removed, not followed. When something is mounted
// at or below name, the error names the mount and nothing is removed; a mount that appears during the removal is not entered.
// Not there is success. It can be repeated after it was interrupted. The tree must be one that nobody writes to any more.
func RemoveTree(dir int, name string) error {
	// A name that begins with "/" keeps it and is refused below.
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		parent, err := OpenBeneath(dir, name[:i], unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		defer unix.Close(parent)
		dir, name = parent, name[i+1:]
	}
	if err := oneName(name); err != nil {
		return err
	}
	// Most often there is nothing, or a file. What is mounted on is neither removed nor missing.
	if err := unix.Unlinkat(dir, name, 0); err == nil || err == unix.ENOENT {
		return nil
	}
	if err := notMounted(dir, name); err != nil {
		return err
	}
	r := remover{top: -1}
	return r.remove(dir, name, 0)
}

// descriptorPath is where an open directory lies now, without links and as mountinfo writes it.
func descriptorPath(fd int) (string, error) {
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(path, "/"), nil
}

// notMounted fails when name in dir is a mount point or holds one.
func notMounted(dir int, name string) error {
	path, err := descriptorPath(dir)
	if err != nil {
		return err
	}
	path += "/" + name
	all, err := mounts()
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.point == path || strings.HasPrefix(m.point, path+"/") {
			return fmt.Errorf("cannot remove %q: %q is mounted", path, m.point)
		}
	}
	return nil
}

type remover struct {
	top   int // the root of the tree that goes
	moved uint64
}

func (r *remover) remove(parent int, name string, depth int) error {
	err := unix.Unlinkat(parent, name, 0)
	switch err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR, unix.EPERM:
		// POSIX lets a file system say either for a directory.
	default:
		return pathError(name, err)
	}
	switch err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err {
	case nil, unix.ENOENT:
		return nil
	case unix.ENOTEMPTY, unix.EEXIST:
	default:
		return pathError(name, err)
	}

	fd, err := openToEmpty(parent, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if depth == removeDepth {
		return r.hoist(parent, name)
	}
	if depth == 0 {
		r.top = fd
	}
	for {
		if err := readNames(fd, func(child string) error { return r.remove(fd, child, depth+1) }); err != nil {
			return err
		}
		// Not every file system shows in one pass what is left while entries go, and hoist adds some.
		switch err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err {
		case nil, unix.ENOENT:
			return nil
		case unix.ENOTEMPTY, unix.EEXIST:
		default:
			return pathError(name, err)
		}
	}
}

// hoist moves a directory to the top of the tree, where a later pass finds it: neither descriptors nor stack grow with the depth.
func (r *remover) hoist(parent int, name string) error {
	for {
		r.moved++
		err := unix.Renameat2(parent, name, r.top, tempPrefix+strconv.FormatUint(r.moved, 10), unix.RENAME_NOREPLACE)
		switch err {
		case nil, unix.ENOENT:
			return nil
		case unix.EEXIST:
		default:
			return pathError(name, err)
		}
	}
}

// openToEmpty opens a directory so that its entries can be removed, also one whose mode shuts its owner out.
func openToEmpty(parent int, name string) (int, error) {
	fd, err := openSame(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.EACCES) {
		var path int
		if path, err = openSame(parent, name, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return -1, err
		}
		// fchmod takes no such descriptor; the link in /proc leads to exactly what it holds.
		err = unix.Chmod("/proc/self/fd/"+strconv.Itoa(path), 0o700)
		unix.Close(path)
		if err != nil {
			return -1, pathError(name, err)
		}
		fd, err = openSame(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&0o700 != 0o700 {
		// Needless where the caller may override modes; where it matters and fails, removing the entries says so.
		unix.Fchmod(fd, 0o700)
	}
	return fd, nil
}
