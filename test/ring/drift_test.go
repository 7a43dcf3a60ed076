package ring

import (
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestWhatIsDoneByHandIsSeen(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		for _, step := range []struct {
			command        []string
			state, drifted string
			cause          string
		}{
			{[]string{"systemctl", "stop", unit("a")}, "stopped", "true", "stopped outside left4"},
			{[]string{"left4ctl", "stop", "a"}, "stopped", "false", "stopped by root"},
			{[]string{"systemctl", "start", unit("a")}, "running", "true", "started outside left4"},
			{[]string{"systemctl", "enable", unit("a")}, "running", "false", ""},
			{[]string{"systemctl", "disable", unit("a")}, "running", "true", ""},
			{[]string{"left4ctl", "start", "a"}, "running", "false", ""},
			{[]string{"systemctl", "mask", "--now", unit("a")}, "stopped", "true", "masked"},
			{[]string{"systemctl", "unmask", unit("a")}, "stopped", "true", ""},
			{[]string{"left4ctl", "start", "a"}, "running", "false", "started by root"},
		} {
			p.Run(t, step.command...)
			p.wait("a", "State", step.state)
			p.wait("a", "Drifted", step.drifted)
			if cause := p.get("a", "Cause"); !strings.Contains(cause, step.cause) {
				t.Errorf("after %v the cause is %q, want %q", step.command, cause, step.cause)
			}
		}
	})
}

// A mask of a unit that runs takes its dependencies away: its files lose their need and its unit's order. Players must not
// notice, neither of that nor of the unmask.
func TestAMaskedServerPlaysOn(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		pid := p.pid("a")
		since := p.since(pid)
		// Here the unmount gives up at once.
		p.WriteFile(t, "/etc/systemd/system/left4-overlay@.service.d/impatient.conf", "[Service]\nTimeoutStopSec=1s\n", 0o644)
		p.Run(t, "systemctl", "daemon-reload")
		p.Run(t, "systemctl", "mask", unit("a"))
		p.WaitUnit(t, overlayUnit("a"), "ActiveState", "failed")
		if len(p.mounts()) != 1 || p.get("a", "State") != "running" {
			t.Errorf("%s, mounts %q", p.get("a", "State"), p.mounts())
		}
		p.Run(t, "systemctl", "unmask", unit("a"))
		p.Run(t, "systemctl", "daemon-reload")
		p.ready(27015)
		if p.pid("a") != pid || p.since(pid) != since {
			t.Error("the server was restarted")
		}
		// An automatic restart finds its files, and takes their unit up again.
		states := p.Signals(t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("InstanceStateChanged"))
		p.Run(t, "kill", "-KILL", strconv.Itoa(pid))
		states.Wait(t, "running", changedTo("running"))
		p.ready(27015)
		if got := p.Property(t, overlayUnit("a"), "ActiveState"); got != "active" {
			t.Errorf("the overlay is %s", got)
		}
		p.Run(t, "systemctl", "mask", unit("a"))
		p.WaitUnit(t, overlayUnit("a"), "ActiveState", "failed")
		p.Run(t, "systemctl", "stop", unit("a"))
		p.wait("a", "State", "stopped")
		if cause := p.get("a", "Cause"); cause != "the unit is masked; stopped outside left4; its files could not be unmounted" {
			t.Errorf("the cause is %q", cause)
		}
		p.Run(t, "systemctl", "unmask", unit("a"))
		p.ctl("start", "a")
		p.ready(27015)
		p.ctl("stop", "a")
		if len(p.mounts()) != 0 {
			t.Errorf("mounts %q", p.mounts())
		}
	})
}

// The unmount waits for a server that its mask does not let it be ordered behind.
func TestAMaskedServerIsAwaited(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		journal := p.Start(t, "journalctl", "--follow", "--lines=all", "--output=cat", "--unit="+overlayUnit("a"))
		p.Run(t, "systemctl", "mask", unit("a"))
		journal.Expect(t, "waiting for its end")
		if len(p.mounts()) != 1 || p.get("a", "State") != "running" {
			t.Errorf("%s, mounts %q", p.get("a", "State"), p.mounts())
		}
		p.Run(t, "systemctl", "stop", unit("a"))
		p.WaitUnit(t, overlayUnit("a"), "ActiveState", "inactive")
		if len(p.mounts()) != 0 {
			t.Errorf("mounts %q", p.mounts())
		}
		p.wait("a", "State", "stopped")
		if cause := p.get("a", "Cause"); cause != "the unit is masked; stopped outside left4" {
			t.Errorf("the cause is %q", cause)
		}
	})
}

func TestDriftIsSignalled(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		changes := p.Signals(t, dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"))
		states := p.Signals(t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("InstanceStateChanged"))
		p.Run(t, "systemctl", "stop", unit("a"))
		states.Wait(t, "stopped", func(s *dbus.Signal) bool {
			return changedTo("stopped")(s) && s.Body[0] == "a" && s.Body[3] == "stopped outside left4"
		})
		changes.Wait(t, "Drifted", func(s *dbus.Signal) bool {
			if s.Path != "/me/left4/instance/a" {
				return false
			}
			all, _ := s.Body[1].(map[string]dbus.Variant)
			return all["Drifted"].Value() == true
		})
	})
}

func TestAnIdleLeft4dSleeps(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		// How often its threads gave up the processor, every five seconds, until they did not in five. What the start has
		// set going may take a while to end.
		script := `pid=$(systemctl show --value -p MainPID left4d)
			count() { cat /proc/$pid/task/*/status | awk '/ctxt_switches/ { n += $2 } END { print n }'; }
			now=$(count)
			for i in 1 2 3 4 5 6; do
				before=$now; sleep 5; now=$(count); echo $((now - before))
				if [ $now = $before ]; then break; fi
			done`
		if f := strings.Fields(p.Run(t, "sh", "-c", script)); f[len(f)-1] != "0" {
			t.Errorf("context switches every five seconds: %v", f)
		}
	})
}

func TestARestartOfSystemdIsSurvived(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		pid := p.pid("a")
		p.Run(t, "systemctl", "daemon-reexec")
		p.Run(t, "systemctl", "daemon-reload")
		if p.pid("a") != pid || p.get("a", "State") != "running" {
			t.Error("the server is another")
		}
		p.Run(t, "systemctl", "stop", unit("a"))
		p.wait("a", "Drifted", "true")
		p.ctl("start", "a")
		p.ctl("stop", "a")
		if len(p.mounts()) != 0 {
			t.Errorf("mounts %q", p.mounts())
		}
	})
}

func TestAPortOfAnotherProgramIsTold(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a", "--port=27030")
		// Another game server, run by hand, has it.
		other := p.Start(t, "sh", "-c", "cd /root/game && ./srcds_run -game left4dead2 -norestart -strictportbind -port 27030")
		p.ready(27030)
		r := p.Try("left4ctl", "start", "a")
		if r.Code != 1 || !strings.Contains(r.Err, "port 27030 is taken by another program") {
			t.Errorf("start: %+v", r)
		}
		if cause := p.get("a", "Cause"); !strings.Contains(cause, "port 27030 is taken by another program") {
			t.Errorf("the cause is %q", cause)
		}
		p.Run(t, "pkill", "-INT", "-f", "--", "-port 27030")
		other.Wait(t)
		p.ctl("start", "a")
		p.ready(27030)
	})
}
