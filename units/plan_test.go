package units

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPlanText(t *testing.T) {
	p := Plan{"0abc", []string{"overlays/sm", "overlays/a, b:c\\<&>/ü", "game/3"}}
	text, err := p.Marshal()
	must(t, err)
	want := `{"version":1,"digest":"0abc","lower":["overlays/sm","overlays/a, b:c\\<&>/ü","game/3"]}` + "\n"
	if string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
	got, err := ParsePlan(text)
	must(t, err)
	if got.Digest != p.Digest || !slices.Equal(got.Lower, p.Lower) {
		t.Errorf("got %+v", got)
	}
}

func TestPlanRefuses(t *testing.T) {
	many := make([]string, 501)
	for i := range many {
		many[i] = fmt.Sprintf("game/%d", i)
	}
	for what, p := range map[string]Plan{
		"no layer":            {"a", nil},
		"501 layers":          {"a", many},
		"no digest":           {"", []string{"game/1"}},
		"digest with newline": {"a\n", []string{"game/1"}},
		"long digest":         {strings.Repeat("a", 129), []string{"game/1"}},
		"absolute":            {"a", []string{"/game/1"}},
		"up":                  {"a", []string{"game/../instances"}},
		"up at the end":       {"a", []string{"game/.."}},
		"elsewhere":           {"a", []string{"instances/x"}},
		"whole game":          {"a", []string{"game"}},
		"ends in slash":       {"a", []string{"game/1/"}},
		"double slash":        {"a", []string{"game//1"}},
		"dot":                 {"a", []string{"game/./1"}},
		"empty":               {"a", []string{""}},
		"newline":             {"a", []string{"game/1\n"}},
		"nul":                 {"a", []string{"game/1\x00"}},
		"C1 control":          {"a", []string{"game/1\u0085"}},
		"not UTF-8":           {"a", []string{"overlays/\xff"}},
		"long name":           {"a", []string{"overlays/" + strings.Repeat("n", 256)}},
		"long path":           {"a", []string{"overlays" + strings.Repeat("/n", 2100)}},
		"twice":               {"a", []string{"game/1", "overlays/x", "game/1"}},
		"within another":      {"a", []string{"overlays/x/y", "overlays/x"}},
		"around another":      {"a", []string{"overlays/x", "overlays/x/y/z"}},
	} {
		if text, err := p.Marshal(); err == nil {
			t.Errorf("%s: written as %s", what, text)
		}
	}
	for _, text := range []string{
		``, `{}`, `null`, `[]`, `{`,
		`{"version":2,"digest":"a","lower":["game/1"]}`,
		`{"version":1,"digest":"a","lower":["game/1"],"more":1}`,
		`{"version":1,"digest":"a","lower":["game/1"]} {}`,
		`{"version":1,"digest":"a","lower":["game/1"]}x`,
		`{"version":1,"digest":"a","lower":"game/1"}`,
		`{"version":1,"digest":"a","lower":["game/../etc"]}`,
		`{"version":1,"digest":"a","lower":["game/\u0000"]}`,
		"{\"version\":1,\"digest\":\"a\",\"lower\":[\"game/\xff\"]}",
	} {
		if p, err := ParsePlan([]byte(text)); err == nil {
			t.Errorf("%s was read as %+v", text, p)
		}
	}
	must(t, Plan{"a", many[:500]}.check())
	must(t, Plan{"a", []string{"overlays/x", "overlays/xy", "overlays/x.d/y"}}.check())
}

func FuzzParsePlan(f *testing.F) {
	f.Add([]byte(`{"version":1,"digest":"ab","lower":["overlays/sm","game/3"]}`))
	f.Add([]byte(`{"version":1,"digest":"ab","lower":["game/3/../../etc"]}`))
	f.Add([]byte(`{"version":1,"digest":"\u0061","lower":["overlays/\ud800\\:,"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePlan(data)
		if err != nil {
			return
		}
		for _, lower := range p.Lower {
			if !filepath.IsLocal(lower) || filepath.Clean(lower) != lower || strings.ContainsAny(lower, "\x00\n\x7f") ||
				!strings.HasPrefix(lower, "overlays/") && !strings.HasPrefix(lower, "game/") {
				t.Fatalf("layer %q passed", lower)
			}
		}
		text, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParsePlan(text)
		if err != nil || again.Digest != p.Digest || !slices.Equal(again.Lower, p.Lower) {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}

// testLayout is an empty state with two overlays and a game.
func testLayout(t *testing.T, dir string) Layout {
	t.Helper()
	l := Layout{State: dir + "/state", Run: dir + "/run"}
	for _, sub := range []string{"/state/overlays/sm", "/state/overlays/maps", "/state/game/3", "/run"} {
		mkdir(t, dir+sub)
	}
	return l
}

func TestCheckLower(t *testing.T) {
	l := testLayout(t, t.TempDir())
	putFile(t, l.State+"/overlays/file", "x")
	must(t, os.Symlink("sm", l.State+"/overlays/link"))
	mkdir(t, l.State+"/overlays/sm/deep")
	for path, want := range map[string]string{
		"overlays/sm":        "",
		"overlays/sm/deep":   "",
		"game/3":             "",
		"overlays/link":      "a link is in the way",
		"overlays/link/deep": "a link is in the way",
		"overlays/file":      "not a directory",
		"overlays/missing":   "no such file or directory",
		"overlays/../game/3": "not a plain path",
		"run":                "not below overlays/ or game/",
	} {
		err := l.CheckLower(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", path, err, want)
		}
	}
}

var (
	planA = Plan{"aa", []string{"overlays/sm", "game/3"}}
	cfgA  = map[string][]byte{"server.cfg": []byte("a\n"), "server_overlay_1.cfg": []byte("one\n")}
	planB = Plan{"bb", []string{"overlays/maps", "game/3"}}
	cfgB  = map[string][]byte{"server.cfg": []byte("b\n"), "server_overlay_2.cfg": []byte("two\n"), "empty.cfg": {}}
)

func checkInstance(t *testing.T, l Layout, p Plan, cfg map[string][]byte) {
	t.Helper()
	gotPlan, gotCfg, err := l.ReadInstance("x")
	must(t, err)
	if gotPlan.Digest != p.Digest || !slices.Equal(gotPlan.Lower, p.Lower) || !maps.EqualFunc(gotCfg, cfg, bytes.Equal) {
		t.Errorf("got %+v with %q", gotPlan, gotCfg)
	}
}

func TestInstance(t *testing.T) {
	l := testLayout(t, t.TempDir())
	must(t, l.RemoveInstance("x"))
	if _, _, err := l.ReadInstance("x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it is written: %v", err)
	}
	set := func(p Plan, cfg map[string][]byte, want bool) {
		t.Helper()
		changed, err := l.WriteInstance("x", p, cfg)
		must(t, err)
		if changed != want {
			t.Errorf("changed %v, want %v", changed, want)
		}
		checkInstance(t, l, p, cfg)
		if got := listDir(t, l.State+"/instances"); got != "x" {
			t.Errorf("instances holds %s", got)
		}
	}
	set(planA, cfgA, true)
	before := snapshot(t, l.State)
	set(planA, cfgA, false)
	if after := snapshot(t, l.State); after != before {
		t.Error("an unchanged instance was touched")
	}
	set(planB, cfgB, true)
	set(planB, nil, true)
	set(planA, nil, true)
	set(planB, cfgB, true)

	must(t, filepath.WalkDir(l.State+"/instances", func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		info, err := d.Info()
		must(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return nil
	}))

	// What a crash, a curious person or an older version left is written over.
	for what, spoil := range map[string]func() error{
		"broken plan": func() error { return os.WriteFile(l.State+"/instances/x/plan.json", []byte("{"), 0o600) },
		"no plan":     func() error { return os.Remove(l.State + "/instances/x/plan.json") },
		"no cfg":      func() error { return os.RemoveAll(l.State + "/instances/x/cfg") },
		"odd file":    func() error { return os.WriteFile(l.State+"/instances/x/cfg/.odd", nil, 0o600) },
		"directory":   func() error { return os.Mkdir(l.State+"/instances/x/cfg/d", 0o700) },
		"file": func() error {
			return errors.Join(os.RemoveAll(l.State+"/instances/x"), os.WriteFile(l.State+"/instances/x", nil, 0o600))
		},
		"half written": func() error { return os.MkdirAll(l.State+"/instances/.x.aside/cfg", 0o700) },
	} {
		must(t, spoil())
		if what != "half written" {
			if _, _, err := l.ReadInstance("x"); err == nil {
				t.Errorf("%s: was read", what)
			}
		}
		set(planA, cfgA, true)
		set(planB, cfgB, true)
	}

	for _, name := range []string{"", ".", "..", "../x", "a/b", "X", ".x"} {
		if _, err := l.WriteInstance(name, planA, nil); err == nil {
			t.Errorf("instance %q was written", name)
		}
		for verb, do := range map[string]func(string) error{"RemoveInstance": l.RemoveInstance, "RemoveRuntime": l.RemoveRuntime} {
			if err := do(name); err == nil {
				t.Errorf("%s(%q) passed", verb, name)
			}
		}
	}
	for _, file := range []string{"", ".", "..", ".hidden", "a/b", "a\nb", "a\x00", "\xff", strings.Repeat("n", 256)} {
		if _, err := l.WriteInstance("x", planA, map[string][]byte{file: nil}); err == nil {
			t.Errorf("file %q was written", file)
		}
	}
	if _, err := l.WriteInstance("x", planA, map[string][]byte{"a": make([]byte, maxCfg+1)}); err == nil {
		t.Error("a large file was written")
	}
	checkInstance(t, l, planB, cfgB)

	mkdir(t, l.State+"/instances/.x.aside/cfg")
	for range 2 {
		must(t, l.RemoveInstance("x"))
		if got := listDir(t, l.State+"/instances"); got != "" {
			t.Errorf("left: %s", got)
		}
	}
}

func TestRemoveRuntime(t *testing.T) {
	l := testLayout(t, t.TempDir())
	must(t, l.RemoveRuntime("x"))
	putFile(t, l.State+"/runtime/x/upper/left4dead2/file", "x")
	must(t, os.Symlink("../../../../game/3", l.State+"/runtime/x/upper/link"))
	putFile(t, l.State+"/game/3/file", "x")
	putFile(t, l.State+"/runtime/y/upper/file", "x")
	putFile(t, l.State+"/runtime/.x.aside/upper/file", "x")
	putFile(t, l.Run+"/mounted/x", "aa\n")
	for range 2 {
		must(t, l.RemoveRuntime("x"))
		if got := listDir(t, l.State+"/runtime"); got != "y" {
			t.Errorf("left: %s", got)
		}
		if got := listDir(t, l.Run+"/mounted"); got != "" {
			t.Errorf("left: %s", got)
		}
	}
	getFile(t, l.State+"/game/3/file")
}

// A reader that meets a writer must see one of the states, never a mixture.
func TestInstanceReadWhileWritten(t *testing.T) {
	l := testLayout(t, t.TempDir())
	states := make(map[string]map[string][]byte)
	for _, digest := range []string{"aa", "bb"} {
		// Many files, so that reading and removing them take their time.
		states[digest] = make(map[string][]byte)
		for i := range 60 {
			states[digest][fmt.Sprintf("%s%d.cfg", digest, i)] = []byte(digest)
		}
	}
	set := func(digest string) error {
		_, err := l.WriteInstance("x", Plan{digest, []string{"game/3"}}, states[digest])
		return err
	}
	must(t, set("aa"))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for {
				select {
				case <-done:
					return
				default:
				}
				p, cfg, err := l.ReadInstance("x")
				if err != nil {
					t.Error(err)
				} else if !maps.EqualFunc(cfg, states[p.Digest], bytes.Equal) {
					t.Errorf("plan %s with %d files", p.Digest, len(cfg))
				}
			}
		}()
	}
	for range 8 {
		if err := errors.Join(set("bb"), set("aa")); err != nil {
			t.Error(err)
		}
	}
	close(done)
	readers.Wait()
}

func TestStageRefusesNothingPlanted(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid()
	for what, plant := range map[string]func(t *testing.T, upper string){
		"nothing":              func(t *testing.T, upper string) {},
		"left4dead2 is a link": func(t *testing.T, upper string) { must(t, os.Symlink("../../outside", upper+"/left4dead2")) },
		"left4dead2 is absolute": func(t *testing.T, upper string) {
			must(t, os.Symlink(filepath.Join(upper, "../../outside"), upper+"/left4dead2"))
		},
		"left4dead2 is a file": func(t *testing.T, upper string) { putFile(t, upper+"/left4dead2", "x") },
		"left4dead2 is a fifo": func(t *testing.T, upper string) { must(t, unix.Mkfifo(upper+"/left4dead2", 0o666)) },
		"left4dead2 is shut": func(t *testing.T, upper string) {
			mkdir(t, upper+"/left4dead2")
			must(t, os.Chmod(upper+"/left4dead2", 0o500))
		},
		"cfg is a link": func(t *testing.T, upper string) {
			mkdir(t, upper+"/left4dead2")
			must(t, os.Symlink("../../../outside", upper+"/left4dead2/cfg"))
		},
		"cfg goes up": func(t *testing.T, upper string) {
			mkdir(t, upper+"/left4dead2")
			must(t, os.Symlink("../../..", upper+"/left4dead2/cfg"))
		},
		"cfg is a fifo": func(t *testing.T, upper string) {
			mkdir(t, upper+"/left4dead2")
			must(t, unix.Mkfifo(upper+"/left4dead2/cfg", 0o666))
		},
		"server.cfg is a link": func(t *testing.T, upper string) {
			mkdir(t, upper+"/left4dead2/cfg")
			must(t, os.Symlink("../../../../outside/file", upper+"/left4dead2/cfg/server.cfg"))
		},
		"server.cfg is a hard link": func(t *testing.T, upper string) {
			mkdir(t, upper+"/left4dead2/cfg")
			must(t, os.Link(upper+"/../../outside/file", upper+"/left4dead2/cfg/server.cfg"))
		},
		"server.cfg is a fifo": func(t *testing.T, upper string) {
			mkdir(t, upper+"/left4dead2/cfg")
			must(t, unix.Mkfifo(upper+"/left4dead2/cfg/server.cfg", 0o666))
		},
		"server.cfg is a directory": func(t *testing.T, upper string) { putFile(t, upper+"/left4dead2/cfg/server.cfg/x/y", "x") },
		"server.cfg is full of links": func(t *testing.T, upper string) {
			mkdir(t, upper+"/left4dead2/cfg/server.cfg")
			must(t, os.Symlink("../../../../../outside", upper+"/left4dead2/cfg/server.cfg/link"))
		},
		"stale overlay is a link": func(t *testing.T, upper string) {
			mkdir(t, upper+"/left4dead2/cfg")
			must(t, os.Remove(upper+"/../staged"))
			putFile(t, upper+"/../staged", "server_overlay_1.cfg\n")
			must(t, os.Symlink("../../../../outside/file", upper+"/left4dead2/cfg/server_overlay_1.cfg"))
		},
		"left from a kill": func(t *testing.T, upper string) {
			putFile(t, upper+"/left4dead2/cfg/.left4-ABC", "x")
			mkdir(t, upper+"/left4dead2/cfg/.left4-DEF/x")
			must(t, os.Symlink("../../../../outside", upper+"/left4dead2/cfg/.left4-link"))
			putFile(t, upper+"/../.left4-GHI", "x")
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			putFile(t, dir+"/outside/file", "secret")
			mkdir(t, dir+"/x/upper")
			putFile(t, dir+"/x/staged", "")
			plant(t, dir+"/x/upper")
			outside := func() string { return listDir(t, dir) + listDir(t, dir+"/outside") + getFile(t, dir+"/outside/file") }
			before := outside()
			runtime, upper := openTestDir(t, dir+"/x"), openTestDir(t, dir+"/x/upper")
			for range 2 {
				must(t, stage(runtime, upper, cfgB, uid, gid))
			}
			cfg := dir + "/x/upper/left4dead2/cfg"
			for _, path := range []string{dir + "/x/upper/left4dead2", cfg} {
				info, err := os.Lstat(path)
				must(t, err)
				if !info.IsDir() || info.Mode().Perm()&0o700 != 0o700 {
					t.Errorf("%s is %v", path, info.Mode())
				}
			}
			if got, want := listDir(t, cfg), "empty.cfg server.cfg server_overlay_2.cfg"; got != want {
				t.Errorf("staged %s, want %s", got, want)
			}
			for name, data := range cfgB {
				info, err := os.Lstat(cfg + "/" + name)
				must(t, err)
				if !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 || getFile(t, cfg+"/"+name) != string(data) {
					t.Errorf("%s is %v, holds %q", name, info.Mode(), getFile(t, cfg+"/"+name))
				}
			}
			if got := listDir(t, dir+"/x"); got != "staged upper" {
				t.Errorf("runtime holds %s", got)
			}
			if after := outside(); after != before {
				t.Errorf("outside is %s, was %s", after, before)
			}
		})
	}
}

// Files that are no longer staged go; the server's own stay.
func TestStageForgets(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, dir+"/upper")
	runtime, upper := openTestDir(t, dir), openTestDir(t, dir+"/upper")
	cfg := dir + "/upper/left4dead2/cfg"
	putFile(t, cfg+"/banned_user.cfg", "x")
	for _, files := range []map[string][]byte{cfgA, cfgB, nil, {"alias.cfg": nil}} {
		must(t, stage(runtime, upper, files, os.Getuid(), os.Getgid()))
		want := append(slices.Collect(maps.Keys(files)), "banned_user.cfg")
		slices.Sort(want)
		if got := listDir(t, cfg); got != strings.Join(want, " ") {
			t.Errorf("staged %s, want %s", got, want)
		}
	}
}
