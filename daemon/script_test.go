package daemon

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

func (w *world) scriptOverlay(name, text string) Overlay {
	w.t.Helper()
	o, err := w.CreateOverlay(name, "script", OverlayChanges{Script: &text}, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) build(name string, onTop bool, result string) Job {
	w.t.Helper()
	j, err := w.acceptBuild(name, onTop, Request{})
	if err != nil {
		w.t.Fatal(err)
	}
	if j = w.events.wait(w.t, j.ID); j.State != result {
		w.t.Fatalf("the build ended %s, %q; want %s", j.State, j.Cause, result)
	}
	return j
}

func TestWhatIsNoScript(t *testing.T) {
	w := newWorld(t)
	w.overlay("files", nil)
	w.scriptOverlay("script", "true")
	for _, text := range []string{"", " \n", strings.Repeat("x", 64<<10+1)} {
		if _, err := w.CreateOverlay("a", "script", OverlayChanges{Script: &text}, 0); AsCode(err) != InvalidArgument {
			t.Errorf("%.10q: %v", text, err)
		}
		if _, err := w.UpdateOverlay("script", "", OverlayChanges{Script: &text}, nil); AsCode(err) != InvalidArgument {
			t.Errorf("%.10q: %v", text, err)
		}
	}
	text := "true"
	if _, err := w.CreateOverlay("a", "script", OverlayChanges{}, 0); AsCode(err) != InvalidArgument {
		t.Error(err)
	}
	if _, err := w.CreateOverlay("a", "files", OverlayChanges{Script: &text}, 0); AsCode(err) != InvalidArgument {
		t.Error(err)
	}
	if _, err := w.UpdateOverlay("files", "", OverlayChanges{Script: &text}, nil); AsCode(err) != InvalidArgument {
		t.Error(err)
	}
	if _, err := w.ImportOverlay("script", w.stream(), Import{}, Request{}); AsCode(err) != InvalidArgument {
		t.Error(err)
	}
}

func TestScriptBuilds(t *testing.T) {
	w := newWorld(t)
	o := w.scriptOverlay("maps", "echo one\n")
	if o.State != OverlayEmpty {
		t.Errorf("a new one is %s", o.State)
	}
	var orders []order.Script
	var workers []units.Worker
	w.units.Work = func(wk units.Worker) units.State {
		var s order.Script
		if err := json.Unmarshal(wk.Order, &s); err != nil {
			t.Error(err)
		}
		orders, workers = append(orders, s), append(workers, wk)
		if err := os.WriteFile(filepath.Join(wk.Dir, "f"), []byte("12"), 0o644); err != nil {
			t.Error(err)
		}
		note := ""
		if s.Base != "" {
			note = filepath.Base(s.Base)
		}
		return units.State{Active: "active", Sub: "exited", StatusText: status.Done(1, 2, note)}
	}
	j := w.build("maps", false, JobDone)
	if j.Status != "built: 1 files, 2 bytes" || j.Timeout != time.Hour {
		t.Errorf("%+v", j)
	}
	w.build("maps", true, JobDone)
	text := "echo two\n"
	if _, err := w.UpdateOverlay("maps", "script", OverlayChanges{Script: &text}, nil); err != nil {
		t.Fatal(err)
	}
	w.again() // it is stored
	w.build("maps", false, JobDone)
	state := w.Layout.State
	want := []order.Script{{Text: "echo one\n"}, {Text: "echo one\n", Base: filepath.Join(state, "overlays/1/1")}, {Text: text}}
	if !slices.Equal(orders, want) {
		t.Errorf("ordered %+v", orders)
	}
	if workers[0].Readable != nil || !slices.Equal(workers[1].Readable, []string{want[1].Base}) {
		t.Errorf("readable %v, %v", workers[0].Readable, workers[1].Readable)
	}
	if !slices.Contains(workers[0].Env, "LEFT4_OVERLAY=maps") || !slices.Contains(workers[0].Env, "LEFT4_OVERLAY_ID=1") || !slices.Contains(workers[0].Env, "LEFT4_JOB=1") {
		t.Errorf("environment %q", workers[0].Env)
	}
	if workers[0].Box != units.BoxScript || workers[0].Timeout != time.Hour || workers[0].FileMax == 0 {
		t.Errorf("%+v", workers[0])
	}
	if text, err := os.ReadFile(workers[0].Resolver); err != nil || string(text) != "nameserver 1.1.1.1\nnameserver 9.9.9.9\n" {
		t.Errorf("resolver %q: %q, %v", workers[0].Resolver, text, err)
	}
	if got := w.text("maps", "f", 0); got != "12" {
		t.Errorf("%q", got)
	}
}

func TestSettingsOfScripts(t *testing.T) {
	w := newWorld(t)
	w.settings("[Builds]\nAllowPrivateNetworks=yes\n")
	w.scriptOverlay("maps", "true")
	asked := false
	w.units.Work = func(wk units.Worker) units.State {
		var s order.Script
		asked = json.Unmarshal(wk.Order, &s) == nil && s.Private && wk.Box.Private && wk.Resolver == ""
		return units.State{Active: "failed", StatusText: status.Error("the script ended with status 3")}
	}
	if j := w.build("maps", false, JobFailed); !asked || j.Cause != "cannot build overlay maps: the script ended with status 3" {
		t.Errorf("%v %q", asked, j.Cause)
	}
	if o, _ := w.Overlay("maps"); o.State != OverlayFailed {
		t.Errorf("%+v", o)
	}
}

// A build of the revision that somebody goes back from must not take that back.
func TestAScriptOnTopMeetsARollback(t *testing.T) {
	w := newWorld(t)
	w.scriptOverlay("maps", "true")
	done := func(note string) units.State {
		return units.State{Active: "active", Sub: "exited", StatusText: status.Done(0, 0, note)}
	}
	w.units.Work = func(units.Worker) units.State { return done("") }
	w.build("maps", false, JobDone)
	w.build("maps", false, JobDone)
	one := uint32(1)
	w.units.Work = func(units.Worker) units.State {
		if _, err := w.UpdateOverlay("maps", "", OverlayChanges{}, &one); err != nil {
			t.Error(err)
		}
		return done("2")
	}
	if j := w.build("maps", true, JobFailed); !strings.Contains(j.Cause, "its revision is 1, not 2") {
		t.Errorf("%q", j.Cause)
	}
	if o, _ := w.Overlay("maps"); o.Revision != 1 {
		t.Errorf("revision %d", o.Revision)
	}
}

// What is queued serves only who wants the same.
func TestBuildsOnTopAreNoOthers(t *testing.T) {
	w := newWorld(t)
	w.scriptOverlay("maps", "true")
	begun, release := make(chan struct{}), make(chan struct{})
	first := true
	w.units.Work = func(units.Worker) units.State {
		if first {
			first = false
			close(begun)
			<-release
		}
		return units.State{Active: "active", Sub: "exited", StatusText: status.Done(0, 0, "")}
	}
	var ids []uint32
	for i, onTop := range []bool{false, false, true, false, true} {
		j, err := w.acceptBuild("maps", onTop, Request{})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			<-begun
		}
		ids = append(ids, j.ID)
	}
	close(release)
	if ids[1] == ids[2] || ids[1] != ids[3] || ids[2] != ids[4] {
		t.Errorf("jobs %v", ids)
	}
	for _, id := range ids {
		w.events.wait(t, id)
	}
}

func TestAScriptThatWritesTooMuchIsEnded(t *testing.T) {
	for _, c := range []struct {
		bound units.Usage
		write func(dir string) error
		want  string
	}{
		{units.Usage{Files: 5, Bytes: 1 << 30}, func(dir string) error {
			for _, name := range []string{"1", "2", "3", "4", "5", "6"} {
				if err := os.Mkdir(filepath.Join(dir, name), 0); err != nil {
					return err
				}
			}
			return nil
		}, "it has made more than 5 files"},
		{units.Usage{Files: 5, Bytes: 1 << 30}, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o644)
		}, ""},
		{units.Usage{Files: 5, Bytes: 1 << 19}, func(dir string) error {
			err := os.WriteFile(filepath.Join(dir, "hole"), nil, 0o644)
			if err == nil {
				err = os.Truncate(filepath.Join(dir, "hole"), 1<<40)
			}
			return err
		}, ""},
		{units.Usage{Files: 5, Bytes: 1<<30 - 1<<20}, func(dir string) error {
			return os.Mkdir(filepath.Join(dir, "a"), 0)
		}, ""},
	} {
		dir := t.TempDir()
		if err := c.write(dir); err != nil {
			t.Fatal(err)
		}
		err := overfull(t.Context(), dir, c.bound)
		if got := errorText(err); got != c.want {
			t.Errorf("%+v: %q, want %q", c.bound, got, c.want)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte(strings.Repeat("x", 3<<20)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := overfull(t.Context(), dir, units.Usage{Files: 9, Bytes: 1 << 20}); errorText(err) != "it has written more than 0 GiB" {
		t.Error(err)
	}
}

// Whoever is at work is told to end, and what it has written goes.
func TestABuildThatIsGuardedIsStopped(t *testing.T) {
	overlayTypes["small"] = overlayType{build: func(d *Daemon, ctx context.Context, j *job) error {
		return d.makeRevision(ctx, j, maker{
			verb: "build", bound: units.Usage{Files: 1, Bytes: 1 << 30},
			worker: func(_ context.Context, r *store.Revision) (units.Worker, error) {
				dir, err := d.makeStaging(*r)
				return units.Worker{Dir: dir, Stdin: -1}, err
			},
		})
	}}
	defer delete(overlayTypes, "small")
	w := newWorld(t)
	w.guardEvery = time.Millisecond
	if _, err := w.CreateOverlay("o", "small", OverlayChanges{}, 1000); err != nil {
		t.Fatal(err)
	}
	w.units.Work = func(wk units.Worker) units.State {
		go func() {
			for _, name := range []string{"1", "2"} {
				if err := os.Mkdir(filepath.Join(wk.Dir, name), 0o755); err != nil {
					t.Error(err)
				}
			}
		}()
		return units.State{Loaded: true, Active: "active", Sub: "running"}
	}
	if j := w.build("o", false, JobFailed); j.Cause != "cannot build overlay o: it has made more than 1 files" {
		t.Errorf("%q", j.Cause)
	}
	if calls := w.units.Calls(); !slices.Contains(calls, "stop left4-build-1.service") {
		t.Errorf("systemd was asked %q", calls)
	}
	if got := w.entries("overlays/1"); len(got) != 0 {
		t.Errorf("left is %q", got)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
