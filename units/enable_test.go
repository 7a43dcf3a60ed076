package units

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestEnablement(t *testing.T) {
	c := testConfig(t)
	wants := filepath.Join(c.Dir, "multi-user.target.wants")
	link := filepath.Join(wants, "left4-server@a.service")
	is := func(what string, want bool) {
		t.Helper()
		if got, err := c.Enabled("a"); err != nil || got != want {
			t.Errorf("%s: enabled %v, %v", what, got, err)
		}
	}
	target := func(want string) {
		t.Helper()
		if got, err := os.Readlink(link); err != nil || got != want {
			t.Errorf("the link points to %q, %v", got, err)
		}
	}
	is("with no directory", false)
	noError(t, c.Disable("a"))
	for range 2 {
		noError(t, c.Enable("a"))
		is("enabled", true)
		target("/usr/lib/systemd/system/left4-server@.service")
	}
	for range 2 {
		noError(t, c.Disable("a"))
		is("disabled", false)
	}
	if entries, err := os.ReadDir(wants); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}

	// What systemctl made, for a unit file elsewhere, is as good.
	noError(t, os.Symlink("/lib/systemd/system/left4-server@.service", link))
	is("by systemctl", true)
	noError(t, c.Enable("a"))
	target("/lib/systemd/system/left4-server@.service")
	noError(t, c.Disable("a"))
	is("disabled", false)

	// What systemd takes for nothing is not taken for enabled, and is no obstacle.
	noError(t, os.Symlink("/dev/null", link))
	is("linked to /dev/null", false)
	noError(t, c.Enable("a"))
	is("enabled", true)
	noError(t, c.Disable("a"))
	noError(t, os.WriteFile(link, nil, 0o644))
	is("a file", false)
	noError(t, c.Enable("a"))
	is("enabled", true)

	noError(t, os.RemoveAll(wants))
	noError(t, os.Symlink(t.TempDir(), wants))
	if err := c.Enable("b"); err == nil {
		t.Error("the directory's link was followed")
	}
	for _, name := range []string{"", "..", "a/b", "A"} {
		_, err := c.Enabled(name)
		if c.Enable(name) == nil || c.Disable(name) == nil || err == nil || c.Masked(name) {
			t.Errorf("%q is accepted", name)
		}
	}
}

func TestMasked(t *testing.T) {
	c := testConfig(t)
	if c.Masked("a") {
		t.Error("masked by nothing")
	}
	noError(t, os.Symlink("/dev/null", filepath.Join(c.Dir, "left4-server@a.service")))
	if !c.Masked("a") || c.Masked("b") {
		t.Error("the link to /dev/null was not seen")
	}
}

func TestWatchEnablement(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := testConfig(t)
	wants := filepath.Join(c.Dir, "multi-user.target.wants")
	link := func(name string) string { return filepath.Join(wants, ServerUnit(name)) }
	symlink := func(name string) { noError(t, os.Symlink("x", link(name))) }
	_, err := c.WriteDropIn(Server{Name: "old", Command: []string{"/bin/x"}})
	noError(t, err)

	told := make(chan string, 10000)
	noError(t, c.WatchEnablement(ctx, func(name string) { told <- name }))
	sees := func(what string, names ...string) {
		t.Helper()
		for len(names) > 0 {
			select {
			case name := <-told:
				names = slices.DeleteFunc(names, func(n string) bool { return n == name })
			case <-ctx.Done():
				t.Fatalf("%s: nothing was told of %q", what, names)
			}
		}
	}

	symlink0 := func() { noError(t, os.Mkdir(wants, 0o755)); symlink("a"); symlink("b") }
	symlink0()
	sees("a new directory", "a", "b")
	noError(t, os.Remove(link("a")))
	sees("a link removed", "a")
	symlink("c")
	sees("a link made", "c")
	for range 50 { // as "systemctl disable" of the last unit, and "enable" again
		noError(t, os.RemoveAll(wants))
		symlink0()
		noError(t, os.RemoveAll(wants))
		noError(t, c.Enable("d"))
		sees("the directory made again", "d")
		noError(t, c.Disable("d"))
		sees("disabled", "d")
		noError(t, os.Rename(wants, filepath.Join(filepath.Dir(c.Dir), "aside")))
		symlink0()
		sees("the directory exchanged", "a", "b")
		noError(t, os.RemoveAll(filepath.Join(filepath.Dir(c.Dir), "aside")))
	}

	_, err = c.WriteDropIn(Server{Name: "old", Label: "x", Command: []string{"/bin/x"}})
	noError(t, err)
	sees("a changed drop-in", "old")
	_, err = c.WriteDropIn(Server{Name: "new", Command: []string{"/bin/x"}})
	noError(t, err)
	sees("a new drop-in", "new")
	for len(told) > 0 {
		<-told
	}
	noError(t, os.WriteFile(filepath.Join(c.Dir, "left4-server@new.service.d", "override.conf"), nil, 0o644))
	sees("systemctl edit", "new")
	noError(t, c.RemoveDropIn("new"))
	sees("the drop-in removed", "new")
	noError(t, os.Symlink("/dev/null", filepath.Join(c.Dir, ServerUnit("m"))))
	sees("mask", "m")
	noError(t, os.Remove(filepath.Join(c.Dir, ServerUnit("m"))))
	sees("unmask", "m")

	if err := (Config{Dir: filepath.Join(c.Dir, "none")}).WatchEnablement(ctx, func(string) {}); err == nil {
		t.Error("a missing directory is watched")
	}
}
