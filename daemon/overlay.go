package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// Overlay is a layer of files as the outside sees it.
type Overlay struct {
	store.Overlay
	State     string
	Cause     string           // why the last import or build failed
	Revision  uint32           // that the next start mounts, 0 = none
	Revisions []store.Revision // that are on disk, oldest first
}

// States of an overlay.
const (
	OverlayReady    = "ready"
	OverlayBuilding = "building"
	OverlayFailed   = "failed" // the last import or build; Revision is what it was before
	OverlayEmpty    = "empty"  // there has been none yet
)

// overlay is the view of one overlay.
type overlay struct {
	store.Overlay
	building bool
	failed   string // the cause
}

// overlayTypes are the ways an overlay comes by its files.
var overlayTypes map[string]overlayType

// An init, because a build ends in what looks at them.
func init() {
	overlayTypes = map[string]overlayType{
		"files":      {},
		ScriptType:   {build: (*Daemon).buildScript, deadline: scriptDeadline, onTop: true},
		workshopType: {build: (*Daemon).buildWorkshop, alone: true},
	}
}

type overlayType struct {
	build    func(*Daemon, context.Context, *job) error // nil = it is imported
	deadline time.Duration                              // of a build, 0 = that of its kind
	alone    bool                                       // one of the type is built at a time
	onTop    bool                                       // it can be built of the current revision
}

// overlayKinds are the kinds of jobs that make revisions of an overlay.
var overlayKinds = []string{importOverlayKind, buildOverlayKind}

// OverlayChanges is what a caller wants of an overlay's config; nil leaves a key as it is.
type OverlayChanges struct {
	Keep   *uint32
	Items  *[]string // ids of items and collections of the workshop, or their addresses
	Script *string   // of bash
}

const maxKeep = 100

// Check tells whether the changes are allowed for a type of overlay; "" is any.
func (c OverlayChanges) Check(kind string) error {
	if _, known := overlayTypes[kind]; kind != "" && !known {
		return errorf(InvalidArgument, "overlay type %q is not known: use %s", shorten(kind), strings.Join(overlayTypeNames(), ", "))
	}
	if c.Keep != nil && *c.Keep > maxKeep {
		return errorf(InvalidArgument, "keep of %d is not allowed: at most %d older revisions can be kept", *c.Keep, maxKeep)
	}
	if c.Script != nil {
		if kind != "" && kind != ScriptType {
			return errorf(InvalidArgument, "a script is not allowed for an overlay of type %s: only type %s has one", kind, ScriptType)
		}
		if err := checkScript(*c.Script); err != nil {
			return err
		}
	}
	if c.Items != nil {
		if kind != "" && kind != workshopType {
			return errorf(InvalidArgument, "items are not allowed for an overlay of type %s: only type %s has them", kind, workshopType)
		}
		_, err := workshopIDs(*c.Items)
		return err
	}
	return nil
}

// into changes a config. Check must have allowed it.
func (c OverlayChanges) into(config *store.OverlayConfig) (changed bool, err error) {
	if c.Keep != nil {
		config.Keep, changed = c.Keep, true
	}
	if c.Script != nil {
		config.Script, changed = *c.Script, true
	}
	if c.Items != nil {
		changed = true
		config.Items, err = workshopIDs(*c.Items)
	}
	return changed, err
}

func overlayTypeNames() []string {
	var all []string
	for name := range overlayTypes {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}

// CreateOverlay defines an overlay of owner. One whose files are imported has an empty revision at once. Errors:
// InvalidName, InvalidArgument, OverlayExists.
func (d *Daemon) CreateOverlay(name, kind string, c OverlayChanges, owner uint32) (Overlay, error) {
	if err := CheckName(name); err != nil {
		return Overlay{}, err
	}
	if kind == "" {
		return Overlay{}, errorf(InvalidArgument, "an overlay needs a type: use %s", strings.Join(overlayTypeNames(), ", "))
	}
	if err := c.Check(kind); err != nil {
		return Overlay{}, err
	}
	if kind == ScriptType && c.Script == nil {
		return Overlay{}, errorf(InvalidArgument, "cannot create overlay %s: one of type %s needs a script", name, kind)
	}
	o := store.Overlay{Name: name, Type: kind, Owner: owner, OwnerName: LoginName(owner), Created: now()}
	if _, err := c.into(&o.Config.V); err != nil {
		return Overlay{}, err
	}
	d.accept.Lock()
	defer d.accept.Unlock()
	if _, err := d.Overlay(name); err == nil {
		return Overlay{}, errorf(OverlayExists, "cannot create overlay %s: there is such an overlay", name)
	}
	d.mu.Lock()
	leaving := d.atWork(overlayQueue(name), deleteOverlayKind)
	d.mu.Unlock()
	if leaving {
		return Overlay{}, errorf(Busy, "cannot create overlay %s: an earlier one is still being deleted", name)
	}
	if err := d.Store.CreateOverlay(&o); err != nil {
		return Overlay{}, fmt.Errorf("cannot create overlay %s: %w", name, err)
	}
	if err := d.beginOverlay(o); err != nil {
		return Overlay{}, errors.Join(fmt.Errorf("cannot create overlay %s: %w", name, err), d.Store.DeleteOverlay(o.ID))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.overlays[name] = &overlay{Overlay: o}
	view := d.overlayView(d.overlays[name])
	d.Events.OverlayNew(view)
	return view, nil
}

// beginOverlay makes the directory of a new overlay, and its first revision if it is not built.
func (d *Daemon) beginOverlay(o store.Overlay) error {
	// Closed to other users: an overlay may hold the passwords of its plugins.
	if err := os.Mkdir(d.layerPath(o.ID, ""), 0o700); err != nil {
		return err
	}
	err := syncDir(d.layerPath(o.ID, ".."))
	if err == nil && overlayTypes[o.Type].build == nil {
		err = d.addEmptyRevision(o.ID)
	}
	if err != nil {
		return errors.Join(err, d.removeBeneath(layerDir(o.ID)))
	}
	return nil
}

func (d *Daemon) addEmptyRevision(overlay uint32) error {
	uid, gid, err := d.Layout.Owner()
	if err != nil {
		return err
	}
	r := store.Revision{Overlay: overlay, Created: now()}
	if r.ID, err = d.Store.AddRevision(overlay, 0, r.Created); err != nil {
		return err
	}
	dir := d.layerPath(overlay, revisionName(r.ID))
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755), os.Chown(dir, uid, gid), syncDir(d.layerPath(overlay, ""))); err != nil {
		return err
	}
	return d.publish(r)
}

// UpdateOverlay changes the config of an overlay, and makes one of its older revisions the current one if it is told
// which. kind must be the overlay's type, or "". Errors: NoSuchOverlay, InvalidArgument.
func (d *Daemon) UpdateOverlay(name, kind string, c OverlayChanges, revision *uint32) (Overlay, error) {
	view, err := d.redefineOverlay(name, kind, c, revision)
	if err != nil {
		return Overlay{}, err
	}
	d.revisionsChanged(view.ID)
	return view, nil
}

func (d *Daemon) redefineOverlay(name, kind string, c OverlayChanges, revision *uint32) (Overlay, error) {
	d.accept.Lock()
	defer d.accept.Unlock()
	old, err := d.Overlay(name)
	if err != nil {
		return Overlay{}, err
	}
	if kind != "" && kind != old.Type {
		return Overlay{}, errorf(InvalidArgument, "cannot update overlay %s: its type is %s and cannot be changed", name, old.Type)
	}
	if err := c.Check(old.Type); err != nil {
		return Overlay{}, err
	}
	if revision != nil {
		if err := d.setCurrent(old.ID, *revision); err != nil {
			return Overlay{}, fmt.Errorf("cannot update overlay %s: %w", name, err)
		}
	}
	changed := old.Overlay
	if is, err := c.into(&changed.Config.V); err != nil {
		return Overlay{}, err
	} else if is {
		if err := d.Store.UpdateOverlay(changed); err != nil {
			return Overlay{}, fmt.Errorf("cannot update overlay %s: %w", name, err)
		}
		d.changeOverlay(name, func(o *overlay) { o.Config = changed.Config })
	}
	return d.Overlay(name)
}

// Import says how the archive becomes a revision of an overlay.
type Import struct {
	Size uint64 // of the stream in bytes, 0 = not known
	store.Parameters
}

const (
	maxRemove = 1000 // paths of one import
	maxPath   = 4095 // bytes
)

// ImportOverlay accepts a job that makes a revision of an overlay of an archive, and takes over the file, which must
// be a pipe's reading end or a regular file, open for reading. Errors: NoSuchOverlay, InvalidArgument, QuotaExceeded.
func (d *Daemon) ImportOverlay(name string, stream *os.File, im Import, r Request) (Job, error) {
	j, err := d.importOverlay(name, stream, im, r)
	if err != nil {
		stream.Close()
	}
	return j, err
}

func (d *Daemon) importOverlay(name string, stream *os.File, im Import, r Request) (Job, error) {
	o, err := d.Overlay(name)
	if err != nil {
		return Job{}, err
	}
	if overlayTypes[o.Type].build != nil {
		return Job{}, errorf(InvalidArgument, "cannot import into overlay %s: it is of type %s, whose files are built", name, o.Type)
	}
	if err := im.Check(); err != nil {
		return Job{}, err
	}
	if err := checkStream(stream); err != nil {
		return Job{}, err
	}
	row := store.Job{Kind: importOverlayKind, Target: name}
	row.Parameters.V = im.Parameters
	return d.submit(&job{Job: Job{Job: row}, stream: stream, size: im.Size}, r)
}

// Check tells whether an import is allowed at all.
func (im Import) Check() error {
	switch {
	case len(im.Remove) > 0 && !im.Merge:
		return errorf(InvalidArgument, "remove is not allowed without merge: what is not merged replaces all")
	case len(im.Remove) > maxRemove:
		return errorf(InvalidArgument, "%d paths to remove are too many: at most %d are allowed", len(im.Remove), maxRemove)
	}
	for _, text := range im.Remove {
		if path, err := readPath(text); err != nil {
			return err
		} else if path == "" {
			return errorf(InvalidArgument, "the top of an overlay cannot be removed")
		}
	}
	file, err := readPath(im.File)
	if err != nil {
		return err
	}
	if strings.Contains(file, "/") {
		return errorf(InvalidArgument, "filename %s is not allowed: it is that of a file, without its directory", shorten(im.File))
	}
	if err := checkText("the name of the file", file, maxText); err != nil {
		return err
	}
	into, err := readPath(im.Into)
	if err != nil {
		return err
	}
	// It goes to the worker in its environment, which systemd wants to be text.
	return checkText("the directory to unpack into", into, maxText)
}

// readPath reads a path below a layer as a caller writes it.
func readPath(text string) (string, error) {
	if len(text) > 4*maxPath {
		return "", errorf(InvalidArgument, "a path of %d bytes is not allowed: at most %d are", len(text), maxPath)
	}
	name, err := units.FileName(text)
	if err == nil {
		name, err = units.CleanPath(name)
	}
	if err != nil {
		return "", errorf(InvalidArgument, "%v", err)
	}
	return name, nil
}

// BuildOverlay accepts a job that builds a revision of an overlay. Errors: NoSuchOverlay, InvalidArgument.
func (d *Daemon) BuildOverlay(name string, r Request) (Job, error) {
	return d.acceptBuild(name, false, r)
}

// BuildOverlayOnTop is BuildOverlay where the build begins with the files of the current revision.
func (d *Daemon) BuildOverlayOnTop(name string, r Request) (Job, error) {
	return d.acceptBuild(name, true, r)
}

func (d *Daemon) acceptBuild(name string, onTop bool, r Request) (Job, error) {
	o, err := d.Overlay(name)
	if err != nil {
		return Job{}, err
	}
	kind := overlayTypes[o.Type]
	switch {
	case kind.build == nil:
		return Job{}, errorf(InvalidArgument, "cannot build overlay %s: the files of type %s are imported", name, o.Type)
	case onTop && !kind.onTop:
		return Job{}, errorf(InvalidArgument, "cannot build overlay %s: one of type %s is not built on top of another revision", name, o.Type)
	}
	row := store.Job{Kind: buildOverlayKind, Target: name}
	row.Parameters.V.OnTop = onTop
	return d.submit(&job{Job: Job{Job: row}, deadline: kind.deadline}, r)
}

func (d *Daemon) buildOverlay(ctx context.Context, j *job) error {
	o, err := d.Overlay(j.Target)
	if err != nil {
		return err
	}
	return overlayTypes[o.Type].build(d, ctx, j)
}

// DeleteOverlay accepts a job that removes an overlay with all its revisions. What is not there is deleted with
// success. Errors: InvalidName, InUse.
func (d *Daemon) DeleteOverlay(name string, r Request) (Job, error) {
	if err := CheckName(name); err != nil {
		return Job{}, err
	}
	if err := d.overlayUnused(name); err != nil {
		return Job{}, err
	}
	return d.submit(&job{Job: Job{Job: store.Job{Kind: deleteOverlayKind, Target: name}}}, r)
}

// overlayUnused fails with InUse where a definition names the overlay.
func (d *Daemon) overlayUnused(name string) error {
	var users []string
	named := func(o store.OverlayRef) bool { return o.Overlay == name }
	for _, b := range d.Blueprints() {
		if slices.ContainsFunc(b.Overlays.V, named) {
			users = append(users, "blueprint "+b.Name)
		}
	}
	for _, in := range d.Instances() {
		if slices.ContainsFunc(in.Overlays.V, named) {
			users = append(users, "instance "+in.Name)
		}
	}
	if len(users) > 0 {
		return errorf(InUse, "cannot delete overlay %s: it is used by %s", name, strings.Join(users, ", "))
	}
	return nil
}

func (d *Daemon) deleteOverlay(ctx context.Context, j *job) error {
	name := j.Target
	o, err := d.Overlay(name)
	if AsCode(err) == NoSuchOverlay {
		return nil
	}
	if err != nil {
		return err
	}
	d.step(j, "looking who uses it")
	if err := d.forgetOverlay(ctx, j, o); err != nil {
		return err
	}
	d.step(j, removing)
	if err := d.removeBeneath(goneName(o.ID)); err != nil {
		return fmt.Errorf("cannot delete overlay %s: %w", name, err)
	}
	return nil
}

// forgetOverlay takes an overlay out of the way and out of the database, if nothing uses it.
func (d *Daemon) forgetOverlay(ctx context.Context, j *job, o Overlay) error {
	d.accept.Lock()
	defer d.accept.Unlock()
	if err := d.overlayUnused(o.Name); err != nil {
		return err
	}
	unlock, err := d.freezePlans(ctx)
	if err != nil {
		return fmt.Errorf("cannot delete overlay %s: %w", o.Name, err)
	}
	defer unlock()
	d.movePlans()
	used, err := d.usedRevisions()
	if err != nil {
		return fmt.Errorf("cannot delete overlay %s: %w", o.Name, err)
	}
	if users := used.of(o.ID); len(users) > 0 {
		return errorf(InUse, "cannot delete overlay %s: %s still runs with it; restart or stop it first", o.Name, strings.Join(users, ", "))
	}
	err = os.Rename(d.layerPath(o.ID, ""), d.layerPath(o.ID, "../"+goneElement(o.ID)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot delete overlay %s: %w", o.Name, err)
	}
	if err := d.Store.DeleteOverlay(o.ID); err != nil {
		return fmt.Errorf("cannot delete overlay %s: %w", o.Name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// Who hears that the overlay is gone may make another one, which has another directory.
	j.over = true
	delete(d.overlays, o.Name)
	delete(d.revisions, o.ID)
	d.Events.OverlayRemoved(o)
	return nil
}

// Overlay returns one overlay, or NoSuchOverlay.
func (d *Daemon) Overlay(name string) (Overlay, error) {
	if err := CheckName(name); err != nil {
		return Overlay{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if o := d.overlays[name]; o != nil {
		return d.overlayView(o), nil
	}
	return Overlay{}, errorf(NoSuchOverlay, "there is no overlay %s", name)
}

// Overlays returns all overlays by name.
func (d *Daemon) Overlays() []Overlay {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]Overlay, 0, len(d.overlays))
	for _, o := range d.overlays {
		all = append(all, d.overlayView(o))
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// overlayView must be called with the lock held.
func (d *Daemon) overlayView(o *overlay) Overlay {
	view := Overlay{Overlay: o.Overlay, State: OverlayReady, Cause: o.failed, Revisions: slices.Clone(d.revisions[o.ID])}
	view.Revision = current(view.Revisions).ID
	switch {
	case o.building:
		view.State = OverlayBuilding
	case o.failed != "":
		view.State = OverlayFailed
	case view.Revision == 0:
		view.State = OverlayEmpty
	}
	return view
}

// changeOverlay lets fn change an overlay, or what overlayView says of it, and tells what came of it.
func (d *Daemon) changeOverlay(name string, fn func(*overlay)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.overlays[name]
	if o == nil {
		return
	}
	before := d.overlayView(o)
	fn(o)
	d.Events.OverlayChanged(before, d.overlayView(o))
}

// overlayName is the name of an overlay's id, "" where there is none.
func (d *Daemon) overlayName(id uint32) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, o := range d.overlays {
		if o.ID == id {
			return name
		}
	}
	return ""
}

// removeBeneath removes a tree below the state directory, links and mounts in it left alone.
func (d *Daemon) removeBeneath(path string) error {
	state, err := unix.Open(d.Layout.State, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(state)
	return units.RemoveTree(state, path)
}
