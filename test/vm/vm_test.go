package vm

import (
	"strings"
	"testing"
)

func TestBoot(t *testing.T) {
	Each(t, func(t *testing.T, m *Machine) {
		if got := m.Run(t, "systemctl", "is-system-running"); got != "running" {
			t.Errorf("the system is %q; failed units:\n%s", got, m.Run(t, "systemctl", "--failed", "--no-legend"))
		}
		t.Log(m.Run(t, "systemd-analyze"), m.Run(t, "systemd-analyze", "blame"))
		t.Log(m.Run(t, "uname", "-a"), m.Run(t, "cat", "/sys/fs/cgroup/cgroup.controllers"))
		if got := m.RunInput(t, strings.NewReader("typed"), "cat"); got != "typed" {
			t.Errorf("standard input arrives as %q", got)
		}
	})
}
