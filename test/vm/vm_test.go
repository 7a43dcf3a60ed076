package vm

import (
	"slices"
	"strings"
	"testing"
)

func TestBoot(t *testing.T) {
	Each(t, func(t *testing.T, m *Machine) {
		if got := m.Run(t, "systemctl", "is-system-running"); got != "running" {
			t.Errorf("the system is %q; failed units:\n%s", got, m.Run(t, "systemctl", "--failed", "--no-legend"))
		}
		t.Logf("%s: kernel %s, up after %.1f s\n%s", m.Suite, m.Run(t, "uname", "-r"), m.Up.Seconds(), m.Run(t, "systemd-analyze", "time"))
		controllers := strings.Fields(m.ReadFile(t, "/sys/fs/cgroup/cgroup.controllers"))
		for _, controller := range []string{"cpu", "cpuset", "memory", "pids"} {
			if !slices.Contains(controllers, controller) {
				t.Errorf("there is no cgroup controller %s, but %v", controller, controllers)
			}
		}
		if got := m.RunInput(t, strings.NewReader("typed"), "cat"); got != "typed" {
			t.Errorf("standard input arrives as %q", got)
		}
		if r := m.Try("sh", "-c", "echo out; echo err >&2; exit 7"); r.Out != "out\n" || r.Err != "err\n" || r.Code != 7 {
			t.Errorf("a command that fails gives %+v", r)
		}
		if r := m.Try("sh", "-c", "kill -KILL $$"); r.Code != -1 {
			t.Errorf("a killed command gives %+v", r)
		}
		// What is not synced does not outlive a power cut, or the tests of power cuts would prove nothing.
		m.Run(t, "sh", "-c", "echo synced >/root/synced && sync && echo lost >/root/lost")
		m.PowerCut(t)
		if got := m.Run(t, "sh", "-c", "cat /root/synced; cat /root/lost 2>/dev/null || true"); got != "synced" {
			t.Errorf("after a power cut there is %q", got)
		}
	})
}
