package ring

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// Whoever is killed in the middle of an import: the overlay stays what it was, and nothing is left of what was begun.
func TestAnInterruptedImportPublishesNothing(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		const worker = "left4-build-*"
		p.layer("maps", map[string]string{"left4dead2/maps/extra.bsp": "good"})
		dir := p.overlayDir("maps")
		p.ctl("create", "a", "--overlay=maps")
		p.ctl("start", "a")
		p.ready(27015)
		pid := p.pid("a")
		half := archive(map[string]string{"left4dead2/maps/extra.bsp": "bad", "left4dead2/maps/new.bsp": strings.Repeat("new", 1000)})
		half = half[:len(half)-2048]

		for _, options := range []map[string]dbus.Variant{{}, merging()} {
			for victim, kill := range map[string]func(im importing){
				"worker": func(im importing) { p.Run(t, "systemctl", "kill", "--signal=KILL", worker) },
				"left4d and worker": func(im importing) {
					p.killLeft4d(func() {})
					p.Run(t, "systemctl", "kill", "--signal=KILL", worker)
				},
				"left4d and client": func(im importing) {
					p.killLeft4d(func() {})
					im.stream.Close()
				},
			} {
				ends := p.jobsEnd()
				im := p.importOverlay("maps", options)
				if _, err := im.stream.Write(half); err != nil {
					t.Fatal(err)
				}
				p.waitStatus(im.job, "unpacking: ")
				kill(im)
				p.startLeft4d()
				if got := ends.ended(t, im.job); got != "failed" {
					t.Errorf("%s: the import is %s", victim, got)
				}
				im.stream.Close()
				why := map[string]string{"left4d and client": "cut off"}[victim]
				if why == "" {
					why = "killed by SIGKILL"
				}
				for _, command := range [][]string{{"overlay", "show", "maps"}, {"job", "list"}} {
					if got := p.ctl(command...); !strings.Contains(got, "cannot import overlay maps: ") || !strings.Contains(got, why) {
						t.Errorf("%s: left4ctl %v does not say what happened:\n%s", victim, command, got)
					}
				}
				if got := p.ofOverlay("maps", "Revision") + " " + p.ofOverlay("maps", "State"); got != "2 failed" {
					t.Errorf("%s: the overlay is at %s", victim, got)
				}
				if got := strings.Join(p.list(dir), " "); got != "1 2" {
					t.Errorf("%s: %s holds %s", victim, dir, got)
				}
				if got := p.Run(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", worker); got != "" {
					t.Errorf("%s: units are left: %s", victim, got)
				}
				if p.get("a", "PendingRestart") != "false" {
					t.Errorf("%s: a would start with something else", victim)
				}
			}
		}
		// What happened is still known to the next left4d.
		p.Run(t, "systemctl", "restart", "left4d.service")
		if got := p.ofOverlay("maps", "State") + ": " + p.ofOverlay("maps", "Cause"); !strings.HasPrefix(got, "failed: cannot import overlay maps: ") {
			t.Errorf("after a restart of left4d the overlay is %s", got)
		}
		if p.pid("a") != pid {
			t.Error("the server was restarted")
		}
		p.ctl("restart", "a")
		p.ready(27015)
		if p.reads("a", "maps/extra.bsp") != "good" || p.reads("a", "maps/new.bsp") != "" {
			t.Error("a does not have the old revision")
		}
		p.revise("maps", map[string]string{"left4dead2/maps/extra.bsp": "better"})
		if got := p.ofOverlay("maps", "State") + p.ofOverlay("maps", "Cause"); got != "ready" {
			t.Errorf("after an import that was not interrupted the overlay is %s", got)
		}
	})
}

// killLeft4d kills it at a moment, and keeps it down until startLeft4d.
func (p play) killLeft4d(moment func()) {
	p.t.Helper()
	pid := strconv.Itoa(p.MainPID(p.t, "left4d.service"))
	p.Run(p.t, "systemctl", "mask", "--runtime", "left4d.service")
	moment()
	p.Run(p.t, "kill", "-KILL", pid)
	p.WaitUnit(p.t, "left4d.service", "MainPID", "0")
}

func (p play) startLeft4d() {
	p.t.Helper()
	p.Run(p.t, "systemctl", "unmask", "--runtime", "left4d.service")
	p.Run(p.t, "systemctl", "start", "left4d.service")
}

// A disk that is full half way: nothing is published and the old revision stays, whether the worker meets it or left4d.
func TestAFullDiskPublishesNothing(t *testing.T) {
	Each(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.bring()
		p.Run(t, "sh", "-ec", `
			systemctl stop left4d.service
			mount -t tmpfs -o mode=0755,size=32M,nr_inodes=2000 small /var/lib/left4
			systemd-tmpfiles --create
			systemctl start left4d.service`)
		p.ctl("game", "import", "/root/game")
		files := map[string]string{}
		for i := range 600 {
			files[fmt.Sprintf("left4dead2/maps/m%d.bsp", i)] = "good"
		}
		p.layer("maps", files)
		dir := p.overlayDir("maps")
		p.ctl("create", "a", "--overlay=maps")
		p.ctl("start", "a")
		p.ready(27015)
		big := make([]byte, 40<<20)
		rand.Read(big)
		p.RunInput(t, strings.NewReader(string(archive(map[string]string{"left4dead2/maps/m0.bsp": "bad", "left4dead2/maps/m1.bsp": string(big)}))),
			"sh", "-c", "cat >/root/big.tar")
		p.WriteFile(t, "/root/one/left4dead2/maps/m0.bsp", "bad", 0o644)
		for what, c := range map[string]struct {
			args []string
			why  string
		}{
			"the worker, a new tree":    {[]string{"/root/big.tar"}, "disk full after 1 files"},
			"the worker, a part":        {[]string{"/root/big.tar", "--merge"}, "disk full after 1 files"},
			"left4d, linking the files": {[]string{"/root/one", "--merge"}, "no space left on device"},
		} {
			if strings.HasPrefix(what, "left4d") {
				// Files, not bytes: what stays is linked and takes a name each.
				p.Run(t, "mount", "-o", "remount,nr_inodes="+p.Run(t, "sh", "-c", "df --output=iused /var/lib/left4 | tail -n 1 | awk '{ print $1 + 300 }'"), "/var/lib/left4")
			}
			p.refused(t, append([]string{"overlay", "import", "maps"}, c.args...), "cannot import overlay maps: ", c.why)
			if got := p.ctl("overlay", "show", "maps"); !strings.Contains(got, c.why) {
				t.Errorf("%s: left4ctl overlay show does not say what happened:\n%s", what, got)
			}
			if got := p.ofOverlay("maps", "Revision"); got != "2" {
				t.Errorf("%s: the revision is %s", what, got)
			}
			if got := strings.Join(p.list(dir), " "); got != "1 2" {
				t.Errorf("%s: %s holds %s", what, dir, got)
			}
			p.ctl("restart", "a")
			p.ready(27015)
			if got := p.reads("a", "maps/m0.bsp"); got != "good" {
				t.Errorf("%s: a reads %q", what, got)
			}
			p.Run(t, "mount", "-o", "remount,nr_inodes=4000", "/var/lib/left4")
		}
		p.ctl("overlay", "import", "maps", "/root/one", "--merge")
		p.ctl("restart", "a")
		p.ready(27015)
		if p.reads("a", "maps/m0.bsp") != "bad" || p.reads("a", "maps/m1.bsp") != "good" {
			t.Error("an import after there is room again is not served")
		}
	})
}
