package ring

import (
	"strings"
	"testing"
)

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
