// Package daemontest has a systemd for tests of what stands on package daemon.
package daemontest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"left4.me/left4/units"
)

// Units is a systemd that does at once what it is asked, unless Hold names the call: then it waits until the channel is
// closed or the context ends.
type Units struct {
	mu      sync.Mutex
	states  map[string]units.State
	calls   []string
	called  chan struct{}            // closed at the next call
	Fail    map[string]error         // by "verb unit"
	Hold    map[string]chan struct{} // by "verb unit"
	Changed func(unit string)        // told as systemd's signals would
	OnFail  func(unit string)        // a start failed
	// Work does what a worker would and returns how it ended; nil leaves it running.
	Work func(units.Worker) units.State
	// Copy does what left4-overlay would when files are copied from one instance to another; nil is nothing.
	Copy func(from, to string)
	// Join makes one layer of some.
	Join func(units.Squashing)
	// Stopped is what becomes of a unit that is stopped; nil is inactive.
	Stopped func(unit string) units.State
	// Findings are the answer to every inspection.
	Findings units.Findings
	// Consulted is the worker that was asked last, see Answer.
	answer    string
	Consulted units.Worker
	// Probed is the answer to every probe, but for Taken, of which those are that were asked for; Machine tells of the machine.
	Probed  units.Probed
	Machine units.Host
}

// Set changes the state of a unit and tells it.
func (f *Units) Set(unit string, s units.State) {
	f.mu.Lock()
	s.Loaded = s.Active != "inactive"
	f.states[unit] = s
	f.mu.Unlock()
	if f.Changed != nil {
		f.Changed(unit)
	}
}

func (f *Units) call(ctx context.Context, verb, unit string) error {
	f.mu.Lock()
	f.calls = append(f.calls, verb+" "+unit)
	if f.called != nil {
		close(f.called)
		f.called = nil
	}
	err, hold := f.Fail[verb+" "+unit], f.Hold[verb+" "+unit]
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (f *Units) State(_ context.Context, unit string) (units.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.states[unit]; ok {
		return s, nil
	}
	return units.State{Active: "inactive"}, nil
}

func (f *Units) Survey(context.Context, []string) error { return nil }

func (f *Units) Start(ctx context.Context, unit string) error {
	if err := f.call(ctx, "start", unit); err != nil {
		if f.OnFail != nil {
			f.OnFail(unit)
		}
		return err
	}
	f.Set(unit, units.State{Active: "active", Sub: "running", MainPID: 42, ActiveEnter: time.Now(), StateChange: time.Now()})
	return nil
}

func (f *Units) Stop(ctx context.Context, unit string) error {
	if err := f.call(ctx, "stop", unit); err != nil {
		return err
	}
	end := units.State{Active: "inactive"}
	if f.Stopped != nil {
		end = f.Stopped(unit)
	}
	f.Set(unit, end)
	return nil
}

func (f *Units) Restart(ctx context.Context, unit string) error {
	if err := f.call(ctx, "restart", unit); err != nil {
		return err
	}
	f.Set(unit, units.State{Active: "active", Sub: "running", MainPID: 43, ActiveEnter: time.Now(), StateChange: time.Now()})
	return nil
}

func (f *Units) QueueStop(ctx context.Context, unit string) (func(context.Context) error, error) {
	return func(ctx context.Context) error { return f.Stop(ctx, unit) }, f.call(ctx, "queue-stop", unit)
}

func (f *Units) Kill(ctx context.Context, unit string, signal int32) error {
	return f.call(ctx, fmt.Sprintf("kill-%d", signal), unit)
}

func (f *Units) ResetFailed(ctx context.Context, unit string) error {
	if s, _ := f.State(ctx, unit); s.Active == "failed" {
		f.Set(unit, units.State{Active: "inactive"})
	}
	return f.call(ctx, "reset-failed", unit)
}

func (f *Units) Loaded(ctx context.Context, unit string) (bool, error) {
	s, _ := f.State(ctx, unit)
	return s.Loaded, nil
}

func (f *Units) Reload(ctx context.Context) error { return f.call(ctx, "reload", "") }

func (f *Units) WaitInactive(ctx context.Context, unit string) error {
	if s, _ := f.State(ctx, unit); s.Active == "failed" {
		return &units.JobError{Unit: unit, Verb: "stop", Result: "failed", State: s}
	}
	return nil
}

func (f *Units) SetLimits(ctx context.Context, unit string, l units.Limits) error {
	return f.call(ctx, "set-limits", unit)
}

func (f *Units) RenewLimits(ctx context.Context, unit string) error {
	return f.call(ctx, "renew-limits", unit)
}

func (f *Units) StartWorker(ctx context.Context, w units.Worker) error {
	// Before anybody hears of the call, and says what has become of the worker.
	f.mu.Lock()
	f.states[w.Unit] = units.State{Loaded: true, Active: "active", Sub: "running"}
	f.mu.Unlock()
	if err := f.call(ctx, "worker", w.Unit); err != nil {
		f.mu.Lock()
		delete(f.states, w.Unit)
		f.mu.Unlock()
		return err
	}
	if f.Work != nil {
		f.Set(w.Unit, f.Work(w))
	}
	return nil
}

// Running matches as far as the fake knows patterns: what is before the first *.
func (f *Units) Running(_ context.Context, pattern string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	prefix, _, _ := strings.Cut(pattern, "*")
	var names []string
	for unit, s := range f.states {
		if strings.HasPrefix(unit, prefix) && !s.Down() {
			names = append(names, unit)
		}
	}
	return names, nil
}

func (f *Units) Inspect(ctx context.Context, _ string, q units.Inspection) (units.Findings, error) {
	return f.Findings, f.call(ctx, "inspect", q.Instance)
}

// Answer sets the JSON text that Consult answers with.
func (f *Units) Answer(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = text
}

// Consult gives the answer that was set, and keeps the order.
func (f *Units) Consult(ctx context.Context, w units.Worker, answer any) error {
	f.mu.Lock()
	f.Consulted = w
	text := f.answer
	f.mu.Unlock()
	if err := f.call(ctx, "consult", w.Command[1]); err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), answer)
}

// Squash has Join do what left4-overlay would.
func (f *Units) Squash(ctx context.Context, _ string, q units.Squashing, _ func(files, bytes uint64)) error {
	if err := f.call(ctx, "squash", q.Into); err != nil {
		return err
	}
	f.Join(q)
	return nil
}

func (f *Units) Clone(ctx context.Context, _, from, to string, note func(files, bytes uint64)) error {
	if err := f.call(ctx, "clone", from+" "+to); err != nil {
		return err
	}
	if f.Copy != nil {
		f.Copy(from, to)
	}
	note(1, 5)
	return nil
}

func (f *Units) Probe(ctx context.Context, _ string, q units.Probe) (units.Probed, error) {
	a := f.Probed
	a.Taken = slices.DeleteFunc(slices.Clone(a.Taken), func(t units.Taken) bool {
		return !slices.ContainsFunc(q.Ports, func(p units.Address) bool { return p.Port == t.Port })
	})
	return a, f.call(ctx, "probe", "")
}

func (f *Units) Host(context.Context) (units.Host, error) { return f.Machine, nil }

func (f *Units) Count(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

// wait returns when systemd has been asked.
func (f *Units) Wait(t *testing.T, prefix string) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		f.mu.Lock()
		if f.called == nil {
			f.called = make(chan struct{})
		}
		called := f.called
		f.mu.Unlock()
		if f.Count(prefix) > 0 {
			return
		}
		select {
		case <-called:
		case <-deadline:
			t.Fatalf("systemd was never asked to %s", prefix)
		}
	}
}

// NewUnits is a systemd with nothing loaded.
func NewUnits() *Units {
	return &Units{
		states: map[string]units.State{}, Fail: map[string]error{}, Hold: map[string]chan struct{}{},
		Machine: units.Host{Version: "257.8-1", BPF: true, Slices: []units.Slice{
			{Name: units.GameSlice, LoadState: "loaded", CPU: 1000, IO: 1000}, {Name: units.BuildSlice, LoadState: "loaded", CPU: 10, IO: 10},
		}},
	}
}

// Release lets go what Hold holds from now on.
func (f *Units) Release(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.Hold, call)
}

// Calls are all calls so far.
func (f *Units) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}
