package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// importPrefix marks a directory below game/ that a worker fills and that is no revision yet.
const importPrefix = ".import-"

// ImportGame accepts a job that makes a game revision of a tar stream, and takes over the file, which must be a pipe's
// reading end or a regular file, open for reading. size is that of the stream in bytes, 0 = not known.
func (d *Daemon) ImportGame(stream *os.File, size uint64, r Request) (Job, error) {
	if err := checkStream(stream); err != nil {
		stream.Close()
		return Job{}, err
	}
	j, err := d.submit(&job{Job: Job{Job: store.Job{Kind: importKind, Target: gameTarget}}, stream: stream, size: size}, r)
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

func (d *Daemon) gameDir(element string) string {
	return filepath.Join(d.Layout.State, "game", element)
}

func importUnit(revision uint32) string { return fmt.Sprintf("left4-import-%d.service", revision) }

func (d *Daemon) importGame(ctx context.Context, j *job) error {
	revision, err := d.revisionOf(j)
	if err != nil {
		return fmt.Errorf("cannot import the game: %w", err)
	}
	d.mu.Lock()
	j.worker = importUnit(revision)
	d.mu.Unlock()
	err = d.runImport(ctx, j, revision)
	if errors.Is(context.Cause(ctx), errClosing) {
		// The worker goes on; the next left4d takes it up.
		return err
	}
	if undo := d.endImport(j.worker, revision, err == nil); undo != nil {
		d.Log.Warn("cannot clean up after an import", "job", j.ID, "error", undo)
	}
	if err != nil {
		return fmt.Errorf("cannot import the game: %w", err)
	}
	for _, in := range d.Instances() {
		<-d.refresh(in.Name)
	}
	return nil
}

// revisionOf is the number that the job imports as: a new one, or the one it had before left4d was restarted.
func (d *Daemon) revisionOf(j *job) (uint32, error) {
	if j.resumed {
		revisions, err := d.Store.GameRevisions()
		if err != nil {
			return 0, err
		}
		for _, r := range revisions {
			if r.Job == j.ID {
				return r.ID, nil
			}
		}
	}
	if j.stream == nil {
		return 0, errors.New("left4d was restarted before the import had begun, and the stream is lost")
	}
	return d.Store.AddGameRevision(j.ID, now())
}

func (d *Daemon) runImport(ctx context.Context, j *job, revision uint32) error {
	staging := d.gameDir(importPrefix + strconv.FormatUint(uint64(revision), 10))
	final := d.gameDir(strconv.FormatUint(uint64(revision), 10))
	if _, err := os.Lstat(final); err == nil {
		// It was complete and in place when left4d ended; only the database does not know.
		return d.publish(j, revision)
	}
	if j.stream != nil {
		if err := d.startImport(ctx, j, staging); err != nil {
			return err
		}
	}
	if err := d.followWorker(ctx, j); err != nil {
		return err
	}
	d.step(j, "publishing")
	// The worker has synced what it wrote; the name must not be on disk before that, and is not lost after.
	if err := os.Rename(staging, final); err != nil {
		return err
	}
	if err := syncDir(d.gameDir("")); err != nil {
		return err
	}
	return d.publish(j, revision)
}

func (d *Daemon) startImport(ctx context.Context, j *job, staging string) error {
	uid, gid, err := d.Layout.Owner()
	if err != nil {
		return err
	}
	if err := os.Mkdir(staging, 0o755); err != nil {
		return err
	}
	if err := os.Chown(staging, uid, gid); err != nil {
		return err
	}
	env := []string{"LEFT4_KIND=game"}
	if j.size > 0 {
		env = append(env, "LEFT4_SIZE="+strconv.FormatUint(j.size, 10))
	}
	d.step(j, "unpacking")
	err = d.Units.StartWorker(ctx, units.Worker{
		Unit:        j.worker,
		Description: fmt.Sprintf("left4: import of the game (job %d)", j.ID),
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

// followWorker tells how far a worker has come until it ends.
func (d *Daemon) followWorker(ctx context.Context, j *job) error {
	for {
		s, err := d.Units.State(ctx, j.worker)
		if err != nil {
			return err
		}
		report := status.ParseStatus(s.StatusText)
		switch {
		case s.Active == "active" && s.Sub == "exited":
			if !report.Done {
				return errors.New("the worker ended without a result")
			}
			return nil
		case s.Active == "failed":
			if report.Failed != "" {
				return errors.New(report.Failed)
			}
			return errors.New(workerEnd(s))
		case !s.Loaded || s.Active == "inactive":
			return errors.New("the worker was stopped outside left4")
		}
		if report.Detail != "" && report.Failed == "" {
			d.update(j, func(j *Job) { j.Progress, j.Status = report.Progress, "unpacking: "+report.Detail })
		}
		select {
		case <-j.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
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

func (d *Daemon) publish(j *job, revision uint32) error {
	if err := d.Store.PublishGameRevision(revision, now()); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.game = revision
	d.Events.GameChanged(revision)
	return nil
}

// endImport stops the worker's unit and, unless its work was published, removes what it made.
func (d *Daemon) endImport(worker string, revision uint32, published bool) error {
	ctx, cancel := context.WithTimeout(d.ctx, undoTime)
	defer cancel()
	err := errors.Join(d.Units.Stop(ctx, worker), d.Units.ResetFailed(ctx, worker))
	if published {
		return err
	}
	return errors.Join(err, d.removeImport(revision))
}

func (d *Daemon) removeImport(revision uint32) error {
	game, err := unix.Open(d.gameDir(""), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(game)
	if err := units.RemoveTree(game, importPrefix+strconv.FormatUint(uint64(revision), 10)); err != nil {
		return err
	}
	return d.Store.DropGameRevision(revision)
}

// sweepImports removes what imports left that no unfinished job knows any more.
func (d *Daemon) sweepImports() error {
	unfinished, err := d.Store.UnfinishedJobs()
	if err != nil {
		return fmt.Errorf("cannot read the unfinished jobs: %w", err)
	}
	alive := map[uint32]bool{}
	for _, j := range unfinished {
		alive[j.ID] = true
	}
	revisions, err := d.Store.GameRevisions()
	if err != nil {
		return fmt.Errorf("cannot read the game revisions: %w", err)
	}
	for _, r := range revisions {
		if r.Published != 0 || alive[r.Job] {
			continue
		}
		if err := d.endImport(importUnit(r.ID), r.ID, false); err != nil {
			d.Log.Warn("cannot clean up after an import", "revision", r.ID, "error", err)
		}
	}
	return nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
