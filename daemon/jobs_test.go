package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// held makes systemd keep a call open until it is released.
func (w *world) held(call string) (release func()) {
	hold := make(chan struct{})
	w.units.Hold[call] = hold
	return func() { w.units.Release(call); close(hold) }
}

func (w *world) accept(verb func(string, Request) (Job, error), name string, r Request) Job {
	w.t.Helper()
	j, err := verb(name, r)
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// Who cancels what has not begun is not made to wait for what is before it.
func TestAQueuedJobEndsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	release := w.held("stop left4-server@a.service")
	stop := w.accept(w.StopInstance, "a", Request{})
	w.units.Wait(t, "stop left4-server@a")
	start := w.accept(w.StartInstance, "a", Request{Requester: 7})
	hurried := w.accept(w.RestartInstance, "a", Request{Timeout: time.Millisecond})
	last := w.accept(w.InitializeInstance0, "a", Request{})
	if got := w.events.wait(t, hurried.ID); got.State != JobTimeout || got.Started != 0 || got.Cause != "cannot restart a: not done within 1ms" {
		t.Errorf("%+v", got)
	}
	if err := w.CancelJob(start.ID, 0); err != nil {
		t.Fatal(err)
	}
	if got := w.events.wait(t, start.ID); got.State != JobCanceled || got.Started != 0 || !strings.HasPrefix(got.Cause, "canceled by ") {
		t.Errorf("%+v", got)
	}
	if j, err := w.Job(stop.ID); err != nil || j.State != JobRunning {
		t.Errorf("the one before it is %s, %v", j.State, err)
	}
	release()
	if got := w.events.wait(t, last.ID); got.State != JobDone {
		t.Errorf("the one behind it ended %s, %q", got.State, got.Cause)
	}
	if w.units.Count("start left4-server@a") != 0 {
		t.Errorf("systemd was asked %q", w.units.Calls())
	}
	// It says nothing of the instance's state either.
	if in, _ := w.Instance("a"); !strings.HasPrefix(in.Cause, "stopped by ") {
		t.Errorf("the cause is %q", in.Cause)
	}
}

// InitializeInstance0 is an initialize of what is stored.
func (w *world) InitializeInstance0(name string, r Request) (Job, error) {
	return w.InitializeInstance(name, nil, false, "", r)
}

// One that never began has not overtaken what a killed left4d had at work.
func TestWhatNeverBeganOvertakesNothing(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.held("start left4-server@a.service")
	start := w.accept(w.StartInstance, "a", Request{})
	w.units.Wait(t, "start left4-server@a")
	queued := w.accept(w.RestartInstance, "a", Request{})
	if err := w.CancelJob(queued.ID, 0); err != nil {
		t.Fatal(err)
	}
	w.events.wait(t, queued.ID)
	w.units.Release("start left4-server@a.service")
	w.again()
	if got := w.events.wait(t, start.ID); got.State != JobDone {
		t.Errorf("the start ended %s, %q", got.State, got.Cause)
	}
}

// A stop goes before an initialize that waits, which is done all the same, also by the next left4d.
func TestAStopOvertakesNoInitialize(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.create("b", Changes{})
	for n, name := range []string{"a", "b"} {
		in, _ := w.Instance(name)
		kind := []string{"stop", "reset"}[n]
		for _, row := range []store.Job{
			{ID: uint32(2*n + 1), Kind: "initialize", State: JobQueued},
			{ID: uint32(2*n + 2), Kind: kind, State: JobDone, Started: now(), Finished: now()},
		} {
			row.Target, row.Instance, row.Timeout, row.Created = name, in.Created, time.Minute, now()
			if err := w.Store.PutJob(row); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.again()
	if j := w.events.wait(t, 1); j.State != JobDone {
		t.Errorf("behind a stop: %+v", j)
	}
	if j := w.events.wait(t, 3); j.State != JobCanceled {
		t.Errorf("behind a reset: %+v", j)
	}
}

func TestAStartWaitsForTheImportsOfItsOverlays(t *testing.T) {
	w := newWorld(t)
	w.overlay("sm", map[string]string{"x": "1"})
	w.overlay("other", map[string]string{"x": "1"})
	if _, err := w.CreateBlueprint("b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm"}}}, 1000); err != nil {
		t.Fatal(err)
	}
	w.create("a", Changes{Blueprint: ptr("b")})
	w.create("free", Changes{Overlays: &[]store.OverlayRef{{Overlay: "other"}}})
	w.units.Work = nil // the worker is at work until the test says otherwise
	im, err := w.ImportOverlay("sm", w.stream(), Import{}, Request{})
	if err != nil {
		t.Fatal(err)
	}
	unit := units.BuildUnit(im.ID)
	w.units.Wait(t, "worker "+unit)

	waits := w.accept(w.StartInstance, "a", Request{})
	w.do(w.StartInstance, "free", JobDone)
	// What is to end it need not wait.
	w.do(w.StopInstance, "a", JobDone)
	if got := w.events.wait(t, waits.ID); got.State != JobCanceled || got.Started != 0 || got.Status != "waiting for job 3 (import-overlay sm)" {
		t.Errorf("%+v", got)
	}

	// What it has no more is not waited for.
	w.create("b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm"}}})
	freed := w.accept(w.StartInstance, "b", Request{})
	if err := w.ConfigureInstance("b", Changes{Overlays: &[]store.OverlayRef{}}); err != nil {
		t.Fatal(err)
	}
	if got := w.events.wait(t, freed.ID); got.State != JobDone {
		t.Errorf("%+v", got)
	}

	waits = w.accept(w.StartInstance, "a", Request{})
	again, err := w.ImportOverlay("sm", w.stream(), Import{}, Request{}) // behind it: not waited for
	if err != nil {
		t.Fatal(err)
	}
	w.units.Set(unit, units.State{Active: "active", Sub: "exited", StatusText: status.Done(1, 7, "")})
	w.events.wait(t, im.ID)
	if got := w.events.wait(t, waits.ID); got.State != JobDone {
		t.Errorf("%+v", got)
	}
	if plan, _, err := w.Layout.ReadInstance("a"); err != nil || plan.Lower[0] != "overlays/1/3" {
		t.Errorf("it was started with %v, %v", plan.Lower, err)
	}
	if err := w.CancelJob(again.ID, 0); err != nil {
		t.Fatal(err)
	}
	w.events.wait(t, again.ID)
}

// An initialize that waits for an import, which may take hours, does not hold up the stop of a server that runs.
func TestAStopGoesBeforeWhatWaits(t *testing.T) {
	for name, stop := range map[string]func(*Daemon, string, Request) (Job, error){
		"stop": (*Daemon).StopInstance, "kill": (*Daemon).KillInstance, "reset": (*Daemon).ResetInstance, "delete": (*Daemon).DeleteInstance,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.overlay("sm", map[string]string{"x": "1"})
			w.create("a", Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm"}}})
			w.do(w.StartInstance, "a", JobDone)
			w.units.Work = nil
			im, err := w.ImportOverlay("sm", w.stream(), Import{}, Request{})
			if err != nil {
				t.Fatal(err)
			}
			w.units.Wait(t, "worker "+units.BuildUnit(im.ID))
			waits := w.accept(w.InitializeInstance0, "a", Request{})
			w.do(func(n string, r Request) (Job, error) { return stop(w.Daemon, n, r) }, "a", JobDone)
			want := map[string]string{"stop": JobQueued, "kill": JobQueued}[name]
			if want == "" {
				// After a reset nothing is rendered any more.
				want = w.events.wait(t, waits.ID).State
				if want != JobCanceled || w.exists("state/instances/a/plan.json") {
					t.Errorf("the initialize ended %s", want)
				}
			}
			if j, err := w.Job(waits.ID); err != nil || j.State != want {
				t.Errorf("the initialize is %s, %v", j.State, err)
			}
			w.units.Set(units.BuildUnit(im.ID), units.State{Active: "active", Sub: "exited", StatusText: status.Done(1, 7, "")})
			w.events.wait(t, im.ID)
			w.events.wait(t, waits.ID)
		})
	}
}

// Two who write one drop-in take turns: a limit that is changed, and a job.
func TestADropInHasOneWriter(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Add(2)
		go func() {
			defer wg.Done()
			if err := w.ConfigureInstance("a", Changes{Limits: &units.Limits{TasksMax: ptr(uint64(100 + n))}}); err != nil {
				t.Error(err)
			}
		}()
		go func() {
			defer wg.Done()
			j, err := w.RestartInstance("a", Request{})
			if err != nil {
				t.Error(err)
			} else if j = w.events.wait(t, j.ID); j.State != JobDone {
				t.Errorf("%s: %s", j.State, j.Cause)
			}
		}()
	}
	wg.Wait()
}

// A start whose time is over before it has done anything takes nothing back that was there before.
func TestAStartThatIsTooLateChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	if err := w.Config.Enable("a"); err != nil {
		t.Fatal(err)
	}
	w.units.Set("left4-server@a.service", units.State{Active: "activating", Sub: "auto-restart"})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, verb := range []func(context.Context, *job) error{w.Daemon.start, w.Daemon.restart} {
		if err := verb(ctx, &job{Job: Job{Job: store.Job{Kind: "start", Target: "a", Started: now()}}}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	if w.units.Count("stop") != 0 || !w.enabled("a") {
		t.Errorf("enabled %v, systemd was asked %q", w.enabled("a"), w.units.Calls())
	}
}

// Who takes back a restart wants the server to run; who stops it does not.
func TestACanceledRestartEndsAsItWasMeant(t *testing.T) {
	for _, preempted := range []bool{false, true} {
		w := newWorld(t)
		w.create("a", Changes{})
		w.do(w.StartInstance, "a", JobDone)
		w.held("restart left4-server@a.service")
		def, _ := w.Instance("a")
		ctx, cancel := context.WithCancelCause(context.Background())
		ended := make(chan error)
		go func() {
			j := &job{Job: Job{Job: store.Job{Kind: "restart", Target: "a"}}}
			ended <- w.plainRestart(ctx, j, def.Instance)
		}()
		w.units.Wait(t, "restart left4-server@a")
		cancel(&canceledError{"canceled", preempted})
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("preempted %v: %v", preempted, err)
		}
		<-w.refresh("a")
		if in, _ := w.Instance("a"); (in.State == Running) == preempted {
			t.Errorf("preempted %v: it is %s, systemd was asked %q", preempted, in.State, w.units.Calls())
		}
	}
}

func TestAQueuedBuildIsJoined(t *testing.T) {
	begun, release := make(chan struct{}, 9), make(chan struct{})
	overlayTypes["built"] = overlayType{build: func(_ *Daemon, ctx context.Context, j *job) error {
		begun <- struct{}{}
		<-release
		return nil
	}}
	defer delete(overlayTypes, "built")
	w := newWorld(t)
	if _, err := w.CreateOverlay("o", "built", OverlayChanges{}, 1000); err != nil {
		t.Fatal(err)
	}
	first := w.accept(w.BuildOverlay, "o", Request{Requester: 1})
	<-begun
	second := w.accept(w.BuildOverlay, "o", Request{Requester: 2})
	third := w.accept(w.BuildOverlay, "o", Request{Requester: 3})
	if first.ID == second.ID || second.ID != third.ID || third.Requester != 2 {
		t.Errorf("jobs %d, %d, %d", first.ID, second.ID, third.ID)
	}
	close(release)
	w.events.wait(t, first.ID)
	w.events.wait(t, second.ID)
	if n := len(begun); n != 1 {
		t.Errorf("%d more builds have run, want 1", n)
	}
}

// A kill is for a server that does not end: it must not wait until the stop before it gives up.
func TestAKillHastensAStop(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.do(w.StartInstance, "a", JobDone)
	release := w.held("stop left4-server@a.service")
	stop := w.accept(w.StopInstance, "a", Request{})
	w.units.Wait(t, "stop left4-server@a")
	kill := w.accept(w.KillInstance, "a", Request{})
	w.units.Wait(t, "kill-9 left4-server@a") // while the stop is still at work
	if j, _ := w.Job(stop.ID); j.State != JobRunning {
		t.Errorf("the stop is %s", j.State)
	}
	release()
	for _, id := range []uint32{stop.ID, kill.ID} {
		if got := w.events.wait(t, id); got.State != JobDone {
			t.Errorf("%+v", got)
		}
	}
}

func TestHowFarAJobHasCome(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	release := w.held("start left4-server@a.service")
	start := w.accept(w.StartInstance, "a", Request{})
	w.units.Wait(t, "start left4-server@a")
	if j, _ := w.Job(start.ID); j.Status != "starting" || j.Progress <= 0 || j.Progress >= 1 {
		t.Errorf("%q, %v", j.Status, j.Progress)
	}
	release()
	if j := w.events.wait(t, start.ID); j.Progress != 1 {
		t.Errorf("%v", j.Progress)
	}
}

// A cancel that was answered counts, also where left4d is killed before the job has given way.
func TestACancelOutlivesLeft4d(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.create("b", Changes{})
	w.do(w.StartInstance, "b", JobDone)
	w.held("start left4-server@a.service")
	start := w.accept(w.StartInstance, "a", Request{})
	w.units.Wait(t, "start left4-server@a")
	if err := w.Store.CancelJob(start.ID, "canceled by alice"); err != nil {
		t.Fatal(err)
	}
	in, _ := w.Instance("b")
	restart := store.Job{ID: start.ID + 1, Kind: "restart", Target: "b", Instance: in.Created, State: JobRunning, Timeout: time.Minute, Created: now(), Started: now(), Canceled: "canceled by bob"}
	if err := w.Store.PutJob(restart); err != nil {
		t.Fatal(err)
	}
	w.units.Set("left4-server@a.service", units.State{Active: "activating", Sub: "start"})
	w.again()
	if got := w.events.wait(t, start.ID); got.State != JobCanceled || got.Cause != "canceled by alice" {
		t.Errorf("%+v", got)
	}
	if w.units.Count("stop left4-server@a") == 0 || w.enabled("a") {
		t.Errorf("it was not taken back: enabled %v, %q", w.enabled("a"), w.units.Calls())
	}
	if got := w.events.wait(t, restart.ID); got.State != JobCanceled || got.Cause != "canceled by bob" {
		t.Errorf("%+v", got)
	}
	if w.units.Count("stop left4-server@b") != 0 {
		t.Error("a server that had not been stopped yet was stopped")
	}
}

// Without systemd a job cannot go on, and has not failed either: the next left4d takes it up.
func TestALostBusEndsNoJob(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.units.Fail["start left4-server@a.service"] = fmt.Errorf("cannot start left4-server@a.service: %w", units.ErrLost)
	// What was last read of it must not be taken for its end.
	w.units.OnFail = func(unit string) { w.units.Set(unit, units.State{Active: "activating", Sub: "start"}) }
	start := w.accept(w.StartInstance, "a", Request{})
	w.units.Wait(t, "start left4-server@a")
	w.Close()
	if rows, err := w.Store.UnfinishedJobs(); err != nil || len(rows) != 1 || rows[0].ID != start.ID {
		t.Errorf("unfinished: %v, %v", rows, err)
	}
	delete(w.units.Fail, "start left4-server@a.service")
	w.again()
	if got := w.events.wait(t, start.ID); got.State != JobDone {
		t.Errorf("%+v", got)
	}
}

func TestFewServersAreStartedAtOnce(t *testing.T) {
	w := newWorld(t)
	w.startTurn = time.Hour
	var release []func()
	var jobs []Job
	for n := range maxStarts {
		name := fmt.Sprintf("s%d", n)
		w.create(name, Changes{})
		release = append(release, w.held("start left4-server@"+name+".service"))
		jobs = append(jobs, w.accept(w.StartInstance, name, Request{}))
		w.units.Wait(t, "start left4-server@"+name)
	}
	for _, name := range []string{"late", "canceled"} {
		w.create(name, Changes{})
	}
	late := w.accept(w.StartInstance, "late", Request{})
	canceled := w.accept(w.StartInstance, "canceled", Request{})
	w.do(w.StopInstance, "canceled", JobDone)
	if got := w.events.wait(t, canceled.ID); got.State != JobCanceled {
		t.Errorf("%+v", got)
	}
	if n := w.units.Count("start left4-server@late") + w.units.Count("start left4-server@canceled"); n != 0 {
		t.Errorf("%d more are started", n)
	}
	for _, let := range release {
		let()
	}
	for _, j := range append(jobs, late) {
		if got := w.events.wait(t, j.ID); got.State != JobDone {
			t.Errorf("%+v", got)
		}
	}
}

// What a start that is taken back had to do to the server is told by the stop which called it off.
func TestAStopTellsThatItsStartWasKilled(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.held("start left4-server@a.service")
	w.accept(w.StartInstance, "a", Request{})
	w.units.Wait(t, "start left4-server@a")
	w.units.Stopped = func(unit string) units.State {
		if unit == "left4-server@a.service" {
			return units.State{Active: "failed", Result: "timeout"}
		}
		return units.State{Active: "inactive"}
	}
	// The second stop finds nothing to stop.
	if got := w.do(w.StopInstance, "a", JobDone); got.Cause != killedAtStop {
		t.Errorf("%+v", got)
	}
	if in, _ := w.Instance("a"); !strings.HasSuffix(in.Cause, ": "+killedAtStop) {
		t.Errorf("the cause is %q", in.Cause)
	}
}

func TestWhatCannotBeDone(t *testing.T) {
	job := &units.JobError{Unit: "left4-server@a.service", Verb: "start", Result: "dependency", Need: "broken.service"}
	for want, err := range map[string]error{
		"cannot start a: broken.service, which it needs, failed":  fmt.Errorf("cannot wait: %w", job),
		"cannot start a: the unit is masked":                      fmt.Errorf("cannot start left4-server@a.service: %w", units.ErrMasked),
		"cannot start a: b.service, which it needs, is not there": fmt.Errorf("cannot start left4-server@a.service: %w", &units.NeedError{Unit: "b.service"}),
		"cannot start a: no space left":                           errors.New("no space left"),
		"cannot start a: cannot copy the files of b: too many":    errors.New("cannot copy the files of b: too many"),
	} {
		if got := cannot("start", "a", err); got.Error() != want || !errors.Is(got, err) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A disk that was full for a moment must not leave a job at work for whoever looks.
func TestAnEndThatWasNotStoredIsListedAndStored(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	row := store.Job{ID: 1, Kind: "stop", Target: "a", State: JobRunning, Timeout: time.Minute, Created: now(), Started: now()}
	if err := w.Store.PutJob(row); err != nil {
		t.Fatal(err)
	}
	row.State, row.Finished = JobDone, now()
	w.unstored = []store.Job{row}
	for state, want := range map[string]int{JobRunning: 0, JobDone: 1} {
		if got, err := w.Jobs(store.JobFilter{State: state, Limit: 10}); err != nil || len(got) != want {
			t.Errorf("%s: %+v, %v", state, got, err)
		}
	}
}
