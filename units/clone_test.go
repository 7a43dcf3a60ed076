package units

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// two are a mounter and two instances, x and y, that have the same layers and each its own server.cfg.
func two(t *testing.T, dir string) Mounter {
	t.Helper()
	m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server, proc: dir + "/proc"}
	mkdir(t, m.proc)
	t.Cleanup(func() { unmountBelow(t, dir) })
	game := m.Layout.State + "/game/3/left4dead2/"
	for _, file := range []string{"gone", "dir/game", "replaced/game", "kept", "cfg/server.cfg"} {
		putFile(t, game+file, "game")
	}
	for name, text := range map[string]string{"x": "secret of x\n", "y": "secret of y\n"} {
		_, err := m.Layout.WriteInstance(name, planA, map[string][]byte{"server.cfg": []byte(text), "server_overlay_1.cfg": []byte(text)})
		must(t, err)
	}
	return m
}

// play does with a mounted instance what servers do.
func play(t *testing.T, m Mounter, name string) {
	t.Helper()
	must(t, m.Mount(name))
	merged := m.Layout.State + "/runtime/" + name + "/merged/left4dead2"
	must(t, os.Remove(merged+"/gone"))
	must(t, os.RemoveAll(merged+"/dir"))
	must(t, os.RemoveAll(merged+"/replaced"))
	putFile(t, merged+"/replaced/server", "server")
	putFile(t, merged+"/kept", "server")
	putFile(t, merged+"/logs/l1.log", "server")
	must(t, os.Symlink("../nowhere", merged+"/logs/link"))
	// What an interrupted stage leaves.
	putFile(t, m.Layout.State+"/runtime/"+name+"/upper/left4dead2/cfg/"+tempPrefix+"A", "secret of x")
	must(t, m.Unmount(name))
}

// whole is shape without what left4 itself stages.
func whole(t *testing.T, dir string) string {
	t.Helper()
	return strings.Join(slices.DeleteFunc(strings.Split(shape(t, dir), "\n"), func(line string) bool {
		return strings.Contains(line, "cfg/server") || strings.Contains(line, tempPrefix)
	}), "\n")
}

func TestClone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	m := two(t, diskDir(t))
	runtime := m.Layout.State + "/runtime/"
	play(t, m, "x")
	before := snapshot(t, runtime+"x")

	// One that was interrupted left this.
	putFile(t, runtime+"y/.clone/left4dead2/old", "x")
	var out bytes.Buffer
	must(t, m.Clone(t.Context(), "x", "y", &out))
	var last copying
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	if last != (copying{5, 29, true, ""}) {
		t.Errorf("told %+v", last)
	}
	if got := snapshot(t, runtime+"x"); got != before {
		t.Errorf("x was\n%s\nand is\n%s", before, got)
	}
	if got := listDir(t, runtime+"y"); got != "cloned upper work" {
		t.Errorf("y has %s", got)
	}
	checkOwner(t, runtime+"y/upper", fs.ModeDir|0o755, server, server)
	must(t, filepath.WalkDir(runtime+"y", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(getFile(t, path), "secret") {
			t.Errorf("%s holds %q", path, getFile(t, path))
		}
		return err
	}))

	must(t, m.Mount("x"))
	must(t, m.Clone(t.Context(), "x", "y", io.Discard)) // is done
	must(t, m.Mount("y"))
	if got, want := whole(t, runtime+"y/merged"), whole(t, runtime+"x/merged"); got != want || !strings.Contains(want, "logs/link") {
		t.Errorf("y sees\n%s\nand x\n%s", got, want)
	}
	if got := listDir(t, runtime+"y/merged/left4dead2"); got != "cfg kept logs replaced" {
		t.Errorf("left4dead2 holds %s", got)
	}
	if got := listDir(t, runtime+"y/merged/left4dead2/replaced"); got != "server" {
		t.Errorf("replaced holds %s", got)
	}
	for _, file := range []string{"server.cfg", "server_overlay_1.cfg"} {
		if got := getFile(t, runtime+"y/merged/left4dead2/cfg/"+file); got != "secret of y\n" {
			t.Errorf("%s of y says %q", file, got)
		}
	}
	must(t, m.Unmount("y"))
	if got := listDir(t, runtime+"y"); got != "merged staged upper work" {
		t.Errorf("y has %s", got)
	}
}

func TestCloneOfNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	m := two(t, diskDir(t))
	runtime := m.Layout.State + "/runtime"
	must(t, m.Clone(t.Context(), "x", "y", io.Discard))
	if got := listDir(t, runtime) + ": " + listDir(t, runtime+"/y"); got != "y: work" {
		t.Errorf("made %s", got)
	}
	must(t, m.Mount("y"))
	must(t, m.Unmount("y"))
	if got := listDir(t, runtime+"/y"); got != "merged staged upper work" {
		t.Errorf("y has %s", got)
	}
}

func TestCloneRefuses(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for what, c := range map[string]struct {
		from, to string
		prepare  func(m Mounter)
		want     string
	}{
		"a bad source": {"../x", "y", nil, `cannot copy the files: "../x" is no name of an instance`},
		"a bad target": {"x", ".", nil, `cannot copy the files: "." is no name of an instance`},
		"itself":       {"x", "x", nil, "cannot copy the files of x to x: they are one instance"},
		"a mounted source": {"x", "y", func(m Mounter) { must(t, m.Mount("x")) },
			"cannot copy the files of x to y: x is mounted; stop it first"},
		"a mounted target": {"x", "y", func(m Mounter) { must(t, m.Mount("y")) },
			"cannot copy the files of x to y: y is mounted; stop it first"},
		"a living source": {"x", "y", func(m Mounter) {
			putFile(t, m.proc+"/4711/cgroup", "0::/left4-game.slice/left4-server@x.service\n")
			putFile(t, m.proc+"/4711/stat", "4711 (srcds) S 1 4711")
		}, "cannot copy the files of x to y: in use: process 4711 of left4-server@x.service runs"},
		"a living target": {"x", "y", func(m Mounter) {
			putFile(t, m.proc+"/4711/cgroup", "0::/left4-game.slice/left4-server@y.service\n")
			putFile(t, m.proc+"/4711/stat", "4711 (srcds) S 1 4711")
		}, "cannot copy the files of x to y: in use: process 4711 of left4-server@y.service runs"},
		"a target that has files": {"x", "y", func(m Mounter) { play(t, m, "y") },
			"cannot copy the files of x to y: y has files of its own"},
		"a target that has those of another": {"x", "y", func(m Mounter) {
			play(t, m, "z")
			must(t, m.Clone(t.Context(), "z", "y", io.Discard))
		}, "cannot copy the files of x to y: y has files of its own"},
		"a target that has used them": {"x", "y", func(m Mounter) {
			must(t, m.Clone(t.Context(), "x", "y", io.Discard))
			must(t, m.Mount("y"))
			must(t, m.Unmount("y"))
		}, "cannot copy the files of x to y: y has files of its own"},
		"a device": {"x", "y", func(m Mounter) {
			must(t, unix.Mknod(m.Layout.State+"/runtime/x/upper/left4dead2/null", unix.S_IFCHR|0o666, 0x103))
		}, `cannot copy the files of x to y: "left4dead2/null": neither a file nor a directory nor a link`},
		"no record of what was staged": {"x", "y", func(m Mounter) {
			must(t, os.WriteFile(m.Layout.State+"/runtime/x/staged", []byte("../../../x\n"), 0o600))
		}, `cannot copy the files of x to y: "staged": "../../../x" is no name for a file to stage`},
	} {
		t.Run(what, func(t *testing.T) {
			m := two(t, diskDir(t))
			_, err := m.Layout.WriteInstance("z", planA, nil)
			must(t, err)
			play(t, m, "x")
			if c.prepare != nil {
				c.prepare(m)
			}
			before := snapshot(t, m.Layout.State+"/runtime/x")
			upper := m.Layout.State + "/runtime/y/upper"
			_, none := os.Lstat(upper)
			var out bytes.Buffer
			if err := m.Clone(t.Context(), c.from, c.to, &out); err == nil || err.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
			var told copying
			if err := json.Unmarshal(out.Bytes(), &told); out.Len() > 0 && (err != nil || !strings.HasSuffix(c.want, ": "+told.Error)) {
				t.Errorf("told %q, %v", out.String(), err)
			}
			if got := snapshot(t, m.Layout.State+"/runtime/x"); got != before {
				t.Errorf("x was\n%s\nand is\n%s", before, got)
			}
			for _, name := range []string{"upper", ".clone"} {
				if _, err := os.Lstat(m.Layout.State + "/runtime/y/" + name); err == nil && (none != nil || name == ".clone") {
					t.Errorf("y has %s", name)
				}
			}
		})
	}
}

// No left4-overlay may mount what is being copied.
func TestCloneLocksBoth(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	m := two(t, diskDir(t))
	play(t, m, "x")
	runtime := m.Layout.State + "/runtime/"
	tryLock := func(name string, how int) error {
		return unix.Flock(openTestDir(t, runtime+name+"/work"), how|unix.LOCK_NB)
	}
	looked := false
	must(t, m.clone(t.Context(), "x", "y", func(uint64, uint64) {
		looked = true
		for _, name := range []string{"x", "y"} {
			if err := tryLock(name, unix.LOCK_EX); err != unix.EWOULDBLOCK {
				t.Errorf("%s could be mounted: %v", name, err)
			}
		}
		// A second copy of the same does not wait, nor for the first name in the order.
		must(t, m.clone(t.Context(), "x", "a", func(uint64, uint64) {}))
		if err := tryLock("y", unix.LOCK_SH); err != unix.EWOULDBLOCK {
			t.Errorf("y could be copied: %v", err)
		}
	}))
	if !looked {
		t.Error("nothing was copied")
	}
	must(t, tryLock("x", unix.LOCK_EX))

	// Who waits for a lock gives up when told to.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Clone(ctx, "x", "b", io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for x: %v", err)
	}
	if got := listDir(t, runtime+"b"); got != "work" {
		t.Errorf("made %s", got)
	}
}

// A reset takes the files away in the middle of the copy, which must not pass for a whole one.
func TestCloneOfWhatGoes(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, gone := range []string{"x", "y"} {
		m := two(t, diskDir(t))
		play(t, m, "x")
		err := m.clone(t.Context(), "x", "y", func(uint64, uint64) {
			must(t, m.Layout.RemoveRuntime(gone))
			mkdir(t, m.Layout.State+"/runtime/"+gone+"/upper")
		})
		if err == nil || !strings.HasSuffix(err.Error(), "was removed meanwhile") {
			t.Errorf("%s went: %v", gone, err)
		}
		if got := listDir(t, m.Layout.State+"/runtime/y"); got != map[string]string{"x": "work", "y": "upper"}[gone] {
			t.Errorf("%s went: y has %s", gone, got)
		}
	}
}

func TestCloneToAFullDisk(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := diskDir(t)
	must(t, unix.Mount("none", dir, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() {
		unmountBelow(t, dir)
		must(t, unix.Unmount(dir, 0))
	})
	m := two(t, dir)
	play(t, m, "x")
	for i := range 5 {
		putFile(t, fmt.Sprintf("%s/runtime/x/upper/demo%d", m.Layout.State, i), strings.Repeat("x", 1<<19))
	}
	if err := m.Clone(t.Context(), "x", "y", io.Discard); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if got := listDir(t, m.Layout.State+"/runtime/y"); got != "work" {
		t.Errorf("left: %s", got)
	}
}

// Who asked does not want it any more.
func TestCloneEndsWithItsContext(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	m := two(t, diskDir(t))
	play(t, m, "x")
	makeWide(t, m.Layout.State+"/runtime/x/upper/wide", noteFiles*2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := m.clone(ctx, "x", "y", func(uint64, uint64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := listDir(t, m.Layout.State+"/runtime/y"); got != "work" {
		t.Errorf("left: %s", got)
	}
}

func TestKilledCloning(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	killEverywhere(t, "clone", memoryDir(t), func(t *testing.T, m Mounter) {
		must(t, m.Layout.RemoveRuntime("x"))
		must(t, m.Layout.RemoveRuntime("y"))
		upper := m.Layout.State + "/runtime/x/upper/"
		putFile(t, upper+"a/b/file", "server")
		putFile(t, upper+"file", "server")
		putFile(t, upper+"left4dead2/cfg/server.cfg", "secret")
		putFile(t, m.Layout.State+"/runtime/x/staged", "server.cfg\n")
		must(t, unix.Mknod(upper+"a/whiteout", unix.S_IFCHR, 0))
	}, func(t *testing.T, m Mounter) {
		runtime := m.Layout.State + "/runtime/"
		must(t, os.RemoveAll(runtime+"x/upper/left4dead2/cfg/server.cfg"))
		want := shape(t, runtime+"x/upper")
		// All of it or nothing: a server must not start on half of the files.
		if _, err := os.Lstat(runtime + "y/upper"); err == nil {
			if got := shape(t, runtime+"y/upper"); got != want {
				t.Errorf("made\n%s\nof\n%s", got, want)
			}
		}
		must(t, m.Clone(t.Context(), "x", "y", io.Discard))
		if got := shape(t, runtime+"y/upper"); got != want {
			t.Errorf("made again\n%s\nof\n%s", got, want)
		}
		if got := listDir(t, runtime+"y"); got != "cloned upper work" {
			t.Errorf("y has %s", got)
		}
	})
}
