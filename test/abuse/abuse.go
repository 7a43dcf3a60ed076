package abuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// Options are what an attack is told.
type Options struct {
	Socket      string
	Instance    string // one that there is, and runs
	Overlay     string // one that there is
	File        string // of the overlay
	Connections int
	Count       int           // of calls; 0 = until ctx ends
	Seed        uint64        // of what is drawn by chance
	Operator    bool          // nothing is asked for that would be done to what is not of the scratch name space
	Most        time.Duration // that Latency takes
	Ready       func()        // called when the attack is under way
}

// Tally is what came of an attack.
type Tally struct {
	Sent    int            `json:"sent"`
	Answers map[string]int `json:"answers"` // by the name of the error, "" = none
	Faults  []string       `json:"faults"`  // what left4d must not have answered
	Lost    int            `json:"lost"`    // connections that the bus closed
	Refused int            `json:"refused"` // connections that the bus did not take
	Jobs    int            `json:"jobs"`    // that were begun
}

// attack is one under way.
type attack struct {
	Options
	mu    sync.Mutex
	tally Tally
	begun sync.Once
}

// Attacks are all there are, by name.
var Attacks = map[string]func(*attack, context.Context) error{
	"flood":       (*attack).flood,
	"storm":       (*attack).storm,
	"permissions": (*attack).permissions,
	"prompts":     (*attack).prompts,
	"deaf":        (*attack).deaf,
	"deaf-files":  (*attack).deafFiles,
	"forge":       (*attack).forge,
	"large":       (*attack).large,
	"crowd":       (*attack).crowd,
	"rules":       (*attack).rules,
	"vanish":      (*attack).vanish,
	"fuzz":        (*attack).fuzz,
	"descriptors": (*attack).descriptors,
}

// Once are those that end when they are through; the others begin again until they are ended.
var Once = map[string]bool{"fuzz": true, "descriptors": true, "large": true}

// Run attacks until it is through, or ctx ends.
func Run(ctx context.Context, name string, o Options) (Tally, error) {
	do, ok := Attacks[name]
	if !ok {
		return Tally{}, fmt.Errorf("there is no attack %q", name)
	}
	a := &attack{Options: o, tally: Tally{Answers: map[string]int{}, Faults: []string{}}}
	err := do(a, ctx)
	for err == nil && ctx.Err() == nil && !Once[name] {
		err = do(a, ctx)
	}
	if ctx.Err() != nil {
		err = nil
	}
	a.ready()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tally, err
}

func (a *attack) ready() { a.begun.Do(a.Ready) }

func (a *attack) sent(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tally.Sent += n
}

func (a *attack) answered(r *Reply) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tally.Answers[r.Error]++
}

// fault notes what must not be; the first hundred tell enough.
func (a *attack) fault(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tally.Faults) < 100 {
		a.tally.Faults = append(a.tally.Faults, fmt.Sprintf(format, args...))
	}
}

// dial makes a connection that ends with ctx.
func (a *attack) dial(ctx context.Context) (*Bus, func(), error) {
	b, err := Dial(a.Socket)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { b.Close() })
	return b, func() { stop(); b.Close() }, nil
}

// each has every connection do the same at once.
func (a *attack) each(ctx context.Context, do func(n int, b *Bus) error) error {
	errs := make(chan error, a.Connections)
	for n := range a.Connections {
		b, done, err := a.dial(ctx)
		if err != nil {
			return err
		}
		defer done()
		go func() { errs <- do(n, b) }()
	}
	var all []error
	for range a.Connections {
		err := <-errs
		if err != nil && ctx.Err() == nil {
			a.mu.Lock()
			a.tally.Lost++
			a.mu.Unlock()
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// batch are several messages that are written at once, again and again.
type batch struct {
	raw    []byte
	starts []int
}

func newBatch(messages ...Message) (b batch) {
	for _, m := range messages {
		b.starts = append(b.starts, len(b.raw))
		b.raw = append(b.raw, m.Raw()...)
	}
	return b
}

func (b *batch) send(bus *Bus) error {
	for _, start := range b.starts {
		bus.number(b.raw[start:])
	}
	_, err := bus.Write(b.raw)
	return err
}

// flood makes changing calls without reply, as fast as the bus takes them.
func (a *attack) flood(ctx context.Context) error {
	return a.each(ctx, func(_ int, b *Bus) error {
		stop := manager("StopInstance", a.Instance, map[string]dbus.Variant{})
		stop.Flags = dbus.FlagNoReplyExpected
		var calls []Message
		for range 50 {
			calls = append(calls, stop)
		}
		many := newBatch(calls...)
		for n := 0; a.Count == 0 || n < a.Count/a.Connections; n += len(calls) {
			if err := many.send(b); err != nil {
				return err
			}
			a.sent(len(calls))
			if n >= 1000 {
				a.ready()
			}
		}
		// When this is answered, left4d has had all before it.
		r, err := b.Call(left4d(names.Root, names.Peer, "Ping"))
		if err == nil {
			a.answered(r)
		}
		return err
	})
}

// window is how many answers a connection waits for at once: the bus lets it wait for 128.
const window = 100

// ask keeps a window of calls open on each connection and reads what comes.
func (a *attack) ask(ctx context.Context, next func(n int) Message) error {
	return a.each(ctx, func(c int, b *Bus) error {
		open, n := 0, c
		for {
			for ; open < window && (a.Count == 0 || n < a.Count); n += a.Connections {
				if _, err := b.Send(next(n).Raw()); err != nil {
					return err
				}
				open++
				a.sent(1)
			}
			if open == 0 {
				return nil
			}
			r, err := b.Read()
			if err != nil {
				return err
			}
			if r.To != 0 {
				open--
				a.answered(r)
				a.ready()
			}
		}
	})
}

// storm asks for the largest answers there are.
func (a *attack) storm(ctx context.Context) error {
	none := map[string]dbus.Variant{}
	calls := []Message{
		left4d(names.Root, names.ObjectManager, "GetManagedObjects"),
		left4d(names.Root, names.Introspectable, "Introspect"),
		left4d("/me/left4/instance", names.Introspectable, "Introspect"),
		left4d(names.InstancePath(a.Instance), names.Introspectable, "Introspect"),
		left4d(names.InstancePath(a.Instance), names.Properties, "GetAll", ""),
		manager("ListInstances", none),
		manager("ListJobs", map[string]dbus.Variant{"limit": dbus.MakeVariant(^uint32(0))}),
		manager("ListJobs", map[string]dbus.Variant{"target": dbus.MakeVariant("%' OR 1=1 --"), "limit": dbus.MakeVariant(^uint32(0))}),
	}
	return a.ask(ctx, func(n int) Message { return calls[n%len(calls)] })
}

// permissions has left4d ask polkit for everything that there is to ask, all the time.
func (a *attack) permissions(ctx context.Context) error {
	get := manager("GetPermissions", a.Instance)
	return a.ask(ctx, func(int) Message { return get })
}

// prompts makes calls that may ask a person, who never answers.
func (a *attack) prompts(ctx context.Context) error {
	agent, done, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	started, err := startTime(os.Getpid())
	if err != nil {
		return err
	}
	me := struct {
		Kind    string
		Details map[string]dbus.Variant
	}{"unix-process", map[string]dbus.Variant{
		"pid": dbus.MakeVariant(uint32(os.Getpid())), "start-time": dbus.MakeVariant(started), "uid": dbus.MakeVariant(int32(os.Getuid())),
	}}
	const polkit, authority = "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority"
	register, err := NewCall(polkit, authority, polkit+".Authority", "RegisterAuthenticationAgent", me, "C.UTF-8", "/agent")
	if err != nil {
		return err
	}
	r, err := agent.Call(register)
	if err != nil {
		return err
	}
	if r.Error != "" {
		text, _ := r.Text()
		return fmt.Errorf("polkit takes no agent: %s: %s", r.Error, text)
	}
	go func() {
		for {
			// The questions come as calls; none is answered.
			r, err := agent.Read()
			if err != nil {
				return
			}
			if r.Member == "BeginAuthentication" {
				a.mu.Lock()
				a.tally.Jobs++
				a.mu.Unlock()
				a.ready()
			}
		}
	}()
	stop := manager("StopInstance", a.Instance, map[string]dbus.Variant{})
	stop.Flags = dbus.FlagAllowInteractiveAuthorization
	each := a.Count / a.Connections
	return a.each(ctx, func(_ int, b *Bus) error {
		for range each {
			if _, err := b.Send(stop.Raw()); err != nil {
				return err
			}
			a.sent(1)
		}
		for {
			r, err := b.Read()
			if err != nil {
				return err
			}
			if r.To != 0 {
				a.answered(r)
			}
		}
	})
}

// deaf asks for much and reads nothing of it: it all has to wait somewhere.
func (a *attack) deaf(ctx context.Context) error {
	return a.each(ctx, func(_ int, b *Bus) error {
		ask := newBatch(left4d(names.Root, names.ObjectManager, "GetManagedObjects"), left4d(names.Root, names.Introspectable, "Introspect"))
		for n := 0; a.Count == 0 || n < a.Count/a.Connections; n += 2 {
			if err := ask.send(b); err != nil {
				return err
			}
			a.sent(2)
			if n > 100 {
				a.ready()
			}
		}
		<-ctx.Done()
		return nil
	})
}

// deafFiles asks for descriptors and takes none.
func (a *attack) deafFiles(ctx context.Context) error {
	return a.each(ctx, func(_ int, b *Bus) error {
		open := left4d(names.OverlayPath(a.Overlay), names.Overlay, "OpenFile", a.File, map[string]dbus.Variant{})
		for n := range a.Count / a.Connections {
			if _, err := b.Send(open.Raw()); err != nil {
				return err
			}
			a.sent(1)
			if n == 4 { // more than one caller gets
				a.ready()
			}
		}
		<-ctx.Done()
		return nil
	})
}

// connections are those of left4d's process: by one it serves, by others it asks.
func connections(b *Bus) (all []string, err error) {
	ask := func(member string, args ...any) (*Reply, error) {
		m, err := NewCall(names.Bus, names.BusPath, names.Bus, member, args...)
		if err != nil {
			return nil, err
		}
		r, err := b.Call(m)
		if err == nil && r.Error != "" {
			err = fmt.Errorf("%s: %s", member, r.Error)
		}
		return r, err
	}
	number := func(name string) (uint32, error) {
		r, err := ask("GetConnectionUnixProcessID", name)
		if err != nil {
			return 0, err
		}
		pid, _ := r.Body()[0].(uint32)
		return pid, nil
	}
	pid, err := number(names.Service)
	if err != nil {
		return nil, err
	}
	r, err := ask("ListNames")
	if err != nil {
		return nil, err
	}
	list, _ := r.Body()[0].([]string)
	for _, name := range list {
		// One that has gone meanwhile is none of its.
		if its, err := number(name); strings.HasPrefix(name, ":") && err == nil && its == pid {
			all = append(all, name)
		}
	}
	return all, nil
}

// forge sends each connection of left4d signals and answers that others should have sent, small and large.
func (a *attack) forge(ctx context.Context) error {
	instance := names.InstancePath(a.Instance)
	unit := "/org/freedesktop/systemd1/unit/left4_2dserver_40" + a.Instance + "_2eservice"
	signal := func(path, iface, member string, args ...any) Message {
		m := left4d(dbus.ObjectPath(path), iface, member, args...)
		m.Kind, m.Flags = dbus.TypeSignal, dbus.FlagNoReplyExpected
		return m
	}
	dead := map[string]dbus.Variant{"ActiveState": dbus.MakeVariant("failed"), "SubState": dbus.MakeVariant("failed"), "MainPID": dbus.MakeVariant(uint32(0))}
	large := signal(unit, names.Properties, "PropertiesChanged")
	e := &encoder{}
	e.array(1, func() {
		for len(e.b) < 8<<20 {
			e.signature("y")
			e.b = append(e.b, 1)
		}
	})
	large.Signature, large.Body = "av", e.b
	return a.each(ctx, func(_ int, b *Bus) error {
		victims, err := connections(b)
		if err != nil {
			return err
		}
		if len(victims) < 2 {
			return fmt.Errorf("left4d has the connections %q", victims)
		}
		messages := []Message{
			signal(unit, names.Properties, "PropertiesChanged", "org.freedesktop.systemd1.Unit", dead, []string{}),
			signal("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "JobRemoved", uint32(1), dbus.ObjectPath("/org/freedesktop/systemd1/job/1"), "left4-server@"+a.Instance+".service", "failed"),
			signal("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "UnitRemoved", "left4-server@"+a.Instance+".service", dbus.ObjectPath(unit)),
			signal(string(names.BusPath), names.Bus, "NameOwnerChanged", ":1.1", ":1.1", ""),
			signal(string(names.BusPath), names.Bus, "NameOwnerChanged", "org.freedesktop.systemd1", ":1.0", ""),
			signal(string(names.BusPath), names.Bus, "NameLost", names.Service),
			signal(string(names.BusPath), names.Bus, "NameLost"),
			signal(string(instance), names.Manager, "InstanceStateChanged", a.Instance, "running", "failed", "forged"),
			signal("/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1.Authority", "Changed"),
		}
		// A number of calls of left4d's own may be open: answers to all of them.
		for serial := range 64 {
			messages = append(messages, Message{
				Kind: dbus.TypeMethodReply, Flags: dbus.FlagNoReplyExpected, ReplyTo: uint32(serial + 1),
				Signature: "u", Body: []byte{0, 0, 0, 0},
			})
		}
		var many []batch
		for _, victim := range victims {
			for i := range messages {
				messages[i].To = victim
			}
			many = append(many, newBatch(messages...))
		}
		for n := 0; a.Count == 0 || n < a.Count/a.Connections; n += len(messages) {
			i := n / len(messages)
			if err := many[i%len(many)].send(b); err != nil {
				return err
			}
			a.sent(len(messages))
			if i%50 == 0 {
				for _, large.To = range victims {
					if _, err := b.Send(large.Raw()); err != nil {
						return err
					}
				}
			}
			a.ready()
			r, err := b.Call(left4d(names.Root, names.Peer, "Ping"))
			if err != nil {
				return err
			}
			a.answered(r)
		}
		return nil
	})
}

// crowd is as many connections as one user gets, which all call at once.
func (a *attack) crowd(ctx context.Context) error {
	stop := manager("StopInstance", a.Instance, map[string]dbus.Variant{})
	stop.Flags = dbus.FlagNoReplyExpected
	get := manager("GetInstance", a.Instance)
	var calls []Message
	for range 20 {
		calls = append(calls, stop, get)
	}
	errs := make(chan error, a.Connections)
	all := 0
	start := make(chan struct{})
	for range a.Connections {
		b, done, err := a.dial(ctx)
		if err != nil {
			a.mu.Lock()
			a.tally.Refused++
			a.mu.Unlock()
			break
		}
		defer done()
		all++
		go func() {
			<-start
			many := newBatch(calls...)
			err := many.send(b)
			a.sent(len(calls))
			for n := 0; n < 20 && err == nil; {
				var r *Reply
				if r, err = b.Read(); err == nil && r.To != 0 {
					a.answered(r)
					n++
				}
			}
			errs <- err
		}()
	}
	if all == 0 {
		return errors.New("the bus takes no connection")
	}
	a.ready()
	close(start)
	var failed error
	for range all {
		if err := <-errs; err != nil {
			failed = err
		}
	}
	return failed
}

// rules asks the bus for more match rules than it gives, of left4d's signals.
func (a *attack) rules(ctx context.Context) error {
	return a.each(ctx, func(c int, b *Bus) error {
		for n := range a.Count / a.Connections {
			add, err := NewCall(names.Bus, names.BusPath, names.Bus, "AddMatch",
				fmt.Sprintf("type='signal',sender='%s',path_namespace='%s',arg0='c%d-%d'", names.Service, names.Root, c, n))
			if err != nil {
				return err
			}
			r, err := b.Call(add)
			if err != nil {
				return err
			}
			a.sent(1)
			a.answered(r)
			a.ready()
		}
		<-ctx.Done()
		return nil
	})
}

// vanish calls and is gone before anybody can answer.
func (a *attack) vanish(ctx context.Context) error {
	none := map[string]dbus.Variant{}
	asking := manager("StopInstance", a.Instance, none)
	asking.Flags = dbus.FlagAllowInteractiveAuthorization
	calls := []Message{asking, manager("StopInstance", a.Instance, none), left4d(names.Root, names.ObjectManager, "GetManagedObjects"), manager("GetPermissions", a.Instance)}
	if a.Operator {
		calls = []Message{manager("ListInstances", none), left4d(names.InstancePath(a.Instance), names.Instance, "ListChanges", none), manager("GetPermissions", a.Instance)}
	}
	for n := 0; (a.Count == 0 || n < a.Count) && ctx.Err() == nil; n++ {
		b, done, err := a.dial(ctx)
		if err != nil {
			return err
		}
		for i := range n % 4 {
			if _, err := b.Send(calls[(n/4+i)%len(calls)].Raw()); err != nil {
				done()
				return err
			}
			a.sent(1)
		}
		if a.Operator {
			// An import whose sender is gone, and whose stream ends with it.
			r, w, err := os.Pipe()
			if err != nil {
				done()
				return err
			}
			m := left4d(names.OverlayPath(scratch), names.Overlay, "Import", dbus.UnixFDIndex(0), none)
			m.FDs = 1
			_, err = b.Send(m.Raw(), int(r.Fd()))
			r.Close()
			if n%2 == 0 {
				w.WriteString("no archive")
			}
			w.Close()
			if err != nil {
				done()
				return err
			}
			a.sent(1)
		}
		done()
		a.ready()
	}
	return nil
}

// startTime is what tells a process from a later one of its number.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
