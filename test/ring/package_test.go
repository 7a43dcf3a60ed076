package ring

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestAnUpgradeTouchesNoServer(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		pid := p.pid("a")
		since, daemon := p.since(pid), p.MainPID(t, "left4d.service")

		// The same files as a newer version.
		newer := t.TempDir()
		for _, command := range [][]string{
			{"dpkg-deb", "--raw-extract", Package(t), filepath.Join(newer, "tree")},
			{"sed", "-i", "s/^Version: .*/Version: 99.0/", filepath.Join(newer, "tree/DEBIAN/control")},
			{"dpkg-deb", "--root-owner-group", "--build", filepath.Join(newer, "tree"), filepath.Join(newer, "left4_99.0.deb")},
		} {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", command, err, out)
			}
		}
		for _, deb := range []string{filepath.Join(newer, "left4_99.0.deb"), Package(t)} {
			p.Install(t, deb)
			if p.pid("a") != pid || p.since(pid) != since {
				t.Fatalf("%s: the server was restarted", filepath.Base(deb))
			}
			if p.get("a", "State") != "running" {
				t.Errorf("a is %s", p.get("a", "State"))
			}
			if now := p.MainPID(t, "left4d.service"); now == daemon || now == 0 {
				t.Errorf("left4d was %d and is %d", daemon, now)
			} else {
				daemon = now
			}
		}
		p.Run(t, "apt-get", "remove", "--yes", "left4")
		if !p.exists("/proc/"+strconv.Itoa(pid)) || p.since(pid) != since {
			t.Error("the server did not outlive the removal")
		}
		p.Install(t, Package(t))
		if p.pid("a") != pid || p.get("a", "State") != "running" {
			t.Error("the server is not known after the package is back")
		}
	})
}

func TestAPurgeLeavesNothing(t *testing.T) {
	EachBare(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		list := func() string {
			return p.Run(t, "sh", "-c", `find / -xdev \( -path /proc -o -path /sys -o -path /var/log -o -path /var/cache -o -path /tmp -o -path /root \) -prune -o -print | grep -i left4 || true
				find /run /var/lib -iname '*left4*'; getent passwd left4; getent group left4 left4-operators; systemctl list-unit-files --no-legend 'left4*'; systemctl list-units --all --no-legend 'left4*'; true`)
		}
		p.bring()
		p.Run(t, "rm", "-f", "/usr/local/bin/left4-query")
		before := list()
		p.Install(t, Package(t))
		p.ctl("game", "import", "/root/game")
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.Run(t, "systemctl", "set-property", unit("a"), "MemoryMax=1G")
		p.ctl("stop", "a")
		// Not while something is at work in there.
		p.Run(t, "systemd-run", "--quiet", "--unit=left4-build-99", "sleep", "infinity")
		r := p.Try("apt-get", "purge", "--yes", "left4")
		if told := r.Out + r.Err; r.Code == 0 || !strings.Contains(told, "running: left4-build-99.service") || !strings.Contains(told, "systemctl stop 'left4-server@*' 'left4-build-*'") {
			t.Errorf("a purge while a build runs: exit status %d\n%s", r.Code, told)
		}
		if !p.exists("/var/lib/left4/left4.db") || !p.exists("/etc/systemd/system/"+unit("a")+".d") {
			t.Error("a purge that was refused has removed something")
		}
		p.Run(t, "systemctl", "stop", "left4-build-*")
		out := p.Run(t, "dpkg", "--purge", "left4")
		if !strings.Contains(out, "/var/lib/left4") {
			t.Errorf("the purge does not say what it removes:\n%s", out)
		}
		if after := list(); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
	})
}
