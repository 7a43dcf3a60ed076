package ring

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// revisionDir is where a revision of an overlay lies on disk, 0 is the current one.
func (p play) revisionDir(name string, revision uint32) string {
	p.t.Helper()
	var o struct {
		ID       uint32
		Revision uint32
	}
	if err := json.Unmarshal([]byte(p.ctl("overlay", "show", name, "--json")), &o); err != nil {
		p.t.Fatalf("%v", err)
	}
	if revision == 0 {
		revision = o.Revision
	}
	return fmt.Sprintf("/var/lib/left4/overlays/%d/%d", o.ID, revision)
}

func TestSingleFilesOfAnOverlay(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("overlay", "create", "sm", "--keep", "9")
		p.Run(t, "sh", "-ec", `mkdir -p t/left4dead2/cfg "t/$(printf 'odd\n\\\377')"; echo sv_tags one >t/left4dead2/cfg/server.cfg; head -c 3000000 /dev/urandom >t/big`)
		p.ctl("overlay", "import", "sm", "t")
		p.ctl("create", "a", "--overlay", "sm:*", "--port", "27015")
		p.ctl("start", "a")
		p.ready(27015)
		pid := p.pid("a")

		// Each change is a revision of its own, that shares what does not change with the one before it.
		p.RunInput(t, strings.NewReader("typed\n"), "left4ctl", "overlay", "put", "sm", "left4dead2/new.txt")
		p.ctl("overlay", "put", "sm", `odd\x0a\\\xff/`, "t/left4dead2/cfg/server.cfg")
		p.ctl("overlay", "mkdir", "sm", "left4dead2/maps/old")
		p.WriteFile(t, "/root/editor", "#!/bin/sh\nsed -i s/one/two/ \"$1\"\n", 0o755)
		p.Run(t, "env", "EDITOR=/root/editor", "left4ctl", "overlay", "edit", "sm", "left4dead2/cfg/server.cfg")
		p.ctl("overlay", "rm", "-r", "sm", "left4dead2/maps", `odd\x0a\\\xff`)
		before, after := p.revisionDir("sm", 2), p.revisionDir("sm", 0)
		if !strings.HasSuffix(after, "/7") {
			t.Errorf("after five changes of revision 2 the current one is %s", after)
		}
		if a, b := p.Run(t, "stat", "-c", "%i", before+"/big"), p.Run(t, "stat", "-c", "%i", after+"/big"); a != b {
			t.Error("the file that did not change was copied")
		}
		for file, want := range map[string]string{"left4dead2/new.txt": "typed", "left4dead2/cfg/server.cfg": "sv_tags two"} {
			if got := p.ctl("overlay", "get", "sm", file); got != want {
				t.Errorf("%s is %q", file, got)
			}
		}
		if got := p.ctl("overlay", "get", "sm", "left4dead2/cfg/server.cfg", "--revision", "2"); got != "sv_tags one" {
			t.Errorf("revision 2 has become %q", got)
		}
		if got := p.ctl("overlay", "ls", "sm", "--no-legend"); strings.Contains(got, "odd") || !strings.Contains(got, "2.9M") {
			t.Errorf("the top is\n%s", got)
		}

		// What runs has not noticed; its next start has the change.
		if p.pid("a") != pid || p.get("a", "PendingRestart") != "true" {
			t.Errorf("pid %d → %d, pending %s", pid, p.pid("a"), p.get("a", "PendingRestart"))
		}
		if r := p.rcon("a", 27015, "path new.txt"); strings.Contains(r.Out, "typed") {
			t.Errorf("a running server has the new file: %+v", r)
		}
		p.ctl("restart", "a")
		p.ready(27015)
		if r := p.Try("left4ctl", "which", "a", "left4dead2/new.txt", "--no-legend"); r.Code != 0 || !strings.HasPrefix(r.Out, "sm ") {
			t.Errorf("%+v", r)
		}

		// A change in between is not lost: that of another file is kept along, one of the same file refuses the later one.
		p.WriteFile(t, "/root/editor", "#!/bin/sh\necho mine >>\"$1\"\nleft4ctl -q overlay put sm other /etc/hostname\n", 0o755)
		p.Run(t, "env", "EDITOR=/root/editor", "left4ctl", "overlay", "edit", "sm", "left4dead2/new.txt")
		if got := p.ctl("overlay", "get", "sm", "left4dead2/new.txt"); got != "typed\nmine" {
			t.Errorf("after both changes it is %q", got)
		}
		p.WriteFile(t, "/root/editor", "#!/bin/sh\necho lost >\"$1\"\nleft4ctl -q overlay put sm left4dead2/new.txt /etc/hostname\n", 0o755)
		r := p.Try("env", "EDITOR=/root/editor", "left4ctl", "overlay", "edit", "sm", "left4dead2/new.txt")
		_, kept, _ := strings.Cut(r.Err, "is kept in ")
		if r.Code != 1 || p.ReadFile(t, strings.TrimSpace(kept)) != "lost\n" {
			t.Errorf("%+v", r)
		}
		if got, want := p.ctl("overlay", "get", "sm", "left4dead2/new.txt"), strings.TrimSpace(p.ReadFile(t, "/etc/hostname")); got != want {
			t.Errorf("the other's change is %q", got)
		}
	})
}

func TestAZipIsImportedAndAHostileOneIsNot(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		zipped := func(name string, files map[string]string) string {
			t.Helper()
			f, err := os.Create(filepath.Join(t.TempDir(), name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			w := zip.NewWriter(f)
			for name, text := range files {
				out, err := w.Create(name)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := out.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			p.CopyIn(t, f.Name(), "/root/"+name)
			return "/root/" + name
		}
		good := zipped("good.zip", map[string]string{"left4dead2/addons/sm.vdf": "vdf", "left4dead2/cfg/ü.cfg": strings.Repeat("x", 100000)})
		r := p.Try("left4ctl", "overlay", "import", "sm", good)
		if r.Code != 1 || !strings.Contains(r.Err, "left4ctl overlay create sm makes one") {
			t.Errorf("an overlay that is not there: %+v", r)
		}
		p.ctl("overlay", "create", "sm")
		p.ctl("overlay", "import", "sm", good)
		if got := p.ctl("overlay", "get", "sm", "left4dead2/addons/sm.vdf"); got != "vdf" {
			t.Errorf("sm.vdf is %q", got)
		}
		for name, want := range map[string]string{"../out": `".." in a name is not allowed`, "/etc/out": "an absolute name is not allowed", "a\xff": "is not UTF-8"} {
			r := p.Try("left4ctl", "overlay", "import", "sm", zipped("bad.zip", map[string]string{name: "x"}))
			if r.Code != 1 || !strings.Contains(r.Err, want) {
				t.Errorf("%q: %+v", name, r)
			}
		}
		if got := p.ctl("overlay", "ls", "sm", "left4dead2/cfg", "--no-legend"); !strings.Contains(got, "97.7K") || !strings.Contains(got, "ü.cfg") {
			t.Errorf("after the refused ones it holds\n%s", got)
		}
	})
}

// What everybody may see is shown without a question; what only some may see is left out, or refused with the way to it.
func TestOverlaysAndBlueprintsForThoseWhoMayNot(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "mallory")
		p.AddUser(t, "oscar", "left4-operators")
		if r := p.TryAs("oscar", "left4ctl", "overlay", "create", "sm"); r.Code != 0 {
			t.Fatalf("%+v", r)
		}
		p.ctl("blueprint", "create", "versus", "--overlay", "sm", "--arg", "+map", "--arg", "c2m1_highway")
		p.ctl("create", "a", "--blueprint", "versus")
		for _, args := range [][]string{{"overlay", "list"}, {"overlay", "show", "sm"}, {"overlay", "revisions", "sm"}, {"blueprint", "list"}, {"blueprint", "show", "versus"}, {"game", "revisions"}} {
			r := p.TryAs("mallory", append([]string{"left4ctl"}, args...)...)
			if r.Code != 0 || r.Err != "" || strings.Contains(r.Out, "Keep") || strings.Contains(r.Out, "c2m1_highway") {
				t.Errorf("%v: %+v", args, r)
			}
		}
		for _, args := range [][]string{
			{"overlay", "ls", "sm"}, {"overlay", "put", "sm", "x", "/etc/hostname"}, {"overlay", "edit", "sm", "x"}, {"overlay", "create", "mine"}, {"overlay", "rollback", "sm", "1"},
			{"overlay", "delete", "sm"}, {"blueprint", "configure", "versus", "arguments="}, {"blueprint", "delete", "versus"}, {"secret", "a"}, {"preview", "a"},
			{"which", "a", "x"}, {"diff", "a"}, {"conflicts", "versus"}, {"game", "rollback", "1"}, {"configure", "a", "--new-rcon-password"},
		} {
			r := p.TryAs("mallory", append([]string{"env", "EDITOR=true", "left4ctl"}, args...)...)
			if r.Code != 1 || !strings.Contains(r.Err, "hint: run it with sudo") {
				t.Errorf("%v: %+v", args, r)
			}
		}
		for _, args := range [][]string{
			{"overlay", "put", "sm", "x", "/etc/hostname"}, {"overlay", "ls", "sm"}, {"blueprint", "configure", "versus", "arguments="}, {"secret", "a"}, {"preview", "a"},
			{"which", "a", "srcds_run"}, {"diff", "a"}, {"conflicts", "versus"},
		} {
			if r := p.TryAs("oscar", append([]string{"left4ctl"}, args...)...); r.Code != 0 {
				t.Errorf("%v: %+v", args, r)
			}
		}
	})
}

// Who asks for passwords reads from the terminal, and so does an editor.
func TestAnEditorHasTheTerminalForItself(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "bob")
		p.RunInput(t, strings.NewReader("root:open sesame\n"), "chpasswd")
		p.ctl("overlay", "create", "sm")
		p.RunInput(t, strings.NewReader("one\n"), "left4ctl", "overlay", "put", "sm", "x")
		p.WriteFile(t, "/etc/polkit-1/rules.d/20-bob.rules", `polkit.addRule(function(action, subject) {
			if (action.id == "me.left4.overlay.inspect" && subject.user == "bob")
				return polkit.Result.YES;
		});`, 0o644)
		p.Eventually(t, "the rule lets bob look", func() bool { return p.TryAs("bob", "left4ctl", "--no-ask-password", "overlay", "ls", "sm").Code == 0 })
		p.WriteFile(t, "/usr/local/bin/ask-editor", `#!/bin/sh
ps -C pkttyagent -o tty= && echo an agent is there
printf 'Text? ' >/dev/tty
read -r text </dev/tty
echo "$text" >>"$1"
`, 0o755)
		edit := p.Start(t, "systemd-run", "--quiet", "--wait", "--collect", "--pty", "--uid=bob", "--property=PAMName=login", "--setenv=EDITOR=ask-editor",
			"left4ctl", "overlay", "edit", "sm", "x")
		if said := edit.Expect(t, "Text? "); strings.Contains(said, "an agent is there") {
			t.Errorf("beside the editor %s", said)
		}
		edit.Type(t, "two\n")
		p.answer(edit, "open sesame")
		if out, code := edit.Wait(t); code != 0 {
			t.Fatalf("%d, %s", code, out)
		}
		if got := p.ctl("overlay", "get", "sm", "x"); got != "one\ntwo" {
			t.Errorf("the file is %q", got)
		}
	})
}
