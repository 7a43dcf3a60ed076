package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// An orderly boot: every server is told to end before its files go, and all that ran is back.
func TestTenServersComeBackAfterAReboot(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		const n = 10
		p.layer("maps", map[string]string{"left4dead2/maps/extra.bsp": "bsp"})
		p.ctl("blueprint", "create", "versus", "--overlay=maps", "--limit=MemoryMax=256M")
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("s%d", i))
		}
		for _, name := range append(names, "idle") {
			p.ctl("create", name, "--blueprint=versus")
		}
		all := func() {
			t.Helper()
			for i := range n {
				p.ready(27015 + i)
			}
		}
		began := time.Now()
		p.ctl(append([]string{"start"}, names...)...)
		all()
		p.took(fmt.Sprintf("%d servers to be started", n), began)

		began = time.Now()
		down, up := p.Reboot(t)
		all()
		p.took(fmt.Sprintf("a reboot with %d servers: %.1f s down, %.1f s to multi-user.target, then all answered", n, down.Seconds(), up.Seconds()), began)
		t.Logf("%s: %s", p.Suite, p.Run(t, "systemd-analyze", "time"))
		for _, name := range names {
			p.expect(name, p.get(name, "State")+": "+p.get(name, "Cause"), "running: started at boot")
			p.expect("the limit of "+name, p.cgroup(name, "memory.max"), "268435456")
			// It writes that when it is told to end, into the mounted tree.
			if p.Try("test", "-e", "/var/lib/left4/runtime/"+name+"/upper/left4dead2/cfg/banned_user.cfg").Code != 0 {
				t.Errorf("%s: %s did not end cleanly", p.Suite, name)
			}
		}
		p.expect("idle", p.get("idle", "State"), "stopped")
		if mounts := p.mounts(); len(mounts) != n {
			t.Errorf("%s: mounted: %q", p.Suite, mounts)
		}
		last := p.Run(t, "journalctl", "--no-pager", "--boot=-1", "--output=cat", "--unit=left4*")
		if got := strings.Count(last, "Server shutting down (interrupt)"); got != n {
			t.Errorf("%s: %d servers were told to end", p.Suite, got)
		}
		for _, bad := range []string{"in use", "Failed with result", "cannot"} {
			if strings.Contains(last, bad) {
				t.Errorf("%s: the journal of the boot before tells of %q:\n%s", p.Suite, bad, last)
			}
		}
		p.expect("the failed units", p.Run(t, "systemctl", "--failed", "--no-legend", "--plain"), "")
		t.Logf("%s: %.1f s for the machine to be off", p.Suite, p.Shutdown(t).Seconds())
		if console := string(p.boot.console.tail()); strings.Contains(console, "Failed to unmount") || strings.Contains(console, "left4") {
			t.Errorf("%s: the end was not clean:\n%s", p.Suite, console)
		}
	})
}
