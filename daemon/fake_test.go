package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"left4.me/left4/daemon/daemontest"
	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// recorder is Events that writes down what is told, and lets tests wait for the end of a job.
type recorder struct {
	mu    sync.Mutex
	lines []string
	ended map[uint32]Job
	more  chan struct{}

	// What a test looks at while the daemon's lock is held; nil = nothing.
	onEnd     func(Job)
	onRemoved func(Instance)
}

func newRecorder() *recorder { return &recorder{ended: map[uint32]Job{}, more: make(chan struct{})} }

func (r *recorder) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
	close(r.more)
	r.more = make(chan struct{})
}

func (r *recorder) InstanceNew(in Instance) { r.add("new %s", in.Name) }
func (r *recorder) InstanceChanged(old, new Instance) {
	if old.State != new.State {
		r.add("%s: %s → %s", new.Name, old.State, new.State)
	}
}
func (r *recorder) InstanceRemoved(in Instance) {
	if r.onRemoved != nil {
		r.onRemoved(in)
	}
	r.add("removed %s", in.Name)
}
func (r *recorder) JobNew(j Job)            { r.add("job %d: %s %s", j.ID, j.Kind, j.Target) }
func (r *recorder) JobChanged(old, new Job) {}
func (r *recorder) JobEnded(j Job) {
	if r.onEnd != nil {
		r.onEnd(j)
	}
	r.mu.Lock()
	r.ended[j.ID] = j
	r.mu.Unlock()
	r.add("job %d: %s", j.ID, j.State)
}
func (r *recorder) JobForgotten(Job)     {}
func (r *recorder) GameChanged(n uint32) { r.add("game %d", n) }

// wait returns a job when its end has been told.
func (r *recorder) wait(t *testing.T, id uint32) Job {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		r.mu.Lock()
		j, ok := r.ended[id]
		more := r.more
		r.mu.Unlock()
		if ok {
			return j
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("job %d has not ended; told: %q", id, r.lines)
		}
	}
}

// world is a daemon with a fake systemd on real directories.
type world struct {
	*Daemon
	t      *testing.T
	units  *daemontest.Units
	events *recorder
	root   string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, root: t.TempDir()}
	for _, dir := range []string{"state/game/1/left4dead2", "state/overlays", "state/instances", "state/runtime", "run/stale", "run/mounted", "etc"} {
		w.mkdir(dir)
	}
	w.open()
	if _, err := w.Store.AddGameRevision(0, 1); err != nil {
		t.Fatal(err)
	}
	if err := w.Store.PublishGameRevision(1, 1); err != nil {
		t.Fatal(err)
	}
	w.again()
	return w
}

// open makes the daemon; again ends it and makes another on the same directories, as after a crash.
func (w *world) open() {
	w.t.Helper()
	s, err := store.Open(filepath.Join(w.root, "state/left4.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.events = newRecorder()
	if w.units == nil {
		w.units = daemontest.NewUnits()
	}
	d, err := New(Options{
		Store: s, Units: w.units, Config: units.Config{Dir: filepath.Join(w.root, "etc"), RunDir: filepath.Join(w.root, "run")},
		Layout: units.Layout{State: filepath.Join(w.root, "state"), Run: filepath.Join(w.root, "run")},
		Events: w.events, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), PreStart: "/check",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Daemon = d
	w.units.Changed = d.UnitChanged
	if err := d.Begin(context.Background(), func() error { return nil }); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { d.Close(); s.Close() })
}

func (w *world) again() {
	w.t.Helper()
	w.Close()
	w.Store.Close()
	w.open()
}

func (w *world) mkdir(name string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Join(w.root, name), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(name string, c Changes) {
	w.t.Helper()
	if _, err := w.CreateInstance(name, c, 1000); err != nil {
		w.t.Fatal(err)
	}
}

// do runs a verb to its end and wants a result.
func (w *world) do(verb func(string, Request) (Job, error), name, result string) Job {
	w.t.Helper()
	j, err := verb(name, Request{})
	if err != nil {
		w.t.Fatal(err)
	}
	j = w.events.wait(w.t, j.ID)
	if j.State != result {
		w.t.Fatalf("%s %s: %s (%s), want %s; systemd was asked %q", j.Kind, name, j.State, j.Cause, result, w.units.Calls())
	}
	return j
}

func (w *world) enabled(name string) bool {
	w.t.Helper()
	enabled, err := w.Config.Enabled(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return enabled
}

func (w *world) exists(path string) bool {
	_, err := os.Lstat(filepath.Join(w.root, path))
	return err == nil
}

func ptr[T any](v T) *T { return &v }
