package units

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Squashing makes one whole layer of some, as overlayfs puts them together. It shares all files with them.
type Squashing struct {
	Lower []string // as in a plan, highest first
	Into  string   // where nothing else is, below game/ or overlays/ and with a name that no revision has
}

// maxSquashing bounds the text of a Squashing.
const maxSquashing = 1 << 20

// AnswerSquashing reads a Squashing as JSON and does it, and tells out as JSON how far it is: left4-overlay's side of Systemd.Squash. It takes
// CAP_SYS_ADMIN, and CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FOWNER. What it made before an error stays.
func (l Layout) AnswerSquashing(ctx context.Context, in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(io.LimitReader(in, maxSquashing))
	if err != nil {
		return err
	}
	var q Squashing
	if err := json.Unmarshal(text, &q); err != nil {
		return err
	}
	var last copying
	tell := json.NewEncoder(out)
	err = l.squash(ctx, q, func(files, bytes uint64) {
		last.Files, last.Bytes = files, bytes
		_ = tell.Encode(last)
	})
	last.Done = err == nil
	if err != nil {
		last.Error = err.Error()
	}
	_ = tell.Encode(last)
	return err
}

func (l Layout) squash(ctx context.Context, q Squashing, note func(files, bytes uint64)) error {
	if err := trusted(); err != nil {
		return err
	}
	if err := (Plan{"squash", q.Lower}).check(); err != nil {
		return err
	}
	if err := checkLower(q.Into); err != nil || !strings.HasPrefix(q.Into[strings.LastIndexByte(q.Into, '/')+1:], ".") {
		return fmt.Errorf("%q is no place for a new layer", q.Into)
	}
	var fds descriptors
	defer fds.close()
	state, err := fds.keep(openAbs(l.State))
	if err != nil {
		return err
	}
	uid, gid, err := l.Owner()
	if err != nil {
		return err
	}
	// What an interrupted one has left.
	if err := RemoveTree(state, q.Into); err != nil {
		return err
	}
	into, err := fds.keep(MkdirAllBeneath(state, q.Into, 0o755, uid, gid))
	if err != nil {
		return err
	}
	layers := make([]int, len(q.Lower))
	for i, lower := range q.Lower {
		if layers[i], err = fds.keep(openLower(state, lower)); err != nil {
			return err
		}
	}
	return squashLayers(ctx, layers, into, note)
}

// squashLayers makes in an empty directory what overlayfs makes of layers, the highest first.
func squashLayers(ctx context.Context, layers []int, into int, note func(files, bytes uint64)) error {
	for _, layer := range slices.Backward(layers) {
		w := applier{linker{counter: counter{ctx: ctx, note: note}}}
		if err := w.make(layer, into, nil, &w); err != nil {
			return err
		}
	}
	return unix.Syncfs(into)
}

// applier is the visitor that puts a layer over a tree.
type applier struct{ linker }

func (w *applier) list(s *step) error {
	if len(w.d.steps) == 1 && !s.again {
		// The top cannot be opaque, but it can be marked.
		top, _, err := openLayerDir(s.at[0].fd, ".")
		if err != nil {
			return fileError("", err)
		}
		unix.Close(top.fd)
		s.at[0].marked = top.marked
	}
	return w.each(s, func(name string, st unix.Stat_t) error {
		n, err := lookAt(s.at[0], name)
		if err != nil {
			return err
		}
		if err := RemoveTree(s.at[1].fd, name); err != nil || n.kind == kindWhiteout {
			return err
		}
		if err := room(s.at[1].fd); err != nil {
			return err
		}
		w.count(st)
		return w.link(s.at[0].fd, s.at[1].fd, name, st)
	})
}

func (w *applier) visit(s *step, name string) ([]branch, error) {
	from, kind, err := openLayerDir(s.at[0].fd, name)
	if err != nil {
		return nil, fileError(w.d.path(name), err)
	}
	from.root = s.at[0].root
	to, err := applyDir(from.fd, s.at[1].fd, name, kind == kindOpaque)
	if err != nil {
		unix.Close(from.fd)
		return nil, fileError(w.d.path(name), err)
	}
	w.skips = append(w.skips, nil)
	return []branch{from, to}, nil
}

// applyDir opens the directory of the tree that one of the layer goes into.
func applyDir(from, to int, name string, opaque bool) (branch, error) {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return branch{}, err
	}
	old, err := statAt(to, name)
	if err == nil && (opaque || old.Mode&unix.S_IFMT != unix.S_IFDIR) {
		err = RemoveTree(to, name)
	} else if err == unix.ENOENT {
		err = nil
	}
	if err != nil {
		return branch{}, err
	}
	if err := unix.Mkdirat(to, name, 0o700); err != nil && err != unix.EEXIST {
		return branch{}, err
	}
	return openLike(to, name, st)
}

// Squash has program, which is left4-overlay, do q. note may be nil.
func (s *Systemd) Squash(ctx context.Context, program string, q Squashing, note func(files, bytes uint64)) error {
	question, err := json.Marshal(q)
	if err != nil {
		return err
	}
	// That of a left4d that was killed may still be at it, in the same place.
	earlier, err := s.Running(ctx, "left4-squash-*.service")
	if err != nil {
		return err
	}
	for _, unit := range earlier {
		if err := s.Stop(ctx, unit); err != nil {
			return err
		}
	}
	unit := fmt.Sprintf("left4-squash-%d-%d.service", os.Getpid(), inspections.Add(1))
	err = s.askCopying(ctx, unit, squashProperties(program), question, workerStopTimeout, note)
	if err != nil {
		return fmt.Errorf("cannot join %d layers: %w", len(q.Lower), err)
	}
	return nil
}

// squashProperties are those of a process that may change what is below game/.
func squashProperties(program string) []property {
	list := overlayProperties(program, "squash")
	set := func(name string, value any) { list = append(list, property{name, dbus.MakeVariant(value)}) }
	set("Description", "left4: layers of the game are joined")
	set("TimeoutStartUSec", uint64(cloneTimeout.Microseconds()))
	// trusted.* attributes; names for the files of another user.
	set("CapabilityBoundingSet", uint64(1<<unix.CAP_SYS_ADMIN|1<<unix.CAP_CHOWN|1<<unix.CAP_DAC_OVERRIDE|1<<unix.CAP_FOWNER))
	set("ReadWritePaths", []string{stateDir + "/game"})
	set("SystemCallFilter", allowList{true, []string{"@chown"}})
	return list
}

var errHolds = errors.New("there is a file")

// HoldsFiles tells whether there is anything but directories in a tree, the directory but at its top left out.
func HoldsFiles(ctx context.Context, root int, but string) (bool, error) {
	w := finder{counter{ctx: ctx}, but}
	var err error
	if w.d, err = descend(root); err != nil {
		return false, err
	}
	defer w.d.close()
	err = w.d.walk(ctx, &w)
	if errors.Is(err, errHolds) {
		return true, nil
	}
	return false, err
}

// finder is the visitor of HoldsFiles.
type finder struct {
	counter
	but string
}

func (w *finder) list(s *step) error {
	return w.each(s, func(string, unix.Stat_t) error { return errHolds })
}

func (w *finder) visit(s *step, name string) ([]branch, error) {
	if len(w.d.steps) == 1 && name == w.but {
		return nil, nil
	}
	return w.counter.visit(s, name)
}
