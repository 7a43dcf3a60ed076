package ring

import (
	"fmt"
	"strings"
	"testing"
)

func TestTheFirstOverlayWins(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		for i, name := range []string{"top", "mid", "low"} {
			dir := "/var/lib/left4/overlays/" + name + "/left4dead2/"
			p.WriteFile(t, dir+"shared.txt", name, 0o644)
			p.WriteFile(t, dir+"cfg/server.cfg", fmt.Sprintf("sv_tags %s\nsv_cheats %d\n", name, i), 0o644)
			p.WriteFile(t, dir+"only-"+name+".txt", name, 0o644)
		}
		p.Run(t, "chown", "-R", "left4:left4", "/var/lib/left4/overlays/top", "/var/lib/left4/overlays/mid", "/var/lib/left4/overlays/low")
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
		last, top := strings.Index(journal, "last.cfg"), strings.Index(journal, "server_overlay_top.cfg")
		if last < 0 || top < last || strings.Contains(journal, "server_overlay_mid") {
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

func TestManyLayersWithOddNames(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		var spec strings.Builder
		spec.WriteString("port: 27015\noverlays:\n")
		var names []string
		for i := range 200 {
			names = append(names, fmt.Sprintf("l%d,a:b\\c d", i))
		}
		var script strings.Builder
		for i, name := range names {
			fmt.Fprintf(&spec, "  - %q\n", name)
			fmt.Fprintf(&script, "mkdir -p '/var/lib/left4/overlays/%s/left4dead2'; echo %d >'/var/lib/left4/overlays/%s/left4dead2/n%d.txt'\n", name, i, name, i)
		}
		p.Run(t, "sh", "-ec", script.String()+"chown -R left4:left4 /var/lib/left4/overlays/*")
		p.RunInput(t, strings.NewReader(spec.String()), "left4ctl", "initialize", "a", "-f", "-")
		p.ctl("start", "a")
		p.ready(27015)
		for i := range names {
			if !p.exists(fmt.Sprintf("/var/lib/left4/runtime/a/merged/left4dead2/n%d.txt", i)) {
				t.Errorf("layer %d is not seen", i)
			}
		}
		plan := p.Run(t, "/usr/libexec/left4/left4-overlay", "plan", "a")
		if !strings.Contains(plan, "l199") {
			t.Errorf("plan:\n%s", plan)
		}
		p.ctl("stop", "a")
		if len(p.mounts()) != 0 {
			t.Errorf("%q", p.mounts())
		}
	})
}

// Debian 12's kernel knows only mount(2) for overlays; a filter makes this one look like it.
func TestTheOldMountCall(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.WriteFile(t, "/etc/systemd/system/left4-overlay@.service.d/old.conf", "[Service]\nSystemCallFilter=~fsopen\nSystemCallErrorNumber=ENOSYS\n", 0o644)
		p.Run(t, "systemctl", "daemon-reload")
		p.WriteFile(t, "/var/lib/left4/overlays/a,b:c\\d/left4dead2/odd.txt", "x", 0o644)
		p.Run(t, "chown", "-R", "left4:left4", `/var/lib/left4/overlays/a,b:c\d`)
		p.RunInput(t, strings.NewReader("overlays: ['a,b:c\\d']\n"), "left4ctl", "initialize", "a", "-f", "-")
		p.ctl("start", "a")
		p.ready(27015)
		if !p.exists("/var/lib/left4/runtime/a/merged/left4dead2/odd.txt") {
			t.Error("the layer is not seen")
		}
		p.ctl("stop", "a")
		if len(p.mounts()) != 0 {
			t.Errorf("%q", p.mounts())
		}
	})
}

func TestAMissingOverlayIsTold(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.WriteFile(t, "/var/lib/left4/overlays/sm/left4dead2/x", "x", 0o644)
		p.ctl("create", "a", "--overlay=sm")
		p.Run(t, "rm", "-r", "/var/lib/left4/overlays/sm")
		if r := p.Try("left4ctl", "start", "a"); r.Code != 1 || !strings.Contains(r.Err, "overlay sm") {
			t.Errorf("%+v", r)
		}
		p.Run(t, "ln", "-s", "/etc", "/var/lib/left4/overlays/sm")
		if r := p.Try("left4ctl", "start", "a"); r.Code != 1 || !strings.Contains(r.Err, "overlay sm") {
			t.Errorf("%+v", r)
		}
		if len(p.mounts()) != 0 {
			t.Errorf("%q", p.mounts())
		}
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
