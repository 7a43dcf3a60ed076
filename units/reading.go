package units

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// A reading is what was asked of a unit, or is being asked. It serves whoever asks before systemd tells anything new of the
// unit: nothing changes without a signal, and each question costs PID 1 up to a millisecond, of which a start waits for many.
type reading struct {
	path  dbus.ObjectPath // of a unit that a survey has found and nobody has asked yet
	done  chan struct{}   // nil: nobody asks
	state State           // before done is closed: what the survey tells
	err   error
}

// maxReadings bounds them: names come and go.
const maxReadings = 8192

// State tells how the unit is. It never makes systemd load a unit.
func (s *Systemd) State(ctx context.Context, unit string) (State, error) {
	for {
		// What was read before serves no more: nobody tells what changes now.
		if s.conn.Context().Err() != nil {
			return State{}, fmt.Errorf("cannot read the state of %s: %w", unit, ErrLost)
		}
		r, mine := s.reading(unit)
		if mine {
			r.state, r.err = s.read(ctx, unit, r.path, r.state)
			if r.err != nil {
				s.mu.Lock()
				if s.readings[unit] == r {
					delete(s.readings, unit)
				}
				s.mu.Unlock()
				r.err = fmt.Errorf("cannot read the state of %s: %w", unit, r.err)
			}
			close(r.done)
			return r.state, r.err
		}
		select {
		case <-r.done:
			if r.err == nil {
				return r.state, nil
			}
			// It may have been the other's context.
			if ctx.Err() != nil {
				return State{}, ctx.Err()
			}
		case <-ctx.Done():
			return State{}, ctx.Err()
		}
	}
}

// reading returns the one to wait for, or a new one that the caller has to make.
func (s *Systemd) reading(unit string) (r *reading, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r = s.readings[unit]
	if r != nil && r.done != nil {
		return r, false
	}
	if r == nil {
		if len(s.readings) >= maxReadings {
			clear(s.readings)
		}
		r = &reading{}
		s.readings[unit] = r
	}
	r.done = make(chan struct{})
	return r, true
}

// unread notes, with mu held, that what was read of a unit may not be so any more; "" is all units.
func (s *Systemd) unread(unit string) {
	if unit == "" {
		clear(s.readings)
	} else {
		delete(s.readings, unit)
	}
	if s.touched != nil {
		s.touched[unit] = true
	}
}

// mayHaveChanged is unread after a call that may have changed a unit: its answer comes before the signal.
func (s *Systemd) mayHaveChanged(unit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unread(unit)
}

// read asks for the state of a unit. path is "" where no survey has found it.
func (s *Systemd) read(ctx context.Context, unit string, path dbus.ObjectPath, st State) (State, error) {
	if path == "" {
		var err error
		path, err = s.unitPath(ctx, unit)
		if errors.Is(err, ErrNoUnit) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.remembered(unit), nil
		}
		if err != nil {
			return State{}, err
		}
	}
	st.Loaded = true
	_, ours := InstanceOf(unit)
	if !ours || st.Active != "active" {
		all, err := s.properties(ctx, path, unitIface)
		if err != nil {
			return State{}, err
		}
		st.putUnit(all)
	} else if err := s.some(ctx, path, unitIface, st.putUnit, "ActiveEnterTimestamp"); err != nil {
		return State{}, err
	} else {
		st.StateChange = st.ActiveEnter // a server knows one state of being active
	}
	if ours && st.Active == "active" {
		// Of what is up nobody asks for more, and all that there is would be twenty times the work.
		err := s.some(ctx, path, serviceIface, st.putService, "MainPID", "NRestarts")
		return st, err
	}
	all, err := s.properties(ctx, path, serviceIface)
	if err != nil {
		return State{}, err
	}
	st.putService(all)
	return st, nil
}

// some asks for a few properties of an interface.
func (s *Systemd) some(ctx context.Context, path dbus.ObjectPath, iface string, put func(map[string]dbus.Variant), names ...string) error {
	for _, name := range names {
		var value dbus.Variant
		if err := s.do(ctx, path, propsIface+".Get", iface, name).Store(&value); err != nil {
			return busError(err)
		}
		put(map[string]dbus.Variant{name: value})
	}
	return nil
}

// Survey reads the units of all these instances anew, in one call where that tells enough; State asks for what is left.
func (s *Systemd) Survey(ctx context.Context, instances []string) error {
	s.survey.Lock()
	defer s.survey.Unlock()
	touched := map[string]bool{}
	s.mu.Lock()
	s.unread("")
	s.touched = touched
	s.mu.Unlock()
	list, err := s.list(ctx, serverPrefix+"*", overlayPrefix+"*")

	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched = nil
	if err != nil {
		return fmt.Errorf("cannot list the units: %w", err)
	}
	told := make(chan struct{})
	close(told)
	put := func(unit string, r *reading) {
		if !touched[unit] && !touched[""] && s.readings[unit] == nil {
			s.readings[unit] = r
		}
	}
	loaded := make(map[string]bool, len(list))
	for _, u := range list {
		loaded[u.Name] = true
		r := &reading{path: u.Path, state: State{Loaded: true, LoadState: u.Load, Active: u.Active, Sub: u.Sub, Job: u.JobID}}
		if strings.HasPrefix(u.Name, overlayPrefix) && u.Active == "active" {
			r.done = told // nobody asks for more
		}
		put(u.Name, r)
	}
	for _, name := range instances {
		for _, unit := range []string{ServerUnit(name), OverlayUnit(name)} {
			if !loaded[unit] {
				put(unit, &reading{done: told, state: s.remembered(unit)})
			}
		}
	}
	return nil
}
