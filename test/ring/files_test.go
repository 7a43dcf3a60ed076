package ring

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// entry is a row of left4ctl overlay ls.
type entry struct {
	Name, Kind string
	Size       uint64
}

// revision is what a revision of an overlay holds on the disk: the content of each file by its path, "/" for a directory.
func (p play) revision(id, revision string) map[string]string {
	p.t.Helper()
	all := map[string]string{}
	tree := os.DirFS(filepath.Join(p.State(), "overlays", id, revision))
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || path == ".":
		case d.IsDir():
			all[path] = "/"
		default:
			var text []byte
			text, err = fs.ReadFile(tree, path)
			all[path] = string(text)
		}
		return err
	})
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	return all
}

// Each change of a file makes a revision that is the one before it and that change, and what is refused makes none.
func TestAChangeOfAFileIsJustThat(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		const cfg = "left4dead2/cfg/server.cfg"
		p.ctl("overlay", "create", "sm", "--keep=100")
		p.revise("sm", map[string]string{cfg: "one\n", "left4dead2/maps/a.bsp": "a", "left4dead2/maps/b.bsp": "b"})
		id, current := p.ofOverlay("sm", "Id"), "2"
		want := map[string]string{
			"left4dead2": "/", "left4dead2/cfg": "/", "left4dead2/maps": "/",
			cfg: "one\n", "left4dead2/maps/a.bsp": "a", "left4dead2/maps/b.bsp": "b",
		}
		same := func(after string) {
			t.Helper()
			if got := p.revision(id, current); !maps.Equal(got, want) {
				t.Errorf("after %s revision %s holds %q", after, current, got)
			}
			if got := p.ofOverlay("sm", "Revision"); got != current {
				t.Errorf("after %s the revision is %s, not %s", after, got, current)
			}
		}
		is := func(after string) {
			t.Helper()
			if now := p.ofOverlay("sm", "Revision"); now == current {
				t.Errorf("after %s the revision is still %s", after, now)
			} else {
				current = now
			}
			same(after)
		}
		same("the import")

		p.RunInput(t, strings.NewReader("two\n"), "left4ctl", "overlay", "put", "sm", cfg)
		want[cfg] = "two\n"
		is("put")
		for file, shared := range map[string]bool{cfg: false, "left4dead2/maps/a.bsp": true} {
			if got := p.sameFile(id+"/2/"+file, id+"/"+current+"/"+file); got != shared {
				t.Errorf("%s is shared: %v", file, got)
			}
		}
		p.WriteFile(t, "/root/c.bsp", "c", 0o640)
		p.ctl("overlay", "put", "sm", "left4dead2/maps/", "/root/c.bsp")
		want["left4dead2/maps/c.bsp"] = "c"
		is("put into a directory")
		if got := answer[[]entry](p, "overlay", "ls", "sm", "left4dead2/maps"); !slices.Equal(got, []entry{{"a.bsp", "file", 1}, {"b.bsp", "file", 1}, {"c.bsp", "file", 1}}) {
			t.Errorf("ls: %v", got)
		}
		p.ctl("overlay", "mkdir", "sm", "left4dead2/addons/sourcemod")
		want["left4dead2/addons"], want["left4dead2/addons/sourcemod"] = "/", "/"
		is("mkdir")
		p.ctl("overlay", "rm", "sm", "left4dead2/maps/a.bsp", "left4dead2/maps/c.bsp")
		delete(want, "left4dead2/maps/a.bsp")
		delete(want, "left4dead2/maps/c.bsp")
		is("rm")
		p.refused(t, []string{"overlay", "rm", "sm", "left4dead2/maps"}, "cannot remove left4dead2/maps: it is a directory")
		p.ctl("overlay", "rm", "-r", "sm", "left4dead2/maps")
		delete(want, "left4dead2/maps")
		delete(want, "left4dead2/maps/b.bsp")
		is("rm -r")
		for _, args := range [][]string{
			{"overlay", "rm", "sm", "left4dead2/none"}, {"overlay", "get", "sm", "left4dead2/none"}, {"overlay", "get", "sm", "left4dead2"},
			{"overlay", "mkdir", "sm", "left4dead2"}, {"overlay", "put", "sm", "left4dead2", "/root/c.bsp"}, {"overlay", "put", "sm", cfg + "/below", "/root/c.bsp"},
			{"overlay", "ls", "sm", cfg}, {"overlay", "ls", "sm", "--revision=99"}, {"overlay", "get", "none", cfg}, {"overlay", "put", "sm", cfg, "/root/none"},
		} {
			p.refused(t, args, "cannot ")
		}
		for _, args := range [][]string{{"overlay", "put", "sm", "../x", "/root/c.bsp"}, {"overlay", "get", "sm", "/etc/passwd"}, {"overlay", "rm", "sm", "."}} {
			if r := p.Try(append([]string{"left4ctl"}, args...)...); r.Code != 2 {
				t.Errorf("%v: %+v", args, r)
			}
		}
		same("what was refused")

		p.Run(t, "env", "EDITOR=true", "left4ctl", "overlay", "edit", "sm", cfg)
		same("an edit without a change")
		p.WriteFile(t, "/root/append", "#!/bin/sh\necho three >>\"$1\"\n", 0o755)
		p.Run(t, "env", "EDITOR=/root/append", "left4ctl", "overlay", "edit", "sm", "left4dead2/cfg/new.cfg")
		want["left4dead2/cfg/new.cfg"] = "three\n"
		is("an edit of a new file")

		// Whoever looked at an older revision is told, also when the other change came between his look and his job.
		ends := p.jobsEnd()
		im := p.importOverlay("sm", map[string]dbus.Variant{"merge": dbus.MakeVariant(true), "base": dbus.MakeVariant(uint32(3))})
		im.write(t, archive(map[string]string{cfg: "lost\n"}))
		if got := ends.ended(t, im.job); got != "failed" {
			t.Errorf("an import on top of an older revision is %s", got)
		}
		if got := p.job(im.job, "Cause"); got != "cannot import overlay sm: it was changed meanwhile: its revision is "+current+", not 3" {
			t.Errorf("its cause is %q", got)
		}
		same("an import on top of an older revision")
		if got := p.revision(id, "3"); got[cfg] != "two\n" || got["left4dead2/maps/a.bsp"] != "a" {
			t.Errorf("revision 3 holds %q", got)
		}
	})
}

// sameFile tells whether two files of overlays are one on the disk.
func (p play) sameFile(a, b string) bool {
	p.t.Helper()
	one, err := os.Lstat(filepath.Join(p.State(), "overlays", a))
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	other, err := os.Lstat(filepath.Join(p.State(), "overlays", b))
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	return os.SameFile(one, other)
}

// write gives an import all that it gets.
func (im importing) write(t *testing.T, text []byte) {
	t.Helper()
	_, err := im.stream.Write(text)
	// It may be refused before it is read.
	if err != nil && !errors.Is(err, unix.EPIPE) {
		t.Fatal(err)
	}
	im.stream.Close()
}
