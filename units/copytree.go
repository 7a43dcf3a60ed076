package units

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// maxLinked is how many bytes of files with more than one name are copied. Each of the names becomes a file of its own, and a server could
// give one file a thousand of them.
const maxLinked = 1 << 30

// CopyTree makes below to, an empty directory that only root can write to, a copy of the upper directory of an overlay: what LinkTree makes,
// but all of it copies, and with it the whiteouts and the mark of opaque directories, which takes CAP_SYS_ADMIN. No other extended attribute
// is copied. Holes stay holes. The names of one file become files of their own, as far as maxLinked goes. Sockets and FIFOs, whose other
// end has gone, are left out; devices are an error.
func CopyTree(ctx context.Context, from, to int, skip []string, note func(files, bytes uint64)) (files, bytes uint64, err error) {
	w := copier{linker: linker{counter: counter{ctx: ctx, note: note}}}
	w.put = w.copy
	err = w.make(from, to, skip, &w)
	return w.files, w.bytes, err
}

// copier is the visitor of CopyTree.
type copier struct {
	linker
	linked uint64 // bytes of files with more than one name
}

func (w *copier) copy(from, to int, name string, st unix.Stat_t) error {
	if err := room(to); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if st.Nlink > 1 {
			if w.linked += uint64(st.Blocks) * 512; w.linked > maxLinked {
				return fmt.Errorf("files with more than one name hold more than %d MiB", maxLinked>>20)
			}
		}
		return copyFile(w.ctx, from, to, name, st)
	case unix.S_IFLNK:
		if err := copyLink(from, to, name, st); err != nil {
			return err
		}
		return setModified(to, name, st)
	case unix.S_IFSOCK, unix.S_IFIFO:
		return nil
	}
	if kindOf(st) != kindWhiteout {
		return errNoKind
	}
	// The one device that takes no CAP_MKNOD (since 5.8), and no control group forbids.
	if err := unix.Mknodat(to, name, st.Mode&(unix.S_IFMT|0o777), 0); err != nil {
		return err
	}
	return unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

func (w *copier) visit(s *step, name string) ([]branch, error) {
	if err := room(s.at[1].fd); err != nil {
		return nil, fileError(w.d.path(name), err)
	}
	at, err := w.linker.visit(s, name)
	if at == nil || err != nil {
		return nil, err
	}
	mark, err := opaque(at[0].fd)
	if err == nil && mark == 'y' {
		err = unix.Fsetxattr(at[1].fd, opaqueAttr, []byte("y"), 0)
	}
	if err != nil {
		for _, b := range at {
			unix.Close(b.fd)
		}
		return nil, fileError(w.d.path(name), err)
	}
	return at, nil
}

// left sets a directory's time after all was made in it.
func (w *copier) left(s *step, name string) error {
	st, err := statAt(s.at[0].fd, name)
	if err == nil {
		err = setModified(s.at[1].fd, name, st)
	}
	if err != nil {
		return err
	}
	return w.linker.left(s, name)
}
