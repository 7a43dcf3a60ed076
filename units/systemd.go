package units

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	busName      = "org.freedesktop.systemd1"
	managerPath  = dbus.ObjectPath("/org/freedesktop/systemd1")
	unitRoot     = dbus.ObjectPath("/org/freedesktop/systemd1/unit")
	managerIface = "org.freedesktop.systemd1.Manager"
	unitIface    = "org.freedesktop.systemd1.Unit"
	serviceIface = "org.freedesktop.systemd1.Service"
	propsIface   = "org.freedesktop.DBus.Properties"
	driverName   = "org.freedesktop.DBus"

	defaultBusAddress = "unix:path=/run/dbus/system_bus_socket"
)

var (
	// ErrNoUnit means that no unit of that name can be loaded.
	ErrNoUnit = errors.New("there is no such unit")
	// ErrMasked means that an administrator masked the unit.
	ErrMasked = errors.New("the unit is masked")
	// ErrLost means that the connection to the system bus was lost or closed.
	ErrLost = errors.New("the connection to the system bus is lost")
)

// maxAsking bounds the calls under way, far below the 128 that a bus lets one connection wait for (max_replies_per_connection
// of dbus-daemon(1)): polkit is asked on the same one. PID 1 answers one after the other anyway.
const maxAsking = 32

// Systemd is the system's service manager over a connection of its own to the system bus. It accepts no calls and no
// file descriptors, and believes only those signals that come from the very connection that owns systemd's name: any
// local user can send a look-alike to one connection. All methods may be used at once by any number of goroutines.
//
// When systemd re-executes itself (as upgrades of its package make it), calls are repeated and waits go on.
type Systemd struct {
	conn   *dbus.Conn
	socket net.Conn
	moved  chan struct{} // capacity 1: systemd's name has a new owner
	asking chan struct{} // the calls under way
	tasks  sync.WaitGroup
	group  groupCommit

	mu       sync.Mutex
	owner    string        // the unique name that is systemd, "" while it re-executes itself
	heard    bool          // an owner was told by signal, so what GetNameOwner answered is old
	changed  chan struct{} // closed at the next change of owner
	jobs     map[string]map[*jobWait]struct{}
	waiting  map[string]map[chan struct{}]struct{}
	watchers []*watcher
	seen     map[string]State    // what was last told of each server's unit
	told     map[string]string   // the states that Watch has told of
	readings map[string]*reading // what was read of each unit since systemd last told of it
	touched  map[string]bool     // what it has told of since the survey began; nil: there is none
	survey   sync.Mutex          // one survey at a time; taken before mu
}

// Connect connects to the system bus (DBUS_SYSTEM_BUS_ADDRESS is honoured) and to systemd on it.
// ctx bounds the connecting only.
func Connect(ctx context.Context) (*Systemd, error) {
	s, err := connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to systemd: %w", err)
	}
	return s, nil
}

func connect(ctx context.Context) (*Systemd, error) {
	socket, err := dialBus(ctx)
	if err != nil {
		return nil, err
	}
	s := &Systemd{
		socket:   socket,
		moved:    make(chan struct{}, 1),
		asking:   make(chan struct{}, maxAsking),
		changed:  make(chan struct{}),
		jobs:     map[string]map[*jobWait]struct{}{},
		waiting:  map[string]map[chan struct{}]struct{}{},
		seen:     map[string]State{},
		told:     map[string]string{},
		readings: map[string]*reading{},
	}
	s.group.commit, s.group.pause, s.group.most = s.reload, gatherPause, gatherMost
	s.conn, err = dbus.NewConn(newBoundedConn(socket),
		dbus.WithHandler(refuseCalls{}), dbus.WithSignalHandler(listener{s}))
	if err != nil {
		socket.Close()
		return nil, err
	}
	hung := context.AfterFunc(ctx, func() { socket.Close() })
	err = s.introduce(ctx)
	if !hung() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		s.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	s.tasks.Add(1)
	go s.followOwner()
	return s, nil
}

// introduce authenticates and asks for the signals, in an order that misses none.
func (s *Systemd) introduce(ctx context.Context) error {
	if err := s.conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return err
	}
	if err := s.conn.Hello(); err != nil {
		return err
	}
	sender := dbus.WithMatchSender(busName)
	manager := func(member string) []dbus.MatchOption {
		return []dbus.MatchOption{sender, dbus.WithMatchObjectPath(managerPath),
			dbus.WithMatchInterface(managerIface), dbus.WithMatchMember(member)}
	}
	properties := func(iface string) []dbus.MatchOption {
		return []dbus.MatchOption{sender, dbus.WithMatchPathNamespace(unitRoot),
			dbus.WithMatchInterface(propsIface), dbus.WithMatchMember("PropertiesChanged"), dbus.WithMatchArg(0, iface)}
	}
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(driverName), dbus.WithMatchInterface(driverName), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
		manager("JobRemoved"), manager("Reloading"), manager("UnitNew"), manager("UnitRemoved"),
		// Two rules for all units, since the bus bounds the rules of a connection. PID 1 sends each change twice, last for
		// the Unit interface: when that is here, the properties of the other one are new as well.
		properties(serviceIface), properties(unitIface),
	} {
		if err := s.conn.AddMatchSignalContext(ctx, match...); err != nil {
			return err
		}
	}
	var owner string
	if err := s.conn.BusObject().CallWithContext(ctx, driverName+".GetNameOwner", 0, busName).Store(&owner); err != nil {
		return err
	}
	s.mu.Lock()
	if !s.heard {
		s.setOwner(owner)
	}
	s.mu.Unlock()
	return s.subscribe(ctx)
}

// subscribe makes systemd send signals at all: it does while anybody is subscribed.
func (s *Systemd) subscribe(ctx context.Context) error {
	err := s.manager(ctx, "Subscribe")
	if errorName(err) == busName+".AlreadySubscribed" {
		return nil
	}
	return err
}

// Close ends the connection, waits for the functions that Watch calls, and must not be called by them.
func (s *Systemd) Close() error {
	s.socket.Close() // first: a write that hangs would hold up the other close
	err := s.conn.Close()
	s.tasks.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Done is closed when the connection is lost or closed. There is no way back: bus restarts are not supported by
// anybody, and a service ends then.
func (s *Systemd) Done() <-chan struct{} { return s.conn.Context().Done() }

// Conn is the connection, for calls to other services. It takes part in no fd passing, exports nothing, and its Signal
// method must not be used.
func (s *Systemd) Conn() *dbus.Conn { return s.conn }

// State is what systemd says about a service unit. For one that is not loaded, Active is "inactive", and the rest is what
// systemd told of a server before it forgot it: nothing, if it was not heard.
type State struct {
	Loaded    bool
	LoadState string // loaded, not-found, bad-setting, error, masked
	Active    string // active, reloading, inactive, failed, activating, deactivating, maintenance, refreshing
	Sub       string // running, exited, auto-restart, start-pre, …
	Result    string // success, exit-code, signal, core-dump, timeout, oom-kill, start-limit-hit, resources, protocol, …
	Job       uint32 // the unit's pending job, 0 = none
	Fragment  string // the unit file
	Wanted    bool   // a loaded unit wants it, so that it stays loaded when it is down

	MainPID uint32
	// What follows is not asked of a server or a mount that is active, but for NRestarts, the times and InvocationID; of one
	// that a survey has found active, these only as far as they tell since when.

	// How the last main process ended: ExecMainCode is CLD_EXITED (1), CLD_KILLED (2) or CLD_DUMPED (3), 0 while it
	// runs; ExecMainStatus is the exit status or the signal. ExecMainPID stays when the process is gone.
	ExecMainCode   int32
	ExecMainStatus int32
	ExecMainPID    uint32
	NRestarts      uint32 // automatic restarts since somebody started it
	StartLimit     uint32 // how many starts systemd takes within StartInterval
	StartInterval  time.Duration
	PreStart       []ExecStatus // of the last start
	StatusText     string       // the last STATUS= of sd_notify
	InvocationID   string       // 32 hexadecimal digits, as in the journal; "" = never started

	// Zero if it never happened. InactiveExit is when the last start began.
	StateChange, InactiveExit, ActiveEnter, ActiveExit, ExecMainStart, ExecMainExit time.Time
}

// ExecStatus is how one ExecStartPre= command went; Code and Status as in State. PID 0 = it did not run.
type ExecStatus struct {
	Path   string
	PID    uint32
	Code   int32
	Status int32
}

// Down reports whether nothing of the unit runs or is about to.
func (s State) Down() bool { return s.Active == "inactive" || s.Active == "failed" }

// Running names the loaded units whose names match a glob and that are not down.
func (s *Systemd) Running(ctx context.Context, pattern string) ([]string, error) {
	list, err := s.list(ctx, pattern)
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", pattern, err)
	}
	var names []string
	for _, unit := range list {
		if st := (State{Active: unit.Active}); !st.Down() {
			names = append(names, unit.Name)
		}
	}
	return names, nil
}

// listed is a row of ListUnitsByPatterns.
type listed struct {
	Name, Description, Load, Active, Sub, Following string
	Path                                            dbus.ObjectPath
	JobID                                           uint32
	JobType                                         string
	JobPath                                         dbus.ObjectPath
}

func (s *Systemd) list(ctx context.Context, patterns ...string) (list []listed, err error) {
	err = s.managerStore(ctx, &list, "ListUnitsByPatterns", []string{}, patterns)
	return list, err
}

// Loaded reports whether PID 1 has the unit in memory. If so, it does not see a changed drop-in until Reload.
func (s *Systemd) Loaded(ctx context.Context, unit string) (bool, error) {
	_, err := s.unitPath(ctx, unit)
	if errors.Is(err, ErrNoUnit) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot tell whether %s is loaded: %w", unit, err)
	}
	return true, nil
}

// unitPath fails with ErrNoUnit when the unit is not loaded. (LoadUnit, or properties asked of a path that was made up,
// would load it.)
func (s *Systemd) unitPath(ctx context.Context, unit string) (path dbus.ObjectPath, err error) {
	return path, s.managerStore(ctx, &path, "GetUnit", unit)
}

// putUnit takes over properties of org.freedesktop.systemd1.Unit; those that are not there stay as they are.
func (st *State) putUnit(unit map[string]dbus.Variant) {
	put(&st.LoadState, unit["LoadState"])
	put(&st.Active, unit["ActiveState"])
	put(&st.Sub, unit["SubState"])
	put(&st.Fragment, unit["FragmentPath"])
	if by, ok := unit["WantedBy"].Value().([]string); ok {
		st.Wanted = len(by) > 0
	}
	putTime(&st.StateChange, unit["StateChangeTimestamp"])
	putTime(&st.InactiveExit, unit["InactiveExitTimestamp"])
	putTime(&st.ActiveEnter, unit["ActiveEnterTimestamp"])
	putTime(&st.ActiveExit, unit["ActiveExitTimestamp"])
	put(&st.StartLimit, unit["StartLimitBurst"])
	if usec, ok := unit["StartLimitIntervalUSec"].Value().(uint64); ok && usec < math.MaxInt64/1000 {
		st.StartInterval = time.Duration(usec) * time.Microsecond
	}
	if job, ok := unit["Job"].Value().([]any); ok && len(job) == 2 {
		st.Job, _ = job[0].(uint32)
	}
	if id, ok := unit["InvocationID"].Value().([]byte); ok {
		st.InvocationID = hex.EncodeToString(id)
	}
}

// putService is putUnit for org.freedesktop.systemd1.Service.
func (st *State) putService(service map[string]dbus.Variant) {
	put(&st.Result, service["Result"])
	put(&st.MainPID, service["MainPID"])
	put(&st.ExecMainCode, service["ExecMainCode"])
	put(&st.ExecMainStatus, service["ExecMainStatus"])
	put(&st.ExecMainPID, service["ExecMainPID"])
	put(&st.NRestarts, service["NRestarts"])
	put(&st.StatusText, service["StatusText"])
	putTime(&st.ExecMainStart, service["ExecMainStartTimestamp"])
	putTime(&st.ExecMainExit, service["ExecMainExitTimestamp"])
	if commands, ok := service["ExecStartPre"].Value().([][]any); ok {
		st.PreStart = nil
		for _, c := range commands { // a(sasbttttuii)
			var e ExecStatus
			if len(c) == 10 {
				e.Path, _ = c[0].(string)
				e.PID, _ = c[7].(uint32)
				e.Code, _ = c[8].(int32)
				e.Status, _ = c[9].(int32)
			}
			st.PreStart = append(st.PreStart, e)
		}
	}
}

// remember notes, with mu held, what a signal says of a server. PID 1 forgets a unit in the moment it is down if nothing
// wants it, so how it ended can never be asked; but the signal of its last change comes before it is gone.
func (s *Systemd) remember(unit, iface string, changed map[string]dbus.Variant) {
	name, ok := InstanceOf(unit)
	if !ok || unit != ServerUnit(name) {
		return
	}
	st := s.seen[unit]
	if iface == unitIface {
		st.putUnit(changed)
	} else {
		st.putService(changed)
	}
	s.seen[unit] = st
}

// remembered is, with mu held, the state of a unit that is not loaded.
func (s *Systemd) remembered(unit string) State {
	st := s.seen[unit]
	st.Loaded, st.LoadState, st.Active, st.Sub, st.Job, st.MainPID = false, "", "inactive", "", 0, 0
	return st
}

// properties asks for all of an interface: that costs about what a dozen single questions do (1–2 ms on systemd 252 and
// 257), and all are of one moment.
func (s *Systemd) properties(ctx context.Context, path dbus.ObjectPath, iface string) (map[string]dbus.Variant, error) {
	var all map[string]dbus.Variant
	if err := s.do(ctx, path, propsIface+".GetAll", iface).Store(&all); err != nil {
		return nil, busError(err)
	}
	return all, nil
}

func put[T any](to *T, v dbus.Variant) {
	if x, ok := v.Value().(T); ok {
		*to = x
	}
}

func putTime(to *time.Time, v dbus.Variant) {
	if usec, ok := v.Value().(uint64); ok && usec != 0 && usec < math.MaxInt64 {
		*to = time.UnixMicro(int64(usec))
	}
}

// manager calls a method of systemd's Manager that returns nothing of interest.
func (s *Systemd) manager(ctx context.Context, method string, args ...any) error {
	return busError(s.do(ctx, managerPath, managerIface+"."+method, args...).Err)
}

func (s *Systemd) managerStore(ctx context.Context, result any, method string, args ...any) error {
	return busError(s.do(ctx, managerPath, managerIface+"."+method, args...).Store(result))
}

// do calls systemd. While it re-executes itself it cannot be asked, and a call that it had not answered yet is lost:
// then the call is made again. All our calls may be.
func (s *Systemd) do(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	for {
		owner, err := s.waitOwner(ctx, "")
		if err != nil {
			return &dbus.Call{Err: err}
		}
		select {
		case s.asking <- struct{}{}:
		case <-ctx.Done():
			return &dbus.Call{Err: ctx.Err()}
		}
		call := s.conn.Object(busName, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
		<-s.asking
		switch errorName(call.Err) {
		case "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.Disconnected":
			if _, err := s.waitOwner(ctx, owner); err != nil {
				return &dbus.Call{Err: err}
			}
		default:
			// The writer may see it before the reader has ended the connection.
			var socket *net.OpError
			if call.Err != nil && (s.conn.Context().Err() != nil || errors.As(call.Err, &socket)) {
				call.Err = ErrLost
			}
			return call
		}
	}
}

// waitOwner returns the unique name of systemd as soon as it has one other than old.
func (s *Systemd) waitOwner(ctx context.Context, old string) (string, error) {
	for {
		s.mu.Lock()
		owner, changed := s.owner, s.changed
		s.mu.Unlock()
		if owner != "" && owner != old {
			return owner, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		case <-s.Done():
			return "", ErrLost
		}
	}
}

// setOwner is called with mu held.
func (s *Systemd) setOwner(owner string) {
	s.owner = owner
	s.unread("")
	close(s.changed)
	s.changed = make(chan struct{})
}

func errorName(err error) string {
	var e dbus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	return ""
}

// busError turns the answers that callers tell apart into errors of this package.
func busError(err error) error {
	switch errorName(err) {
	case busName + ".NoSuchUnit":
		return &unitError{namedUnit(err), ErrNoUnit}
	case busName + ".UnitMasked":
		return &unitError{namedUnit(err), ErrMasked}
	}
	return err
}

// unitError is ErrNoUnit or ErrMasked, and which unit systemd says that it is about, "" = it says none: not always the one
// that was asked for.
type unitError struct {
	unit string
	err  error
}

func (e *unitError) Error() string { return e.err.Error() }
func (e *unitError) Unwrap() error { return e.err }

// namedUnit is the unit in "Unit left4-overlay@a.service is masked." or "… not found.".
func namedUnit(err error) string {
	if f := strings.Fields(err.Error()); len(f) > 2 && f[0] == "Unit" {
		return f[1]
	}
	return ""
}

// dialBus connects to the first unix address of the system bus that answers.
func dialBus(ctx context.Context) (*net.UnixConn, error) {
	addresses := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	if addresses == "" {
		addresses = defaultBusAddress
	}
	err := fmt.Errorf("no unix address in DBUS_SYSTEM_BUS_ADDRESS=%s", addresses)
	for _, address := range strings.Split(addresses, ";") {
		keys, ok := strings.CutPrefix(address, "unix:")
		if !ok {
			continue
		}
		for _, key := range strings.Split(keys, ",") {
			kind, value, _ := strings.Cut(key, "=")
			if kind != "path" && kind != "abstract" {
				continue
			}
			var name string
			if name, err = dbus.UnescapeBusAddressValue(value); err != nil {
				continue
			}
			if kind == "abstract" {
				name = "@" + name
			}
			var conn net.Conn
			if conn, err = new(net.Dialer).DialContext(ctx, "unix", name); err == nil {
				return conn.(*net.UnixConn), nil
			}
		}
	}
	return nil, err
}

// refuseCalls answers UnknownObject to every call. godbus's own handler can be crashed by anybody on the bus.
type refuseCalls struct{}

func (refuseCalls) LookupObject(dbus.ObjectPath) (dbus.ServerObject, bool) { return nil, false }
