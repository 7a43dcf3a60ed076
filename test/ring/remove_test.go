package ring

import (
	"strings"
	"testing"
)

// traces are what an instance has anywhere on the machine. Mounts are read from the kernel: PID 1's units of them go only when it
// reads the table the next time.
func (p play) traces(name string) string {
	p.t.Helper()
	return p.Run(p.t, "sh", "-c", `
		find /var/lib/left4/instances /var/lib/left4/runtime /etc/systemd /run/systemd/system /run/left4 -name '*`+name+`*' 2>/dev/null
		systemctl list-units --all --plain --no-legend 'left4-*@`+name+`.service'
		grep -F '/`+name+`/' /proc/1/mountinfo || true`)
}

func TestResetRemovesWhatTheServerWrote(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "zz")
		p.ctl("start", "zz")
		p.ready(27015)
		p.WriteFile(t, "/root/outside", "kept", 0o600)
		if r := p.rcon("zz", 27015, "standin plant links modes special hardlinks deep names xattrs"); r.Code != 0 {
			t.Fatalf("%+v", r)
		}
		p.rcon("zz", 27015, "standin write mine.txt hello")
		if !p.exists("/var/lib/left4/runtime/zz/upper/left4dead2/mine.txt") {
			t.Fatal("the server has written nothing")
		}
		p.ctl("reset", "zz")
		if p.exists("/var/lib/left4/runtime/zz") || p.exists("/var/lib/left4/instances/zz") {
			t.Errorf("reset left:\n%s", p.traces("zz"))
		}
		if p.ReadFile(t, "/root/outside") != "kept" || !p.exists("/etc/passwd") || !p.exists("/var/lib/left4/game/1/srcds_run") {
			t.Error("reset reached outside")
		}
		if list := p.ctl("list"); !strings.Contains(list, "zz") {
			t.Errorf("list:\n%s", list)
		}
		p.ctl("start", "zz")
		p.ready(27015)
		if p.exists("/var/lib/left4/runtime/zz/merged/left4dead2/mine.txt") {
			t.Error("the file is back")
		}
	})
}

func TestDeleteLeavesNothing(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "zz")
		p.ctl("start", "zz")
		p.ready(27015)
		p.ctl("delete", "zz")
		if left := p.traces("zz"); left != "" {
			t.Errorf("delete left:\n%s", left)
		}
		p.ctl("delete", "zz")
		if r := p.Try("left4ctl", "status", "zz"); r.Code != 4 {
			t.Errorf("status: %+v", r)
		}
		p.ctl("create", "other")
		if port := p.get("other", "Port"); port != "27015" {
			t.Errorf("the port was not freed: %s", port)
		}
	})
}

func TestAHalfMadeInstanceCanBeDeleted(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		stages := map[string]string{
			"definition":       `left4ctl create zz`,
			"instances only":   `mkdir /var/lib/left4/instances/zz; echo junk >/var/lib/left4/instances/zz/plan.json`,
			"runtime only":     `mkdir /var/lib/left4/runtime/zz; cd /var/lib/left4/runtime/zz; mkdir -p upper/x; mkdir work; mkdir work/index; chmod 0 upper/x; ln -s / merged`,
			"drop-in only":     `mkdir -p /etc/systemd/system/left4-server@zz.service.d; echo '[Service]' >/etc/systemd/system/left4-server@zz.service.d/10-left4.conf`,
			"enabled only":     `mkdir -p /etc/systemd/system/multi-user.target.wants; ln -s /usr/lib/systemd/system/left4-server@.service /etc/systemd/system/multi-user.target.wants/left4-server@zz.service`,
			"initialized":      `left4ctl create zz; printf 'port: 27044\n' | left4ctl initialize zz -f -`,
			"mounted by hand":  `left4ctl create zz; left4ctl initialize zz; /usr/libexec/left4/left4-overlay mount zz`,
			"running, no row":  `left4ctl create zz; left4ctl start zz; systemctl stop left4d; mv /var/lib/left4/left4.db /root/; rm -f /var/lib/left4/left4.db-* /var/lib/left4/left4.db.backup; systemctl start left4d; left4ctl game import /root/game`,
			"failed to mount":  `left4ctl create zz; left4ctl initialize zz; rm -r /var/lib/left4/instances/zz; systemctl start left4-server@zz || true`,
			"foreign in place": `left4ctl create zz; left4ctl start zz; left4ctl stop zz; rm -rf /var/lib/left4/runtime/zz; touch /var/lib/left4/runtime/zz`,
		}
		for what, script := range stages {
			p.Run(t, "sh", "-ec", script)
			p.ctl("delete", "zz")
			if left := p.traces("zz"); left != "" {
				t.Errorf("%s: delete left:\n%s", what, left)
			}
			if r := p.Try("left4ctl", "status", "zz"); r.Code != 4 {
				t.Errorf("%s: status: %+v", what, r)
			}
		}
		if !p.exists("/var/lib/left4/game/1/srcds_run") || !p.exists("/etc/passwd") {
			t.Error("delete reached outside")
		}
	})
}

func TestDeleteDoesNotReachThroughAMount(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.WriteFile(t, "/root/precious/file", "kept", 0o600)
		p.ctl("create", "zz")
		p.ctl("start", "zz")
		p.ctl("stop", "zz")
		p.Run(t, "sh", "-ec", `mkdir /var/lib/left4/runtime/zz/upper/m; mount --bind /root/precious /var/lib/left4/runtime/zz/upper/m`)
		if r := p.Try("left4ctl", "delete", "zz"); r.Code != 1 || !strings.Contains(r.Err, "mount") {
			t.Errorf("delete: %+v", r)
		}
		if p.ReadFile(t, "/root/precious/file") != "kept" {
			t.Error("the file is gone")
		}
		if r := p.Try("left4ctl", "status", "zz"); r.Code == 4 {
			t.Error("the definition went although the files did not")
		}
		p.Run(t, "umount", "/var/lib/left4/runtime/zz/upper/m")
		p.ctl("delete", "zz")
		if left := p.traces("zz"); left != "" {
			t.Errorf("delete left:\n%s", left)
		}
	})
}
