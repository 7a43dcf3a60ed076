package clienttest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/client"
	"left4.me/left4/dbus/names"
)

// AddBlueprint defines a blueprint.
func (d *Daemon) AddBlueprint(name string, config map[string]dbus.Variant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	d.blueprints[name] = maps.Clone(config)
}

// Bind binds an instance to a blueprint.
func (d *Daemon) Bind(instance, blueprint string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	d.instances[instance].Config["blueprint"] = dbus.MakeVariant(blueprint)
	d.instances[instance].Properties["Blueprint"] = blueprint
}

// overlaysOf are the overlays that a config names.
func overlaysOf(config map[string]dbus.Variant) []client.Overlay {
	list := []client.Overlay{}
	if v, ok := config["overlays"]; ok {
		if err := dbus.Store([]any{v.Value()}, &list); err != nil {
			panic(err) // left4d would not have accepted it
		}
	}
	return list
}

func limitsOf(config map[string]dbus.Variant) map[string]dbus.Variant {
	limits := map[string]dbus.Variant{}
	if v, ok := config["limits"]; ok {
		maps.Copy(limits, v.Value().(map[string]dbus.Variant))
	}
	return limits
}

// received is a config that can be sent: structs of a message come as lists, which would be sent as lists.
func received(config map[string]dbus.Variant) map[string]dbus.Variant {
	config = maps.Clone(config)
	if _, ok := config["overlays"]; ok {
		config["overlays"] = dbus.MakeVariant(overlaysOf(config))
	}
	return config
}

// check refuses what names something that is not there.
func (d *Daemon) check(config map[string]dbus.Variant) *dbus.Error {
	for _, o := range overlaysOf(config) {
		if d.overlays[o.Name] == nil {
			return noSuchOverlay(o.Name)
		}
	}
	if name, _ := text(config, "blueprint"); name != "" && d.blueprints[name] == nil {
		return noSuchBlueprint(name)
	}
	return nil
}

func text(config map[string]dbus.Variant, key string) (string, bool) {
	s, ok := config[key].Value().(string)
	return s, ok
}

// define puts changes into the definition of an instance, and what follows from them into its properties.
func (d *Daemon) define(i *Instance, changes map[string]dbus.Variant) {
	maps.Copy(i.Config, received(changes))
	for key, property := range map[string]string{"label": "Label", "blueprint": "Blueprint"} {
		if value, ok := text(changes, key); ok {
			i.Properties[property] = value
		}
	}
	if v, ok := changes["port"]; ok && v.Value() != uint16(0) {
		i.Properties["Port"] = v.Value()
	} else if ok {
		i.Config["port"] = dbus.MakeVariant(i.Properties["Port"])
	}
	if _, ok := changes["overlays"]; ok {
		i.Properties["Overlays"] = overlaysOf(changes)
	}
	if _, ok := changes["limits"]; ok {
		i.Properties["Limits"] = limitsOf(changes)
	}
}

// instanceProperties are those of an instance, with what it has from its blueprint.
func (d *Daemon) instanceProperties(name string) map[string]any {
	p := maps.Clone(d.instances[name].Properties)
	blueprint, ok := d.blueprints[p["Blueprint"].(string)]
	if !ok {
		return p
	}
	overlays, _ := p["Overlays"].([]client.Overlay)
	for _, o := range overlaysOf(blueprint) {
		if !slices.ContainsFunc(overlays, func(own client.Overlay) bool { return own.Name == o.Name }) {
			overlays = append(slices.Clip(overlays), o)
		}
	}
	limits := limitsOf(blueprint)
	maps.Copy(limits, p["Limits"].(map[string]dbus.Variant))
	p["Overlays"], p["Limits"] = overlays, limits
	return p
}

func (d *Daemon) boundTo(blueprint string) []string {
	bound := []string{}
	for _, name := range slices.Sorted(maps.Keys(d.instances)) {
		if d.instances[name].Properties["Blueprint"] == blueprint {
			bound = append(bound, name)
		}
	}
	return bound
}

func (d *Daemon) blueprintProperties(name string) map[string]any {
	config := d.blueprints[name]
	return map[string]any{
		"Name": name, "Owner": uint32(0), "OwnerName": "root", "Overlays": overlaysOf(config), "Limits": limitsOf(config), "Instances": d.boundTo(name),
	}
}

func noSuchBlueprint(name string) *dbus.Error {
	return dbus.NewError(names.Error+"NoSuchBlueprint", []any{"there is no blueprint " + name})
}

// blueprint is what create and update have in common.
func (m *manager) blueprint(msg dbus.Message, name string, config options, create bool) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return "", err
	}
	switch exists := d.blueprints[name] != nil; {
	case create && exists:
		return "", dbus.NewError(names.Error+"BlueprintExists", []any{"there is a blueprint " + name + " already"})
	case !create && !exists:
		return "", noSuchBlueprint(name)
	}
	for _, key := range slices.Sorted(maps.Keys(config)) {
		if !slices.Contains([]string{"overlays", "arguments", "config", "limits"}, key) {
			return "", invalid("a blueprint has no key %q", key)
		}
	}
	if err := d.check(config); err != nil {
		return "", err
	}
	defer d.tell()
	if create {
		d.blueprints[name] = map[string]dbus.Variant{}
	}
	maps.Copy(d.blueprints[name], received(config))
	return names.BlueprintPath(name), nil
}

func (m *manager) CreateBlueprint(msg dbus.Message, name string, config, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.blueprint(msg, name, config, true)
}

func (m *manager) UpdateBlueprint(msg dbus.Message, name string, config, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.blueprint(msg, name, config, false)
}

func (m *manager) DeleteBlueprint(msg dbus.Message, name string, o options) *dbus.Error {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return err
	}
	if bound := d.boundTo(name); len(bound) > 0 {
		return dbus.NewError(names.Error+"InUse", []any{fmt.Sprintf("cannot delete blueprint %s: instances %s are bound to it", name, strings.Join(bound, ", "))})
	}
	defer d.tell()
	delete(d.blueprints, name)
	return nil
}

func (m *manager) GetBlueprint(name string) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.blueprints[name] == nil {
		return "", noSuchBlueprint(name)
	}
	return names.BlueprintPath(name), nil
}

// blueprintFace is me.left4.Blueprint.
type blueprintFace Daemon

func (f *blueprintFace) GetConfig(msg dbus.Message) (map[string]dbus.Variant, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures["GetConfig"]; err != nil {
		return nil, err
	}
	name, _ := names.BlueprintName(msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath))
	return f.blueprints[name], nil
}

func (f *blueprintFace) ListConflicts(msg dbus.Message, o options) ([]client.Conflict, bool, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name, _ := names.BlueprintName(msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath))
	return (*Daemon)(f).conflicts(overlaysOf(f.blueprints[name])), f.more, f.failures["ListConflicts"]
}

// conflicts are the files that more than one of the overlays holds.
func (d *Daemon) conflicts(layers []client.Overlay) []client.Conflict {
	holders := map[string][]string{}
	for _, o := range layers {
		if d.overlays[o.Name] == nil {
			continue // a property that a test made up
		}
		for name, f := range d.overlays[o.Name].at(0).files {
			if f.kind != "directory" {
				holders[name] = append(holders[name], o.Name)
			}
		}
	}
	list := []client.Conflict{}
	for _, name := range slices.Sorted(maps.Keys(holders)) {
		if len(holders[name]) > 1 {
			list = append(list, client.Conflict{Path: client.FileText(name), Overlays: holders[name]})
		}
	}
	return list
}
