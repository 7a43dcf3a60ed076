package daemon

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// Blueprint is a recipe with the instances that follow it.
type Blueprint struct {
	store.Blueprint
	Instances []string // by name
}

// CreateBlueprint defines a blueprint of owner. Errors: InvalidName, InvalidArgument, BlueprintExists, NoSuchOverlay.
func (d *Daemon) CreateBlueprint(name string, c Changes, owner uint32) (Blueprint, error) {
	if err := CheckName(name); err != nil {
		return Blueprint{}, err
	}
	b := store.Blueprint{Name: name, Owner: owner, OwnerName: LoginName(owner), Created: now()}
	b.Arguments.V, b.Config.V, b.Overlays.V = []string{}, []string{}, []store.OverlayRef{}
	d.accept.Lock()
	defer d.accept.Unlock()
	if _, err := d.Blueprint(name); err == nil {
		return Blueprint{}, errorf(BlueprintExists, "cannot create blueprint %s: there is such a blueprint", name)
	}
	if err := d.applyToBlueprint(c, &b); err != nil {
		return Blueprint{}, err
	}
	if err := d.Store.CreateBlueprint(b); err != nil {
		return Blueprint{}, fmt.Errorf("cannot create blueprint %s: %w", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blueprints[name] = b
	view := d.blueprintView(b)
	d.Events.BlueprintNew(view)
	return view, nil
}

// UpdateBlueprint changes a blueprint. The instances that follow it have it from their next start, limits at once.
// Errors: NoSuchBlueprint, InvalidArgument, NoSuchOverlay.
func (d *Daemon) UpdateBlueprint(name string, c Changes) (Blueprint, error) {
	limits := map[string]units.Limits{} // as they were
	view, err := d.redefineBlueprint(name, c, limits)
	if err != nil {
		return view, err
	}
	d.refreshAll(view.Instances)
	if c.Limits == nil {
		return view, nil
	}
	for _, instance := range view.Instances {
		if limitErr := d.limit(instance, limits[instance]); limitErr != nil {
			err = errors.Join(err, fmt.Errorf("cannot give the limits, which are stored, to the running server %s: %w", instance, limitErr))
		}
	}
	return view, err
}

func (d *Daemon) redefineBlueprint(name string, c Changes, limits map[string]units.Limits) (Blueprint, error) {
	d.accept.Lock()
	defer d.accept.Unlock()
	old, err := d.Blueprint(name)
	if err != nil {
		return Blueprint{}, err
	}
	b := old.Blueprint
	if err := d.applyToBlueprint(c, &b); err != nil {
		return Blueprint{}, err
	}
	for _, in := range d.Instances() {
		if in.Blueprint != name {
			continue
		}
		limits[in.Name] = in.Effective.Limits
		if err := combine(in.Instance, &b).check(); err != nil {
			return Blueprint{}, errorf(InvalidArgument, "cannot update blueprint %s: instance %s, which follows it: %v", name, in.Name, err)
		}
	}
	if err := d.Store.UpdateBlueprint(b); err != nil {
		return Blueprint{}, fmt.Errorf("cannot update blueprint %s: %w", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.blueprintView(d.blueprints[name])
	d.blueprints[name] = b
	view := d.blueprintView(b)
	d.Events.BlueprintChanged(before, view)
	for _, instance := range view.Instances {
		d.change(d.instances[instance], func(*Instance) {})
	}
	return view, nil
}

// DeleteBlueprint forgets a blueprint; one that is not there is no error. Errors: InvalidName, InUse.
func (d *Daemon) DeleteBlueprint(name string) error {
	d.accept.Lock()
	defer d.accept.Unlock()
	b, err := d.Blueprint(name)
	if AsCode(err) == NoSuchBlueprint {
		return nil
	}
	if err != nil {
		return err
	}
	if len(b.Instances) > 0 {
		return errorf(InUse, "cannot delete blueprint %s: %s", name, followers(b.Instances))
	}
	if err := d.Store.DeleteBlueprint(name); err != nil {
		return fmt.Errorf("cannot delete blueprint %s: %w", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.blueprints, name)
	d.Events.BlueprintRemoved(b)
	return nil
}

func followers(instances []string) string {
	if len(instances) == 1 {
		return "instance " + instances[0] + " follows it"
	}
	return "instances " + strings.Join(instances, ", ") + " follow it"
}

// Blueprint returns one blueprint, or NoSuchBlueprint.
func (d *Daemon) Blueprint(name string) (Blueprint, error) {
	if err := CheckName(name); err != nil {
		return Blueprint{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.blueprints[name]
	if !ok {
		return Blueprint{}, errorf(NoSuchBlueprint, "there is no blueprint %s", name)
	}
	return d.blueprintView(b), nil
}

// Blueprints returns all blueprints by name.
func (d *Daemon) Blueprints() []Blueprint {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]Blueprint, 0, len(d.blueprints))
	for _, b := range d.blueprints {
		all = append(all, d.blueprintView(b))
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// blueprintView must be called with the lock held.
func (d *Daemon) blueprintView(b store.Blueprint) Blueprint {
	view := Blueprint{Blueprint: b, Instances: []string{}}
	for name, in := range d.instances {
		if in.view.Blueprint == b.Name {
			view.Instances = append(view.Instances, name)
		}
	}
	sort.Strings(view.Instances)
	return view
}

// followersChanged makes a change after which another set of instances may follow a blueprint, and tells it. The lock
// must be held.
func (d *Daemon) followersChanged(name string, change func()) {
	b, ok := d.blueprints[name]
	if !ok {
		change()
		return
	}
	before := d.blueprintView(b)
	change()
	d.Events.BlueprintChanged(before, d.blueprintView(b))
}

// applyToBlueprint puts changes into a blueprint. The overlays that it names must be there; accept must be held, so that
// none of them goes meanwhile.
func (d *Daemon) applyToBlueprint(c Changes, b *store.Blueprint) error {
	if err := c.CheckBlueprint(); err != nil {
		return err
	}
	def := store.Instance{Arguments: b.Arguments, Config: b.Config, Overlays: b.Overlays, Limits: b.Limits}
	if err := c.apply(&def); err != nil {
		return err
	}
	b.Arguments, b.Config, b.Overlays, b.Limits = def.Arguments, def.Config, def.Overlays, def.Limits
	if c.Overlays == nil {
		return nil
	}
	return d.checkOverlaysExist(b.Overlays.V)
}

// line is one of a server.cfg, and whose it is.
type line struct{ text, from string }

// spec is what an instance and its blueprint make together.
type spec struct {
	overlays  []store.OverlayRef
	arguments []string
	config    []line
	limits    units.Limits
}

// combine puts what an instance has of its own over its blueprint, if it has one: its overlays lie on top, its arguments
// and lines come later, which is what Source takes, and its limits replace those of the same name.
func combine(def store.Instance, b *store.Blueprint) spec {
	s := spec{overlays: slices.Clone(def.Overlays.V), arguments: def.Arguments.V, limits: def.Limits.V}
	if b != nil {
		for _, o := range b.Overlays.V {
			if !slices.ContainsFunc(def.Overlays.V, func(own store.OverlayRef) bool { return own.Overlay == o.Overlay }) {
				s.overlays = append(s.overlays, o)
			}
		}
		s.arguments = slices.Concat(b.Arguments.V, def.Arguments.V)
		for _, text := range b.Config.V {
			s.config = append(s.config, line{text, "blueprint " + b.Name})
		}
		s.limits = over(def.Limits.V, b.Limits.V)
	}
	for _, text := range def.Config.V {
		s.config = append(s.config, line{text, "instance " + def.Name})
	}
	return s
}

// check tells what the two may not be together although each may be alone.
func (s spec) check() error {
	if len(s.config) > maxLines {
		return errorf(InvalidArgument, "config has %d lines, at most %d are allowed", len(s.config), maxLines)
	}
	if err := checkArguments(s.arguments); err != nil {
		return err
	}
	return checkOverlays(s.overlays)
}

// spec is what a definition and its blueprint make now.
func (d *Daemon) spec(def store.Instance) spec {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.specOf(def)
}

// specOf is spec with the lock held.
func (d *Daemon) specOf(def store.Instance) spec {
	if b, ok := d.blueprints[def.Blueprint]; ok {
		return combine(def, &b)
	}
	return combine(def, nil)
}

// over is base with the limits of own in place of those of the same name.
func over(own, base units.Limits) units.Limits {
	for _, limit := range []struct{ own, base **uint64 }{
		{&own.MemoryMax, &base.MemoryMax}, {&own.MemoryHigh, &base.MemoryHigh}, {&own.TasksMax, &base.TasksMax},
		{&own.CPUQuotaPerSecUSec, &base.CPUQuotaPerSecUSec},
	} {
		if *limit.own == nil {
			*limit.own = *limit.base
		}
	}
	if own.AllowedCPUs == nil {
		own.AllowedCPUs = base.AllowedCPUs
	}
	return own
}
