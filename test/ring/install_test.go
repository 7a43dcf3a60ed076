package ring

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/report"
	"left4.me/left4/test/steam"
)

// eachSteam runs a test in a fresh machine of each suite: build 1 of the game is installed, as revision 1, with game lines of left4d.conf.
func eachSteam(t *testing.T, settings string, test func(t *testing.T, p play, s *Steam)) {
	Each(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.BringGame(t, "/srv/game")
		s := p.BringSteam(t, "/srv/game")
		p.WriteFile(t, "/etc/left4/left4d.conf", strings.Replace(steamSettings, "[Game]\n", "[Game]\n"+settings, 1), 0o644)
		s.Set(t, func(w *steam.World) {
			w.Game = steam.Game{Build: "1", Files: map[string]string{"left4dead2/what": "1"}, Sizes: map[string]int64{pak: pakSize}}
		})
		p.ctl("game", "install")
		test(t, p, s)
	})
}

// pak is a file that is another in each build, and most of what changes: the sockets' buffers are small beside it.
const pak = "left4dead2/pak01_001.vpk"

const pakSize = 24 << 20

// release makes a build the newest one, with faults on the way to it. left4dead2/what tells the builds apart.
func (s *Steam) release(t TB, build int, faults ...steam.Fault) {
	t.Helper()
	s.Set(t, func(w *steam.World) {
		w.Game.Build = strconv.Itoa(build)
		w.Game.Files["left4dead2/what"] = strconv.Itoa(build)
		w.Faults = faults
	})
}

func (p play) ofManager(property string) string {
	p.t.Helper()
	return value(p.Run(p.t, "busctl", "get-property", service, "/me/left4", managerI, property))
}

// revisionPrint stands for all that a revision of the game holds.
func (p play) revisionPrint(revision string) string {
	p.t.Helper()
	return p.Run(p.t, "sh", "-ec", `cd "/var/lib/left4/game/$1"
		{ find . -printf '%y %m %s %T@ %u %p %l\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum`, "sh", revision)
}

// installs has left4d install the game, and does not wait.
func (p play) installs(mode string) (job dbus.ObjectPath) {
	p.t.Helper()
	options := map[string]dbus.Variant{"mode": dbus.MakeVariant(mode)}
	if err := p.Bus(p.t).Object(service, "/me/left4").Call(managerI+".InstallGame", 0, options).Store(&job); err != nil {
		p.t.Fatalf("cannot install: %v", err)
	}
	return job
}

// says is what such a job says when it is done.
func (p play) says(mode string) string {
	p.t.Helper()
	job := p.installs(mode)
	p.waitJob(job, "done")
	return p.job(job, "Status")
}

// noWorker is that nothing of a job is left: its unit, its processes, the mount that it worked on.
func (p play) noWorker(t *testing.T, what string) {
	t.Helper()
	if got := p.Run(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "left4-build-*"); got != "" {
		t.Errorf("%s: units are left: %s", what, got)
	}
	if got := p.Try("pgrep", "--list-full", "steamcmd|left4-worker|DepotDownloader").Out; got != "" {
		t.Errorf("%s: processes are left: %s", what, got)
	}
	for _, line := range p.mounts() {
		if strings.Contains(line, "/runtime/_game/") {
			t.Errorf("%s: the files are still mounted: %s", what, line)
		}
	}
}

// live is a running server, and what must not change about it.
type live struct {
	p                  play
	pid                int
	files, revision, n string
}

func (p play) live(name string) live {
	p.t.Helper()
	n := p.ofManager("GameRevision")
	return live{p, p.pid(name), p.fingerprint(name), p.revisionPrint(n), n}
}

func (l live) untouched(t *testing.T, what, name string) {
	t.Helper()
	if l.p.pid(name) != l.pid {
		t.Errorf("%s: %s was restarted", what, name)
	}
	if l.p.fingerprint(name) != l.files {
		t.Errorf("%s: %s sees other files", what, name)
	}
	if l.p.revisionPrint(l.n) != l.revision {
		t.Errorf("%s: revision %s has changed", what, l.n)
	}
}

// A first installation that ended half way goes on where it was, through what a first one meets.
func TestTheFirstInstallationGoesOn(t *testing.T) {
	Each(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.BringGame(t, "/srv/game")
		s := p.BringSteam(t, "/srv/game")
		install := func(kind string, f steam.Fault) steam.Fault {
			f.On, f.Only, f.Kind = "steamcmd", "+app_update", kind
			return f
		}
		s.Set(t, func(w *steam.World) {
			w.Game = steam.Game{Build: "1", Files: map[string]string{"left4dead2/what": "1"}, Sizes: map[string]int64{pak: pakSize}}
			w.Faults = []steam.Fault{install("failed", steam.Fault{Text: "Missing configuration", Times: 1}), install("hang", steam.Fault{At: 90})}
		})
		p.WriteFile(t, "/etc/left4/left4d.conf", strings.Replace(steamSettings, "[Game]\n", "[Game]\nTries=2\nSilenceSec=2\n", 1), 0o644)
		p.refused(t, []string{"game", "install"}, "SteamCMD failed: it hung: it has said nothing for 2s (tried 2 times)")
		p.noWorker(t, "a first installation")
		if got := p.ofManager("GameRevision"); got != "0" {
			t.Errorf("revision %s is the game", got)
		}
		p.WriteFile(t, "/etc/left4/left4d.conf", steamSettings, 0o644)
		s.Set(t, func(w *steam.World) {
			w.Faults = []steam.Fault{install("state", steam.Fault{Code: 0x402, At: 98, Times: 2}), install("failed", steam.Fault{Text: "Invalid platform", Times: 1})}
		})
		s.Requests(t, true)
		p.ctl("game", "install")
		if got := s.Requests(t, true); got.Bytes("depot") > pakSize {
			t.Errorf("%d bytes were fetched again:\n%s", got.Bytes("depot"), got)
		}
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		if got := p.reads("a", "what"); got != "1" {
			t.Errorf("the server has %q", got)
		}
		for _, name := range []string{"steamapps/downloading", "steamapps/temp"} {
			if p.exists("/var/lib/left4/game/" + p.ofManager("GameRevision") + "/" + name) {
				t.Errorf("%s is in the game", name)
			}
		}
	})
}

// Whatever SteamCMD fails with, people are told what it is and the game stays what it was; and it can be updated afterwards.
func TestEachFailureOfSteamHasItsCause(t *testing.T) {
	eachSteam(t, "Tries=3\n", func(t *testing.T, p play, s *Steam) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		a := p.live("a")
		failed := func(text string) steam.Fault { return steam.Fault{Kind: "failed", Text: text} }
		state := func(code int) steam.Fault { return steam.Fault{Kind: "state", Code: code, At: 98} }
		zero := 0
		for n, c := range []struct {
			name  string
			fault steam.Fault
			cause string
			tries int
		}{
			{"Invalid platform", failed("Invalid platform"), "Invalid platform (tried 3 times); DepotDownloader may get it", 3},
			{"No subscription", failed("No subscription"), "No subscription (tried 3 times); DepotDownloader may get it", 3},
			{"Missing configuration", failed("Missing configuration"), "Missing configuration (tried 3 times); DepotDownloader may get it", 3},
			{"Disk write failure", failed("Disk write failure"), "the disk cannot be written to; look at", 1},
			{"Corrupt update files", failed("Corrupt update files"), "files are corrupt (tried 3 times)", 3},
			{"another reason", failed("Content still encrypted"), "Content still encrypted (tried 3 times)", 3},
			{"0x202", state(0x202), "disk full; free some space", 1},
			{"0x212", state(0x212), "disk full; free some space", 1},
			{"0x402 at 98 %", state(0x402), "the download broke off (state 0x402) (tried 3 times)", 3},
			{"0x602, and status 0", steam.Fault{Kind: "state", Code: 0x602, At: 98, Exit: &zero}, "the download broke off (state 0x602) (tried 3 times)", 3},
			{"0x606", state(0x606), "the disk cannot be written to; look at", 1},
			{"0x626", state(0x626), "files are missing (tried 3 times)", 3},
			{"0x6A6", state(0x6A6), "files are corrupt (tried 3 times)", 3},
			{"0x206", state(0x206), "state 0x206 after the update (tried 3 times)", 3},
			{"No Connection", steam.Fault{Kind: "no-connection"}, "no connection to Steam (No Connection) (tried 3 times)", 3},
			{"Timed out", steam.Fault{Kind: "user-info"}, "no connection to Steam (Timed out) (tried 3 times)", 3},
			{"Rate Limit Exceeded", steam.Fault{Kind: "rate-limit"}, "too many logins (tried 3 times); ", 3},
			{"a crash", steam.Fault{Kind: "crash", At: 50}, "it crashed (SIGSEGV)", 3},
			{"a kill", steam.Fault{Kind: "crash", At: 50, Code: 9}, "it crashed (SIGKILL)", 3},
			{"no text", steam.Fault{Kind: "garbage", At: 50}, "it ended without the game (tried 3 times)", 3},
		} {
			c.fault.On, c.fault.Only = "steamcmd", "+app_update"
			s.release(t, n+2, c.fault)
			s.Requests(t, true)
			p.refused(t, []string{"game", "update"}, "SteamCMD failed: "+c.cause)
			// Once it asks for the newest build, and then it tries; a pass for Windows may have come before one for Linux.
			runs := s.Requests(t, true).Count("steamcmd") - 1
			if runs != c.tries {
				t.Errorf("%s: SteamCMD was run %d times", c.name, runs)
			}
			if got := p.ctl("job", "list"); !strings.Contains(got, c.cause) {
				t.Errorf("%s: left4ctl job list does not tell the cause:\n%s", c.name, got)
			}
			a.untouched(t, c.name, "a")
			p.noWorker(t, c.name)
			report.Add(t, report.Row{Table: "builders", Suite: p.Suite, Name: "SteamCMD: " + c.name, Figures: []report.Figure{report.Count("tries", runs)},
				Goal: "its cause, nothing touched", Met: !t.Failed(), Note: c.cause})
		}
		s.release(t, 1000)
		p.ctl("game", "update")
		if got := p.ofManager("GameBuild"); got != "1000" {
			t.Errorf("after all that build %s is installed", got)
		}
		a.untouched(t, "the update", "a")
	})
}

// What passes is waited for: an update ends well, and what was there already is not fetched again.
func TestFailuresOfSteamThatPass(t *testing.T) {
	eachSteam(t, "Tries=3\n", func(t *testing.T, p play, s *Steam) {
		for n, c := range []struct {
			name   string
			faults []steam.Fault
		}{
			{"Invalid platform", []steam.Fault{{Kind: "failed", Text: "Invalid platform", Times: 2}}},
			{"0x402 at 98 %", []steam.Fault{{Kind: "state", Code: 0x402, At: 98, Times: 2}}},
			{"a crash at 50 %", []steam.Fault{{Kind: "crash", At: 50, Times: 2}}},
			{"each time another", []steam.Fault{{Kind: "no-connection", Times: 1}, {Kind: "state", Code: 0x6A6, At: 30, Times: 1}}},
		} {
			for i := range c.faults {
				c.faults[i].On, c.faults[i].Only = "steamcmd", "+app_update"
			}
			s.release(t, n+2, c.faults...)
			s.Requests(t, true)
			p.ctl("game", "update")
			if got, want := p.ofManager("GameBuild"), strconv.Itoa(n+2); got != want {
				t.Errorf("%s: build %s is installed", c.name, got)
			}
			if got := s.Requests(t, true).Bytes("depot"); got > pakSize*3/2 {
				t.Errorf("%s: %d bytes were fetched", c.name, got)
			}
			p.noWorker(t, c.name)
		}
	})
}

func TestAHangOfSteamEnds(t *testing.T) {
	eachSteam(t, "Tries=1\nSilenceSec=2\n", func(t *testing.T, p play, s *Steam) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		a := p.live("a")
		s.release(t, 2, steam.Fault{On: "steamcmd", Only: "+app_update", Kind: "hang", At: 50})
		p.refused(t, []string{"game", "update"}, "SteamCMD failed: it hung: it has said nothing for 2s")
		p.noWorker(t, "a hang")
		a.untouched(t, "a hang", "a")
	})
}

// Whoever is killed in the middle: the update goes on, or it fails and says so, and the next one takes up what was fetched.
func TestAnInterruptedUpdate(t *testing.T) {
	const worker = "left4-build-*"
	eachSteam(t, "", func(t *testing.T, p play, s *Steam) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		a := p.live("a")
		hang := steam.Fault{On: "steamcmd", Only: "+app_update", Kind: "hang", At: 50}
		ends := p.jobsEnd()
		for _, c := range []struct {
			victim string
			kill   func(job dbus.ObjectPath)
			end    string
			cause  string
		}{
			{"worker", func(dbus.ObjectPath) {
				p.Run(t, "systemctl", "kill", "--kill-who=main", "--signal=KILL", worker)
			}, "failed", "killed by SIGKILL"},
			{"left4d and worker", func(dbus.ObjectPath) {
				p.killLeft4d(func() {})
				p.Run(t, "systemctl", "kill", "--signal=KILL", worker)
				p.startLeft4d()
			}, "failed", "killed by SIGKILL"},
			{"nobody, it is canceled", func(job dbus.ObjectPath) {
				p.ctl("job", "cancel", string(job[strings.LastIndexByte(string(job), '/')+1:]))
			}, "canceled", ""},
		} {
			s.release(t, 2, hang)
			job := p.installs("update")
			p.waitStatus(job, "files for Linux: downloading")
			c.kill(job)
			if got := ends.ended(t, job); got != c.end {
				t.Errorf("%s: the update is %s", c.victim, got)
			}
			if got := p.job(job, "Cause"); !strings.Contains(got, c.cause) {
				t.Errorf("%s: the cause is %q", c.victim, got)
			}
			p.noWorker(t, c.victim)
			a.untouched(t, c.victim, "a")
			if got := p.ofManager("GameBuild"); got != "1" {
				t.Errorf("%s: build %s is installed", c.victim, got)
			}
		}
		s.release(t, 2)
		s.Requests(t, true)
		p.ctl("game", "update")
		if got := s.Requests(t, true); got.Bytes("depot") > pakSize*3/4 {
			t.Errorf("%d bytes were fetched again:\n%s", got.Bytes("depot"), got)
		}

		// A left4d that is killed alone leaves the worker at it, and takes it up.
		s.release(t, 3, steam.Fault{On: "depot", Kind: "slow", Bytes: 16 << 10})
		job := p.installs("update")
		p.waitStatus(job, "files for Linux: downloading")
		p.killLeft4d(func() {})
		p.startLeft4d()
		p.waitJob(job, "done")
		if got := p.ofManager("GameBuild"); got != "3" {
			t.Errorf("a new left4d ends with build %s", got)
		}
		p.noWorker(t, "left4d")
		a.untouched(t, "left4d", "a")
	})
}

// An update is for the servers that start after it, and costs what has changed.
func TestUpdateWhileServersRun(t *testing.T) {
	eachSteam(t, "", func(t *testing.T, p play, s *Steam) {
		names := []string{"a", "b", "c"}
		servers := map[string]live{}
		for n, name := range names {
			p.ctl("create", name)
			p.ctl("start", name)
			p.ready(27015 + n)
		}
		for _, name := range names {
			servers[name] = p.live(name)
		}
		untouched := func(what string, names ...string) {
			t.Helper()
			for _, name := range names {
				servers[name].untouched(t, what, name)
			}
		}
		what := func(name, want string) {
			t.Helper()
			if got := p.reads(name, "what"); got != want {
				t.Errorf("%s has the files of build %q, not %s", name, got, want)
			}
		}
		pending := func(want string, names ...string) {
			t.Helper()
			for _, name := range names {
				p.wait(name, "PendingRestart", want)
			}
		}
		size := func(revision string) (bytes int64) {
			t.Helper()
			for _, field := range strings.Fields(p.Run(t, "find", "/var/lib/left4/game/"+revision, "-type", "f", "-printf", "%s\n")) {
				n, err := strconv.ParseInt(field, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				bytes += n
			}
			return bytes
		}

		if got := p.says("update"); !strings.Contains(got, "build 1 is the newest one, and installed") {
			t.Errorf("an update to what is there says %q", got)
		}
		pending("false", names...)
		s.release(t, 2)
		if got := p.says("check"); !strings.Contains(got, "build 2 is available, build 1 is installed") {
			t.Errorf("a check says %q", got)
		}
		begun, used := time.Now(), p.stored()
		p.ctl("game", "update")
		took, more := time.Since(begun), p.stored()-used
		untouched("the update", names...)
		pending("true", names...)
		// Its own files, the books of Steam, and nothing else.
		if got := size(p.ofManager("GameRevision")); got < pakSize || got > pakSize+pakSize/1000 {
			t.Errorf("the delta has %d bytes, and %d have changed", got, pakSize)
		}
		report.Add(t, report.Row{Table: "builders", Suite: p.Suite, Name: "game update while 3 servers run", Figures: []report.Figure{
			report.Duration("took", took), report.Measure("changed", pakSize/1e6, "MB"), report.Measure("more on the disk", float64(more)/1e6, "MB"),
		}, Goal: "the delta is what changed, no server touched", Met: !t.Failed()})

		p.ctl("restart", "b")
		p.ready(27016)
		what("b", "2")
		what("a", "1")
		pending("false", "b")
		servers["b"] = p.live("b")
		p.ctl("game", "rollback")
		if got := p.ofManager("GameRevision") + p.ofManager("GameBuild"); got != "11" {
			t.Errorf("after a rollback it is revision and build %s", got)
		}
		pending("true", "b")
		pending("false", "a", "c")
		untouched("the rollback", names...)
		p.ctl("restart", "b")
		p.ready(27016)
		what("b", "1")
		servers["b"] = p.live("b")

		// From the older one it goes on to the newest.
		p.ctl("game", "update")
		if got := p.ofManager("GameBuild"); got != "2" {
			t.Errorf("after rollback and update build %s is installed", got)
		}
		untouched("the update after a rollback", names...)

		// Many updates later it is still one game, of few layers.
		for build := 3; build <= 14; build++ {
			s.release(t, build)
			p.ctl("game", "update")
		}
		untouched("many updates", "a", "c")
		p.ctl("restart", "c")
		p.ready(27017)
		what("c", "14")
		if got := len(regexp.MustCompile(`game/\d+`).FindAllString(p.lower("c"), -1)); got < 1 || got > 8 {
			t.Errorf("c is mounted from %d layers: %s", got, p.lower("c"))
		}
		if got := p.says("validate"); !strings.Contains(got, "nothing had to be changed") {
			t.Errorf("to validate what is whole says %q", got)
		}
	})
}

// What has been changed by hand in a game is put right by validate, and by nothing else.
func TestValidateMends(t *testing.T) {
	eachSteam(t, "", func(t *testing.T, p play, s *Steam) {
		p.Run(t, "sh", "-c", "echo broken >/var/lib/left4/game/1/left4dead2/what")
		p.ctl("game", "update")
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		if got := p.reads("a", "what"); got != "broken" {
			t.Errorf("an update has mended it: %q", got)
		}
		p.ctl("game", "validate")
		p.ctl("restart", "a")
		p.ready(27015)
		if got := p.reads("a", "what"); got != "1" {
			t.Errorf("the server has %q", got)
		}
	})
}

// DepotDownloader is the way out when SteamCMD does not get the game, if somebody has said where it is.
func TestDepotDownloaderGetsTheGame(t *testing.T) {
	Each(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.BringGame(t, "/srv/game")
		s := p.BringSteam(t, "/srv/game")
		p.WriteFile(t, "/etc/left4/left4d.conf", strings.Replace(steamSettings, "[Game]\n", fmt.Sprintf("[Game]\nTries=2\nDepotDownloader=%s\n", depotDownloader), 1), 0o644)
		s.Set(t, func(w *steam.World) {
			w.Game = steam.Game{Build: "1", Files: map[string]string{"left4dead2/what": "1"}}
			w.Faults = []steam.Fault{{On: "steamcmd", Only: "+app_update", Kind: "failed", Text: "Invalid platform"}, {On: "depotdownloader", Kind: "no-modes"}}
		})
		p.ctl("game", "install")
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		if got := p.reads("a", "what"); got != "1" {
			t.Errorf("the server has %q", got)
		}
		p.noWorker(t, "DepotDownloader")
		s.Set(t, func(w *steam.World) {
			w.Game.Build, w.Game.Files["left4dead2/what"] = "2", "2"
			w.Faults[1] = steam.Fault{On: "depotdownloader", Kind: "unavailable"}
		})
		p.refused(t, []string{"game", "update"}, "SteamCMD failed: Invalid platform (tried 2 times); DepotDownloader failed: the game is not available without a login")
		s.Set(t, func(w *steam.World) { w.Faults = w.Faults[:1] })
		p.ctl("game", "update")
		p.ctl("restart", "a")
		p.ready(27015)
		if got := p.reads("a", "what"); got != "2" {
			t.Errorf("the server has %q", got)
		}
	})
}
