package units

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// noteFiles is how many files go by between two notes about the progress.
const noteFiles = 1024

// LinkTree makes below to, an empty directory that only root can write to, what is below from: directories with the same mode and owner,
// the same regular files (hard links; copies where the file system refuses a link), and symbolic links. Anything else there is an error.
// What skip names, by its path in the form of CleanPath, is left out with all below it; it is an error when it is not there.
//
// note is told of the progress, nil is allowed. files counts regular files and links, bytes are those of the regular files.
// After an error a part of the tree is there.
func LinkTree(ctx context.Context, from, to int, skip []string, note func(files, bytes uint64)) (files, bytes uint64, err error) {
	w := linker{counter: counter{ctx: ctx, note: note}}
	w.put = w.link
	err = w.make(from, to, skip, &w)
	return w.files, w.bytes, err
}

// skips are the names to leave out in a directory, each with what is to be left out below it; nil = all of it.
type skips map[string]*skips

func skipped(from int, paths []string) (*skips, error) {
	top := &skips{}
	for _, path := range paths {
		if clean, err := CleanPath(path); err != nil || clean != path || path == "" {
			return nil, fmt.Errorf("\"%s\" cannot be left out", FileText(path))
		}
		if _, err := statBeneath(from, path); err != nil {
			return nil, fileError(path, err)
		}
		at := top
		names := strings.Split(path, "/")
		for i, name := range names {
			below, found := (*at)[name]
			if found && below == nil {
				break
			}
			if i == len(names)-1 {
				(*at)[name] = nil
				break
			}
			if !found {
				below = &skips{}
				(*at)[name] = below
			}
			at = below
		}
	}
	return top, nil
}

// statBeneath looks at what path is, which may be a link; on the way to it none is followed.
func statBeneath(dir int, path string) (unix.Stat_t, error) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, err := openSame(dir, path[:i], unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return unix.Stat_t{}, err
		}
		defer unix.Close(parent)
		dir, path = parent, path[i+1:]
	}
	return statAt(dir, path)
}

func statAt(dir int, name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

func sameFile(a, b unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// counter is a visitor that counts. By itself it changes nothing.
type counter struct {
	ctx          context.Context
	note         func(files, bytes uint64)
	d            *descent
	files, bytes uint64
	noted        uint64
}

// CountTree counts the regular files and symbolic links in a tree, and the bytes of the regular files.
func CountTree(ctx context.Context, root int) (files, bytes uint64, err error) {
	c := counter{ctx: ctx}
	if c.d, err = descend(root); err != nil {
		return 0, 0, err
	}
	defer c.d.close()
	err = c.d.walk(ctx, &c)
	return c.files, c.bytes, err
}

func (c *counter) list(s *step) error {
	return c.each(s, func(_ string, st unix.Stat_t) error {
		c.count(st)
		return nil
	})
}

// each goes through what is in a directory: what is none itself goes to file, at the first time; the others are visited next.
func (c *counter) each(s *step, file func(name string, st unix.Stat_t) error) error {
	dirs := firstNames{after: s.after, max: walkNames}
	err := c.d.read(c.ctx, s.at[0].fd, func(name string) error {
		st, err := statAt(s.at[0].fd, name)
		switch {
		case err != nil:
			return err
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			dirs.add(name)
		case !s.again:
			return file(name, st)
		}
		return nil
	})
	dirs.next(s)
	return err
}

func (c *counter) count(st unix.Stat_t) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		c.files++
		c.bytes += uint64(st.Size)
	case unix.S_IFLNK:
		c.files++
	}
	if c.note != nil && c.files >= c.noted+noteFiles {
		c.noted = c.files
		c.note(c.files, c.bytes)
	}
}

func (c *counter) visit(s *step, name string) ([]branch, error) {
	fd, err := openSame(s.at[0].fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fileError(c.d.path(name), err)
	}
	b, err := newBranch(0, fd)
	if err != nil {
		unix.Close(fd)
		return nil, fileError(c.d.path(name), err)
	}
	return []branch{b}, nil
}

func (c *counter) left(*step, string) error { return nil }

// linker is the visitor of LinkTree. Its trees are the source and the new one.
type linker struct {
	counter
	put   func(from, to int, name string, st unix.Stat_t) error // makes what is no directory
	skips []*skips                                              // for each step, nil where nothing is left out below it
}

// make walks with v, which is the linker or has it.
func (w *linker) make(from, to int, skip []string, v visitor) error {
	top, err := skipped(from, skip)
	if err != nil {
		return err
	}
	if w.d, err = descend(from, to); err != nil {
		return err
	}
	defer w.d.close()
	w.skips = []*skips{top}
	return w.d.walk(w.ctx, v)
}

func (w *linker) list(s *step) error {
	at := w.skips[len(w.skips)-1]
	return w.each(s, func(name string, st unix.Stat_t) error {
		if at.holds(name) {
			return nil
		}
		if err := w.put(s.at[0].fd, s.at[1].fd, name, st); err != nil {
			return err
		}
		w.count(st)
		return nil
	})
}

// holds tells whether name is left out altogether.
func (s *skips) holds(name string) bool {
	if s == nil {
		return false
	}
	below, found := (*s)[name]
	return found && below == nil
}

func (w *linker) link(from, to int, name string, st unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return linkFile(w.ctx, from, name, to, name, st)
	case unix.S_IFLNK:
		return copyLink(from, to, name, st)
	}
	return errNoKind
}

// LinkFile gives the regular file name in from another name in to, which must be a directory that only root can write to. Where
// the file system refuses a link it is a copy.
func LinkFile(ctx context.Context, from int, name string, to int, as string) error {
	if err := errors.Join(oneName(name), oneName(as)); err != nil {
		return err
	}
	st, err := statAt(from, name)
	if err == nil {
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return fmt.Errorf("%q: not a regular file", name)
		}
		err = linkFile(ctx, from, name, to, as, st)
	}
	if err != nil {
		return pathError(name, err)
	}
	return nil
}

func linkFile(ctx context.Context, from int, name string, to int, as string, st unix.Stat_t) error {
	err := unix.Linkat(from, name, to, as, 0)
	switch err {
	case nil:
		// What lies in a directory of the server's user could have become something else just now.
		if now, err := statAt(to, as); err != nil || !sameFile(now, st) || now.Mode&unix.S_IFMT != unix.S_IFREG {
			unix.Unlinkat(to, as, 0)
			return errChanged
		}
		return nil
	case unix.EMLINK, unix.EPERM, unix.EXDEV, unix.EOPNOTSUPP:
		return copyFileAs(ctx, from, name, to, as, st)
	}
	return err
}

var errNoKind = errors.New("neither a file nor a directory nor a link")

func copyLink(from, to int, name string, st unix.Stat_t) error {
	target := make([]byte, maxPath+1)
	n, err := unix.Readlinkat(from, name, target)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(target[:n]), to, name); err != nil {
		return err
	}
	if made, err := statAt(to, name); err == nil && made.Uid == st.Uid && made.Gid == st.Gid {
		return nil // as in own
	}
	return unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

// noSetID are the bits of a mode that are copied: left4d and its workers may set no others (RestrictSUIDSGID=), and no file needs them.
const noSetID = 0o1777

func copyFile(ctx context.Context, from, to int, name string, st unix.Stat_t) error {
	return copyFileAs(ctx, from, name, to, name, st)
}

func copyFileAs(ctx context.Context, from int, name string, to int, as string, st unix.Stat_t) (err error) {
	in, err := openSame(from, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	var now unix.Stat_t
	if err := unix.Fstat(in, &now); err != nil {
		return err
	}
	if !sameFile(now, st) || now.Mode&unix.S_IFMT != unix.S_IFREG {
		return errChanged
	}
	out, err := openSame(to, as, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		unix.Close(out)
		if err != nil {
			unix.Unlinkat(to, as, 0)
		}
	}()
	if unix.IoctlFileClone(out, in) != nil {
		if err := copyBytes(ctx, in, out, st.Size); err != nil {
			return err
		}
	}
	if err := own(out, st.Mode&noSetID, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return setModified(to, as, st)
}

func setModified(dir int, name string, st unix.Stat_t) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}
	return unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW)
}

// copyBytes copies a file that has size bytes, but for its holes: what is large and takes no room takes none in the copy.
func copyBytes(ctx context.Context, in, out int, size int64) error {
	for at := int64(0); at < size; {
		data, err := unix.Seek(in, at, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && data >= size {
			break // a hole to the end
		}
		if err != nil {
			return err
		}
		if at, err = unix.Seek(in, data, unix.SEEK_HOLE); err == unix.ENXIO {
			return errChanged
		} else if err != nil {
			return err
		}
		at = min(at, size)
		if err := copyRange(ctx, in, out, data, at); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return err
	}
	if st.Size != size {
		return errChanged
	}
	return unix.Ftruncate(out, size)
}

// copyRange copies what lies from at to end.
func copyRange(ctx context.Context, in, out int, at, end int64) error {
	const chunk = 16 << 20
	plain := false
	buf := []byte(nil)
	for at < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := room(out); err != nil {
			return err
		}
		if !plain {
			from, to := at, at
			n, err := unix.CopyFileRange(in, &from, out, &to, int(min(end-at, chunk)), 0)
			if err == unix.EINTR {
				continue
			}
			// Many errors mean no more than that these file systems cannot; reading and writing tells what is wrong. So does an end
			// before the end: some file systems say so of what they make up as it is read.
			if err != nil || n == 0 {
				plain, buf = true, make([]byte, 256<<10)
				continue
			}
			at += int64(n)
			continue
		}
		n, err := unix.Pread(in, buf[:min(end-at, int64(len(buf)))], at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return errChanged
		}
		for b := buf[:n]; len(b) > 0; {
			n, err := unix.Pwrite(out, b, at)
			if err != nil && err != unix.EINTR {
				return err
			}
			b = b[max(n, 0):]
			at += int64(max(n, 0))
		}
	}
	return nil
}

// room fails when nothing is left but what a file system keeps for root, which the kernel would let this process take.
func room(fd int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	if st.Blocks > 0 && st.Bavail == 0 { // without blocks it counts none
		return unix.ENOSPC
	}
	return nil
}

func (w *linker) visit(s *step, name string) ([]branch, error) {
	at := w.skips[len(w.skips)-1]
	if at.holds(name) {
		return nil, nil
	}
	from, err := w.counter.visit(s, name)
	if err != nil {
		return nil, err
	}
	to, err := makeLike(s.at[1].fd, name, from[0].fd)
	if err != nil {
		unix.Close(from[0].fd)
		return nil, fileError(w.d.path(name), err)
	}
	var below *skips
	if at != nil {
		below = (*at)[name]
	}
	w.skips = append(w.skips, below)
	return append(from, to), nil
}

// makeLike makes the directory name with mode and owner of another one.
func makeLike(dir int, name string, like int) (branch, error) {
	var st unix.Stat_t
	if err := unix.Fstat(like, &st); err != nil {
		return branch{}, err
	}
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		return branch{}, err
	}
	return openLike(dir, name, st)
}

// openLike opens the directory name and gives it mode and owner of st.
func openLike(dir int, name string, st unix.Stat_t) (branch, error) {
	fd, err := openSame(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return branch{}, err
	}
	b, err := newBranch(1, fd)
	if err == nil {
		err = own(fd, st.Mode&noSetID, int(st.Uid), int(st.Gid))
	}
	if err != nil {
		unix.Close(fd)
	}
	return b, err
}

func (w *linker) left(*step, string) error {
	w.skips = w.skips[:len(w.skips)-1]
	return nil
}

// MergeTree moves everything below delta into the tree into: a file or link takes the place of a file or link, a directory that is there gets what
// is in the other one and stays as it is otherwise. A file where a directory is, or the other way round, is an error that names the path. After
// an error a part was moved.
func MergeTree(ctx context.Context, delta, into int) error {
	d, err := descend(delta, into)
	if err != nil {
		return err
	}
	defer d.close()
	return d.walk(ctx, &merger{ctx: ctx, d: d})
}

// merger is the visitor of MergeTree. A directory is read until nothing is left in it: not every file system shows in one pass what
// is left while entries go.
type merger struct {
	ctx context.Context
	d   *descent
}

func (w *merger) list(s *step) error {
	both := firstNames{max: walkNames}
	found := false
	err := w.d.read(w.ctx, s.at[0].fd, func(name string) error {
		found = true
		stays, err := mergeName(s.at[0].fd, s.at[1].fd, name)
		if stays {
			both.add(name)
		}
		return err
	})
	both.next(s)
	s.last, s.rest = "", found
	return err
}

// mergeName moves name, unless it is a directory in both.
func mergeName(delta, into int, name string) (stays bool, err error) {
	st, err := statAt(delta, name)
	if err != nil {
		return false, err
	}
	old, err := statAt(into, name)
	if err != nil && err != unix.ENOENT {
		return false, err
	}
	there := err == nil
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if !there {
			return false, unix.Renameat2(delta, name, into, name, unix.RENAME_NOREPLACE)
		}
		if old.Mode&unix.S_IFMT != unix.S_IFDIR {
			return false, errors.New("a directory cannot take the place of a file")
		}
		return true, nil
	case unix.S_IFREG, unix.S_IFLNK:
		if there && old.Mode&unix.S_IFMT == unix.S_IFDIR {
			return false, errors.New("a file cannot take the place of a directory")
		}
		if there && sameFile(st, old) {
			// To rename a file to another name of its own does nothing.
			return false, unix.Unlinkat(delta, name, 0)
		}
		return false, unix.Renameat(delta, name, into, name)
	}
	return false, errNoKind
}

func (w *merger) visit(s *step, name string) ([]branch, error) {
	var at []branch
	for i, b := range s.at {
		fd, err := openSame(b.fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err == nil {
			var next branch
			next, err = newBranch(i, fd)
			at = append(at, next)
		}
		if err != nil {
			for _, b := range at {
				unix.Close(b.fd)
			}
			return nil, fileError(w.d.path(name), err)
		}
	}
	return at, nil
}

func (w *merger) left(s *step, name string) error {
	return unix.Unlinkat(s.at[0].fd, name, unix.AT_REMOVEDIR)
}

// read calls each for every name in a directory of the walk. Its errors get the name.
func (d *descent) read(ctx context.Context, dir int, each func(name string) error) error {
	var wrong error
	err := readNames(dir, func(name string) error {
		if err := ctx.Err(); err != nil {
			wrong = err
			return err
		}
		if err := each(name); err != nil {
			wrong = fileError(d.path(name), err)
			return wrong
		}
		return nil
	})
	if wrong != nil {
		return wrong
	}
	if err != nil {
		return fileError(d.path(""), err)
	}
	return nil
}
