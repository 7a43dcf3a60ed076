package ring

import (
	"archive/tar"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestANameIsGivenOnce(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("overlay", "create", "maps")
		p.ctl("overlay", "create", "more")
		p.ctl("blueprint", "create", "versus", "--overlay=maps")
		p.ctl("create", "a", "--blueprint=versus")
		for _, c := range []struct {
			args []string
			why  string
		}{
			{[]string{"overlay", "create", "maps"}, "there is such an overlay"},
			{[]string{"blueprint", "create", "versus"}, "there is such a blueprint"},
			{[]string{"create", "a"}, "there is such an instance"},
			{[]string{"overlay", "create", "No"}, "is not allowed"},
			{[]string{"overlay", "create", "../etc"}, "is not allowed"},
			{[]string{"blueprint", "create", "b", "--overlay=maps", "--overlay=maps"}, "maps is named twice"},
			{[]string{"blueprint", "create", "b", "--overlay=maps:x", "--overlay=more:x"}, "alias"},
			{[]string{"blueprint", "create", "b", "--overlay=maps:server"}, "server"},
			{[]string{"blueprint", "create", "b", "--overlay=none"}, "there is no overlay none"},
			{[]string{"create", "b", "--overlay=none"}, "there is no overlay none"},
			{[]string{"create", "b", "--blueprint=none"}, "there is no blueprint none"},
			{[]string{"configure", "a", "--blueprint=none"}, "there is no blueprint none"},
			{[]string{"overlay", "configure", "maps", "--keep=101"}, "at most 100"},
			{[]string{"overlay", "build", "maps"}, "are imported"},
			{[]string{"overlay", "delete", "maps"}, "blueprint versus"},
		} {
			p.refused(t, c.args, c.why)
		}
		// An alias that is good in both the instance and its blueprint, but not in the two together.
		p.ctl("blueprint", "configure", "versus", "--overlay=maps:x")
		p.refused(t, []string{"configure", "a", "--overlay=more:x"}, "alias")
		p.ctl("configure", "a", "--overlay=more:y")
		p.refused(t, []string{"blueprint", "configure", "versus", "--overlay=maps:y"}, "instance a")
		// What both name is the instance's.
		p.ctl("configure", "a", "--overlay=maps:y")
		if got := p.Try("left4ctl", "status", "a", "--json").Out; strings.Count(got, `"maps"`) != 1 || !strings.Contains(got, `"y"`) {
			t.Errorf("status:\n%s", got)
		}
		// Deleting what is not there succeeds.
		p.ctl("overlay", "delete", "none")
		p.ctl("blueprint", "delete", "none")
		// An id is never given again.
		if got := p.ofOverlay("more", "Id"); got != "2" {
			t.Errorf("the id of the second is %s", got)
		}
		p.ctl("configure", "a", "overlays=")
		p.ctl("overlay", "delete", "more")
		p.ctl("overlay", "create", "more")
		if got := p.ofOverlay("more", "Id"); got != "3" {
			t.Errorf("the id of the one made again is %s", got)
		}
	})
}

// File names are bytes: line ends, escape sequences, no UTF-8, what overlayfs or a shell might take for something else.
func TestOddFileNames(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		names := []string{
			"line\nend", "\x1b[31mred", "\xff\xfe", "back\\slash", `\x41`, "caf\xc3\xa9", " blank ", "-r", "*", "quote'\"", "\xe2\x80\xa8",
			".wh.shared.txt", ".wh..wh..opq", "a:b,c", strings.Repeat("n", 255),
		}
		tree := t.TempDir()
		dir := filepath.Join(tree, "left4dead2/od\nd")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		packed, err := exec.Command("tar", "-C", tree, "-c", ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		p.RunInput(t, strings.NewReader(string(packed)), "sh", "-ec", "mkdir /root/odd; tar -C /root/odd -x")
		p.layer("low", map[string]string{"left4dead2/od\nd/shared.txt": "shared"})
		p.ctl("overlay", "create", "odd")
		p.ctl("overlay", "import", "odd", "/root/odd")
		p.ctl("create", "a", "--overlay=odd", "--overlay=low")
		p.ctl("start", "a")
		p.ready(27015)

		const odd = `left4dead2/od\x0ad`
		var entries []entry
		if err := json.Unmarshal([]byte(p.ctl("overlay", "ls", "odd", odd, "--json")), &entries); err != nil {
			t.Fatal(err)
		}
		if len(entries) != len(names) {
			t.Errorf("%d of %d are listed: %v", len(entries), len(names), entries)
		}
		for _, e := range entries {
			text, ok := strings.CutPrefix(p.mustRun(t, nil, "left4ctl", "overlay", "get", "odd", odd+"/"+e.Name), "content of ")
			if !ok || !slices.Contains(names, text) {
				t.Errorf("%q holds %q", e.Name, text)
			}
			if strings.ContainsFunc(e.Name, func(r rune) bool { return r < ' ' || r == '\u2028' || r == '\ufffd' }) {
				t.Errorf("%q is not safe to print", e.Name)
			}
			if e.Name == "caf\u00e9" && text != "caf\u00e9" || e.Name == `line\x0aend` && text != "line\nend" || e.Name == `\\x41` && text != `\x41` || e.Name == `\xff\xfe` && text != "\xff\xfe" {
				t.Errorf("%q is %q", e.Name, text)
			}
		}
		for _, name := range []string{`line\x0aend`, `\\x41`, `\xff\xfe`, "caf\u00e9", ".wh.shared.txt", `\xe2\x80\xa8`} {
			if !slices.ContainsFunc(entries, func(e entry) bool { return e.Name == name }) {
				t.Errorf("%q is not listed: %v", name, entries)
			}
			if got := answer[[]found](p, "which", "a", odd+"/"+name); len(got) != 1 || got[0] != (found{"odd", "file", false, true}) {
				t.Errorf("%s is found in %v", name, got)
			}
		}
		// It is told by left4ctl, and nothing of it reaches a terminal as it is.
		if got := p.ctl("overlay", "ls", "odd", odd); strings.Contains(got, "\x1b") || !strings.Contains(got, `\x1b[31mred`) {
			t.Errorf("the list is %q", got)
		}
		seen := map[string]string{}
		files := tar.NewReader(strings.NewReader(p.mustRun(t, nil, "tar", "-C", "/var/lib/left4/runtime/a/merged/left4dead2/od\nd", "-c", ".")))
		for {
			h, err := files.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(files)
			if err != nil {
				t.Fatal(err)
			}
			seen[strings.TrimPrefix(h.Name, "./")] = string(text)
		}
		for _, name := range names {
			if seen[name] != "content of "+name {
				t.Errorf("the server reads %q as %q", name, seen[name])
			}
		}
		// Whiteouts of other overlay file systems are none here.
		if seen["shared.txt"] != "shared" {
			t.Errorf("the server reads shared.txt as %q", seen["shared.txt"])
		}
		// Single files, by the same names.
		p.ctl("overlay", "rm", "odd", odd+`/line\x0aend`, odd+"/-r", odd+`/\xff\xfe`)
		p.RunInput(t, strings.NewReader("new"), "left4ctl", "overlay", "put", "odd", odd+`/\xff\x0a`)
		on := filepath.Join(p.State(), "overlays", p.ofOverlay("odd", "Id"), p.ofOverlay("odd", "Revision"), "left4dead2/od\nd")
		if got, err := os.ReadFile(filepath.Join(on, "\xff\n")); string(got) != "new" {
			t.Errorf("what was put holds %q, %v", got, err)
		}
		for _, name := range []string{"line\nend", "-r", "\xff\xfe"} {
			if _, err := os.Lstat(filepath.Join(on, name)); !os.IsNotExist(err) {
				t.Errorf("%q was not removed: %v", name, err)
			}
		}
		for _, path := range []string{`left4dead2/\x`, `left4dead2/\q`, `left4dead2/\x00`, "left4dead2/../..", "/etc"} {
			if r := p.Try("left4ctl", "which", "a", path); r.Code == 0 || r.Err == "" || strings.Contains(r.Err, "nternal") {
				t.Errorf("which of %s: %+v", path, r)
			}
		}
	})
}

// What is asked of an overlay while another job of it is at work waits its turn, and finds out what became of it.
func TestAnOverlayThatIsDeletedBelowItsJobs(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		ends := p.jobsEnd()
		p.ctl("overlay", "create", "maps")
		id := p.ofOverlay("maps", "Id")
		first := p.importOverlay("maps", nil)
		p.waitStatus(first.job, "unpacking")
		queued := p.importOverlay("maps", nil)
		gone := dbus.ObjectPath(value(p.manager("DeleteOverlay", "sa{sv}", "maps", "0")))
		late := p.importOverlay("maps", merging())
		later := dbus.ObjectPath(value(p.manager("DeleteOverlay", "sa{sv}", "maps", "0")))
		files := archive(map[string]string{"left4dead2/maps/extra.bsp": "extra"})
		for _, im := range []importing{first, queued} {
			im.write(t, files)
			if got := ends.ended(t, im.job); got != "done" {
				t.Errorf("an import before the delete is %s: %s", got, p.job(im.job, "Cause"))
			}
		}
		if got := ends.ended(t, gone); got != "done" {
			t.Errorf("the delete is %s: %s", got, p.job(gone, "Cause"))
		}
		late.write(t, files)
		if got := ends.ended(t, late.job); got == "done" || !strings.Contains(p.job(late.job, "Cause"), "there is no overlay maps") {
			t.Errorf("an import after the delete is %s: %s", got, p.job(late.job, "Cause"))
		}
		if got := ends.ended(t, later); got != "done" {
			t.Errorf("the second delete is %s: %s", got, p.job(later, "Cause"))
		}
		if got := p.list("/var/lib/left4/overlays"); len(got) != 0 {
			t.Errorf("overlays/ holds %q", got)
		}
		p.refused(t, []string{"overlay", "show", "maps"}, "there is no overlay maps")

		// A job is for the overlay that it was asked for, and not for a later one of that name.
		p.layer("maps", map[string]string{"left4dead2/maps/extra.bsp": "new"})
		if p.ofOverlay("maps", "Id") == id || p.ofOverlay("maps", "Revision") != "2" {
			t.Errorf("the new one has id %s and revision %s", p.ofOverlay("maps", "Id"), p.ofOverlay("maps", "Revision"))
		}
	})
}
