package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// Names beside the revisions of a layer that are no revisions, each followed by a revision's number. Whatever bears one
// and belongs to no job that is at work is removed at the next start.
const (
	importPrefix = ".import-" // what a worker fills
	mergePrefix  = ".merge-"  // what an import and the revision before it make together
	gonePrefix   = ".gone-"   // a revision on its way out; beside the overlays a whole one
)

// gameKeep is how many older revisions of the game stay for a rollback; defaultKeep how many of an overlay.
const (
	gameKeep    = 1
	defaultKeep = 1
)

// stepEvery is how often a count of files is told.
const stepEvery = time.Second

// layerDir is where the revisions of an overlay or of the game lie, below the state directory.
func layerDir(overlay uint32) string {
	if overlay == store.Game {
		return "game"
	}
	return path.Join("overlays", revisionName(overlay))
}

// layerName is the directory of a revision, as a mount plan names it.
func layerName(overlay, revision uint32) string {
	return path.Join(layerDir(overlay), revisionName(revision))
}

func revisionName(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func goneElement(overlay uint32) string { return gonePrefix + revisionName(overlay) }

// goneName is where a deleted overlay lies until its files are removed.
func goneName(overlay uint32) string { return path.Join("overlays", goneElement(overlay)) }

func (d *Daemon) layerPath(overlay uint32, element string) string {
	return filepath.Join(d.Layout.State, layerDir(overlay), element)
}

// current is the one of an overlay's revisions that the next start mounts.
func current(revisions []store.Revision) store.Revision {
	for _, r := range revisions {
		if r.Current {
			return r
		}
	}
	return store.Revision{}
}

// GameRevision is the revision that the next start mounts; 0 where no game is installed.
func (d *Daemon) GameRevision() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return current(d.revisions[store.Game]).ID
}

// Game is the revision of the game that the next start mounts, the newest build that was heard of ("" = none yet), and the
// revisions that are on disk, oldest first.
func (d *Daemon) Game() (now store.Revision, available string, revisions []store.Revision) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return current(d.revisions[store.Game]), d.available, slices.Clone(d.revisions[store.Game])
}

// SetGameRevision makes a revision that is on disk the one that the next starts mount. Error: InvalidArgument.
func (d *Daemon) SetGameRevision(revision uint32) error {
	d.accept.Lock()
	err := d.setCurrent(store.Game, revision)
	d.accept.Unlock()
	if err != nil {
		return fmt.Errorf("cannot set the game's revision: %w", err)
	}
	d.revisionsChanged(store.Game)
	return nil
}

// setCurrent makes a published revision the current one. accept must be held.
func (d *Daemon) setCurrent(overlay, revision uint32) error {
	// Not while it is being taken out of the way.
	d.plans.RLock()
	defer d.plans.RUnlock()
	d.mu.Lock()
	onDisk := slices.ContainsFunc(d.revisions[overlay], func(r store.Revision) bool { return r.ID == revision })
	d.mu.Unlock()
	if !onDisk {
		return errorf(InvalidArgument, "there is no revision %d on disk", revision)
	}
	if err := d.checkLayers(overlay, revision); err != nil {
		return errorf(InvalidArgument, "revision %d cannot be used: %v", revision, err)
	}
	if err := d.Store.SetCurrent(overlay, revision); err != nil {
		return err
	}
	d.changeRevisions(overlay, func(all []store.Revision) []store.Revision {
		for i := range all {
			all[i].Current = all[i].ID == revision
		}
		return all
	})
	return nil
}

// layersOf are the directories that make a revision, highest first, as a mount plan names them.
func (d *Daemon) layersOf(overlay, revision uint32) ([]string, error) {
	if overlay == store.Game {
		return d.gameLayers(revision)
	}
	return []string{layerName(overlay, revision)}, nil
}

// checkLayers tells whether all of a revision is there.
func (d *Daemon) checkLayers(overlay, revision uint32) error {
	layers, err := d.layersOf(overlay, revision)
	for _, layer := range layers {
		if err == nil {
			err = d.Layout.CheckLower(layer)
		}
	}
	return err
}

// publish makes a revision, whose directory is complete and in place, the current one.
func (d *Daemon) publish(r store.Revision) error {
	r.Published, r.Current = now(), true
	if err := d.Store.PublishRevision(r); err != nil {
		return err
	}
	d.changeRevisions(r.Overlay, func(all []store.Revision) []store.Revision {
		for i := range all {
			all[i].Current = false
		}
		return append(all, r)
	})
	return nil
}

// changeRevisions lets fn change the list of an overlay's revisions and tells what came of it.
func (d *Daemon) changeRevisions(overlay uint32, fn func([]store.Revision) []store.Revision) {
	change := func() { d.revisions[overlay] = fn(slices.Clone(d.revisions[overlay])) }
	d.mu.Lock()
	defer d.mu.Unlock()
	if overlay == store.Game {
		change()
		d.gameChanged()
		return
	}
	for _, o := range d.overlays {
		if o.ID == overlay {
			before := d.overlayView(o)
			change()
			d.Events.OverlayChanged(before, d.overlayView(o))
			return
		}
	}
	change()
}

// revisionsChanged looks again at who uses a layer whose revisions have changed, and has removed what nobody needs now.
func (d *Daemon) revisionsChanged(overlay uint32) {
	name := d.overlayName(overlay)
	var users []string
	for _, in := range d.Instances() {
		if overlay == store.Game || slices.ContainsFunc(in.Effective.Overlays, func(o store.OverlayRef) bool { return o.Overlay == name }) {
			users = append(users, in.Name)
		}
	}
	d.refreshAll(users)
	d.collectSoon()
}

func (d *Daemon) currentOf(overlay uint32) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return current(d.revisions[overlay]).ID
}

func (d *Daemon) count(ctx context.Context, r *store.Revision) error {
	dir, err := unix.Open(d.layerPath(r.Overlay, revisionName(r.ID)), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	r.Files, r.Bytes, err = units.CountTree(ctx, dir)
	return err
}

// sweep removes what jobs left that no unfinished job knows any more, and gives an overlay that was being created when
// left4d ended its first revision.
func (d *Daemon) sweep() error {
	unfinished, err := d.Store.UnfinishedJobs()
	if err != nil {
		return fmt.Errorf("cannot read the unfinished jobs: %w", err)
	}
	alive := map[uint32]bool{}
	for _, j := range unfinished {
		alive[j.ID] = true
	}
	all, err := d.Store.Revisions()
	if err != nil {
		return fmt.Errorf("cannot read the revisions: %w", err)
	}
	atWork := map[string]bool{}
	for _, r := range all {
		switch {
		case r.Published != 0:
		case alive[r.Job]:
			for _, prefix := range []string{importPrefix, mergePrefix} {
				atWork[path.Join(layerDir(r.Overlay), prefix+revisionName(r.ID))] = true
			}
		default:
			if err := d.abandon(r); err != nil {
				d.Log.Warn("cannot clean up after a build", "overlay", r.Overlay, "revision", r.ID, "error", err)
			}
		}
	}
	for _, in := range d.Instances() {
		if err := d.Config.Sweep(in.Name); err != nil {
			d.Log.Warn("cannot remove what was being written for an instance", "instance", in.Name, "error", err)
		}
		d.Layout.TidyDefinition(in.Name)
	}
	if err := d.tidyBases(); err != nil {
		d.Log.Warn("cannot remove what revisions of the game have left", "error", err)
	}
	if err := d.reserve(); err != nil {
		return fmt.Errorf("cannot reserve the numbers that are in use: %w", err)
	}
	dirs := map[string]uint32{"overlays": store.Game, layerDir(store.Game): store.Game}
	for _, o := range d.Overlays() {
		dirs[layerDir(o.ID)] = o.ID
		if err := d.mendOverlay(o); err != nil {
			d.Log.Warn("cannot mend an overlay that was being created", "overlay", o.Name, "error", err)
		}
	}
	for dir, overlay := range dirs {
		entries, err := os.ReadDir(filepath.Join(d.Layout.State, dir))
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				d.Log.Warn("cannot look for what earlier jobs left", "directory", dir, "error", err)
			}
			continue
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			isLeft := slices.ContainsFunc([]string{importPrefix, mergePrefix, gonePrefix}, func(prefix string) bool {
				return strings.HasPrefix(e.Name(), prefix)
			})
			if !isLeft || atWork[name] {
				continue
			}
			if revision, ok := strings.CutPrefix(e.Name(), gonePrefix); ok && dir != "overlays" {
				if n, err := strconv.ParseUint(revision, 10, 32); err == nil {
					if err := d.forget(overlay, uint32(n)); err != nil {
						d.Log.Warn("cannot forget a revision that is gone", "path", name, "error", err)
						continue
					}
				}
			}
			if err := d.removeBeneath(name); err != nil {
				d.Log.Warn("cannot remove what an earlier job left", "path", name, "error", err)
			}
		}
	}
	return nil
}

func (d *Daemon) mendOverlay(o Overlay) error {
	if o.Revision != 0 || overlayTypes[o.Type].build != nil {
		return nil
	}
	// What has files was not just being created, whatever the database says.
	if onDisk, err := d.numbers(layerDir(o.ID)); err != nil || len(onDisk) > 0 {
		return err
	}
	if err := os.Mkdir(d.layerPath(o.ID, ""), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.addEmptyRevision(o.ID)
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
