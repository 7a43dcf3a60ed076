package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// undoTime is how long a verb may take to put back what it began after its own time is over.
const undoTime = time.Minute

// CreateInstance defines an instance of owner. Errors: InvalidName, InvalidArgument, InstanceExists, NoSuchOverlay,
// PortInUse, NoFreePort.
func (d *Daemon) CreateInstance(name string, c Changes, owner uint32) (Instance, error) {
	if err := CheckName(name); err != nil {
		return Instance{}, err
	}
	if _, err := d.Instance(name); err == nil {
		return Instance{}, errorf(InstanceExists, "cannot create %s: there is such an instance", name)
	}
	def := newDefinition(name, owner, LoginName(owner))
	if err := c.apply(&def); err != nil {
		return Instance{}, err
	}
	// Files under this name would become part of the new instance without anybody having asked for it.
	for _, dir := range []string{"runtime", "instances"} {
		path := filepath.Join(d.Layout.State, dir, name)
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return Instance{}, errorf(InUse, "cannot create %s: %s is left of an earlier instance; delete %s removes it, a repair brings it back", name, path, name)
		}
	}
	// It would become the server of the new one, with whatever it was started with.
	ctx, cancel := context.WithTimeout(d.ctx, undoTime)
	defer cancel()
	if s, err := d.Units.State(ctx, units.ServerUnit(name)); err != nil {
		return Instance{}, cannot("create", name, err)
	} else if !s.Down() {
		return Instance{}, errorf(InUse, "cannot create %s: a server of an earlier instance runs; delete %s ends it, a repair brings it back", name, name)
	}
	view, err := d.addInstance(&def, nil)
	if err != nil {
		return Instance{}, err
	}
	// Somebody may have enabled or started the unit before there was a definition.
	d.refresh(name)
	return view, nil
}

// addInstance stores a definition. there, if any, is asked when no delete can be under way: false is errNotThere.
func (d *Daemon) addInstance(def *store.Instance, there func() bool) (Instance, error) {
	d.accept.Lock()
	defer d.accept.Unlock()
	d.mu.Lock()
	leaving := d.atWork(def.Name, "delete")
	d.mu.Unlock()
	if leaving {
		return Instance{}, errorf(Busy, "cannot create %s: an earlier one is still being deleted", def.Name)
	}
	if there != nil && !there() {
		return Instance{}, errNotThere
	}
	if err := d.checkDefinition(*def); err != nil {
		return Instance{}, err
	}
	if err := d.Store.CreateInstance(def, PortRange); err != nil {
		return Instance{}, d.definitionError("create", *def, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	in := &instance{view: Instance{Instance: *def, State: Stopped, Desired: Stopped, Cause: "not started yet", Since: def.Created}}
	in.view.Effective = d.effective(*def)
	d.followersChanged(def.Blueprint, func() { d.instances[def.Name] = in })
	d.Events.InstanceNew(in.view)
	return in.view, nil
}

func newDefinition(name string, owner uint32, login string) store.Instance {
	def := store.Instance{Name: name, Owner: owner, OwnerName: login, Created: now(), Restart: "always", RconPassword: newPassword()}
	def.Arguments.V, def.Config.V, def.Overlays.V = []string{}, []string{}, []store.OverlayRef{}
	return def
}

// newPassword is 130 random bits in letters that no cfg, shell or person stumbles over.
func newPassword() string {
	var random [17]byte
	rand.Read(random[:])
	return base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(random[:])[:26]
}

// checkDefinition looks whether what a definition names is there, and whether it goes together with its blueprint.
// accept must be held, so that none of that goes meanwhile.
func (d *Daemon) checkDefinition(def store.Instance) error {
	if def.Blueprint != "" {
		if _, err := d.Blueprint(def.Blueprint); err != nil {
			return err
		}
	}
	if err := d.checkOverlaysExist(def.Overlays.V); err != nil {
		return err
	}
	return d.spec(def).check()
}

func (d *Daemon) checkOverlaysExist(overlays []store.OverlayRef) error {
	for _, o := range overlays {
		if _, err := d.Overlay(o.Overlay); err != nil {
			return err
		}
	}
	return nil
}

func (d *Daemon) definitionError(verb string, def store.Instance, err error) error {
	switch {
	case errors.Is(err, store.ErrNameTaken):
		return errorf(InstanceExists, "cannot %s %s: there is such an instance", verb, def.Name)
	case errors.Is(err, store.ErrNotFound):
		return errorf(NoSuchInstance, "there is no instance %s", def.Name)
	case errors.Is(err, store.ErrPortTaken):
		other := "another instance"
		for _, in := range d.Instances() {
			if in.Port == def.Port {
				other = "instance " + in.Name
			}
		}
		return errorf(PortInUse, "cannot %s %s: port %d belongs to %s", verb, def.Name, def.Port, other)
	case errors.Is(err, store.ErrNoFreePort):
		return errorf(NoFreePort, "cannot %s %s: no port from %d to %d is free", verb, def.Name, PortRange.First, PortRange.Last)
	}
	return cannot(verb, def.Name, err)
}

// ConfigureInstance changes a definition. Errors: NoSuchInstance, InvalidArgument, NoSuchOverlay, PortInUse,
// NoFreePort.
func (d *Daemon) ConfigureInstance(name string, c Changes) error {
	return d.define("configure", name, c, func(def store.Instance) store.Instance { return def })
}

// InitializeInstance accepts a job that renders. With changes the instance is first defined anew as they say, or
// created for owner; fresh tells that it must not exist (the caller was allowed to create) or must (to configure), so
// that nobody does the one with the permission for the other. The job copies all that the server of the instance from
// has written first, unless from is "": that one must be down, and what is initialized have no files yet. Errors: those
// of CreateInstance and ConfigureInstance, NoSuchInstance, Busy (from is not down), InUse (there are files).
func (d *Daemon) InitializeInstance(name string, c *Changes, fresh bool, from string, r Request) (Job, error) {
	row := store.Job{Kind: "initialize", Target: name}
	if from != "" {
		source, err := d.checkSource(from, name)
		if err == nil {
			err = d.checkEmpty(name)
		}
		if err != nil {
			return Job{}, err
		}
		row.Parameters.V = store.Parameters{FilesFrom: from, FilesMade: source.Created}
		if r.Timeout == 0 {
			r.Timeout = copyDeadline
		}
	}
	if c != nil && fresh {
		if _, err := d.CreateInstance(name, *c, r.Requester); err != nil {
			return Job{}, err
		}
	} else if c != nil {
		anew := func(old store.Instance) store.Instance {
			def := newDefinition(name, old.Owner, old.OwnerName)
			def.Created, def.Port, def.RconPassword = old.Created, old.Port, old.RconPassword
			return def
		}
		if err := d.define("initialize", name, *c, anew); err != nil {
			return Job{}, err
		}
	}
	return d.instanceJob(row, r)
}

// define stores what base and the changes make of a definition.
func (d *Daemon) define(verb, name string, c Changes, base func(store.Instance) store.Instance) error {
	old, err := d.Instance(name)
	if err != nil {
		return err
	}
	if err := d.redefine(verb, name, c, base); err != nil {
		return err
	}
	<-d.refresh(name)
	if c.Limits == nil && c.Blueprint == nil {
		return nil
	}
	if err := d.limit(name, old.Effective.Limits); err != nil {
		return fmt.Errorf("cannot give the limits, which are stored, to the running server %s: %w", name, err)
	}
	return nil
}

// lockUnit keeps others from writing an instance's drop-in until it is undone. It is taken before plans and accept.
func (d *Daemon) lockUnit(name string) (undo func()) {
	d.mu.Lock()
	in := d.instances[name]
	d.mu.Unlock()
	if in == nil {
		return func() {}
	}
	in.unit.Lock()
	return in.unit.Unlock
}

// limit gives a running server the limits of its definition, without a restart.
func (d *Daemon) limit(name string, old units.Limits) error {
	defer d.lockUnit(name)()
	in, err := d.Instance(name)
	if err != nil || in.State == Stopped || in.State == FailedState {
		return nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, undoTime)
	defer cancel()
	again, err := d.Config.OweLimits(name)
	if err != nil {
		return err
	}
	if again {
		old = anyLimits
	}
	// The drop-in first: it is what holds from the next reload or boot on.
	if _, err := d.Config.WriteDropIn(d.unitOf(in.Instance, d.spec(in.Instance))); err != nil {
		return err
	}
	if gone(old, in.Effective.Limits) {
		// Only a reload brings back the default.
		if err = d.freshen(ctx, name); err == nil {
			err = d.Units.RenewLimits(ctx, units.ServerUnit(name))
		}
	} else {
		err = d.Units.SetLimits(ctx, units.ServerUnit(name), in.Effective.Limits)
	}
	if err != nil {
		return err
	}
	return d.Config.LimitsGiven(name)
}

// anyLimits are the old ones where nobody knows what there was before.
var anyLimits = func() units.Limits {
	one := uint64(1)
	return units.Limits{MemoryMax: &one, MemoryHigh: &one, TasksMax: &one, CPUQuotaPerSecUSec: &one, AllowedCPUs: []byte{}}
}()

// giveOwedLimits gives the limits that a killed left4d had stored for running servers, and had not given them yet. Nobody
// waits for it; all are given at once, so that they share the reloads.
func (d *Daemon) giveOwedLimits() {
	for _, in := range d.Instances() {
		if in.State == Stopped || in.State == FailedState || !d.Config.LimitsOwed(in.Name, in.Effective.Limits) {
			continue
		}
		d.running.Add(1)
		go func() {
			defer d.running.Done()
			if err := d.limit(in.Name, anyLimits); err != nil && d.ctx.Err() == nil {
				d.Log.Warn("cannot give a running server its limits", "instance", in.Name, "error", err)
			}
		}()
	}
}

// gone tells whether a limit was taken away.
func gone(old, new units.Limits) bool {
	return old.MemoryMax != nil && new.MemoryMax == nil || old.MemoryHigh != nil && new.MemoryHigh == nil ||
		old.TasksMax != nil && new.TasksMax == nil || old.CPUQuotaPerSecUSec != nil && new.CPUQuotaPerSecUSec == nil ||
		old.AllowedCPUs != nil && new.AllowedCPUs == nil
}

func (d *Daemon) redefine(verb, name string, c Changes, base func(store.Instance) store.Instance) error {
	// One at a time, so that two callers who change different keys both have their way.
	d.accept.Lock()
	defer d.accept.Unlock()
	old, err := d.Instance(name)
	if err != nil {
		return err
	}
	def := base(old.Instance)
	if err := c.apply(&def); err != nil {
		return err
	}
	if err := d.checkDefinition(def); err != nil {
		return err
	}
	if err := d.Store.UpdateInstance(&def, PortRange); err != nil {
		return d.definitionError(verb, def, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	in := d.instances[name]
	if in == nil {
		return nil
	}
	change := func() { d.change(in, func(i *Instance) { i.Instance = def }) }
	if def.Blueprint == old.Blueprint {
		change()
		return nil
	}
	d.followersChanged(old.Blueprint, func() { d.followersChanged(def.Blueprint, change) })
	return nil
}

// definition is what a job works by: read when it begins, not when it was accepted.
func (d *Daemon) definition(j *job) (store.Instance, error) {
	in, err := d.Instance(j.Target)
	return in.Instance, err
}

func (d *Daemon) initialize(ctx context.Context, j *job) error {
	def, err := d.definition(j)
	if err != nil {
		return err
	}
	if err := d.copyFiles(ctx, j); err != nil {
		return err
	}
	d.step(j, rendering)
	defer d.lockUnit(def.Name)()
	if _, err := d.prepare(def); err != nil {
		return cannot("initialize", def.Name, err)
	}
	if err := d.freshen(ctx, def.Name); err != nil {
		return cannot("initialize", def.Name, err)
	}
	return nil
}

// freshen makes systemd read a drop-in that was written since it loaded the unit.
func (d *Daemon) freshen(ctx context.Context, name string) error {
	if !d.Config.Stale(name) {
		return nil
	}
	loaded, err := d.Units.Loaded(ctx, units.ServerUnit(name))
	if err != nil {
		return err
	}
	if loaded {
		if err := d.Units.Reload(ctx); err != nil {
			return fmt.Errorf("cannot reload systemd: %w", err)
		}
	}
	return d.Config.ClearStale(name)
}

func (d *Daemon) start(ctx context.Context, j *job) error {
	def, err := d.definition(j)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return d.undoResumed(ctx, j)
	}
	server := units.ServerUnit(def.Name)
	enabled, err := d.Config.Enabled(def.Name)
	if err != nil {
		return cannot("start", def.Name, err)
	}
	s, err := d.Units.State(ctx, server)
	if err != nil {
		return cannot("start", def.Name, err)
	}
	if s.Active == "active" || s.Active == "reloading" {
		d.step(j, nothingToDo)
		return d.Config.Enable(def.Name)
	}
	if s.Active == "activating" && s.Sub != "auto-restart" && s.Sub != "auto-restart-queued" {
		d.step(j, "being started already")
		if err := d.Config.Enable(def.Name); err != nil {
			return err
		}
		err := d.launchError(ctx, "start", def, d.Units.Start(ctx, server))
		if err != nil && ctx.Err() != nil && j.resumed {
			d.undoStart(def.Name, false) // it was this job that began it
		}
		return err
	}
	if s.Active != "inactive" && s.Active != "failed" {
		// It waits for its automatic restart, or is on its way down: only what is down gets new files.
		d.step(j, stopping)
		if err := d.down(ctx, def.Name); err != nil {
			return cannot("start", def.Name, err)
		}
	}
	err = d.up(ctx, j, "start", def)
	if err != nil && ctx.Err() != nil {
		d.undoStart(def.Name, enabled && !j.resumed)
	}
	return err
}

// undoStart takes back a start that was given up, as far as the start itself had changed anything.
func (d *Daemon) undoStart(name string, wasEnabled bool) {
	if errors.Is(context.Cause(d.ctx), errClosing) {
		return
	}
	ctx, cancel := context.WithTimeout(d.ctx, undoTime)
	defer cancel()
	var err error
	if !wasEnabled {
		err = d.Config.Disable(name)
	}
	server := units.ServerUnit(name)
	err = errors.Join(err, d.Units.Stop(ctx, server))
	if s, readErr := d.Units.State(ctx, server); readErr == nil && s.Result == "timeout" {
		d.tellNext(name, killedAtStop)
	}
	if err := errors.Join(err, d.settle(ctx, name)); err != nil {
		d.Log.Warn("cannot take back a start", "instance", name, "error", err)
	}
}

// killedAtStop is the cause of a stop that was not graceful.
const killedAtStop = "it did not end in time after SIGINT and was killed"

// tellNext hands what a start met that was taken back to the stop which called it off: that one finds nothing to do.
func (d *Daemon) tellNext(name, cause string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if queue := d.queues[name]; len(queue) > 1 && queue[1].Kind == "stop" {
		queue[1].Cause = cause
	}
}

// undoResumed takes back what a killed left4d had begun of a start or restart that is canceled. A server that ran before,
// or that has been restarted already, plays on.
func (d *Daemon) undoResumed(ctx context.Context, j *job) error {
	if !j.resumed {
		return ctx.Err() // nothing has begun
	}
	look, cancel := context.WithTimeout(d.ctx, undoTime)
	defer cancel()
	s, err := d.Units.State(look, units.ServerUnit(j.Target))
	if err != nil {
		return err
	}
	if up := s.Active == "active" || s.Active == "reloading"; !up || j.Kind == "start" && s.ActiveEnter.UnixMicro() >= j.Started {
		d.undoStart(j.Target, j.Kind == "restart")
	}
	return ctx.Err()
}

// up renders, enables and starts an instance that is down.
func (d *Daemon) up(ctx context.Context, j *job, verb string, def store.Instance) error {
	server := units.ServerUnit(def.Name)
	if d.Config.Masked(def.Name) {
		return fmt.Errorf("cannot %s %s: the unit is masked", verb, def.Name)
	}
	d.step(j, rendering)
	// This also makes systemd forget earlier starts. It counts those of people too, and its limit is for crash loops.
	if err := d.settle(ctx, def.Name); err != nil {
		return cannot(verb, def.Name, err)
	}
	if err := d.ready(ctx, def); err != nil {
		return cannot(verb, def.Name, err)
	}
	d.step(j, starting)
	return d.launchError(ctx, verb, def, d.startInTurn(ctx, server))
}

// How many servers are started at once, and how long one may be in the way of others. Each start copies the table of mounts
// for its sandbox and reads it again and again, so 200 that begin together take longer than the 90 s that systemd gives each.
const (
	maxStarts = 8
	startTurn = 5 * time.Second
)

// startInTurn starts a server when few enough others are being started.
func (d *Daemon) startInTurn(ctx context.Context, server string) error {
	select {
	case d.starts <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	give := sync.OnceFunc(func() { <-d.starts })
	defer give()
	// One that hangs does not count any more.
	defer time.AfterFunc(d.startTurn, give).Stop()
	return d.Units.Start(ctx, server)
}

// ready puts on disk what a start needs, and lets systemd know of it.
func (d *Daemon) ready(ctx context.Context, def store.Instance) error {
	defer d.lockUnit(def.Name)()
	if _, err := d.prepare(def); err != nil {
		return err
	}
	if err := d.Config.Enable(def.Name); err != nil {
		return err
	}
	return d.freshen(ctx, def.Name)
}

// launchError says why a server did not come up: systemd's job knows only that it did not.
func (d *Daemon) launchError(ctx context.Context, verb string, def store.Instance, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil || errors.Is(err, units.ErrLost) {
		return err
	}
	f := facts{port: def.Port, restart: def.Restart}
	var readErr error
	if f.server, readErr = d.Units.State(ctx, units.ServerUnit(def.Name)); readErr == nil {
		f.overlay, readErr = d.Units.State(ctx, units.OverlayUnit(def.Name))
	}
	if readErr == nil {
		if mountFailed(f.overlay) {
			return fmt.Errorf("cannot %s %s: %s", verb, def.Name, mountCause(f.overlay))
		}
		if f.server.Active == "failed" || f.server.Active == "activating" {
			return fmt.Errorf("cannot %s %s: %s", verb, def.Name, exit(f))
		}
	}
	return cannot(verb, def.Name, err)
}

// down stops a server and returns when its files are unmounted too. What is down stays so.
func (d *Daemon) down(ctx context.Context, name string) error {
	if err := d.Units.Stop(ctx, units.ServerUnit(name)); err != nil {
		return err
	}
	return d.settle(ctx, name)
}

// settle waits until a stopped server's files are unmounted, and lets systemd forget how it failed earlier.
func (d *Daemon) settle(ctx context.Context, name string) error {
	server, overlay := units.ServerUnit(name), units.OverlayUnit(name)
	if err := d.Units.ResetFailed(ctx, server); err != nil {
		return err
	}
	for again := true; ; again = false {
		s, err := d.Units.State(ctx, overlay)
		if err != nil {
			return err
		}
		// Even to stop a unit that is not loaded PID 1 would load it, and ten others that are around it.
		if s.Loaded {
			if err := d.Units.ResetFailed(ctx, overlay); err != nil {
				return err
			}
			// It stops by itself when the server does, but not when the server's start was called off while it was mounting.
			if err := d.Units.Stop(ctx, overlay); err != nil {
				return err
			}
			if err := d.Units.WaitInactive(ctx, overlay); err != nil {
				return err
			}
		}
		_, mounted, err := d.Layout.Mounted(name)
		if err != nil || !mounted {
			return err
		}
		if !again {
			return errors.New("its old files are still mounted; something uses them")
		}
		// A mount without its unit: an unmount failed once, or somebody mounted by hand. The unit takes what it finds
		// mounted as its own, and unmounts it at once, since no server needs it.
		if err := d.Units.Start(ctx, overlay); err != nil && ctx.Err() != nil {
			return err
		}
	}
}

func (d *Daemon) stop(ctx context.Context, j *job) error {
	// No definition is asked for: what is half made can be stopped too.
	name, server := j.Target, units.ServerUnit(j.Target)
	before, _ := d.Units.State(ctx, server)
	// Whatever is wrong with /etc, the server is stopped now; only that it stays so after a boot is not sure then.
	disable := d.Config.Disable(name)
	d.step(j, stopping)
	if err := d.Units.Stop(ctx, server); err != nil {
		return errors.Join(disable, cannot("stop", name, err))
	}
	if s, err := d.Units.State(ctx, server); err == nil && s.Result == "timeout" && !before.Down() {
		d.update(j, func(j *Job) { j.Cause = killedAtStop })
	}
	if err := d.settle(ctx, name); err != nil {
		return errors.Join(disable, cannot("stop", name, err))
	}
	return disable
}

func (d *Daemon) kill(ctx context.Context, j *job) error {
	name, server := j.Target, units.ServerUnit(j.Target)
	disable := d.Config.Disable(name)
	d.step(j, killing)
	// The stop is queued first: a bare SIGKILL is a failure, which systemd would answer with a restart.
	wait, err := d.Units.QueueStop(ctx, server)
	if err == nil {
		err = d.Units.Kill(ctx, server, int32(unix.SIGKILL))
	}
	if err == nil {
		err = wait(ctx)
	}
	if err == nil {
		err = d.settle(ctx, name)
	}
	if err != nil {
		err = cannot("kill", name, err)
	}
	return errors.Join(disable, err)
}

func (d *Daemon) restart(ctx context.Context, j *job) error {
	def, err := d.definition(j)
	if err != nil {
		return err
	}
	server := units.ServerUnit(def.Name)
	s, err := d.Units.State(ctx, server)
	if err != nil {
		return cannot("restart", def.Name, err)
	}
	if ctx.Err() != nil {
		return d.undoResumed(ctx, j)
	}
	enabled, err := d.Config.Enabled(def.Name)
	if err != nil {
		return cannot("restart", def.Name, err)
	}
	active := s.Active == "active" || s.Active == "reloading"
	if d.Config.Masked(def.Name) {
		return fmt.Errorf("cannot restart %s: the unit is masked", def.Name)
	}
	// All is written before anything is stopped, for a restart that cannot end well must not begin.
	unlock := d.lockUnit(def.Name)
	r, err := d.prepare(def)
	if err == nil && s.Wanted {
		// Its unit stays loaded when it is stopped, so a changed drop-in needs a reload: here, where many that are restarted at
		// once still come at once, and share it. After the stop each would have one of its own.
		err = d.freshen(ctx, def.Name)
	}
	unlock()
	if err != nil {
		return cannot("restart", def.Name, err)
	}
	mounted, ok, err := d.Layout.Mounted(def.Name)
	if err != nil {
		return cannot("restart", def.Name, err)
	}
	if active && ok && mounted == r.plan.Digest && !d.Config.Stale(def.Name) && d.staged(def.Name, r.cfg) {
		if j.resumed && s.ActiveEnter.UnixMicro() >= j.Started {
			d.step(j, "restarted already")
			return d.Config.Enable(def.Name)
		}
		return d.plainRestart(ctx, j, def)
	}
	d.step(j, stopping)
	if err := d.down(ctx, def.Name); err != nil {
		return cannot("restart", def.Name, err)
	}
	err = d.up(ctx, j, "restart", def)
	if err != nil && ctx.Err() != nil {
		d.undoStart(def.Name, enabled || j.resumed)
	}
	return err
}

// staged tells whether a server still has the files that were staged for it: only a mount stages them again.
func (d *Daemon) staged(name string, cfg map[string][]byte) bool {
	for file, want := range cfg {
		got, err := d.readLayer(path.Join("runtime", name, "upper"), path.Join("left4dead2/cfg", file))
		if err != nil || !bytes.Equal(got, want) {
			return false
		}
	}
	return true
}

// plainRestart is for a server whose next start would bring nothing new: no unmount, no reload.
func (d *Daemon) plainRestart(ctx context.Context, j *job, def store.Instance) error {
	server := units.ServerUnit(def.Name)
	if err := d.Config.Enable(def.Name); err != nil {
		return err
	}
	if err := d.Units.ResetFailed(ctx, server); err != nil {
		return cannot("restart", def.Name, err)
	}
	d.step(j, restarting)
	err := d.Units.Restart(ctx, server)
	if err != nil && ctx.Err() != nil {
		d.undoRestart(ctx, def.Name)
	}
	return d.launchError(ctx, "restart", def, err)
}

// undoRestart ends a restart that systemd is at. Where somebody only did not want to restart, the server is to run in the
// end, as before; where it was called off by what brings it down, or takes too long, it is to be down.
func (d *Daemon) undoRestart(ctx context.Context, name string) {
	var canceled *canceledError
	if errors.As(context.Cause(ctx), &canceled) && !canceled.preempted {
		wait, cancel := context.WithTimeout(d.ctx, undoTime)
		defer cancel()
		if d.Units.Start(wait, units.ServerUnit(name)) == nil {
			return
		}
	}
	d.undoStart(name, true)
}

func (d *Daemon) reset(ctx context.Context, j *job) error {
	if err := d.clear(ctx, j); err != nil {
		return cannot("reset", j.Target, err)
	}
	return nil
}

func (d *Daemon) delete(ctx context.Context, j *job) error {
	name := j.Target
	if err := d.clear(ctx, j); err != nil {
		return cannot("delete", name, err)
	}
	defer d.lockUnit(name)()
	if err := d.Config.RemoveDropIn(name); err != nil {
		return cannot("delete", name, err)
	}
	// A unit that stays loaded would bring the removed settings to the next instance of this name.
	if loaded, err := d.Units.Loaded(ctx, units.ServerUnit(name)); err != nil || loaded {
		if err := errors.Join(err, d.Units.Reload(ctx)); err != nil {
			return cannot("delete", name, err)
		}
	}
	// The definition goes last: a delete that was interrupted is taken up again by it.
	d.accept.Lock()
	defer d.accept.Unlock()
	if err := d.Store.DeleteInstance(name); err != nil {
		return cannot("delete", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// Who hears that the instance is gone may make another one.
	j.over = true
	if in := d.instances[name]; in != nil {
		d.followersChanged(in.view.Blueprint, func() { delete(d.instances, name) })
		d.Events.InstanceRemoved(in.view)
	}
	return nil
}

// clear stops an instance and removes what was rendered for it and what it wrote. It takes any half-made state.
func (d *Daemon) clear(ctx context.Context, j *job) error {
	name := j.Target
	if err := d.stop(ctx, j); err != nil {
		if ctx.Err() != nil || errors.Is(err, units.ErrLost) {
			return err
		}
		// A half-made instance must be removable. RemoveRuntime refuses where something is still mounted.
		d.Log.Warn("stop failed, going on", "instance", name, "error", err)
	}
	d.step(j, removing)
	if err := d.Layout.RemoveRuntime(name); err != nil {
		return err
	}
	if err := d.Layout.RemoveInstance(name); err != nil {
		return err
	}
	// What a boot would bring up again is not reset, whatever else there is in place of the link.
	if enabled, err := d.Config.Enabled(name); err != nil || !enabled {
		return err
	}
	return d.Config.Disable(name)
}
