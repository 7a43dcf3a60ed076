// Package chaos is a caller that asks left4d for random verbs, over the bus as anybody may, and tells what was answered. Many of
// them at once, and a left4d that is killed meanwhile, are the test of chaos in package ring.
package chaos

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// Options are what a caller is told.
type Options struct {
	Seed   uint64
	Caller int // which one it is; the same seed and caller ask for the same verbs of the same instances
	Calls  int
	Names  []string // of the instances
	Open   int      // jobs of its own that it lets be unfinished before it asks for more
}

// Call is one call and its answer. Times are microseconds since the epoch.
type Call struct {
	Caller, N int
	Verb      string
	Name      string // the instance; of an import the overlay, of a cancel ""
	Object    bool   // asked of the object, not of the Manager
	Timeout   uint64 // of the job, in microseconds; 0 = none was given
	Label     string // what a create, configure or initialize writes; "" = it writes nothing
	Job       uint32 // the job that it was answered with, or the one that it was to cancel
	Sent      int64
	Answered  int64
	Error     string // its name, "" = accepted
	Text      string
}

// Lost tells that nobody knows whether the call was accepted: left4d went while it was there.
func (c Call) Lost() bool { return c.Error == noReply }

// MakesJob tells whether the verb is answered with a job.
func (c Call) MakesJob() bool { return methods[c.Verb].job }

const noReply = "org.freedesktop.DBus.Error.NoReply"

// deadline is when a call without an answer, or a job without an end, is an error.
const deadline = 3 * time.Minute

// method is what a verb is on the bus: of the Manager, and of the object, which has it without the name.
type method struct {
	manager, object string
	weight          int // in thousandths
	job             bool
	config          bool // takes a definition before its options
}

var methods = map[string]method{
	"start":      {"StartInstance", names.Instance + ".Start", 240, true, false},
	"stop":       {"StopInstance", names.Instance + ".Stop", 150, true, false},
	"restart":    {"RestartInstance", names.Instance + ".Restart", 150, true, false},
	"kill":       {"KillInstance", names.Instance + ".Kill", 100, true, false},
	"reset":      {"ResetInstance", names.Instance + ".Reset", 40, true, false},
	"delete":     {"DeleteInstance", names.Instance + ".Delete", 30, true, false},
	"create":     {"CreateInstance", "", 60, false, true},
	"configure":  {"ConfigureInstance", names.Instance + ".Configure", 80, false, true},
	"initialize": {"InitializeInstance", names.Instance + ".Initialize", 60, true, true},
	importVerb:   {"ImportOverlay", names.Overlay + ".Import", 5, true, false},
	"cancel":     {"CancelJob", names.Job + ".Cancel", 85, false, false},
}

// importVerb is the kind of its jobs, too.
const importVerb = "import-overlay"

var verbs = func() (verbs []string) {
	for verb := range methods {
		verbs = append(verbs, verb)
	}
	slices.Sort(verbs)
	return verbs
}()

// timeouts are some that pass before, while and after a job does its work, in microseconds.
var timeouts = []uint64{1, 1000, 5000, 20_000, 60_000, 200_000}

// wish is what chance makes of one call. All of it is drawn for every call, so that the next one does not depend on this one's verb.
type wish struct {
	call    Call
	recent  int // which of the newest jobs a cancel takes
	limits  uint64
	follows bool // a created instance follows the blueprint
	full    bool // an initialize brings a definition
}

// Blueprint and Overlay are those that there must be: some instances follow the blueprint, and it has the overlay.
const (
	Blueprint = "chaos"
	Overlay   = "extra"
)

func (o Options) next(r *rand.Rand, n int) wish {
	thousandth := r.IntN(1000)
	w := wish{call: Call{Caller: o.Caller, N: n}}
	for _, verb := range verbs {
		if thousandth -= methods[verb].weight; thousandth < 0 {
			w.call.Verb = verb
			break
		}
	}
	w.call.Name = o.Names[r.IntN(len(o.Names))]
	w.call.Object = r.IntN(3) == 0 && w.call.Verb != "create"
	if impatient := r.IntN(10) == 0; impatient && methods[w.call.Verb].job {
		w.call.Timeout = timeouts[r.IntN(len(timeouts))]
	}
	w.recent, w.follows, w.full = r.IntN(12), r.IntN(2) == 0, r.IntN(2) == 0
	if r.IntN(4) == 0 {
		w.limits = 64 + r.Uint64N(128)
	}
	if v := w.call.Verb; v == "create" || v == "configure" || v == "initialize" && w.full {
		w.call.Label = fmt.Sprintf("%d-%d", o.Caller, n)
	}
	switch w.call.Verb {
	case "cancel":
		w.call.Name = ""
	case importVerb:
		w.call.Name = Overlay
	}
	return w
}

// caller is one at work.
type caller struct {
	Options
	conn    *dbus.Conn
	signals chan *dbus.Signal
	open    map[uint32]bool // its own jobs that have not ended, as far as it knows
	ended   map[uint32]bool // jobs whose end came before the answer that names them
	recent  []uint32        // the newest jobs of all callers
	back    bool            // left4d has come back: what became of the jobs must be asked
}

// Run asks on a connection, whose signals nobody else takes, and writes each Call as a line of JSON.
func Run(ctx context.Context, conn *dbus.Conn, o Options, out io.Writer) error {
	c := &caller{Options: o, conn: conn, signals: make(chan *dbus.Signal, 64), open: map[uint32]bool{}, ended: map[uint32]bool{}}
	conn.Signal(c.signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(names.Service), dbus.WithMatchInterface(names.Manager)},
		{dbus.WithMatchSender(names.Bus), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, names.Service)},
	} {
		if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
			return fmt.Errorf("cannot follow left4d: %w", err)
		}
	}
	random := rand.New(rand.NewPCG(o.Seed, uint64(o.Caller)))
	lines := json.NewEncoder(out)
	for n := range o.Calls {
		w := o.next(random, n)
		if err := c.settle(ctx, o.Open); err != nil {
			return err
		}
		call, err := c.ask(ctx, w)
		if err == nil {
			err = lines.Encode(call)
		}
		if err != nil {
			return err
		}
	}
	return c.settle(ctx, 1)
}

// settle waits until fewer than limit jobs of its own are unfinished.
func (c *caller) settle(ctx context.Context, limit int) error {
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	for {
		for waiting := true; waiting; {
			select {
			case s := <-c.signals:
				c.hear(s)
			default:
				waiting = false
			}
		}
		if c.back {
			c.back = false
			if err := c.askOpen(ctx); err != nil {
				return err
			}
			continue
		}
		if len(c.open) < limit {
			return nil
		}
		select {
		case s := <-c.signals:
			c.hear(s)
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return fmt.Errorf("no end of jobs %v within %s", c.open, deadline)
		}
	}
}

func (c *caller) hear(s *dbus.Signal) {
	if s == nil {
		return // the bus is gone, which the next call tells
	}
	switch s.Name {
	case names.Manager + ".JobNew":
		c.recent = append(c.recent, s.Body[0].(uint32))
		c.recent = c.recent[max(0, len(c.recent)-12):]
	case names.Manager + ".JobRemoved":
		id := s.Body[0].(uint32)
		if !c.open[id] {
			c.ended[id] = true
		}
		delete(c.open, id)
	case names.Bus + ".NameOwnerChanged":
		c.back = c.back || s.Body[2] != ""
	}
}

// askOpen forgets those of its jobs that ended while nobody could tell.
func (c *caller) askOpen(ctx context.Context) error {
	for id := range c.open {
		var state dbus.Variant
		err := c.do(ctx, names.JobPath(id), names.Properties+".Get", []any{names.Job, "State"}, &state)
		var refused dbus.Error
		switch {
		case errors.As(err, &refused) && refused.Name == noReply:
			return nil // gone again: there will be another return
		case err != nil:
			return fmt.Errorf("cannot read the state of job %d: %w", id, err)
		}
		if s, _ := state.Value().(string); s != "queued" && s != "running" {
			delete(c.open, id)
		}
	}
	return nil
}

func (c *caller) do(ctx context.Context, path dbus.ObjectPath, method string, args []any, reply ...any) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	return c.conn.Object(names.Service, path).CallWithContext(ctx, method, 0, args...).Store(reply...)
}

// ask makes one call. What left4d refuses, or takes with it when it dies, is no error.
func (c *caller) ask(ctx context.Context, w wish) (Call, error) {
	call, m := w.call, methods[w.call.Verb]
	var reply []any
	var object dbus.ObjectPath
	if m.job || call.Verb == "create" {
		reply = []any{&object}
	}
	options := map[string]dbus.Variant{}
	if call.Timeout != 0 {
		options["timeout"] = dbus.MakeVariant(call.Timeout)
	}
	path, member, args, thing := names.Root, names.Manager+"."+m.manager, []any{call.Name}, names.InstancePath(call.Name)
	switch call.Verb {
	case "cancel":
		call.Job = 1 // an old one
		if len(c.recent) > 0 {
			call.Job = c.recent[w.recent%len(c.recent)]
		}
		args, thing = []any{call.Job}, names.JobPath(call.Job)
	case importVerb:
		thing = names.OverlayPath(call.Name)
	}
	if call.Object {
		path, member, args = thing, m.object, nil
	}
	switch {
	case m.config:
		args = append(args, w.config())
	case call.Verb == importVerb:
		stream, err := archive(fmt.Sprintf("of %d-%d\n", call.Caller, call.N))
		if err != nil {
			return call, err
		}
		defer stream.Close()
		args = append(args, dbus.UnixFD(stream.Fd()))
	}
	args = append(args, options)

	call.Sent = time.Now().UnixMicro()
	err := c.do(ctx, path, member, args, reply...)
	call.Answered = time.Now().UnixMicro()
	var refused dbus.Error
	switch {
	case errors.As(err, &refused):
		call.Error, call.Text = refused.Name, refused.Error()
	case err != nil:
		return call, fmt.Errorf("%s %s: %w", call.Verb, call.Name, err)
	case m.job:
		id, ok := names.JobID(object)
		if !ok {
			return call, fmt.Errorf("%s %s was answered with %s", call.Verb, call.Name, object)
		}
		call.Job = id
		if !c.ended[id] {
			c.open[id] = true
		}
		delete(c.ended, id)
	}
	return call, nil
}

// archive is the reading end of a pipe that holds a tar file with one file.
func archive(text string) (*os.File, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	files := tar.NewWriter(in) // some kilobytes, which fit the pipe
	err = files.WriteHeader(&tar.Header{Name: "left4dead2/extra.txt", Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(files, text)
	}
	if err = errors.Join(err, files.Close()); err != nil {
		out.Close()
	}
	return out, err
}

func (w wish) config() map[string]dbus.Variant {
	config := map[string]dbus.Variant{}
	if w.call.Label == "" {
		return config
	}
	config["label"] = dbus.MakeVariant(w.call.Label)
	config["config"] = dbus.MakeVariant([]string{"sv_tags " + w.call.Label})
	if w.limits != 0 {
		config["limits"] = dbus.MakeVariant(map[string]dbus.Variant{"TasksMax": dbus.MakeVariant(w.limits)})
	}
	if w.call.Verb == "create" && w.follows {
		config["blueprint"] = dbus.MakeVariant(Blueprint)
	}
	return config
}
