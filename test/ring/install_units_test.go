package ring

import (
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/steam"
)

// Whatever an administrator does to the units of an update: the job ends and says why, the game stays what it was, and the next update goes well.
func TestTheUnitsOfAnUpdateAreMeddledWith(t *testing.T) {
	eachSteam(t, "", func(t *testing.T, p play, s *Steam) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		a := p.live("a")
		ends := p.jobsEnd()
		const worker, files = "left4-build-*", "left4-overlay@_game.service"
		build := 1
		for _, c := range []struct {
			name   string
			before []string // before the update
			do     []string // while it downloads
			after  []string
			cause  string
		}{
			{"stop of the worker", nil, []string{"stop", worker}, nil, ""},
			{"SIGTERM to the worker", nil, []string{"kill", worker}, nil, ""},
			{"SIGKILL to all of the worker", nil, []string{"kill", "--signal=KILL", worker}, nil, "killed by SIGKILL"},
			{"stop of the files", nil, []string{"stop", files}, nil, ""},
			{"restart of the files", nil, []string{"restart", files}, nil, ""},
			{"SIGKILL to the files", nil, []string{"kill", "--signal=KILL", files}, nil, "-"},
			{"stop of the slice", nil, []string{"stop", "left4-build.slice"}, nil, ""},
			{"freeze and stop", nil, []string{"freeze", worker}, nil, "frozen"},
			{"masked files", []string{"mask", "--runtime", files}, nil, []string{"unmask", "--runtime", files}, "masked"},
			{"masked worker", nil, []string{"mask", "--runtime", "left4-build-.service"}, []string{"unmask", "--runtime", "left4-build-.service"}, "-"},
			{"daemon-reexec", nil, []string{"daemon-reexec"}, nil, "-"},
			{"files mounted before", []string{"start", files}, nil, nil, "-"},
		} {
			build++
			var faults []steam.Fault
			if c.cause != "-" {
				faults = []steam.Fault{{On: "steamcmd", Only: "+app_update", Kind: "hang", At: 50}}
			} else {
				faults = []steam.Fault{{On: "depot", Kind: "slow", Bytes: 64 << 10}}
			}
			s.release(t, build, faults...)
			if c.before != nil {
				t.Logf("%s: %v", c.name, p.Try(append([]string{"systemctl"}, c.before...)...))
			}
			job := p.installs("update")
			if c.do != nil {
				p.waitStatus(job, "files for Linux: downloading")
				t.Logf("%s: %v", c.name, p.Try(append([]string{"systemctl"}, c.do...)...))
			}
			if c.cause == "frozen" {
				p.ctl("job", "cancel", string(job[strings.LastIndexByte(string(job), '/')+1:]))
			}
			end := ends.ended(t, job)
			t.Logf("%s: %s: %s", c.name, end, p.job(job, "Cause"))
			if c.after != nil {
				p.Try(append([]string{"systemctl"}, c.after...)...)
			}
			if c.cause == "-" && end != "done" {
				t.Errorf("%s: it is %s", c.name, end)
			}
			p.noWorker(t, c.name)
			a.untouched(t, c.name, "a")
			s.release(t, build)
			p.ctl("game", "update")
			if got := p.ofManager("GameBuild"); got != p.ofManager("AvailableGameBuild") {
				t.Errorf("%s: build %s is installed afterwards", c.name, got)
			}
		}
		// Options of wrong types, and times that cannot be.
		for _, o := range []map[string]dbus.Variant{
			{"mode": dbus.MakeVariant(uint32(1))}, {"mode": dbus.MakeVariant("update\n")}, {"mode": dbus.MakeVariant([]string{"update"})},
			{"timeout": dbus.MakeVariant("1")}, {"timeout": dbus.MakeVariant(int64(-1))}, {"timeout": dbus.MakeVariant(uint64(1) << 63)}, {"x": dbus.MakeVariant(true)},
		} {
			var job dbus.ObjectPath
			if err := p.Bus(t).Object(service, "/me/left4").Call(managerI+".InstallGame", 0, o).Store(&job); err == nil {
				t.Errorf("%v is taken", o)
			} else {
				t.Logf("%v: %v", o, err)
			}
		}
		for _, us := range []uint64{1, 1000, 50_000, 500_000} {
			var job dbus.ObjectPath
			build++
			s.release(t, build)
			if err := p.Bus(t).Object(service, "/me/left4").Call(managerI+".InstallGame", 0, map[string]dbus.Variant{"timeout": dbus.MakeVariant(us)}).Store(&job); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d: %s %s", us, ends.ended(t, job), p.job(job, "Cause"))
			p.noWorker(t, "a short time")
		}
	})
}
