package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

func TestStartEnablesAndStopDisables(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{Hostname: ptr("My server"), Config: &[]string{"sv_tags x"}})
	w.do(w.StartInstance, "a", JobDone)
	if in, _ := w.Instance("a"); in.State != Running || in.Desired != Running || in.Drifted || in.MainPID != 42 {
		t.Errorf("after start: %+v", in)
	}
	if !w.enabled("a") {
		t.Error("started, but not enabled")
	}
	_, cfg, err := w.Layout.ReadInstance("a")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(cfg["server.cfg"])), "\n")
	if len(lines) != 5 || lines[2] != "sv_tags x" || lines[3] != `hostname "My server"` || !strings.HasPrefix(lines[4], "rcon_password ") {
		t.Errorf("server.cfg is %q", lines)
	}
	w.do(w.StopInstance, "a", JobDone)
	if in, _ := w.Instance("a"); in.State != Stopped || in.Desired != Stopped || !strings.HasPrefix(in.Cause, "stopped by uid 0 (job 2)") && !strings.HasPrefix(in.Cause, "stopped by root (job 2)") {
		t.Errorf("after stop: %+v", in)
	}
	if w.enabled("a") {
		t.Error("stopped, but enabled")
	}
}

func TestStartingWhatRunsDoesNothing(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.do(w.StartInstance, "a", JobDone)
	w.do(w.StartInstance, "a", JobDone)
	if n := w.units.Count("start left4-server@a"); n != 1 {
		t.Errorf("systemd was asked %d times to start", n)
	}
}

func TestARestartThatBringsNothingNewIsPlain(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.do(w.StartInstance, "a", JobDone)
	// Without a mount that says what is mounted, a restart has to stop and start.
	w.do(w.RestartInstance, "a", JobDone)
	if w.units.Count("stop left4-server@a") != 1 || w.units.Count("restart ") != 0 {
		t.Errorf("systemd was asked %q", w.units.Calls())
	}
}

func TestAStopEndsAStart(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.units.Hold["start left4-server@a.service"] = make(chan struct{})
	first, err := w.StartInstance("a", Request{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.StartInstance("a", Request{})
	if err != nil {
		t.Fatal(err)
	}
	stop, err := w.StopInstance("a", Request{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []uint32{first.ID, second.ID} {
		if j := w.events.wait(t, id); j.State != JobCanceled || !strings.Contains(j.Cause, "canceled by stop (job 3)") {
			t.Errorf("job %d: %s, %q", id, j.State, j.Cause)
		}
	}
	if j := w.events.wait(t, stop.ID); j.State != JobDone {
		t.Errorf("the stop: %s, %q", j.State, j.Cause)
	}
	if w.enabled("a") {
		t.Error("enabled after the stop")
	}
}

func TestACanceledStartIsTakenBack(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.units.Hold["start left4-server@a.service"] = make(chan struct{})
	j, err := w.StartInstance("a", Request{Requester: 7})
	if err != nil {
		t.Fatal(err)
	}
	w.units.Wait(t, "start left4-server@a")
	if err := w.CancelJob(j.ID, 0); err != nil {
		t.Fatal(err)
	}
	if j := w.events.wait(t, j.ID); j.State != JobCanceled || !strings.HasPrefix(j.Cause, "canceled by ") {
		t.Errorf("%s, %q", j.State, j.Cause)
	}
	if w.enabled("a") {
		t.Error("enabled after the cancel")
	}
	if w.units.Count("stop left4-server@a") == 0 {
		t.Error("the half-started server was not stopped")
	}
	if err := w.CancelJob(j.ID, 0); AsError(err).Code != Busy {
		t.Errorf("canceling an ended job: %v", err)
	}
}

func TestAJobEndsAtItsDeadline(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.units.Hold["stop left4-server@a.service"] = make(chan struct{})
	j, err := w.StopInstance("a", Request{Timeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if j := w.events.wait(t, j.ID); j.State != JobTimeout {
		t.Errorf("%s, %q", j.State, j.Cause)
	}
}

func TestAFailedStartSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{Port: ptr(uint16(27099))})
	w.units.Fail["start left4-server@a.service"] = errors.New("the job failed")
	w.units.OnFail = func(unit string) {
		w.units.Set(unit, units.State{Active: "failed", Result: "exit-code", PreStart: []units.ExecStatus{{PID: 1, Code: 1, Status: units.PortTaken}}})
	}
	j := w.do(w.StartInstance, "a", JobFailed)
	if j.Cause != "cannot start a: port 27099 is taken by another program" {
		t.Errorf("cause %q", j.Cause)
	}
	if in, _ := w.Instance("a"); in.State != FailedState || !in.Drifted || in.Cause != "port 27099 is taken by another program" {
		t.Errorf("%+v", in)
	}
}

func TestResetKeepsTheDefinitionAndDeleteLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.do(w.StartInstance, "a", JobDone)
	w.mkdir("state/runtime/a/upper/left4dead2/logs")
	outside := filepath.Join(w.root, "outside")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(w.root, filepath.Join(w.root, "state/runtime/a/upper/link")); err != nil {
		t.Fatal(err)
	}
	w.do(w.ResetInstance, "a", JobDone)
	if w.exists("state/runtime/a") || w.exists("state/instances/a") {
		t.Error("reset left files")
	}
	if in, err := w.Instance("a"); err != nil || in.Port != 27015 {
		t.Errorf("the definition after reset: %+v, %v", in, err)
	}
	w.do(w.StartInstance, "a", JobDone)
	w.mkdir("state/runtime/a/upper")
	w.do(w.DeleteInstance, "a", JobDone)
	for _, path := range []string{"state/runtime/a", "state/instances/a", "etc/left4-server@a.service.d", "etc/multi-user.target.wants/left4-server@a.service", "run/stale/a"} {
		if w.exists(path) {
			t.Errorf("delete left %s", path)
		}
	}
	if _, err := w.Instance("a"); AsError(err).Code != NoSuchInstance {
		t.Errorf("after delete: %v", err)
	}
	if !w.exists("outside") {
		t.Error("delete followed a link")
	}
	w.do(w.DeleteInstance, "a", JobDone)
	w.create("a", Changes{})
	if in, _ := w.Instance("a"); in.Port != 27015 {
		t.Errorf("the port was not freed: %d", in.Port)
	}
}

func TestDeleteGoesOnWhenStopFails(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.mkdir("state/runtime/a/upper")
	w.units.Fail["stop left4-server@a.service"] = errors.New("unit is broken")
	w.do(w.DeleteInstance, "a", JobDone)
	if w.exists("state/runtime/a") {
		t.Error("files are left")
	}
}

// What a boot would start again is neither reset nor deleted, and says so.
func TestWhatCannotBeDisabledIsNotReset(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.do(w.StartInstance, "a", JobDone)
	etc := filepath.Join(w.root, "etc")
	wants := filepath.Join(etc, "multi-user.target.wants")
	for _, err := range []error{os.Rename(wants, wants+".away"), os.Symlink(wants+".away", wants)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, verb := range []func(string, Request) (Job, error){w.ResetInstance, w.DeleteInstance} {
		if j := w.do(verb, "a", JobFailed); !strings.Contains(j.Cause, "cannot disable a: ") {
			t.Errorf("the cause is %q", j.Cause)
		}
		if w.exists("state/runtime/a") || w.exists("state/instances/a") {
			t.Error("files are left")
		}
		if in, err := w.Instance("a"); err != nil || in.State != Stopped {
			t.Errorf("%+v, %v", in, err)
		}
	}
	for _, err := range []error{os.Remove(wants), os.Rename(wants+".away", wants)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w.do(w.DeleteInstance, "a", JobDone)
}

func TestCreateRefuses(t *testing.T) {
	w := newWorld(t)
	w.overlay("sm", nil)
	w.mkdir("state/runtime/left")
	w.create("a", Changes{Port: ptr(uint16(27020))})
	for _, c := range []struct {
		name    string
		changes Changes
		code    Code
	}{
		{"a", Changes{}, InstanceExists},
		{"b", Changes{Port: ptr(uint16(27020))}, PortInUse},
		{"b", Changes{Port: ptr(uint16(80))}, InvalidArgument},
		{"B", Changes{}, InvalidName},
		{"-b", Changes{}, InvalidName},
		{"b/../c", Changes{}, InvalidName},
		{strings.Repeat("b", 65), Changes{}, InvalidName},
		{"", Changes{}, InvalidName},
		{"left", Changes{}, InUse},
		{"b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "missing"}}}, NoSuchOverlay},
		{"b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "../overlays/sm"}}}, InvalidArgument},
		{"b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "/etc"}}}, InvalidArgument},
		{"b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm"}, {Overlay: "sm"}}}, InvalidArgument},
		{"b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm", Alias: "server"}}}, InvalidArgument},
		{"b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "sm", Alias: "../x"}}}, InvalidArgument},
		{"b", Changes{Label: ptr("x\ny")}, InvalidArgument},
		{"b", Changes{Hostname: ptr(`a"; quit; "`)}, InvalidArgument},
		{"b", Changes{Restart: ptr("sometimes")}, InvalidArgument},
		{"b", Changes{Config: &[]string{"a\nb"}}, InvalidArgument},
		{"b", Changes{Limits: &units.Limits{MemoryMax: ptr(uint64(1))}}, InvalidArgument},
	} {
		if _, err := w.CreateInstance(c.name, c.changes, 0); err == nil || AsError(err).Code != c.code {
			t.Errorf("create %q %+v: %v, want %s", c.name, c.changes, err, c.code)
		}
	}
	if all := w.Instances(); len(all) != 1 {
		t.Errorf("a refused create left something: %v", all)
	}
}

func TestArguments(t *testing.T) {
	for _, ok := range [][]string{{"+map", "c1m1_hotel"}, {"-ip", "10.0.0.1"}, {"+sv_lan", "0"}, {"-tickrate", "60"}, {"port"}, {"$HOME", "%n", `"q"`, `"`, `\`, ";", "a@b"}} {
		if err := checkArguments(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "x -port 1", "a\tb", "a\nb", "*", "c?", "[a]", "-port", "-PORT", "+hostport", "+rcon_password", "rcon_password", "-game",
		"-norestart", "-strictportbind", "-fork", "-netconport", "-binary", "-pidfile", "-debug", "-autoupdate", "-steam_dir", "-help", `"-netconport"`, `-net"conport`, `"+rcon_password"`, `"rcon_password`, "@more", "\ufffe", "a\x00", "\xff", "a\u00a0b", strings.Repeat("a", 2000)} {
		if err := checkArguments([]string{bad}); err == nil || AsError(err).Code != InvalidArgument {
			t.Errorf("%q: %v, want InvalidArgument", bad, err)
		}
	}
}

// What may be stored can be started: the longest arguments of an instance and of its blueprint fit its unit, whatever they hold.
func TestTheLongestArguments(t *testing.T) {
	var all []string
	for size := 0; size+maxArgument+3 <= maxCommand; size += maxArgument + 3 {
		all = append(all, strings.Repeat(`\`, maxArgument))
	}
	if err := checkArguments(all); err != nil {
		t.Fatal(err)
	}
	if err := checkArguments(append(all, all...)); err == nil || AsError(err).Code != InvalidArgument {
		t.Errorf("%v, want InvalidArgument", err)
	}
	if _, err := (units.Server{Name: "a", Command: append(append([]string{"/bin/x"}, all...), all...)}).DropIn(); err != nil {
		t.Error(err)
	}
}

func TestServerConfigOrder(t *testing.T) {
	w := newWorld(t)
	for _, o := range [][2]string{{"low", "c"}, {"hidden", "d"}, {"mid", "b"}, {"top", "a"}} {
		w.overlay(o[0], map[string]string{"left4dead2/cfg/server.cfg": o[1]})
	}
	w.create("a", Changes{
		Overlays: &[]store.OverlayRef{{Overlay: "top", Alias: "*"}, {Overlay: "hidden"}, {Overlay: "mid", Alias: "match"}, {Overlay: "low", Alias: "*"}},
		Config:   &[]string{"rcon_password stolen"}, Hostname: ptr("h"),
	})
	text, err := w.ServerConfig("a")
	if err != nil {
		t.Fatal(err)
	}
	want := `exec server_overlay_1 // from overlay low, revision 2
exec match // from overlay mid, revision 2
exec server_overlay_4 // from overlay top, revision 2
rcon_password "********" // from instance a
hostname "h" // from instance a
rcon_password "********" // from instance a
`
	if text != want {
		t.Errorf("the preview is\n%swant\n%s", text, want)
	}
	w.do(func(name string, r Request) (Job, error) { return w.InitializeInstance(name, nil, false, "", r) }, "a", JobDone)
	plan, cfg, err := w.Layout.ReadInstance("a")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(plan.Lower, []string{"overlays/4/2", "overlays/2/2", "overlays/3/2", "overlays/1/2", "game/1"}) {
		t.Errorf("layers %q", plan.Lower)
	}
	if string(cfg["match.cfg"]) != "b" || string(cfg["server_overlay_4.cfg"]) != "a" || cfg["server_overlay_2.cfg"] != nil {
		t.Errorf("staged %q", cfg)
	}
	in, _ := w.Instance("a")
	want = `// from overlay low, revision 2
exec server_overlay_1
// from overlay mid, revision 2
exec match
// from overlay top, revision 2
exec server_overlay_4
// from instance a
rcon_password stolen
hostname "h"
rcon_password "` + in.RconPassword + `"
`
	if _, text, _ := strings.Cut(string(cfg["server.cfg"]), "\n"); text != want {
		t.Errorf("server.cfg is\n%swant\n%s", text, want)
	}
}

func TestUnfinishedJobsAreTakenUpAgain(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.units.Hold["start left4-server@a.service"] = make(chan struct{})
	j, err := w.StartInstance("a", Request{Requester: 5})
	if err != nil {
		t.Fatal(err)
	}
	w.units.Wait(t, "start left4-server@a")
	w.units.Release("start left4-server@a.service")
	w.again()
	if got := w.events.wait(t, j.ID); got.State != JobDone || got.Requester != 5 {
		t.Errorf("%+v", got)
	}
	if in, _ := w.Instance("a"); in.State != Running {
		t.Errorf("%+v", in)
	}
	rows, err := w.Jobs(store.JobFilter{Limit: 10})
	if err != nil || len(rows) != 1 {
		t.Errorf("jobs: %v, %v", rows, err)
	}
}

// Limits that were stored when left4d was killed would else show, and not hold, until the server's next start.
func TestLimitsThatWereNotGivenAreGivenLater(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.do(w.StartInstance, "a", JobDone)
	def, _ := w.Instance("a")
	limit := uint64(1 << 30)
	def.Instance.Limits.V.MemoryMax = &limit
	if err := w.Store.UpdateInstance(&def.Instance, PortRange); err != nil {
		t.Fatal(err)
	}
	told := func() int {
		return w.units.Count("renew-limits left4-server@a") + w.units.Count("set-limits left4-server@a")
	}
	w.again()
	w.running.Wait()
	text, err := os.ReadFile(filepath.Join(w.root, "etc/left4-server@a.service.d/10-left4.conf"))
	if err != nil || !strings.Contains(string(text), "\nMemoryMax=1073741824\n") || told() != 1 {
		t.Errorf("told %d times, %v, the drop-in is\n%s", told(), err, text)
	}
	w.again()
	w.running.Wait()
	if told() != 1 {
		t.Error("limits that are given are given again")
	}
	// It had come as far as the drop-in. A systemd that takes its time does not keep left4d from being up.
	slow := make(chan struct{})
	w.units.Hold["renew-limits left4-server@a.service"] = slow
	if _, err := w.Config.OweLimits("a"); err != nil {
		t.Fatal(err)
	}
	w.again()
	close(slow)
	w.running.Wait()
	if told() != 2 || w.Config.LimitsOwed("a", units.Limits{MemoryMax: &limit}) {
		t.Errorf("told %d times", told())
	}
}

// Who repeats a change that failed half way wants the other half.
func TestALimitIsTakenAwayTheSecondTime(t *testing.T) {
	w := newWorld(t)
	limit := uint64(1 << 30)
	w.create("a", Changes{Limits: &units.Limits{MemoryMax: &limit}})
	w.do(w.StartInstance, "a", JobDone)
	w.units.Fail["renew-limits left4-server@a.service"] = errors.New("input/output error")
	if err := w.ConfigureInstance("a", Changes{Limits: &units.Limits{}}); err == nil {
		t.Fatal("nothing failed")
	}
	delete(w.units.Fail, "renew-limits left4-server@a.service")
	if err := w.ConfigureInstance("a", Changes{Limits: &units.Limits{}}); err != nil {
		t.Fatal(err)
	}
	if n := w.units.Count("renew-limits left4-server@a"); n != 2 || w.Config.LimitsOwed("a", units.Limits{}) {
		t.Errorf("taken away %d times", n)
	}
}

// A stop whose end a full disk kept from the database must not be done again over the start that came after it.
func TestAnOvertakenJobIsNotDoneAgain(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	in, _ := w.Instance("a")
	row := store.Job{ID: 1, Kind: "stop", Target: "a", Instance: in.Created, State: JobRunning, Timeout: time.Minute, Created: now(), Started: now()}
	if err := w.Store.PutJob(row); err != nil {
		t.Fatal(err)
	}
	later := store.Job{ID: 2, Kind: "start", Target: "a", Instance: in.Created, State: JobDone, Created: now(), Started: now(), Finished: now()}
	if err := w.Store.PutJob(later); err != nil {
		t.Fatal(err)
	}
	w.units.Set("left4-server@a.service", units.State{Active: "active", MainPID: 77, ActiveEnter: time.Now()})
	w.again()
	if j := w.events.wait(t, 1); j.State != JobCanceled || j.Cause != "overtaken by start (job 2)" {
		t.Errorf("%+v", j)
	}
	if w.units.Count("stop left4-server@a") != 0 {
		t.Error("the server was stopped")
	}
}

// A delete that was accepted for one instance must spare another that took its name.
func TestAJobIsForTheInstanceThatItWasAcceptedFor(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.units.Hold["stop left4-server@a.service"] = make(chan struct{})
	first, err := w.DeleteInstance("a", Request{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.DeleteInstance("a", Request{})
	if err != nil {
		t.Fatal(err)
	}
	w.units.Wait(t, "stop left4-server@a")
	if _, err := w.CreateInstance("a", Changes{}, 0); AsError(err).Code != Busy && AsError(err).Code != InstanceExists {
		t.Errorf("created in the middle of a delete: %v", err)
	}
	close(w.units.Hold["stop left4-server@a.service"])
	if j := w.events.wait(t, first.ID); j.State != JobDone {
		t.Errorf("%+v", j)
	}
	if j := w.events.wait(t, second.ID); j.State != JobDone && j.State != JobSkipped {
		t.Errorf("%+v", j)
	}
	w.create("a", Changes{})
	row := store.Job{ID: 3, Kind: "delete", Target: "a", Instance: 12345, State: JobQueued, Timeout: time.Minute, Created: now()}
	if err := w.Store.PutJob(row); err != nil {
		t.Fatal(err)
	}
	w.again()
	if j := w.events.wait(t, 3); j.State != JobSkipped {
		t.Errorf("%+v", j)
	}
	if _, err := w.Instance("a"); err != nil {
		t.Error(err)
	}
}

// "left4ctl delete a && left4ctl create a" failed now and then: the end of the delete was told before it had left its queue.
func TestWhatHasEndedIsInNobodysWay(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.events.onEnd = func(j Job) {
		if n := len(w.queues["a"]); n != 0 {
			t.Errorf("%d jobs wait for a when the end of %s, its only one, is told", n, j.Kind)
		}
	}
	w.events.onRemoved = func(Instance) {
		if w.atWork("a", "delete") {
			t.Error("the delete is in the way of a new instance when it is told that the old one is gone")
		}
	}
	for range 3 {
		w.do(w.StartInstance, "a", JobDone)
		w.do(w.DeleteInstance, "a", JobDone)
		w.create("a", Changes{})
	}
}

// An instance was announced as drifted when a job ended in the middle of a look.
func TestALookMissesNoJob(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.do(w.StartInstance, "a", JobDone)
	w.units.Hold["stop left4-server@a.service"] = make(chan struct{})
	stop, err := w.StopInstance("a", Request{})
	if err != nil {
		t.Fatal(err)
	}
	w.units.Wait(t, "stop left4-server@a")
	in := w.instances["a"]
	f, ok := w.read(in)
	close(w.units.Hold["stop left4-server@a.service"])
	w.events.wait(t, stop.ID)
	w.conclude(in, f)
	if a, _ := w.Instance("a"); !ok || a.Drifted {
		t.Errorf("read: %v; what a job has just done counts as done by hand: %+v", ok, a)
	}
}

func TestManyVerbsSideBySide(t *testing.T) {
	w := newWorld(t)
	var ids []uint32
	for _, name := range []string{"a", "b", "c", "d"} {
		w.create(name, Changes{})
	}
	for i := range 200 {
		name := string("abcd"[i%4])
		verb := []func(string, Request) (Job, error){w.StartInstance, w.StopInstance, w.RestartInstance, w.KillInstance, w.ResetInstance}[i%5]
		if j, err := verb(name, Request{}); err == nil {
			ids = append(ids, j.ID)
		} else if AsError(err).Code != QuotaExceeded {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		w.events.wait(t, id)
	}
	rows, err := w.Store.UnfinishedJobs()
	if err != nil || len(rows) != 0 {
		t.Errorf("unfinished: %v, %v", rows, err)
	}
}

func TestRefreshBeganAfterTheAsking(t *testing.T) {
	var r refresher
	var looks int
	gate := make(chan struct{})
	look := func() { looks++; <-gate }
	first := r.do(look)
	second, third := r.do(look), r.do(look)
	if second != third {
		t.Error("two who wait do not share a look")
	}
	gate <- struct{}{}
	<-first
	select {
	case <-second:
		t.Error("the second got the first one's look")
	default:
	}
	gate <- struct{}{}
	<-second
	if looks != 2 {
		t.Errorf("%d looks", looks)
	}
}
