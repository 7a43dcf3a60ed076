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
			before []string // systemctl, before the update
			do     []string // while it downloads
			after  []string
			end    string // as the job does; canceled = it is canceled then
			cause  string
		}{
			{"stop of the worker", nil, []string{"stop", worker}, nil, "failed", "it was stopped"},
			{"SIGTERM to the worker", nil, []string{"kill", worker}, nil, "failed", "it was stopped"},
			{"SIGKILL to all of the worker", nil, []string{"kill", "--signal=KILL", worker}, nil, "failed", "killed by SIGKILL"},
			{"stop of the files", nil, []string{"stop", files}, nil, "failed", "it was stopped"},
			{"restart of the files", nil, []string{"restart", files}, nil, "failed", "it was stopped"},
			{"SIGKILL to the files", nil, []string{"kill", "--signal=KILL", files}, nil, "done", ""},
			{"stop of the slice", nil, []string{"stop", "left4-build.slice"}, nil, "failed", "it was stopped"},
			{"a frozen worker", nil, []string{"freeze", worker}, nil, "canceled", "canceled by root"},
			{"masked files", []string{"mask", "--runtime", files}, nil, []string{"unmask", "--runtime", files}, "failed", "the unit is masked"},
			{"a new systemd", nil, []string{"daemon-reexec"}, nil, "done", ""},
			{"files mounted before", []string{"start", files}, nil, nil, "done", ""},
		} {
			build++
			fault := steam.Fault{On: "steamcmd", Only: "+app_update", Kind: "hang", At: 50}
			if c.end == "done" {
				fault = steam.Fault{On: "depot", Kind: "slow", Bytes: 64 << 10}
			}
			s.release(t, build, fault)
			if c.before != nil {
				p.Try(append([]string{"systemctl"}, c.before...)...)
			}
			job := p.installs("update")
			if c.do != nil {
				p.waitStatus(job, "files for Linux: downloading")
				p.Try(append([]string{"systemctl"}, c.do...)...)
			}
			if c.end == "canceled" {
				p.ctl("job", "cancel", string(job[strings.LastIndexByte(string(job), '/')+1:]))
			}
			if end, cause := ends.ended(t, job), p.job(job, "Cause"); end != c.end || !strings.Contains(cause, c.cause) {
				t.Errorf("%s: it is %s: %s", c.name, end, cause)
			}
			if c.after != nil {
				p.Run(t, append([]string{"systemctl"}, c.after...)...)
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
			}
		}
		for _, us := range []uint64{1, 1000, 50_000, 500_000} {
			var job dbus.ObjectPath
			build++
			s.release(t, build, steam.Fault{On: "steamcmd", Only: "+app_update", Kind: "hang", At: 50})
			if err := p.Bus(t).Object(service, "/me/left4").Call(managerI+".InstallGame", 0, map[string]dbus.Variant{"timeout": dbus.MakeVariant(us)}).Store(&job); err != nil {
				t.Fatal(err)
			}
			if end := ends.ended(t, job); end != "timeout" {
				t.Errorf("with %d µs it is %s", us, end)
			}
			p.noWorker(t, "a short time")
		}
		a.untouched(t, "short times", "a")
	})
}
