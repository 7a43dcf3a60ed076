package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// Event is what Watch tells, one of: Snapshot, Gone, InstanceAdded, InstanceChanged, InstanceStateChanged,
// InstanceRemoved, BlueprintAdded, BlueprintChanged, BlueprintRemoved, OverlayAdded, OverlayChanged, OverlayRemoved,
// JobAdded, JobChanged, JobEnded, JobForgotten, GameChanged. More may come: pass over a type that you do not know.
//
// What has changed is told by the names of the properties, as they are on the bus and sorted.
type Event interface{ isEvent() }

// Snapshot is all that there is at one moment. Throw away what you knew before. It comes first, then whenever left4d is
// back, and when events were dropped because they came faster than they were taken.
type Snapshot struct {
	Missed     bool // events before it were dropped
	Service    ServiceInfo
	Instances  []Instance      // by name
	Blueprints []BlueprintInfo // by name
	Overlays   []OverlayInfo   // by name
	Jobs       []JobInfo       // by id: those that have not ended, and some that have
}

// Gone tells that left4d is away: it is restarted or upgraded, or was stopped. The servers are not touched by that. A
// Snapshot follows when it is back.
type Gone struct {
	Err error // why it did not come when Watch asked for it; nil when it left
}

// InstanceAdded tells that an instance was created.
type InstanceAdded struct{ Instance Instance }

// InstanceChanged tells that properties of an instance have changed.
type InstanceChanged struct {
	Instance Instance // as it is now
	Before   Instance // as it was
	Changed  []string
}

// InstanceStateChanged tells that an instance went from one state to another. An InstanceChanged comes before it.
type InstanceStateChanged struct {
	Name  string
	Old   string
	New   string
	Cause string // why, for people; may be empty
}

// InstanceRemoved tells that an instance was deleted.
type InstanceRemoved struct{ Name string }

// BlueprintAdded tells that a blueprint was created.
type BlueprintAdded struct{ Blueprint BlueprintInfo }

// BlueprintChanged tells that properties of a blueprint have changed.
type BlueprintChanged struct {
	Blueprint BlueprintInfo // as it is now
	Before    BlueprintInfo // as it was
	Changed   []string
}

// BlueprintRemoved tells that a blueprint was deleted.
type BlueprintRemoved struct{ Name string }

// OverlayAdded tells that an overlay was created.
type OverlayAdded struct{ Overlay OverlayInfo }

// OverlayChanged tells that properties of an overlay have changed.
type OverlayChanged struct {
	Overlay OverlayInfo // as it is now
	Before  OverlayInfo // as it was
	Changed []string
}

// OverlayRemoved tells that an overlay was deleted.
type OverlayRemoved struct{ Name string }

// JobAdded tells that a job was accepted.
type JobAdded struct{ Job JobInfo }

// JobChanged tells that properties of a job have changed.
type JobChanged struct {
	Job     JobInfo // as it is now
	Before  JobInfo // as it was
	Changed []string
}

// JobEnded tells that a job has ended; its State is the result. A JobChanged comes before it.
type JobEnded struct{ Job JobInfo }

// JobForgotten tells that a job that has ended is in the history only.
type JobForgotten struct{ Job JobInfo } // as it was

// GameChanged tells that the game has another current revision, or other revisions on disk.
type GameChanged struct {
	Service ServiceInfo // as it is now
	Before  ServiceInfo // as it was
	Changed []string
}

func (Snapshot) isEvent()             {}
func (Gone) isEvent()                 {}
func (InstanceAdded) isEvent()        {}
func (InstanceChanged) isEvent()      {}
func (InstanceStateChanged) isEvent() {}
func (InstanceRemoved) isEvent()      {}
func (BlueprintAdded) isEvent()       {}
func (BlueprintChanged) isEvent()     {}
func (BlueprintRemoved) isEvent()     {}
func (OverlayAdded) isEvent()         {}
func (OverlayChanged) isEvent()       {}
func (OverlayRemoved) isEvent()       {}
func (JobAdded) isEvent()             {}
func (JobChanged) isEvent()           {}
func (JobEnded) isEvent()             {}
func (JobForgotten) isEvent()         {}
func (GameChanged) isEvent()          {}

// maxSignals bounds the signals that wait for a slow consumer of Watch.
const maxSignals = 1024

// Watch tells all that happens, from a Snapshot on, until the loop over it is left or ctx ends. In order and nothing
// left out: what is signalled while a Snapshot is taken may be in it already, and be told as an event too.
//
// A loop may take its time. Up to 1024 signals wait for it; when there are more they are dropped, and a fresh Snapshot
// takes their place. left4d is started where it does not run when the loop begins, but never after that: when it
// leaves, Gone is told, and a Snapshot when it is back.
//
// An error is the last that the loop gets: that of ctx, one that IsUnavailable knows when the connection is lost, or
// ErrQuotaExceeded and the like when left4d does not tell a Snapshot.
func (c *Client) Watch(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		v := &viewer{c: c, yield: yield, wake: make(chan struct{}, 1)}
		if err := c.view(ctx, v); err != nil {
			yield(nil, err)
			return
		}
		defer c.unview(v)
		if err := v.run(ctx); err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

// errEnough is how a loop is left.
var errEnough = errors.New("enough")

// viewer is one loop over Watch. Signals are only queued for it; the loop's own goroutine makes events of them.
type viewer struct {
	c     *Client
	yield func(Event, error) bool

	signals []*dbus.Signal // guarded by Client.mu
	missed  bool           // guarded by Client.mu: some were dropped, and more are until it looks again
	wake    chan struct{}

	away    bool
	owner   string                  // of me.left4, whom it asked
	manager map[string]dbus.Variant // properties of the Manager
	objects map[dbus.ObjectPath]map[string]dbus.Variant
}

// everything is all that left4d signals.
const everything = "type='signal',sender='" + names.Service + "',path_namespace='" + string(names.Root) + "'"

// view makes v hear of all signals. Rules are counted, so each viewer has its own.
func (c *Client) view(ctx context.Context, v *viewer) error {
	c.mu.Lock()
	c.viewers[v] = true
	c.mu.Unlock()
	err := c.fromBus(c.conn.BusObject().CallWithContext(ctx, names.Bus+".AddMatch", 0, everything).Err)
	if err != nil {
		c.unview(v)
	}
	return err
}

// unview ends that. It does not wait for the bus, which has nothing to say to it.
func (c *Client) unview(v *viewer) {
	c.mu.Lock()
	delete(c.viewers, v)
	c.mu.Unlock()
	c.conn.BusObject().Go(names.Bus+".RemoveMatch", dbus.FlagNoReplyExpected, nil, everything)
}

// queue hands a signal to all viewers. Called with mu held.
func (c *Client) queue(s *dbus.Signal) {
	for v := range c.viewers {
		switch {
		case v.missed:
		case len(v.signals) == maxSignals:
			v.signals, v.missed = nil, true
		default:
			v.signals = append(v.signals, s)
		}
		select {
		case v.wake <- struct{}{}:
		default:
		}
	}
}

// dequeue takes all that is queued, or tells that some was dropped.
func (v *viewer) dequeue() (signals []*dbus.Signal, missed bool) {
	v.c.mu.Lock()
	defer v.c.mu.Unlock()
	signals, missed = v.signals, v.missed
	v.signals, v.missed = nil, false
	return signals, missed
}

func (v *viewer) tell(e Event, err error) error {
	if err == nil && !v.yield(e, nil) {
		return errEnough
	}
	return err
}

func (v *viewer) run(ctx context.Context) error {
	if err := v.look(ctx, 0, false); err != nil {
		return err
	}
	for {
		signals, missed := v.dequeue()
		if missed {
			if err := v.look(ctx, dbus.FlagNoAutoStart, true); err != nil {
				return err
			}
			continue
		}
		for _, s := range signals {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := v.apply(ctx, s); err != nil {
				return err
			}
		}
		if len(signals) > 0 {
			continue
		}
		select {
		case <-v.wake:
		case <-ctx.Done():
			return ctx.Err()
		case <-v.c.conn.Context().Done():
			return v.c.disconnected()
		}
	}
}

// look tells a Snapshot, or that left4d is away.
func (v *viewer) look(ctx context.Context, flags dbus.Flags, missed bool) error {
	for attempt := 1; ; attempt++ {
		before := v.c.present()
		s, err := v.snapshot(ctx, flags)
		now := v.c.present()
		v.owner = before
		switch again := attempt < 3; {
		case err == nil && before == "" && again:
			// It was started for the question. That is not told as something that has happened since.
		case err == nil:
			v.away, s.Missed = false, missed
			return v.tell(s, nil)
		case !IsUnavailable(err) || v.c.conn.Context().Err() != nil:
			return err
		case now == "":
			return v.gone(err)
		case !again:
			return err
			// Else it was away, or left while it was asked, and is back, or the bus has yet to say that it left.
		}
	}
}

// gone tells that left4d is away, once.
func (v *viewer) gone(err error) error {
	v.manager, v.objects = nil, nil
	if v.away {
		return nil
	}
	v.away = true
	return v.tell(Gone{err}, nil)
}

func (v *viewer) snapshot(ctx context.Context, flags dbus.Flags) (s Snapshot, err error) {
	var objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	v.manager, v.objects = nil, map[dbus.ObjectPath]map[string]dbus.Variant{}
	if err := v.c.send(ctx, flags, names.Root, names.Properties, "GetAll", []any{names.Manager}, &v.manager); err != nil {
		return s, err
	}
	if err := v.c.send(ctx, flags, names.Root, names.ObjectManager, "GetManagedObjects", nil, &objects); err != nil {
		return s, err
	}
	if s.Service, err = serviceInfo(&properties{values: v.manager}); err != nil {
		return s, err
	}
	for path, interfaces := range objects {
		values, ok := interfaces[kindOf(path)]
		if !ok {
			continue
		}
		v.objects[path] = values
		e, err := added(path, values)
		if err != nil {
			return s, err
		}
		switch e := e.(type) {
		case InstanceAdded:
			s.Instances = append(s.Instances, e.Instance)
		case BlueprintAdded:
			s.Blueprints = append(s.Blueprints, e.Blueprint)
		case OverlayAdded:
			s.Overlays = append(s.Overlays, e.Overlay)
		case JobAdded:
			s.Jobs = append(s.Jobs, e.Job)
		}
	}
	slices.SortFunc(s.Instances, func(a, b Instance) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Blueprints, func(a, b BlueprintInfo) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Overlays, func(a, b OverlayInfo) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Jobs, func(a, b JobInfo) int { return cmp.Compare(a.ID, b.ID) })
	return s, nil
}

// apply makes the events of one signal. DeliverSignal has seen to it that it comes from left4d, or from the bus.
func (v *viewer) apply(ctx context.Context, s *dbus.Signal) error {
	bad := func() error { return fmt.Errorf("left4d sent signal %s with something else than expected", s.Name) }
	switch {
	case s.Sender == names.Bus:
		after := s.Body[2].(string)
		if !v.away && after != "" && after == v.owner {
			return nil // that is whom it asked
		}
		if err := v.gone(nil); err != nil || after == "" {
			return err
		}
		return v.look(ctx, dbus.FlagNoAutoStart, false)
	case v.away:
		return nil // it left before it could be asked

	case s.Name == names.ObjectManager+".InterfacesAdded" && s.Path == names.Root:
		var path dbus.ObjectPath
		var interfaces map[string]map[string]dbus.Variant
		if dbus.Store(s.Body, &path, &interfaces) != nil {
			return bad()
		}
		values, ok := interfaces[kindOf(path)]
		if known := v.objects[path]; !ok || reflect.DeepEqual(known, values) {
			return nil
		}
		v.objects[path] = values
		return v.tell(added(path, values))
	case s.Name == names.ObjectManager+".InterfacesRemoved" && s.Path == names.Root:
		var path dbus.ObjectPath
		var interfaces []string
		if dbus.Store(s.Body, &path, &interfaces) != nil {
			return bad()
		}
		values := v.objects[path]
		if values == nil || !slices.Contains(interfaces, kindOf(path)) {
			return nil
		}
		delete(v.objects, path)
		return v.tell(removed(path, values))
	case s.Name == names.Properties+".PropertiesChanged":
		var iface string
		var values map[string]dbus.Variant
		var invalidated []string
		if dbus.Store(s.Body, &iface, &values, &invalidated) != nil {
			return bad()
		}
		known := v.objects[s.Path]
		if s.Path == names.Root {
			known = v.manager
		}
		if known == nil || iface != kindOf(s.Path) {
			return nil
		}
		if len(invalidated) > 0 {
			return v.look(ctx, dbus.FlagNoAutoStart, false)
		}
		var differ []string
		for _, name := range slices.Sorted(maps.Keys(values)) {
			if !reflect.DeepEqual(known[name], values[name]) {
				differ = append(differ, name)
			}
		}
		if len(differ) == 0 {
			return nil
		}
		before := maps.Clone(known)
		maps.Copy(known, values)
		return v.tell(changed(s.Path, &properties{values: before}, &properties{values: known}, differ))

	case s.Name == names.Manager+".InstanceStateChanged" && s.Path == names.Root:
		var e InstanceStateChanged
		if dbus.Store(s.Body, &e.Name, &e.Old, &e.New, &e.Cause) != nil {
			return bad()
		}
		return v.tell(e, nil)
	case s.Name == names.Manager+".JobRemoved" && s.Path == names.Root:
		job, ok := endedJob(s)
		if !ok {
			return bad()
		}
		info, err := jobInfo(job.Object, &properties{values: v.objects[job.Object]})
		info.Kind, info.Target, info.State = job.Kind, job.Target, job.State
		return v.tell(JobEnded{info}, err)
	}
	return nil // JobNew says less than the InterfacesAdded before it
}

// kindOf is the interface that makes an object what it is.
func kindOf(path dbus.ObjectPath) string {
	if path == names.Root {
		return names.Manager
	}
	if _, ok := names.InstanceName(path); ok {
		return names.Instance
	}
	if _, ok := names.BlueprintName(path); ok {
		return names.Blueprint
	}
	if _, ok := names.OverlayName(path); ok {
		return names.Overlay
	}
	if _, ok := names.JobID(path); ok {
		return names.Job
	}
	return ""
}

func added(path dbus.ObjectPath, values map[string]dbus.Variant) (Event, error) {
	p := &properties{values: values}
	switch kindOf(path) {
	case names.Instance:
		i, err := instanceInfo(path, p)
		return InstanceAdded{i}, err
	case names.Blueprint:
		b, err := blueprintInfo(path, p)
		return BlueprintAdded{b}, err
	case names.Overlay:
		o, err := overlayInfo(path, p)
		return OverlayAdded{o}, err
	}
	j, err := jobInfo(path, p)
	return JobAdded{j}, err
}

func changed(path dbus.ObjectPath, old, now *properties, which []string) (Event, error) {
	switch kindOf(path) {
	case names.Manager:
		before, _ := serviceInfo(old)
		s, err := serviceInfo(now)
		return GameChanged{s, before, which}, err
	case names.Instance:
		before, _ := instanceInfo(path, old)
		i, err := instanceInfo(path, now)
		return InstanceChanged{i, before, which}, err
	case names.Blueprint:
		before, _ := blueprintInfo(path, old)
		b, err := blueprintInfo(path, now)
		return BlueprintChanged{b, before, which}, err
	case names.Overlay:
		before, _ := overlayInfo(path, old)
		o, err := overlayInfo(path, now)
		return OverlayChanged{o, before, which}, err
	}
	before, _ := jobInfo(path, old)
	j, err := jobInfo(path, now)
	return JobChanged{j, before, which}, err
}

func removed(path dbus.ObjectPath, values map[string]dbus.Variant) (Event, error) {
	if name, ok := names.InstanceName(path); ok {
		return InstanceRemoved{name}, nil
	}
	if name, ok := names.BlueprintName(path); ok {
		return BlueprintRemoved{name}, nil
	}
	if name, ok := names.OverlayName(path); ok {
		return OverlayRemoved{name}, nil
	}
	j, err := jobInfo(path, &properties{values: values})
	return JobForgotten{j}, err
}
