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
	"left4.me/left4/daemon/worker/status"
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

// GameRevisions are the revisions of the game that are on disk, oldest first.
func (d *Daemon) GameRevisions() []store.Revision {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.revisions[store.Game])
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

// ImportGame accepts a job that makes a game revision of a tar stream, and takes over the file, which must be a pipe's
// reading end or a regular file, open for reading. size is that of the stream in bytes, 0 = not known.
func (d *Daemon) ImportGame(stream *os.File, size uint64, r Request) (Job, error) {
	if err := checkStream(stream); err != nil {
		stream.Close()
		return Job{}, err
	}
	j, err := d.submit(&job{Job: Job{Job: store.Job{Kind: importGameKind, Target: gameTarget}}, stream: stream, size: size}, r)
	if err != nil {
		stream.Close()
	}
	return j, err
}

func checkStream(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return errorf(InvalidArgument, "the stream cannot be used: %v", err)
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return errorf(InvalidArgument, "the stream cannot be used: %v", err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFIFO && kind != unix.S_IFREG || flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE == unix.O_WRONLY {
		return errorf(InvalidArgument, "the stream must be the reading end of a pipe or a file open for reading")
	}
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
	if err := d.Layout.CheckLower(layerName(overlay, revision)); err != nil {
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
		d.Events.GameChanged(current(d.revisions[overlay]).ID, slices.Clone(d.revisions[overlay]))
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

// layerOf is what a job makes a revision of, and what people call it.
func (d *Daemon) layerOf(j *job) (overlay uint32, what string, err error) {
	if j.Kind == importGameKind {
		return store.Game, "the game", nil
	}
	o, err := d.Overlay(j.Target)
	return o.ID, "overlay " + j.Target, err
}

func (d *Daemon) importRevision(ctx context.Context, j *job) error {
	id, what, err := d.layerOf(j)
	if err != nil {
		return err
	}
	r, err := d.revisionOf(id, j)
	if err != nil {
		return fmt.Errorf("cannot import %s: %w", what, err)
	}
	d.mu.Lock()
	j.worker = importUnit(r)
	d.mu.Unlock()
	d.changeOverlay(j.Target, func(o *overlay) { o.building = o.ID == id })
	err = d.runImport(ctx, j, r)
	if errors.Is(context.Cause(ctx), errClosing) {
		// The worker goes on; the next left4d takes it up.
		return err
	}
	if undo := d.endImport(r, err == nil); undo != nil {
		d.Log.Warn("cannot clean up after an import", "job", j.ID, "error", undo)
	}
	if err != nil {
		err = fmt.Errorf("cannot import %s: %w", what, err)
	}
	d.changeOverlay(j.Target, func(o *overlay) {
		if o.ID != id {
			return
		}
		o.building, o.failed = false, ""
		if err != nil {
			o.failed = err.Error()
		}
	})
	if err != nil {
		d.collectSoon() // it kept what it was made of
		return err
	}
	d.revisionsChanged(id)
	return nil
}

// importUnit is the worker's. Its number is the game's revision for the game, as ever.
func importUnit(r store.Revision) string {
	if r.Overlay == store.Game {
		return fmt.Sprintf("left4-import-%d.service", r.ID)
	}
	return fmt.Sprintf("left4-import-%d-%d.service", r.Overlay, r.ID)
}

// revisionOf is the revision that the job makes: a new one, or the one it had before left4d was restarted.
func (d *Daemon) revisionOf(overlay uint32, j *job) (store.Revision, error) {
	r := store.Revision{Overlay: overlay, Job: j.ID, Created: now()}
	if j.resumed {
		all, err := d.Store.Revisions()
		if err != nil {
			return r, err
		}
		for _, r := range all {
			if r.Overlay == overlay && r.Job == j.ID {
				return r, nil
			}
		}
	}
	if j.stream == nil {
		return r, errors.New("left4d was restarted before the import had begun, and the stream is lost")
	}
	var err error
	r.ID, err = d.Store.AddRevision(overlay, j.ID, r.Created)
	return r, err
}

func (d *Daemon) runImport(ctx context.Context, j *job, r store.Revision) error {
	staging := d.layerPath(r.Overlay, importPrefix+revisionName(r.ID))
	final := d.layerPath(r.Overlay, revisionName(r.ID))
	if r.Published != 0 {
		return nil
	}
	if _, err := os.Lstat(final); err == nil {
		// It was complete and in place when left4d ended; only the database does not know.
		if err := d.count(ctx, &r); err != nil {
			return err
		}
		return d.publish(r)
	}
	if err := d.checkBase(j, r.Overlay); err != nil {
		return err
	}
	if j.stream != nil {
		if err := d.startImport(ctx, j, r, staging); err != nil {
			return err
		}
	}
	report, err := d.followWorker(ctx, j)
	if err != nil {
		return err
	}
	r.Files, r.Bytes = uint64(report.Files), uint64(report.Bytes)
	if !j.Parameters.V.Merge {
		d.step(j, publishing)
		return d.place(staging, final, r)
	}
	base := d.holdBase(r.Overlay)
	defer d.releaseBase(r.Overlay, base)
	if err := d.checkBase(j, r.Overlay); err != nil {
		return err
	}
	if staging, err = d.merge(ctx, j, &r, base); err != nil {
		return err
	}
	d.step(j, publishing)
	// A rollback in the meantime must not be undone by what was made of the revision that it went back from.
	d.accept.Lock()
	defer d.accept.Unlock()
	if now := d.currentOf(r.Overlay); now != base {
		return errorf(Busy, "it was changed meanwhile: its revision is %d, not %d", now, base)
	}
	return d.place(staging, final, r)
}

// place gives a complete directory its name and publishes it.
func (d *Daemon) place(staging, final string, r store.Revision) error {
	// What is in it is on disk; the name must not be before that, and is not lost after.
	if err := os.Rename(staging, final); err != nil {
		return err
	}
	if err := syncDir(d.layerPath(r.Overlay, "")); err != nil {
		return err
	}
	return d.publish(r)
}

func (d *Daemon) currentOf(overlay uint32) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return current(d.revisions[overlay]).ID
}

// holdBase keeps the current revision of an overlay on disk while another is made of it, and returns it.
func (d *Daemon) holdBase(overlay uint32) uint32 {
	// Not while it is found out what nobody needs.
	d.plans.RLock()
	defer d.plans.RUnlock()
	base := d.currentOf(overlay)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.merging[layerName(overlay, base)] = true
	return base
}

func (d *Daemon) releaseBase(overlay, base uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.merging, layerName(overlay, base))
}

// checkBase fails where somebody else has changed the overlay since the caller looked at it.
func (d *Daemon) checkBase(j *job, overlay uint32) error {
	now := d.currentOf(overlay)
	if base := j.Parameters.V.Base; base != 0 && base != now {
		return errorf(Busy, "it was changed meanwhile: its revision is %d, not %d", now, base)
	}
	return nil
}

// merge makes of the current revision and of what a worker unpacked a new tree, and returns where. Files that stay are
// shared by hard links; it is done here and not by the worker, which so never holds a file of a published revision.
func (d *Daemon) merge(ctx context.Context, j *job, r *store.Revision, base uint32) (string, error) {
	d.step(j, "merging")
	dir, err := unix.Open(d.layerPath(r.Overlay, ""), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	name := mergePrefix + revisionName(r.ID)
	if _, err := os.Lstat(d.layerPath(r.Overlay, name)); err == nil {
		// Some of the unpacked files are in it already, and nobody knows which.
		return "", errors.New("left4d was restarted while it put the files together; do it again")
	}
	uid, gid, err := d.Layout.Owner()
	if err != nil {
		return "", err
	}
	into, err := units.MkdirAllBeneath(dir, name, 0o755, uid, gid)
	if err != nil {
		return "", err
	}
	defer unix.Close(into)
	if base != 0 {
		if err := d.linkBase(ctx, j, dir, base, into); err != nil {
			return "", err
		}
	}
	delta, err := units.OpenBeneath(dir, importPrefix+revisionName(r.ID), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(delta)
	if err := units.MergeTree(ctx, delta, into); err != nil {
		return "", err
	}
	if r.Files, r.Bytes, err = units.CountTree(ctx, into); err != nil {
		return "", err
	}
	return d.layerPath(r.Overlay, name), unix.Syncfs(into)
}

func (d *Daemon) linkBase(ctx context.Context, j *job, dir int, base uint32, into int) error {
	var skip []string
	for _, text := range j.Parameters.V.Remove {
		path, err := readPath(text)
		if err != nil {
			return err
		}
		skip = append(skip, path)
	}
	from, err := units.OpenBeneath(dir, revisionName(base), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	told := time.Now()
	_, _, err = units.LinkTree(ctx, from, into, skip, func(files, bytes uint64) {
		if time.Since(told) > stepEvery {
			told = time.Now()
			d.step(j, "merging: %d files, %d bytes", files, bytes)
		}
	})
	return err
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

func (d *Daemon) startImport(ctx context.Context, j *job, r store.Revision, staging string) error {
	uid, gid, err := d.Layout.Owner()
	if err != nil {
		return err
	}
	if err := os.Mkdir(staging, 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(staging, 0o755), os.Chown(staging, uid, gid)); err != nil {
		return err
	}
	kind := "overlay"
	switch {
	case r.Overlay == store.Game:
		kind = "game"
	case j.Parameters.V.Merge:
		kind = "part"
	}
	env := []string{"LEFT4_KIND=" + kind}
	if into, err := readPath(j.Parameters.V.Into); err != nil {
		return err
	} else if into != "" {
		env = append(env, "LEFT4_INTO="+into)
	}
	if j.size > 0 {
		env = append(env, "LEFT4_SIZE="+strconv.FormatUint(j.size, 10))
	}
	d.step(j, "unpacking")
	err = d.Units.StartWorker(ctx, units.Worker{
		Unit:        j.worker,
		Description: fmt.Sprintf("left4: import of %s (job %d)", j.Target, j.ID),
		Command:     []string{d.Worker, "import"},
		Dir:         staging,
		Stdin:       int(j.stream.Fd()),
		Env:         env,
		User:        "left4",
		Slice:       "left4-build.slice",
		Timeout:     j.Timeout,
	})
	// The worker has its own; as long as this one is open, a client that dies is not noticed.
	j.stream.Close()
	j.stream = nil
	var ended *units.JobError
	if errors.As(err, &ended) {
		// It ran and has ended already; followWorker reads why.
		return nil
	}
	return err
}

// followWorker tells how far a worker has come until it ends, and returns its last word.
func (d *Daemon) followWorker(ctx context.Context, j *job) (status.Report, error) {
	for {
		s, err := d.Units.State(ctx, j.worker)
		if err != nil {
			return status.Report{}, err
		}
		report := status.ParseStatus(s.StatusText)
		switch {
		case s.Active == "active" && s.Sub == "exited":
			if !report.Done {
				return report, errors.New("the worker ended without a result")
			}
			return report, nil
		case s.Active == "failed":
			if report.Failed != "" {
				return report, errors.New(report.Failed)
			}
			return report, errors.New(workerEnd(s))
		case !s.Loaded || s.Active == "inactive":
			return report, errors.New("the worker was stopped outside left4")
		}
		if report.Detail != "" && report.Failed == "" {
			d.update(j, func(j *Job) { j.Progress, j.Status = report.Progress, "unpacking: "+report.Detail })
		}
		select {
		case <-j.changed:
		case <-ctx.Done():
			return report, context.Cause(ctx)
		}
	}
}

func workerEnd(s units.State) string {
	switch s.Result {
	case "oom-kill":
		return "the worker was killed by the OOM killer"
	case "timeout":
		return "the worker did not end in time"
	}
	return "the worker failed: " + exit(facts{server: s})
}

// endImport stops the worker's unit and, unless its work was published, removes what it made.
func (d *Daemon) endImport(r store.Revision, published bool) error {
	ctx, cancel := context.WithTimeout(d.ctx, undoTime)
	defer cancel()
	err := errors.Join(d.Units.Stop(ctx, importUnit(r)), d.Units.ResetFailed(ctx, importUnit(r)))
	err = errors.Join(err, d.removeImport(r))
	if published {
		return err
	}
	// In place, but the database did not take it.
	err = errors.Join(err, d.removeBeneath(layerName(r.Overlay, r.ID)))
	return errors.Join(err, d.dropImport(r))
}

func (d *Daemon) removeImport(r store.Revision) (err error) {
	for _, prefix := range []string{importPrefix, mergePrefix} {
		err = errors.Join(err, d.removeBeneath(path.Join(layerDir(r.Overlay), prefix+revisionName(r.ID))))
	}
	return err
}

func (d *Daemon) dropImport(r store.Revision) error {
	if err := d.Store.DropRevision(r.Overlay, r.ID, now()); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// abandonImport forgets a revision that no job makes any more. What is in place and not empty stays: the database may be
// older than it.
func (d *Daemon) abandonImport(r store.Revision) error {
	ctx, cancel := context.WithTimeout(d.ctx, undoTime)
	defer cancel()
	err := errors.Join(d.Units.Stop(ctx, importUnit(r)), d.Units.ResetFailed(ctx, importUnit(r)), d.removeImport(r))
	_ = unix.Rmdir(d.layerPath(r.Overlay, revisionName(r.ID)))
	return errors.Join(err, d.dropImport(r))
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
			if err := d.abandonImport(r); err != nil {
				d.Log.Warn("cannot clean up after an import", "overlay", r.Overlay, "revision", r.ID, "error", err)
			}
		}
	}
	for _, in := range d.Instances() {
		if err := d.Config.Sweep(in.Name); err != nil {
			d.Log.Warn("cannot remove what was being written for an instance", "instance", in.Name, "error", err)
		}
		d.Layout.TidyDefinition(in.Name)
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
