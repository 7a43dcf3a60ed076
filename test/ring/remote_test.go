package ring

import (
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// sshd starts the machine's own sshd, with fresh keys, and lets root log in as these users of it by the name localhost.
func (p play) sshd(users ...string) {
	p.t.Helper()
	p.Run(p.t, append([]string{"sh", "-ec", `
		grep -qsw localhost /etc/hosts || echo 127.0.0.1 localhost >>/etc/hosts
		ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
		mkdir -p -m 0700 /root/.ssh
		ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
		echo "localhost $(cat /etc/ssh/ssh_host_ed25519_key.pub)" >/root/.ssh/known_hosts
		for user; do
			home=$(getent passwd "$user" | cut -d : -f 6)
			install -d -m 0700 -o "$user" -g "$user" "$home/.ssh"
			install -m 0600 -o "$user" -g "$user" /root/.ssh/id_ed25519.pub "$home/.ssh/authorized_keys"
		done
		systemctl start ssh.service`, "sh"}, users...)...)
}

// Another machine's left4d is reached as systemctl -H reaches its systemd: by ssh and what Debian has there anyway.
func TestAnotherHost(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "bob")
		p.AddUser(t, "olga", "left4-operators")
		p.sshd("root", "olga", "bob")
		const there = "root@localhost"
		p.ctl("-H", there, "create", "a", "--label=far away")
		p.ctl("-H", there, "start", "a")
		p.ready(27015)
		if here, got := p.ctl("list"), p.ctl("-H", there, "list"); got != here || !strings.Contains(got, "far away") {
			t.Errorf("the list of %s is\n%s\nand here it is\n%s", there, got, here)
		}
		if r := p.Try("left4ctl", "-H", there, "status", "a"); r.Code != 0 || !strings.Contains(r.Out, "started by root (job ") {
			t.Errorf("status: %+v", r)
		}

		// Who may what is decided there, for whom ssh logs in as.
		if r := p.Try("left4ctl", "-H", "bob@localhost", "stop", "a"); r.Code != 1 || p.get("a", "State") != "running" {
			t.Errorf("bob may stop a: %+v", r)
		}
		monitor := p.Start(t, "left4ctl", "-H", "bob@localhost", "monitor")
		p.Eventually(t, "the monitor is on the bus", func() bool { return p.Try("pgrep", "-u", "bob", "-f", "systemd-stdio-bridge").Code == 0 })
		p.ctl("-H", "olga@localhost", "stop", "a")
		if cause := p.get("a", "Cause"); !strings.HasPrefix(cause, "stopped by olga (job ") {
			t.Errorf("the cause is %q", cause)
		}
		monitor.Expect(t, "stopped by olga (job ")

		// A host that is down, or is not the one it was, is told, and does not hide the other.
		for host, why := range map[string]string{"root@localhost:2": "Connection refused", "root@127.0.0.1": "Host key verification failed"} {
			for verb, says := range map[string]string{"list": "stopped by olga", "status": "1 stopped"} {
				r := p.Try("left4ctl", "-H", there, "-H", host, verb)
				if r.Code != 1 || !strings.Contains(r.Out, says) || !strings.Contains(r.Out, there) || !strings.Contains(r.Err, host) || !strings.Contains(r.Err, why) {
					t.Errorf("%s of two hosts: %+v", verb, r)
				}
			}
			if r := p.Try("left4ctl", "-H", host, "list"); r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, why) {
				t.Errorf("list of %s: %+v", host, r)
			}
		}

		// A line that breaks ends the waiting, and not the job.
		p.ctl("create", "late")
		p.WriteFile(t, "/etc/systemd/system/"+unit("late")+".d/override.conf", "[Service]\nType=notify\n", 0o644)
		starting := p.Start(t, "left4ctl", "-H", "olga@localhost", "start", "late")
		p.wait("late", "State", "starting")
		job := dbus.ObjectPath("/me/left4/job/" + strings.Fields(p.Run(t, "sh", "-c", "left4ctl job list --no-legend | grep -w late"))[0])
		p.Run(t, "pkill", "-KILL", "-u", "olga", "-f", "systemd-stdio-bridge")
		if out, code := starting.Wait(t); code != 1 {
			t.Errorf("it ended with %d: %s", code, out)
		}
		if got := p.job(job, "State"); got != "running" {
			t.Errorf("the job is %s: %s", got, p.job(job, "Cause"))
		}
		p.ctl("-H", there, "stop", "late")
	})
}
