package dbus

import (
	"os"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/daemon"
	"left4.me/left4/daemon/store"
	"left4.me/left4/dbus/names"
)

// verbs are the lifecycle methods of both interfaces that need nothing but a name and options.
var verbs = map[string]func(*daemon.Daemon, string, daemon.Request) (daemon.Job, error){
	"StartInstance": (*daemon.Daemon).StartInstance, "Start": (*daemon.Daemon).StartInstance,
	"StopInstance": (*daemon.Daemon).StopInstance, "Stop": (*daemon.Daemon).StopInstance,
	"RestartInstance": (*daemon.Daemon).RestartInstance, "Restart": (*daemon.Daemon).RestartInstance,
	"KillInstance": (*daemon.Daemon).KillInstance, "Kill": (*daemon.Daemon).KillInstance,
	"ResetInstance": (*daemon.Daemon).ResetInstance, "Reset": (*daemon.Daemon).ResetInstance,
	"DeleteInstance": (*daemon.Daemon).DeleteInstance, "Delete": (*daemon.Daemon).DeleteInstance,
}

// about takes what a call is about: the first argument on Manager, the object on the others.
func (c *call) about(kind string) (thing, error) {
	about, err := c.aboutWhat(kind)
	if err == nil {
		c.subject = about
	}
	return about, err
}

func (c *call) aboutWhat(kind string) (thing, error) {
	about := thing{kind: kind}
	if c.method.iface == names.Manager {
		about.name, _ = c.args[0].(string)
		c.args = c.args[1:]
		return about, daemon.CheckName(about.name)
	}
	for _, k := range kinds {
		if k.kind == kind {
			about.name, _ = k.name(c.path)
		}
	}
	return about, daemon.CheckName(about.name)
}

// may takes what a call about something that there is is about, and asks whether the caller may. Who mistyped a name is
// told so, and not asked for a password first; names are open to all.
func (s *Server) may(c *call, about thing) error {
	if _, err := s.identify(about); err != nil {
		return err
	}
	return s.authorize(c, c.method.action, about)
}

// request reads the options of a method that makes a job.
func (c *call) request(options any) (daemon.Request, error) {
	d := newDict("option", options)
	r := daemon.Request{Requester: c.uid, Timeout: d.timeout()}
	return r, d.end()
}

func noOptions(options any) error { return newDict("option", options).end() }

func jobReply(j daemon.Job, err error) ([]any, error) {
	return []any{names.JobPath(j.ID)}, err
}

func (s *Server) verb(c *call) ([]any, error) {
	about, err := c.about(instance)
	if err != nil {
		return nil, err
	}
	r, err := c.request(c.args[0])
	if err != nil {
		return nil, err
	}
	ask := s.may
	if c.method.action == action+"instance.delete" {
		ask = func(c *call, about thing) error { return s.authorize(c, c.method.action, about) }
	}
	if err := ask(c, about); err != nil {
		return nil, err
	}
	return jobReply(verbs[c.method.name](s.daemon, about.name, r))
}

func (s *Server) createInstance(c *call) ([]any, error) {
	about, err := c.about(instance)
	if err != nil {
		return nil, err
	}
	wanted, err := changes(c.args[0])
	if err != nil {
		return nil, err
	}
	if err := noOptions(c.args[1]); err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, about); err != nil {
		return nil, err
	}
	in, err := s.daemon.CreateInstance(about.name, wanted, c.uid)
	return []any{names.InstancePath(in.Name)}, err
}

func (s *Server) initializeInstance(c *call) ([]any, error) {
	about, err := c.about(instance)
	if err != nil {
		return nil, err
	}
	var wanted *daemon.Changes
	if given := c.args[0].(map[string]dbus.Variant); len(given) > 0 {
		w, err := changes(given)
		if err != nil {
			return nil, err
		}
		wanted = &w
	}
	d := newDict("option", c.args[1])
	r := daemon.Request{Requester: c.uid, Timeout: d.timeout()}
	source := thing{instance, value(take[string](d, "files_from", "s"))}
	if err := d.end(); err != nil {
		return nil, err
	}
	_, err = s.daemon.Instance(about.name)
	fresh := err != nil
	if fresh && wanted == nil {
		return nil, err
	}
	var copied identity
	if source.name != "" {
		if copied, err = s.identify(source); err != nil {
			return nil, err
		}
		// Its files may hold secrets.
		if err := s.authorize(c, action+"instance.inspect", source); err != nil {
			return nil, err
		}
	}
	if err := s.authorize(c, c.method.action, about); err != nil {
		return nil, err
	}
	if wanted != nil {
		second := action + "instance.configure"
		if fresh {
			second = action + "instance.create"
		}
		if err := s.authorize(c, second, about); err != nil {
			return nil, err
		}
	}
	// It could go while permission for the other was asked.
	if source.name != "" {
		if now, _ := s.identify(source); now != copied {
			return nil, changedMeanwhile(source)
		}
	}
	return jobReply(s.daemon.InitializeInstance(about.name, wanted, fresh, source.name, r))
}

func (s *Server) configureInstance(c *call) ([]any, error) {
	about, err := c.about(instance)
	if err != nil {
		return nil, err
	}
	wanted, err := changes(c.args[0])
	if err != nil {
		return nil, err
	}
	d := newDict("option", c.args[1])
	if fresh := take[bool](d, "new_rcon_password", "b"); fresh != nil {
		wanted.NewPassword = *fresh
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	return nil, s.daemon.ConfigureInstance(about.name, wanted)
}

func (s *Server) getInstance(c *call) ([]any, error) {
	about, err := c.about(instance)
	if err != nil {
		return nil, err
	}
	in, err := s.daemon.Instance(about.name)
	return []any{names.InstancePath(in.Name)}, err
}

func (s *Server) listInstances(c *call) ([]any, error) {
	d := newDict("filter", c.args[0])
	name, state, follows := take[string](d, "name", "s"), take[string](d, "state", "s"), take[string](d, "blueprint", "s")
	if err := d.end(); err != nil {
		return nil, err
	}
	type row struct {
		Name, Label, State, Desired, Cause, Blueprint string
		Port                                          uint16
		Object                                        dbus.ObjectPath
	}
	rows := []row{}
	for _, in := range s.daemon.Instances() {
		if !selected(name, in.Name) || !selected(state, in.State) || !selected(follows, in.Blueprint) {
			continue
		}
		rows = append(rows, row{in.Name, in.Label, in.State, in.Desired, in.Cause, in.Blueprint, in.Port, names.InstancePath(in.Name)})
	}
	return []any{rows}, nil
}

// selected tells whether a filter, if it is given, lets a value through.
func selected(filter *string, value string) bool { return filter == nil || *filter == value }

func (s *Server) getConfig(c *call) ([]any, error) {
	about, err := c.about(instance)
	if err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	in, err := s.daemon.Instance(about.name)
	return []any{config(in.Instance)}, err
}

func (s *Server) getServerConfig(c *call) ([]any, error) {
	about, err := c.about(instance)
	if err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	text, err := s.daemon.ServerConfig(about.name)
	return []any{text}, err
}

func (s *Server) importGame(c *call) ([]any, error) {
	d := newDict("option", c.args[1])
	size := take[uint64](d, "size", "t")
	r := daemon.Request{Requester: c.uid, Timeout: d.timeout()}
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := c.checkStream(c.args[0]); err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, thing{}); err != nil {
		return nil, err
	}
	return jobReply(s.daemon.ImportGame(c.stream(), value(size), r))
}

func (s *Server) installGame(c *call) ([]any, error) {
	d := newDict("option", c.args[0])
	mode := take[string](d, "mode", "s")
	r := daemon.Request{Requester: c.uid, Timeout: d.timeout()}
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, thing{}); err != nil {
		return nil, err
	}
	return jobReply(s.daemon.InstallGame(value(mode), r))
}

// checkStream tells whether an argument is a descriptor that came with this message: a number alone could name any of
// left4d's own.
func (c *call) checkStream(arg any) error {
	fd, ok := arg.(dbus.UnixFD)
	if !ok || len(c.fds) != 1 || c.fds[0] != int(fd) {
		return &daemon.Error{Code: daemon.InvalidArgument, Message: "the stream must come as exactly one file descriptor"}
	}
	return nil
}

// stream takes the descriptor that checkStream has found good out of the call.
func (c *call) stream() *os.File {
	fd := c.fds[0]
	c.fds = nil
	return os.NewFile(uintptr(fd), "stream")
}

func (s *Server) setGameRevision(c *call) ([]any, error) {
	if err := noOptions(c.args[1]); err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, thing{}); err != nil {
		return nil, err
	}
	return nil, s.daemon.SetGameRevision(c.args[0].(uint32))
}

func (s *Server) getSecret(c *call) ([]any, error) {
	about, err := c.about(instance)
	if err != nil {
		return nil, err
	}
	if err := s.may(c, about); err != nil {
		return nil, err
	}
	secret, err := s.daemon.Secret(about.name, c.args[0].(string))
	return []any{secret}, err
}

// job takes the id of the job that a call is about.
func (c *call) job() uint32 {
	if c.method.iface == names.Job {
		c.jobID, _ = names.JobID(c.path)
		return c.jobID
	}
	c.jobID, _ = c.args[0].(uint32)
	c.args = c.args[1:]
	return c.jobID
}

func (s *Server) getJob(c *call) ([]any, error) {
	j, err := s.daemon.Job(c.job())
	return jobReply(j, err)
}

func (s *Server) listJobs(c *call) ([]any, error) {
	d := newDict("filter", c.args[0])
	text := func(key string) string {
		if v := take[string](d, key, "s"); v != nil {
			return *v
		}
		return ""
	}
	f := store.JobFilter{
		Target: text("target"), Kind: text("kind"), State: text("state"), Requester: take[uint32](d, "requester", "u"), Limit: 100,
	}
	if limit := take[uint32](d, "limit", "u"); limit != nil {
		f.Limit = min(*limit, 10_000)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	jobs, err := s.daemon.Jobs(f)
	type row struct {
		ID                         uint32
		Kind, Target, State, Cause string
		Object                     dbus.ObjectPath
	}
	rows := make([]row, len(jobs))
	for i, j := range jobs {
		rows[i] = row{j.ID, j.Kind, j.Target, j.State, j.Cause, names.JobPath(j.ID)}
	}
	return []any{rows}, err
}

func (s *Server) cancelJob(c *call) ([]any, error) {
	id := c.job()
	if err := noOptions(c.args[0]); err != nil {
		return nil, err
	}
	j, err := s.daemon.Job(id)
	if err != nil {
		return nil, err
	}
	kind, name := j.About()
	c.subject = thing{kind, name}
	if c.uid != j.Requester {
		if err := s.authorize(c, c.method.action, thing{kind, name}); err != nil {
			return nil, err
		}
	}
	return nil, s.daemon.CancelJob(id, c.uid)
}
