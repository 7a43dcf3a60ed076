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
	"left4.me/left4/daemon/worker/status"
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
func (r *recorder) JobForgotten(Job) {}
func (r *recorder) GameChanged(now store.Revision, _ string, all []store.Revision) {
	r.add("game %d of %d", now.ID, len(all))
}
func (r *recorder) OverlayNew(o Overlay) { r.add("new overlay %s", o.Name) }
func (r *recorder) OverlayChanged(old, new Overlay) {
	if old.State != new.State || old.Revision != new.Revision {
		r.add("overlay %s: %s %d", new.Name, new.State, new.Revision)
	}
}
func (r *recorder) OverlayRemoved(o Overlay) { r.add("removed overlay %s", o.Name) }
func (r *recorder) BlueprintNew(b Blueprint) { r.add("new blueprint %s", b.Name) }
func (r *recorder) BlueprintChanged(old, new Blueprint) {
	r.add("blueprint %s: %v", new.Name, new.Instances)
}
func (r *recorder) BlueprintRemoved(b Blueprint) { r.add("removed blueprint %s", b.Name) }

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
	for _, dir := range []string{"state/game", "state/overlays", "state/instances", "state/runtime", "run/stale", "run/mounted", "etc"} {
		w.mkdir(dir)
	}
	for name, text := range map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids\n", rule: ""} {
		w.mkdir("machine" + filepath.Dir(name))
		if err := os.WriteFile(filepath.Join(w.root, "machine", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	w.publishGame()
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
		Layout: units.Layout{State: filepath.Join(w.root, "state"), Run: filepath.Join(w.root, "run"), User: LoginName(uint32(os.Getuid()))},
		Events: w.events, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), PreStart: "/check", SettingsPath: filepath.Join(w.root, "left4d.conf"), Root: filepath.Join(w.root, "machine"),
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

// publishGame makes another revision of the game.
func (w *world) publishGame() uint32 {
	w.t.Helper()
	id, err := w.Store.AddRevision(store.Game, 0, 1)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mkdir(filepath.Join("state", layerName(store.Game, id), "left4dead2"))
	if err := os.WriteFile(w.layerPath(store.Game, filepath.Join(revisionName(id), srcdsRun)), nil, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := w.publish(store.Revision{ID: id, Created: 1}); err != nil {
		w.t.Fatal(err)
	}
	return id
}

// overlay makes an overlay with the files given by path.
func (w *world) overlay(name string, files map[string]string) Overlay {
	w.t.Helper()
	if _, err := w.CreateOverlay(name, "files", OverlayChanges{}, 1000); err != nil {
		w.t.Fatal(err)
	}
	if files != nil {
		w.importFiles(name, Import{}, files, JobDone)
	}
	o, err := w.Overlay(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// importFiles imports as if the worker had unpacked the files from a stream.
func (w *world) importFiles(name string, im Import, files map[string]string, result string) Job {
	w.t.Helper()
	w.units.Work = func(wk units.Worker) units.State {
		for path, text := range files {
			path = filepath.Join(wk.Dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				w.t.Error(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				w.t.Error(err)
			}
		}
		return units.State{Active: "active", Sub: "exited", StatusText: status.Done(int64(len(files)), 7, "")}
	}
	return w.importAs(name, im, result)
}

// importAs imports with whatever worker there is.
func (w *world) importAs(name string, im Import, result string) Job {
	w.t.Helper()
	j, err := w.ImportOverlay(name, w.stream(), im, Request{})
	if err != nil {
		w.t.Fatal(err)
	}
	j = w.events.wait(w.t, j.ID)
	if j.State != result {
		w.t.Fatalf("the import ended %s, %q; want %s", j.State, j.Cause, result)
	}
	return j
}

// stream is what an import may be made from.
func (w *world) stream() *os.File {
	w.t.Helper()
	f, err := os.Open(filepath.Join(w.root, "state/left4.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	return f
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
