package store

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func definition(name string, port uint16) *Instance {
	in := &Instance{Name: name, Port: port, Owner: 1000, Created: 5, Restart: "always", RconPassword: "x"}
	in.Arguments.V, in.Config.V, in.Overlays.V = []string{"+map", "c1:m1"}, []string{"a 'b:c'"}, []OverlayRef{{"sm", "*"}}
	return in
}

func TestADefinitionComesBackAsItWent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "left4.db")
	s := open(t, path)
	in := definition("a", 27015)
	limit := uint64(1<<64 - 1)
	in.Limits.V.MemoryMax, in.Limits.V.AllowedCPUs = &limit, []byte{3}
	if err := s.CreateInstance(in, Ports{}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	all, err := open(t, path).Instances()
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	got := all[0]
	if got.Name != "a" || got.Port != 27015 || !slices.Equal(got.Arguments.V, in.Arguments.V) || !slices.Equal(got.Config.V, in.Config.V) ||
		!slices.Equal(got.Overlays.V, in.Overlays.V) || *got.Limits.V.MemoryMax != limit || !slices.Equal(got.Limits.V.AllowedCPUs, []byte{3}) {
		t.Errorf("got %+v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestNamesAndPortsAreUnique(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "left4.db"))
	free := Ports{27015, 27017}
	if err := s.CreateInstance(definition("a", 27016), free); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateInstance(definition("a", 27016), free); !errors.Is(err, ErrNameTaken) {
		t.Errorf("same name: %v", err)
	}
	if err := s.CreateInstance(definition("b", 27016), free); !errors.Is(err, ErrPortTaken) {
		t.Errorf("same port: %v", err)
	}
	b, c, d := definition("b", 0), definition("c", 0), definition("d", 0)
	if err := s.CreateInstance(b, free); err != nil || b.Port != 27015 {
		t.Errorf("%d, %v", b.Port, err)
	}
	if err := s.CreateInstance(c, free); err != nil || c.Port != 27017 {
		t.Errorf("%d, %v", c.Port, err)
	}
	if err := s.CreateInstance(d, free); !errors.Is(err, ErrNoFreePort) || d.Port != 0 {
		t.Errorf("%d, %v", d.Port, err)
	}
	c.Port = 27016
	if err := s.UpdateInstance(c, free); !errors.Is(err, ErrPortTaken) {
		t.Errorf("update to a taken port: %v", err)
	}
	if err := s.UpdateInstance(d, Ports{1024, 1024}); !errors.Is(err, ErrNotFound) {
		t.Errorf("update of none: %v", err)
	}
	if err := s.DeleteInstance("a"); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateInstance(d, free); err != nil || d.Port != 27016 {
		t.Errorf("%d, %v", d.Port, err)
	}
}

func TestSideBySide(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "left4.db"))
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := s.CreateInstance(definition("a"+strings.Repeat("x", i), 0), Ports{27015, 27115}); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if all, err := s.Instances(); err != nil || len(all) != 40 {
		t.Errorf("%d, %v", len(all), err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	newer := filepath.Join(dir, "newer.db")
	s := open(t, newer)
	if _, err := s.db.Exec("PRAGMA user_version = 999"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	damaged := filepath.Join(dir, "damaged.db")
	if err := os.WriteFile(damaged, []byte("SQLite format 3\x00 and then nothing of the kind"+strings.Repeat("x", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	readable := filepath.Join(dir, "readable.db")
	if err := os.WriteFile(readable, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.db")
	if err := os.Symlink(newer, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{newer: "newer left4", damaged: "", readable: "nobody else may", link: "", dir: ""} {
		before, _ := os.ReadFile(path)
		if s, err := Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", filepath.Base(path), err)
			s.Close()
		}
		if after, _ := os.ReadFile(path); string(after) != string(before) {
			t.Errorf("%s was changed", path)
		}
	}
}

func TestJobs(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "left4.db"))
	for i := range 5 {
		j := Job{ID: uint32(i + 1), Kind: "start", Target: "a", State: "queued", Timeout: time.Minute, Created: int64(i + 1)}
		if i == 4 {
			j.Kind, j.Target = "stop", "b"
		}
		if err := s.PutJob(j); err != nil {
			t.Fatal(err)
		}
		if id, err := s.LastJobID(); err != nil || id != j.ID {
			t.Fatal(id, err)
		}
		j.State, j.Started, j.Finished = "done", int64(i+1), int64(i+1)
		if i != 1 {
			if err := s.PutJob(j); err != nil {
				t.Fatal(err)
			}
		}
	}
	open, err := s.UnfinishedJobs()
	if err != nil || len(open) != 1 || open[0].ID != 2 || open[0].Timeout != time.Minute {
		t.Errorf("%v, %v", open, err)
	}
	if j, err := s.LastJob("a", 0, "x", "start", "stop"); err != nil || j.ID != 4 {
		t.Errorf("%v, %v", j, err)
	}
	if j, err := s.LastJob("a", 5, "x", "start", "stop"); !errors.Is(err, ErrNotFound) {
		t.Errorf("one of a later namesake: %v, %v", j, err)
	}
	if list, err := s.Jobs(JobFilter{Target: "a", State: "done", Limit: 2}); err != nil || len(list) != 2 || list[0].ID != 4 || list[1].ID != 3 {
		t.Errorf("%v, %v", list, err)
	}
	if err := s.PruneJobs(time.UnixMicro(0), 2); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Jobs(JobFilter{Limit: 10}); err != nil || len(list) != 3 {
		t.Errorf("after pruning to 2 and the unfinished one: %v, %v", list, err)
	}
	if _, err := s.Job(1); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	never := Job{ID: 6, Kind: "start", Target: "a", State: "canceled", Requester: 7, RequesterName: "alice", Created: 6, Finished: 6}
	if err := s.PutJob(never); err != nil {
		t.Fatal(err)
	}
	if j, err := s.LastJob("a", 0, "x", "start"); err != nil || j.ID != 4 {
		t.Errorf("one that never began is the last: %v, %v", j, err)
	}
	if list, err := s.Jobs(JobFilter{Requester: &never.Requester, Limit: 10}); err != nil || len(list) != 1 || list[0].RequesterName != "alice" {
		t.Errorf("of user 7: %v, %v", list, err)
	}
}

func TestRevisions(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "left4.db"))
	for _, overlay := range []uint32{Game, 3} {
		one, _ := s.AddRevision(overlay, 7, 1)
		if err := s.DropRevision(overlay, one, 2); err != nil || one != 1 {
			t.Fatal(one, err)
		}
		two, _ := s.AddRevision(overlay, 8, 1)
		if two != 2 {
			t.Errorf("after 1, which was dropped, came %d", two)
		}
		if err := s.SetCurrent(overlay, two); !errors.Is(err, ErrNotFound) {
			t.Errorf("what is not published became current: %v", err)
		}
		for _, id := range []uint32{two, 3} {
			if id == 3 {
				s.AddRevision(overlay, 9, 1)
			}
			if err := s.PublishRevision(Revision{Overlay: overlay, ID: id, Published: 9, Files: 4, Bytes: 5}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.DropRevision(overlay, 3, 2); !errors.Is(err, ErrNotFound) {
			t.Errorf("the current revision was dropped: %v", err)
		}
		if err := s.SetCurrent(overlay, two); err != nil {
			t.Fatal(err)
		}
		if err := s.DropRevision(overlay, 3, 2); err != nil {
			t.Fatal(err)
		}
		if four, _ := s.AddRevision(overlay, 9, 1); four != 4 {
			t.Errorf("after 3, which was removed, came %d", four)
		}
	}
	all, err := s.Revisions()
	if err != nil || len(all) != 4 {
		t.Fatal(all, err)
	}
	if r := all[0]; r != (Revision{Overlay: Game, ID: 2, Job: 8, Created: 1, Published: 9, Files: 4, Bytes: 5, Current: true}) {
		t.Errorf("%+v", r)
	}
	if err := s.DeleteOverlay(3); err != nil {
		t.Fatal(err)
	}
	if all, _ := s.Revisions(); len(all) != 2 {
		t.Errorf("an overlay is gone, its revisions are there: %v", all)
	}
}

func TestOverlaysAndBlueprints(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "left4.db"))
	keep := uint32(3)
	a := Overlay{Name: "a", Type: "files", Owner: 1000, Created: 1, Config: JSON[OverlayConfig]{OverlayConfig{Keep: &keep}}}
	if err := s.CreateOverlay(&a); err != nil || a.ID != 1 {
		t.Fatal(a, err)
	}
	second := a
	if err := s.CreateOverlay(&second); !errors.Is(err, ErrNameTaken) {
		t.Errorf("%v", err)
	}
	if err := s.DeleteOverlay(a.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateOverlay(a); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	if err := s.CreateOverlay(&second); err != nil || second.ID != 2 {
		t.Errorf("an id was given out again: %d, %v", second.ID, err)
	}
	if all, err := s.Overlays(); err != nil || !reflect.DeepEqual(all, []Overlay{second}) {
		t.Errorf("%+v, %v", all, err)
	}

	b := Blueprint{Name: "b", Owner: 1000, Created: 1}
	b.Arguments.V, b.Config.V, b.Overlays.V = []string{"+map"}, []string{}, []OverlayRef{{"a", "*"}}
	if err := s.CreateBlueprint(b); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateBlueprint(b); !errors.Is(err, ErrNameTaken) {
		t.Errorf("%v", err)
	}
	b.Config.V = []string{"sv_cheats 0"}
	if err := s.UpdateBlueprint(b); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Blueprints(); err != nil || !reflect.DeepEqual(all, []Blueprint{b}) {
		t.Errorf("%+v, %v", all, err)
	}
	in := definition("one", 27015)
	in.Blueprint = "c"
	if err := s.CreateInstance(in, Ports{27015, 27016}); err == nil {
		t.Error("an instance follows a blueprint that is not there")
	}
	in.Blueprint = "b"
	if err := s.CreateInstance(in, Ports{27015, 27016}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteBlueprint("b"); err == nil {
		t.Error("a blueprint is gone that an instance follows")
	}
	if all, err := s.Instances(); err != nil || len(all) != 1 || all[0].Blueprint != "b" {
		t.Errorf("%+v, %v", all, err)
	}
	in.Blueprint = ""
	if err := s.UpdateInstance(in, Ports{27015, 27016}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteBlueprint("b"); err != nil {
		t.Error(err)
	}
}

func TestTheFirstSchemaIsMigrated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "left4.db")
	t.Run("itself", func(t *testing.T) { theFirstSchema(t, path, path) })
	if _, err := os.Stat(path + ".v1"); err != nil {
		t.Error(err)
	}
	path = filepath.Join(t.TempDir(), "left4.db")
	t.Run("as the backup", func(t *testing.T) { theFirstSchema(t, path, backupOf(path)) })
	if left, err := filepath.Glob(path + "*"); err != nil || !slices.Equal(left, []string{path, backupOf(path), path + ".v1"}) {
		t.Errorf("%q, %v", left, err)
	}
}

// theFirstSchema opens a database whose file, or backup, is of the first left4.
func theFirstSchema(t *testing.T, path, file string) {
	first, err := schema.ReadFile("schema/0001.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlx.Open("sqlite3", file)
	if err != nil {
		t.Fatal(err)
	}
	db.MustExec(string(first))
	db.MustExec("PRAGMA user_version = 1")
	db.MustExec("INSERT INTO game_revision (job, created, published, current) VALUES (1, 1, 2, 0), (2, 3, 4, 1), (3, 5, 0, 0)")
	db.MustExec("DELETE FROM game_revision WHERE id = 3")
	db.MustExec(`INSERT INTO instance VALUES ('a', 27015, 0, 1, '', '', 'always', 'x', '[]', '[]', '[]', '{}')`)
	db.Close()
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	all, err := s.Revisions()
	if err != nil || len(all) != 2 || all[0].Current || !all[1].Current || all[1].ID != 2 || all[1].Published != 4 {
		t.Errorf("%+v, %v", all, err)
	}
	if id, err := s.AddRevision(Game, 9, 9); id != 4 || err != nil {
		t.Errorf("the number of an import that failed was given out again: %d, %v", id, err)
	}
	if in, err := s.Instances(); err != nil || len(in) != 1 || in[0].Blueprint != "" {
		t.Errorf("%+v, %v", in, err)
	}
}

// What an import was asked for can be megabytes, and the history of jobs is long.
func TestAFinishedJobKeepsNoParameters(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "left4.db"))
	j := Job{ID: 1, Kind: "import-overlay", Target: "a", State: "running"}
	j.Parameters.V.Remove = []string{"x"}
	for _, finished := range []int64{0, 0, 5} {
		j.Finished = finished
		if err := s.PutJob(j); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Job(1); err != nil || (len(got.Parameters.V.Remove) == 0) != (finished != 0) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

func TestWhatARevisionWasMadeOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "left4.db")
	s := open(t, path)
	o := Overlay{Name: "maps", Type: "workshop", Created: 1, Config: JSON[OverlayConfig]{OverlayConfig{Items: []string{"1", "2"}}}}
	if err := s.CreateOverlay(&o); err != nil {
		t.Fatal(err)
	}
	for n := range uint32(3) {
		id, err := s.AddRevision(o.ID, 0, 1)
		if err != nil || id != n+1 {
			t.Fatal(id, err)
		}
		if err := s.PublishRevision(Revision{Overlay: o.ID, ID: id, Published: 2}); err != nil {
			t.Fatal(err)
		}
	}
	build := WorkshopBuild{Items: []WorkshopItem{{ID: "1", Title: "ü", File: "a.vpk", Updated: 3, Bytes: 4}, {ID: "2", Cause: "gone"}}, Collections: []string{"9"}}
	for id, b := range map[uint32]WorkshopBuild{1: {}, 2: build, 3: build} {
		if err := s.PutWorkshop(o.ID, id, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutWorkshop(o.ID, 1, build); err != nil {
		t.Fatal(err)
	}
	if err := s.PutWorkshop(o.ID, 9, build); err == nil {
		t.Error("a revision that is not there was made of something")
	}
	s.Close()
	s = open(t, path)
	if got, err := s.Workshop(o.ID, 1); err != nil || !reflect.DeepEqual(got, build) {
		t.Errorf("%+v, %v", got, err)
	}
	if all, err := s.Overlays(); err != nil || !reflect.DeepEqual(all[0].Config, o.Config) {
		t.Errorf("%+v, %v", all, err)
	}
	if err := errors.Join(s.DropRevision(o.ID, 1, 5), s.LoseRevision(o.ID, 3, 2, 5)); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uint32]error{1: ErrNotFound, 2: nil, 3: ErrNotFound} {
		if _, err := s.Workshop(o.ID, id); !errors.Is(err, want) {
			t.Errorf("revision %d: %v", id, err)
		}
	}
	if err := s.DeleteOverlay(o.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Workshop(o.ID, 2); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
