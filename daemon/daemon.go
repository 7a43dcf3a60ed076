// Package daemon is what left4 does: it keeps the definitions, runs the jobs and knows the state of every instance. It
// knows neither bus messages nor polkit; package dbus is its face and has asked already whether a caller may.
//
// What is true stands elsewhere and is read there: wishes in the database and in the enablement of units, states in
// systemd, files on disk. What this package holds in memory is a view of them that a restart of left4d rebuilds.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// Units is what the daemon needs of systemd; *units.Systemd has it.
type Units interface {
	State(ctx context.Context, unit string) (units.State, error)
	Survey(ctx context.Context, instances []string) error
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	Restart(ctx context.Context, unit string) error
	QueueStop(ctx context.Context, unit string) (wait func(context.Context) error, err error)
	Kill(ctx context.Context, unit string, signal int32) error
	ResetFailed(ctx context.Context, unit string) error
	Loaded(ctx context.Context, unit string) (bool, error)
	Reload(ctx context.Context) error
	WaitInactive(ctx context.Context, unit string) error
	SetLimits(ctx context.Context, unit string, l units.Limits) error
	RenewLimits(ctx context.Context, unit string) error
	StartWorker(ctx context.Context, w units.Worker) error
	Running(ctx context.Context, pattern string) ([]string, error)
	Inspect(ctx context.Context, program string, q units.Inspection) (units.Findings, error)
	Consult(ctx context.Context, w units.Worker, answer any) error
	Squash(ctx context.Context, program string, q units.Squashing, note func(files, bytes uint64)) error
	Clone(ctx context.Context, program, from, to string, note func(files, bytes uint64)) error
	Probe(ctx context.Context, program string, q units.Probe) (units.Probed, error)
	Host(ctx context.Context) (units.Host, error)
}

// Events hears of every change, in order, before the call that caused it returns. It is called with the daemon's lock
// held: it must neither block nor call back.
type Events interface {
	InstanceNew(Instance)
	InstanceChanged(old, new Instance)
	InstanceRemoved(Instance)
	JobNew(Job)
	JobChanged(old, new Job)
	// JobEnded follows the JobChanged that ended it.
	JobEnded(Job)
	// JobForgotten tells that a finished job is in the history only.
	JobForgotten(Job)
	// GameChanged tells the current revision, the newest build that is known of, and all revisions that are on disk.
	GameChanged(current store.Revision, available string, revisions []store.Revision)

	OverlayNew(Overlay)
	OverlayChanged(old, new Overlay)
	OverlayRemoved(Overlay)
	BlueprintNew(Blueprint)
	BlueprintChanged(old, new Blueprint)
	BlueprintRemoved(Blueprint)
}

// Options are what a Daemon is made of.
type Options struct {
	Store    *store.Store
	Units    Units
	Config   units.Config
	Layout   units.Layout
	Events   Events
	Log      *slog.Logger
	Version  string
	Worker   string // the path of left4-worker
	PreStart string // the path of left4-overlay, which looks whether the port is free, and into layers, and copies files

	SettingsPath string // of left4d.conf, "" = there is none
	Root         string // where the files of the system are, "" = /
}

// Daemon is left4d without its face.
type Daemon struct {
	Options

	// accept makes the order of jobs that of their ids. It is held over the database, mu never is; accept is taken
	// first where both are.
	accept  sync.Mutex
	lastJob uint32 // under accept

	// plans is held for writing while it is found out which revisions nobody needs, for reading while a plan is made and
	// written. It is taken after accept and before mu.
	plans sync.RWMutex

	// cache is full while somebody counts on what lies in the cache of the workshop: a build all the time, collecting only tries it.
	cache     chan struct{}
	cacheTime time.Duration // that a file which no revision has stays there

	mu         sync.Mutex
	instances  map[string]*instance
	blueprints map[string]store.Blueprint
	overlays   map[string]*overlay
	revisions  map[uint32][]store.Revision // on disk, by overlay, oldest first
	available  string                      // the newest build of the game that was heard of
	merging    map[string]bool             // layers that a job makes a new revision of
	starts     chan struct{}               // servers that are being started
	startTurn  time.Duration
	guardEvery time.Duration
	// incomingMost is what earlier workshop builds may have left of downloads: the next one needs room for its own.
	incomingMost units.Usage
	jobs         map[uint32]*job
	queues       map[string][]*job // by target; the first one runs
	finished     []uint32          // jobs that still have an object, oldest first
	unstored     []store.Job       // ended, but the database did not take it
	closing      bool
	running      sync.WaitGroup
	ctx          context.Context
	cancel       context.CancelCauseFunc
}

// instance is the view of one instance.
type instance struct {
	view     Instance
	lastExit string // how the game ended, where nobody asked for it; Config keeps it over a restart of left4d
	refresh  refresher
	// unit is held over its drop-in and what is told to systemd of it: jobs and those who change limits write it.
	unit sync.Mutex
}

// Instance is a definition with what is true of it now.
type Instance struct {
	store.Instance
	Effective    Effective
	State        string
	Desired      string
	Drifted      bool
	PendingCause string // what a restart would bring, "" = nothing
	Cause        string
	MainPID      uint32
	Since        int64 // microseconds since the epoch, 0 = not known
	Restarts     uint32
}

// Effective is what comes of a definition and the blueprint that it follows.
type Effective struct {
	Overlays []store.OverlayRef
	Limits   units.Limits
}

// States of an instance.
const (
	Stopped     = "stopped"
	Starting    = "starting"
	Running     = "running"
	Stopping    = "stopping"
	Restarting  = "restarting"
	FailedState = "failed"
)

var errClosing = errors.New("left4d is stopping")

// New reads what is defined and what is true of it, and ends or takes up again the jobs that an earlier left4d left.
// Unit changes must be told from then on, by UnitChanged and Reloaded.
func New(o Options) (*Daemon, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	o.Store.OnUnbacked(func(err error) { o.Log.Warn("cannot back up the database", "error", err) })
	d := &Daemon{
		Options: o, ctx: ctx, cancel: cancel,
		instances: map[string]*instance{}, jobs: map[uint32]*job{}, queues: map[string][]*job{},
		blueprints: map[string]store.Blueprint{}, overlays: map[string]*overlay{}, revisions: map[uint32][]store.Revision{},
		merging: map[string]bool{}, starts: make(chan struct{}, maxStarts), startTurn: startTurn, guardEvery: guardEvery,
		incomingMost: units.Usage{Files: workshopFiles / 2, Bytes: workshopDisk / 2},
		cache:        make(chan struct{}, 1), cacheTime: cacheTime,
	}
	if err := d.readLayers(); err != nil {
		return nil, err
	}
	defs, err := d.Store.Instances()
	if err != nil {
		return nil, fmt.Errorf("cannot read the instances: %w", err)
	}
	owners := map[uint32]string{} // most often a few have them all
	for _, def := range defs {
		name, known := owners[def.Owner]
		if !known {
			name = LoginName(def.Owner)
			owners[def.Owner] = name
		}
		def.OwnerName = name
		d.instances[def.Name] = &instance{
			view:     Instance{Instance: def, Effective: d.effective(def), State: Stopped, Desired: Stopped},
			lastExit: d.Config.LastExit(def.Name),
		}
	}
	if d.lastJob, err = d.Store.LastJobID(); err != nil {
		return nil, fmt.Errorf("cannot read the jobs: %w", err)
	}
	return d, nil
}

// readLayers reads blueprints, overlays and revisions.
func (d *Daemon) readLayers() error {
	blueprints, err := d.Store.Blueprints()
	if err != nil {
		return fmt.Errorf("cannot read the blueprints: %w", err)
	}
	for _, b := range blueprints {
		b.OwnerName = LoginName(b.Owner)
		d.blueprints[b.Name] = b
	}
	overlays, err := d.Store.Overlays()
	if err != nil {
		return fmt.Errorf("cannot read the overlays: %w", err)
	}
	for _, o := range overlays {
		o.OwnerName = LoginName(o.Owner)
		d.overlays[o.Name] = &overlay{Overlay: o}
		if j, err := d.Store.LastJob(o.Name, o.Created, nothingToDo, overlayKinds...); err == nil && j.State != JobDone {
			d.overlays[o.Name].failed = j.Cause
		}
	}
	revisions, err := d.Store.Revisions()
	if err != nil {
		return fmt.Errorf("cannot read the revisions: %w", err)
	}
	for _, r := range revisions {
		if r.Published != 0 {
			d.revisions[r.Overlay] = append(d.revisions[r.Overlay], r)
		}
	}
	return nil
}

// Begin brings the view up to date, lets serve open the doors, and takes up the jobs that an earlier left4d did not end:
// after the doors are open, so that their ends are heard, and before any new job is accepted.
func (d *Daemon) Begin(ctx context.Context, serve func() error) error {
	if err := d.begin(ctx, serve); err != nil {
		return err
	}
	d.giveOwedLimits()
	d.collectSoon()
	d.pruneJobs()
	d.running.Add(1)
	go d.logProblems()
	return nil
}

func (d *Daemon) begin(ctx context.Context, serve func() error) error {
	d.accept.Lock()
	defer d.accept.Unlock()
	// Before anything is shown: what a killed left4d had on its way out is no revision any more.
	if err := d.sweep(); err != nil {
		return err
	}
	d.RefreshAll(ctx)
	if err := serve(); err != nil {
		return err
	}
	return d.recover()
}

// Close stops accepting, lets no job begin and waits for those that run to give way. They stay unfinished in the
// database and are taken up by the next left4d: nothing that systemd was asked to do is taken back.
func (d *Daemon) Close() {
	d.accept.Lock() // what is being accepted is in its queue then
	d.mu.Lock()
	d.closing = true
	d.mu.Unlock()
	d.accept.Unlock()
	d.cancel(errClosing)
	d.running.Wait()
	if err := d.storeUnstored(); err != nil {
		d.Log.Error("cannot store the end of a job", "error", err)
	}
}

// Reconcile looks at everything again. It is a backstop: every change is told by a signal.
func (d *Daemon) Reconcile() {
	if err := d.storeUnstored(); err != nil {
		d.Log.Error("cannot store the end of a job", "error", err)
	}
	d.RefreshAll(d.ctx)
	d.giveOwedLimits()
	d.collectSoon()
	d.pruneJobs()
	d.Store.BackUpAgain()
}

// Instances returns all instances by name.
func (d *Daemon) Instances() []Instance {
	d.mu.Lock()
	defer d.mu.Unlock()
	sorted := make([]*instance, 0, len(d.instances))
	for _, in := range d.instances {
		sorted = append(sorted, in)
	}
	// Not the views themselves, which are large.
	slices.SortFunc(sorted, func(a, b *instance) int { return strings.Compare(a.view.Name, b.view.Name) })
	all := make([]Instance, len(sorted))
	for i, in := range sorted {
		all[i] = in.view
	}
	return all
}

// Instance returns one instance, or NoSuchInstance.
func (d *Daemon) Instance(name string) (Instance, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if in := d.instances[name]; in != nil {
		return in.view, nil
	}
	if err := CheckName(name); err != nil {
		return Instance{}, err
	}
	return Instance{}, errorf(NoSuchInstance, "there is no instance %s", name)
}

// change lets fn change the view of an instance and tells what came of it. The lock must be held.
func (d *Daemon) change(in *instance, fn func(*Instance)) {
	old := in.view
	fn(&in.view)
	in.view.Effective = d.effective(in.view.Instance)
	d.Events.InstanceChanged(old, in.view)
	// It may have waited for an overlay that the instance has no more.
	if queue := d.queues[in.view.Name]; len(queue) > 0 {
		queue[0].wake()
	}
}

// effective must be called with the lock held.
func (d *Daemon) effective(def store.Instance) Effective {
	s := d.specOf(def)
	return Effective{s.overlays, s.limits}
}

// now is the time as everything here keeps it: microseconds since the epoch.
func now() int64 { return time.Now().UnixMicro() }

// LoginName is the name of a user, "" where there is none. It may ask a directory server: no lock is held over it.
func LoginName(uid uint32) string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		return u.Username
	}
	return ""
}

// UserName names a user for people.
func UserName(uid uint32, login string) string {
	if login != "" {
		return login
	}
	return fmt.Sprintf("uid %d", uid)
}
