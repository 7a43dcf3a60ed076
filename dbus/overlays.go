package dbus

import (
	"time"

	"left4.me/left4/daemon"
	"left4.me/left4/dbus/names"
)

// scriptAction is asked for instead of a method's own where it gives an overlay a script, or runs one: that is code of the caller's.
const scriptAction = action + "overlay.script"

func (s *Server) createOverlay(c *call) ([]any, error) {
	about, err := c.about(overlay)
	if err != nil {
		return nil, err
	}
	kind := c.args[0].(string)
	wanted, err := overlayChanges(c.args[1])
	if err == nil {
		err = wanted.Check(kind)
	}
	if err != nil {
		return nil, err
	}
	if err := noOptions(c.args[2]); err != nil {
		return nil, err
	}
	asked := c.method.action
	if kind == daemon.ScriptType {
		asked = scriptAction
	}
	if err := s.authorize(c, asked, about); err != nil {
		return nil, err
	}
	o, err := s.daemon.CreateOverlay(about.name, kind, wanted, c.uid)
	return []any{names.OverlayPath(o.Name)}, err
}

func (s *Server) updateOverlay(c *call) ([]any, error) {
	about, err := c.about(overlay)
	if err != nil {
		return nil, err
	}
	kind := ""
	if c.method.iface == names.Manager {
		kind, c.args = c.args[0].(string), c.args[1:]
	}
	wanted, err := overlayChanges(c.args[0])
	if err == nil {
		err = wanted.Check(kind)
	}
	if err != nil {
		return nil, err
	}
	d := newDict("option", c.args[1])
	revision := take[uint32](d, "revision", "u")
	if err := d.end(); err != nil {
		return nil, err
	}
	if _, err := s.identify(about); err != nil {
		return nil, err
	}
	asked := c.method.action
	if wanted.Script != nil {
		asked = scriptAction
	}
	if err := s.authorize(c, asked, about); err != nil {
		return nil, err
	}
	o, err := s.daemon.UpdateOverlay(about.name, kind, wanted, revision)
	return c.object(names.OverlayPath(o.Name)), err
}

func (s *Server) importOverlay(c *call) ([]any, error) {
	about, err := c.about(overlay)
	if err != nil {
		return nil, err
	}
	im, r, err := importOptions(newDict("option", c.args[1]), c.uid)
	if err != nil {
		return nil, err
	}
	if err := c.checkStream(c.args[0]); err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	return jobReply(s.daemon.ImportOverlay(about.name, c.stream(), im, r))
}

func importOptions(d *dict, requester uint32) (daemon.Import, daemon.Request, error) {
	im := daemon.Import{Size: value(take[uint64](d, "size", "t"))}
	im.Merge = value(take[bool](d, "merge", "b"))
	im.Remove = value(take[[]string](d, "remove", "as"))
	im.Base = value(take[uint32](d, "base", "u"))
	im.Into = value(take[string](d, "into", "s"))
	im.File = value(take[string](d, "filename", "s"))
	r := daemon.Request{Requester: requester, Timeout: d.timeout()}
	if err := d.end(); err != nil {
		return im, r, err
	}
	return im, r, im.Check()
}

// overlayVerb builds or deletes.
func (s *Server) overlayVerb(c *call) ([]any, error) {
	about, err := c.about(overlay)
	if err != nil {
		return nil, err
	}
	d := newDict("option", c.args[0])
	r := daemon.Request{Requester: c.uid, Timeout: d.timeout()}
	deletes := c.method.action == action+"overlay.delete"
	onTop := !deletes && value(take[bool](d, "on_top", "b"))
	if err := d.end(); err != nil {
		return nil, err
	}
	if deletes {
		if err := s.authorize(c, c.method.action, about); err != nil {
			return nil, err
		}
		return jobReply(s.daemon.DeleteOverlay(about.name, r))
	}
	o, err := s.daemon.Overlay(about.name)
	if err != nil {
		return nil, err
	}
	asked := c.method.action
	if o.Type == daemon.ScriptType {
		asked = scriptAction
	}
	if err := s.authorize(c, asked, about); err != nil {
		return nil, err
	}
	if onTop {
		return jobReply(s.daemon.BuildOverlayOnTop(about.name, r))
	}
	return jobReply(s.daemon.BuildOverlay(about.name, r))
}

func (s *Server) getOverlay(c *call) ([]any, error) {
	about, err := c.about(overlay)
	if err != nil {
		return nil, err
	}
	o, err := s.daemon.Overlay(about.name)
	return []any{names.OverlayPath(o.Name)}, err
}

func (s *Server) listOverlays(c *call) ([]any, error) {
	d := newDict("filter", c.args[0])
	name, kind := take[string](d, "name", "s"), take[string](d, "type", "s")
	if err := d.end(); err != nil {
		return nil, err
	}
	rows := []object{}
	for _, o := range s.daemon.Overlays() {
		if selected(name, o.Name) && selected(kind, o.Type) {
			rows = append(rows, object{o.Name, names.OverlayPath(o.Name)})
		}
	}
	return []any{rows}, nil
}

func (s *Server) getOverlayConfig(c *call) ([]any, error) {
	about, err := c.about(overlay)
	if err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	o, err := s.daemon.Overlay(about.name)
	return []any{overlayConfig(o.Config.V)}, err
}

func (s *Server) listItems(c *call) ([]any, error) {
	about, err := c.about(overlay)
	if err != nil {
		return nil, err
	}
	d := newDict("option", c.args[0])
	revision := value(take[uint32](d, "revision", "u"))
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	items, err := s.daemon.WorkshopItems(about.name, revision)
	type row struct {
		ID, Title, File, State, Cause string
		Bytes, Updated                uint64
	}
	rows := []row{}
	for _, i := range items {
		rows = append(rows, row{i.ID, i.Title, i.File, i.State(), i.Cause, i.Bytes, uint64(time.Unix(i.Updated, 0).UnixMicro())})
	}
	return []any{rows}, err
}
