package dbus

import (
	"github.com/godbus/dbus/v5"

	"left4.me/left4/daemon"
	"left4.me/left4/daemon/store"
	"left4.me/left4/dbus/names"
)

// Server hears of every change as daemon.Events and tells the bus. It is called with the daemon's lock held, so it only
// queues; and since one connection keeps its order, what is told here leaves before the reply of the call behind it.
var _ daemon.Events = (*Server)(nil)

func (s *Server) emit(path dbus.ObjectPath, iface, member string, body ...any) {
	if !s.hello.Load() {
		return
	}
	msg := &dbus.Message{Type: dbus.TypeSignal, Flags: dbus.FlagNoReplyExpected, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:      dbus.MakeVariant(path),
		dbus.FieldInterface: dbus.MakeVariant(iface),
		dbus.FieldMember:    dbus.MakeVariant(member),
	}, Body: body}
	if _, err := s.conn.send(msg); err != nil {
		s.log.Error("cannot send a signal", "signal", member, "error", err)
	}
}

func (s *Server) added(path dbus.ObjectPath, iface string, properties map[string]dbus.Variant) {
	s.emit(names.Root, names.ObjectManager, "InterfacesAdded", path, map[string]map[string]dbus.Variant{iface: properties})
}

func (s *Server) removed(path dbus.ObjectPath, iface string) {
	s.emit(names.Root, names.ObjectManager, "InterfacesRemoved", path, []string{iface})
}

func (s *Server) differ(path dbus.ObjectPath, iface string, old, new map[string]dbus.Variant) {
	if diff := changed(old, new); len(diff) > 0 {
		s.emit(path, names.Properties, "PropertiesChanged", iface, diff, []string{})
	}
}

// InstanceNew implements daemon.Events.
func (s *Server) InstanceNew(in daemon.Instance) {
	s.added(names.InstancePath(in.Name), names.Instance, instanceProperties(in))
}

// InstanceChanged implements daemon.Events.
func (s *Server) InstanceChanged(old, new daemon.Instance) {
	s.differ(names.InstancePath(new.Name), names.Instance, instanceProperties(old), instanceProperties(new))
	if old.State != new.State {
		s.emit(names.Root, names.Manager, "InstanceStateChanged", new.Name, old.State, new.State, new.Cause)
	}
}

// InstanceRemoved implements daemon.Events.
func (s *Server) InstanceRemoved(in daemon.Instance) {
	s.removed(names.InstancePath(in.Name), names.Instance)
}

// JobNew implements daemon.Events.
func (s *Server) JobNew(j daemon.Job) {
	s.added(names.JobPath(j.ID), names.Job, jobProperties(j))
	s.emit(names.Root, names.Manager, "JobNew", j.ID, names.JobPath(j.ID), j.Kind, j.Target)
}

// JobChanged implements daemon.Events.
func (s *Server) JobChanged(old, new daemon.Job) {
	s.differ(names.JobPath(new.ID), names.Job, jobProperties(old), jobProperties(new))
}

// JobEnded implements daemon.Events.
func (s *Server) JobEnded(j daemon.Job) {
	s.emit(names.Root, names.Manager, "JobRemoved", j.ID, names.JobPath(j.ID), j.Kind, j.Target, j.State)
}

// JobForgotten implements daemon.Events.
func (s *Server) JobForgotten(j daemon.Job) {
	s.removed(names.JobPath(j.ID), names.Job)
}

// BlueprintNew implements daemon.Events.
func (s *Server) BlueprintNew(b daemon.Blueprint) {
	s.added(names.BlueprintPath(b.Name), names.Blueprint, blueprintProperties(b))
}

// BlueprintChanged implements daemon.Events.
func (s *Server) BlueprintChanged(old, new daemon.Blueprint) {
	s.differ(names.BlueprintPath(new.Name), names.Blueprint, blueprintProperties(old), blueprintProperties(new))
}

// BlueprintRemoved implements daemon.Events.
func (s *Server) BlueprintRemoved(b daemon.Blueprint) {
	s.removed(names.BlueprintPath(b.Name), names.Blueprint)
}

// OverlayNew implements daemon.Events.
func (s *Server) OverlayNew(o daemon.Overlay) {
	s.added(names.OverlayPath(o.Name), names.Overlay, overlayProperties(o))
}

// OverlayChanged implements daemon.Events.
func (s *Server) OverlayChanged(old, new daemon.Overlay) {
	s.differ(names.OverlayPath(new.Name), names.Overlay, overlayProperties(old), overlayProperties(new))
}

// OverlayRemoved implements daemon.Events.
func (s *Server) OverlayRemoved(o daemon.Overlay) {
	s.removed(names.OverlayPath(o.Name), names.Overlay)
}

// GameChanged implements daemon.Events.
func (s *Server) GameChanged(current store.Revision, available string, revisions []store.Revision) {
	s.emit(names.Root, names.Properties, "PropertiesChanged", names.Manager, gameProperties(current, available, revisions), []string{})
}
