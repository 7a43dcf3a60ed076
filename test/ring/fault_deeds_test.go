package ring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"left4.me/left4/dbus/names"
	"left4.me/left4/test/trace"
)

// faulty is a machine in which left4's programs are stopped in the middle of what they do, and what is asked of it.
type faulty struct {
	play
	talk
	t       *testing.T
	signals chan *dbus.Signal
	asking  *atomic.Bool // a verb has been asked for and is not answered yet
	count   *int         // makes what is written differ from what was there
	tar     string       // of the game, on the host
	older   uint32       // the revision to roll back to
	calm    map[string]int
	told    map[string]bool // violations that were told already
}

// The instance that verbs are done to, another one that they make, and one that runs beside and must not notice.
const victim, other, calm = "a", "n", "calm"

// newFaulty makes a machine with a game, an overlay, a blueprint and two instances of them.
func newFaulty(t *testing.T, m *Machine) *faulty {
	t.Helper()
	if !trace.Supported {
		t.Skip("programs are traced on amd64 only")
	}
	f := &faulty{play: play{m, t}, t: t, signals: make(chan *dbus.Signal, 64), asking: new(atomic.Bool), count: new(int), told: map[string]bool{}}
	f.install()
	f.Run(t, "tar", "-C", "/root/game", "-cf", "/root/game.tar", ".")
	f.tar = m.hostPath("/root/game.tar")
	f.layer("maps", map[string]string{"left4dead2/cfg/server.cfg": "sv_tags maps\n", "left4dead2/maps/a.bsp": "a"})
	f.wrap("/usr/sbin/left4d", "left4d")
	f.wrap("/usr/libexec/left4/left4-overlay", "overlay")
	f.wrap("/usr/libexec/left4/left4-worker", "worker")
	// It is killed more often than any real one.
	f.WriteFile(t, "/etc/systemd/system/left4d.service.d/fault.conf",
		"[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=10ms\n", 0o644)
	f.Run(t, "systemctl", "daemon-reload")
	f.Run(t, "systemctl", "restart", "left4d.service")

	conn := m.Bus(t)
	f.talk = talkTo(conn)
	conn.Signal(f.signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchInterface(names.Manager)},
		{dbus.WithMatchSender(names.Bus), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, names.Service)},
	} {
		if err := conn.AddMatchSignal(match...); err != nil {
			t.Fatalf("cannot follow left4d: %v", err)
		}
	}
	f.must("CreateBlueprint", "bp", config{"arguments": []string{"+exec", "bp.cfg"}}.pairs("overlays", "maps", "*"), config{})
	f.must("CreateInstance", calm, config{"blueprint": "bp"}, config{})
	f.must("StartInstance", calm, config{})
	f.calm = map[string]int{calm: f.pid(calm)}
	return f
}

// in is the same for a part of the test.
func (f *faulty) in(t *testing.T) *faulty {
	part := *f
	part.t, part.play.t = t, t
	return &part
}

// config is an a{sv}.
type config map[string]any

// pairs adds an a(ss) of one row.
func (c config) pairs(key, a, b string) config {
	c[key] = []struct{ A, B string }{{a, b}}
	return c
}

func (c config) variants() map[string]dbus.Variant {
	all := map[string]dbus.Variant{}
	for key, value := range c {
		if inner, ok := value.(config); ok {
			value = inner.variants()
		}
		all[key] = dbus.MakeVariant(value)
	}
	return all
}

// next is a number that was not there before.
func (f *faulty) next() int {
	*f.count++
	return *f.count
}

// outcome is what became of a verb that was asked for.
type outcome struct {
	err    error  // of the call
	job    uint32 // that it was answered with
	result string // of the job; "" = there is none, or left4d went before it was told
	gone   bool   // left4d went
}

// well tells whether the verb did what it is for.
func (o outcome) well() bool { return o.err == nil && !o.gone && (o.job == 0 || o.result == "done") }

func (o outcome) String() string {
	if o.err != nil {
		return fmt.Sprintf("refused: %v", o.err)
	}
	if o.gone {
		return "left4d went"
	}
	return fmt.Sprintf("accepted as job %d, %q", o.job, o.result)
}

// ask calls a method of the Manager and waits for the end of its job, or of left4d.
func (f *faulty) ask(method string, args ...any) (o outcome) {
	f.t.Helper()
	for i, arg := range args {
		if c, ok := arg.(config); ok {
			args[i] = c.variants()
		}
	}
	for len(f.signals) > 0 {
		<-f.signals
	}
	f.asking.Store(true)
	call := f.left4d.Call(names.Manager+"."+method, 0, args...)
	f.asking.Store(false)
	if o.err = call.Err; o.err != nil {
		var e dbus.Error
		o.gone = errors.As(o.err, &e) && e.Name == "org.freedesktop.DBus.Error.NoReply"
		return o
	}
	if len(call.Body) == 1 {
		if path, ok := call.Body[0].(dbus.ObjectPath); ok {
			o.job, _ = names.JobID(path)
		}
	}
	if o.job == 0 {
		return o
	}
	return f.awaitEnd(o, func(s *dbus.Signal) bool { return s.Body[0] == o.job })
}

// awaitEnd waits until a job's end is told, or left4d goes.
func (f *faulty) awaitEnd(o outcome, mine func(*dbus.Signal) bool) outcome {
	f.t.Helper()
	timer := time.NewTimer(eventDeadline)
	defer timer.Stop()
	for {
		select {
		case s := <-f.signals:
			switch {
			case s.Name == names.Bus+".NameOwnerChanged" && s.Body[1] != "":
				o.gone = true
				return o
			case s.Name == names.Manager+".JobRemoved" && mine(s):
				o.result = s.Body[4].(string)
				return o
			}
		case <-timer.C:
			f.t.Fatalf("job %d has no end after %s%s", o.job, eventDeadline, f.Try("left4ctl", "job", "list").Out)
		}
	}
}

// must is ask for what has to end well.
func (f *faulty) must(method string, args ...any) {
	f.t.Helper()
	if o := f.ask(method, args...); !o.well() {
		f.t.Fatalf("%s %v: %v\n%s", method, args, o, f.cause(o))
	}
}

// cause is what left4d says of a job that did not end well.
func (f *faulty) cause(o outcome) string {
	if o.err != nil {
		return o.err.Error()
	}
	rows, err := f.jobs(map[string]dbus.Variant{})
	if err != nil {
		return err.Error()
	}
	for _, row := range rows {
		if row.ID == o.job {
			return row.Cause
		}
	}
	return ""
}

// state is that of an instance, "" = there is none.
func (f *faulty) state(name string) string {
	f.t.Helper()
	rows, err := f.instances()
	if err != nil {
		f.t.Fatalf("cannot list the instances: %v", err)
	}
	for _, row := range rows {
		if row.Name == name {
			return row.State
		}
	}
	return ""
}

// The states that verbs begin in.

func (f *faulty) defined(name string) {
	if f.state(name) == "" {
		f.must("CreateInstance", name, config{}.pairs("overlays", "maps", "*"), config{})
	}
}

func (f *faulty) running(name string) {
	f.defined(name)
	f.must("StartInstance", name, config{})
}

func (f *faulty) fresh(name string) {
	f.defined(name)
	f.must("ResetInstance", name, config{})
}

func (f *faulty) absent(name string) {
	f.must("DeleteInstance", name, config{})
}

// importing asks for an import of a tar file of the host.
func (f *faulty) importing(method string, tar string, args ...any) outcome {
	f.t.Helper()
	stream, err := os.Open(tar)
	if err != nil {
		f.t.Fatal(err)
	}
	defer stream.Close()
	return f.ask(method, append(args[:len(args)-1:len(args)-1], dbus.UnixFD(stream.Fd()), args[len(args)-1])...)
}

func (f *faulty) importLayer(options config) outcome {
	f.t.Helper()
	tar := filepath.Join(f.t.TempDir(), "layer.tar")
	text := strconv.Itoa(f.next())
	if err := os.WriteFile(tar, archive(map[string]string{"left4dead2/cfg/server.cfg": "sv_tags " + text + "\n", "left4dead2/maps/b.bsp": text}), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return f.importing("ImportOverlay", tar, "maps", options)
}

// revisions are the one that an overlay is at, and an older one; 0 = there is none.
func (f *faulty) revisions(name string) (current, older uint32) {
	f.t.Helper()
	o := f.conn.Object(names.Service, names.OverlayPath(name))
	v, err := o.GetProperty(names.Overlay + ".Revision")
	if err == nil {
		current = v.Value().(uint32)
		v, err = o.GetProperty(names.Overlay + ".Revisions")
	}
	if err != nil {
		f.t.Fatalf("cannot read the revisions of %s: %v", name, err)
	}
	for _, row := range v.Value().([][]any) {
		if id := row[0].(uint32); id != current {
			older = id
		}
	}
	return current, older
}

// sound waits until nothing is at work, and fails the test where something is wrong by then.
func (f *faulty) sound(after string) {
	f.t.Helper()
	for _, text := range f.violations(nil) {
		f.t.Errorf("after %s: %s", after, text)
	}
}

// spent is without old revisions that somebody may want again: an import then always leaves as much to be removed.
func (f *faulty) spent() {
	f.t.Helper()
	f.must("UpdateOverlay", "maps", "files", config{"keep": uint32(0)}, config{})
	f.sound("collecting")
}

// spare is with an old revision that only a rollback would want.
func (f *faulty) spare() {
	f.t.Helper()
	f.must("UpdateOverlay", "maps", "files", config{"keep": uint32(1)}, config{})
	for range 2 {
		if o := f.importLayer(config{}); !o.well() {
			f.t.Fatalf("%v: %s", o, f.cause(o))
		}
	}
	f.sound("two imports")
}

// A deed is a verb, the state that it begins in, and what else may come of it when it is done again.
type deed struct {
	name  string
	ready func(*faulty)
	do    func(*faulty) outcome
	// fine are errors of a repetition that say that it is done already.
	fine []string
	// recovers tells that a left4d which comes back has something to take up.
	recovers bool
}

func call(method string, args ...any) func(*faulty) outcome {
	return func(f *faulty) outcome { return f.ask(method, slices.Clone(args)...) }
}

// deeds are the verbs.
var deeds = []deed{
	{"create", func(f *faulty) { f.absent(other) }, call("CreateInstance", other, config{"blueprint": "bp", "label": "new"}, config{}), []string{"InstanceExists"}, false},
	{"configure", func(f *faulty) { f.running(victim) }, func(f *faulty) outcome {
		n := f.next()
		return f.ask("ConfigureInstance", victim, config{"label": fmt.Sprintf("label %d", n), "limits": config{"MemoryMax": uint64(1<<30 + 4096*n)}}, config{})
	}, nil, false},
	{"take a limit away", func(f *faulty) {
		f.running(victim)
		f.must("ConfigureInstance", victim, config{"limits": config{"TasksMax": uint64(100 + f.next())}}, config{})
	}, call("ConfigureInstance", victim, config{"limits": config{}}, config{}), nil, false},
	{"initialize", func(f *faulty) { f.fresh(victim) }, call("InitializeInstance", victim, config{}, config{}), nil, true},
	{"initialize anew", func(f *faulty) { f.absent(other) }, call("InitializeInstance", other, config{"label": "new"}, config{}), nil, false},
	{"start", func(f *faulty) { f.fresh(victim) }, call("StartInstance", victim, config{}), nil, true},
	{"stop", func(f *faulty) { f.running(victim) }, call("StopInstance", victim, config{}), nil, true},
	{"restart", func(f *faulty) {
		f.running(victim)
		f.must("ConfigureInstance", victim, config{"config": []string{fmt.Sprintf("sv_tags %d", f.next())}, "hostname": fmt.Sprint("host ", *f.count)}, config{})
	}, call("RestartInstance", victim, config{}), nil, true},
	{"restart, nothing new", func(f *faulty) { f.running(victim) }, call("RestartInstance", victim, config{}), nil, false},
	{"kill", func(f *faulty) { f.running(victim) }, call("KillInstance", victim, config{}), nil, false},
	{"reset", func(f *faulty) { f.running(victim) }, call("ResetInstance", victim, config{}), nil, false},
	{"delete", func(f *faulty) { f.running(victim) }, call("DeleteInstance", victim, config{}), nil, true},
	{"clone", func(f *faulty) {
		f.absent(other)
		f.running(victim)
		f.must("StopInstance", victim, config{})
		f.defined(other)
	}, call("InitializeInstance", other, config{}, config{"files_from": victim}), []string{"InUse"}, true},
	{"import", (*faulty).spent, func(f *faulty) outcome { return f.importLayer(config{}) }, nil, true},
	{"import, merged", (*faulty).spent, func(f *faulty) outcome { return f.importLayer(config{"merge": true}) }, nil, false},
	{"import of the game", (*faulty).spent, func(f *faulty) outcome { return f.importing("ImportGame", f.tar, config{}) }, nil, false},
	{"roll back", func(f *faulty) {
		f.spare()
		_, f.older = f.revisions("maps")
	}, func(f *faulty) outcome {
		return f.ask("UpdateOverlay", "maps", "files", config{}, config{"revision": f.older})
	}, nil, false},
	{"collect", (*faulty).spare, call("UpdateOverlay", "maps", "files", config{"keep": uint32(0)}, config{}), nil, false},
	{"restart of left4d", func(f *faulty) { f.running(victim) }, func(f *faulty) (o outcome) {
		o.gone = f.Try("systemctl", "restart", "left4d.service").Code != 0
		return o
	}, nil, false},
	{"create overlay", func(f *faulty) { f.must("DeleteOverlay", "extra", config{}) }, call("CreateOverlay", "extra", "files", config{}, config{}), []string{"OverlayExists"}, false},
	{"delete overlay", func(f *faulty) {
		if o := f.ask("CreateOverlay", "extra", "files", config{}, config{}); !o.well() && !strings.Contains(o.String(), "there is such an overlay") {
			f.t.Fatalf("%v", o)
		}
	}, call("DeleteOverlay", "extra", config{}), nil, false},
	{"create blueprint", func(f *faulty) { f.must("DeleteBlueprint", "extra", config{}) }, call("CreateBlueprint", "extra", config{}, config{}), []string{"BlueprintExists"}, false},
	{"update blueprint", func(*faulty) {}, func(f *faulty) outcome {
		return f.ask("UpdateBlueprint", "bp", config{"limits": config{"MemoryMax": uint64(1<<30 + 4096*f.next())}}, config{})
	}, nil, false},
	{"delete blueprint", func(f *faulty) {
		if o := f.ask("CreateBlueprint", "extra", config{}, config{}); !o.well() && !strings.Contains(o.String(), "there is such a blueprint") {
			f.t.Fatalf("%v", o)
		}
	}, call("DeleteBlueprint", "extra", config{}), nil, false},
}

// again repeats a verb, which must end well, or was done already.
func (f *faulty) again(d deed) (wrong string) {
	f.t.Helper()
	o := d.do(f)
	if o.well() {
		return ""
	}
	var e dbus.Error
	if errors.As(o.err, &e) && slices.Contains(d.fine, strings.TrimPrefix(e.Name, names.Error)) {
		return ""
	}
	return fmt.Sprintf("done again, it is %v: %s", o, f.cause(o))
}

// onlyAsks are calls of others that change nothing.
var onlyAsks = regexp.MustCompile(`^call (Get.*|List.*|Hello|AddMatch|RemoveMatch|CheckAuthorization)$`)

// points are the calls of left4d that are numbered: what it writes, and what it tells of it. What it answers to those who
// look at it meanwhile is none of the verb's.
func (f *faulty) points(c trace.Call) bool {
	if c.Message == "" {
		return files(c)
	}
	return !onlyAsks.MatchString(c.Message) && c.Message != "bytes" && (f.asking.Load() || c.Message != "return" && !strings.HasPrefix(c.Message, "error "))
}

// files are the points that can fail. Backups of the database are made from time to time, and by no verb; they have a test of their own.
func files(c trace.Call) bool { return c.Message == "" && !strings.Contains(c.On, "/left4.db.backup") }

// traceLeft4d traces the left4d that runs.
func (f *faulty) traceLeft4d(plan trace.Plan) *trace.Tracee {
	f.t.Helper()
	var pid uint32
	err := f.conn.BusObject().Call(names.Bus+".GetConnectionUnixProcessID", 0, names.Service).Store(&pid)
	if err == nil {
		var host int
		if host, err = f.hostPID(int(pid)); err == nil {
			var tr *trace.Tracee
			if tr, err = trace.Attach(host, plan); err == nil {
				return tr
			}
		}
	}
	f.t.Fatalf("%v", err)
	return nil
}

// wrapper stands where a program of left4 was. Where the test is waiting for it, it waits for the test before it becomes that program.
const wrapper = `#!/bin/sh
dir=/run/left4-trace/%[2]s-$1
if [ -p $dir.pid ]; then
	echo $$ >>$dir.pid
	read go <$dir.go
fi
exec %[1]s.real "$@"
`

// wrap puts the wrapper in a program's place.
func (f *faulty) wrap(path, name string) {
	f.t.Helper()
	f.Run(f.t, "mv", path, path+".real")
	f.WriteFile(f.t, path, fmt.Sprintf(wrapper, path, name), 0o755)
	f.Run(f.t, "mkdir", "-p", "/run/left4-trace")
}

// An ambush waits for a program that is not there yet.
type ambush struct {
	tracee chan *trace.Tracee // of what came, before it began; closed where nothing did
	end    func()
}

// await has the next program of a name, with that first argument, traced from its beginning.
func (f *faulty) await(name, arg string, plan trace.Plan) ambush {
	f.t.Helper()
	plan.Exec = true
	base := f.hostPath("/run/left4-trace/" + name + "-" + arg)
	open := func(suffix string) *os.File {
		err := unix.Mkfifo(base+suffix, 0o666)
		if err == nil {
			err = os.Chmod(base+suffix, 0o666)
		}
		// For both, so that nobody is waited for who does not come.
		fd := -1
		if err == nil {
			fd, err = unix.Open(base+suffix, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			f.t.Fatalf("cannot wait for %s %s: %v", name, arg, err)
		}
		return os.NewFile(uintptr(fd), base+suffix)
	}
	let, come := open(".go"), open(".pid")
	a := ambush{tracee: make(chan *trace.Tracee, 1)}
	done := make(chan struct{})
	a.end = func() {
		os.Remove(base + ".pid")
		come.Close()
		<-done
		os.Remove(base + ".go")
		let.Close()
	}
	go func() {
		defer close(done)
		defer close(a.tracee)
		var pid int
		if _, err := fmt.Fscan(come, &pid); err != nil {
			return
		}
		os.Remove(base + ".pid") // only one
		host, err := f.hostPID(pid)
		var tr *trace.Tracee
		if err == nil {
			tr, err = trace.Attach(host, plan)
		}
		if err != nil {
			f.t.Errorf("cannot trace %s %s: %v", name, arg, err)
		} else {
			a.tracee <- tr
		}
		fmt.Fprintln(let)
	}()
	return a
}

// came is what came, nil where nothing did; nothing is waited for any more then.
func (a ambush) came() *trace.Tracee {
	a.end()
	return <-a.tracee
}
