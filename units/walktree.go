package units

import (
	"context"
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
		st.Uid, st.Gid = uid, gid
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
