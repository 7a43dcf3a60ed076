package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// refresher lets any number of callers ask for a fresh look: at most one runs and one waits, and who asked gets one that
// began after the asking.
type refresher struct {
	mu      sync.Mutex
	current *look
	next    *look
}

type look struct{ done chan struct{} }

func (r *refresher) do(fn func()) (wait <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil {
		if r.next == nil {
			r.next = &look{make(chan struct{})}
		}
		return r.next.done
	}
	r.current = &look{make(chan struct{})}
	go r.run(fn)
	return r.current.done
}

func (r *refresher) run(fn func()) {
	for {
		fn()
		r.mu.Lock()
		close(r.current.done)
		r.current, r.next = r.next, nil
		again := r.current != nil
		r.mu.Unlock()
		if !again {
			return
		}
	}
}

// UnitChanged tells that systemd has changed, loaded or unloaded a unit.
func (d *Daemon) UnitChanged(unit string) {
	if name, ok := units.InstanceOf(unit); ok {
		d.refresh(name)
		return
	}
	d.wakeWorkers(func(j *job) bool { return j.worker == unit })
}

// Reloaded tells that every unit may have changed.
func (d *Daemon) Reloaded() {
	d.wakeWorkers(func(j *job) bool { return j.worker != "" })
	d.RefreshAll(d.ctx)
}

func (d *Daemon) wakeWorkers(which func(*job) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range d.jobs {
		if which(j) {
			select {
			case j.changed <- struct{}{}:
			default:
			}
		}
	}
}

// EnablementChanged tells that an enablement link, a mask or a drop-in of an instance was changed by anybody.
func (d *Daemon) EnablementChanged(name string) { d.refresh(name) }

// refresh asks for a fresh look at an instance; the channel is closed when one that began after the call is done.
func (d *Daemon) refresh(name string) <-chan struct{} {
	d.mu.Lock()
	in := d.instances[name]
	d.mu.Unlock()
	if in == nil {
		done := make(chan struct{})
		close(done)
		return done
	}
	return in.refresh.do(func() { d.look(in) })
}

// RefreshAll looks at every instance and returns when all have been looked at.
func (d *Daemon) RefreshAll(ctx context.Context) {
	var names []string
	for _, in := range d.Instances() {
		names = append(names, in.Name)
	}
	if err := d.Units.Survey(ctx, names); err != nil && ctx.Err() == nil {
		d.Log.Warn("cannot read all states at once", "error", err)
	}
	var waits []<-chan struct{}
	for _, name := range names {
		waits = append(waits, d.refresh(name))
	}
	for _, wait := range waits {
		select {
		case <-wait:
		case <-ctx.Done():
			return
		}
	}
}

// refreshAll looks at some instances and returns when all have been looked at.
func (d *Daemon) refreshAll(names []string) {
	var waits []<-chan struct{}
	for _, name := range names {
		waits = append(waits, d.refresh(name))
	}
	for _, wait := range waits {
		<-wait
	}
}

// look reads what is true of an instance and tells what has changed.
func (d *Daemon) look(in *instance) {
	if f, ok := d.read(in); ok {
		d.conclude(in, f)
	}
}

// read reads all that a state is judged from.
func (d *Daemon) read(in *instance) (f facts, ok bool) {
	ctx, cancel := context.WithTimeout(d.ctx, 30*time.Second)
	defer cancel()
	var err error
	d.mu.Lock()
	def := in.view.Instance
	// Before anything else is read: a job that ends meanwhile is then either the one at work or among the stored, and
	// one that begins meanwhile waits for the next look before it does anything.
	for _, j := range d.queues[def.Name] {
		if j.State == JobRunning && !j.over {
			row := j.Job.Job
			f.running = &row
		}
	}
	d.mu.Unlock()

	// The mount is asked for meanwhile: a start waits for these answers.
	overlay := make(chan error, 1)
	go func() {
		var err error
		f.overlay, err = d.Units.State(ctx, units.OverlayUnit(def.Name))
		overlay <- err
	}()
	f.server, err = d.Units.State(ctx, units.ServerUnit(def.Name))
	if err = errors.Join(err, <-overlay); err != nil {
		// The view stays as it was: no answer is no change. When systemd is back, Reloaded looks again.
		if ctx.Err() == nil {
			d.Log.Warn("cannot read the state", "instance", def.Name, "error", err)
		}
		return f, false
	}
	if f.enabled, err = d.Config.Enabled(def.Name); err != nil {
		d.Log.Warn("cannot read the enablement", "instance", def.Name, "error", err)
	}
	f.masked = d.Config.Masked(def.Name)
	if f.overlay.Active == "active" && f.server.Active != "active" {
		_, mounted, err := d.Layout.Mounted(def.Name)
		f.unmounted = err == nil && !mounted
	}
	f.port, f.restart = def.Port, def.Restart
	if j, err := d.Store.LastJob(def.Name, def.Created, nothingToDo, instanceKinds...); err == nil {
		f.last = &j
	}
	if at := f.server.ActiveEnter; !at.IsZero() {
		if j, err := d.Store.StartedBy(def.Name, def.Created, at.UnixMicro()); err == nil {
			f.starter = &j
		}
	}
	if at := f.server.ActiveExit.UnixMicro(); f.last != nil && ends[f.last.Kind] && f.last.State != JobDone && f.last.Started <= at && at <= f.last.Finished {
		f.stopper = f.last
	}
	f.boot = bootTime()
	if f.server.Active == "active" {
		f.pending = d.pendingCause(def)
	}
	return f, true
}

// conclude tells what has changed.
func (d *Daemon) conclude(in *instance, f facts) {
	known := in.lastExit
	before, after, lastExit := d.take(in, f)
	if lastExit != known {
		if err := d.Config.RememberExit(after.Name, lastExit); err != nil {
			d.Log.Warn("cannot remember how a server ended", "instance", after.Name, "error", err)
		}
	}
	// The first look of a left4d is news to nobody.
	if before.State != after.State && before.Since != 0 {
		d.Log.Info(fmt.Sprintf("%s is %s: %s", after.Name, after.State, after.Cause),
			"event", "state", "instance", after.Name, "state", after.State, "cause", after.Cause)
	}
}

// take makes the view of an instance what facts mean.
func (d *Daemon) take(in *instance, f facts) (before, after Instance, lastExit string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before = in.view
	if d.instances[before.Name] != in {
		return before, before, in.lastExit
	}
	f.lastExit = in.lastExit
	v := judge(f)
	in.lastExit = v.lastExit
	d.change(in, func(i *Instance) {
		if i.State != v.state || i.Since == 0 {
			i.Since = v.since
			switch {
			case v.since != 0:
			case i.State == v.state && f.last != nil:
				i.Since = f.last.Finished // of an earlier left4d
			case i.State != v.state:
				i.Since = now()
			}
		}
		i.State, i.Cause, i.MainPID, i.Restarts = v.state, v.cause, v.pid, v.restarts
		i.Desired, i.Drifted, i.PendingCause = v.desired, v.drifted, f.pending
	})
	return before, in.view, in.lastExit
}

// facts are all that a state is judged from.
type facts struct {
	server, overlay units.State
	enabled, masked bool
	unmounted       bool // the files are gone, and the overlay's unit has not unmounted them
	port            uint16
	restart         string     // the policy
	running         *store.Job // the job that is at work
	last            *store.Job // the newest finished one that changed the state
	starter         *store.Job // the one that the server became active in
	stopper         *store.Job // the one that it ceased to be active in, where that was canceled or took too long
	lastExit        string     // how the game ended before systemd restarted it, as seen earlier
	pending         string     // what a restart would bring
	boot            time.Time
}

type verdict struct {
	state, desired, cause string
	drifted               bool
	pid, restarts         uint32
	since                 int64
	lastExit              string
}

// judge says what facts mean. It knows nothing else, so that a table can test it.
func judge(f facts) verdict {
	s := f.server
	v := verdict{desired: Stopped, pid: s.MainPID, restarts: s.NRestarts}
	if !s.StateChange.IsZero() {
		v.since = s.StateChange.UnixMicro()
	}
	if f.enabled {
		v.desired = Running
	}
	by := func(verb string, j *store.Job) string {
		return fmt.Sprintf("%s by %s (job %d)", verb, UserName(j.Requester, j.RequesterName), j.ID)
	}
	switch s.Active {
	case "active", "reloading", "refreshing":
		v.state = Running
		switch {
		case s.NRestarts > 0 && f.lastExit != "":
			v.cause, v.lastExit = "restarted by systemd: "+f.lastExit, f.lastExit
		case s.NRestarts > 0:
			v.cause = fmt.Sprintf("restarted by systemd %s", times(s.NRestarts))
		case f.running != nil && (f.running.Kind == "start" || f.running.Kind == "restart"):
			v.cause = by("started", f.running)
		case f.starter != nil:
			v.cause = by("started", f.starter)
		case f.enabled && s.ActiveEnter.Before(f.boot.Add(bootSpan)):
			v.cause = "started at boot"
		default:
			v.cause = "started outside left4"
		}
	case "activating":
		if strings.HasPrefix(s.Sub, "auto-restart") {
			v.state, v.cause = Restarting, exit(f)
			// What is read of a unit is not all of one moment: the start after the wait may have begun.
			if v.cause == endedSomehow && f.lastExit != "" {
				v.cause = f.lastExit
			}
			v.lastExit = v.cause
		} else {
			v.state, v.lastExit = Starting, f.lastExit
			switch {
			case f.running != nil:
				v.cause = by("being started", f.running)
			case f.lastExit != "" && s.NRestarts > 0:
				v.cause = "being restarted by systemd: " + f.lastExit
			default:
				v.cause = "being started by systemd"
			}
		}
	case "deactivating":
		v.state, v.lastExit = Stopping, f.lastExit
		switch {
		case f.running != nil:
			v.cause = by("being stopped", f.running)
		case endedItself(s):
			v.cause = exit(f)
			v.lastExit = v.cause
		case f.stopper != nil:
			v.cause = by("being stopped", f.stopper)
		default:
			v.cause = "being stopped outside left4"
		}
	case "failed":
		v.state, v.cause = FailedState, exit(f)
		if f.running != nil && ends[f.running.Kind] {
			// It had to be killed; the job lets systemd forget that.
			v.state, v.cause = Stopping, by("being stopped", f.running)
		} else if wasStopped(s) && f.stopper != nil {
			v.cause = by(underWay[f.stopper.Kind], f.stopper) + "; " + v.cause
		} else if wasStopped(s) {
			v.cause = "stopped outside left4; " + v.cause
		} else if f.restart != "no" && f.enabled && s.Result != "resources" && s.NRestarts > 0 {
			// systemd restarts what its policy covers until the limit is hit; Result still tells how the last one ended.
			limit := fmt.Sprintf("start limit hit after %d starts in %s", s.StartLimit, seconds(s.StartInterval))
			if s.Result != "start-limit-hit" {
				limit += "; the last one: " + v.cause
			}
			v.cause = limit
		}
	default:
		v.state, v.restarts = Stopped, 0
		switch {
		case mountFailed(f.overlay):
			v.state, v.cause = FailedState, mountCause(f.overlay)
			v.since = f.overlay.StateChange.UnixMicro()
		case f.enabled && f.last != nil && f.last.State != JobDone && (f.last.Kind == "start" || f.last.Kind == "restart"):
			v.cause = f.last.Cause
		case f.enabled && f.last != nil && f.last.Kind != "start" && f.last.Kind != "restart" && f.running == nil && s.ExecMainExit.UnixMicro() <= f.last.Finished:
			v.cause = "enabled outside left4, and not started since"
		case f.enabled && endedItself(s):
			v.cause = exit(f) + ", and the restart policy is " + f.restart
			v.lastExit = v.cause
		case f.enabled && s.ExecMainExit.IsZero() && f.lastExit != "":
			v.cause, v.lastExit = f.lastExit, f.lastExit
		case f.enabled:
			v.cause = "stopped outside left4"
			v.lastExit = v.cause
		case f.last != nil && f.last.Kind == "reset" && f.last.State == JobDone:
			v.cause = by("reset", f.last)
		case f.last != nil && f.last.State == JobDone && f.last.Kind == "stop":
			v.cause = by("stopped", f.last)
			if f.last.Cause != "" {
				v.cause += ": " + f.last.Cause
			}
		case f.last != nil && f.last.Kind == "kill" && f.last.State == JobDone:
			v.cause = by("killed", f.last)
		case f.last == nil:
			v.cause = "not started yet"
		case f.last.State != JobDone:
			v.cause = f.last.Cause
		default:
			v.cause = "stopped and disabled outside left4"
		}
		if s.Job != 0 || f.overlay.Active == "activating" {
			v.state, v.cause = Starting, "being started by systemd" // it waits for its files, which are being mounted
		}
		if f.running != nil && (v.state == Stopped || v.state == Starting) {
			// Its end is not there yet, but what it has done so far was nobody else.
			v.cause, v.lastExit = by(underWay[f.running.Kind], f.running), ""
		}
		if f.overlay.Active == "failed" && v.state == Stopped {
			v.cause += "; its files could not be unmounted"
		}
	}
	switch {
	case !f.masked || strings.Contains(v.cause, units.ErrMasked.Error()):
	case v.state == Running:
		v.cause += "; the unit is masked"
	default:
		v.cause = "the unit is masked; " + v.cause
	}
	// While a left4 restart is between its stop and its start, people are told what it is for.
	if f.running != nil && f.running.Kind == "restart" && v.state != Running {
		v.state, v.cause = Restarting, by("being restarted", f.running)
	}
	up := v.state == Running || v.state == Starting || v.state == Restarting
	v.drifted = f.running == nil && f.enabled != up && v.state != Stopping
	return v
}

// underWay is what an instance that is down is, while a job is at work.
var underWay = map[string]string{
	"initialize": "being initialized", "start": "being started", "stop": "stopped", "restart": "being restarted",
	"kill": "killed", "reset": "being reset", "delete": "being deleted",
}

// ends are the jobs that bring a server down for good.
var ends = map[string]bool{"stop": true, "kill": true, "reset": true, "delete": true}

// mountFailed tells a mount that failed from an unmount that did: then the mount had ended with 0 before.
func mountFailed(overlay units.State) bool {
	return overlay.Active == "failed" && (overlay.ExecMainCode != cldExited || overlay.ExecMainStatus != 0)
}

// mountCause says why a mount failed: left4-overlay has said it as "cannot mount a: no space".
func mountCause(overlay units.State) string {
	if _, reason, ok := strings.Cut(overlay.StatusText, ": "); ok {
		return "its files cannot be mounted: " + reason
	}
	return "its files cannot be mounted (" + overlay.Result + ")"
}

// endedItself tells a server that ended before systemd began to stop it from one that was stopped.
func endedItself(s units.State) bool {
	// systemd hears of the OOM killer first, begins to end the rest, and only then sees the end of the game itself.
	return s.Result == "oom-kill" ||
		!s.ExecMainExit.IsZero() && !s.ExecMainStart.IsZero() && !s.ActiveExit.IsZero() && s.ExecMainExit.Before(s.ActiveExit)
}

// wasStopped tells a server that ended after systemd had begun to stop it. One that began after that end of being active
// never was active itself, and nobody stopped it.
func wasStopped(s units.State) bool {
	return !endedItself(s) && !s.ExecMainExit.IsZero() && !s.ActiveExit.IsZero() && s.ExecMainExit.After(s.ActiveExit) && !s.ExecMainStart.After(s.ActiveExit)
}

// exit says how the game, or what runs before it, ended.
func exit(f facts) string {
	s := f.server
	for _, pre := range s.PreStart {
		if pre.Code == cldExited && pre.Status == units.PortTaken {
			return fmt.Sprintf("port %d is taken by another program", f.port)
		}
	}
	if s.LoadState == "masked" {
		return "the unit is masked"
	}
	// At the start limit the overlay's unit has gone, too: then it is known from the starts before.
	if (f.unmounted || f.lastExit == unmounted) && s.ExecMainCode == cldExited && systemdStatus[s.ExecMainStatus] != "" {
		return unmounted
	}
	switch s.Result {
	case "oom-kill":
		return "killed by the OOM killer"
	case "timeout":
		if s.ActiveEnter.Before(s.InactiveExit) {
			return "it did not start in time and was killed"
		}
		return "it did not end in time and was killed"
	case "resources":
		return "systemd lacked a resource to start it; see journalctl -u left4-server@"
	case "watchdog":
		return "killed by systemd's watchdog"
	case "protocol":
		return "it did not start as systemd expected"
	case "signal":
		for _, pre := range s.PreStart {
			if pre.Code == cldKilled {
				return "the look at its port was killed by " + signalName(pre.Status)
			}
		}
	}
	switch s.ExecMainCode {
	case cldExited:
		if s.ExecMainStatus == 0 {
			return "it ended by itself with status 0"
		}
		if why := systemdStatus[s.ExecMainStatus]; why != "" {
			return "it could not be started: " + why
		}
		return fmt.Sprintf("it ended by itself with status %d", s.ExecMainStatus)
	case cldKilled:
		if crashes[unix.Signal(s.ExecMainStatus)] {
			return "it crashed with " + signalName(s.ExecMainStatus)
		}
		return "it was killed by " + signalName(s.ExecMainStatus)
	case cldDumped:
		return "it crashed with " + signalName(s.ExecMainStatus) + " (core dumped)"
	}
	if s.Result == "" || s.Result == "success" {
		return endedSomehow
	}
	return "it failed (" + s.Result + ")"
}

const endedSomehow = "it ended"

const unmounted = "its files were unmounted outside left4"

// ExecMainCode as systemd gives it: si_code of SIGCHLD, see sigaction(2).
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// crashes are the signals that the kernel sends to a program for what it has done itself, or that it gives up by. Whether
// there is a core says only whether the machine keeps them.
var crashes = map[unix.Signal]bool{
	unix.SIGSEGV: true, unix.SIGBUS: true, unix.SIGILL: true, unix.SIGFPE: true, unix.SIGABRT: true, unix.SIGTRAP: true, unix.SIGSYS: true,
}

// systemdStatus are exit statuses that systemd's own child gives before it runs the program, see systemd.exec(5).
var systemdStatus = map[int32]string{
	78:  "it was not initialized by left4d", // says the unit itself
	200: "cannot change to its directory",
	203: "srcds_run is missing or cannot be executed",
	217: "there is no user left4",
	218: "its capabilities cannot be set",
	219: "its control group cannot be joined",
	226: "its sandbox cannot be set up",
	228: "its system call filter cannot be set up",
}

func signalName(n int32) string {
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", n)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%d s", int(d.Seconds())) }

// bootSpan is how long after the kernel's start a start counts as one by the boot.
const bootSpan = 5 * time.Minute

// bootTime is when the kernel started.
func bootTime() time.Time {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(info.Uptime) * time.Second)
}

func times(n uint32) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
