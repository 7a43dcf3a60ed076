package ring

import (
	"fmt"
	"strings"
	"testing"
)

func TestTheFirstOverlayWins(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		for i, name := range []string{"top", "mid", "low"} {
			p.layer(name, map[string]string{
				"left4dead2/shared.txt":            name,
				"left4dead2/cfg/server.cfg":        fmt.Sprintf("sv_tags %s\nsv_cheats %d\n", name, i),
				"left4dead2/only-" + name + ".txt": name,
			})
		}
		p.RunInput(t, strings.NewReader("port: 27015\noverlays:\n  - {path: top, alias: '*'}\n  - mid\n  - {path: low, alias: last}\nconfig:\n  - sv_password x1\n"),
			"left4ctl", "initialize", "a", "-f", "-")
		p.ctl("start", "a")
		p.ready(27015)
		read := func(file string) string { return p.rcon("a", 27015, "path "+file).Out }
		if got := read("shared.txt"); !strings.Contains(got, "top") {
			t.Errorf("shared.txt is %q", got)
		}
		for _, name := range []string{"top", "mid", "low"} {
			if got := read("only-" + name + ".txt"); !strings.Contains(got, name) {
				t.Errorf("only-%s.txt is %q", name, got)
			}
		}
		journal := p.Journal(t, unit("a"))
		last, top := strings.Index(journal, "last.cfg"), strings.Index(journal, "server_overlay_"+p.ofOverlay("top", "Id")+".cfg")
		if last < 0 || top < last || strings.Contains(journal, "server_overlay_"+p.ofOverlay("mid", "Id")) {
			t.Errorf("executed in the wrong order:\n%s", journal)
		}
		if r := p.rcon("a", 27015, "sv_tags"); !strings.Contains(r.Out, "top") {
			t.Errorf("sv_tags: %+v", r)
		}

		// What the server deletes stays deleted until it is reset.
		if r := p.rcon("a", 27015, "standin remove only-mid.txt"); r.Code != 0 {
			t.Fatalf("%+v", r)
		}
		for _, again := range [][]string{{"restart", "a"}, {"stop", "a"}} {
			p.ctl(again...)
			p.ctl("start", "a")
			p.ready(27015)
			if p.exists("/var/lib/left4/runtime/a/merged/left4dead2/only-mid.txt") {
				t.Errorf("the file is back after %v", again)
			}
		}
		p.ctl("reset", "a")
		p.ctl("start", "a")
		p.ready(27015)
		if !p.exists("/var/lib/left4/runtime/a/merged/left4dead2/only-mid.txt") {
			t.Error("the file is not back after reset")
		}
	})
}

// Debian 12's kernel knows only mount(2) for overlays; a filter makes this one look like it.
func TestTheOldMountCall(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.WriteFile(t, "/etc/systemd/system/left4-overlay@.service.d/old.conf", "[Service]\nSystemCallFilter=~fsopen\nSystemCallErrorNumber=ENOSYS\n", 0o644)
		p.Run(t, "systemctl", "daemon-reload")
		p.layer("top", map[string]string{"left4dead2/odd.txt": "top"})
		p.layer("low", map[string]string{"left4dead2/odd.txt": "low", "left4dead2/low.txt": "low"})
		p.ctl("create", "a", "--overlay=top", "--overlay=low")
		p.ctl("start", "a")
		p.ready(27015)
		if got := p.reads("a", "odd.txt") + " " + p.reads("a", "low.txt"); got != "top low" {
			t.Errorf("the layers are seen as %q", got)
		}
		p.ctl("stop", "a")
		if len(p.mounts()) != 0 {
			t.Errorf("%q", p.mounts())
		}
	})
}

// A revision that somebody took away by hand: what needs it says so, and nothing is lost.
func TestARevisionThatVanishedIsTold(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.layer("sm", map[string]string{"left4dead2/x": "two"})
		p.revise("sm", map[string]string{"left4dead2/x": "three"})
		dir := p.overlayDir("sm")
		p.ctl("create", "a", "--overlay=sm")
		p.Run(t, "mv", dir+"/3", "/root/3")
		missing := func(why string) {
			t.Helper()
			p.refused(t, []string{"start", "a"}, "cannot start a: overlay sm: revision 3: ", why)
			if cause := p.get("a", "Cause"); !strings.Contains(cause, "overlay sm: revision 3: ") {
				t.Errorf("the cause is %q", cause)
			}
			if len(p.mounts()) != 0 || p.MainPID(t, unit("a")) != 0 {
				t.Errorf("%q", p.mounts())
			}
		}
		missing("its directory is missing")
		p.refused(t, []string{"overlay", "ls", "sm"}, "cannot ")
		p.Run(t, "ln", "-s", "/etc", dir+"/3")
		missing("")
		p.Run(t, "rm", dir+"/3")
		// An older one that is there serves.
		p.ctl("overlay", "rollback", "sm", "2")
		p.ctl("start", "a")
		p.ready(27015)
		if got := p.reads("a", "x"); got != "two" {
			t.Errorf("a reads %q", got)
		}
		p.ctl("stop", "a")
		p.revise("sm", map[string]string{"left4dead2/x": "four"})
		p.ctl("start", "a")
		p.ready(27015)
		if got := p.reads("a", "x"); got != "four" {
			t.Errorf("a reads %q", got)
		}
		p.ctl("delete", "a")
		p.ctl("overlay", "delete", "sm")

		// The same with the game.
		p.ctl("create", "a")
		p.Run(t, "mv", "/var/lib/left4/game/1", "/root/1")
		p.refused(t, []string{"start", "a"}, "cannot start a: game revision 1: its directory is missing")
		p.Run(t, "mv", "/root/1", "/var/lib/left4/game/1")
		p.ctl("start", "a")
		p.ready(27015)
	})
}

// What a server plants in its own tree must not make the next start write anywhere else.
func TestPlantedLinksAreNotFollowed(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		for _, plant := range []string{"cfg-link", "server-cfg-link", "server-cfg-fifo", "server-cfg-directory", "cfg-file", "game-link"} {
			p.ctl("start", "a")
			p.ready(27015)
			before := p.Run(t, "sh", "-c", "ls -laR /etc /root | sha256sum; sha256sum /etc/shadow /etc/passwd")
			p.rcon("a", 27015, "standin plant "+plant)
			p.ctl("stop", "a")
			p.ctl("configure", "a", "label="+plant)
			if r := p.Try("left4ctl", "start", "a"); r.Code != 0 {
				t.Errorf("%s: start: %+v", plant, r)
				p.ctl("reset", "a")
				continue
			}
			p.ready(27015)
			// The enablement link comes and goes with the start.
			if after := p.Run(t, "sh", "-c", "ls -laR /etc /root | sha256sum; sha256sum /etc/shadow /etc/passwd"); strings.SplitN(after, "\n", 2)[1] != strings.SplitN(before, "\n", 2)[1] {
				t.Errorf("%s: something outside was changed", plant)
			}
			if password := p.password("a"); len(password) < 20 {
				t.Errorf("%s: server.cfg was not staged", plant)
			}
			p.ctl("reset", "a")
		}
	})
}

// A server that replaced its own server.cfg has left4's again after a restart that brings nothing else.
func TestARestartStagesWhatTheServerReplaced(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a", "--hostname=mine")
		p.ctl("start", "a")
		p.ready(27015)
		mount := p.mountID("a")
		p.ctl("restart", "a")
		if p.mountID("a") != mount {
			t.Error("a plain restart mounted again")
		}
		p.ready(27015)
		if r := p.rcon("a", 27015, "standin write cfg/server.cfg stolen"); r.Code != 0 {
			t.Fatalf("%+v", r)
		}
		p.ctl("restart", "a")
		p.ready(27015)
		if cfg := p.ReadFile(t, "/var/lib/left4/runtime/a/upper/left4dead2/cfg/server.cfg"); !strings.Contains(cfg, "hostname \"mine\"") {
			t.Errorf("server.cfg is %q", cfg)
		}
	})
}
