package units

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// server is the user that servers run as, in tests that root runs.
const server = 65534

var apis = map[string]mountAPI{"newest": apiNewest, "descriptors": apiFD, "names": apiPath, "mount(2)": apiOld}

// eachAPI runs a test for each way to mount that this kernel has. Call it in a mount namespace.
func eachAPI(t *testing.T, test func(t *testing.T, m Mounter)) {
	for what, api := range apis {
		t.Run(what, func(t *testing.T) {
			dir := diskDir(t)
			m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server, api: api}
			if err := (Mounter{Layout: testLayout(t, dir+"/probe"), UID: server, GID: server, api: api}).try(t); errors.Is(err, errOldKernel) {
				t.Skip("this kernel cannot: ", err)
			}
			// Before the directory goes: a mount in it would be emptied.
			t.Cleanup(func() { unmountBelow(t, dir) })
			test(t, m)
		})
	}
}

// try mounts and unmounts something.
func (m Mounter) try(t *testing.T) error {
	t.Helper()
	_, err := m.Layout.WriteInstance("x", planA, nil)
	must(t, err)
	if err := m.Mount("x"); err != nil {
		return err
	}
	return m.Unmount("x")
}

func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	all, err := mounts()
	must(t, err)
	for _, m := range slices.Backward(all) {
		if strings.HasPrefix(m.point, dir+"/") {
			must(t, unix.Unmount(m.point, unix.MNT_DETACH))
		}
	}
}

func (m Mounter) write(t *testing.T, p Plan, cfg map[string][]byte) {
	t.Helper()
	_, err := m.Layout.WriteInstance("x", p, cfg)
	must(t, err)
}

func (m Mounter) mountedAt(t *testing.T) []mount {
	t.Helper()
	path, err := m.Layout.mergedPath("x")
	must(t, err)
	all, err := mounts()
	must(t, err)
	return slices.DeleteFunc(slices.Clone(all), func(m mount) bool { return m.point != path })
}

func checkOwner(t *testing.T, path string, mode fs.FileMode, uid, gid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	st := info.Sys().(*syscall.Stat_t)
	if info.Mode() != mode || st.Uid != uid || st.Gid != gid {
		t.Errorf("%s is %v of %d:%d, want %v of %d:%d", path, info.Mode(), st.Uid, st.Gid, mode, uid, gid)
	}
}

func TestMount(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	eachAPI(t, func(t *testing.T, m Mounter) {
		l := m.Layout
		odd := []string{"overlays/comma,comma", "overlays/colon:colon", `overlays/back\slash\`, "overlays/a b\u00a0ü", `overlays/\,\:`, "overlays/:", "overlays/-o ro"}
		lower := append([]string{"overlays/sm", "overlays/maps"}, append(odd, "game/3")...)
		for i, path := range slices.Backward(lower) {
			mkdir(t, l.State+"/"+path+"/left4dead2/cfg")
			for _, above := range lower[i:] {
				// Each file is in its own layer and in all above: the first in the list that has it wins.
				putFile(t, fmt.Sprintf("%s/%s/left4dead2/has%d", l.State, path, slices.Index(lower, above)), path)
			}
		}
		m.write(t, Plan{"d1", lower}, cfgA)
		must(t, m.Mount("x"))

		merged := l.State + "/runtime/x/merged"
		for i := range lower {
			if got := getFile(t, fmt.Sprintf("%s/left4dead2/has%d", merged, i)); got != lower[0] {
				t.Errorf("has%d is from %q", i, got)
			}
		}
		for i, path := range lower {
			putFile(t, fmt.Sprintf("%s/%s/own%d", l.State, path, i), path)
		}
		checkOwner(t, l.State+"/runtime/x", fs.ModeDir|0o755, 0, 0)
		checkOwner(t, l.State+"/runtime/x/upper", fs.ModeDir|0o755, server, server)
		checkOwner(t, l.State+"/runtime/x/work", fs.ModeDir|0o700, 0, 0)
		checkOwner(t, merged, fs.ModeDir|0o755, server, server)
		checkOwner(t, merged+"/left4dead2/cfg", fs.ModeDir|0o755, server, server)
		checkOwner(t, merged+"/left4dead2/cfg/server.cfg", 0o600, server, server)
		if got := getFile(t, merged+"/left4dead2/cfg/server.cfg"); got != "a\n" {
			t.Errorf("server.cfg holds %q", got)
		}

		at := m.mountedAt(t)
		if len(at) != 1 || at[0].fstype != "overlay" || at[0].source != "left4-x" {
			t.Fatalf("mounted: %+v", at)
		}
		for _, option := range []string{"nosuid", "nodev"} {
			if !slices.Contains(strings.Split(at[0].options, ","), option) {
				t.Errorf("%s is missing in %s", option, at[0].options)
			}
		}
		// The kernel tells an option where it differs from what it was built with.
		for _, option := range []string{"index=on", "metacopy=on", "redirect_dir=on", "redirect_dir=follow", "xino=on", "xino=auto"} {
			if strings.Contains(at[0].super, option) {
				t.Errorf("%s in %s", option, at[0].super)
			}
		}

		// Again: nothing happens, also when the plan has gone bad meanwhile.
		m.write(t, Plan{"d2", []string{"game/404"}}, cfgB)
		must(t, m.Mount("x"))
		if again := m.mountedAt(t); !slices.Equal(again, at) {
			t.Errorf("mounted again: %+v", again)
		}
		if digest, mounted, err := l.Mounted("x"); digest != "d1" || !mounted || err != nil {
			t.Errorf("Mounted: %q %v %v", digest, mounted, err)
		}
		if got, mounted, err := l.MountedLower("x"); !slices.Equal(got, lower) || !mounted || err != nil {
			t.Errorf("MountedLower: %q %v %v", got, mounted, err)
		}
		for text, known := range map[string]bool{
			"d1\n":            true, // as an earlier version wrote it
			"d1":              true,
			"d1\ngame/3\n":    false,
			"d1\n\"..\"\n":    false,
			"d1\n\"game/3\"x": false,
		} {
			putFile(t, l.Run+"/mounted/x", text)
			got, mounted, err := l.MountedLower("x")
			if got != nil || !mounted || (err == nil) != known {
				t.Errorf("MountedLower of %q: %q %v %v", text, got, mounted, err)
			}
			if digest, mounted, err := l.Mounted("x"); digest != "d1" || !mounted || err != nil {
				t.Errorf("Mounted of %q: %q %v %v", text, digest, mounted, err)
			}
		}
		must(t, os.RemoveAll(l.Run+"/mounted"))
		if got, mounted, err := l.MountedLower("x"); got != nil || !mounted || err != nil {
			t.Errorf("MountedLower without a file: %q %v %v", got, mounted, err)
		}
		mkdir(t, l.Run+"/mounted")
		for range 2 {
			must(t, m.Unmount("x"))
			if at := m.mountedAt(t); len(at) != 0 {
				t.Errorf("still mounted: %+v", at)
			}
			if digest, mounted, err := l.Mounted("x"); digest != "" || mounted || err != nil {
				t.Errorf("Mounted: %q %v %v", digest, mounted, err)
			}
			if got, mounted, err := l.MountedLower("x"); got != nil || mounted || err != nil {
				t.Errorf("MountedLower: %q %v %v", got, mounted, err)
			}
		}
		if got := listDir(t, l.Run+"/mounted"); got != "" {
			t.Errorf("left: %s", got)
		}
		if err := m.Mount("x"); err == nil || !strings.Contains(err.Error(), `cannot mount x: layer "game/404": no such file`) {
			t.Errorf("a missing layer: %v", err)
		}
		if at := m.mountedAt(t); len(at) != 0 {
			t.Errorf("mounted after a failure: %+v", at)
		}
	})
}

func TestMountManyLayers(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	eachAPI(t, func(t *testing.T, m Mounter) {
		plan := func(n, length int) Plan {
			p := Plan{Digest: "d"}
			for i := range n {
				lower := fmt.Sprintf("overlays/%0*d", length, i)
				putFile(t, m.Layout.State+"/"+lower+"/which", lower)
				putFile(t, fmt.Sprintf("%s/%s/only%d", m.Layout.State, lower, i), "")
				p.Lower = append(p.Lower, lower)
			}
			p.Lower = append(p.Lower, "game/3")
			return p
		}
		p := plan(200, 3)
		m.write(t, p, nil)
		must(t, m.Mount("x"))
		merged := m.Layout.State + "/runtime/x/merged"
		if got := getFile(t, merged+"/which"); got != p.Lower[0] {
			t.Errorf("which is from %s", got)
		}
		for i := range 200 {
			getFile(t, fmt.Sprintf("%s/only%d", merged, i))
		}
		must(t, m.Unmount("x"))

		// What a page of options cannot hold.
		m.write(t, plan(499, 40), nil)
		err := m.Mount("x")
		if m.api == apiOld {
			if err == nil || !strings.Contains(err.Error(), "use kernel 6.8 or newer, or fewer layers") {
				t.Errorf("500 long layers by mount(2): %v", err)
			}
			return
		}
		must(t, err)
		if got, mounted, err := m.Layout.MountedLower("x"); len(got) != 500 || !mounted || err != nil {
			t.Errorf("MountedLower: %d layers, %v, %v", len(got), mounted, err)
		}
		must(t, m.Unmount("x"))

		// One name that is longer than what fsconfig takes as a string.
		long := "overlays" + strings.Repeat("/"+strings.Repeat("n", 200), 10)
		putFile(t, m.Layout.State+"/"+long+"/which", "long")
		m.write(t, Plan{"d", []string{long, "game/3"}}, nil)
		must(t, m.Mount("x"))
		if got := getFile(t, merged+"/which"); got != "long" {
			t.Errorf("which is from %s", got)
		}
		must(t, m.Unmount("x"))
	})
}

// A file that a server deleted stays deleted until a reset, and what it wrote stays too.
func TestUpperOutlivesTheMount(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	eachAPI(t, func(t *testing.T, m Mounter) {
		l := m.Layout
		merged := l.State + "/runtime/x/merged"
		putFile(t, l.State+"/game/3/left4dead2/gone", "x")
		putFile(t, l.State+"/game/3/left4dead2/dir/file", "x")
		putFile(t, l.State+"/game/3/left4dead2/kept", "game")
		m.write(t, planA, cfgA)
		must(t, m.Mount("x"))
		must(t, os.Remove(merged+"/left4dead2/gone"))
		must(t, os.RemoveAll(merged+"/left4dead2/dir"))
		putFile(t, merged+"/left4dead2/kept", "server")
		putFile(t, merged+"/new/file", "server")

		for range 2 {
			must(t, m.Unmount("x"))
			// The same upper over other layers, as after an update.
			putFile(t, l.State+"/overlays/maps/left4dead2/map", "x")
			m.write(t, planB, cfgB)
			must(t, m.Mount("x"))
			if got := listDir(t, merged+"/left4dead2"); got != "cfg kept map" {
				t.Errorf("left4dead2 holds %s", got)
			}
			if got := getFile(t, merged+"/left4dead2/kept") + getFile(t, merged+"/new/file"); got != "serverserver" {
				t.Errorf("the server's files hold %q", got)
			}
		}

		err := l.RemoveRuntime("x")
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q is mounted", merged)) {
			t.Errorf("RemoveRuntime of a mounted instance: %v", err)
		}
		getFile(t, merged+"/new/file")
		must(t, m.Unmount("x"))
		must(t, l.RemoveRuntime("x"))
		if got := listDir(t, l.State+"/runtime"); got != "" {
			t.Errorf("left: %s", got)
		}

		m.write(t, planA, cfgA)
		must(t, m.Mount("x"))
		if got := listDir(t, merged+"/left4dead2"); got != "cfg dir gone kept" {
			t.Errorf("after a reset left4dead2 holds %s", got)
		}
		getFile(t, merged+"/left4dead2/dir/file")
		must(t, m.Unmount("x"))
	})
}

// Whatever a server leaves in its tree, the next mount neither follows nor fails, and the layers show again below it.
func TestMountOverPlanted(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	// The outside stands in for /etc: a mistake here must not cost the machine's own.
	link := func(target, name string) func(*testing.T, string) {
		return func(t *testing.T, merged string) {
			to := target
			if target[0] == '/' {
				to = filepath.Join(merged, "../../..") + target
			}
			must(t, os.RemoveAll(merged+"/"+name))
			must(t, os.Symlink(to, merged+"/"+name))
			// A link to nowhere would prove nothing; below upper it leads to the same place.
			if _, err := os.Stat(strings.TrimSuffix(merged, mergedName) + upperName + "/" + name); err != nil {
				t.Error(err)
			}
		}
	}
	for what, plant := range map[string]func(t *testing.T, merged string){
		"left4dead2, absolute": link("/outside", "left4dead2"),
		"left4dead2, relative": link("../../../outside", "left4dead2"),
		"left4dead2, upwards":  link("../../..", "left4dead2"),
		"cfg, absolute":        link("/outside", "left4dead2/cfg"),
		"cfg, relative":        link("../../../../outside", "left4dead2/cfg"),
		"cfg, upwards":         link("../../../..", "left4dead2/cfg"),
		"server.cfg, absolute": link("/outside/shadow", "left4dead2/cfg/server.cfg"),
		"server.cfg, relative": link("../../../../../outside/shadow", "left4dead2/cfg/server.cfg"),
		"whiteouts":            func(t *testing.T, merged string) { must(t, os.RemoveAll(merged+"/left4dead2")) },
		"whiteout of cfg":      func(t *testing.T, merged string) { must(t, os.RemoveAll(merged+"/left4dead2/cfg")) },
		"whiteout of a file":   func(t *testing.T, merged string) { must(t, os.Remove(merged+"/left4dead2/cfg/server.cfg")) },
		"fifo": func(t *testing.T, merged string) {
			must(t, os.RemoveAll(merged+"/left4dead2"))
			must(t, unix.Mkfifo(merged+"/left4dead2", 0o666))
		},
		"directory for a file": func(t *testing.T, merged string) {
			must(t, os.Remove(merged+"/left4dead2/cfg/server.cfg"))
			putFile(t, merged+"/left4dead2/cfg/server.cfg/a/b", "x")
		},
		"shut": func(t *testing.T, merged string) {
			for _, name := range []string{"/left4dead2/cfg/server.cfg", "/left4dead2/cfg", "/left4dead2", ""} {
				must(t, os.Chmod(merged+name, 0))
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := diskDir(t)
			m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server}
			t.Cleanup(func() { unmountBelow(t, dir) })
			merged := m.Layout.State + "/runtime/x/merged"
			putFile(t, m.Layout.State+"/game/3/left4dead2/cfg/game.cfg", "game")
			putFile(t, m.Layout.State+"/game/3/left4dead2/cfg/server_overlay_1.cfg", "of the layer")
			putFile(t, m.Layout.State+"/outside/shadow", "secret")
			putFile(t, m.Layout.State+"/outside/server.cfg", "secret")
			m.write(t, planA, cfgA)
			must(t, m.Mount("x"))
			plant(t, merged)
			must(t, m.Unmount("x"))
			before := snapshot(t, m.Layout.State+"/outside") + snapshot(t, m.Layout.State+"/game") + listDir(t, m.Layout.State)

			m.write(t, planB, cfgB)
			must(t, m.Mount("x"))

			cfg := merged + "/left4dead2/cfg"
			if got := getFile(t, cfg+"/server.cfg"); got != "b\n" {
				t.Errorf("server.cfg holds %q", got)
			}
			checkOwner(t, merged, fs.ModeDir|0o755, server, server)
			checkOwner(t, cfg+"/server.cfg", 0o600, server, server)
			if what != "whiteout of cfg" {
				// A directory that a server made anew over a deleted one hides the layers' until a reset; all else shows them.
				if got := getFile(t, cfg+"/game.cfg"); got != "game" {
					t.Errorf("game.cfg holds %q", got)
				}
			}
			if got, err := os.ReadFile(cfg + "/server_overlay_1.cfg"); string(got) != "of the layer" {
				t.Errorf("what is no longer staged hides the layer's: %q, %v", got, err)
			}
			must(t, m.Unmount("x"))
			if after := snapshot(t, m.Layout.State+"/outside") + snapshot(t, m.Layout.State+"/game") + listDir(t, m.Layout.State); after != before {
				t.Errorf("outside is\n%s\nwas\n%s", after, before)
			}
		})
	}
}

// runtime/NAME is root's, so what is in place of its directories is nobody's prank: it is told and left alone.
func TestMountRefusesLinksForItsDirectories(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, name := range []string{"", "/upper", "/work", "/merged"} {
		for what, plant := range map[string]func(path string) error{
			"link": func(path string) error { return os.Symlink("../../game/3", path) },
			"file": func(path string) error { return os.WriteFile(path, nil, 0o644) },
			"fifo": func(path string) error { return unix.Mkfifo(path, 0o644) },
			"bind": func(path string) error {
				game := path[:strings.Index(path, "/runtime/")] + "/game/3"
				return errors.Join(os.Mkdir(path, 0o755), unix.Mount(game, path, "", unix.MS_BIND, ""))
			},
		} {
			t.Run(what+" for x"+name, func(t *testing.T) {
				dir := diskDir(t)
				m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server}
				t.Cleanup(func() { unmountBelow(t, dir) })
				m.write(t, planA, cfgA)
				path := m.Layout.State + "/runtime/x" + name
				mkdir(t, filepath.Dir(path))
				must(t, plant(path))
				game := snapshot(t, m.Layout.State+"/game")
				if err := m.Mount("x"); err == nil {
					t.Error("was mounted")
				} else if !strings.Contains(err.Error(), filepath.Base(path)) {
					t.Errorf("%q is not named: %v", filepath.Base(path), err)
				}
				if at := m.mountedAt(t); what != "bind" && len(at) != 0 {
					t.Errorf("mounted: %+v", at)
				}
				if snapshot(t, m.Layout.State+"/game") != game {
					t.Error("the game was changed")
				}
			})
		}
	}
}

func TestUnmountWaitsForNobodyAndForcesNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := diskDir(t)
	m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server}
	t.Cleanup(func() { unmountBelow(t, dir) })
	merged := m.Layout.State + "/runtime/x/merged"
	putFile(t, m.Layout.State+"/game/3/file", "x")
	m.write(t, planA, cfgA)
	must(t, m.Mount("x"))
	at := m.mountedAt(t)

	for what, use := range map[string]func() (release func() error){
		"an open file": func() func() error {
			f, err := os.Open(merged + "/file")
			must(t, err)
			return f.Close
		},
		"an open directory": func() func() error {
			f, err := os.Open(merged + "/left4dead2")
			must(t, err)
			return f.Close
		},
		"a mount below": func() func() error {
			must(t, unix.Mount("none", merged+"/left4dead2/cfg", "tmpfs", 0, ""))
			return func() error { return unix.Unmount(merged+"/left4dead2/cfg", 0) }
		},
	} {
		release := use()
		err := m.Unmount("x")
		if !errors.Is(err, unix.EBUSY) || !strings.HasPrefix(err.Error(), "cannot unmount x: in use") {
			t.Errorf("%s: %v", what, err)
		}
		if now := m.mountedAt(t); !slices.Equal(now, at) {
			t.Errorf("%s: mounted %+v", what, now)
		}
		if digest, mounted, err := m.Layout.Mounted("x"); digest != "aa" || !mounted || err != nil {
			t.Errorf("%s: Mounted: %q %v %v", what, digest, mounted, err)
		}
		must(t, release())
	}
	must(t, m.Unmount("x"))
}

// A server that lives has the overlay in a mount of its own, so that the kernel would let ours go, and another be made over the same upper.
func TestMountLeavesALivingServerAlone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := diskDir(t)
	m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server, proc: dir + "/proc"}
	t.Cleanup(func() { unmountBelow(t, dir) })
	m.write(t, planA, cfgA)
	process := func(group, state string) {
		putFile(t, m.proc+"/self/cgroup", "0::/left4-server@x.service\n")
		putFile(t, m.proc+"/4711/cgroup", group)
		putFile(t, m.proc+"/4711/stat", "4711 (a) Z (b) "+state+" 1 4711")
	}
	for _, other := range []string{"0::/", "0::/left4-game.slice/left4-server@xy.service\n", "0::/a left4-server@x.service.d\n", "0::/left4-overlay@x.service\n", ""} {
		process(other, "S")
		must(t, m.Mount("x"))
		must(t, m.Unmount("x"))
	}
	process("0::/left4-game.slice/left4-server@x.service\n", "Z")
	must(t, m.Mount("x"))
	for _, own := range []string{
		"0::/left4-game.slice/left4-server@x.service\n",
		"0::/left4-server@x.service/.control\n",
		"5:memory:/\n1:name=systemd:/left4-game.slice/left4-server@x.service\n0::/\n",
	} {
		process(own, "D")
		if err := m.Unmount("x"); err == nil || err.Error() != "cannot unmount x: in use: process 4711 of left4-server@x.service runs" {
			t.Errorf("Unmount: %v", err)
		}
		must(t, m.Mount("x")) // is mounted
		process("", "D")
		must(t, m.Unmount("x"))
		process(own, "S")
		must(t, m.Unmount("x")) // is not mounted
		if err := m.Mount("x"); err == nil || !strings.Contains(err.Error(), "process 4711 of left4-server@x.service runs") {
			t.Errorf("Mount: %v", err)
		}
		process("", "S")
		must(t, m.Mount("x"))
	}
}

// "systemctl mask --now" of a running server left its files mounted and their unit failed: without its unit file the server is not
// ordered before its files any more, and the unmount met it alive.
func TestUnmountAfterTheEndOfTheServer(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := diskDir(t)
	m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server, proc: dir + "/proc"}
	t.Cleanup(func() { unmountBelow(t, dir) })
	m.write(t, planA, cfgA)
	mkdir(t, m.proc)
	must(t, m.Mount("x"))
	process := exec.CommandContext(t.Context(), "cat")
	stdin, err := process.StdinPipe()
	must(t, err)
	must(t, process.Start())
	entry := fmt.Sprintf("%s/%d", m.proc, process.Process.Pid)
	putFile(t, entry+"/cgroup", "0::/left4-game.slice/left4-server@x.service\n")
	stat := fmt.Sprintf("/proc/%d/stat", process.Process.Pid)
	must(t, os.Symlink(stat, entry+"/stat"))

	refusal := fmt.Sprintf("in use: process %d of left4-server@x.service runs", process.Process.Pid)
	if err := m.AwaitEnd("x", time.Now()); err == nil || err.Error() != refusal {
		t.Errorf("AwaitEnd at its deadline: %v", err)
	}
	if err := m.Unmount("x"); err == nil || err.Error() != "cannot unmount x: "+refusal {
		t.Errorf("Unmount: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- m.AwaitEnd("x", time.Now().Add(time.Minute)) }()
	must(t, stdin.Close())
	must(t, <-ended)
	if alive(getFile(t, stat)) {
		t.Error("AwaitEnd returned before the end")
	}
	must(t, m.Unmount("x"))
	if at := m.mountedAt(t); len(at) != 0 {
		t.Errorf("mounted: %+v", at)
	}
	must(t, process.Wait())
	must(t, m.AwaitEnd("x", time.Now()))
}

func TestSomethingElseIsMountedThere(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := diskDir(t)
	m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server}
	t.Cleanup(func() { unmountBelow(t, dir) })
	m.write(t, planA, cfgA)
	merged := m.Layout.State + "/runtime/x/merged"
	mkdir(t, merged)
	for what, mount := range map[string]func() error{
		"tmpfs":                 func() error { return unix.Mount("none", merged, "tmpfs", 0, "") },
		"bind of the same disk": func() error { return unix.Mount(m.Layout.State+"/game/3", merged, "", unix.MS_BIND, "") },
		"over ours": func() error {
			return errors.Join(m.Mount("x"), unix.Mount("none", merged, "tmpfs", 0, ""))
		},
	} {
		must(t, mount())
		at := m.mountedAt(t)
		_, _, err := m.Layout.Mounted("x")
		for verb, err := range map[string]error{"Mount": m.Mount("x"), "Unmount": m.Unmount("x"), "Mounted": err, "RemoveRuntime": m.Layout.RemoveRuntime("x")} {
			if err == nil || !strings.Contains(err.Error(), merged) {
				t.Errorf("%s: %s: %v", what, verb, err)
			}
		}
		if now := m.mountedAt(t); !slices.Equal(now, at) {
			t.Errorf("%s: mounted %+v, was %+v", what, now, at)
		}
		must(t, unix.Unmount(merged, 0))
		must(t, m.Unmount("x"))
	}
}

func TestUnmountTakesAWholeStack(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := diskDir(t)
	m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server}
	t.Cleanup(func() { unmountBelow(t, dir) })
	m.write(t, planA, cfgA)
	must(t, m.Mount("x"))
	merged := m.Layout.State + "/runtime/x/merged"
	options := fmt.Sprintf("lowerdir=%[1]s/game/3:%[1]s/overlays/sm", m.Layout.State)
	for range 2 {
		must(t, unix.Mount("other", merged, "overlay", 0, options))
	}
	if n := len(m.mountedAt(t)); n != 3 {
		t.Fatalf("%d mounts", n)
	}
	must(t, m.Unmount("x"))
	if at := m.mountedAt(t); len(at) != 0 {
		t.Errorf("left: %+v", at)
	}
}

func TestMountTwiceAtOnce(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := diskDir(t)
	m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server}
	t.Cleanup(func() { unmountBelow(t, dir) })
	m.write(t, planA, cfgA)
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := m.Mount("x"); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if n := len(m.mountedAt(t)); n != 1 {
		t.Errorf("%d mounts", n)
	}
	must(t, m.Unmount("x"))
}

// A state directory that is a link, or a mount of its own, is where the administrator wants it.
func TestStateBehindALink(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := diskDir(t)
	l := testLayout(t, dir)
	t.Cleanup(func() { unmountBelow(t, dir) })
	must(t, unix.Mount(l.State, l.State, "", unix.MS_BIND, ""))
	must(t, os.Symlink("state", dir+"/link"))
	l.State = dir + "/link"
	m := Mounter{Layout: l, UID: server, GID: server}
	m.write(t, planA, cfgA)
	must(t, m.Mount("x"))
	if _, mounted, err := l.Mounted("x"); !mounted || err != nil {
		t.Errorf("Mounted: %v %v", mounted, err)
	}
	if err := l.RemoveRuntime("x"); err == nil {
		t.Error("removed while mounted")
	}
	must(t, m.Unmount("x"))
	must(t, l.RemoveRuntime("x"))
}

// Without a place for the digest nothing may stay mounted, for left4d could not tell from what.
func TestMountUndoneWithoutDigest(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := diskDir(t)
	m := Mounter{Layout: testLayout(t, dir), UID: server, GID: server}
	t.Cleanup(func() { unmountBelow(t, dir) })
	m.write(t, planA, cfgA)
	must(t, unix.Mount("none", m.Layout.Run, "tmpfs", 0, "nr_inodes=2"))
	mkdir(t, m.Layout.Run+"/mounted")
	if err := m.Mount("x"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("on a full /run: %v", err)
	}
	if at := m.mountedAt(t); len(at) != 0 {
		t.Errorf("mounted: %+v", at)
	}
}

func TestPrint(t *testing.T) {
	l := testLayout(t, t.TempDir())
	m := Mounter{Layout: l, UID: 1, GID: 1}
	state, err := filepath.EvalSymlinks(l.State)
	must(t, err)
	var out bytes.Buffer
	if err := m.Print(&out, "x"); !errors.Is(err, fs.ErrNotExist) || out.Len() != 0 {
		t.Errorf("before it is rendered: %v, %s", err, out.String())
	}
	mkdir(t, state+`/overlays/a\ b`)
	m.write(t, Plan{"dd", []string{`overlays/a\ b`, "game/404", "game/3"}}, cfgB)
	before := snapshot(t, l.State) + snapshot(t, l.Run)
	if err := m.Print(&out, "x"); err == nil || !strings.Contains(err.Error(), "game/404") {
		t.Errorf("got %v", err)
	}
	want := strings.ReplaceAll(`digest   "dd"
lower    "overlays/a\\ b" -> "STATE/overlays/a\\ b"
lower    "game/404": unusable (layer "game/404": no such file or directory)
lower    "game/3" -> "STATE/game/3"
upper    "STATE/runtime/x/upper"
work     "STATE/runtime/x/work"
merged   "STATE/runtime/x/merged"
options  nosuid,nodev,index=off,metacopy=off,redirect_dir=nofollow,xino=off
source   "left4-x"
stage    "empty.cfg" -> "STATE/runtime/x/upper/left4dead2/cfg/empty.cfg" (0 bytes)
stage    "server.cfg" -> "STATE/runtime/x/upper/left4dead2/cfg/server.cfg" (2 bytes)
stage    "server_overlay_2.cfg" -> "STATE/runtime/x/upper/left4dead2/cfg/server_overlay_2.cfg" (4 bytes)
mounted  no
`, "STATE", state)
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	if after := snapshot(t, l.State) + snapshot(t, l.Run); after != before {
		t.Error("something was changed")
	}
}

// kernelSplit does to the options what the kernel does: it cuts at commas, the layers at colons, and then takes backslashes out.
func kernelSplit(options string) (lower []string, rest map[string]string) {
	cut := func(s string, at byte) []string {
		var parts []string
		start := 0
		for i := 0; i < len(s); i++ {
			switch s[i] {
			case '\\':
				i++
			case at:
				parts = append(parts, s[start:i])
				start = i + 1
			}
		}
		return append(parts, s[start:])
	}
	unescape := func(s string) string {
		var b strings.Builder
		for i := 0; i < len(s); i++ {
			if s[i] == '\\' && i+1 < len(s) {
				i++
			}
			b.WriteByte(s[i])
		}
		return b.String()
	}
	rest = make(map[string]string)
	for _, option := range cut(options, ',') {
		key, value, _ := strings.Cut(option, "=")
		if key == "lowerdir" {
			for _, path := range cut(value, ':') {
				lower = append(lower, unescape(path))
			}
			continue
		}
		rest[key] = unescape(value)
	}
	return lower, rest
}

func TestOldOptionsLimit(t *testing.T) {
	l := layers{name: "versus-1", lower: make([]string, 93)}
	for i := range l.lower {
		l.lower[i] = fmt.Sprintf("overlays/%034d", i)
	}
	_, err := l.oldOptions(4095)
	want := "93 layers need 4216 bytes of options, this kernel takes 4095; use kernel 6.8 or newer, or fewer layers"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := l.oldOptions(4216); err != nil {
		t.Errorf("at the limit: %v", err)
	}
}

func FuzzOldOptions(f *testing.F) {
	f.Add("a,b", `c\`, ":")
	f.Add(`\,upperdir=/etc`, `x:\:y`, `\\,`)
	f.Fuzz(func(t *testing.T, a, b, c string) {
		p := Plan{"d", []string{"overlays/" + a, "overlays/" + b, "game/" + c}}
		if p.check() != nil {
			return
		}
		options, err := layers{name: "x", lower: p.Lower}.oldOptions(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		lower, rest := kernelSplit(options)
		want := map[string]string{
			"upperdir": "runtime/x/upper", "workdir": "runtime/x/work",
			"index": "off", "metacopy": "off", "redirect_dir": "nofollow", "xino": "off",
		}
		if !slices.Equal(lower, p.Lower) || !maps.Equal(rest, want) {
			t.Fatalf("%q became %q and %v", p.Lower, lower, rest)
		}
	})
}

func TestMountedTextIsBounded(t *testing.T) {
	p := Plan{Digest: strings.Repeat("d", 128)}
	for i := range maxLayers {
		// What is quoted at the greatest length.
		p.Lower = append(p.Lower, fmt.Sprintf("overlays/%03d", i)+strings.Repeat("/"+strings.Repeat("\u00a0", 127), 15))
	}
	must(t, p.check())
	text := p.mountedText()
	if len(text) > maxPlan {
		t.Errorf("%d bytes", len(text))
	}
	if got, err := parseMounted(string(text)); !slices.Equal(got, p.Lower) || err != nil {
		t.Errorf("%d layers, %v", len(got), err)
	}
	text = append(text, "\"overlays/more\"\n"...)
	if _, err := parseMounted(string(text)); err == nil {
		t.Error("too many layers were taken")
	}
}

func FuzzMounted(f *testing.F) {
	f.Add("d\n\"game/3\"\n")
	f.Add("d")
	f.Add("d\n\"overlays/a\\u00a0\\\\\"\n`game/3`")
	f.Fuzz(func(t *testing.T, text string) {
		lower, err := parseMounted(text)
		if err != nil {
			return
		}
		again, err := parseMounted(string(Plan{"d", lower}.mountedText()))
		if !slices.Equal(again, lower) || err != nil {
			t.Fatalf("%q is %q, and that is %q, %v", text, lower, again, err)
		}
	})
}
