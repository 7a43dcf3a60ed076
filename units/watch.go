package units

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Signals are taken in by the goroutine that reads the connection: it only notes what changed, in sets that are bounded
// by the number of units, and never waits. Everything else happens in goroutines that look at the sets.

// listener takes every signal that reaches the connection, in order.
type listener struct{ s *Systemd }

// DeliverSignal implements dbus.SignalHandler.
func (l listener) DeliverSignal(iface, member string, signal *dbus.Signal) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	// The bus itself vouches for senders, and for nobody but itself as org.freedesktop.DBus.
	if signal.Sender == driverName {
		if iface == driverName && member == "NameOwnerChanged" && argument[string](signal, 0) == busName {
			s.heard = true
			s.setOwner(argument[string](signal, 2))
			wake(s.moved)
		}
		return
	}
	if s.owner == "" || signal.Sender != s.owner {
		return
	}
	switch {
	case iface == propsIface && member == "PropertiesChanged":
		unit, iface := unitOfPath(signal.Path), argument[string](signal, 0)
		if iface == unitIface || iface == serviceIface {
			s.remember(unit, iface, argument[map[string]dbus.Variant](signal, 1))
			s.unread(unit)
		}
		if iface == unitIface {
			s.touch(unit, s.news(unit, argument[map[string]dbus.Variant](signal, 1)))
		}
	case iface != managerIface || signal.Path != managerPath:
	case member == "UnitNew": // it is down until more is told
		s.touch(argument[string](signal, 0), false)
	case member == "UnitRemoved":
		unit := argument[string](signal, 0)
		delete(s.told, unit)
		s.touch(unit, true)
	case member == "JobRemoved": // id, job, unit, result
		unit := argument[string](signal, 2)
		s.jobRemoved(unit, argument[dbus.ObjectPath](signal, 1), argument[string](signal, 3))
		s.touch(unit, false)
	case member == "Reloading":
		if active, ok := signalBody[bool](signal, 0); ok && !active {
			s.touchAll()
		}
	}
}

func signalBody[T any](signal *dbus.Signal, i int) (value T, ok bool) {
	if i < len(signal.Body) {
		value, ok = signal.Body[i].(T)
	}
	return value, ok
}

func argument[T any](signal *dbus.Signal, i int) T {
	value, _ := signalBody[T](signal, i)
	return value
}

// unitOfPath is the name of the unit at an object path below unitRoot, "" for any other path.
func unitOfPath(path dbus.ObjectPath) string {
	label, ok := strings.CutPrefix(string(path), string(unitRoot)+"/")
	if !ok {
		return ""
	}
	var name strings.Builder
	for i := 0; i < len(label); i++ {
		if label[i] == '_' && i+3 <= len(label) {
			if c, err := strconv.ParseUint(label[i+1:i+3], 16, 8); err == nil {
				name.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		name.WriteByte(label[i])
	}
	return name.String()
}

// news tells, with mu held, whether a signal tells of another state. PID 1 sends one for each job that comes and goes and for
// much else, ten in the course of a start, and whoever watches reads all anew for each.
func (s *Systemd) news(unit string, changed map[string]dbus.Variant) bool {
	if _, ok := mountOf(unit); !ok && !ours(unit) {
		return false
	}
	if _, ok := InstanceOf(unit); !ok {
		return true
	}
	state := fmt.Sprint(changed["ActiveState"], changed["SubState"], changed["StateChangeTimestamp"])
	if _, ok := changed["ActiveState"]; ok && s.told[unit] == state {
		return false
	}
	s.told[unit] = state
	return true
}

// touch notes, with mu held, that something was told of a unit; news is what Watch tells.
func (s *Systemd) touch(unit string, news bool) {
	s.unread(unit)
	for ch := range s.waiting[unit] {
		wake(ch)
	}
	if name, ok := mountOf(unit); ok {
		unit = OverlayUnit(name)
		s.unread(unit)
	}
	if news && ours(unit) {
		for _, w := range s.watchers {
			w.units[unit] = struct{}{}
			wake(w.wake)
		}
	}
}

// touchAll notes, with mu held, that everything may have changed.
func (s *Systemd) touchAll() {
	s.unread("")
	clear(s.told)
	for _, chans := range s.waiting {
		for ch := range chans {
			wake(ch)
		}
	}
	for _, w := range s.watchers {
		w.reloaded = true
		clear(w.units) // a reload says something of every unit; reloaded covers it
		wake(w.wake)
	}
}

// wake sends on a channel of capacity 1; one waiting token is as good as two.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// watcher is one call of Watch; its fields are under Systemd.mu.
type watcher struct {
	units    map[string]struct{}
	reloaded bool
	wake     chan struct{}
}

// Watch calls fn for every unit of left4 (left4-server@, left4-overlay@, left4-build-) that changed, was loaded or
// unloaded, or whose mount came or went; the reader asks State then. It calls reloaded when all may have changed: after a daemon-reload, by anyone,
// and after systemd re-executed itself. Both are called from one goroutine, until the connection ends; changes that come
// meanwhile are told once, however many they were. Nothing is told of how things are when Watch is called.
func (s *Systemd) Watch(fn func(unit string), reloaded func()) {
	w := &watcher{units: map[string]struct{}{}, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	s.watchers = append(s.watchers, w)
	s.mu.Unlock()
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		for {
			select {
			case <-w.wake:
			case <-s.Done():
				return
			}
			s.mu.Lock()
			units, all := w.units, w.reloaded
			w.units, w.reloaded = map[string]struct{}{}, false
			s.mu.Unlock()
			if all {
				reloaded()
			}
			for unit := range units {
				if s.conn.Context().Err() != nil {
					return
				}
				fn(unit)
			}
		}
	}()
}

// changes returns a channel that gets a token whenever the unit may have changed.
func (s *Systemd) changes(unit string) (ch chan struct{}, stop func()) {
	ch = make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[unit] == nil {
		s.waiting[unit] = map[chan struct{}]struct{}{}
	}
	s.waiting[unit][ch] = struct{}{}
	return ch, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiting[unit], ch)
		if len(s.waiting[unit]) == 0 {
			delete(s.waiting, unit)
		}
	}
}

// followOwner takes up with systemd again when it has re-executed itself: signals were missed meanwhile.
func (s *Systemd) followOwner() {
	defer s.tasks.Done()
	for {
		select {
		case <-s.moved:
		case <-s.Done():
			return
		}
		s.mu.Lock()
		present := s.owner != ""
		s.mu.Unlock()
		if !present {
			continue
		}
		// do waits and repeats as long as the connection lives, and nothing else can end it.
		ctx := context.Background()
		if err := s.subscribe(ctx); err != nil {
			continue
		}
		s.settleJobs(ctx)
		s.mu.Lock()
		s.touchAll()
		s.mu.Unlock()
	}
}
