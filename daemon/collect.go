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
	"sort"
	"strings"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// What is on disk of a layer: its current revision, the next older ones that a rollback may want, and whatever a mount
// or a mount plan still names. The rest is removed by a job, which is accepted when there is something to remove: after
// a publication, a rollback, or the end of a job that may have unmounted something. Nothing looks for it otherwise.

// freezePlans keeps every plan and every mount as it is until it is undone: left4d writes no plan and makes no other
// revision current, and left4-overlay, which systemd may start at any time, mounts nothing.
func (d *Daemon) freezePlans(ctx context.Context) (undo func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, undoTime)
	defer cancel()
	thaw, err := d.Layout.FreezeMounts(ctx)
	if err != nil {
		return nil, err
	}
	d.plans.Lock()
	return func() { d.plans.Unlock(); thaw() }, nil
}

// movePlans renders those instances again that are down, so that an old plan keeps no old revision, and whoever starts
// such a unit by hand gets what left4 would start. plans must be held.
func (d *Daemon) movePlans() {
	for _, in := range d.Instances() {
		d.mu.Lock()
		busy := slices.ContainsFunc(d.queues[in.Name], func(j *job) bool { return !j.over })
		d.mu.Unlock()
		if busy || in.State != Stopped && in.State != FailedState {
			continue
		}
		plan, _, err := d.Layout.ReadInstance(in.Name)
		if err != nil {
			continue // it has none, or one that nothing can be mounted by
		}
		if _, mounted, err := d.Layout.MountedLower(in.Name); err != nil || mounted {
			continue
		}
		if r, err := d.render(in.Instance); err != nil || r.plan.Digest == plan.Digest {
			continue
		}
		if err := d.move(in); err != nil {
			d.Log.Warn("cannot render an instance that is down", "instance", in.Name, "error", err)
		}
	}
}

// move renders an instance that is down again, unless somebody is at it.
func (d *Daemon) move(in Instance) error {
	d.mu.Lock()
	known := d.instances[in.Name]
	d.mu.Unlock()
	// It is taken after plans here, where others take it before: so it is not waited for.
	if known == nil || !known.unit.TryLock() {
		return nil
	}
	defer known.unit.Unlock()
	_, err := d.write(in.Instance)
	return err
}

// usedRevisions are the layers that plans, mounts and imports use, each with who does.
type usedRevisions map[string][]string

// of are the users of any revision of an overlay.
func (u usedRevisions) of(overlay uint32) []string {
	var users []string
	for layer, names := range u {
		if path.Dir(layer) == layerDir(overlay) {
			users = append(users, names...)
		}
	}
	sort.Strings(users)
	return slices.Compact(users)
}

// usedRevisions reads them from disk, also those of instances that have no definition any more.
func (d *Daemon) usedRevisions() (usedRevisions, error) {
	names := map[string]bool{}
	for _, in := range d.Instances() {
		names[in.Name] = true
	}
	for _, dir := range []string{filepath.Join(d.Layout.State, "instances"), filepath.Join(d.Layout.State, "runtime"), filepath.Join(d.Layout.Run, "mounted")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			names[e.Name()] = units.ValidName(e.Name()) || e.Name() == units.GameMount
		}
	}
	used := usedRevisions{}
	d.mu.Lock()
	for layer := range d.merging {
		used[layer] = []string{"an import"}
	}
	d.mu.Unlock()
	for name, valid := range names {
		if !valid {
			continue
		}
		lower, mounted, err := d.Layout.MountedLower(name)
		if err != nil {
			return nil, err
		}
		if mounted && lower == nil {
			return nil, fmt.Errorf("it is not known what %s has mounted; restart it", name)
		}
		plan, _, err := d.Layout.ReadInstance(name)
		if err == nil {
			lower = append(lower, plan.Lower...)
		}
		for _, layer := range lower {
			user := "instance " + name
			if name == units.GameMount {
				user = "an installation"
			}
			if !slices.Contains(used[layer], user) {
				used[layer] = append(used[layer], user)
			}
		}
	}
	return used, nil
}

// spare are the revisions that only a mount or a plan could still need.
func (d *Daemon) spare() []store.Revision {
	d.mu.Lock()
	defer d.mu.Unlock()
	keep := map[uint32]uint32{store.Game: gameKeep}
	for _, o := range d.overlays {
		keep[o.ID] = defaultKeep
		if o.Config.V.Keep != nil {
			keep[o.ID] = *o.Config.V.Keep
		}
	}
	var spare []store.Revision
	for overlay, all := range d.revisions {
		left := keep[overlay]
		now := current(all).ID
		bases := map[uint32]bool{} // that what is kept lies over; they are older, so they come later
		for _, r := range slices.Backward(all) {
			kept := now == 0 || r.Current
			if !kept && r.ID < now && left > 0 {
				kept = true
				left--
			}
			switch {
			case kept, bases[r.ID]:
				bases[r.Base] = true
			default:
				spare = append(spare, r)
			}
		}
	}
	return spare
}

// collectSoon accepts a job that removes what nobody needs, where there is anything and no such job waits already.
func (d *Daemon) collectSoon() {
	spare := d.spare()
	if len(spare) == 0 {
		return
	}
	used, err := d.usedRevisions()
	if err != nil {
		d.Log.Warn("cannot tell which old revisions are used", "error", err)
		return
	}
	// A plan of an instance that is down would be moved, so it keeps nothing.
	down := map[string]bool{}
	for _, in := range d.Instances() {
		down["instance "+in.Name] = in.State == Stopped || in.State == FailedState
	}
	if !slices.ContainsFunc(spare, func(r store.Revision) bool {
		return !slices.ContainsFunc(used[layerName(r.Overlay, r.ID)], func(user string) bool { return !down[user] })
	}) {
		return
	}
	if _, err := d.submit(&job{Job: Job{Job: store.Job{Kind: collectKind, Target: revisionsTarget}}}, Request{}); err != nil && AsCode(err) != Busy {
		d.Log.Warn("cannot have old revisions removed", "error", err)
	}
}

func (d *Daemon) collect(ctx context.Context, j *job) error {
	d.step(j, "looking for revisions that nobody needs")
	gone, err := d.setAside(ctx)
	if err != nil {
		return fmt.Errorf("cannot remove old revisions: %w", err)
	}
	var told []string
	if err := d.tidyBases(); err != nil {
		return fmt.Errorf("cannot remove old revisions: %w", err)
	}
	for _, r := range gone {
		if ctx.Err() != nil {
			return context.Cause(ctx) // the next start of left4d removes the rest
		}
		what := "the game"
		if r.Overlay != store.Game {
			what = "overlay " + d.overlayName(r.Overlay)
		}
		told = append(told, fmt.Sprintf("revision %d of %s", r.ID, what))
		d.step(j, "removing %s", told[len(told)-1])
		if err := d.removeBeneath(path.Join(layerDir(r.Overlay), gonePrefix+revisionName(r.ID))); err != nil {
			return fmt.Errorf("cannot remove %s: %w", told[len(told)-1], err)
		}
	}
	switch files, err := d.collectCache(); {
	case err != nil:
		d.Log.Warn("cannot remove what nobody needs of the workshop", "error", err)
	case files > 0:
		told = append(told, fmt.Sprintf("%d files of the workshop", files))
	}
	if len(told) == 0 {
		told = []string{"nothing"}
	}
	d.step(j, "removed %s", strings.Join(told, ", "))
	return nil
}

// forget takes a revision without a directory off the list.
func (d *Daemon) forget(overlay, revision uint32) error {
	if err := d.Store.DropRevision(overlay, revision, now()); errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	d.changeRevisions(overlay, func(all []store.Revision) []store.Revision {
		return slices.DeleteFunc(all, func(r store.Revision) bool { return r.ID == revision })
	})
	return nil
}

// setAside takes the revisions that nobody needs out of the way of new plans, and returns them.
func (d *Daemon) setAside(ctx context.Context) ([]store.Revision, error) {
	unlock, err := d.freezePlans(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.movePlans()
	used, err := d.usedRevisions()
	if err != nil {
		return nil, err
	}
	var gone []store.Revision
	for _, r := range d.spare() {
		if len(used[layerName(r.Overlay, r.ID)]) > 0 {
			continue
		}
		// The directory first: left4d may end between the two, and takes the row of what is on its way out for gone.
		err := os.Rename(d.layerPath(r.Overlay, revisionName(r.ID)), d.layerPath(r.Overlay, gonePrefix+revisionName(r.ID)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return gone, err
		}
		if err := d.forget(r.Overlay, r.ID); err != nil {
			return gone, err
		}
		gone = append(gone, r)
	}
	return gone, nil
}
