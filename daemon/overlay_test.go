package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

func (w *world) text(overlay, file string, revision uint32) string {
	w.t.Helper()
	f, err := w.OpenFile(overlay, file, revision)
	if err != nil {
		return AsError(err).Message
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

// entries of a directory below the state directory.
func (w *world) entries(dir string) []string {
	w.t.Helper()
	all, err := os.ReadDir(filepath.Join(w.root, "state", dir))
	if err != nil {
		w.t.Fatal(err)
	}
	names := []string{}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

// settled waits until no job is at work.
func (w *world) settled() {
	w.t.Helper()
	for _, j := range w.LiveJobs() {
		w.events.wait(w.t, j.ID)
	}
}

func TestAnOverlayGoesFromRevisionToRevision(t *testing.T) {
	w := newWorld(t)
	o := w.overlay("sm", nil)
	if o.ID != 1 || o.Revision != 1 || o.State != OverlayReady {
		t.Errorf("a new overlay is %+v", o)
	}
	w.importFiles("sm", Import{}, map[string]string{"a": "one", "d/b": "two"}, JobDone)
	w.importFiles("sm", Import{Parameters: store.Parameters{Merge: true, Base: 2}}, map[string]string{"d/c": "three"}, JobDone)
	w.importFiles("sm", Import{Parameters: store.Parameters{Merge: true, Remove: []string{"a"}}}, nil, JobDone)
	w.settled()
	for _, want := range []struct {
		file     string
		revision uint32
		text     string
	}{
		{"a", 0, "overlay sm has no a"},
		{"a", 3, "one"},
		{"d/b", 0, "two"},
		{"d/c", 0, "three"},
		{"d/c", 3, "three"},
		{"d", 0, "d in overlay sm is no file"},
		{"d/b", 2, "overlay sm has no revision 2 on disk"},
		{"", 0, "the top of overlay sm is no file"},
		{"../1", 0, `"../1" is no path of a file here: ".." is not allowed`},
	} {
		if got := w.text("sm", want.file, want.revision); got != want.text {
			t.Errorf("%s of revision %d: %q, want %q", want.file, want.revision, got, want.text)
		}
	}
	// An unchanged file is shared.
	same := func(a, b string) bool {
		one, err1 := os.Stat(filepath.Join(w.root, "state/overlays/1", a))
		two, err2 := os.Stat(filepath.Join(w.root, "state/overlays/1", b))
		return err1 == nil && err2 == nil && os.SameFile(one, two)
	}
	if !same("3/d/b", "4/d/b") {
		t.Error("an unchanged file takes room in each revision")
	}
	if got := w.entries("overlays/1"); !slices.Equal(got, []string{"3", "4"}) {
		t.Errorf("on disk are %q; one older revision is kept", got)
	}
	if j := w.importFiles("sm", Import{Parameters: store.Parameters{Merge: true, Base: 3}}, nil, JobFailed); !strings.Contains(j.Cause, "its revision is 4, not 3") {
		t.Errorf("%q", j.Cause)
	}
	if o, _ := w.Overlay("sm"); o.State != OverlayFailed || o.Revision != 4 || o.Cause == "" {
		t.Errorf("after a failed import: %+v", o)
	}
	if j := w.importFiles("sm", Import{Parameters: store.Parameters{Merge: true, Remove: []string{"no/such"}}}, nil, JobFailed); !strings.Contains(j.Cause, "no/such") {
		t.Errorf("%q", j.Cause)
	}
	if j := w.importFiles("sm", Import{Parameters: store.Parameters{Merge: true}}, map[string]string{"d": "a file"}, JobFailed); !strings.Contains(j.Cause, "d") {
		t.Errorf("%q", j.Cause)
	}
	if _, err := w.UpdateOverlay("sm", "", OverlayChanges{}, ptr(uint32(3))); err != nil {
		t.Fatal(err)
	}
	w.settled()
	if got := w.text("sm", "a", 0); got != "one" {
		t.Errorf("after the rollback: %q", got)
	}
	if got := w.entries("overlays/1"); !slices.Equal(got, []string{"3"}) {
		t.Errorf("after the rollback are on disk %q; what was rolled back is not needed", got)
	}
	if _, err := w.UpdateOverlay("sm", "", OverlayChanges{}, ptr(uint32(4))); AsCode(err) != InvalidArgument {
		t.Errorf("a rollback to what is gone: %v", err)
	}
	w.again()
	if o, err := w.Overlay("sm"); err != nil || o.Revision != 3 || o.State != OverlayFailed {
		t.Errorf("after a restart: %+v, %v", o, err)
	}
	if r := w.importFiles("sm", Import{}, map[string]string{"x": ""}, JobDone); r.State != JobDone {
		t.Error(r)
	}
	if o, _ := w.Overlay("sm"); o.Revision != 8 || o.State != OverlayReady {
		t.Errorf("the numbers of failed imports were given out again: %+v", o)
	}
}

func TestOverlaysThatAreRefused(t *testing.T) {
	w := newWorld(t)
	w.overlay("a", nil)
	for _, c := range []struct {
		name, kind string
		keep       uint32
		code       Code
	}{
		{"a", "files", 0, OverlayExists}, {"A", "files", 0, InvalidName}, {"../x", "files", 0, InvalidName}, {"b", "", 0, InvalidArgument},
		{"b", "zip", 0, InvalidArgument}, {"b", "files", 101, InvalidArgument},
	} {
		if _, err := w.CreateOverlay(c.name, c.kind, OverlayChanges{Keep: &c.keep}, 0); AsCode(err) != c.code {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := w.UpdateOverlay("a", "workshop", OverlayChanges{}, nil); AsCode(err) != InvalidArgument {
		t.Error(err)
	}
	if _, err := w.UpdateOverlay("b", "", OverlayChanges{}, nil); AsCode(err) != NoSuchOverlay {
		t.Error(err)
	}
	if _, err := w.BuildOverlay("a", Request{}); AsCode(err) != InvalidArgument {
		t.Error(err)
	}
	for _, p := range []store.Parameters{{Remove: []string{"a"}}, {Merge: true, Remove: []string{""}}, {Merge: true, Remove: []string{"a/../.."}},
		{Merge: true, Remove: slices.Repeat([]string{"a"}, 1001)}, {Into: "a/../.."}, {File: "a/b"}, {Into: `\xff`}, {Into: `a\x0a`}} {
		if _, err := w.ImportOverlay("a", w.stream(), Import{Parameters: p}, Request{}); AsCode(err) != InvalidArgument {
			t.Errorf("%.40v: %v", p, err)
		}
	}
	if _, err := w.ImportOverlay("b", w.stream(), Import{}, Request{}); AsCode(err) != NoSuchOverlay {
		t.Error(err)
	}
	if got := w.entries("overlays"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("a refused create left %q", got)
	}
}

func TestDeletingAnOverlay(t *testing.T) {
	w := newWorld(t)
	w.overlay("sm", map[string]string{"a": ""})
	if _, err := w.CreateBlueprint("b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm"}}}, 0); err != nil {
		t.Fatal(err)
	}
	w.create("i", Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm"}}})
	_, err := w.DeleteOverlay("sm", Request{})
	if AsCode(err) != InUse || !strings.Contains(err.Error(), "blueprint b, instance i") {
		t.Errorf("%v", err)
	}
	if err := w.DeleteBlueprint("b"); err != nil {
		t.Fatal(err)
	}
	w.do(w.StartInstance, "i", JobDone)
	w.do(w.StopInstance, "i", JobDone)
	if err := w.ConfigureInstance("i", Changes{Overlays: &[]store.OverlayRef{}}); err != nil {
		t.Fatal(err)
	}
	// Its plan of the last start still names the overlay; it is down, so it gets another.
	w.do(w.DeleteOverlay, "sm", JobDone)
	w.do(w.DeleteOverlay, "sm", JobDone)
	if plan, _, err := w.Layout.ReadInstance("i"); err != nil || !slices.Equal(plan.Lower, []string{"game/1"}) {
		t.Errorf("%v, %v", plan, err)
	}
	if got := w.entries("overlays"); len(got) != 0 {
		t.Errorf("left are %q", got)
	}
	if o := w.overlay("sm", nil); o.ID != 2 {
		t.Errorf("id %d was given out again", o.ID)
	}
}

// What is between the order to delete and the deletion counts.
func TestAnOverlayThatIsTakenUpMeanwhileStays(t *testing.T) {
	w := newWorld(t)
	w.overlay("sm", map[string]string{"a": "x"})
	block := make(chan struct{})
	w.units.Work = func(units.Worker) units.State {
		<-block
		return units.State{Active: "failed"}
	}
	first, err := w.ImportOverlay("sm", w.stream(), Import{}, Request{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.DeleteOverlay("sm", Request{})
	if err != nil {
		t.Fatal(err)
	}
	w.create("i", Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm"}}})
	close(block)
	if j := w.events.wait(t, first.ID); j.State != JobFailed {
		t.Errorf("%+v", j)
	}
	if j := w.events.wait(t, second.ID); j.State != JobFailed || !strings.Contains(j.Cause, "instance i") {
		t.Errorf("%+v", j)
	}
	if got := w.text("sm", "a", 0); got != "x" {
		t.Errorf("%q", got)
	}
}

func TestAnImportThatFailsLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.overlay("sm", map[string]string{"a": "old"})
	w.units.Work = func(wk units.Worker) units.State {
		if err := os.WriteFile(filepath.Join(wk.Dir, "half"), nil, 0o600); err != nil {
			t.Error(err)
		}
		return units.State{Active: "failed", StatusText: status.Error("disk full after 1 files, 0 bytes")}
	}
	if j := w.importAs("sm", Import{}, JobFailed); !strings.Contains(j.Cause, "cannot import overlay sm: disk full") {
		t.Errorf("%q", j.Cause)
	}
	if got := w.entries("overlays/1"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("%q", got)
	}
	if got := w.text("sm", "a", 0); got != "old" {
		t.Errorf("%q", got)
	}
}

func TestALeft4dThatWasKilledLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.overlay("sm", map[string]string{"a": "old"})
	w.overlay("other", nil)
	if _, err := w.Store.AddRevision(1, 999, 1); err != nil { // of a job that the history has forgotten
		t.Fatal(err)
	}
	for _, dir := range []string{"overlays/1/.import-3/x", "overlays/1/.merge-3", "overlays/1/.gone-1", "overlays/.gone-9/1/x", "game/.import-7", "overlays/1/77", "overlays/notes"} {
		w.mkdir("state/" + dir)
	}
	if err := os.Rename(filepath.Join(w.root, "state/overlays/1/1"), filepath.Join(w.root, "state/overlays/1/.gone-1/moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.root, "state/overlays/2/1")); err != nil {
		t.Fatal(err)
	}
	w.again()
	if got := w.entries("overlays/1"); !slices.Equal(got, []string{"2", "77"}) {
		t.Errorf("left are %q; 77 is nobody's, and so not ours to remove", got)
	}
	if got := w.entries("overlays"); !slices.Equal(got, []string{"1", "2", "notes"}) {
		t.Errorf("left are %q", got)
	}
	if got := w.entries("game"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("left are %q", got)
	}
	o, err := w.Overlay("sm")
	if err != nil || len(o.Revisions) != 1 || o.Revision != 2 {
		t.Errorf("%+v, %v", o, err)
	}
	// A revision that has vanished is told by name, and nothing is started on less.
	w.create("i", Changes{Overlays: &[]store.OverlayRef{{Overlay: "other"}}})
	if j := w.do(w.StartInstance, "i", JobFailed); !strings.Contains(j.Cause, "overlay other: revision 1: its directory is missing") {
		t.Errorf("%q", j.Cause)
	}
}

func TestOldRevisionsGoWhenNobodyNeedsThem(t *testing.T) {
	w := newWorld(t)
	w.overlay("sm", map[string]string{"a": "2"})
	if _, err := w.UpdateOverlay("sm", "files", OverlayChanges{Keep: ptr(uint32(0))}, nil); err != nil {
		t.Fatal(err)
	}
	w.settled()
	for _, name := range []string{"up", "down"} {
		w.create(name, Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm"}}})
		w.do(w.StartInstance, name, JobDone)
	}
	w.do(w.StopInstance, "down", JobDone)
	w.importFiles("sm", Import{}, map[string]string{"a": "3"}, JobDone)
	w.publishGame()
	w.publishGame()
	w.revisionsChanged(store.Game)
	w.settled()
	if got := w.entries("overlays/1"); !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("while one server has revision 2 in its plan, there are %q", got)
	}
	if got := w.entries("game"); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("of the game there are %q", got)
	}
	if plan, _, err := w.Layout.ReadInstance("down"); err != nil || !slices.Equal(plan.Lower, []string{"overlays/1/2", "game/1"}) {
		t.Errorf("nothing was removed, so nobody was to be moved: %v, %v", plan, err)
	}
	w.do(w.StopInstance, "up", JobDone)
	w.settled()
	if got := w.entries("overlays/1"); !slices.Equal(got, []string{"3"}) {
		t.Errorf("when all are down, there are %q", got)
	}
	if got := w.entries("game"); !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("of the game there are %q", got)
	}
	if plan, _, err := w.Layout.ReadInstance("down"); err != nil || !slices.Equal(plan.Lower, []string{"overlays/1/3", "game/3"}) {
		t.Errorf("%v, %v", plan, err)
	}
	if err := w.SetGameRevision(2); err != nil {
		t.Fatal(err)
	}
	w.settled()
	if got := w.entries("game"); !slices.Equal(got, []string{"2"}) || w.GameRevision() != 2 {
		t.Errorf("after a rollback: %q, current %d", got, w.GameRevision())
	}
	if err := w.SetGameRevision(3); AsCode(err) != InvalidArgument {
		t.Errorf("%v", err)
	}
}

func TestWhatAnImportIsMadeOfStays(t *testing.T) {
	w := newWorld(t)
	w.overlay("sm", map[string]string{"a": "2"})
	w.importFiles("sm", Import{}, map[string]string{"a": "3"}, JobDone)
	w.settled()
	base := w.holdBase(1)
	if _, err := w.UpdateOverlay("sm", "", OverlayChanges{}, ptr(uint32(2))); err != nil {
		t.Fatal(err)
	}
	w.settled()
	if got := w.entries("overlays/1"); base != 3 || !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("while an import links the files of revision %d, there are %q", base, got)
	}
	w.releaseBase(1, base)
	w.collectSoon()
	w.settled()
	if got := w.entries("overlays/1"); !slices.Equal(got, []string{"2"}) {
		t.Errorf("%q", got)
	}
}

// An overlay may have the name of an instance.
func TestAJobOfAnOverlayIsNotOvertakenByAnInstances(t *testing.T) {
	w := newWorld(t)
	o := w.overlay("a", nil)
	w.create("a", Changes{})
	row := store.Job{ID: 100, Kind: deleteOverlayKind, Target: "a", Instance: int64(o.ID), State: JobRunning, Timeout: time.Minute, Created: now(), Started: now()}
	later := store.Job{ID: 101, Kind: "start", Target: "a", State: JobDone, Created: now(), Started: now(), Finished: now()}
	if err := errors.Join(w.Store.PutJob(row), w.Store.PutJob(later)); err != nil {
		t.Fatal(err)
	}
	w.again()
	if j := w.events.wait(t, 100); j.State != JobDone {
		t.Errorf("%+v", j)
	}
	if _, err := w.Overlay("a"); AsCode(err) != NoSuchOverlay {
		t.Errorf("%v", err)
	}
}

func TestWhatIsMountedIsNotKnown(t *testing.T) {
	w := newWorld(t)
	if _, err := w.setAside(context.Background()); err != nil {
		t.Fatal(err)
	}
	// A mount helper that hangs keeps revisions, and no start waits for it.
	held, err := w.Layout.FreezeMounts(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.setAside(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	w.create("a", Changes{})
	w.do(w.StartInstance, "a", JobDone)
	held()
}

func TestWhatWasStagedIsNoChangeOfTheServers(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.do(w.StartInstance, "a", JobDone)
	_, cfg, err := w.Layout.ReadInstance("a")
	if err != nil {
		t.Fatal(err)
	}
	w.mkdir("state/runtime/a/upper/left4dead2/cfg")
	file := filepath.Join(w.root, "state/runtime/a/upper/left4dead2/cfg/server.cfg")
	for _, c := range []struct {
		text string
		want bool
	}{{string(cfg["server.cfg"]), true}, {"rcon_password stolen", false}} {
		if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := w.untouched("a")["left4dead2/cfg/server.cfg"]; got != c.want {
			t.Errorf("%.20q is as it was staged: %v", c.text, got)
		}
	}
}
