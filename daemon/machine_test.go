package daemon

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/daemontest"
	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

func TestProgramsAreRead(t *testing.T) {
	for _, c := range []struct {
		file []byte
		want string
	}{
		{daemontest.Program32("/lib/ld-linux.so.2", "libc.so.6", "libstdc++.so.6"), "{/lib/ld-linux.so.2 [libc.so.6 libstdc++.so.6]}"},
		{daemontest.Program32(""), "{ []}"},
		{daemontest.Program32("/lib/ld.so\n", "a\x1bb", "ok"), "{ [ok]}"}, // names that are none
	} {
		p, err := readProgram(bytes.NewReader(c.file))
		if got := fmt.Sprint(p); err != nil || got != c.want {
			t.Errorf("%s, %v; want %s", got, err, c.want)
		}
	}
	whole := daemontest.Program32("/lib/ld-linux.so.2", "libc.so.6")
	for n := range len(whole) - len("/lib/ld-linux.so.2") - 1 {
		if p, err := readProgram(bytes.NewReader(whole[:n])); err == nil {
			t.Fatalf("of %d bytes of %d, %v is read", n, len(whole), p)
		}
	}
}

func FuzzReadProgram(f *testing.F) {
	f.Add(daemontest.Program32("/lib/ld-linux.so.2", "libc.so.6"))
	f.Fuzz(func(t *testing.T, file []byte) {
		p, err := readProgram(bytes.NewReader(file))
		if err == nil && len(p.needed) > maxNeeded*maxHeaders {
			t.Errorf("%d libraries", len(p.needed))
		}
		for _, name := range append(p.needed, p.interpreter) {
			if len(name) > maxLibraryName || strings.ContainsAny(name, "\n\x1b ") {
				t.Errorf("%q is taken for a name", name)
			}
		}
	})
}

// write puts a file below the root of the test.
func (w *world) write(name string, text []byte) {
	w.t.Helper()
	w.mkdir(filepath.Dir(name))
	if err := os.WriteFile(filepath.Join(w.root, name), text, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) link(target, name string) {
	w.t.Helper()
	w.mkdir(filepath.Dir(name))
	if err := os.Symlink(target, filepath.Join(w.root, name)); err != nil {
		w.t.Fatal(err)
	}
}

// whatIs is what is said of a problem, "" = there is none.
func (w *world) whatIs(kind, name string) string {
	w.t.Helper()
	if p := w.found(kind, name); p != nil {
		return p.What
	}
	return ""
}

func TestMissingLibraries(t *testing.T) {
	const loader = "/lib/ld-linux.so.2"
	for name, c := range map[string]struct {
		release string
		do      func(w *world)
		want    string // "" = nothing is missing
	}{
		"nothing there, Debian": {release: "ID=debian\n", do: func(w *world) {},
			want: "/lib/ld-linux.so.2, libstdc++.so.6; dpkg --add-architecture i386 && apt update && apt install libc6:i386 libstdc++6:i386 brings it"},
		"nothing there, Ubuntu":     {release: "ID=mint\nID_LIKE=\"ubuntu debian\"\n", do: func(w *world) {}, want: "apt install libc6:i386"},
		"nothing there, Fedora":     {release: "ID=\"fedora\"\n", do: func(w *world) {}, want: "; dnf install ld-linux.so.2 libstdc++.so.6 brings it"},
		"nothing there, openSUSE":   {release: "ID=opensuse-tumbleweed\nID_LIKE=\"opensuse suse\"\n", do: func(w *world) {}, want: "zypper install ld-linux.so.2"},
		"nothing there, who knows?": {do: func(w *world) {}, want: "libstdc++.so.6; install their 32-bit packages"},
		"one library": {release: "ID=debian\n", do: func(w *world) { w.write("machine"+loader, daemontest.Program32("")) },
			want: "linked with: libstdc++.so.6; "},
		"all in the usual directory": {do: func(w *world) {
			w.write("machine"+loader, daemontest.Program32(""))
			w.write("machine/usr/lib/i386-linux-gnu/libstdc++.so.6", daemontest.Program32(""))
		}},
		"where only the cache tells": {do: func(w *world) {
			w.write("machine"+loader, daemontest.Program32(""))
			w.write("machine/opt/odd/libstdc++.so.6", daemontest.Program32(""))
			w.write("machine/etc/ld.so.cache", []byte("glibc-ld.so.cache1.1\x00\x03\x00/opt/odd/libstdc++.so.6\x00/lib/other\x00"))
		}},
		"only for 64 bits": {do: func(w *world) {
			w.write("machine"+loader, daemontest.Program32(""))
			w.write("machine/usr/lib/libstdc++.so.6", []byte("\x7fELF\x02\x01\x01"))
		}, want: "linked with: libstdc++.so.6; "},
		"the game brings it": {do: func(w *world) {
			w.write("machine"+loader, daemontest.Program32(""))
			w.write("state/game/1/bin/libstdc++.so.6", daemontest.Program32(""))
		}},
		"a library of the game lacks one": {do: func(w *world) {
			w.write("machine"+loader, daemontest.Program32(""))
			w.write("machine/usr/lib/i386-linux-gnu/libstdc++.so.6", daemontest.Program32(""))
			w.write("state/game/1/bin/engine_srv.so", daemontest.Program32("", "libz.so.1", "libstdc++.so.6"))
		}, want: "linked with: libz.so.1; "},
		"a game of 64 bits": {do: func(w *world) { w.write("state/game/1/srcds_linux", []byte("\x7fELF\x02\x01\x01")) }},
		"a game that is no file": {do: func(w *world) {
			os.Remove(filepath.Join(w.root, "state/game/1/srcds_linux"))
			w.link("/bin/sh", "state/game/1/srcds_linux")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.write("state/game/1/srcds_linux", daemontest.Program32(loader, "libstdc++.so.6"))
			w.write("machine/etc/os-release", []byte(c.release))
			c.do(w)
			if got := w.whatIs("missing-library", "game"); c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// What installs the game is looked at before there is one.
func TestSteamCMDLacksALibrary(t *testing.T) {
	w := newWorld(t)
	w.write("machine/etc/os-release", []byte("ID=debian\n"))
	w.write("machine/usr/lib32/libc.so.6", daemontest.Program32(""))
	w.settings("[Game]\nSteamCMD=/usr/bin/env\n") // some program that there is
	w.write("machine/usr/lib/games/steam/steamcmd", daemontest.Program32("/lib/ld-linux.so.2", "libc.so.6", "libstdc++.so.6"))
	w.write("machine/usr/lib/games/steam/libstdc++.so.6", daemontest.Program32(""))
	if got, want := w.whatIs("missing-library", "SteamCMD"), "linked with: /lib/ld-linux.so.2; dpkg --add-architecture i386 && apt update && apt install libc6:i386 brings it"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	w.write("machine/lib/ld-linux.so.2", daemontest.Program32(""))
	if got := w.whatIs("missing-library", "SteamCMD"); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestMissingSteamclient(t *testing.T) {
	const link = "state/game/1/.steam/sdk32/steamclient.so"
	for name, c := range map[string]struct {
		do      func(w *world)
		missing bool
	}{
		"nothing":                   {func(w *world) {}, true},
		"the file itself":           {func(w *world) { w.write(link, nil) }, false},
		"a link to it":              {func(w *world) { w.link("../../bin/steamclient.so", link) }, false},
		"a link to the directory":   {func(w *world) { w.link("../bin", "state/game/1/.steam/sdk32") }, false},
		"a link that leads nowhere": {func(w *world) { w.link("../../bin/nothing", link) }, true},
		"a link to a directory":     {func(w *world) { w.link("../../bin", link) }, true},
		"a link to a home": {func(w *world) {
			w.link("/root/.steam/steamclient.so", link)
			w.write("machine/root/.steam/steamclient.so", nil)
		}, true},
		"a link to the system": {func(w *world) {
			w.link("/usr/lib/steamclient.so", link)
			w.write("machine/usr/lib/steamclient.so", nil)
		}, false},
		"a link out of the game": {func(w *world) { w.link("../../../1/bin/steamclient.so", link) }, true},
		"a link to itself":       {func(w *world) { w.link("steamclient.so", link) }, true},
		"in the layer below": {func(w *world) {
			w.link("../../bin/steamclient.so", link)
			w.delta()
		}, false},
		"removed by the layer above": {func(w *world) {
			if os.Geteuid() != 0 {
				w.t.Skip("only root can make what stands for a removed file everywhere")
			}
			w.link("../../bin/steamclient.so", link)
			w.delta()
			w.whiteout("state/game/2/bin/steamclient.so")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.write("state/game/1/srcds_linux", nil)
			w.write("state/game/1/bin/steamclient.so", nil)
			w.write("state/game/1/.steam/sdk64/steamclient.so", nil)
			c.do(w)
			if got := w.whatIs("missing-steamclient", "sdk32"); c.missing != (got != "") || c.missing && !strings.Contains(got, "left4ctl game validate") {
				t.Errorf("got %q", got)
			}
			if got := w.whatIs("missing-steamclient", "sdk64"); got != "" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// delta makes a revision of the game over the current one, which has nothing of its own.
func (w *world) delta() {
	w.t.Helper()
	r := store.Revision{Created: 1, Base: w.GameRevision()}
	id, err := w.Store.AddRevision(store.Game, 0, 1)
	if err != nil {
		w.t.Fatal(err)
	}
	r.ID = id
	w.mkdir(filepath.Join("state", layerName(store.Game, id)))
	if err := w.publish(r); err != nil {
		w.t.Fatal(err)
	}
}

// whiteout makes what an overlay leaves in place of a file that was removed.
func (w *world) whiteout(name string) {
	w.t.Helper()
	w.mkdir(filepath.Dir(name))
	if err := unix.Mknod(filepath.Join(w.root, name), unix.S_IFCHR, 0); err != nil {
		w.t.Fatal(err)
	}
}

// script defines an overlay that a script makes.
func (w *world) script() {
	w.t.Helper()
	if _, err := w.CreateOverlay("tweaks", ScriptType, OverlayChanges{Script: ptr("true")}, 1000); err != nil {
		w.t.Fatal(err)
	}
}

// settings writes left4d.conf.
func (w *world) settings(text string) {
	w.t.Helper()
	w.write("left4d.conf", []byte(text))
}

// arguments defines an instance with a port and launch arguments.
func (w *world) arguments(name string, port uint16, all ...string) {
	w.t.Helper()
	w.create(name, Changes{Port: ptr(port), Arguments: ptr(append([]string{}, all...))})
}

// Problems of the machine: what is said of each, and the command that mends it.
func TestProblemsOfTheMachine(t *testing.T) {
	for name, c := range map[string]struct {
		kind, about, severity string
		do                    func(w *world)
		want                  string // "" = there is no problem
	}{
		"no overlayfs": {"no-overlay", "STATE", SeverityError, func(w *world) {
			w.units.Probed.Overlay = "cannot mount an overlay: this kernel has no overlayfs (module overlay)"
		}, "modprobe overlay"},
		"a poor file system": {"no-overlay", "STATE", SeverityError, func(w *world) {
			w.units.Probed.Overlay = "cannot mount an overlay: invalid argument"
		}, "invalid argument; servers need a file system such as ext4"},
		"nobody to look": {"no-overlay", "", SeverityWarning, func(w *world) {
			w.units.Fail["probe "] = fmt.Errorf("cannot look at the machine: away")
		}, "cannot look for it: cannot look at the machine: away"},
		"a port of another": {"taken-port", "b", SeverityWarning, func(w *world) {
			w.arguments("b", 27050)
			w.units.Probed.Taken = []units.Taken{{Port: 27050, Protocol: "TCP", UID: 0}, {Port: 27050, Protocol: "UDP", UID: 0}}
		}, "port 27050 of b is taken by a program of root (TCP); ss -lnptu 'sport = :27050' tells which, left4ctl configure b port=0"},
		"a port of a server that runs": {"taken-port", "a", "", func(w *world) {
			w.units.Probed.Taken = []units.Taken{{Port: 27030, Protocol: "UDP"}}
		}, ""},
		"two of one clientport": {"shared-port", "27005", SeverityWarning, func(w *world) {
			w.arguments("b", 27050, "+clientport", "27005")
			w.arguments("c", 27051, "+clientport", "27006", "+ClientPort", "27005")
		}, "port 27005 is wanted by b (+clientport), c (+clientport), and only one can have it; left4ctl configure"},
		"a tv_port that is a game's": {"shared-port", "27030", SeverityWarning, func(w *world) { w.arguments("b", 27050, "+tv_port", "27030") },
			"wanted by a, b (+tv_port)"},
		"from a blueprint": {"shared-port", "27020", SeverityWarning, func(w *world) {
			if _, err := w.CreateBlueprint("tv", Changes{Arguments: &[]string{"+tv_port", "27020"}}, 1000); err != nil {
				w.t.Fatal(err)
			}
			w.create("b", Changes{Blueprint: ptr("tv")})
			w.create("c", Changes{Blueprint: ptr("tv")})
		}, "wanted by b (+tv_port), c (+tv_port)"},
		"each its own": {"shared-port", "27005", "", func(w *world) {
			w.arguments("b", 27050, "+clientport", "27005", "+tv_port", "27020")
			w.arguments("c", 27051, "+clientport", "27006", "+tv_port", "27021")
		}, ""},
		"no ports": {"shared-port", "0", "", func(w *world) {
			w.arguments("b", 27050, "+clientport", "x", "+tv_port", "99999")
			w.arguments("c", 27051, "+clientport", "0", "+tv_port")
		}, ""},
		"settings that make no sense": {"bad-settings", "left4d.conf", SeverityWarning, func(w *world) { w.settings("[Game]\nTries=many\n") },
			"[Game] Tries=many: that is no number from 1 to 100; man left4d.conf"},
		"a SteamCMD that is not there": {"no-installer", "SteamCMD", SeverityWarning, func(w *world) { w.settings("[Game]\nSteamCMD=/opt/none/steamcmd.sh\n") },
			"SteamCMD=/opt/none/steamcmd.sh, and there is no such program"},
		"a game, and nothing to install it with": {"no-installer", "SteamCMD", "", func(w *world) { w.settings("[Game]\n") }, ""},
		"a masked slice": {"wrong-slice", "left4-game.slice", SeverityError, func(w *world) { w.units.Machine.Slices[0].LoadState = "masked" },
			"systemctl unmask left4-game.slice"},
		"no slice": {"wrong-slice", "left4-build.slice", SeverityError, func(w *world) {
			w.units.Machine.Slices[1].LoadState = "not-found"
			w.write("machine/etc/os-release", []byte("ID=debian\n"))
		}, "apt install --reinstall left4"},
		"equal weights": {"wrong-slice", "IOWeight", SeverityWarning, func(w *world) { w.units.Machine.Slices[1].IO = 1000 },
			"IOWeight of servers is 1000 and that of builds 1000, so a build slows servers down; systemctl revert left4-game.slice left4-build.slice"},
		"no memory controller": {"missing-controller", "", SeverityWarning, func(w *world) {
			w.write("machine/sys/fs/cgroup/cgroup.controllers", []byte("cpuset cpu io pids\n"))
		}, "control groups have no controller memory; the kernel"},
		"control groups of old": {"missing-controller", "", SeverityWarning, func(w *world) { os.RemoveAll(filepath.Join(w.root, "machine/sys")) },
			"no controller cpu, io, memory, pids; systemd.unified_cgroup_hierarchy=1"},
		"a container": {"missing-controller", "", SeverityNotice, func(w *world) {
			w.units.Machine.Container = true
			w.write("machine/sys/fs/cgroup/cgroup.controllers", []byte("\n"))
		}, "the host of this container"},
		"no rule": {"missing-rule", "60-me.left4.rules", SeverityWarning, func(w *world) { os.Remove(filepath.Join(w.root, "machine", rule)) },
			"an installation of the package left4 brings it back"},
		"scripts that reach private networks": {"script-network", "private", SeverityWarning, func(w *world) {
			w.script()
			w.units.Probed.Firewall = "a packet was sent"
		}, "scripts are not built: this machine does not keep them from private networks (a packet was sent)"},
		"scripts that may": {"script-network", "private", "", func(w *world) {
			w.script()
			w.units.Probed.Firewall = "a packet was sent"
			w.settings("[Builds]\nAllowPrivateNetworks=yes\n")
		}, ""},
		"no scripts": {"script-network", "private", "", func(w *world) { w.units.Probed.Firewall = "a packet was sent" }, ""},
		"scripts that reach this machine": {"script-network", "own", SeverityNotice, func(w *world) {
			w.script()
			w.units.Machine.BPF = false
		}, "a script reaches what listens on this machine's public addresses"},
		"an old systemd":   {"old-systemd", "", SeverityError, func(w *world) { w.units.Machine.Version = "247.3-7+deb11u5" }, "systemd is at version 247.3-7+deb11u5"},
		"the oldest":       {"old-systemd", "", "", func(w *world) { w.units.Machine.Version = "252" }, ""},
		"a systemd of git": {"old-systemd", "", "", func(w *world) { w.units.Machine.Version = "v258~rc1" }, ""},
		"an upgrade without a restart": {"other-version", "left4d", SeverityWarning, func(w *world) {
			w.link("/usr/sbin/left4d (deleted)", "machine/proc/self/exe")
			w.units.Probed.Version = "9"
		}, "systemctl restart left4d"},
		"another left4-overlay": {"other-version", "left4-overlay", SeverityWarning, func(w *world) {
			w.link("/usr/sbin/left4d", "machine/proc/self/exe")
			w.units.Probed.Version = "9"
		}, "left4-overlay is at version 9 and left4d at "},
		"no left4-worker": {"other-version", "left4-worker", SeverityWarning, func(w *world) { w.units.Probed.Worker = "no such file" }, "left4-worker is at version no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			w := full(t)
			c.do(w)
			about := strings.ReplaceAll(c.about, "STATE", w.Layout.State)
			p := w.found(c.kind, about)
			if c.want == "" {
				if p != nil {
					t.Errorf("%+v", p)
				}
				return
			}
			if p == nil || p.Severity != c.severity || p.Repair != "" || !strings.Contains(p.What, c.want) {
				t.Errorf("got %+v, want %q", p, c.want)
			}
			for _, other := range w.problems() {
				if other.Kind != c.kind && c.kind != "no-overlay" {
					t.Errorf("also %+v", other)
				}
			}
		})
	}
}

// One look asks left4-overlay once, and a left4d that starts does not ask it.
func TestTheMachineIsAskedOnce(t *testing.T) {
	w := full(t)
	if n := w.units.Count("probe"); n != 1 {
		t.Fatalf("%d probes for one look at all problems", n)
	}
	w.again()
	w.Problems(context.Background())
	if n := w.units.Count("probe"); n != 2 {
		t.Errorf("%d probes for two", n)
	}
}
