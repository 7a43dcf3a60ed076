package daemon

import (
	"bytes"
	"errors"
	"fmt"
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

// steam is a world whose workers install what Steam has.
type steam struct {
	*world
	build   int
	files   map[string]string // that the build has and the last one has not
	orders  []order.Install
	failure string // the worker's, after it has written the files
	spoiled bool   // by which it says that they are the cause
}

func newSteam(t *testing.T, w *world) *steam {
	s := &steam{world: w, build: 100}
	w.settings("[Game]\nSteamCMD=/bin/true\n")
	s.open()
	return s
}

func (s *steam) open() {
	s.units.Work = s.work
}

func (s *steam) work(w units.Worker) units.State {
	var o order.Install
	if err := order.Read(bytes.NewReader(w.Order), &o); err != nil {
		s.t.Error(err)
	}
	s.orders = append(s.orders, o)
	note := fmt.Sprintf("build %d", s.build)
	switch {
	case o.Check:
	case o.Build == fmt.Sprint(s.build) && !o.Validate:
		note += " up to date"
	default:
		// What is written to merged lands in upper, but there is no overlayfs here.
		if merged := filepath.Base(w.Dir) == "merged"; merged != slices.Equal(w.Needs, []string{"left4-overlay@_game.service"}) {
			s.t.Errorf("it works in %s and needs %q", w.Dir, w.Needs)
		}
		s.mkdir("state/runtime/_game/upper")
		for name, text := range s.files {
			s.write("state/runtime/_game/upper/"+name, []byte(text))
		}
		s.write("state/runtime/_game/upper/steamapps/appmanifest_222860.acf", []byte(fmt.Sprint(len(s.orders))))
	}
	if s.failure != "" {
		end := units.State{Active: "failed", StatusText: status.Error(s.failure), ExecMainCode: cldExited, ExecMainStatus: 1}
		if s.spoiled {
			end.ExecMainStatus = order.Spoiled
		}
		return end
	}
	return units.State{Active: "active", Sub: "exited", StatusText: status.Done(int64(len(s.files)), 7, note)}
}

// install runs a job to its end.
func (s *steam) install(mode, result string) Job {
	s.t.Helper()
	j, err := s.InstallGame(mode, Request{})
	if err != nil {
		s.t.Fatal(err)
	}
	j = s.events.wait(s.t, j.ID)
	if j.State != result {
		s.t.Fatalf("%s ended %s, %q, %q", mode, j.State, j.Status, j.Cause)
	}
	return j
}

// lower is what the next start of a new instance mounts.
func (s *steam) lower() []string {
	s.t.Helper()
	r, err := s.render(store.Instance{Name: "x", Port: 27015, Restart: "always", RconPassword: "x"})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.plan.Lower
}

func (s *steam) update(files map[string]string) {
	s.t.Helper()
	s.build++
	s.files = files
	s.install(ModeUpdate, JobDone)
}

func TestTheGameIsInstalledFromNothing(t *testing.T) {
	w := &world{t: t, root: t.TempDir()}
	for _, dir := range []string{"state/game", "state/overlays", "state/instances", "state/runtime", "run/stale", "run/mounted", "etc"} {
		w.mkdir(dir)
	}
	w.open()
	if _, err := w.InstallGame("", Request{}); AsCode(err) != NotInstalled || !strings.Contains(err.Error(), "/opt/steamcmd/steamcmd.sh") {
		t.Errorf("without SteamCMD: %v", err)
	}
	s := newSteam(t, w)
	if _, err := w.InstallGame(ModeUpdate, Request{}); AsCode(err) != NotInstalled {
		t.Errorf("an update of nothing: %v", err)
	}
	if _, err := w.InstallGame("reinstall", Request{}); AsCode(err) != InvalidArgument {
		t.Errorf("a mode that is none: %v", err)
	}
	if j := s.install(ModeCheck, JobDone); j.Status != "build 100 is available, the game is not installed" || w.GameRevision() != 0 {
		t.Errorf("%q, revision %d", j.Status, w.GameRevision())
	}
	s.files = map[string]string{"srcds_run": "1", "left4dead2/a": "1"}
	if j := s.install("", JobDone); j.Status != "build 100 is installed, as revision 1" {
		t.Errorf("%q", j.Status)
	}
	now, available, all := w.Game()
	if now.ID != 1 || now.Base != 0 || now.Info.V.Build != "100" || available != "100" || now.Files != 2 || now.Bytes != 7 || len(all) != 1 {
		t.Errorf("%+v, %s, %d revisions", now, available, len(all))
	}
	if got := s.lower(); !slices.Equal(got, []string{"game/1"}) || !w.exists("state/game/1/left4dead2/a") || w.exists("state/runtime/_game") {
		t.Errorf("%q", got)
	}
	w.again()
	s.open()
	if j := s.install(ModeInstall, JobDone); j.Status != "build 100 is the newest one, and installed" || w.GameRevision() != 1 {
		t.Errorf("%q, revision %d", j.Status, w.GameRevision())
	}
}

func TestAnUpdateHoldsWhatHasChanged(t *testing.T) {
	s := newSteam(t, newWorld(t))
	s.create("a", Changes{})
	s.do(s.StartInstance, "a", JobDone)
	s.files = map[string]string{"left4dead2/b": "2"}
	s.install(ModeUpdate, JobDone) // of a game that was imported, so nobody knows its build
	now, _, _ := s.Game()
	if now.ID != 2 || now.Base != 1 || now.Files != 2 {
		t.Errorf("%+v", now)
	}
	if got := s.lower(); !slices.Equal(got, []string{"game/2", "game/1"}) {
		t.Errorf("the next start mounts %q", got)
	}
	if in, _ := s.Instance("a"); in.PendingCause == "" || in.State != Running {
		t.Errorf("the server that runs: %+v", in)
	}
	if s.exists("state/game/1/left4dead2/b") || s.exists("state/runtime/_game") || s.exists("state/instances/_game") {
		t.Error("something is where it should not be")
	}
	// Its base stays as long as it does, whatever is kept.
	s.update(map[string]string{"left4dead2/c": "3"})
	s.update(map[string]string{"left4dead2/c": "4"})
	s.collectSoon()
	if got := s.lower(); !slices.Equal(got, []string{"game/4", "game/3", "game/2", "game/1"}) || !s.exists("state/game/1") {
		t.Errorf("the next start mounts %q", got)
	}
	if err := s.SetGameRevision(3); err != nil || !slices.Equal(s.lower(), []string{"game/3", "game/2", "game/1"}) {
		t.Errorf("after a rollback: %v, %q", err, s.lower())
	}
	// What was installed before can be known without the database, too.
	if base, noted := s.notedBase(3); base != 2 || !noted {
		t.Errorf("revision 3 lies over %d, %t", base, noted)
	}
	if base, noted := s.notedBase(1); base != 0 || noted {
		t.Errorf("revision 1 lies over %d, %t", base, noted)
	}
}

func TestNothingNewMakesNoRevision(t *testing.T) {
	s := newSteam(t, newWorld(t))
	s.files = map[string]string{"left4dead2/b": "2"}
	s.install(ModeInstall, JobDone)
	if j := s.install(ModeUpdate, JobDone); j.Status != "build 100 is the newest one, and installed" {
		t.Errorf("%q", j.Status)
	}
	s.files = nil
	if j := s.install(ModeValidate, JobDone); j.Status != "build 100 is installed, and nothing had to be changed" {
		t.Errorf("%q", j.Status)
	}
	if last := s.orders[len(s.orders)-1]; !last.Validate || last.Build != "100" {
		t.Errorf("%+v", last)
	}
	if s.GameRevision() != 2 || s.exists("state/game/.import-4") {
		t.Errorf("revision %d", s.GameRevision())
	}
	s.files = map[string]string{"left4dead2/b": "mended"}
	s.install(ModeValidate, JobDone)
	if got := s.lower(); len(got) != 3 {
		t.Errorf("after a mend: %q", got)
	}
}

func TestManyUpdatesAreJoined(t *testing.T) {
	s := newSteam(t, newWorld(t))
	var joined units.Squashing
	s.units.Join = func(q units.Squashing) {
		joined = q
		s.write("state/"+q.Into+"/all", []byte("1"))
	}
	for len(s.lower()) < maxGameLayers {
		s.update(map[string]string{"left4dead2/n": fmt.Sprint(s.build)})
	}
	if joined.Into != "" {
		t.Fatalf("%q were joined", joined.Lower)
	}
	layers := s.lower()
	s.update(map[string]string{"left4dead2/n": "last"})
	now, _, _ := s.Game()
	if now.Base != 0 || !s.exists(fmt.Sprintf("state/game/%d/all", now.ID)) || len(s.lower()) != 1 {
		t.Errorf("%+v, %q", now, s.lower())
	}
	if base, noted := s.notedBase(now.ID); base != 0 || !noted {
		t.Errorf("it is noted to lie over %d, %t", base, noted)
	}
	if want := append([]string{fmt.Sprintf("game/.import-%d", now.ID)}, layers...); !slices.Equal(joined.Lower, want) {
		t.Errorf("joined %q, want %q", joined.Lower, want)
	}
}

func TestWhatAFailedInstallationHasDownloadedIsKept(t *testing.T) {
	s := newSteam(t, newWorld(t))
	s.files = map[string]string{"left4dead2/b": "2"}
	s.failure = "SteamCMD failed: no connection"
	if j := s.install(ModeInstall, JobFailed); j.Cause != "cannot install the game: SteamCMD failed: no connection" {
		t.Errorf("%q", j.Cause)
	}
	if !s.exists("state/runtime/_game/upper/left4dead2/b") || s.GameRevision() != 1 {
		t.Error("it is gone")
	}
	s.failure, s.files = "", map[string]string{"left4dead2/c": "3"}
	s.install(ModeInstall, JobDone)
	if n := s.GameRevision(); !s.exists(fmt.Sprintf("state/game/%d/left4dead2/b", n)) {
		t.Error("it was not used")
	}
	// But not over another game.
	s.build++
	s.failure = "no"
	s.install(ModeUpdate, JobFailed)
	if err := s.SetGameRevision(1); err != nil {
		t.Fatal(err)
	}
	s.failure, s.files = "", map[string]string{"left4dead2/d": "3"}
	s.install(ModeUpdate, JobDone)
	if n := s.GameRevision(); s.exists(fmt.Sprintf("state/game/%d/left4dead2/c", n)) || !slices.Equal(s.lower(), []string{fmt.Sprintf("game/%d", n), "game/1"}) {
		t.Errorf("%q", s.lower())
	}
}

// A left4d that ends while an installation does any of these: the next one has the revision, once.
func TestAnInstallationOutlivesLeft4d(t *testing.T) {
	const unit = "left4-build-1.service"
	for name, at := range map[string]string{
		"the worker works": "worker " + unit, "the worker is stopped": "stop " + unit, "its mount goes": "stop left4-overlay@_game.service",
	} {
		t.Run(name, func(t *testing.T) {
			s := newSteam(t, newWorld(t))
			s.files = map[string]string{"left4dead2/b": "2"}
			hold := make(chan struct{})
			if at == "worker "+unit {
				s.units.Work = nil
			} else {
				s.units.Work = func(w units.Worker) units.State {
					s.units.Hold[at] = hold // the first ones are of the preparation
					return s.work(w)
				}
			}
			j, err := s.InstallGame("", Request{})
			if err != nil || units.BuildUnit(j.ID) != unit {
				t.Fatal(j.ID, err)
			}
			for _, call := range []string{"worker " + unit, at} {
				s.units.Wait(t, call)
			}
			s.Close()
			s.Store.Close()
			close(hold)
			s.world.open()
			s.open()
			if at == "worker "+unit {
				s.units.Set(unit, s.work(units.Worker{Order: []byte("{}"), Dir: "x/merged", Needs: []string{"left4-overlay@_game.service"}}))
			}
			if got := s.events.wait(t, j.ID); got.State != JobDone {
				t.Fatalf("%+v", got)
			}
			if now, _, all := s.Game(); len(all) != 2 || now.Base != 1 || now.Info.V.Build != "100" ||
				!s.exists("state/game/2/left4dead2/b") || s.exists("state/runtime/_game") {
				t.Errorf("%+v", all)
			}
		})
	}
}

// A left4d that ends right before it publishes what it has joined: the next one takes it for whole, and not for what lies over the last one.
func TestWhatWasJoinedStaysWhole(t *testing.T) {
	s := newSteam(t, newWorld(t))
	s.update(map[string]string{"left4dead2/b": "2"})
	r := store.Revision{Job: 4242, Created: 1, Base: 2, Sealed: 1}
	var err error
	if r.ID, err = s.Store.AddRevision(store.Game, r.Job, r.Created); err == nil {
		err = s.Store.SealRevision(r)
	}
	if err == nil {
		err = s.Store.PutJob(store.Job{ID: r.Job, Kind: installGameKind, Target: gameTarget, State: JobRunning, Timeout: time.Hour, Created: 1, Started: 1})
	}
	s.mkdir("state/" + layerName(store.Game, r.ID))
	r.Base = 0
	if err = errors.Join(err, s.noteBase(r)); err != nil {
		t.Fatal(err)
	}
	s.again()
	if j := s.events.wait(t, r.Job); j.State != JobDone {
		t.Fatalf("%+v", j)
	}
	if got := s.lower(); !slices.Equal(got, []string{layerName(store.Game, r.ID)}) {
		t.Errorf("the next start mounts %q", got)
	}
}

// What lies over what: also where no database tells.
func TestTheGameComesBackWithAllItsLayers(t *testing.T) {
	for name, older := range map[string]bool{"the database is older": true, "there is none": false} {
		t.Run(name, func(t *testing.T) {
			s := newSteam(t, newWorld(t))
			var backup []byte
			if older {
				s.update(map[string]string{"left4dead2/b": "older"})
				err := s.Store.BackUp()
				if err == nil {
					backup, err = os.ReadFile(filepath.Join(s.root, "state/left4.db.backup"))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for n := range 4 {
				s.update(map[string]string{"left4dead2/b": fmt.Sprint(n)})
			}
			want := s.lower()
			s.lost(func(db string) {
				for _, end := range []string{"", "-wal", "-shm", ".backup"} {
					os.Remove(db + end)
				}
				if older {
					if err := os.WriteFile(db+".backup", backup, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			})
			s.repairAll(JobDone)
			if got := s.lower(); !slices.Equal(got, want) || len(got) < 5 {
				t.Errorf("it is %q, and was %q", got, want)
			}
			if p := s.problems(); slices.ContainsFunc(p, func(p Problem) bool { return strings.HasSuffix(p.Kind, "-revision") }) {
				t.Errorf("%+v", p)
			}
		})
	}
}

// A revision is not taken in over what it cannot lie over, or as a whole one that it is not.
func TestADamagedBaseIsRefused(t *testing.T) {
	for name, link := range map[string]string{"none": "", "itself": "2", "a later one": "3", "one that is gone": "1", "no number": "../../etc"} {
		t.Run(name, func(t *testing.T) {
			s := newSteam(t, newWorld(t))
			s.update(map[string]string{"left4dead2/b": "2"})
			s.lost(func(db string) {
				for _, end := range []string{"", "-wal", "-shm", ".backup"} {
					os.Remove(db + end)
				}
				os.Remove(filepath.Join(s.root, "state/game/.base-2"))
				if link != "" {
					s.link(link, "state/game/.base-2")
				}
				os.RemoveAll(filepath.Join(s.root, "state/game/1"))
			})
			s.repairAll(JobFailed)
			if s.GameRevision() != 0 || !s.exists("state/game/2/left4dead2/b") {
				t.Errorf("revision %d is the game", s.GameRevision())
			}
		})
	}
}

// Whoever collects while an installation gives its revision a name leaves what tells its base.
func TestACollectLeavesTheBaseOfWhatIsBeingPublished(t *testing.T) {
	s := newSteam(t, newWorld(t))
	s.mkdir("state/game/.import-2")
	for _, r := range []store.Revision{{ID: 2, Base: 1}, {ID: 3, Base: 1}} {
		if err := s.noteBase(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.tidyBases(); err != nil {
		t.Fatal(err)
	}
	if _, noted := s.notedBase(2); !noted || s.exists("state/game/.base-3") {
		t.Error("of those at work and of those gone the wrong one is left")
	}
}

// What an administrator has put beside the revisions is neither published nor removed.
func TestAStrangersRevisionIsLeftAlone(t *testing.T) {
	s := newSteam(t, newWorld(t))
	s.write("state/game/2/mine", nil)
	s.update(map[string]string{"left4dead2/b": "2"})
	if got := s.lower(); !slices.Equal(got, []string{"game/3", "game/1"}) || !s.exists("state/game/2/mine") {
		t.Errorf("the next start mounts %q", got)
	}
}

// A number that comes again would make what was downloaded lie over other files.
func TestTheNumberOfADownloadsBaseDoesNotComeAgain(t *testing.T) {
	s := newSteam(t, newWorld(t))
	s.update(map[string]string{"left4dead2/b": "2"})
	s.failure = "SteamCMD failed: no connection"
	s.build++
	s.install(ModeUpdate, JobFailed)
	s.lost(func(db string) {
		for _, end := range []string{"", "-wal", "-shm", ".backup"} {
			os.Remove(db + end)
		}
		os.RemoveAll(filepath.Join(s.root, "state/game/2"))
	})
	if next, err := s.Store.AddRevision(store.Game, 0, 1); err != nil || next != 3 {
		t.Errorf("%d, %v", next, err)
	}
}

// What no other try could mend is not kept for one; and validate begins anew in any case.
func TestWhatASpoiledInstallationHasLeftGoes(t *testing.T) {
	s := newSteam(t, newWorld(t))
	s.files, s.failure, s.spoiled = map[string]string{"left4dead2/fifo": ""}, `"left4dead2/fifo": it is neither a file nor a directory nor a link`, true
	if j := s.install(ModeInstall, JobFailed); !strings.Contains(j.Cause, s.failure) || s.exists("state/runtime/_game") || s.exists("state/instances/_game") {
		t.Errorf("%q, and it is kept", j.Cause)
	}
	s.failure, s.spoiled = "SteamCMD failed: the disk cannot be written to", false
	s.install(ModeUpdate, JobFailed)
	s.files, s.failure = map[string]string{"left4dead2/c": "3"}, ""
	s.install(ModeValidate, JobDone)
	if now := layerName(store.Game, s.GameRevision()); s.exists("state/"+now+"/left4dead2/fifo") || !s.exists("state/"+now+"/left4dead2/c") {
		t.Error("validate has used it")
	}
}

// A worker that systemd does not stop is killed; and while one lives nobody else works where it does.
func TestAWorkerThatCannotBeStopped(t *testing.T) {
	s := newSteam(t, newWorld(t))
	s.update(map[string]string{"left4dead2/b": "2"})
	const frozen = "left4-build-777.service"
	s.units.Set(frozen, units.State{Active: "active", Sub: "running"})
	s.units.Fail["stop "+frozen] = errors.New("frozen")
	s.units.Fail["kill-9 "+frozen] = errors.New("not permitted")
	s.build++
	if j := s.install(ModeUpdate, JobFailed); !strings.Contains(j.Cause, frozen+" of an earlier job cannot be stopped") {
		t.Errorf("%q", j.Cause)
	}
	delete(s.units.Fail, "stop "+frozen)
	s.install(ModeUpdate, JobDone)
	if running, _ := s.units.Running(t.Context(), units.BuildUnits); len(running) > 0 {
		t.Errorf("%q run", running)
	}
}

// A mount that fails, as on a full disk, fails that installation and no other.
func TestAFailedMountIsForgotten(t *testing.T) {
	s := newSteam(t, newWorld(t))
	s.files = map[string]string{"left4dead2/b": "2"}
	unit := units.OverlayUnit(units.GameMount)
	s.units.Set(unit, units.State{Active: "failed", StatusText: "cannot mount _game: no space left on device"})
	s.units.Stopped = func(name string) units.State {
		st, _ := s.units.State(t.Context(), name)
		if name == unit && st.Active == "failed" {
			return st // systemd keeps it
		}
		return units.State{Active: "inactive"}
	}
	s.install(ModeInstall, JobDone)
	if now, _, _ := s.Game(); now.ID != 2 || s.exists("state/runtime/_game") {
		t.Errorf("%+v", now)
	}
}
