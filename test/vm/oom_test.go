package vm

import (
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// What takes more memory than it may is killed by the kernel, and nothing else with it; people are told why.
func TestTheKernelKillsTheGreedyServerAlone(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		// Long enough to look at what is told between the kill and the restart.
		p.WriteFile(t, "/etc/systemd/system/left4-server@.service.d/slow.conf", "[Service]\nRestartSec=30s\n", 0o644)
		p.ctl("create", "greedy", "--limit=MemoryMax=128M")
		p.ctl("create", "modest", "--limit=MemoryMax=128M")
		p.ctl("start", "greedy", "modest")
		p.ready(27015)
		p.ready(27016)
		greedy, modest, left4d := p.process(unit("greedy")), p.process(unit("modest")), p.process("left4d.service")

		states := p.states()
		p.rcon("modest", 27016, "standin eat-memory 64M")
		p.rcon("greedy", 27015, "standin eat-memory 256M") // no answer comes
		began := time.Now()
		p.expect("the cause of the restart", p.becomes(states, "greedy", "restarting"), "killed by the OOM killer")
		p.expect("the state", p.get("greedy", "State")+": "+p.get("greedy", "Cause"), "restarting: killed by the OOM killer")
		if r := p.Try("left4ctl", "status", "greedy"); !strings.Contains(r.Out, "restarting") || !strings.Contains(r.Out, "killed by the OOM killer") {
			t.Errorf("%s: left4ctl status says\n%s%s", p.Suite, r.Out, r.Err)
		}
		const cause = "restarted by systemd: killed by the OOM killer"
		p.expect("the cause, running", p.becomes(states, "greedy", "running"), cause)
		p.ready(27015)
		p.took("a killed server to be back, of which 30 are RestartSec", began)
		p.expect("the state", p.get("greedy", "State")+": "+p.get("greedy", "Cause"), "running: "+cause)
		p.expect("Restarts", p.get("greedy", "Restarts"), "1")
		if got := p.ctl("status", "greedy"); !strings.Contains(got, cause) {
			t.Errorf("%s: left4ctl status says\n%s", p.Suite, got)
		}

		if p.process(unit("greedy")) == greedy {
			t.Errorf("%s: the greedy server was not killed", p.Suite)
		}
		p.ready(27016)
		p.expect("the other server's process", p.process(unit("modest")), modest)
		p.expect("left4d's process", p.process("left4d.service"), left4d)
		p.expect("the restarts of the other server", p.get("modest", "Restarts"), "0")
		kernel := p.Run(t, "journalctl", "--no-pager", "--dmesg", "--output=cat")
		if n := strings.Count(kernel, "Killed process"); n != 1 || !strings.Contains(kernel, "task_memcg=/left4.slice/left4-game.slice/left4-server@greedy.service") {
			t.Errorf("%s: the kernel killed %d processes:\n%s", p.Suite, n, kernel)
		}

		// One that is not to be restarted stays failed, with the cause, until somebody starts it.
		p.ctl("configure", "greedy", "restart=no")
		p.ctl("restart", "greedy")
		p.ready(27015)
		states = p.states()
		p.rcon("greedy", 27015, "standin eat-memory 256M")
		if cause := p.becomes(states, "greedy", "failed"); !strings.HasPrefix(cause, "killed by the OOM killer") {
			t.Errorf("%s: the cause of the failure is %q", p.Suite, cause)
		}
		if r := p.Try("left4ctl", "status", "greedy"); r.Code != 3 || !strings.Contains(r.Out, "killed by the OOM killer") {
			t.Errorf("%s: left4ctl status: %+v", p.Suite, r)
		}
		p.ctl("start", "greedy")
		p.ready(27015)
		p.expect("the state", p.get("greedy", "State"), "running")
		p.ready(27016)
		p.expect("the other server's process", p.process(unit("modest")), modest)

		// When the machine itself has no more, what is no server goes first, though it be smaller. The kernel is told
		// so: without swap it would only come to that after minutes without page cache.
		p.ctl("configure", "modest", "MemoryMax=700M")
		p.rcon("modest", 27016, "standin eat-memory 200M")
		p.Run(t, "mkfifo", "/run/full")
		p.Run(t, "systemd-run", "--quiet", "--unit=hog", "sh", "-c", `{ head -c 150M /dev/zero; echo full >/run/full; sleep infinity; } | tail -c 1G`)
		p.expect("the hog", p.Run(t, "cat", "/run/full"), "full")
		hog := p.Signals(t, dbus.WithMatchSender("org.freedesktop.systemd1"), dbus.WithMatchPathNamespace("/org/freedesktop/systemd1"))
		p.Run(t, "sh", "-c", "echo f >/proc/sysrq-trigger")
		for p.show("hog.service", "ActiveState") != "failed" {
			hog.Wait(t, "the end of the hog", func(*dbus.Signal) bool { return true })
		}
		p.expect("what became of the hog", p.show("hog.service", "Result"), "oom-kill")
		p.ready(27016)
		p.expect("the large server's process", p.process(unit("modest")), modest)

		// An import that takes too much ends with that as its cause too, and publishes nothing.
		p.ctl("overlay", "create", "maps")
		ends := p.Signals(t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("JobRemoved"))
		job := p.importing("maps")
		worker := strings.Fields(p.Run(t, "systemctl", "list-units", "--plain", "--no-legend", "left4-build-*"))[0]
		p.Run(t, "systemctl", "set-property", "--runtime", worker, "MemoryMax=1M")
		end := ends.Wait(t, "the end of the import", func(s *dbus.Signal) bool {
			return s.Name == managerI+".JobRemoved" && s.Body[1] == job
		})
		p.expect("the result of the import", end.Body[4].(string), "failed")
		p.expect("the cause", p.property(string(job), "me.left4.Job", "Cause"), "cannot import overlay maps: the worker was killed by the OOM killer")
		p.expect("the revisions", p.list(p.overlayDir("maps")), "1")
		p.expect("left4d's process", p.process("left4d.service"), left4d)
	})
}
