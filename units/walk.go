package units

import (
	"context"
	"errors"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// This file goes through directories that lie at the same path in one or more trees, in the order of their names. Servers and archives
// decide how deep trees are, how many names a directory has and how long they are, so none of that may grow what a walk holds:
//
//   - descriptors: those of the innermost directories, up to walkOpen. Others are opened anew when the walk comes back to them, and it
//     ends with errChanged when they are no longer where they were;
//   - names: walkNames of one directory, four times that in all. A directory with more is read again for the next ones;
//   - depth: walkDepth.

const (
	walkOpen  = 512
	walkNames = 1 << 14
	walkDepth = 1 << 14
)

var errChanged = errors.New("changed while it was read")

// descent is a walk through the trees below roots.
type descent struct {
	roots []int
	steps []*step // from the top to the directory where the walk is
	size  int     // bytes of the path to there
	open  int     // descriptors
	first int     // steps between the top and this one have none
	held  int     // names
}

// step is a directory on the way.
type step struct {
	name string
	at   []branch // in the order of the roots

	names []string // to be visited next
	after string   // the last one that was visited, or need not be
	last  string   // the last one that the list was made of, visited or not; "" = go on after the visited one
	rest  bool     // there may be more
	again bool     // it was listed before
}

// branch is that directory in one of the trees.
type branch struct {
	root     int // index in roots
	fd       int // -1 = closed for now
	dev, ino uint64
	marked   bool // its empty files may be whiteouts, see lookAt
}

func newBranch(root, fd int) (branch, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return branch{root: root, fd: fd, dev: st.Dev, ino: st.Ino}, err
}

// descend begins a walk at the top. The roots stay the caller's.
func descend(roots ...int) (*descent, error) {
	d := &descent{roots: roots}
	top := &step{rest: true}
	for i, fd := range roots {
		b, err := newBranch(i, fd)
		if err != nil {
			return nil, err
		}
		top.at = append(top.at, b)
	}
	d.steps = []*step{top}
	d.first = 1
	return d, nil
}

func (d *descent) here() *step { return d.steps[len(d.steps)-1] }

// path is that of name in the directory where the walk is.
func (d *descent) path(name string) string {
	var b strings.Builder
	for _, s := range d.steps[1:] {
		b.WriteString(s.name)
		b.WriteByte('/')
	}
	b.WriteString(name)
	return strings.TrimSuffix(b.String(), "/")
}

// push goes into a directory, and takes over the descriptors.
func (d *descent) push(name string, at []branch) error {
	d.steps = append(d.steps, &step{name: name, at: at, rest: true})
	d.size += len(name) + 1
	d.open += len(at)
	if len(d.steps) > walkDepth {
		return errors.New("too many directories within each other")
	}
	for d.open > walkOpen && d.first < len(d.steps)-1 {
		d.shut(d.steps[d.first])
		d.first++
	}
	for i := 0; d.held > 3*walkNames && i < len(d.steps)-1; i++ {
		s := d.steps[i]
		d.held -= len(s.names)
		if len(s.names) > 0 {
			s.names, s.last, s.rest = nil, "", true
		}
	}
	return nil
}

// pop goes back, and tells from where.
func (d *descent) pop() (name string, err error) {
	s, above := d.here(), d.steps[len(d.steps)-2]
	if above.at[0].fd < 0 {
		d.climb(s, above)
	}
	d.shut(s)
	d.held -= len(s.names)
	d.steps = d.steps[:len(d.steps)-1]
	d.size -= len(s.name) + 1
	if above.at[0].fd < 0 {
		return s.name, d.reopen()
	}
	d.first = min(d.first, max(1, len(d.steps)-1))
	return s.name, nil
}

// climb opens the directory above by the one within it, if that is known to lead back in all trees.
func (d *descent) climb(s, above *step) {
	for i, b := range above.at {
		n := slices.IndexFunc(s.at, func(b2 branch) bool { return b2.root == b.root })
		if n < 0 {
			break
		}
		fd, err := unix.Openat(s.at[n].fd, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		now, err := newBranch(b.root, fd)
		if err != nil || now.dev != b.dev || now.ino != b.ino {
			unix.Close(fd)
			break
		}
		above.at[i].fd = fd
		d.open++
	}
	if above.at[len(above.at)-1].fd < 0 {
		d.shut(above)
	}
}

func (d *descent) shut(s *step) {
	for i := range s.at {
		if s.at[i].fd >= 0 {
			unix.Close(s.at[i].fd)
			s.at[i].fd = -1
			d.open--
		}
	}
}

// reopen opens the directory where the walk is, and some of those above it, so that this happens seldom.
func (d *descent) reopen() error {
	here := len(d.steps) - 1
	d.first = max(1, here-walkOpen/(2*len(d.roots)))
	for _, b := range d.steps[d.first].at {
		at := d.roots[b.root]
		for i := 1; i <= here; i++ {
			s := d.steps[i]
			n := slices.IndexFunc(s.at, func(b2 branch) bool { return b2.root == b.root })
			if n < 0 {
				break
			}
			fd, err := openSame(at, s.name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			if i <= d.first && at != d.roots[b.root] {
				unix.Close(at)
			}
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
				return errChanged
			}
			if err != nil {
				return err
			}
			now, err := newBranch(b.root, fd)
			if err == nil && (now.dev != s.at[n].dev || now.ino != s.at[n].ino) {
				err = errChanged
			}
			if err != nil {
				unix.Close(fd)
				return err
			}
			if i >= d.first {
				s.at[n].fd = fd
				d.open++
			}
			at = fd
		}
	}
	return nil
}

// close ends the walk, wherever it is.
func (d *descent) close() {
	for _, s := range d.steps[1:] {
		d.shut(s)
	}
}

// visitor is what is done on a walk.
type visitor interface {
	// list sets the names to visit next in a directory, and whether it is to be called again for more.
	list(s *step) error
	// visit does what is to be done with one. Branches that it returns are walked into.
	visit(s *step, name string) ([]branch, error)
	// left is called after all within a directory was visited.
	left(s *step, name string) error
}

// walk visits everything. It ends with the context, and with the first error, which names the file.
func (d *descent) walk(ctx context.Context, v visitor) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := d.here()
		if len(s.names) == 0 && s.rest {
			if s.last != "" {
				s.after = s.last
			}
			if err := v.list(s); err != nil {
				return err
			}
			s.again = true
			d.held += len(s.names)
			continue
		}
		if len(s.names) == 0 {
			if len(d.steps) == 1 {
				return nil
			}
			path := d.path("")
			name, err := d.pop()
			if err == nil {
				err = v.left(d.here(), name)
			}
			if err != nil {
				return fileError(path, err)
			}
			continue
		}
		name := s.names[0]
		s.names = s.names[1:]
		s.after = name
		d.held--
		at, err := v.visit(s, name)
		if err == nil && at != nil {
			if err = d.push(name, at); err != nil {
				err = fileError(d.path(""), err)
			}
		}
		if err != nil {
			return err
		}
	}
}

// firstNames keeps the first of the names that are added, in their order and not more than max (or twice that, for a while).
type firstNames struct {
	after string // names up to this one are not wanted
	max   int
	twice bool // a name that is added twice is kept twice; nothing may be added max times
	all   []string
	limit string // from this one on names were left out; "" = none were
}

func (f *firstNames) add(name string) {
	if name <= f.after || f.limit != "" && name >= f.limit {
		return
	}
	f.all = append(f.all, name)
	if len(f.all) >= 2*f.max {
		f.cut()
	}
}

func (f *firstNames) cut() {
	slices.Sort(f.all)
	if !f.twice {
		f.all = slices.Compact(f.all)
	}
	if len(f.all) <= f.max {
		return
	}
	f.limit = f.all[f.max]
	end := sort.SearchStrings(f.all, f.limit)
	clear(f.all[end:])
	f.all = f.all[:end]
}

// next makes them what is visited next in a directory.
func (f *firstNames) next(s *step) {
	f.cut()
	s.names, s.last, s.rest = f.all, "", f.limit != ""
	if len(f.all) > 0 {
		s.last = f.all[len(f.all)-1]
	}
}
