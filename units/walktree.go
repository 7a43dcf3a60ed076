package units

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// WalkTree calls each for everything below root: for a directory before it is opened, so that one which cannot be opened may be made to.
// It ends with the context and with the first error, which names the file.
func WalkTree(ctx context.Context, root int, each func(dir int, name, path string, st unix.Stat_t) error) error {
	w := treeWalker{counter: counter{ctx: ctx}, call: each}
	var err error
	if w.d, err = descend(root); err != nil {
		return err
	}
	defer w.d.close()
	return w.d.walk(ctx, &w)
}

// treeWalker is the visitor of WalkTree.
type treeWalker struct {
	counter
	call func(dir int, name, path string, st unix.Stat_t) error
}

func (w *treeWalker) list(s *step) error {
	return w.each(s, func(name string, st unix.Stat_t) error { return w.call(s.at[0].fd, name, w.d.path(name), st) })
}

func (w *treeWalker) visit(s *step, name string) ([]branch, error) {
	path := w.d.path(name)
	st, err := statAt(s.at[0].fd, name)
	if err == nil {
		err = w.call(s.at[0].fd, name, path, st)
	}
	if err != nil {
		return nil, fileError(path, err)
	}
	return w.counter.visit(s, name)
}

// CopyFiles makes below to, an empty directory, copies of what is below from: directories, files with their modes and times, and symbolic links.
// They belong to whoever calls it. Anything else there is an error. note is told of the progress, nil is allowed.
func CopyFiles(ctx context.Context, from, to int, note func(files, bytes uint64)) error {
	w := linker{counter: counter{ctx: ctx, note: note}}
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	w.put = func(from, to int, name string, st unix.Stat_t) error {
		st.Uid, st.Gid = uid, gid // their own: nothing else could be given to them
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			return copyFile(w.ctx, from, to, name, st)
		case unix.S_IFLNK:
			return copyLink(from, to, name, st)
		}
		return errNoKind
	}
	return w.make(from, to, nil, &w)
}

// Usage is what the files in a tree take of the file system.
type Usage struct{ Files, Bytes uint64 }

// TreeUsage tells what is below root, while somebody may be changing it: what goes meanwhile is left out. It ends early when it is more
// than max. A file with several names counts once, if all of them are there.
func TreeUsage(ctx context.Context, root int, max Usage) (Usage, error) {
	w := usageCounter{counter: counter{ctx: ctx}, max: max}
	var err error
	if w.d, err = descend(root); err != nil {
		return Usage{}, err
	}
	defer w.d.close()
	err = w.d.walk(ctx, &w)
	if errors.Is(err, errMore) || errors.Is(err, errChanged) {
		err = nil
	}
	return w.Usage, err
}

var errMore = errors.New("there is more than is allowed")

// usageCounter is the visitor of TreeUsage.
type usageCounter struct {
	counter
	Usage
	max Usage
}

func (w *usageCounter) list(s *step) error {
	dirs := firstNames{after: s.after, max: walkNames}
	err := w.d.read(w.ctx, s.at[0].fd, func(name string) error {
		st, err := statAt(s.at[0].fd, name)
		if err == unix.ENOENT {
			return nil
		}
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			dirs.add(name)
			st.Nlink = 1
		}
		if s.again {
			return nil
		}
		w.Files++
		w.Bytes += uint64(st.Blocks) * 512 / max(1, uint64(st.Nlink))
		if w.Files > w.max.Files || w.Bytes > w.max.Bytes {
			return errMore
		}
		return nil
	})
	dirs.next(s)
	return err
}

func (w *usageCounter) visit(s *step, name string) ([]branch, error) {
	at, err := w.counter.visit(s, name)
	for _, gone := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP} {
		if errors.Is(err, gone) {
			return nil, nil
		}
	}
	return at, err
}
