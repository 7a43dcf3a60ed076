package ring

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"left4.me/left4/daemon/daemontest"
)

// What is wrong with a machine is told in one line with the command that mends it, and not told any more when it is mended.
func TestTheDoctorSeesWhatIsWrongWithTheMachine(t *testing.T) {
	Each(t, func(t *testing.T, m *Machine) {
		const game = "/root/game"
		p := play{m, t}
		if r := p.Try("left4ctl", "doctor", "no-installer"); r.Code != 0 || !strings.Contains(r.Out, "no-installer/SteamCMD (notice)\n") || !strings.Contains(r.Out, "apt install steamcmd") {
			t.Errorf("without a game: exit status %d\n%s%s", r.Code, r.Out, r.Err)
		}
		p.install()
		p.ctl("create", "a", "--port", "27040")
		p.ctl("start", "a")
		p.ready(27040)
		p.ctl("create", "b", "--port", "27044")
		p.WriteFile(t, "/root/tweaks.sh", "true\n", 0o644)
		p.ctl("overlay", "create", "tweaks", "--type", "script", "--script", "/root/tweaks.sh")
		healthy := p.Try("left4ctl", "doctor")
		if healthy.Code != 0 {
			t.Fatalf("a machine that is well: exit status %d\n%s%s", healthy.Code, healthy.Out, healthy.Err)
		}
		// What is told of a machine of the ring: it is a container, mostly without controllers, and one suite has an older systemd.
		var well []string
		if r := p.Try("sh", "-c", `for i in cpu io memory pids; do grep -qw $i /sys/fs/cgroup/cgroup.controllers || exit 1; done`); r.Code != 0 {
			well = append(well, "missing-controller (notice)")
		}
		if p.Suite == "bookworm" {
			well = append(well, "script-network/own (notice)")
		}
		if told := regexp.MustCompile(`(?m)^\S.*`).FindAllString(healthy.Out, -1); !slices.Equal(told, well) {
			t.Errorf("a machine that is well:\n%s", healthy.Out)
		}
		sh := func(script string) func() { return func() { p.Run(t, "sh", "-ec", script) } }
		imported := func(change string) func() {
			return func() {
				p.Run(t, "sh", "-ec", "rm -rf /root/other; cp -a "+game+" /root/other; cd /root/other; "+change)
				p.ctl("game", "import", "/root/other")
			}
		}
		back := func() { p.ctl("game", "rollback") }
		// No library of this machine has that name, whatever is installed.
		p.WriteFile(t, "/root/program32", string(daemontest.Program32("/lib/ld-left4.so.2", "libleft4.so.1", "libstdc++.so.6")), 0o755)

		for _, c := range []struct {
			problem, want string
			begin, end    func()
		}{
			{"missing-rule/60-me.left4.rules (warning)", "apt install --reinstall left4 brings it back",
				sh("mv /usr/share/polkit-1/rules.d/60-me.left4.rules /root/"), sh("mv /root/60-me.left4.rules /usr/share/polkit-1/rules.d/")},
			{"unknown-action (warning)", "apt install --reinstall left4 brings their file back",
				sh("mv /usr/share/polkit-1/actions/me.left4.policy /root/; systemctl restart polkit"),
				sh("mv /root/me.left4.policy /usr/share/polkit-1/actions/; systemctl restart polkit")},
			{"no-polkit (warning)", "polkit does not answer, so nobody but root may do anything",
				sh("systemctl mask --runtime --now polkit"), sh("systemctl unmask --runtime polkit; systemctl start polkit")},
			{"taken-port/b (warning)", "port 27044 of b is taken by a program of root (UDP); ss -lnptu 'sport = :27044' tells which",
				func() {
					p.WriteFile(t, "/run/systemd/system/holder.socket", "[Socket]\nListenDatagram=0.0.0.0:27044\nService=holder.service\n", 0o644)
					p.WriteFile(t, "/run/systemd/system/holder.service", "[Service]\nExecStart=/bin/true\n", 0o644)
					p.Run(t, "systemctl", "start", "holder.socket")
				}, sh("systemctl stop holder.socket")},
			{"shared-port/27005 (warning)", "port 27005 is wanted by c (+clientport), d (+clientport)",
				sh("for i in c d; do left4ctl create $i --arg +clientport --arg 27005; done"), sh("left4ctl delete d")},
			{"wrong-slice/left4-build.slice (error)", "systemctl unmask left4-build.slice",
				sh("systemctl mask --runtime left4-build.slice"), sh("systemctl unmask --runtime left4-build.slice")},
			{"wrong-slice/CPUWeight (warning)", "CPUWeight of servers is 1000 and that of builds 2000, so a build slows servers down; systemctl revert left4-game.slice left4-build.slice",
				sh("systemctl set-property --runtime left4-build.slice CPUWeight=2000"), sh("systemctl revert left4-game.slice left4-build.slice")},
			{"missing-library/game (error)", "/lib/ld-left4.so.2, libleft4.so.1, libstdc++.so.6; dpkg --add-architecture i386",
				imported("cp /root/program32 srcds_linux"), back},
			{"missing-steamclient/sdk32 (warning)", "left4ctl game validate makes it", imported("rm .steam/sdk32/steamclient.so; ln -s ../../bin/nothing .steam/sdk32/steamclient.so"), back},
			{"no-overlay//var/lib/left4 (error)", "servers need a file system such as ext4, XFS or Btrfs there",
				sh(`mkdir /var/lib/over; mount -t tmpfs over /var/lib/over; mkdir /var/lib/over/lower /var/lib/over/upper /var/lib/over/work /var/lib/over/merged
					mount -t overlay -o lowerdir=/var/lib/over/lower,upperdir=/var/lib/over/upper,workdir=/var/lib/over/work over /var/lib/over/merged
					mount --bind /var/lib/over/merged /var/lib/left4/runtime`),
				sh("umount /var/lib/left4/runtime /var/lib/over/merged /var/lib/over; rmdir /var/lib/over")},
			{"full-disk//var/lib/left4 (warning)", "MiB are free in /var/lib/left4; du -xhd2 /var/lib/left4 tells what takes it",
				// As much as is free lies below what the doctor looks for, of a file system of its own.
				sh(`systemctl stop left4d; mkdir /var/lib/small; mount -t tmpfs -o size=500m small /var/lib/small; cp -a /var/lib/left4/left4.db* /var/lib/small/
					mkdir /var/lib/small/instances /var/lib/small/runtime /var/lib/small/overlays /var/lib/small/game; chmod 0700 /var/lib/small/instances /var/lib/small/runtime
					mount --bind /var/lib/small /var/lib/left4; systemctl start left4d`),
				sh("systemctl stop left4d; umount /var/lib/left4 /var/lib/small; rmdir /var/lib/small; systemctl start left4d")},
			{"other-version/left4-worker (warning)", "left4-worker is at version 9 and left4d at 0.1.0; apt install --reinstall left4 makes them one",
				sh(`mv /usr/libexec/left4/left4-worker /root/; printf '#!/bin/sh\necho left4-worker 9\n' >/usr/libexec/left4/left4-worker; chmod +x /usr/libexec/left4/left4-worker`),
				sh("mv /root/left4-worker /usr/libexec/left4/")},
			{"other-version/left4d (warning)", "systemctl restart left4d stops no server",
				sh("cp /usr/sbin/left4d /usr/sbin/left4d.new; mv /usr/sbin/left4d.new /usr/sbin/left4d"), sh("systemctl restart left4d")},
		} {
			c.begin()
			r := p.Try("left4ctl", "doctor")
			name, _, _ := strings.Cut(c.problem, " ")
			if r.Code != 1 || !strings.Contains(r.Out, c.problem+"\n") || !strings.Contains(r.Out, c.want) {
				t.Errorf("%s: exit status %d, not told:\n%s%s", c.problem, r.Code, r.Out, r.Err)
			}
			c.end()
			if r = p.Try("left4ctl", "doctor"); strings.Contains(r.Out, name) || r.Code != 0 {
				t.Errorf("%s: still told, or something else is: exit status %d\n%s%s", c.problem, r.Code, r.Out, r.Err)
			}
		}
		if r := p.Try("left4ctl", "doctor"); r.Out != healthy.Out {
			t.Errorf("at first:\n%s\nin the end:\n%s", healthy.Out, r.Out)
		}
		if left := p.Run(t, "sh", "-c", "ls -A /var/lib/left4/runtime | grep -v '^[abc]$' || true"); left != "" {
			t.Errorf("the doctor has left %s", left)
		}
		p.ready(27040)
	})
}
