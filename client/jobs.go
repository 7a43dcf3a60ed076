package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// The states of a job, in which it starts as queued and ends as one of the last five.
const (
	JobQueued   = "queued"
	JobRunning  = "running"
	JobDone     = "done"
	JobFailed   = "failed"
	JobCanceled = "canceled"
	JobTimeout  = "timeout"
	JobSkipped  = "skipped" // there was nothing to do
)

// Job is one action of left4d that was asked for and takes its time.
type Job struct {
	ID     uint32
	Object dbus.ObjectPath
	c      *Client
}

// JobSummary is what ListJobs tells of one job.
type JobSummary struct {
	ID     uint32
	Kind   string // start, stop, import-game, import-overlay, …
	Target string // what it acts on: the name of an instance or overlay, or "game"
	State  string
	Cause  string // why it ended as it did, for people; may be empty
	Object dbus.ObjectPath
}

// JobInfo is all that left4d tells of one job.
type JobInfo struct {
	JobSummary
	Progress  float64 // 0 to 1, negative where it is not known
	Status    string  // the step it is at, for people; may be empty
	Requester uint32  // uid of who asked for it
	// RequesterName is the login name that this user had then on left4d's machine; empty where there was none.
	RequesterName string
	// Timeout is when it is given up: counted from Created where its caller has set it, else from Started.
	Timeout    time.Duration
	Created    time.Time
	Started    time.Time // zero until it starts
	Finished   time.Time // zero until it ends
	Cancelable bool
}

// Ended tells that the job will not change any more.
func (i JobInfo) Ended() bool {
	switch i.State {
	case JobDone, JobFailed, JobCanceled, JobTimeout, JobSkipped:
		return true
	}
	return false
}

// JobError is the end of a job that did not do what was asked for.
type JobError struct {
	Info JobInfo
}

func (e *JobError) Error() string {
	if e.Info.Cause != "" {
		return e.Info.Cause
	}
	switch e.Info.State {
	case JobCanceled:
		return "the job was canceled"
	case JobTimeout:
		return "the job took too long and was given up"
	}
	return "the job " + e.Info.State
}

// job calls a method of the Manager that returns a job.
func (c *Client) job(ctx context.Context, member string, args ...any) (*Job, error) {
	var object dbus.ObjectPath
	if err := c.manager(ctx, member, args, &object); err != nil {
		return nil, err
	}
	id, ok := names.JobID(object)
	if !ok {
		return nil, fmt.Errorf("left4d answered %s with %s, which is no job", member, object)
	}
	return &Job{ID: id, Object: object, c: c}, nil
}

// ImportGame imports the game from the archive that stream, a file or the reading end of a pipe, carries: tar (plain, or
// compressed by gzip, zstd, xz or bzip2), and if it is a file, zip or 7z. left4d gets the descriptor itself: the caller may close stream as soon as ImportGame returns, and has
// to if it is a pipe. size is the stream's length in bytes, for the progress, and 0 where it is not known.
// OpenSource makes a stream of a directory, too.
// Errors: ErrInvalidArgument, ErrBusy, ErrQuotaExceeded, ErrAccessDenied, ErrNotSupported.
func (c *Client) ImportGame(ctx context.Context, stream *os.File, size uint64, o JobOptions) (*Job, error) {
	if err := c.passes("import the game"); err != nil {
		return nil, err
	}
	options := o.variants()
	if size > 0 {
		options["size"] = dbus.MakeVariant(size)
	}
	job, err := c.job(ctx, "ImportGame", dbus.UnixFD(stream.Fd()), options)
	runtime.KeepAlive(stream)
	return job, err
}

// Modes of InstallGame.
const (
	GameInstall  = "install"  // the newest build, if it is not installed
	GameUpdate   = "update"   // the same, of a game that is installed
	GameValidate = "validate" // every file is looked at, and mended
	GameCheck    = "check"    // only find out which build there is: ServiceInfo.AvailableGameBuild
)

// InstallGame installs the game from Steam, or updates it. Errors: ErrInvalidArgument, ErrNotInstalled (there is nothing to
// install it with, or no game to update), ErrBusy, ErrQuotaExceeded, ErrAccessDenied.
func (c *Client) InstallGame(ctx context.Context, mode string, o JobOptions) (*Job, error) {
	options := o.variants()
	options["mode"] = dbus.MakeVariant(mode)
	return c.job(ctx, "InstallGame", options)
}

// SetGameRevision makes a revision of the game that is on disk (Service tells which are) the current one, which
// instances mount from their next start on. Errors: ErrInvalidArgument, ErrNotInstalled, ErrAccessDenied.
func (c *Client) SetGameRevision(ctx context.Context, revision uint32) error {
	return c.manager(ctx, "SetGameRevision", []any{revision, noOptions()})
}

// GetJob returns the job of that id, or ErrNoSuchJob.
func (c *Client) GetJob(ctx context.Context, id uint32) (*Job, error) {
	return c.job(ctx, "GetJob", id)
}

// JobFilter selects jobs; what is left empty selects all.
type JobFilter struct {
	Target    string
	Kind      string
	State     string
	Requester *uint32 // uid of who asked for it
	Limit     uint32  // how many, of the newest; 0 leaves that to left4d
}

func (f JobFilter) variants() map[string]dbus.Variant {
	m := map[string]dbus.Variant{}
	for key, text := range map[string]string{"target": f.Target, "kind": f.Kind, "state": f.State} {
		if text != "" {
			m[key] = dbus.MakeVariant(text)
		}
	}
	if f.Requester != nil {
		m["requester"] = dbus.MakeVariant(*f.Requester)
	}
	if f.Limit > 0 {
		m["limit"] = dbus.MakeVariant(f.Limit)
	}
	return m
}

// ListJobs returns the jobs that the filter selects, those of the history included, newest first.
func (c *Client) ListJobs(ctx context.Context, f JobFilter) ([]JobSummary, error) {
	var list []JobSummary
	err := c.manager(ctx, "ListJobs", []any{f.variants()}, &list)
	return list, err
}

// CancelJob asks for the end of a job, which may still take a moment. Errors: ErrNoSuchJob, ErrAccessDenied.
func (c *Client) CancelJob(ctx context.Context, id uint32) error {
	return c.manager(ctx, "CancelJob", []any{id, noOptions()})
}

// Info reads the job, or returns ErrNoSuchJob if left4d does not know it any more.
func (j *Job) Info(ctx context.Context) (JobInfo, error) {
	var object dbus.ObjectPath
	if err := j.c.manager(ctx, "GetJob", []any{j.ID}, &object); err != nil {
		return JobInfo{}, err
	}
	p, err := j.c.properties(ctx, object, names.Job)
	if err != nil {
		return JobInfo{}, gone(err, ErrNoSuchJob, fmt.Sprintf("job %d", j.ID))
	}
	return jobInfo(object, p)
}

func jobInfo(object dbus.ObjectPath, p *properties) (JobInfo, error) {
	id, _ := names.JobID(object)
	info := JobInfo{JobSummary: JobSummary{ID: id, Object: object}, Progress: -1}
	info.update(p)
	return info, p.err
}

func (i *JobInfo) update(p *properties) {
	var timeout, created, started, finished uint64
	p.get("Kind", &i.Kind)
	p.get("Target", &i.Target)
	p.get("State", &i.State)
	p.get("Progress", &i.Progress)
	p.get("Status", &i.Status)
	p.get("Requester", &i.Requester)
	p.get("RequesterName", &i.RequesterName)
	p.get("Cause", &i.Cause)
	p.get("Timeout", &timeout)
	p.get("Created", &created)
	p.get("Started", &started)
	p.get("Finished", &finished)
	p.get("Cancelable", &i.Cancelable)
	for usec, into := range map[*uint64]*time.Time{&created: &i.Created, &started: &i.Started, &finished: &i.Finished} {
		if *usec != 0 {
			*into = moment(*usec)
		}
	}
	if timeout != 0 {
		i.Timeout = time.Duration(min(timeout, math.MaxInt64/1000)) * time.Microsecond
	}
}

// Wait follows the job to its end and returns how it ended; the error is a *JobError if that is neither done nor
// skipped. progress, which may be nil, is called from within Wait with every change, first with the job as it is.
//
// When ctx ends, Wait returns its error, and the job goes on. When left4d is restarted meanwhile, Wait goes on
// following; if it stays away for longer than Client.Patience, or does not know the job any more, that is the error.
func (j *Job) Wait(ctx context.Context, progress func(JobInfo)) (JobInfo, error) {
	if progress == nil {
		progress = func(JobInfo) {}
	}
	w := j.c.watch(j.Object)
	defer j.c.unwatch(j.Object, w)

	var info JobInfo
	for {
		if err := j.follow(ctx, w, &info, progress); err != nil {
			return info, err
		}
		progress(info)
		if info.Ended() {
			return info, info.failure()
		}
		if err := j.changes(ctx, w, &info, progress); err != nil {
			return info, err
		}
	}
}

// changes applies what is signalled to info, and returns when the job has to be read again.
func (j *Job) changes(ctx context.Context, w *watch, info *JobInfo, progress func(JobInfo)) error {
	for again := false; !again; {
		if err := j.sleep(ctx, w, nil); err != nil {
			return err
		}
		for _, e := range j.c.take(w) {
			again = again || e.again
			if len(e.changed) == 0 {
				continue
			}
			p := properties{values: e.changed}
			if info.update(&p); p.err != nil {
				return p.err
			}
			if info.Ended() {
				again = true // all at once, with the times and the cause
			} else {
				progress(*info)
			}
		}
	}
	return nil
}

// follow reads the job into info. Where left4d is away it lets the bus start it, and waits for it where the bus
// cannot. A job that ended and is forgotten already is told from its JobRemoved and what was last seen of it.
func (j *Job) follow(ctx context.Context, w *watch, info *JobInfo, progress func(JobInfo)) error {
	var patience <-chan time.Time
	for attempt := 1; ; attempt++ {
		j.c.take(w) // what was signalled before the question is in the answer
		removed, ended := j.c.result(j.Object)
		now, err := j.Info(ctx)
		if err == nil {
			*info = now
			if ended && !info.Ended() {
				info.State = removed.State
			}
			if info.Ended() {
				return nil
			}
			return j.settle(w, info)
		}
		if removed, ended = j.c.result(j.Object); ended {
			removed.Cause = info.Cause
			info.JobSummary = removed
			return nil
		}
		if !IsUnavailable(err) || j.c.conn.Context().Err() != nil {
			return err
		}
		if patience == nil {
			timer := time.NewTimer(j.c.Patience)
			defer timer.Stop()
			patience = timer.C
			info.ID, info.Object, info.Status = j.ID, j.Object, "left4d is away, waiting for it"
			progress(*info)
		}
		if attempt < 3 && errors.Is(err, errNoReply) {
			continue // it left while it was asked: the next call makes the bus start it again
		}
		for absent := true; absent; absent = j.c.present() == "" {
			if failed := j.sleep(ctx, w, patience); errors.Is(failed, errPatience) {
				return err
			} else if failed != nil {
				return failed
			}
		}
	}
}

// settle sorts out what was signalled while info was read, which may be in it already: to apply that again would show
// steps twice. What comes behind the last change that makes no difference stays to be applied.
func (j *Job) settle(w *watch, info *JobInfo) error {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	known := 0
	for n, e := range w.events {
		with := *info
		p := properties{values: e.changed}
		if with.update(&p); p.err != nil {
			return p.err
		}
		if len(e.changed) > 0 && with == *info {
			known = n + 1
		}
	}
	for n, e := range w.events[:known] {
		info.update(&properties{values: e.changed})
		w.events[n].changed = nil
	}
	return nil
}

var errPatience = errors.New("out of patience")

// sleep returns when something was signalled about the job or left4d, or with the reason to wait no longer.
func (j *Job) sleep(ctx context.Context, w *watch, patience <-chan time.Time) error {
	select {
	case <-w.wake:
		return nil
	case <-patience:
		return errPatience
	case <-ctx.Done():
		return ctx.Err()
	case <-j.c.conn.Context().Done():
		return j.c.disconnected()
	}
}

func (i JobInfo) failure() error {
	if i.State == JobDone || i.State == JobSkipped {
		return nil
	}
	return &JobError{Info: i}
}
