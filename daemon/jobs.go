package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"left4.me/left4/daemon/store"
)

// States of a job.
const (
	JobQueued   = "queued"
	JobRunning  = "running"
	JobDone     = "done"
	JobFailed   = "failed"
	JobCanceled = "canceled"
	JobTimeout  = "timeout"
	JobSkipped  = "skipped"
)

// Job is one action as the outside sees it.
type Job struct {
	store.Job
	Progress   float64 // 0 to 1, -1 = not known
	Cancelable bool
}

// subject is what the target of a job names.
type subject string

const (
	anInstance subject = "instance"
	anOverlay  subject = "overlay"
	noObject   subject = "" // the game, or all revisions
)

// Kinds of jobs that are not verbs of an instance, and the targets of those that are about no object.
const (
	importGameKind    = "import-game"
	importOverlayKind = "import-overlay"
	buildOverlayKind  = "build-overlay"
	deleteOverlayKind = "delete-overlay"
	collectKind       = "collect"

	gameTarget      = "game"
	revisionsTarget = "revisions"
)

// kinds says of each kind of job what it is about, how long it may take unless its caller says otherwise, and whether it
// goes before others: it puts an end to a queued or running start of the same instance, if it removes files to their
// copying too, and a disk that is full of what it may remove does not keep it from being accepted.
var kinds map[string]kind

type kind struct {
	about    subject
	deadline time.Duration
	preempts bool
	run      func(*Daemon, context.Context, *job) error
}

// An init, because some of them accept jobs themselves.
func init() {
	kinds = map[string]kind{
		"initialize":      {anInstance, time.Minute, false, (*Daemon).initialize},
		"start":           {anInstance, 3 * time.Minute, false, (*Daemon).start},
		"stop":            {anInstance, 2 * time.Minute, true, (*Daemon).stop},
		"restart":         {anInstance, 5 * time.Minute, false, (*Daemon).restart},
		"kill":            {anInstance, time.Minute, true, (*Daemon).kill},
		"reset":           {anInstance, 15 * time.Minute, true, (*Daemon).reset},
		"delete":          {anInstance, 15 * time.Minute, true, (*Daemon).delete},
		importGameKind:    {noObject, 6 * time.Hour, false, (*Daemon).importRevision},
		importOverlayKind: {anOverlay, 6 * time.Hour, false, (*Daemon).importRevision},
		buildOverlayKind:  {anOverlay, 6 * time.Hour, false, (*Daemon).buildOverlay},
		deleteOverlayKind: {anOverlay, time.Hour, true, (*Daemon).deleteOverlay},
		collectKind:       {noObject, time.Hour, true, (*Daemon).collect},
	}
}

// About tells what kind of object a job is about, instance, overlay or "", and its name.
func (j Job) About() (kind, name string) {
	about := kinds[j.Kind].about
	if about == noObject {
		return "", ""
	}
	return string(about), j.Target
}

// Bounds of the jobs.
const (
	MaxTimeout    = 24 * time.Hour
	maxQueued     = 64  // of one target
	keptFinished  = 100 // that still have an object
	keptHistory   = 10_000
	keptHistoryAt = 90 * 24 * time.Hour
)

// job is a Job at work.
type job struct {
	Job
	ctx     context.Context
	cancel  context.CancelCauseFunc
	stream  *os.File // what an import reads; the job closes it
	size    uint64
	worker  string        // the unit that works for it
	changed chan struct{} // that unit changed
	resumed bool          // an earlier left4d began it
	over    bool          // its work is done; only its end is still to be stored and told
}

// instanceKinds are the kinds of jobs that decide whether an instance runs.
var instanceKinds = []string{"start", "stop", "restart", "kill", "reset", "delete"}

// nothingToDo is the status of a start that found its server running.
const nothingToDo = "running already"

// queue is what jobs wait for each other by: an instance's name, or one that no instance can have.
func (j *job) queue() string {
	switch kinds[j.Kind].about {
	case anInstance:
		return j.Target
	case anOverlay:
		return overlayQueue(j.Target)
	}
	return "@" + j.Target
}

func overlayQueue(name string) string { return "@overlay/" + name }

const collectQueue = "@" + revisionsTarget

// atWork tells whether a job of a kind waits or works in a queue. The lock must be held.
func (d *Daemon) atWork(queue, kind string) bool {
	return slices.ContainsFunc(d.queues[queue], func(j *job) bool { return j.Kind == kind && !j.over })
}

// object identifies what a job is about beyond its name, which may be given again; 0 = there is none. The lock must be held.
func (d *Daemon) object(j *job) int64 {
	switch in, o := d.instances[j.Target], d.overlays[j.Target]; kinds[j.Kind].about {
	case anInstance:
		if in != nil {
			return in.view.Created
		}
	case anOverlay:
		if o != nil {
			return int64(o.ID)
		}
	}
	return 0
}

// skippedError ends a job whose reason has gone.
type skippedError struct{ why string }

func (e *skippedError) Error() string { return e.why }

// canceledError is the cause of a context that somebody ended before its time.
type canceledError struct{ why string }

func (e *canceledError) Error() string { return e.why }

// Request is who asks for a job, and how long it may take (0 = the kind's own deadline).
type Request struct {
	Requester uint32
	Timeout   time.Duration
}

// StartInstance and its like accept a job for an instance and return at once. Errors: InvalidName, NoSuchInstance
// (not of delete), InvalidArgument (timeout), QuotaExceeded.
func (d *Daemon) StartInstance(name string, r Request) (Job, error) {
	return d.instanceJob(store.Job{Kind: "start", Target: name}, r)
}

// StopInstance disables and stops.
func (d *Daemon) StopInstance(name string, r Request) (Job, error) {
	return d.instanceJob(store.Job{Kind: "stop", Target: name}, r)
}

// RestartInstance stops, renders and starts.
func (d *Daemon) RestartInstance(name string, r Request) (Job, error) {
	return d.instanceJob(store.Job{Kind: "restart", Target: name}, r)
}

// KillInstance disables and kills.
func (d *Daemon) KillInstance(name string, r Request) (Job, error) {
	return d.instanceJob(store.Job{Kind: "kill", Target: name}, r)
}

// ResetInstance stops and removes what was rendered and what the server wrote.
func (d *Daemon) ResetInstance(name string, r Request) (Job, error) {
	return d.instanceJob(store.Job{Kind: "reset", Target: name}, r)
}

// DeleteInstance does what reset does and forgets the definition. What is not there is deleted with success.
func (d *Daemon) DeleteInstance(name string, r Request) (Job, error) {
	if err := CheckName(name); err != nil {
		return Job{}, err
	}
	return d.submit(&job{Job: Job{Job: store.Job{Kind: "delete", Target: name}}}, r)
}

func (d *Daemon) instanceJob(row store.Job, r Request) (Job, error) {
	if _, err := d.Instance(row.Target); err != nil {
		return Job{}, err
	}
	return d.submit(&job{Job: Job{Job: row}}, r)
}

// submit accepts a job: the row first, then everything else, so that an accepted job survives a crash.
func (d *Daemon) submit(j *job, r Request) (Job, error) {
	if r.Timeout < 0 || r.Timeout > MaxTimeout {
		return Job{}, errorf(InvalidArgument, "timeout %s is not allowed: use at most %s", r.Timeout, MaxTimeout)
	}
	kind := kinds[j.Kind]
	j.Requester, j.RequesterName, j.Timeout, j.State, j.Created = r.Requester, loginName(r.Requester), r.Timeout, JobQueued, now()
	if j.Timeout == 0 {
		j.Timeout = kind.deadline
	}

	d.accept.Lock()
	defer d.accept.Unlock()
	d.mu.Lock()
	closing, queued := d.closing, len(d.queues[j.queue()])
	j.Instance = d.object(j)
	d.mu.Unlock()
	limit := maxQueued
	if kind.preempts {
		limit *= 2 // what ends a server must get through behind what starts it
	}
	switch {
	case closing:
		return Job{}, errorf(Busy, "cannot %s %s: left4d is stopping", j.Kind, j.Target)
	case queued >= limit:
		return Job{}, errorf(QuotaExceeded, "cannot %s %s: %d jobs are waiting for it already", j.Kind, j.Target, queued)
	}
	d.lastJob++
	j.ID = d.lastJob
	if err := d.storeUnstored(); err != nil || d.Store.PutJob(j.Job.Job) != nil {
		// A full disk is often the work of the server that is to be stopped or removed: that must go on without a row.
		if !kind.preempts {
			err = errors.Join(err, d.Store.PutJob(j.Job.Job))
			if err != nil {
				return Job{}, fmt.Errorf("cannot %s %s: %w", j.Kind, j.Target, err)
			}
		}
		d.Log.Error("a job is accepted that cannot be stored", "job", j.ID, "kind", j.Kind, "target", j.Target)
	}
	if j.ID%500 == 0 {
		if err := d.Store.PruneJobs(time.Now().Add(-keptHistoryAt), keptHistory); err != nil {
			d.Log.Warn("cannot prune the history of jobs", "error", err)
		}
	}
	return d.enqueue(j), nil
}

// enqueue puts an accepted job behind the others of its target.
func (d *Daemon) enqueue(j *job) Job {
	j.Progress, j.Cancelable, j.changed = -1, true, make(chan struct{}, 1)
	j.ctx, j.cancel = context.WithCancelCause(d.ctx)

	d.mu.Lock()
	defer d.mu.Unlock()
	d.jobs[j.ID] = j
	d.Events.JobNew(j.Job)
	if kinds[j.Kind].preempts {
		why := &canceledError{fmt.Sprintf("canceled by %s (job %d)", j.Kind, j.ID)}
		removes := j.Kind == "reset" || j.Kind == "delete"
		for _, other := range d.queues[j.queue()] {
			copies := other.Parameters.V.FilesFrom != ""
			if other.Kind == "start" || other.Kind == "restart" || removes && copies {
				other.cancel(why)
			}
		}
	}
	d.queues[j.queue()] = append(d.queues[j.queue()], j)
	if len(d.queues[j.queue()]) == 1 {
		d.running.Add(1)
		go d.drain(j.queue())
	}
	return j.Job
}

// drain runs the jobs of one target one after the other.
func (d *Daemon) drain(target string) {
	defer d.running.Done()
	for {
		d.mu.Lock()
		j := d.queues[target][0]
		d.mu.Unlock()
		final, ended := d.work(j)
		d.mu.Lock()
		d.queues[target] = d.queues[target][1:]
		empty := len(d.queues[target]) == 0
		if empty {
			delete(d.queues, target)
		}
		// Who hears of the end acts on it at once: by then the job must be in nobody's way.
		if ended {
			d.end(j, final)
		}
		d.mu.Unlock()
		if empty {
			return
		}
	}
}

// end makes a job what it ended as and tells it. The lock must be held.
func (d *Daemon) end(j *job, final Job) {
	old := j.Job
	j.Job = final
	d.Events.JobChanged(old, j.Job)
	d.Events.JobEnded(j.Job)
	d.finished = append(d.finished, j.ID)
	if len(d.finished) > keptFinished {
		if oldest := d.jobs[d.finished[0]]; oldest != nil {
			delete(d.jobs, oldest.ID)
			d.Events.JobForgotten(oldest.Job)
		}
		d.finished = d.finished[1:]
	}
	j.cancel(nil)
}

// work runs one job and returns what it ended as. A job that gives way because left4d stops has not ended: it is left
// as it is, for the next left4d.
func (d *Daemon) work(j *job) (final Job, ended bool) {
	var err error
	var late bool
	if context.Cause(j.ctx) == nil {
		d.update(j, func(j *Job) {
			if j.Started == 0 {
				j.Started = now()
			}
			j.State = JobRunning
		})
		if err := d.Store.PutJob(j.Job.Job); err != nil {
			d.Log.Error("cannot store that a job runs", "job", j.ID, "error", err)
		}
		<-d.refreshTarget(j)
		ctx, cancel := context.WithTimeout(j.ctx, j.Timeout)
		err = d.guarded(ctx, j)
		late = errors.Is(ctx.Err(), context.DeadlineExceeded)
		cancel()
	} else {
		err = context.Cause(j.ctx)
	}
	if j.stream != nil {
		j.stream.Close()
	}
	cause := context.Cause(j.ctx)
	if errors.Is(cause, errClosing) {
		return Job{}, false
	}

	var canceled *canceledError
	var skipped *skippedError
	result, why := JobDone, ""
	switch {
	case err == nil:
	case errors.As(cause, &canceled):
		result, why = JobCanceled, canceled.why
	case errors.As(err, &skipped):
		result, why = JobSkipped, skipped.why
	case late:
		result, why = JobTimeout, fmt.Sprintf("cannot %s %s: not done within %s", j.Kind, j.Target, j.Timeout)
	default:
		result, why = JobFailed, err.Error()
	}
	final = j.Job
	final.State, final.Finished, final.Cancelable = result, now(), false
	if why != "" {
		final.Cause = why
	}
	if result == JobDone {
		final.Progress = 1
	}
	// The database first: who hears JobRemoved may ask ListJobs, and a crash must not run the job a second time.
	if err := d.Store.PutJob(final.Job); err != nil {
		d.Log.Error("cannot store the end of a job, will try again", "job", j.ID, "error", err)
		d.mu.Lock()
		d.unstored = append(d.unstored, final.Job)
		d.mu.Unlock()
	}
	d.Log.Info("job ended", "job", j.ID, "kind", j.Kind, "target", j.Target, "result", result, "cause", final.Cause)
	d.mu.Lock()
	j.over = true
	d.mu.Unlock()
	<-d.refreshTarget(j)
	if kinds[j.Kind].about == anInstance {
		d.collectSoon() // it may have unmounted the last of an old revision
	}
	return final, true
}

// guarded turns a panic of a verb into its failure: one bad job must not end the daemon of all the others.
func (d *Daemon) guarded(ctx context.Context, j *job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.Log.Error("internal error", "job", j.ID, "panic", p)
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	// It was allowed for that instance, not for another that has its name by now.
	d.mu.Lock()
	object := d.object(j)
	d.mu.Unlock()
	if object != 0 && object != j.Instance {
		return &skippedError{fmt.Sprintf("%s was deleted and made again meanwhile", j.Target)}
	}
	return kinds[j.Kind].run(d, ctx, j)
}

func (d *Daemon) refreshTarget(j *job) <-chan struct{} {
	if kinds[j.Kind].about == anInstance {
		return d.refresh(j.Target)
	}
	done := make(chan struct{})
	close(done)
	return done
}

// update changes what the outside sees of a job and tells it.
func (d *Daemon) update(j *job, fn func(*Job)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := j.Job
	fn(&j.Job)
	d.Events.JobChanged(old, j.Job)
}

// step tells what a job is at.
func (d *Daemon) step(j *job, format string, args ...any) {
	d.update(j, func(j *Job) { j.Status = fmt.Sprintf(format, args...) })
}

// Job returns a job, also one that only the history knows, or NoSuchJob.
func (d *Daemon) Job(id uint32) (Job, error) {
	d.mu.Lock()
	j := d.jobs[id]
	var found Job
	if j != nil {
		found = j.Job
	}
	d.mu.Unlock()
	if j != nil {
		return found, nil
	}
	row, err := d.Store.Job(id)
	if errors.Is(err, store.ErrNotFound) {
		return Job{}, errorf(NoSuchJob, "there is no job %d", id)
	}
	return fromHistory(row), err
}

// Jobs returns the selected jobs, newest first.
func (d *Daemon) Jobs(f store.JobFilter) ([]Job, error) {
	rows, err := d.Store.Jobs(f)
	if err != nil {
		return nil, fmt.Errorf("cannot list the jobs: %w", err)
	}
	all := make([]Job, len(rows))
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, row := range rows {
		all[i] = fromHistory(row)
		if j := d.jobs[row.ID]; j != nil {
			all[i] = j.Job
		}
	}
	return all, nil
}

// LiveJobs returns the jobs that have an object.
func (d *Daemon) LiveJobs() []Job {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]Job, 0, len(d.jobs))
	for _, j := range d.jobs {
		all = append(all, j.Job)
	}
	slices.SortFunc(all, func(a, b Job) int { return int(a.ID) - int(b.ID) })
	return all
}

func fromHistory(row store.Job) Job {
	j := Job{Job: row, Progress: -1}
	if row.State == JobDone {
		j.Progress = 1
	}
	return j
}

// CancelJob ends a queued or running job. One that has ended stays as it is, with Busy.
func (d *Daemon) CancelJob(id, requester uint32) error {
	login := loginName(requester)
	d.mu.Lock()
	j := d.jobs[id]
	if j != nil && j.Finished == 0 {
		defer d.mu.Unlock()
		j.cancel(&canceledError{"canceled by " + userName(requester, login)})
		return nil
	}
	d.mu.Unlock()
	if _, err := d.Job(id); err != nil {
		return err
	}
	return errorf(Busy, "cannot cancel job %d: it has ended", id)
}

// recover takes up what an earlier left4d did not end. Every verb can be repeated, so a job runs again from its
// beginning; what would do harm twice (a restart that systemd has done) looks first whether it is done.
func (d *Daemon) recover() error {
	unfinished, err := d.Store.UnfinishedJobs()
	if err != nil {
		return fmt.Errorf("cannot read the unfinished jobs: %w", err)
	}
	for _, row := range unfinished {
		j := &job{Job: Job{Job: row}, resumed: row.Started != 0}
		why := ""
		if kind, known := kinds[row.Kind]; !known {
			why = "this left4d knows no such job"
		} else if kind.about != anInstance {
			// An overlay may have the name of an instance, and nothing overtakes its jobs.
		} else if later, err := d.Store.LastJob(row.Target, row.Created, nothingToDo, instanceKinds...); err == nil && later.ID > row.ID {
			// Its end could not be stored: done again it would undo what was asked after it.
			why = fmt.Sprintf("overtaken by %s (job %d)", later.Kind, later.ID)
		}
		if why != "" {
			row.State, row.Finished, row.Cause = JobCanceled, now(), why
			if err := d.Store.PutJob(row); err != nil {
				return err
			}
			continue
		}
		j.State = JobQueued
		d.Log.Info("job taken up again", "job", j.ID, "kind", j.Kind, "target", j.Target)
		d.enqueue(j)
	}
	return nil
}

// storeUnstored tries again to store the ends of jobs that a full disk has kept from it.
func (d *Daemon) storeUnstored() error {
	d.mu.Lock()
	rows := d.unstored
	d.unstored = nil
	d.mu.Unlock()
	for i, row := range rows {
		if err := d.Store.PutJob(row); err != nil {
			d.mu.Lock()
			d.unstored = append(rows[i:], d.unstored...)
			d.mu.Unlock()
			return err
		}
	}
	return nil
}
