package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// Bounds of one answer.
const (
	maxEntries = 10_000
	maxRows    = 5000
	maxAnswer  = 8 << 20 // bytes of text
)

// Found is a layer that holds a path.
type Found struct {
	Layer string // upper, the overlay's name, or game
	Kind  string // file, directory, opaque, link, whiteout, other; "hidden " before it where no server sees it
}

// Conflict is a path that more than one overlay holds.
type Conflict struct {
	Path     string
	Overlays []string // highest first
}

// stack is the layers of an instance, opened, highest first.
type stack struct {
	fds   []int
	names []string
}

func (s *stack) close() {
	for _, fd := range s.fds {
		unix.Close(fd)
	}
}

// open adds a directory below the state directory. Servers can swap none on the way to it.
func (s *stack) open(d *Daemon, layer, name string) error {
	fd, err := d.openDir(layer)
	if err != nil {
		return err
	}
	s.fds = append(s.fds, fd)
	s.names = append(s.names, name)
	return nil
}

// openDir opens a directory below the state directory; no link is followed on the way.
func (d *Daemon) openDir(name string) (fd int, err error) {
	state, err := unix.Open(d.Layout.State, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(state)
	return units.OpenBeneath(state, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// lower are the layers that an instance has mounted, or would have after its next start.
func (d *Daemon) lower(instance string) ([]string, error) {
	in, err := d.Instance(instance)
	if err != nil {
		return nil, err
	}
	lower, mounted, err := d.Layout.MountedLower(instance)
	if err != nil {
		return nil, err
	}
	if mounted && lower != nil {
		return lower, nil
	}
	r, err := d.render(in.Instance)
	if err != nil {
		return nil, err
	}
	return r.plan.Lower, nil
}

// inspect asks about those, and about what the server wrote.
func (d *Daemon) inspect(ctx context.Context, q units.Inspection) (units.Findings, []string, error) {
	lower, err := d.lower(q.Instance)
	if err != nil {
		return units.Findings{}, nil, err
	}
	q.Lower = lower
	f, err := d.Units.Inspect(ctx, d.PreStart, q)
	if err != nil {
		return f, nil, err
	}
	var labels []string
	if f.Upper {
		labels = []string{"upper"}
	}
	for _, layer := range lower {
		labels = append(labels, d.layerLabel(layer))
	}
	return f, labels, nil
}

// layerLabel is what people call a layer of a plan.
func (d *Daemon) layerLabel(layer string) string {
	id, err := strconv.ParseUint(path.Base(path.Dir(layer)), 10, 32)
	if err != nil {
		return "game"
	}
	if name := d.overlayName(uint32(id)); name != "" {
		return name
	}
	return path.Dir(layer)
}

// FindFile tells which layers of an instance hold a path, highest first: of what is mounted, or of what its next start
// mounts. Errors: NoSuchInstance, InvalidArgument, and those of a start.
func (d *Daemon) FindFile(ctx context.Context, instance, file string) ([]Found, error) {
	if _, err := d.Instance(instance); err != nil {
		return nil, err
	}
	name, err := readPath(file)
	if err != nil {
		return nil, err
	}
	f, labels, err := d.inspect(ctx, units.Inspection{Instance: instance, Path: []byte(name)})
	if err != nil {
		return nil, err
	}
	found := make([]Found, 0, len(f.Found))
	for _, row := range f.Found {
		if row.Layer < 0 || row.Layer >= len(labels) {
			return nil, fmt.Errorf("cannot look at the files of %s: the answer names layer %d of %d", instance, row.Layer, len(labels))
		}
		if row.Hidden {
			row.Kind = "hidden " + row.Kind
		}
		found = append(found, Found{labels[row.Layer], row.Kind})
	}
	return found, nil
}

// ListChanges tells what a server itself has changed over its layers; more tells that there is more than the answer
// holds. Errors as FindFile.
func (d *Daemon) ListChanges(ctx context.Context, instance string) (changes []units.Change, more bool, err error) {
	f, _, err := d.inspect(ctx, units.Inspection{Instance: instance, Changes: true, Max: maxRows})
	if err != nil {
		return nil, false, err
	}
	staged := d.untouched(instance)
	f.Changes = slices.DeleteFunc(f.Changes, func(c units.Change) bool { return staged[c.Path] })
	return f.Changes, f.More, nil
}

// untouched are the files, by path, that were staged for an instance and that its server has left as they were.
func (d *Daemon) untouched(instance string) map[string]bool {
	plan, cfg, err := d.Layout.ReadInstance(instance)
	if err != nil {
		return nil
	}
	// After an initialize of a running server what was staged for it is not known any more: not told is better than a lie.
	mounted, isMounted, err := d.Layout.Mounted(instance)
	newer := err == nil && isMounted && mounted != plan.Digest
	all := map[string]bool{}
	for name, text := range cfg {
		file := path.Join("left4dead2/cfg", name)
		now, err := d.readLayer(path.Join("runtime", instance, "upper"), file)
		all[file] = newer || err == nil && bytes.Equal(now, text)
	}
	return all
}

// InstanceConflicts tells which files more than one overlay of an instance holds.
func (d *Daemon) InstanceConflicts(ctx context.Context, name string) ([]Conflict, bool, error) {
	in, err := d.Instance(name)
	if err != nil {
		return nil, false, err
	}
	return d.conflicts(ctx, in.Effective.Overlays)
}

// BlueprintConflicts tells which files more than one overlay of a blueprint holds.
func (d *Daemon) BlueprintConflicts(ctx context.Context, name string) ([]Conflict, bool, error) {
	b, err := d.Blueprint(name)
	if err != nil {
		return nil, false, err
	}
	return d.conflicts(ctx, b.Overlays.V)
}

func (d *Daemon) conflicts(ctx context.Context, overlays []store.OverlayRef) ([]Conflict, bool, error) {
	layers, err := d.layers(spec{overlays: overlays})
	if err != nil {
		return nil, false, err
	}
	var s stack
	defer s.close()
	for _, l := range layers {
		if err := s.open(d, l.name(), l.Overlay); err != nil {
			return nil, false, err
		}
	}
	rows, more, err := units.ConflictsIn(ctx, s.fds, maxRows)
	if err != nil {
		return nil, false, err
	}
	conflicts := make([]Conflict, 0, len(rows))
	size := 0
	for _, row := range rows {
		c := Conflict{Path: row.Path}
		size += len(row.Path)
		for _, layer := range row.Layers {
			c.Overlays = append(c.Overlays, s.names[layer])
			size += len(s.names[layer])
		}
		if size > maxAnswer {
			return conflicts, true, nil
		}
		conflicts = append(conflicts, c)
	}
	return conflicts, more, nil
}

// revisionLayer is where a revision of an overlay lies, 0 = the current one.
func (d *Daemon) revisionLayer(overlay string, revision uint32) (string, error) {
	o, err := d.Overlay(overlay)
	if err != nil {
		return "", err
	}
	if revision == 0 {
		revision = o.Revision
	}
	if !slices.ContainsFunc(o.Revisions, func(r store.Revision) bool { return r.ID == revision }) {
		return "", errorf(InvalidArgument, "overlay %s has no revision %d on disk", overlay, revision)
	}
	return layerName(o.ID, revision), nil
}

// openRevision opens that.
func (d *Daemon) openRevision(overlay string, revision uint32) (fd int, err error) {
	layer, err := d.revisionLayer(overlay, revision)
	if err != nil {
		return -1, err
	}
	var s stack
	if err := s.open(d, layer, ""); err != nil {
		return -1, err
	}
	return s.fds[0], nil
}

// ListFiles lists a directory of an overlay's revision, 0 = the current one; "" is its top. Errors: NoSuchOverlay,
// InvalidArgument.
func (d *Daemon) ListFiles(ctx context.Context, overlay, dir string, revision uint32) ([]units.Entry, bool, error) {
	name, err := readPath(dir)
	if err != nil {
		return nil, false, err
	}
	fd, err := d.openRevision(overlay, revision)
	if err != nil {
		return nil, false, err
	}
	defer unix.Close(fd)
	entries, more, err := units.ListDir(fd, name, maxEntries)
	return entries, more, pathFailure(overlay, name, err)
}

// OpenFile opens a file of an overlay's revision for reading, 0 = the current one. Errors: NoSuchOverlay,
// InvalidArgument.
func (d *Daemon) OpenFile(overlay, file string, revision uint32) (*os.File, error) {
	name, err := readPath(file)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return nil, errorf(InvalidArgument, "the top of overlay %s is no file", overlay)
	}
	dir, err := d.openRevision(overlay, revision)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := units.OpenBeneath(dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, pathFailure(overlay, name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errorf(InvalidArgument, "%s in overlay %s is no file", units.FileText(name), overlay)
	}
	return f, nil
}

// pathFailure says what is wrong with a caller's path. It is written as left4 writes it: the caller may have left control characters in it.
func pathFailure(overlay, name string, err error) error {
	file := units.FileText(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errorf(InvalidArgument, "overlay %s has no %s", overlay, file)
	case errors.Is(err, unix.ENOTDIR):
		return errorf(InvalidArgument, "%s in overlay %s is no directory, or leads through a file", file, overlay)
	case errors.Is(err, unix.ELOOP):
		return errorf(InvalidArgument, "%s in overlay %s is a link, or leads through one", file, overlay)
	}
	return err
}

// secretKeys are what Secret gives out.
var secretKeys = map[string]func(store.Instance) string{
	"rcon_password": func(in store.Instance) string { return in.RconPassword },
}

// Secret is a secret of an instance. Errors: NoSuchInstance, InvalidArgument.
func (d *Daemon) Secret(name, key string) (string, error) {
	in, err := d.Instance(name)
	if err != nil {
		return "", err
	}
	secret := secretKeys[key]
	if secret == nil {
		var known []string
		for key := range secretKeys {
			known = append(known, key)
		}
		slices.Sort(known)
		return "", errorf(InvalidArgument, "an instance has no secret %q: use %s", shorten(key), strings.Join(known, ", "))
	}
	return secret(in.Instance), nil
}
