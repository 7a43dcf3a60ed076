package ring

import (
	"strings"
	"testing"
)

// cgroup is a file of a server's control group, "" where the controller is not there.
func (p play) cgroup(name, file string) string {
	p.t.Helper()
	return strings.TrimSpace(p.Try("cat", "/sys/fs/cgroup"+p.Property(p.t, unit(name), "ControlGroup")+"/"+file).Out)
}

func TestLimitsOfABlueprintChangeWhileItsServersRun(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("blueprint", "create", "versus", "--limit=MemoryMax=1G", "--limit=TasksMax=200")
		p.ctl("create", "a", "--blueprint=versus")
		p.ctl("create", "b", "--blueprint=versus", "--limit=MemoryMax=700M")
		p.ctl("start", "a", "b")
		p.ready(27015)
		p.ready(27016)
		a, b, reloads := p.pid("a"), p.pid("b"), p.reloads()
		want := func(when, name, property, value string) {
			t.Helper()
			if got := p.Property(t, unit(name), property); got != value {
				t.Errorf("%s: %s of %s is %s, want %s", when, property, name, got, value)
			}
			file := map[string]string{"MemoryMax": "memory.max", "TasksMax": "pids.max"}[property]
			if got := p.cgroup(name, file); got != "" && got != value {
				t.Errorf("%s: %s of %s is %s, want %s", when, file, name, got, value)
			}
		}
		want("at the start", "a", "MemoryMax", "1073741824")
		want("at the start", "a", "TasksMax", "200")
		want("at the start", "b", "MemoryMax", "734003200")
		want("at the start", "b", "TasksMax", "200")
		p.ctl("blueprint", "configure", "versus", "MemoryMax=512M", "TasksMax=100")
		changed := func(when string) {
			t.Helper()
			want(when, "a", "MemoryMax", "536870912")
			want(when, "a", "TasksMax", "100")
			// Its own one stays.
			want(when, "b", "MemoryMax", "734003200")
			want(when, "b", "TasksMax", "100")
			for _, name := range []string{"a", "b"} {
				if got := p.get(name, "PendingRestart"); got != "false" {
					t.Errorf("%s: PendingRestart of %s is %s", when, name, got)
				}
			}
		}
		changed("by the blueprint")
		if p.pid("a") != a || p.pid("b") != b {
			t.Error("a server was restarted")
		}
		if n := p.reloads() - reloads; n != 0 {
			t.Errorf("the change cost %d reloads", n)
		}
		p.Run(t, "systemctl", "daemon-reload")
		changed("after a reload")
		p.Reboot(t)
		p.ready(27015)
		p.ready(27016)
		changed("after a reboot")
		// Another blueprint brings its own at once.
		p.ctl("blueprint", "create", "coop", "--limit=MemoryMax=900M", "--limit=TasksMax=150")
		a = p.pid("a")
		p.ctl("configure", "a", "--blueprint=coop")
		want("by another blueprint", "a", "MemoryMax", "943718400")
		want("by another blueprint", "a", "TasksMax", "150")
		if p.pid("a") != a {
			t.Error("the server was restarted")
		}
	})
}

func TestLimitsChangeWhileItRuns(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a", "--limit=TasksMax=200")
		p.ctl("start", "a")
		p.ready(27015)
		pid, reloads := p.pid("a"), p.reloads()
		want := func(when, property, value string) {
			t.Helper()
			if got := p.Property(t, unit("a"), property); got != value {
				t.Errorf("%s: %s is %s, want %s", when, property, got, value)
			}
		}
		want("at the start", "TasksMax", "200")
		want("at the start", "MemoryMax", "2147483648")
		p.ctl("configure", "a", "MemoryMax=1G")
		want("changed live", "MemoryMax", "1073741824")
		want("changed live", "TasksMax", "200")
		if n := p.reloads() - reloads; n != 0 {
			t.Errorf("the change cost %d reloads", n)
		}
		if got := p.get("a", "PendingRestart"); got != "false" {
			t.Errorf("PendingRestart is %s", got)
		}
		p.Run(t, "systemctl", "daemon-reload")
		want("after a reload", "MemoryMax", "1073741824")
		p.ctl("configure", "a", "MemoryMax=")
		want("taken away", "MemoryMax", "2147483648")
		p.ctl("configure", "a", "MemoryMax=512M")
		if p.pid("a") != pid {
			t.Error("the server was restarted")
		}
		p.Reboot(t)
		p.ready(27015)
		want("after a reboot", "MemoryMax", "536870912")
		if left := p.Run(t, "sh", "-c", "find /run/systemd/system.control -name '*left4*' -type f 2>/dev/null || true"); strings.TrimSpace(left) != "" {
			t.Errorf("left behind: %s", left)
		}
		if r := p.Try("left4ctl", "configure", "a", "MemoryMax=1K"); r.Code == 0 {
			t.Errorf("a limit of 1K is taken: %+v", r)
		}
	})
}
