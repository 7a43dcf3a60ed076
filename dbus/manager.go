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

// instance takes the name of the instance that a call is about: the first argument on Manager, the object on Instance.
func (c *call) instance() (name string, err error) {
	if c.method.iface == names.Instance {
		name, _ = names.InstanceName(c.path)
	} else {
		name, _ = c.args[0].(string)
		c.args = c.args[1:]
	}
	return name, daemon.CheckName(name)
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
	name, err := c.instance()
	if err != nil {
		return nil, err
	}
	r, err := c.request(c.args[0])
	if err != nil {
		return nil, err
	}
	// Who mistyped a name is told so, and not asked for a password first; names are open to all.
	if _, err := s.daemon.Instance(name); err != nil && c.method.action != action+"instance.delete" {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, name); err != nil {
		return nil, err
	}
	return jobReply(verbs[c.method.name](s.daemon, name, r))
}

func (s *Server) createInstance(c *call) ([]any, error) {
	name, err := c.instance()
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
	if err := s.authorize(c, c.method.action, name); err != nil {
		return nil, err
	}
	in, err := s.daemon.CreateInstance(name, wanted, c.uid)
	return []any{names.InstancePath(in.Name)}, err
}

func (s *Server) initializeInstance(c *call) ([]any, error) {
	name, err := c.instance()
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
	r, err := c.request(c.args[1])
	if err != nil {
		return nil, err
	}
	_, err = s.daemon.Instance(name)
	fresh := err != nil
	if fresh && wanted == nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, name); err != nil {
		return nil, err
	}
	if wanted != nil {
		second := action + "instance.configure"
		if fresh {
			second = action + "instance.create"
		}
		if err := s.authorize(c, second, name); err != nil {
			return nil, err
		}
	}
	return jobReply(s.daemon.InitializeInstance(name, wanted, fresh, r))
}

func (s *Server) configureInstance(c *call) ([]any, error) {
	name, err := c.instance()
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
	if _, err := s.daemon.Instance(name); err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, name); err != nil {
		return nil, err
	}
	return nil, s.daemon.ConfigureInstance(name, wanted)
}

func (s *Server) getInstance(c *call) ([]any, error) {
	name, err := c.instance()
	if err != nil {
		return nil, err
	}
	in, err := s.daemon.Instance(name)
	return []any{names.InstancePath(in.Name)}, err
}

func (s *Server) listInstances(c *call) ([]any, error) {
	d := newDict("filter", c.args[0])
	name, state := take[string](d, "name", "s"), take[string](d, "state", "s")
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
		if name != nil && *name != in.Name || state != nil && *state != in.State {
			continue
		}
		rows = append(rows, row{in.Name, in.Label, in.State, in.Desired, in.Cause, "", in.Port, names.InstancePath(in.Name)})
	}
	return []any{rows}, nil
}

func (s *Server) getConfig(c *call) ([]any, error) {
	name, err := c.instance()
	if err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, name); err != nil {
		return nil, err
	}
	in, err := s.daemon.Instance(name)
	return []any{config(in.Instance)}, err
}

func (s *Server) getServerConfig(c *call) ([]any, error) {
	name, err := c.instance()
	if err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, name); err != nil {
		return nil, err
	}
	text, err := s.daemon.ServerConfig(name)
	return []any{text}, err
}

func (s *Server) importGame(c *call) ([]any, error) {
	d := newDict("option", c.args[1])
	size := take[uint64](d, "size", "t")
	r := daemon.Request{Requester: c.uid, Timeout: d.timeout()}
	if err := d.end(); err != nil {
		return nil, err
	}
	// Only a descriptor that came with this message is one: a number alone could name any of left4d's own.
	fd, ok := c.args[0].(dbus.UnixFD)
	if !ok || len(c.fds) != 1 || c.fds[0] != int(fd) {
		return nil, &daemon.Error{Code: daemon.InvalidArgument, Message: "the stream must come as exactly one file descriptor"}
	}
	if err := s.authorize(c, c.method.action, ""); err != nil {
		return nil, err
	}
	c.fds = nil
	if size == nil {
		size = new(uint64)
	}
	return jobReply(s.daemon.ImportGame(os.NewFile(uintptr(fd), "stream"), *size, r))
}

// job takes the id of the job that a call is about.
func (c *call) job() uint32 {
	if c.method.iface == names.Job {
		id, _ := names.JobID(c.path)
		return id
	}
	id, _ := c.args[0].(uint32)
	c.args = c.args[1:]
	return id
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
	f := store.JobFilter{Target: text("target"), Kind: text("kind"), State: text("state"), Limit: 100}
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
	if c.uid != j.Requester {
		target := j.Target
		if j.Kind == "import-game" {
			target = "" // the game is no instance, and one may be called so
		}
		if err := s.authorize(c, c.method.action, target); err != nil {
			return nil, err
		}
	}
	return nil, s.daemon.CancelJob(id, c.uid)
}
