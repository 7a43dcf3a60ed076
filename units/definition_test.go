package units

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestADefinitionIsKeptBesideThePlan(t *testing.T) {
	l := Layout{State: t.TempDir()}
	if err := l.KeepDefinition("x", []byte("one")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of what was not rendered: %v", err)
	}
	if _, err := l.WriteInstance("x", planA, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := l.ReadDefinition("x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	for _, text := range []string{"one", "two", "two"} {
		if err := l.KeepDefinition("x", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := l.ReadDefinition("x"); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	file := filepath.Join(l.State, "instances/x/definition.json")
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// Another plan does not take it away, nor does it keep one from being read.
	if _, err := l.WriteInstance("x", planB, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := l.ReadDefinition("x"); err != nil || string(got) != "two" {
		t.Errorf("%q, %v", got, err)
	}
	if p, _, err := l.ReadInstance("x"); err != nil || p.Digest != planB.Digest {
		t.Errorf("%+v, %v", p, err)
	}
	if err := os.WriteFile(file+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.TidyDefinition("x")
	l.TidyDefinition("none")
	if _, err := os.Lstat(file + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file is left: %v", err)
	}
	if err := l.RemoveInstance("x"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "../x", ""} {
		if _, err := l.ReadDefinition(name); err == nil {
			t.Errorf("there is a definition of %q", name)
		}
	}
}

func TestTraces(t *testing.T) {
	c := Config{Dir: t.TempDir()}
	for _, file := range []string{
		"left4-server@a.service.d/10-left4.conf", "left4-server@a.service.d/override.conf", "left4-server@b.service.d/50-limit.conf",
		"left4-server@.service.d/all.conf", "left4-overlay@c.service.d/x.conf", "left4-server@UP.service.d/10-left4.conf",
		"other.service.d/x.conf", "left4d.service.d/x.conf", "left4d.service.d/notes", "left4-overlay@.service",
		"multi-user.target.wants/left4-server@d.service", "multi-user.target.wants/other.service", "multi-user.target.wants/left4-overlay@d.service",
	} {
		path := filepath.Join(c.Dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(os.DevNull, filepath.Join(c.Dir, "left4-server@e.service")); err != nil {
		t.Fatal(err)
	}
	dropIns, links, err := c.Traces()
	if err != nil || !slices.Equal(dropIns, []string{"a"}) || !slices.Equal(links, []string{"d"}) {
		t.Errorf("%q, %q, %v", dropIns, links, err)
	}
	edits, err := c.Edits()
	for i, path := range edits {
		edits[i], _ = filepath.Rel(c.Dir, path)
	}
	if want := []string{
		"left4-overlay@.service", "left4-overlay@c.service.d/x.conf", "left4-server@.service.d/all.conf", "left4-server@a.service.d/override.conf",
		"left4-server@b.service.d/50-limit.conf", "left4d.service.d/x.conf",
	}; err != nil || !slices.Equal(edits, want) {
		t.Errorf("%q, %v", edits, err)
	}
	if _, _, err := (Config{Dir: filepath.Join(c.Dir, "none")}).Traces(); err == nil {
		t.Error("where nothing is, nothing is found")
	}
}
