package dbus

import (
	"os"
	"reflect"
	"strings"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/daemon"
	"left4.me/left4/daemon/store"
	"left4.me/left4/dbus/names"
	"left4.me/left4/units"
)

// Interfaces of every object, of the root, and of the nodes between.
var (
	everywhere = []string{names.Introspectable, names.Peer, names.Properties}
	onRoot     = append([]string{names.Manager, names.ObjectManager}, everywhere...)
	onJob      = append([]string{names.Job}, everywhere...)
	between    = []string{names.Introspectable, names.Peer}
)

// kinds are those of the things that have a name.
var kinds = []struct {
	kind    string
	iface   string
	name    func(dbus.ObjectPath) (name string, ok bool)
	missing daemon.Code
	found   []string // interfaces of one that is there
}{
	{instance, names.Instance, names.InstanceName, daemon.NoSuchInstance, append([]string{names.Instance}, everywhere...)},
	{blueprint, names.Blueprint, names.BlueprintName, daemon.NoSuchBlueprint, append([]string{names.Blueprint}, everywhere...)},
	{overlay, names.Overlay, names.OverlayName, daemon.NoSuchOverlay, append([]string{names.Overlay}, everywhere...)},
}

// interfaces of an object; nil where there is no such object.
func (s *Server) interfaces(path dbus.ObjectPath) []string {
	switch path {
	case names.Root:
		return onRoot
	case "/", "/me", "/me/left4/blueprint", "/me/left4/instance", "/me/left4/job", "/me/left4/overlay":
		return between
	}
	for _, k := range kinds {
		if name, ok := k.name(path); ok {
			if _, err := s.identify(thing{k.kind, name}); err == nil {
				return k.found
			}
		}
	}
	if id, ok := names.JobID(path); ok {
		if _, err := s.daemon.Job(id); err == nil {
			return onJob
		}
	}
	return nil
}

// properties of an object's interface; nil where it has none.
func (s *Server) properties(path dbus.ObjectPath, iface string) map[string]dbus.Variant {
	switch iface {
	case names.Manager:
		if path == names.Root {
			all := gameProperties(s.daemon.Game())
			all["Version"] = dbus.MakeVariant(s.daemon.Version)
			return all
		}
	case names.Instance:
		if name, ok := names.InstanceName(path); ok {
			if in, err := s.daemon.Instance(name); err == nil {
				return instanceProperties(in)
			}
		}
	case names.Blueprint:
		if name, ok := names.BlueprintName(path); ok {
			if b, err := s.daemon.Blueprint(name); err == nil {
				return blueprintProperties(b)
			}
		}
	case names.Overlay:
		if name, ok := names.OverlayName(path); ok {
			if o, err := s.daemon.Overlay(name); err == nil {
				return overlayProperties(o)
			}
		}
	case names.Job:
		if id, ok := names.JobID(path); ok {
			if j, err := s.daemon.Job(id); err == nil {
				return jobProperties(j)
			}
		}
	}
	return nil
}

// gameProperties are those of the Manager that change.
func gameProperties(current store.Revision, available string, revisions []store.Revision) map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"GameRevision":       dbus.MakeVariant(current.ID),
		"GameRevisions":      dbus.MakeVariant(writeRevisions(revisions)),
		"GameBuild":          dbus.MakeVariant(current.Info.V.Build),
		"AvailableGameBuild": dbus.MakeVariant(available),
	}
}

func blueprintProperties(b daemon.Blueprint) map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"Name":      dbus.MakeVariant(b.Name),
		"Owner":     dbus.MakeVariant(b.Owner),
		"OwnerName": dbus.MakeVariant(b.OwnerName),
		"Overlays":  dbus.MakeVariant(writeOverlays(b.Overlays.V)),
		"Limits":    dbus.MakeVariant(writeLimits(b.Limits.V)),
		"Instances": dbus.MakeVariant(append([]string{}, b.Instances...)),
	}
}

func overlayProperties(o daemon.Overlay) map[string]dbus.Variant {
	var current store.Revision
	for _, r := range o.Revisions {
		if r.ID == o.Revision {
			current = r
		}
	}
	return map[string]dbus.Variant{
		"Name":      dbus.MakeVariant(o.Name),
		"Id":        dbus.MakeVariant(o.ID),
		"Type":      dbus.MakeVariant(o.Type),
		"Owner":     dbus.MakeVariant(o.Owner),
		"OwnerName": dbus.MakeVariant(o.OwnerName),
		"State":     dbus.MakeVariant(o.State),
		"Cause":     dbus.MakeVariant(o.Cause),
		"Revision":  dbus.MakeVariant(o.Revision),
		"Revisions": dbus.MakeVariant(writeRevisions(o.Revisions)),
		"Files":     dbus.MakeVariant(current.Files),
		"Size":      dbus.MakeVariant(current.Bytes),
	}
}

func instanceProperties(in daemon.Instance) map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"Name":           dbus.MakeVariant(in.Name),
		"Label":          dbus.MakeVariant(in.Label),
		"Blueprint":      dbus.MakeVariant(in.Blueprint),
		"Overlays":       dbus.MakeVariant(writeOverlays(in.Effective.Overlays)),
		"Port":           dbus.MakeVariant(in.Port),
		"Unit":           dbus.MakeVariant(units.ServerUnit(in.Name)),
		"Owner":          dbus.MakeVariant(in.Owner),
		"OwnerName":      dbus.MakeVariant(in.OwnerName),
		"State":          dbus.MakeVariant(in.State),
		"DesiredState":   dbus.MakeVariant(in.Desired),
		"Drifted":        dbus.MakeVariant(in.Drifted),
		"PendingRestart": dbus.MakeVariant(in.PendingCause != ""),
		"PendingCause":   dbus.MakeVariant(in.PendingCause),
		"Cause":          dbus.MakeVariant(in.Cause),
		"MainPID":        dbus.MakeVariant(in.MainPID),
		"StateSince":     dbus.MakeVariant(uint64(in.Since)),
		"Restarts":       dbus.MakeVariant(in.Restarts),
		"Limits":         dbus.MakeVariant(writeLimits(in.Effective.Limits)),
	}
}

func jobProperties(j daemon.Job) map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"Id":            dbus.MakeVariant(j.ID),
		"Kind":          dbus.MakeVariant(j.Kind),
		"Target":        dbus.MakeVariant(j.Target),
		"State":         dbus.MakeVariant(j.State),
		"Progress":      dbus.MakeVariant(j.Progress),
		"Status":        dbus.MakeVariant(j.Status),
		"Requester":     dbus.MakeVariant(j.Requester),
		"RequesterName": dbus.MakeVariant(j.RequesterName),
		"Cause":         dbus.MakeVariant(j.Cause),
		"Timeout":       dbus.MakeVariant(uint64(j.Timeout.Microseconds())),
		"Created":       dbus.MakeVariant(uint64(j.Created)),
		"Started":       dbus.MakeVariant(uint64(j.Started)),
		"Finished":      dbus.MakeVariant(uint64(j.Finished)),
		"Cancelable":    dbus.MakeVariant(j.Cancelable),
	}
}

// changed are the properties that differ.
func changed(old, new map[string]dbus.Variant) map[string]dbus.Variant {
	diff := map[string]dbus.Variant{}
	for key, value := range new {
		if !reflect.DeepEqual(old[key].Value(), value.Value()) {
			diff[key] = value
		}
	}
	return diff
}

func (s *Server) getManagedObjects(*call) ([]any, error) {
	objects := map[dbus.ObjectPath]map[string]map[string]dbus.Variant{}
	for _, in := range s.daemon.Instances() {
		objects[names.InstancePath(in.Name)] = map[string]map[string]dbus.Variant{names.Instance: instanceProperties(in)}
	}
	for _, b := range s.daemon.Blueprints() {
		objects[names.BlueprintPath(b.Name)] = map[string]map[string]dbus.Variant{names.Blueprint: blueprintProperties(b)}
	}
	for _, o := range s.daemon.Overlays() {
		objects[names.OverlayPath(o.Name)] = map[string]map[string]dbus.Variant{names.Overlay: overlayProperties(o)}
	}
	for _, j := range s.daemon.LiveJobs() {
		objects[names.JobPath(j.ID)] = map[string]map[string]dbus.Variant{names.Job: jobProperties(j)}
	}
	return []any{objects}, nil
}

func (s *Server) getProperty(c *call) ([]any, error) {
	iface, name := c.args[0].(string), c.args[1].(string)
	all, err := s.propertiesOf(c, iface)
	if err != nil {
		return nil, err
	}
	value, ok := all[name]
	if !ok {
		return nil, dbusError("org.freedesktop.DBus.Error.UnknownProperty", "there is no property %q", shorten(name))
	}
	return []any{value}, nil
}

func (s *Server) getProperties(c *call) ([]any, error) {
	all, err := s.propertiesOf(c, c.args[0].(string))
	return []any{all}, err
}

// propertiesOf are those of one interface, or of all where the caller names none (the specification lets it).
func (s *Server) propertiesOf(c *call, iface string) (map[string]dbus.Variant, error) {
	all := map[string]dbus.Variant{}
	known := iface == ""
	for _, i := range s.interfaces(c.path) {
		if iface == "" || iface == i {
			known = true
			for key, value := range s.properties(c.path, i) {
				all[key] = value
			}
		}
	}
	if !known {
		return nil, dbusError("org.freedesktop.DBus.Error.UnknownInterface", "%s has no interface %q", c.path, shorten(iface))
	}
	return all, nil
}

func (s *Server) setProperty(c *call) ([]any, error) {
	if _, err := s.getProperty(c); err != nil {
		return nil, err
	}
	return nil, dbusError("org.freedesktop.DBus.Error.PropertyReadOnly", "property %s cannot be set; its interface has methods for what can be changed", c.args[1])
}

func (s *Server) introspect(c *call) ([]any, error) {
	var b strings.Builder
	b.WriteString("<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n" +
		" \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n")
	for _, iface := range s.interfaces(c.path) {
		b.WriteString(s.face.text[iface])
	}
	for _, child := range s.children(c.path) {
		b.WriteString("  <node name=\"" + child + "\"/>\n")
	}
	b.WriteString("</node>\n")
	return []any{b.String()}, nil
}

func (s *Server) children(path dbus.ObjectPath) []string {
	var children []string
	switch path {
	case "/":
		return []string{"me"}
	case "/me":
		return []string{"left4"}
	case names.Root:
		return []string{"blueprint", "instance", "job", "overlay"}
	case "/me/left4/blueprint":
		for _, b := range s.daemon.Blueprints() {
			children = append(children, names.EscapeLabel(b.Name))
		}
	case "/me/left4/instance":
		for _, in := range s.daemon.Instances() {
			children = append(children, names.EscapeLabel(in.Name))
		}
	case "/me/left4/overlay":
		for _, o := range s.daemon.Overlays() {
			children = append(children, names.EscapeLabel(o.Name))
		}
	case "/me/left4/job":
		for _, j := range s.daemon.LiveJobs() {
			children = append(children, strings.TrimPrefix(string(names.JobPath(j.ID)), "/me/left4/job/"))
		}
	}
	return children
}

func (s *Server) machineID(*call) ([]any, error) {
	id, err := os.ReadFile("/etc/machine-id")
	return []any{strings.TrimSpace(string(id))}, err
}
