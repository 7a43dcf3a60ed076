package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
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
	noObject   subject = "" // the game, all revisions, or problems
)

// Kinds of jobs that are not verbs of an instance, and the targets of those that are about no object.
const (
	importGameKind    = "import-game"
	installGameKind   = "install-game"
	importOverlayKind = "import-overlay"
	buildOverlayKind  = "build-overlay"
	deleteOverlayKind = "delete-overlay"
	collectKind       = "collect"
	repairKind        = "repair"

	gameTarget      = "game"
	revisionsTarget = "revisions"
	problemsTarget  = "problems"
)

// kinds says of each kind of job what it is about, how long it may take unless its caller says otherwise, and how it goes
// together with others.
var kinds map[string]kind

type kind struct {
	about    subject
	deadline time.Duration
	run      func(*Daemon, context.Context, *job) error
	// steps are those that it tells, in their order; how far it has come is told by them.
	steps []string
	// preempts tells that it puts an end to queued and running starts of the same instance, and, if it removes files, to
	// queued initializes and to the copying of files.
	preempts bool
	// frees tells that it is accepted on a full disk, too: that is often the work of the server that is to be stopped or
	// removed.
	frees bool
	// mounts tells that it brings files to a server, and so waits for the imports and builds of overlays before it.
	mounts bool
	// joined tells that one which is still queued serves whoever asks for another.
	joined bool
}

// An init, because some of them accept jobs themselves.
func init() {
	kinds = map[string]kind{
		"initialize": {about: anInstance, deadline: time.Minute, mounts: true, run: (*Daemon).initialize},
		"start": {about: anInstance, deadline: 3 * time.Minute, mounts: true, run: (*Daemon).start,
			steps: []string{stopping, rendering, starting}},
		"restart": {about: anInstance, deadline: 5 * time.Minute, mounts: true, run: (*Daemon).restart,
			steps: []string{stopping, rendering, starting, restarting}},
		"stop": {about: anInstance, deadline: 2 * time.Minute, preempts: true, frees: true, run: (*Daemon).stop,
			steps: []string{stopping, unmounting}},
		"kill": {about: anInstance, deadline: time.Minute, preempts: true, frees: true, run: (*Daemon).kill,
			steps: []string{killing, unmounting}},
		"reset": {about: anInstance, deadline: 15 * time.Minute, preempts: true, frees: true, run: (*Daemon).reset,
			steps: []string{stopping, unmounting, removing}},
		"delete": {about: anInstance, deadline: 15 * time.Minute, preempts: true, frees: true, run: (*Daemon).delete,
			steps: []string{stopping, unmounting, removing}},
		importGameKind:    {about: noObject, deadline: 6 * time.Hour, run: (*Daemon).importRevision},
		installGameKind:   {about: noObject, deadline: 12 * time.Hour, run: (*Daemon).installGame},
		importOverlayKind: {about: anOverlay, deadline: 6 * time.Hour, run: (*Daemon).importRevision},
		buildOverlayKind:  {about: anOverlay, deadline: 6 * time.Hour, joined: true, run: (*Daemon).buildOverlay},
		deleteOverlayKind: {about: anOverlay, deadline: time.Hour, frees: true, run: (*Daemon).deleteOverlay},
		collectKind:       {about: noObject, deadline: time.Hour, frees: true, joined: true, run: (*Daemon).collect},
		repairKind:        {about: noObject, deadline: time.Hour, frees: true, run: (*Daemon).repair},
	}
}

// Steps of jobs that are told in the same words everywhere.
const (
	stopping   = "stopping"
	unmounting = "unmounting"
	rendering  = "rendering"
	starting   = "starting"
	restarting = "restarting"
	killing    = "killing"
	removing   = "removing files"
	publishing = "publishing" // of all that was counted before, next to nothing is left
)

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
	ctx      context.Context // its cause says why the job has to end
	cancel   context.CancelCauseFunc
	clock    *time.Timer   // ends it when its time is over; nil = has not begun to run
	turn     chan struct{} // what it waits for may have gone
	begun    bool          // it has had its turn
	deadline time.Duration // of its kind, 0 = as kinds has it
	hurried  bool          // its time runs from its acceptance, because its caller has set it
	stream   *os.File      // what an import reads; the job closes it
	size     uint64
	worker   string        // the unit that works for it
	changed  chan struct{} // that unit changed
	resumed  bool          // an earlier left4d began it
	over     bool          // its work is done; only its end is still to be stored and told
}

// instanceKinds are the kinds of jobs that decide whether an instance runs.
var instanceKinds = []string{"start", "stop", "restart", "kill", "reset", "delete"}

// overtaking are the kinds of jobs that, done after one of a kind was accepted, leave nothing of it to do.
func overtaking(kind string) []string {
	if kind == "initialize" {
		return []string{"reset", "delete"} // a stop goes before one that waits
	}
	return instanceKinds
}

// nothingToDo is the status of a start that found its server running.
const nothingToDo = "running already"

// doing says in words what the job is to do.
func (j *job) doing() string {
	switch j.Kind {
	case importGameKind:
		return "import the game"
	case installGameKind:
		if j.Parameters.V.Mode == ModeCheck {
			return "check the game"
		}
		return "install the game"
	case collectKind:
		return "collect what nobody needs"
	}
	return strings.ReplaceAll(j.Kind, "-", " ") + " " + j.Target // import overlay maps
}

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

// lateError is the cause of a context whose time is over.
type lateError struct{}

func (lateError) Error() string { return "its time is over" }

// canceledError is the cause of a context that somebody ended before its time.
type canceledError struct {
	why       string
	preempted bool // by a job that brings the server down
}

func (e *canceledError) Error() string { return e.why }

// Request is who asks for a job, and how long it may take from its acceptance on (0 = the kind's own deadline, which
// counts from when it begins to run).
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
	j.hurried = r.Timeout != 0
	j.Requester, j.RequesterName, j.Timeout, j.State, j.Created = r.Requester, LoginName(r.Requester), r.Timeout, JobQueued, now()
	if j.Timeout == 0 {
		j.Timeout = cmp.Or(j.deadline, kind.deadline)
	}

	d.accept.Lock()
	defer d.accept.Unlock()
	d.mu.Lock()
	closing, queued := d.closing, len(d.queues[j.queue()])
	j.Instance = d.object(j)
	if other := d.joinable(j); other != nil && !closing {
		defer d.mu.Unlock()
		return other.Job, nil
	}
	d.mu.Unlock()
	limit := maxQueued
	if kind.frees {
		limit *= 2 // what ends a server must get through behind what starts it
	}
	switch {
	case closing:
		return Job{}, errorf(Busy, "cannot %s: left4d is stopping", j.doing())
	case queued >= limit:
		return Job{}, errorf(QuotaExceeded, "cannot %s: %d jobs are waiting for it already", j.doing(), queued)
	}
	d.lastJob++
	j.ID = d.lastJob
	if err := d.storeUnstored(); err != nil || d.Store.PutJob(j.Job.Job) != nil {
		if !kind.frees {
			err = errors.Join(err, d.Store.PutJob(j.Job.Job))
			if err != nil {
				return Job{}, fmt.Errorf("cannot %s: %w", j.doing(), err)
			}
		}
		d.Log.Error("a job is accepted that cannot be stored", "job", j.ID, "kind", j.Kind, "target", j.Target)
	}
	if j.ID%500 == 0 {
		d.pruneJobs()
	}
	return d.enqueue(j, nil), nil
}

func (d *Daemon) pruneJobs() {
	if err := d.Store.PruneJobs(time.Now().Add(-keptHistoryAt), keptHistory); err != nil {
		d.Log.Warn("cannot prune the history of jobs", "error", err)
	}
}

// joinable is the queued job that serves as well. The lock must be held.
func (d *Daemon) joinable(j *job) *job {
	if !kinds[j.Kind].joined {
		return nil
	}
	for _, other := range d.queues[j.queue()] {
		if other.Kind == j.Kind && other.State == JobQueued && other.Instance == j.Instance &&
			other.Parameters.V.OnTop == j.Parameters.V.OnTop && other.ctx.Err() == nil {
			return other
		}
	}
	return nil
}

// enqueue puts an accepted job behind the others of its target; one that is canceled already is only brought to its end.
// accept must be held.
func (d *Daemon) enqueue(j *job, canceled *canceledError) Job {
	j.Progress, j.Cancelable = -1, true
	if kinds[j.Kind].steps != nil {
		j.Progress = 0
	}
	j.changed, j.turn = make(chan struct{}, 1), make(chan struct{}, 1)
	j.ctx, j.cancel = context.WithCancelCause(d.ctx)
	if canceled != nil {
		j.cancel(canceled)
	}
	if j.hurried {
		j.clock = j.startClock()
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	d.jobs[j.ID] = j
	d.Events.JobNew(j.Job)
	if kinds[j.Kind].preempts && canceled == nil {
		why := &canceledError{fmt.Sprintf("canceled by %s (job %d)", j.Kind, j.ID), true}
		removes := j.Kind == "reset" || j.Kind == "delete"
		for _, other := range d.queues[j.queue()] {
			// What is to be removed is neither copied nor rendered any more.
			files := other.Kind == "initialize" && (!other.begun || other.Parameters.V.FilesFrom != "")
			if other.Kind == "start" || other.Kind == "restart" || removes && files {
				other.cancel(why)
			}
		}
	}
	queue := d.queues[j.queue()]
	at := len(queue)
	if kinds[j.Kind].preempts {
		// What brings a server down is not held up by what has not begun and may have long to wait.
		if n := slices.IndexFunc(queue, func(o *job) bool { return !o.begun && !kinds[o.Kind].preempts }); n >= 0 {
			at = n
		}
	}
	d.queues[j.queue()] = slices.Insert(queue, at, j)
	d.running.Add(1)
	go d.see(j)
	return j.Job
}

func (j *job) startClock() *time.Timer {
	return time.AfterFunc(j.Timeout, func() { j.cancel(lateError{}) })
}

// see sees a job from its acceptance to its end. Wherever it stands in its queue, it leaves as soon as it is canceled or
// its time is over.
func (d *Daemon) see(j *job) {
	defer d.running.Done()
	if j.Kind == "kill" {
		d.hasten(j)
	}
	d.awaitTurn(j)
	final, ended := d.work(j)
	d.mu.Lock()
	defer d.mu.Unlock()
	queue := slices.DeleteFunc(d.queues[j.queue()], func(other *job) bool { return other == j })
	if len(queue) == 0 {
		delete(d.queues, j.queue())
	} else {
		d.queues[j.queue()] = queue
		queue[0].wake()
	}
	if kinds[j.Kind].about == anOverlay {
		for _, queue := range d.queues {
			queue[0].wake()
		}
	}
	// Who hears of the end acts on it at once: by then the job must be in nobody's way.
	if ended {
		d.end(j, final)
	}
}

// hasten kills the server at once for a kill that has to wait for its turn, where the job at work brings the server down,
// too: a stop, or a start that the kill has called off. It may be waiting for a server that does not end, which is what a
// kill is for.
func (d *Daemon) hasten(j *job) {
	d.mu.Lock()
	first := d.queues[j.queue()][0]
	d.mu.Unlock()
	if first == j || !ends[first.Kind] && first.Kind != "start" && first.Kind != "restart" {
		return
	}
	server := units.ServerUnit(j.Target)
	// The stop is queued first: a bare SIGKILL is a failure, which systemd would answer with a restart.
	_, err := d.Units.QueueStop(j.ctx, server)
	if err == nil {
		err = d.Units.Kill(j.ctx, server, int32(unix.SIGKILL))
	}
	if err != nil && j.ctx.Err() == nil {
		d.Log.Warn("cannot kill a server at once", "instance", j.Target, "error", err)
	}
}

func (j *job) wake() {
	select {
	case j.turn <- struct{}{}:
	default:
	}
}

// awaitTurn returns when nothing is in the way of a job any more, or when it has to end.
func (d *Daemon) awaitTurn(j *job) {
	for {
		d.mu.Lock()
		first := d.queues[j.queue()][0] == j
		ended := j.ctx.Done()
		var other *job
		switch {
		case first && j.ctx.Err() == nil:
			other = d.builds(j)
		case !first && j.resumed:
			ended = nil // what it has begun is taken back in its turn, too
		}
		leaves := j.ctx.Err() != nil && ended != nil
		j.begun = first && other == nil
		if other != nil {
			old := j.Job
			j.Status = fmt.Sprintf("waiting for job %d (%s %s)", other.ID, other.Kind, other.Target)
			d.Events.JobChanged(old, j.Job)
		}
		d.mu.Unlock()
		if j.begun || leaves {
			return
		}
		select {
		case <-j.turn:
		case <-ended:
		}
	}
}

// builds is an import or a build that was accepted before a job: of an overlay that the job would mount, or one that shares
// what there is one of; nil = there is none. The lock must be held.
func (d *Daemon) builds(j *job) *job {
	if j.Kind == buildOverlayKind {
		return d.rival(j)
	}
	in := d.instances[j.Target]
	if !kinds[j.Kind].mounts || in == nil {
		return nil
	}
	for _, o := range in.view.Effective.Overlays {
		for _, other := range d.queues[overlayQueue(o.Overlay)] {
			if slices.Contains(overlayKinds, other.Kind) && other.ID < j.ID && !other.over {
				return other
			}
		}
	}
	return nil
}

// rival is a build accepted before another one, where only one of their type may run. It goes by their numbers, so that
// it comes out the same after a restart. The lock must be held.
func (d *Daemon) rival(j *job) *job {
	kind := func(overlay string) string {
		if o := d.overlays[overlay]; o != nil && overlayTypes[o.Type].alone {
			return o.Type
		}
		return ""
	}
	mine := kind(j.Target)
	if mine == "" {
		return nil
	}
	for _, queue := range d.queues {
		for _, other := range queue {
			if other.Kind == buildOverlayKind && other.ID < j.ID && !other.over && kind(other.Target) == mine {
				return other
			}
		}
	}
	return nil
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
	if j.clock != nil {
		j.clock.Stop()
	}
	j.cancel(nil)
}

// work runs one job and returns what it ended as. A job that gives way because left4d stops has not ended: it is left
// as it is, for the next left4d.
func (d *Daemon) work(j *job) (final Job, ended bool) {
	var err error
	// What a killed left4d had begun is also taken back by its verb.
	if context.Cause(j.ctx) == nil || j.resumed {
		if j.clock == nil {
			j.clock = j.startClock()
		}
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
		err = d.guarded(j.ctx, j)
	} else {
		err = context.Cause(j.ctx)
	}
	if j.stream != nil {
		j.stream.Close()
	}
	cause := context.Cause(j.ctx)
	// Without systemd nobody can go on or take anything back: left4d ends, and the next one takes it up.
	if errors.Is(cause, errClosing) || errors.Is(err, units.ErrLost) {
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
	case errors.As(cause, &lateError{}):
		result, why = JobTimeout, fmt.Sprintf("cannot %s: not done within %s", j.doing(), j.Timeout)
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
	d.logEnd(final)
	d.mu.Lock()
	j.over = true
	d.mu.Unlock()
	if !j.begun {
		return final, true // it has changed nothing
	}
	<-d.refreshTarget(j)
	if kinds[j.Kind].about == anInstance {
		d.collectSoon() // it may have unmounted the last of an old revision
	}
	return final, true
}

// logEnd tells the journal what has become of a job.
func (d *Daemon) logEnd(j Job) {
	text := fmt.Sprintf("%s %s: %s (job %d of %s)", j.Kind, j.Target, j.State, j.ID, UserName(j.Requester, j.RequesterName))
	if j.Cause != "" {
		text += ": " + j.Cause
	}
	about, name := j.About()
	if about == "" {
		about, name = "target", j.Target
	}
	d.Log.Info(text, "event", "job", "job", j.ID, "kind", j.Kind, about, name, "result", j.State, "cause", j.Cause,
		"caller_uid", j.Requester, "caller", j.RequesterName)
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

// step tells what a job is at, and how far it has come where its kind has known steps.
func (d *Daemon) step(j *job, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	steps := kinds[j.Kind].steps
	d.update(j, func(j *Job) {
		j.Status = text
		if n := slices.Index(steps, text); n >= 0 {
			j.Progress = max(j.Progress, float64(n)/float64(len(steps)))
		} else if text == publishing {
			j.Progress = max(j.Progress, 0.99)
		}
	})
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
	// That it could not be stored was told when it ended.
	_ = d.storeUnstored()
	rows, err := d.Store.Jobs(f)
	if err != nil {
		return nil, fmt.Errorf("cannot list the jobs: %w", err)
	}
	all := make([]Job, 0, len(rows))
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, row := range rows {
		j := fromHistory(row)
		if live := d.jobs[row.ID]; live != nil {
			j = live.Job
		}
		// The database may not have taken its end yet.
		if f.State == "" || j.State == f.State {
			all = append(all, j)
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
	login := LoginName(requester)
	d.mu.Lock()
	j := d.jobs[id]
	alive := j != nil && j.Finished == 0 && !j.over
	d.mu.Unlock()
	if alive {
		why := "canceled by " + UserName(requester, login)
		if err := d.Store.CancelJob(id, why); err != nil {
			d.Log.Error("a cancel cannot be stored", "job", id, "error", err)
		}
		j.cancel(&canceledError{why: why})
		return nil
	}
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
		} else if later, err := d.Store.LastJob(row.Target, row.Created, nothingToDo, overtaking(row.Kind)...); err == nil && later.ID > row.ID {
			// Its end could not be stored: done again it would undo what was asked after it.
			why, j.resumed = fmt.Sprintf("overtaken by %s (job %d)", later.Kind, later.ID), false
		}
		j.State, j.Status = JobQueued, ""
		d.Log.Info("job taken up again", "job", j.ID, "kind", j.Kind, "target", j.Target)
		if why == "" {
			why = row.Canceled
		}
		var canceled *canceledError
		if why != "" {
			canceled = &canceledError{why: why}
		}
		d.enqueue(j, canceled)
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
