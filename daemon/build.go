package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// maker is how jobs of one kind come by the files of a revision. makeRevision does the rest, which is the same for all: what
// becomes of the job, of the worker and of the files when anything fails, ends early or is interrupted.
type maker struct {
	verb   string // as in "cannot import overlay a"
	saying string // stands before what the worker says of its progress
	// once tells that a killed left4d that had not started the worker cannot be made up for: what it reads is lost.
	once bool
	// bound is how much the directory where the worker writes may come to hold, nothing = as much as there is room for beside
	// the servers.
	bound units.Usage
	dir   string // that directory, "" = the staging one
	// worker prepares where the worker is to work, and says how it is run; the rest of it is filled in. It may have
	// been called before for the same revision.
	worker func(ctx context.Context, r *store.Revision) (units.Worker, error)
	// note takes what the worker has told at its end into the revision. nil = nothing.
	note func(r *store.Revision, note string) error
	// take makes of what the worker left, which is gone with all its processes, the files of the revision, and may count them anew. It
	// may have been called before and interrupted.
	take func(ctx context.Context, r *store.Revision, report status.Report) (made, error)
	// undo removes what worker made and what is not in the staging directory; it is called at each end. nil = nothing.
	undo func(ctx context.Context, err error) error
}

// made is a complete directory that is to be a revision.
type made struct {
	dir  string
	over *uint32 // the revision that must still be the current one, nil = any
}

// spoiledError is that of a worker that will do no better with what it has made so far.
type spoiledError struct{ error }

// upToDateError ends a job that found nothing to do, with success.
type upToDateError struct{ status string }

func (e *upToDateError) Error() string { return e.status }

// layerOf is what a job makes a revision of, and what people call it.
func (d *Daemon) layerOf(j *job) (overlay uint32, what string, err error) {
	if kinds[j.Kind].about == noObject {
		return store.Game, "the game", nil
	}
	o, err := d.Overlay(j.Target)
	return o.ID, "overlay " + j.Target, err
}

// makeRevision has a worker make a revision of what the job is about, and publishes it.
func (d *Daemon) makeRevision(ctx context.Context, j *job, m maker) error {
	id, what, err := d.layerOf(j)
	if err != nil {
		return err
	}
	r, err := d.revisionOf(id, j, m)
	if err != nil {
		return fmt.Errorf("cannot %s %s: %w", m.verb, what, err)
	}
	d.mu.Lock()
	j.worker = units.BuildUnit(j.ID)
	d.mu.Unlock()
	d.changeOverlay(j.Target, func(o *overlay) { o.building = o.ID == id })
	err = d.runMaker(ctx, j, r, m)
	if errors.Is(context.Cause(ctx), errClosing) {
		// The worker goes on; the next left4d takes it up.
		return err
	}
	if undo := d.endMaking(r, m, err); undo != nil {
		d.Log.Warn("cannot clean up after a build", "job", j.ID, "error", undo)
	}
	var upToDate *upToDateError
	if errors.As(err, &upToDate) {
		d.step(j, "%s", upToDate.status)
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("cannot %s %s: %w", m.verb, what, err)
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
	switch {
	case err != nil:
		d.collectSoon() // it kept what it was made of
	case upToDate == nil:
		d.revisionsChanged(id)
	}
	return err
}

// revisionOf is the revision that the job makes: a new one, or the one it had before left4d was restarted.
func (d *Daemon) revisionOf(overlay uint32, j *job, m maker) (store.Revision, error) {
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
	if m.once && j.stream == nil {
		return r, errors.New("left4d was restarted before the " + m.verb + " had begun, and the stream is lost")
	}
	// Somebody may have put something there by hand, which is not to be taken for ours.
	onDisk, err := d.numbers(layerDir(overlay))
	if err == nil && len(onDisk) > 0 {
		err = d.Store.ReserveRevision(overlay, onDisk[len(onDisk)-1], now())
	}
	if err != nil {
		return r, err
	}
	r.ID, err = d.Store.AddRevision(overlay, j.ID, r.Created)
	return r, err
}

func (d *Daemon) runMaker(ctx context.Context, j *job, r store.Revision, m maker) error {
	if r.Published != 0 {
		return nil
	}
	final := d.layerPath(r.Overlay, revisionName(r.ID))
	if _, err := os.Lstat(final); err == nil {
		// It was complete and in place when left4d ended; only the database does not know.
		if base, noted := d.notedBase(r.ID); noted && r.Overlay == store.Game {
			r.Base = base // it may have been joined with it since
		}
		if err := d.count(ctx, &r); err != nil {
			return err
		}
		return d.publish(r)
	}
	report := status.Report{Done: true, Files: int64(r.Files), Bytes: int64(r.Bytes)}
	if r.Sealed == 0 {
		var err error
		if report, err = d.runWorker(ctx, j, &r, m); err != nil {
			return err
		}
		r.Files, r.Bytes = uint64(report.Files), uint64(report.Bytes)
		if m.note != nil {
			if err := m.note(&r, report.Note); err != nil {
				return err
			}
		}
		r.Sealed = now()
		if err := d.Store.SealRevision(r); err != nil {
			return err
		}
	}
	// Whatever the worker has left running could still change what is about to be mounted.
	if err := d.Units.Stop(ctx, j.worker); err != nil {
		return err
	}
	files, err := m.take(ctx, &r, report)
	if err != nil {
		return err
	}
	d.step(j, publishing)
	d.accept.Lock()
	defer d.accept.Unlock()
	if now := d.currentOf(r.Overlay); files.over != nil && now != *files.over {
		return errorf(Busy, "it was changed meanwhile: its revision is %d, not %d", now, *files.over)
	}
	return d.place(files.dir, final, r)
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

// runWorker runs the worker to its end, or the one that an earlier left4d started.
func (d *Daemon) runWorker(ctx context.Context, j *job, r *store.Revision, m maker) (status.Report, error) {
	started := j.stream == nil && m.once
	if j.resumed && !m.once {
		s, err := d.Units.State(ctx, j.worker)
		if err != nil {
			return status.Report{}, err
		}
		started = s.Loaded && s.Active != "inactive"
	}
	if !started {
		w, err := m.worker(ctx, r)
		if err != nil {
			return status.Report{}, err
		}
		if err := d.startWorker(ctx, j, w, m.verb); err != nil {
			return status.Report{}, err
		}
	}
	dir := m.dir
	if dir == "" {
		dir = d.layerPath(r.Overlay, importPrefix+revisionName(r.ID))
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var guarding sync.WaitGroup
	guarding.Add(1)
	go func() {
		defer guarding.Done()
		d.guard(ctx, dir, m.bound, end)
	}()
	report, err := d.followWorker(ctx, j, m.saying)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause // whatever was being asked when the guard ended it
	}
	end(nil)
	guarding.Wait()
	return report, err
}

// startWorker fills in what all workers have, and starts one.
func (d *Daemon) startWorker(ctx context.Context, j *job, w units.Worker, verb string) error {
	w.Unit, w.Job = j.worker, j.ID
	w.Description = fmt.Sprintf("left4: %s of %s (job %d)", verb, j.Target, j.ID)
	w.User, w.Slice, w.Timeout = "left4", "left4-build.slice", j.Timeout
	// The numbers of jobs may come again after the loss of the database.
	if left, err := d.Units.State(ctx, w.Unit); err != nil || left.Loaded {
		if err = errors.Join(err, d.endWorker(ctx, j.ID)); err != nil {
			return err
		}
	}
	err := d.Units.StartWorker(ctx, w)
	if j.stream != nil {
		// The worker has its own; as long as this one is open, a client that dies is not noticed.
		j.stream.Close()
		j.stream = nil
	}
	var ended *units.JobError
	if errors.As(err, &ended) && ended.Result == "dependency" {
		for _, need := range w.Needs {
			if s, err := d.Units.State(ctx, need); err == nil && s.Active == "failed" && s.StatusText != "" {
				return errors.New(s.StatusText) // why its files could not be mounted
			}
		}
		return errors.New(ended.Reason())
	}
	if errors.As(err, &ended) {
		// It ran and has ended already; followWorker reads why.
		return nil
	}
	return err
}

// followWorker tells how far a worker has come until it ends, and returns its last word.
func (d *Daemon) followWorker(ctx context.Context, j *job, saying string) (status.Report, error) {
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
			// What it says of it is then that it was told to end.
			ended := s.Result == "oom-kill" || s.Result == "timeout"
			if report.Failed != "" && !ended {
				err := errors.New(report.Failed)
				if s.ExecMainCode == cldExited && s.ExecMainStatus == order.Spoiled {
					err = &spoiledError{err}
				}
				return report, err
			}
			return report, errors.New(workerEnd(s))
		case !s.Loaded || s.Active == "inactive":
			return report, errors.New("the worker was stopped outside left4")
		}
		if report.Detail != "" && report.Failed == "" {
			d.update(j, func(j *Job) { j.Progress, j.Status = report.Progress, saying+report.Detail })
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

// makeStaging makes the empty directory that a worker fills.
func (d *Daemon) makeStaging(r store.Revision) (string, error) {
	staging := d.layerPath(r.Overlay, importPrefix+revisionName(r.ID))
	if err := d.removeBeneath(path.Join(layerDir(r.Overlay), importPrefix+revisionName(r.ID))); err != nil {
		return "", err
	}
	return staging, d.giveDir(staging)
}

// giveDir makes a directory that workers may write to, in one of root's.
func (d *Daemon) giveDir(dir string) error {
	uid, gid, err := d.Layout.Owner()
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, uid, gid))
}

// endMaking stops the worker's unit and, if its work was not published because of failed, removes what it made.
func (d *Daemon) endMaking(r store.Revision, m maker, failed error) error {
	ctx, cancel := context.WithTimeout(d.ctx, undoTime)
	defer cancel()
	err := errors.Join(d.endWorker(ctx, r.Job), d.removeStaging(r))
	if m.undo != nil {
		err = errors.Join(err, m.undo(ctx, failed))
	}
	if failed == nil {
		return err
	}
	// In place, but the database did not take it.
	err = errors.Join(err, d.removeBeneath(layerName(r.Overlay, r.ID)))
	return errors.Join(err, d.drop(r))
}

func (d *Daemon) endWorker(ctx context.Context, job uint32) error {
	unit := units.BuildUnit(job)
	return errors.Join(d.stopWorker(ctx, unit), d.Units.ResetFailed(ctx, unit))
}

func (d *Daemon) stopWorker(ctx context.Context, unit string) error {
	err := d.Units.Stop(ctx, unit)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// systemd stops no unit that is frozen; but its processes can be killed.
	if killed := d.Units.Kill(ctx, unit, int32(unix.SIGKILL)); killed != nil {
		return errors.Join(err, killed)
	}
	err = d.Units.WaitInactive(ctx, unit)
	var down *units.JobError
	if errors.As(err, &down) {
		return nil // it failed, as what is killed does
	}
	return err
}

// stopStrayWorkers stops those that no job is waiting for any more: they could still write where the next one works.
func (d *Daemon) stopStrayWorkers(ctx context.Context) error {
	running, err := d.Units.Running(ctx, units.BuildUnits)
	if err != nil {
		return err
	}
	d.mu.Lock()
	for _, j := range d.jobs {
		if !j.over {
			running = slices.DeleteFunc(running, func(unit string) bool { return unit == j.worker })
		}
	}
	d.mu.Unlock()
	for _, unit := range running {
		if err := d.stopWorker(ctx, unit); err != nil {
			return fmt.Errorf("%s of an earlier job cannot be stopped: %w", unit, err)
		}
	}
	return nil
}

func (d *Daemon) removeStaging(r store.Revision) (err error) {
	for _, prefix := range []string{importPrefix, mergePrefix} {
		err = errors.Join(err, d.removeBeneath(path.Join(layerDir(r.Overlay), prefix+revisionName(r.ID))))
	}
	return err
}

func (d *Daemon) drop(r store.Revision) error {
	if err := d.Store.DropRevision(r.Overlay, r.ID, now()); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// abandon forgets a revision that no job makes any more. What is in place and not empty stays: the database may be
// older than it.
func (d *Daemon) abandon(r store.Revision) error {
	ctx, cancel := context.WithTimeout(d.ctx, undoTime)
	defer cancel()
	err := errors.Join(d.endWorker(ctx, r.Job), d.removeStaging(r))
	_ = unix.Rmdir(d.layerPath(r.Overlay, revisionName(r.ID)))
	return errors.Join(err, d.drop(r))
}
