package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// problems are those that are found, but for what a directory of a test may have.
func (w *world) problems() (all []Problem) {
	w.t.Helper()
	for _, p := range w.Problems(context.Background()) {
		if p.Kind != "full-disk" && p.Severity != SeverityNotice {
			all = append(all, p)
		}
	}
	return all
}

func (w *world) found(kind, name string) *Problem {
	w.t.Helper()
	for _, p := range w.Problems(context.Background()) {
		if p.Kind == kind && p.Name == name {
			return &p
		}
	}
	return nil
}

func (w *world) repairAll(result string, which ...string) Job {
	w.t.Helper()
	j, err := w.RepairProblems(which, Request{})
	if err != nil {
		w.t.Fatal(err)
	}
	if j = w.events.wait(w.t, j.ID); j.State != result {
		w.t.Fatalf("the repair ended %s: %s; %+v", j.State, j.Cause, w.problems())
	}
	return j
}

// lost ends the daemon, as an unplugged machine would, and does something before the next one.
func (w *world) lost(do func(db string)) {
	w.t.Helper()
	w.Close()
	w.Store.Close()
	do(filepath.Join(w.root, "state/left4.db"))
	w.open()
}

// tidy makes the directories as tmpfiles.d makes them.
func (w *world) tidy() {
	w.t.Helper()
	for dir, mode := range map[string]os.FileMode{"instances": 0o700, "runtime": 0o700, "overlays": 0o755, "game": 0o755} {
		if err := os.Chmod(filepath.Join(w.root, "state", dir), mode); err != nil {
			w.t.Fatal(err)
		}
	}
}

// full makes a world with something of everything: an instance that runs, with a blueprint and two overlays.
func full(t *testing.T) *world {
	w := newWorld(t)
	w.tidy()
	w.overlay("sm", map[string]string{"left4dead2/cfg/server.cfg": "// sm"})
	w.overlay("maps", map[string]string{"left4dead2/maps/a.bsp": "map"})
	if _, err := w.CreateBlueprint("bp", Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm", Alias: "*"}}, Config: &[]string{"sv_cheats 0"}}, 1000); err != nil {
		t.Fatal(err)
	}
	limit := uint64(1 << 30)
	w.create("a", Changes{
		Port: ptr[uint16](27030), Label: ptr("A"), Hostname: ptr("A server"), Arguments: &[]string{"+map", "c1m1"}, Config: &[]string{"sv_x 1"},
		Overlays: &[]store.OverlayRef{{Overlay: "maps"}}, Restart: ptr("on-failure"), Limits: &units.Limits{MemoryMax: &limit}, Blueprint: ptr("bp"),
	})
	w.do(w.StartInstance, "a", JobDone)
	for _, dir := range []string{"runtime/a/upper/left4dead2", "runtime/a/work"} {
		w.mkdir("state/" + dir)
	}
	if p := w.problems(); len(p) != 0 {
		t.Fatalf("%+v", p)
	}
	return w
}

// tree is every path below the state directory but the database's, with what is in it.
func (w *world) tree() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	state := filepath.Join(w.root, "state")
	err := filepath.WalkDir(state, func(path string, e os.DirEntry, err error) error {
		if err != nil || strings.HasPrefix(e.Name(), "left4.db") {
			return err
		}
		text, _ := os.ReadFile(path)
		all[strings.TrimPrefix(path, state)] = string(text)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// Without a database and without a backup nothing is known any more, nothing is touched, and a repair brings all of it back.
func TestWithoutADatabaseAllIsBroughtBack(t *testing.T) {
	w := full(t)
	before, tree, pid := w.definitionOf("a"), w.tree(), w.mainPID("a")
	calls := len(w.units.Calls())
	w.lost(func(db string) {
		for _, path := range []string{db, db + ".backup"} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	})
	if len(w.Instances()) != 0 || len(w.Overlays()) != 0 {
		t.Fatal("something is known")
	}
	for kind, names := range map[string][]string{
		"orphaned-instance": {"a"}, "orphaned-overlay": {"1", "2"}, "orphaned-revision": {"game/1"},
	} {
		for _, name := range names {
			if p := w.found(kind, name); p == nil || p.Repair == "" {
				t.Errorf("%s %s: %+v", kind, name, p)
			}
		}
	}
	if _, err := w.CreateInstance("a", Changes{}, 1000); AsCode(err) != InUse {
		t.Errorf("the name was given: %v", err)
	}
	// New ids are above all that lies there.
	if o := w.overlay("new", nil); o.ID != 3 {
		t.Errorf("the new overlay has the id %d", o.ID)
	}
	w.do(w.DeleteOverlay, "new", JobDone)
	if got := w.tree(); !reflect.DeepEqual(got, tree) {
		t.Error("something on disk has changed")
	}
	w.repairAll(JobDone)
	if p := w.problems(); len(p) != 0 {
		t.Errorf("%+v", p)
	}
	if got := w.definitionOf("a"); !reflect.DeepEqual(got, before) {
		t.Errorf("it was\n%+v and is\n%+v", before, got)
	}
	if b, err := w.Blueprint("bp"); err != nil || !slices.Equal(b.Instances, []string{"a"}) || !slices.Equal(b.Config.V, []string{"sv_cheats 0"}) {
		t.Errorf("%+v, %v", b, err)
	}
	in, err := w.Instance("a")
	if err != nil || in.State != Running || in.Desired != Running || in.MainPID != pid {
		t.Errorf("%+v, %v", in, err)
	}
	if o, err := w.Overlay("maps"); err != nil || o.ID != 2 || o.Revision != 2 || len(o.Revisions) != 2 {
		t.Errorf("%+v, %v", o, err)
	}
	if got := w.tree(); !reflect.DeepEqual(got, tree) {
		t.Error("something on disk has changed")
	}
	for _, call := range w.units.Calls()[calls:] {
		if call != "probe " { // a question
			t.Errorf("systemd was asked to %s", call)
		}
	}
	w.repairAll(JobSkipped)
	w.do(w.RestartInstance, "a", JobDone)
	w.do(w.StopInstance, "a", JobDone)
}

func (w *world) definitionOf(name string) store.Instance {
	w.t.Helper()
	in, err := w.Instance(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return in.Instance
}

func (w *world) mainPID(name string) uint32 {
	w.t.Helper()
	in, err := w.Instance(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return in.MainPID
}

// What came after the backup is lost, and is told; what lies on disk of it comes back.
func TestAfterARestore(t *testing.T) {
	w := full(t)
	if err := w.Store.BackUp(); err != nil {
		t.Fatal(err)
	}
	backup, err := os.ReadFile(filepath.Join(w.root, "state/left4.db.backup"))
	if err != nil {
		t.Fatal(err)
	}
	w.importFiles("sm", Import{}, map[string]string{"left4dead2/x": "3"}, JobDone)
	w.importFiles("sm", Import{}, map[string]string{"left4dead2/x": "4"}, JobDone)
	w.do(w.RestartInstance, "a", JobDone)
	game := w.publishGame()
	w.overlay("later", map[string]string{"x": "y"})
	w.create("b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "later", Alias: "cfg"}}})
	w.do(w.StartInstance, "b", JobDone)
	w.create("c", Changes{})
	b := w.definitionOf("b")
	last := w.lastJob
	w.lost(func(db string) {
		if err := os.WriteFile(db+".backup", backup, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(db, []byte(strings.Repeat("garbage", 3000)), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	tree := w.tree()
	if p := w.found("restored-database", "left4.db"); p == nil || !strings.Contains(p.What, "is lost") || p.Severity != SeverityError {
		t.Errorf("%+v", p)
	}
	if all, _ := w.Store.Damaged(); len(all) != 1 || w.found("damaged-copy", filepath.Base(all[0])) == nil {
		t.Errorf("damaged copies %q", all)
	}
	for kind, names := range map[string][]string{
		"orphaned-instance": {"b"}, "orphaned-overlay": {"3"}, "orphaned-revision": {"overlays/1/4", layerName(store.Game, game)},
	} {
		for _, name := range names {
			if p := w.found(kind, name); p == nil || p.Repair == "" {
				t.Errorf("%s %s: %+v", kind, name, p)
			}
		}
	}
	w.repairAll(JobDone, "orphaned-overlay", "orphaned-revision", "orphaned-instance")
	if got := w.definitionOf("b"); !reflect.DeepEqual(got, b) {
		t.Errorf("it was\n%+v and is\n%+v", b, got)
	}
	if o, _ := w.Overlay("sm"); o.Revision != 4 {
		t.Errorf("%+v", o)
	}
	if w.GameRevision() != game {
		t.Errorf("the game is at %d", w.GameRevision())
	}
	// It is told until somebody has taken note of it, and after a restart too.
	w.again()
	if w.found("restored-database", "left4.db") == nil {
		t.Error("the loss is not told any more")
	}
	w.repairAll(JobDone)
	if p := w.problems(); len(p) != 0 {
		t.Errorf("%+v", p)
	}
	for path, text := range tree {
		if got, ok := w.tree()[path]; (!ok || got != text) && !strings.HasPrefix(path, "/overlays/1/2") && !strings.HasPrefix(path, "/overlays/1/1") {
			t.Errorf("%s has changed", path)
		}
	}
	if w.lastJob <= last {
		t.Errorf("job %d was given out before", w.lastJob)
	}
}

// A backup of the middle of an import must not make the next left4d remove what that import has put in place since.
func TestARestoreInTheMiddleOfAnImportRemovesNothing(t *testing.T) {
	w := full(t)
	id, err := w.Store.AddRevision(1, 4242, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Store.PutJob(store.Job{ID: 4242, Kind: importOverlayKind, Target: "sm", Instance: 1, State: JobRunning, Created: 1, Started: 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.Store.PutJob(store.Job{ID: 4243, Kind: "delete", Target: "a", State: JobRunning, Created: 1, Started: 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.Store.BackUp(); err != nil {
		t.Fatal(err)
	}
	w.mkdir("state/" + layerName(1, id) + "/left4dead2")
	w.lost(func(db string) { os.Remove(db) })
	if !w.exists("state/" + layerName(1, id) + "/left4dead2") {
		t.Fatal("it was removed")
	}
	if in, err := w.Instance("a"); err != nil || in.State != Running {
		t.Errorf("a delete of earlier was done again: %+v, %v", in.State, err)
	}
	if p := w.found("orphaned-revision", layerName(1, id)); p == nil || p.Repair == "" {
		t.Errorf("%+v", p)
	}
	if next, err := w.Store.AddRevision(1, 0, 1); err != nil || next != id+1 {
		t.Errorf("%d, %v", next, err)
	}
}

// An overlay that was just created when the backup was made is not given an empty revision over the files that it has.
func TestARestoreOfAnOverlayWithoutRevisions(t *testing.T) {
	w := newWorld(t)
	o := store.Overlay{Name: "sm", Type: "files", Owner: 1, Created: 1}
	if err := w.Store.CreateOverlay(&o); err != nil {
		t.Fatal(err)
	}
	if err := w.Store.BackUp(); err != nil {
		t.Fatal(err)
	}
	w.mkdir("state/overlays/1/1/left4dead2")
	w.lost(func(db string) { os.Remove(db) })
	if got, _ := w.Overlay("sm"); got.Revision != 0 {
		t.Errorf("%+v", got)
	}
	w.again()
	w.repairAll(JobDone, "orphaned-revision/overlays/1/1")
	if got, _ := w.Overlay("sm"); got.Revision != 1 || !w.exists("state/overlays/1/1/left4dead2") {
		t.Errorf("%+v", got)
	}
}

func TestAnInstanceOfWhichLittleIsLeft(t *testing.T) {
	for name, c := range map[string]struct {
		lose func(w *world)
		want func(def store.Instance) bool
	}{
		"no definition": {func(w *world) { os.Remove(filepath.Join(w.root, "state/instances/a/definition.json")) },
			func(def store.Instance) bool {
				return def.Port == 27030 && fmt.Sprint(def.Overlays.V) == "[{recovered-2 *} {recovered-1 *}]" && def.Blueprint == "" && def.RconPassword != ""
			}},
		"a definition of another": {func(w *world) {
			path := filepath.Join(w.root, "state/instances/a/definition.json")
			text, _ := os.ReadFile(path)
			os.WriteFile(path, []byte(strings.Replace(string(text), `"a"`, `"b"`, 1)), 0o600)
		}, func(def store.Instance) bool { return def.Port == 27030 }},
		"half a definition": {func(w *world) { os.Truncate(filepath.Join(w.root, "state/instances/a/definition.json"), 100) },
			func(def store.Instance) bool { return def.Port == 27030 }},
		"nothing rendered": {func(w *world) { os.RemoveAll(filepath.Join(w.root, "state/instances/a")) },
			func(def store.Instance) bool { return def.Port == 27030 && len(def.Overlays.V) == 0 }},
		"only what it wrote": {func(w *world) {
			os.RemoveAll(filepath.Join(w.root, "state/instances/a"))
			os.RemoveAll(filepath.Join(w.root, "etc"))
			w.mkdir("etc")
			w.units.Set(units.ServerUnit("a"), units.State{Active: "inactive"})
		}, func(def store.Instance) bool { return def.Port == 27015 }},
		"only a link": {func(w *world) {
			os.RemoveAll(filepath.Join(w.root, "state/instances/a"))
			os.RemoveAll(filepath.Join(w.root, "state/runtime/a"))
			os.RemoveAll(filepath.Join(w.root, "etc/left4-server@a.service.d"))
		}, func(def store.Instance) bool { return def.Port == 27015 }},
	} {
		t.Run(name, func(t *testing.T) {
			w := full(t)
			c.lose(w)
			w.lost(func(db string) {
				os.Remove(db)
				os.Remove(db + ".backup")
			})
			if p := w.found("orphaned-instance", "a"); p == nil || p.Repair == "" {
				t.Fatalf("%+v", p)
			}
			w.repairAll(JobDone)
			if def := w.definitionOf("a"); !c.want(def) {
				t.Errorf("%+v", def)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	for name, c := range map[string]struct {
		kind, about string
		do          func(w *world)
		remains     bool                 // a person has to mend it
		after       func(w *world) error // the repair
	}{
		"a missing current revision": {kind: "missing-revision", about: "overlays/2/2", do: func(w *world) {
			os.RemoveAll(filepath.Join(w.root, "state/overlays/2/2"))
		}, after: func(w *world) error {
			if o, _ := w.Overlay("maps"); o.Revision != 1 || len(o.Revisions) != 1 {
				return fmt.Errorf("%+v", o)
			}
			return nil
		}},
		"a missing older revision": {kind: "missing-revision", about: "overlays/2/1", do: func(w *world) {
			os.RemoveAll(filepath.Join(w.root, "state/overlays/2/1"))
		}, after: func(w *world) error {
			if o, _ := w.Overlay("maps"); o.Revision != 2 || len(o.Revisions) != 1 {
				return fmt.Errorf("%+v", o)
			}
			return nil
		}},
		"an old revision of nobody": {kind: "orphaned-revision", about: "overlays/2/1", remains: true, do: func(w *world) {
			if err := w.forget(2, 1); err != nil {
				w.t.Fatal(err)
			}
		}},
		"an overlay of nobody": {kind: "orphaned-overlay", about: "9", do: func(w *world) { w.mkdir("state/overlays/9/4/left4dead2") }, after: func(w *world) error {
			if o, err := w.Overlay("recovered-9"); err != nil || o.Revision != 4 {
				return fmt.Errorf("%+v, %v", o, err)
			}
			return nil
		}},
		"a missing overlay": {kind: "missing-overlay", about: "a", remains: true, do: func(w *world) {
			if err := w.Store.DeleteOverlay(2); err != nil {
				w.t.Fatal(err)
			}
			os.RemoveAll(filepath.Join(w.root, "state/overlays/2"))
			w.again()
		}},
		"a missing drop-in": {kind: "changed-unit", about: "a", do: func(w *world) { os.Remove(w.Config.DropInPath("a")) }},
		"a changed drop-in": {kind: "changed-unit", about: "a", do: func(w *world) {
			text, _ := os.ReadFile(w.Config.DropInPath("a"))
			os.WriteFile(w.Config.DropInPath("a"), []byte(strings.Replace(string(text), "27030", "27031", 1)), 0o644)
		}},
		"an open directory": {kind: "wrong-owner", about: "instances", do: func(w *world) { os.Chmod(filepath.Join(w.root, "state/instances"), 0o755) }},
		"a closed runtime":  {kind: "wrong-owner", about: "runtime/a", do: func(w *world) { os.Chmod(filepath.Join(w.root, "state/runtime/a"), 0o700) }},
		"a foreign upper": {kind: "wrong-owner", about: "runtime/a/upper", do: func(w *world) {
			if os.Geteuid() != 0 {
				w.t.Skip("only root can give a directory away")
			}
			os.Chown(filepath.Join(w.root, "state/runtime/a/upper"), 1234, 1234)
		}},
		"half an instance": {kind: "leftover", about: "instances/.a.aside", do: func(w *world) { w.mkdir("state/instances/.a.aside/cfg") }},
		"half an import":   {kind: "leftover", about: "overlays/2/.import-9", do: func(w *world) { w.mkdir("state/overlays/2/.import-9/x") }},
		"a mask": {kind: "masked-unit", about: "a", remains: true, do: func(w *world) {
			os.Symlink(os.DevNull, filepath.Join(w.root, "etc", units.ServerUnit("a")))
		}},
		"an override": {kind: "edited-unit", about: "override.conf", remains: true, do: func(w *world) {
			os.WriteFile(filepath.Join(filepath.Dir(w.Config.DropInPath("a")), "override.conf"), []byte("[Service]\n"), 0o644)
		}},
		"a unit of their own": {kind: "edited-unit", about: "left4-overlay@.service", remains: true, do: func(w *world) {
			os.WriteFile(filepath.Join(w.root, "etc/left4-overlay@.service"), []byte("[Service]\n"), 0o644)
		}},
		"no backup": {kind: "failed-backup", about: "left4.db", remains: true, do: func(w *world) {
			w.mkdir("state/left4.db.backup.part/x")
			w.Store.BackUp()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := full(t)
			c.do(w)
			var found *Problem
			for _, p := range w.Problems(context.Background()) {
				if p.Kind == c.kind && strings.HasSuffix(p.Name, c.about) {
					found = &p
				}
			}
			if found == nil {
				t.Fatalf("it is not found: %+v", w.problems())
			}
			if c.remains {
				if found.Repair != "" && c.kind != "failed-backup" {
					t.Errorf("%+v", found)
				}
				return
			}
			tree := w.tree()
			w.repairAll(JobDone, c.kind+"/"+found.Name)
			if p := w.found(c.kind, found.Name); p != nil {
				t.Errorf("it is not repaired: %+v", p)
			}
			if p := w.problems(); len(p) != 0 {
				t.Errorf("%+v", p)
			}
			for path := range tree {
				if _, ok := w.tree()[path]; !ok && c.kind != "leftover" {
					t.Errorf("the repair removed %s", path)
				}
			}
			if c.after != nil {
				if err := c.after(w); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestRepairsThatThereAreNot(t *testing.T) {
	w := newWorld(t)
	for _, which := range [][]string{{"nonsense"}, {"orphaned-instance", "x/y"}, {""}, {"full-disk"}, {"edited-unit/x"}} {
		if _, err := w.RepairProblems(which, Request{}); AsCode(err) != InvalidArgument {
			t.Errorf("%q: %v", which, err)
		}
	}
	w.tidy()
	w.repairAll(JobSkipped, "orphaned-instance/none", "leftover")
}

func TestARunningServerOfNobodyKeepsItsName(t *testing.T) {
	w := newWorld(t)
	w.units.Set(units.ServerUnit("x"), units.State{Active: "active", Sub: "running", MainPID: 7})
	if _, err := w.CreateInstance("x", Changes{}, 1000); AsCode(err) != InUse {
		t.Errorf("%v", err)
	}
	if p := w.found("orphaned-instance", "x"); p == nil {
		t.Error("it is not listed")
	}
	w.do(w.DeleteInstance, "x", JobDone)
	w.create("x", Changes{})
}

// What was deleted after a repair had found it stays deleted.
func TestARepairBringsNothingBackThatIsDeletedMeanwhile(t *testing.T) {
	w := full(t)
	w.lost(func(db string) {
		os.Remove(db)
		os.Remove(db + ".backup")
	})
	if w.found("orphaned-instance", "a") == nil {
		t.Fatal("it is not listed")
	}
	w.do(w.DeleteInstance, "a", JobDone)
	if err := w.adoptInstance(context.Background(), &job{}, "a"); err != nil {
		t.Error(err)
	}
	if in, err := w.Instance("a"); err == nil {
		t.Errorf("%+v", in)
	}
}

// An instance whose port is not known any more takes none that one of those has had that are brought back with it.
func TestWhatIsBroughtBackKeepsItsPort(t *testing.T) {
	w := full(t)
	w.create("b", Changes{})
	w.do(w.StartInstance, "b", JobDone)
	port := w.definitionOf("b").Port
	if port != PortRange.First {
		t.Fatalf("b has port %d", port)
	}
	os.RemoveAll(filepath.Join(w.root, "state/instances/a"))
	os.Remove(w.Config.DropInPath("a"))
	w.lost(func(db string) {
		os.Remove(db)
		os.Remove(db + ".backup")
	})
	w.repairAll(JobDone)
	if got := w.definitionOf("b").Port; got != port {
		t.Errorf("b has port %d, and a %d", got, w.definitionOf("a").Port)
	}
}

// What somebody else keeps between left4's files is not left4's to remove.
func TestARepairRemovesOnlyWhatLeft4Made(t *testing.T) {
	w := full(t)
	others := []string{"overlays/.snapshots/1", "overlays/2/.git", "game/.Trash-0", "instances/.backup", "runtime/.hidden"}
	for _, dir := range others {
		w.mkdir("state/" + dir)
	}
	w.mkdir("state/overlays/2/.merge-9")
	w.repairAll(JobDone)
	for _, dir := range others {
		if !w.exists("state/" + dir) {
			t.Errorf("%s is gone", dir)
		}
	}
	if w.exists("state/overlays/2/.merge-9") {
		t.Error("what was half made is still there")
	}
}
