package ring

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestAServerFromTheBus(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		ended := p.Signals(t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("JobRemoved"))
		p.manager("CreateInstance", "sa{sv}a{sv}", "a", "2", "hostname", "s", "Café 1", "port", "q", "27020", "0")
		job := p.manager("StartInstance", "sa{sv}", "a", "0")
		if !strings.HasPrefix(job, `o "/me/left4/job/`) {
			t.Fatalf("StartInstance returns %s", job)
		}
		s := ended.Wait(t, "JobRemoved", jobEnded("start"))
		if fmt.Sprintf("o %q", s.Body[1]) != job || s.Body[3] != "a" || s.Body[4] != "done" {
			t.Errorf("JobRemoved %v, job %s", s.Body, job)
		}
		pid := p.pid("a")
		if cwd := p.Run(t, "readlink", fmt.Sprintf("/proc/%d/cwd", pid)); cwd != "/var/lib/left4/runtime/a/merged" {
			t.Errorf("the game runs in %s", cwd)
		}
		if cat := p.Run(t, "systemctl", "cat", unit("a")); !strings.Contains(cat, "/etc/systemd/system/left4-server@a.service.d/10-left4.conf") || !strings.Contains(cat, "27020") {
			t.Errorf("systemctl cat:\n%s", cat)
		}
		if got := p.Run(t, "systemctl", "is-enabled", unit("a")); got != "enabled" {
			t.Errorf("is-enabled says %s", got)
		}
		if info := p.ready(27020); !strings.Contains(info, "Café 1") {
			t.Errorf("A2S says %s", info)
		}
		if p.get("a", "State") != "running" || p.get("a", "MainPID") != strconv.Itoa(pid) || p.get("a", "Drifted") != "false" {
			t.Errorf("%s", p.ctl("status", "a"))
		}
		if out := p.rcon("a", 27020, "status"); out.Code != 0 || !strings.Contains(out.Out, "Café 1") {
			t.Errorf("rcon status: %+v", out)
		}
		// The password is nowhere but in the server's own file.
		p.Run(t, "journalctl", "--sync")
		password := p.password("a")
		if len(password) < 20 {
			t.Fatalf("the password is %q", password)
		}
		for _, command := range [][]string{
			{"journalctl", "--no-pager"}, {"systemctl", "show", unit("a")}, {"systemctl", "cat", unit("a")}, {"ps", "axeww"},
			{"busctl", "call", service, "/me/left4", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"},
			{"grep", "-r", password, "/run", "/etc"},
		} {
			if r := p.Try(command...); strings.Contains(r.Out, password) {
				t.Errorf("%v shows the password", command)
			}
		}
		p.ctl("stop", "a")
		if got := p.mounts(); len(got) != 0 {
			t.Errorf("mounted after stop: %q", got)
		}
		if r := p.Try("systemctl", "is-enabled", unit("a")); strings.TrimSpace(r.Out) != "disabled" {
			t.Errorf("is-enabled says %s after stop", r.Out)
		}
	})
}

// mountID is what the kernel calls a mount; a new mount has a new one.
func (p play) mountID(name string) string {
	p.t.Helper()
	for _, line := range p.mounts() {
		if f := strings.Fields(line); f[4] == "/var/lib/left4/runtime/"+name+"/merged" {
			return f[0]
		}
	}
	p.t.Fatalf("%s is not mounted", name)
	return ""
}

func TestACrashAndAQuitAreRestarted(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		pid, mount := p.pid("a"), p.mountID("a")

		states := p.Signals(t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("InstanceStateChanged"))
		p.Run(t, "kill", "-KILL", strconv.Itoa(pid))
		states.Wait(t, "restarting", changedTo("restarting"))
		s := states.Wait(t, "running", changedTo("running"))
		if s.Body[3] != "restarted by systemd: it was killed by SIGKILL" {
			t.Errorf("the cause is %q", s.Body[3])
		}
		p.ready(27015)
		if p.pid("a") == pid || p.mountID("a") != mount {
			t.Errorf("pid %d → %d, mount %s → %s", pid, p.pid("a"), mount, p.mountID("a"))
		}

		p.rcon("a", 27015, "quit")
		states.Wait(t, "restarting", changedTo("restarting"))
		s = states.Wait(t, "running", changedTo("running"))
		if s.Body[3] != "restarted by systemd: it ended by itself with status 0" {
			t.Errorf("the cause is %q", s.Body[3])
		}
		if p.mountID("a") != mount || p.get("a", "Restarts") != "2" {
			t.Errorf("mount %s → %s, %s restarts", mount, p.mountID("a"), p.get("a", "Restarts"))
		}
	})
}

func TestACrashLoopEndsAndCanBeStartedAgain(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		// Faster than the shipped five seconds, so that the limit of five in a minute is met soon.
		p.WriteFile(t, "/etc/systemd/system/left4-server@.service.d/fast.conf", "[Service]\nRestartSec=100ms\n", 0o644)
		p.WriteFile(t, "/etc/systemd/system/left4-server@.service.d/fault.conf", "[Service]\nEnvironment=LEFT4_STANDIN=crash\\x20SEGV\n", 0o644)
		p.Run(t, "systemctl", "daemon-reload")
		p.Try("left4ctl", "start", "a") // it may fail: the limit may be met before left4d has looked
		p.wait("a", "State", "failed")
		if cause := p.get("a", "Cause"); !strings.Contains(cause, "start limit hit after 5 starts in 60 s") || !strings.Contains(cause, "SIGSEGV") {
			t.Errorf("the cause is %q", cause)
		}
		p.WaitUnit(t, "left4-overlay@a.service", "ActiveState", "inactive")
		if got := p.mounts(); len(got) != 0 {
			t.Errorf("still mounted: %q", got)
		}
		if r := p.Try("left4ctl", "status", "a"); r.Code != 3 || !strings.Contains(r.Out, "start limit") {
			t.Errorf("status: %+v", r)
		}
		p.Run(t, "rm", "/etc/systemd/system/left4-server@.service.d/fault.conf")
		p.Run(t, "systemctl", "daemon-reload")
		p.ctl("start", "a")
		p.ready(27015)
		if p.get("a", "State") != "running" || p.get("a", "Drifted") != "false" {
			t.Errorf("%s", p.ctl("status", "a"))
		}
	})
}

func TestPeopleMeetNoStartLimit(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		for range 10 {
			p.ctl("restart", "a")
		}
		p.ready(27015)
	})
}

func TestWhatIsKilledStaysDown(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		p.rcon("a", 27015, "standin ignore-sigint")
		// No answer comes.
		p.run(strings.NewReader(p.password("a")+"\n"), "left4-query", "-timeout", "5s", "-rcon", "standin hang", "127.0.0.1:27015")
		pid := p.pid("a")
		p.ctl("kill", "a")
		if p.exists("/proc/" + strconv.Itoa(pid)) {
			t.Error("the process is still there")
		}
		if p.Property(t, unit("a"), "ActiveState") != "inactive" || p.get("a", "State") != "stopped" || len(p.mounts()) != 0 {
			t.Errorf("after kill: %s, mounts %q", p.Property(t, unit("a"), "ActiveState"), p.mounts())
		}
		if cause := p.get("a", "Cause"); !strings.HasPrefix(cause, "killed by root (job ") {
			t.Errorf("the cause is %q", cause)
		}
		if r := p.Try("systemctl", "is-enabled", unit("a")); strings.TrimSpace(r.Out) != "disabled" {
			t.Errorf("is-enabled says %s", r.Out)
		}
	})
}

func TestAStopEndsWithAKill(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.WriteFile(t, "/etc/systemd/system/left4-server@.service.d/fast.conf", "[Service]\nTimeoutStopSec=1s\n", 0o644)
		p.Run(t, "systemctl", "daemon-reload")
		p.ctl("start", "a")
		p.ready(27015)
		p.rcon("a", 27015, "standin ignore-sigint")
		p.ctl("stop", "a")
		if cause := p.get("a", "Cause"); !strings.Contains(cause, "did not end in time after SIGINT and was killed") {
			t.Errorf("the cause is %q", cause)
		}
		if p.get("a", "State") != "stopped" || len(p.mounts()) != 0 {
			t.Errorf("%s, %q", p.get("a", "State"), p.mounts())
		}
	})
}

func TestWhatRanIsBackAfterABoot(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		for _, name := range []string{"a", "b", "c"} {
			p.ctl("create", name)
			p.ctl("start", name)
		}
		p.ctl("stop", "b")
		for what, again := range map[string]func(TB){"reboot": p.Reboot, "power cut": p.PowerCut} {
			again(t)
			p.ready(27015)
			p.ready(27017)
			if cwd := p.Run(t, "readlink", fmt.Sprintf("/proc/%d/cwd", p.pid("a"))); cwd != "/var/lib/left4/runtime/a/merged" {
				t.Errorf("%s: the game runs in %s", what, cwd)
			}
			mounted := p.Run(t, "systemctl", "show", "--value", "--property=ActiveEnterTimestampMonotonic", "left4-overlay@a.service")
			began := p.Run(t, "systemctl", "show", "--value", "--property=ExecMainStartTimestampMonotonic", unit("a"))
			if m, _ := strconv.Atoi(mounted); m == 0 {
				t.Errorf("%s: the overlay unit was never active", what)
			} else if b, _ := strconv.Atoi(began); b < m {
				t.Errorf("%s: the game began at %d, its files were mounted at %d", what, b, m)
			}
			if p.MainPID(t, unit("b")) != 0 || p.get("b", "State") != "stopped" {
				t.Errorf("%s: b runs", what)
			}
			if p.get("a", "State") != "running" || p.get("a", "Drifted") != "false" || p.get("b", "Drifted") != "false" {
				t.Errorf("%s:\n%s", what, p.ctl("list"))
			}
			if len(p.mounts()) != 2 {
				t.Errorf("%s: mounts %q", what, p.mounts())
			}
		}
	})
}

func TestServersOutliveLeft4d(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		for _, name := range []string{"a", "b"} {
			p.ctl("create", name)
			p.ctl("start", name)
		}
		p.ctl("stop", "b")
		pid := p.pid("a")
		since := p.since(pid)
		p.Run(t, "systemctl", "mask", "--runtime", "left4d.service") // no automatic restart: the next call must bring it back
		p.Run(t, "systemctl", "kill", "--signal=KILL", "left4d.service")
		p.WaitUnit(t, "left4d.service", "MainPID", "0")
		p.Run(t, "systemctl", "unmask", "--runtime", "left4d.service")
		p.Run(t, "systemctl", "stop", "left4d.service")
		if got := p.get("a", "State"); got != "running" {
			t.Errorf("a is %s", got)
		}
		if got := p.get("b", "State"); got != "stopped" {
			t.Errorf("b is %s", got)
		}
		if p.pid("a") != pid || p.since(pid) != since {
			t.Error("the server was restarted")
		}
		if cause := p.get("b", "Cause"); !strings.HasPrefix(cause, "stopped by root (job ") {
			t.Errorf("the cause of b is %q", cause)
		}
	})
}

// A stop that comes while the files of a start are being mounted must not leave them mounted.
func TestAStopRightAfterAStart(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		ended := p.Signals(t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("JobRemoved"))
		for _, method := range []string{"StopInstance", "KillInstance"} {
			for round := range 25 {
				p.Run(t, "sh", "-ec", fmt.Sprintf(`m="busctl call me.left4 /me/left4 me.left4.Manager"
					$m StartInstance 'sa{sv}' a 0; sleep 0.0%d%d; $m %s 'sa{sv}' a 0`, round%6, round%10, method))
				s := ended.Wait(t, "the end of the start", jobEnded("start"))
				if s.Body[4] != "canceled" && s.Body[4] != "done" {
					t.Errorf("the start ended as %v", s.Body[4])
				}
				s = ended.Wait(t, "the end of the stop", jobEnded(strings.ToLower(strings.TrimSuffix(method, "Instance"))))
				if s.Body[4] != "done" {
					t.Errorf("%s ended as %v", method, s.Body[4])
				}
				if left := p.mounts(); len(left) != 0 || p.MainPID(t, unit("a")) != 0 {
					t.Fatalf("round %d of %s left %q", round, method, left)
				}
			}
		}
	})
}
