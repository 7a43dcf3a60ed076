package dbus

import (
	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

func (s *Server) createBlueprint(c *call) ([]any, error) {
	about, err := c.about(blueprint)
	if err != nil {
		return nil, err
	}
	wanted, err := blueprintChanges(c.args[0])
	if err != nil {
		return nil, err
	}
	if err := noOptions(c.args[1]); err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, about); err != nil {
		return nil, err
	}
	b, err := s.daemon.CreateBlueprint(about.name, wanted, c.uid)
	return []any{names.BlueprintPath(b.Name)}, err
}

func (s *Server) updateBlueprint(c *call) ([]any, error) {
	about, err := c.about(blueprint)
	if err != nil {
		return nil, err
	}
	wanted, err := blueprintChanges(c.args[0])
	if err != nil {
		return nil, err
	}
	if err := noOptions(c.args[1]); err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	b, err := s.daemon.UpdateBlueprint(about.name, wanted)
	return c.object(names.BlueprintPath(b.Name)), err
}

// object is the answer of a method that tells its object on Manager, and nothing on the object itself.
func (c *call) object(path dbus.ObjectPath) []any {
	if c.method.out == "" {
		return nil
	}
	return []any{path}
}

func (s *Server) deleteBlueprint(c *call) ([]any, error) {
	about, err := c.about(blueprint)
	if err != nil {
		return nil, err
	}
	if err := noOptions(c.args[0]); err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, about); err != nil {
		return nil, err
	}
	return nil, s.daemon.DeleteBlueprint(about.name)
}

func (s *Server) getBlueprint(c *call) ([]any, error) {
	about, err := c.about(blueprint)
	if err != nil {
		return nil, err
	}
	b, err := s.daemon.Blueprint(about.name)
	return []any{names.BlueprintPath(b.Name)}, err
}

// object is a (so).
type object struct {
	Name   string
	Object dbus.ObjectPath
}

func (s *Server) listBlueprints(c *call) ([]any, error) {
	d := newDict("filter", c.args[0])
	name := take[string](d, "name", "s")
	if err := d.end(); err != nil {
		return nil, err
	}
	rows := []object{}
	for _, b := range s.daemon.Blueprints() {
		if selected(name, b.Name) {
			rows = append(rows, object{b.Name, names.BlueprintPath(b.Name)})
		}
	}
	return []any{rows}, nil
}

func (s *Server) getBlueprintConfig(c *call) ([]any, error) {
	about, err := c.about(blueprint)
	if err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	b, err := s.daemon.Blueprint(about.name)
	return []any{blueprintConfig(b.Blueprint)}, err
}
