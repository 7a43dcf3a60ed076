package dbus

import (
	"context"
	"errors"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/daemon"
	"left4.me/left4/dbus/names"
)

// maxWalks is how many calls of one user may look through files at once.
const maxWalks = 4

// walk lets fn look through files for the caller.
func (s *Server) walk(c *call, fn func(context.Context) error) error {
	if !s.walks.take(c.uid) {
		return dbusError(errLimits, "too many calls of yours look through files; wait for answers")
	}
	defer s.walks.give(c.uid)
	return fn(c.ctx)
}

func (s *Server) findFile(c *call) ([]any, error) {
	about, err := c.about(instance)
	if err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	layers := []pair{}
	err = s.walk(c, func(ctx context.Context) error {
		found, err := s.daemon.FindFile(ctx, about.name, c.args[0].(string))
		for _, f := range found {
			layers = append(layers, pair{f.Layer, f.Kind})
		}
		return err
	})
	return []any{layers}, err
}

func (s *Server) listChanges(c *call) ([]any, error) {
	about, err := c.about(instance)
	if err != nil {
		return nil, err
	}
	if err := noOptions(c.args[0]); err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	type row struct {
		Path, Change string
		Size         uint64
	}
	rows, more := []row{}, false
	err = s.walk(c, func(ctx context.Context) error {
		all, m, err := s.daemon.ListChanges(ctx, about.name)
		for _, change := range all {
			rows = append(rows, row{change.Path, change.Change, change.Size})
		}
		more = m
		return err
	})
	return []any{rows, more}, err
}

// listConflicts is for instances and blueprints.
func (s *Server) listConflicts(c *call) ([]any, error) {
	kind, list := instance, s.daemon.InstanceConflicts
	if c.method.iface == names.Blueprint {
		kind, list = blueprint, s.daemon.BlueprintConflicts
	}
	about, err := c.about(kind)
	if err != nil {
		return nil, err
	}
	if err := noOptions(c.args[0]); err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	type row struct {
		Path     string
		Overlays []string
	}
	rows, more := []row{}, false
	err = s.walk(c, func(ctx context.Context) error {
		all, m, err := list(ctx, about.name)
		for _, conflict := range all {
			rows = append(rows, row{conflict.Path, conflict.Overlays})
		}
		more = m
		return err
	})
	return []any{rows, more}, err
}

// listMaps is for instances and overlays.
func (s *Server) listMaps(c *call) ([]any, error) {
	kind := instance
	if c.method.iface == names.Overlay {
		kind = overlay
	}
	about, err := c.about(kind)
	if err != nil {
		return nil, err
	}
	d := newDict("option", c.args[0])
	list := s.daemon.InstanceMaps
	if kind == overlay {
		revision := value(take[uint32](d, "revision", "u"))
		list = func(ctx context.Context, name string) (daemon.Maps, error) {
			return s.daemon.OverlayMaps(ctx, name, revision)
		}
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	var found daemon.Maps
	err = s.walk(c, func(ctx context.Context) (err error) {
		found, err = list(ctx, about.name)
		return err
	})
	return []any{found.Maps, found.Unread, found.More}, err
}

// file takes a path of an overlay's file and the revision that it is wanted of, 0 = the current one, and asks whether
// the caller may.
func (s *Server) file(c *call) (about thing, path string, revision uint32, err error) {
	about, err = c.about(overlay)
	if err != nil {
		return about, "", 0, err
	}
	d := newDict("option", c.args[1])
	revision = value(take[uint32](d, "revision", "u"))
	if err := d.end(); err != nil {
		return about, "", 0, err
	}
	return about, c.args[0].(string), revision, s.may(c, about)
}

func (s *Server) listFiles(c *call) ([]any, error) {
	about, path, revision, err := s.file(c)
	if err != nil {
		return nil, err
	}
	type row struct {
		Name, Kind     string
		Size, Modified uint64
	}
	rows, more := []row{}, false
	err = s.walk(c, func(ctx context.Context) error {
		all, m, err := s.daemon.ListFiles(ctx, about.name, path, revision)
		for _, e := range all {
			rows = append(rows, row{e.Name, e.Kind, e.Size, uint64(max(e.Modified, 0))})
		}
		more = m
		return err
	})
	return []any{rows, more}, err
}

func (s *Server) openFile(c *call) ([]any, error) {
	about, path, revision, err := s.file(c)
	if err != nil {
		return nil, err
	}
	if err := s.passable(c); err != nil {
		return nil, err
	}
	file, err := s.daemon.OpenFile(about.name, path, revision)
	if err != nil {
		return nil, err
	}
	return []any{file}, nil
}

// Descriptors that may wait in the bus until callers read them. dbus-daemon reads nothing more of left4d as soon as 64
// of its descriptors wait, so that one caller who reads nothing could take left4d off the bus.
const (
	maxPassing       = 32
	maxCallerPassing = 4
	stats            = "org.freedesktop.DBus.Debug.Stats"
)

// passable takes the turn to answer with a descriptor, and asks the bus whether it has room for one more.
func (s *Server) passable(c *call) error {
	select {
	case s.passing <- struct{}{}:
		c.passing = s.passing
	case <-c.ctx.Done():
		return dbusError(names.ErrAccessDenied, "the caller has gone")
	}
	for _, q := range []struct {
		name, key string
		limit     uint32
	}{{c.sender, "OutgoingFDs", maxCallerPassing}, {s.conn.name, "IncomingFDs", maxPassing}} {
		reply, err := s.conn.callBus(c.ctx, stats, "GetConnectionStats", q.name)
		if refused := (dbus.Error{}); errors.As(err, &refused) {
			return nil // a bus without these figures, as dbus-broker is, counts them for who does not read
		}
		if err != nil {
			return err
		}
		figures, _ := reply[0].(map[string]dbus.Variant)
		if n, _ := figures[q.key].Value().(uint32); n >= q.limit {
			return dbusError(errLimits, "too many descriptors wait in the bus to be read; try again")
		}
	}
	return nil
}
