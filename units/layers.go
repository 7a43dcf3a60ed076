package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// This file tells what overlayfs makes of layers, from the layers: see Documentation/filesystems/overlayfs.rst. A whiteout, a character
// device 0:0, hides what lies below it. A directory hides the one below it when it is opaque, which an extended attribute says.
// Kernels since 6.7 also take an empty file with another attribute for a whiteout, in a directory that is marked for it.
//
// A server may change the upper directory meanwhile: what it makes of it then is told of before or after, never of elsewhere.

// What a Found or an Entry is.
const (
	kindFile      = "file"
	kindDirectory = "directory"
	kindOpaque    = "opaque" // a directory that hides those below it
	kindLink      = "link"
	kindWhiteout  = "whiteout"
	kindOther     = "other" // a FIFO, a socket, a device
)

const (
	opaqueAttr   = "trusted.overlay.opaque"
	whiteoutAttr = "trusted.overlay.whiteout"
)

// ErrUntrusted says that this process may not read what makes a directory opaque: that takes CAP_SYS_ADMIN in the first user namespace.
var ErrUntrusted = errors.New("this process may not read which directories are opaque (CAP_SYS_ADMIN)")

// trusted fails with ErrUntrusted. The kernel does not: to whom it refuses these attributes it says that there are none. It does refuse
// to set one.
var trusted = sync.OnceValue(func() error {
	fd, err := unix.MemfdCreate("left4-trusted", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch err := unix.Fsetxattr(fd, "trusted.left4", nil, unix.XATTR_REPLACE); err {
	case unix.ENODATA, unix.EOPNOTSUPP:
		return nil
	case nil, unix.EPERM:
		return ErrUntrusted
	default:
		return err
	}
})

// opaque is what the attribute of an open directory says: 'y' it is opaque, 'x' its empty files may be whiteouts, 0 neither.
func opaque(dir int) (byte, error) {
	if err := trusted(); err != nil {
		return 0, err
	}
	var value [1]byte
	n, err := unix.Fgetxattr(dir, opaqueAttr, value[:])
	switch {
	case err == unix.ENODATA, err == unix.EOPNOTSUPP, err == unix.ERANGE, err == nil && n == 0:
		return 0, nil // the kernel takes no other value for one of these either
	case err != nil:
		return 0, err
	}
	return value[0], nil
}

// node is what a layer has at a path.
type node struct {
	kind string
	st   unix.Stat_t
	dir  int    // where it is
	in   branch // a directory, open
}

func (n node) isDir() bool { return n.kind == kindDirectory || n.kind == kindOpaque }

func (n node) size() uint64 {
	if n.kind == kindFile {
		return uint64(n.st.Size)
	}
	return 0
}

func kindOf(st unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return kindFile
	case unix.S_IFDIR:
		return kindDirectory
	case unix.S_IFLNK:
		return kindLink
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return kindWhiteout
		}
	}
	return kindOther
}

// lookAt tells what name in a directory of a layer is, and opens it when it is a directory. Nothing there is ENOENT.
func lookAt(at branch, name string) (node, error) {
	for range 3 {
		st, err := statAt(at.fd, name)
		if err != nil {
			return node{}, err
		}
		n := node{kind: kindOf(st), st: st, dir: at.fd}
		switch n.kind {
		case kindFile:
			if at.marked && st.Size == 0 {
				white, err := emptyWhiteout(at.fd, name)
				if err != nil {
					return node{}, err
				}
				if white {
					n.kind = kindWhiteout
				}
			}
			return n, nil
		case kindDirectory:
			n.in, n.kind, err = openLayerDir(at.fd, name)
			n.in.root = at.root
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
				continue // it became something else just now
			}
			return n, err
		}
		return n, nil
	}
	return node{}, errChanged
}

// openLayerDir opens a directory of a layer and tells whether it is opaque.
func openLayerDir(dir int, name string) (b branch, kind string, err error) {
	fd, err := openSame(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return b, "", err
	}
	var mark byte
	if b, err = newBranch(0, fd); err == nil {
		mark, err = opaque(fd)
	}
	if err != nil {
		unix.Close(fd)
		return b, "", err
	}
	b.marked = mark == 'x'
	if mark == 'y' {
		return b, kindOpaque, nil
	}
	return b, kindDirectory, nil
}

// emptyWhiteout reads the attribute by a name, for to open a file may do more than look at it. The name leads to what is in the directory
// itself, for no link is followed.
func emptyWhiteout(dir int, name string) (bool, error) {
	_, err := unix.Lgetxattr(descriptorLink(dir)+"/"+name, whiteoutAttr, nil)
	switch err {
	case nil:
		return true, nil
	case unix.ENODATA, unix.EOPNOTSUPP, unix.ENOENT:
		return false, nil
	}
	return false, err
}

// Found is what one layer has at a path.
type Found struct {
	Layer  int    // index
	Kind   string // file, directory, opaque, link, whiteout, other
	Hidden bool   // by a layer above
}

// FindInLayers tells which layers, given as open directories with the highest first, have something at a path in the form of CleanPath.
// The first one that is neither hidden nor a whiteout is what a server sees. Links on the way are not followed: to overlayfs a link is no
// directory, and hides those below it.
func FindInLayers(layers []int, path string) ([]Found, error) {
	var names []string
	if path != "" {
		names = strings.Split(path, "/")
	}
	var all []Found
	// What the layers so far make of each directory on the way and of what is at its end.
	above := make([]struct{ hides, directory bool }, len(names))
	for i, layer := range layers {
		b, _, err := openLayerDir(layer, ".")
		if err != nil {
			return nil, fileError("", err)
		}
		kind := kindDirectory // the top of a layer cannot be opaque
		visible, end := true, len(names) == 0
		for k, name := range names {
			n, err := lookAt(b, name)
			unix.Close(b.fd)
			b.fd = -1
			if err == unix.ENOENT {
				break
			}
			if err != nil {
				return nil, fileError(strings.Join(names[:k+1], "/"), err)
			}
			at := &above[k]
			switch {
			case !visible:
			case at.hides:
				visible = false
			case n.isDir():
				at.directory = true
				at.hides = n.kind == kindOpaque
			default:
				visible = n.kind == kindWhiteout || !at.directory
				at.hides = true
			}
			kind, end = n.kind, k == len(names)-1
			if !n.isDir() {
				break
			}
			b = n.in
		}
		if b.fd >= 0 {
			unix.Close(b.fd)
		}
		if end {
			all = append(all, Found{i, kind, !visible})
		}
	}
	return all, nil
}

// Change is what a server made of one file or directory.
type Change struct {
	Path   string // in the form of FileText
	Change string // added, changed, replaced, removed
	Size   uint64 // of a regular file that is there now
}

const (
	// sameMax is how large a file, in bytes, can be whose contents are compared.
	sameMax = 1 << 20
	// textMax is how many bytes the paths in one answer may have together.
	textMax = 4 << 20
)

// ChangesIn tells what the directory upper changes in the layers lowers, the highest first, as overlayfs puts them together:
//
//   - added: nothing is below; also all that is in an added or replaced directory;
//   - changed: a file or link over one. A file of up to 1 MiB, or a link, that is just as the one below is left out, whatever its mode;
//   - replaced: something of another type, or a directory that hides the one below;
//   - removed: a whiteout, where something is below.
//
// A directory that is there only because something in it changed is left out. They come in the order of their paths, what is in a directory right
// after it. more tells that there are more than max, or some with longer paths than CleanPath takes.
func ChangesIn(ctx context.Context, upper int, lowers []int, max int) (all []Change, more bool, err error) {
	w := changes{ctx: ctx, found: found{max: max}}
	if w.d, err = descend(append([]int{upper}, lowers...)...); err != nil {
		return nil, false, err
	}
	defer w.d.close()
	for i := range w.d.roots {
		// The top cannot be opaque, but it can be marked.
		b, _, err := openLayerDir(w.d.roots[i], ".")
		if err != nil {
			return nil, false, fileError("", err)
		}
		unix.Close(b.fd)
		w.d.steps[0].at[i].marked = b.marked
	}
	err = w.d.walk(ctx, &w)
	if errors.Is(err, errFull) || errors.Is(err, errChanged) {
		w.more, err = true, nil
	}
	return w.all, w.more, err
}

// found is an answer of bounded size.
type found struct {
	max  int
	size int // bytes of paths
	more bool
}

var errFull = errors.New("there are more")

// take makes room for one more.
func (f *found) take(n int, text string) error {
	if f.size += len(text); n >= f.max || f.size > textMax {
		return errFull
	}
	return nil
}

// tooLong tells whether a path in the directory where the walk is cannot be named by anybody.
func (d *descent) tooLong(name string) bool { return d.size+len(name) > maxPath }

// changes is the visitor of ChangesIn. Its first tree is upper. What lies in a directory without the others was added.
type changes struct {
	found
	ctx context.Context
	d   *descent
	all []Change
}

func (w *changes) list(s *step) error {
	names := firstNames{after: s.after, max: walkNames}
	err := w.d.read(w.ctx, s.at[0].fd, func(name string) error {
		names.add(name)
		return nil
	})
	names.next(s)
	return err
}

func (w *changes) visit(s *step, name string) ([]branch, error) {
	n, err := lookAt(s.at[0], name)
	if err == unix.ENOENT {
		return nil, nil
	}
	var below node
	var at []branch
	if err == nil {
		below, at, err = lookBelow(s.at[1:], name, n.kind == kindDirectory)
		if n.isDir() {
			at = append([]branch{n.in}, at...)
		}
	}
	if err == nil {
		err = w.compare(n, below, name)
	}
	if err == nil && n.isDir() && w.d.tooLong(name+"/") {
		w.more = true
		closeBranches(at)
		at = nil
	}
	if err != nil {
		closeBranches(at)
		if err == errFull {
			return nil, err
		}
		return nil, fileError(w.d.path(name), err)
	}
	return at, nil
}

func closeBranches(all []branch) {
	for _, b := range all {
		unix.Close(b.fd)
	}
}

// lookBelow tells what layers show at name together, kind "" for nothing. With merge, dirs are the directories that a directory above them
// is merged with.
func lookBelow(layers []branch, name string, merge bool) (first node, dirs []branch, err error) {
	for _, b := range layers {
		n, err := lookAt(b, name)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			closeBranches(dirs)
			return node{}, nil, err
		}
		if n.kind == kindWhiteout {
			break
		}
		if first.kind == "" {
			first = n
		}
		if !n.isDir() {
			break
		}
		if !merge {
			unix.Close(n.in.fd)
			break
		}
		dirs = append(dirs, n.in)
		if n.kind == kindOpaque {
			break
		}
	}
	return first, dirs, nil
}

// compare notes what changed.
func (w *changes) compare(n, below node, name string) error {
	change := ""
	switch {
	case n.kind == kindWhiteout && below.kind != "":
		change = "removed"
	case n.kind == kindWhiteout:
	case below.kind == "":
		change = "added"
	case n.isDir() != below.isDir(), n.kind == kindOpaque, !n.isDir() && n.kind != below.kind:
		change = "replaced"
	case !n.isDir() && !same(n, below, name):
		change = "changed"
	}
	if change == "" {
		return nil
	}
	if w.d.tooLong(name) {
		w.more = true
		return nil
	}
	text := FileText(w.d.path(name))
	if err := w.take(len(w.all), text); err != nil {
		return err
	}
	w.all = append(w.all, Change{text, change, n.size()})
	return nil
}

// same tells whether two files, or two links, are sure to be alike.
func same(a, b node, name string) bool {
	switch a.kind {
	case kindLink:
		one, two := make([]byte, maxPath+1), make([]byte, maxPath+1)
		n, err := unix.Readlinkat(a.dir, name, one)
		if err != nil {
			return false
		}
		m, err := unix.Readlinkat(b.dir, name, two)
		return err == nil && bytes.Equal(one[:n], two[:m])
	case kindFile:
		if a.st.Size != b.st.Size || a.st.Size > sameMax {
			return false
		}
		one, err := ReadFileBeneath(a.dir, name, sameMax)
		if err != nil {
			return false
		}
		two, err := ReadFileBeneath(b.dir, name, sameMax)
		return err == nil && bytes.Equal(one, two)
	}
	return false
}

func (w *changes) left(*step, string) error { return nil }

// Conflict is a path at which more than one layer has something, of which at most one can be seen.
type Conflict struct {
	Path   string // in the form of FileText
	Layers []int  // indices of all that have something there, highest first
}

// ConflictsIn finds the paths at which more than one of these layers has a file, or one has a file and another one a directory; anything that
// is no directory counts as a file, but for whiteouts. They come in the order of their paths, what is in a directory right after it.
// more tells that there are more than max, or some with longer paths than CleanPath takes.
func ConflictsIn(ctx context.Context, layers []int, max int) (all []Conflict, more bool, err error) {
	if len(layers) < 2 {
		return nil, false, nil
	}
	w := conflicts{ctx: ctx, found: found{max: max}}
	if w.d, err = descend(layers...); err != nil {
		return nil, false, err
	}
	defer w.d.close()
	err = w.d.walk(ctx, &w)
	if errors.Is(err, errFull) {
		w.more, err = true, nil
	}
	return w.all, w.more, err
}

// conflicts is the visitor of ConflictsIn. It visits the names that more than one layer has.
type conflicts struct {
	found
	ctx context.Context
	d   *descent
	all []Conflict
}

func (w *conflicts) list(s *step) error {
	names := firstNames{after: s.after, max: walkNames, twice: true}
	for _, b := range s.at {
		err := w.d.read(w.ctx, b.fd, func(name string) error {
			names.add(name)
			return nil
		})
		if err != nil {
			return err
		}
	}
	names.next(s)
	s.names = repeated(s.names)
	return nil
}

// repeated are those in a sorted list that are there more than once.
func repeated(names []string) []string {
	all := names[:0]
	for i, name := range names {
		if i > 0 && name == names[i-1] && (len(all) == 0 || name != all[len(all)-1]) {
			all = append(all, name)
		}
	}
	return slices.Clone(all)
}

func (w *conflicts) visit(s *step, name string) ([]branch, error) {
	at, err := w.compare(s, name)
	if err == nil && len(at) > 1 && !w.d.tooLong(name+"/") {
		return at, nil
	}
	w.more = w.more || err == nil && len(at) > 1
	closeBranches(at)
	if err != nil && err != errFull {
		err = fileError(w.d.path(name), err)
	}
	return nil, err
}

func (w *conflicts) compare(s *step, name string) (at []branch, err error) {
	var layers []int
	for _, b := range s.at {
		st, err := statAt(b.fd, name)
		if err == unix.ENOENT || err == nil && kindOf(st) == kindWhiteout {
			continue
		}
		if err != nil {
			return at, err
		}
		layers = append(layers, b.root)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		fd, err := openSame(b.fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return at, err
		}
		next, err := newBranch(b.root, fd)
		at = append(at, next)
		if err != nil {
			return at, err
		}
	}
	if len(layers) < 2 || len(layers) == len(at) {
		return at, nil
	}
	if w.d.tooLong(name) {
		w.more = true
		return at, nil
	}
	text := FileText(w.d.path(name))
	if err := w.take(len(w.all), text); err != nil {
		return at, err
	}
	w.all = append(w.all, Conflict{text, layers})
	return at, nil
}

func (w *conflicts) left(*step, string) error { return nil }

// Entry is one name in a directory.
type Entry struct {
	Name     string // in the form of FileText
	Kind     string // file, directory, link, other
	Size     uint64 // of a regular file
	Modified int64  // µs since 1970
}

// ListDir lists the directory at path, in the form of CleanPath, in one layer: the first max names in their order, and whether there are more.
// No link is followed: one on the way is ELOOP, and so is one at the end; a file there is ENOTDIR.
func ListDir(root int, path string, max int) (all []Entry, more bool, err error) {
	if max < 1 {
		return nil, false, fmt.Errorf("cannot list %d names", max)
	}
	if path == "" {
		path = "."
	}
	dir, err := openSame(root, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, false, fileError(path, err)
	}
	defer unix.Close(dir)
	names := firstNames{max: max}
	if err := readNames(dir, func(name string) error { names.add(name); return nil }); err != nil {
		return nil, false, fileError(path, err)
	}
	var s step
	names.next(&s)
	for _, name := range s.names {
		st, err := statAt(dir, name)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil, false, fileError(strings.TrimPrefix(path+"/"+name, "./"), err)
		}
		e := Entry{Name: FileText(name), Kind: kindOf(st), Modified: st.Mtim.Nano() / 1000}
		switch e.Kind {
		case kindFile:
			e.Size = uint64(st.Size)
		case kindWhiteout:
			e.Kind = kindOther
		}
		all = append(all, e)
	}
	return all, s.rest, nil
}
