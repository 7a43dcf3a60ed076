package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"left4.me/left4/units"
)

// What the doctor looks at on the machine itself. left4d sees the files of the system; systemd tells of itself, and
// left4-overlay of what takes rights that left4d does not have. Nothing is repaired here: each problem names the command
// that does it.

// machine is what is asked once for all checks of one look.
type machine struct {
	probe func() (units.Probed, error)
	host  func() (units.Host, error)
}

func (d *Daemon) machine(ctx context.Context) *machine {
	return &machine{
		probe: sync.OnceValues(func() (units.Probed, error) {
			var q units.Probe
			for _, in := range d.waiting() {
				q.Ports = append(q.Ports, d.listens(in))
			}
			return d.Units.Probe(ctx, d.PreStart, q)
		}),
		host: sync.OnceValues(func() (units.Host, error) { return d.Units.Host(ctx) }),
	}
}

// waiting are the instances that do not run, so whoever has their port is somebody else.
func (d *Daemon) waiting() []Instance {
	return slices.DeleteFunc(d.Instances(), func(in Instance) bool {
		return in.State != Stopped && in.State != FailedState || !d.idle(in.Name)
	})
}

// listens is the address that the server of an instance will have.
func (d *Daemon) listens(in Instance) units.Address {
	a := units.Address{Port: in.Port}
	arguments := d.spec(in.Instance).arguments
	for i, argument := range arguments {
		if argument == "-ip" && i+1 < len(arguments) {
			a.Addr, _ = netip.ParseAddr(arguments[i+1])
		}
	}
	return a
}

// system is the path of a file of the machine.
func (d *Daemon) system(name string) string { return filepath.Join(d.Root, name) }

// Package managers, by the distributions that have them, see os-release(5).
const (
	apt    = "apt"
	dnf    = "dnf"
	zypper = "zypper"
)

func (d *Daemon) packages() string {
	text, err := os.ReadFile(d.system("/etc/os-release"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key != "ID" && key != "ID_LIKE" {
			continue
		}
		for _, id := range strings.Fields(strings.Trim(value, `"'`)) {
			switch id {
			case "debian", "ubuntu":
				return apt
			case "fedora", "rhel", "centos":
				return dnf
			case "suse", "opensuse":
				return zypper
			}
		}
	}
	return ""
}

// Reinstall is the command that installs left4 anew.
func (d *Daemon) Reinstall() string {
	switch d.packages() {
	case apt:
		return "apt install --reinstall left4"
	case dnf:
		return "dnf reinstall left4"
	case zypper:
		return "zypper install --force left4"
	}
	return "an installation of the package left4"
}

// currentGame are the layers of the game that the next start mounts, none where it is not installed.
func (d *Daemon) currentGame() ([]string, error) { return d.gameLayers(d.GameRevision()) }

// inGame finds a file of the game in its layers. kind is 0 where there is none. Links on the way are not followed.
func (d *Daemon) inGame(layers []string, file string) (layer string, kind uint32, target string) {
	for _, layer := range layers {
		dir, err := d.openDir(path.Join(layer, path.Dir(file)))
		if err != nil {
			continue
		}
		var st unix.Stat_t
		err = unix.Fstatat(dir, path.Base(file), &st, unix.AT_SYMLINK_NOFOLLOW)
		link := make([]byte, 4096)
		n := 0
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			n, err = unix.Readlinkat(dir, path.Base(file), link)
		}
		unix.Close(dir)
		switch {
		case err != nil:
		case st.Mode&unix.S_IFMT == unix.S_IFCHR: // a whiteout
			return "", 0, ""
		default:
			return layer, st.Mode & unix.S_IFMT, string(link[:n])
		}
	}
	return "", 0, ""
}

// reaches tells whether a server finds a file at a path of the game, links followed as it would follow them: what leads out of the game
// leads nowhere, but for what the system has.
func (d *Daemon) reaches(layers []string, file string) bool {
	const most = 16
	for range most {
		at, link := "", false
		rest := strings.Split(path.Clean(file), "/")
		for len(rest) > 0 && !link {
			at, rest = path.Join(at, rest[0]), rest[1:]
			_, kind, target := d.inGame(layers, at)
			switch {
			case kind == unix.S_IFLNK && path.IsAbs(target):
				to := path.Join(append([]string{target}, rest...)...)
				_, err := os.Stat(d.system(to))
				return strings.HasPrefix(to, "/usr/") && err == nil
			case kind == unix.S_IFLNK:
				file = path.Join(append([]string{path.Dir(at), target}, rest...)...)
				link = true
				if file == ".." || strings.HasPrefix(file, "../") {
					return false
				}
			case len(rest) == 0:
				return kind == unix.S_IFREG
			case kind != unix.S_IFDIR:
				return false
			}
		}
	}
	return false
}

// gamePrograms start a server, or are loaded before it does anything: what these lack, it lacks.
var gamePrograms = []string{"srcds_linux", "bin/dedicated_srv.so", "bin/engine_srv.so"}

// libraryDirs are where 32-bit libraries lie that the cache of ld.so(8) does not know yet.
var libraryDirs = []string{"/lib", "/usr/lib", "/lib32", "/usr/lib32", "/lib/i386-linux-gnu", "/usr/lib/i386-linux-gnu"}

// debianPackages have the libraries that the game and SteamCMD were seen to need.
var debianPackages = map[string]string{
	"ld-linux.so.2": "libc6", "libc.so.6": "libc6", "libm.so.6": "libc6", "libdl.so.2": "libc6", "libpthread.so.0": "libc6", "librt.so.1": "libc6",
	"libgcc_s.so.1": "libgcc-s1", "libstdc++.so.6": "libstdc++6", "libz.so.1": "zlib1g", "libcurl.so.4": "libcurl4",
	"libSDL2-2.0.so.0": "libsdl2-2.0-0", "libtinfo.so.6": "libtinfo6", "libncurses.so.6": "libncurses6",
}

func (d *Daemon) findMissingLibraries(e *examination) error {
	layers, err := d.currentGame()
	if err != nil {
		return err
	}
	cache, err := os.ReadFile(d.system("/etc/ld.so.cache"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var missing []string
	for _, file := range gamePrograms {
		p, err := d.gameProgram(layers, file)
		if err != nil {
			continue // not there, or for no 32-bit system
		}
		missing = append(missing, d.lacks(p, cache, func(name string) bool {
			// As srcds_run says: LD_LIBRARY_PATH=.:bin.
			_, here, _ := d.inGame(layers, name)
			_, bin, _ := d.inGame(layers, "bin/"+name)
			return here != 0 || bin != 0
		})...)
	}
	d.tellMissing(e, "game", "the game", missing)
	missing = nil
	if o, err := d.installer(); err == nil && o.SteamCMD != "" {
		// Beside Valve's script, and where Debian's package has what its own copies.
		for _, file := range []string{filepath.Join(filepath.Dir(o.SteamCMD), "linux32/steamcmd"), d.system("/usr/lib/games/steam/steamcmd")} {
			if p, err := readProgramFile(file); err == nil {
				missing = append(missing, d.lacks(p, cache, func(name string) bool { return is32(filepath.Join(filepath.Dir(file), name)) })...)
			}
		}
	}
	d.tellMissing(e, "SteamCMD", "SteamCMD", missing)
	return nil
}

// tellMissing tells what a program lacks, each once.
func (d *Daemon) tellMissing(e *examination, name, what string, missing []string) {
	var all []string
	for _, library := range missing {
		if !slices.Contains(all, library) {
			all = append(all, library)
		}
	}
	if len(all) > 0 {
		e.add(name, SeverityError, "", "%s is a 32-bit program, and this machine lacks what it is linked with: %s; %s", what, strings.Join(all, ", "), d.installs(all))
	}
}

// lacks are what a program wants of the machine that is neither there nor beside it.
func (d *Daemon) lacks(p program, cache []byte, beside func(name string) bool) (missing []string) {
	if p.interpreter != "" && !is32(d.system(p.interpreter)) {
		missing = append(missing, p.interpreter)
	}
	for _, name := range p.needed {
		if !strings.Contains(name, "/") && !beside(name) && !d.hasLibrary(cache, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

func readProgramFile(name string) (program, error) {
	f, err := os.Open(name)
	if err != nil {
		return program{}, err
	}
	defer f.Close()
	return readProgram(f)
}

func (d *Daemon) gameProgram(layers []string, file string) (program, error) {
	layer, kind, _ := d.inGame(layers, file)
	if kind != unix.S_IFREG {
		return program{}, errNotELF
	}
	dir, err := d.openDir(layer)
	if err != nil {
		return program{}, err
	}
	defer unix.Close(dir)
	fd, err := units.OpenBeneath(dir, file, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return program{}, err
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	return readProgram(f)
}

// hasLibrary looks where ld.so(8) does. Its cache is a file with the paths of all libraries in it, each with a NUL behind it.
func (d *Daemon) hasLibrary(cache []byte, name string) bool {
	for _, dir := range libraryDirs {
		if is32(d.system(path.Join(dir, name))) {
			return true
		}
	}
	end := []byte("/" + name)
	for file := range bytes.SplitSeq(cache, []byte{0}) {
		if at := bytes.IndexByte(file, '/'); at >= 0 && bytes.HasSuffix(file, end) && is32(d.system(string(file[at:]))) {
			return true
		}
	}
	return false
}

// is32 tells whether a file of the system is a 32-bit library or program.
func is32(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 5)
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == "\x7fELF\x01"
}

// installs names the command that brings 32-bit libraries.
func (d *Daemon) installs(libraries []string) string {
	var packages []string
	manager := d.packages()
	for _, name := range libraries {
		name = path.Base(name)
		if manager == apt {
			name = debianPackages[name]
			if name == "" {
				return fmt.Sprintf("dpkg --add-architecture i386 lets packages of the architecture i386 be installed, and those with %s are needed",
					strings.Join(libraries, ", "))
			}
			name += ":i386"
		}
		if !slices.Contains(packages, name) {
			packages = append(packages, name)
		}
	}
	all := strings.Join(packages, " ")
	switch manager {
	case apt:
		return fmt.Sprintf("dpkg --add-architecture i386 && apt update && apt install %s brings it", all)
	case dnf:
		// A library's bare name is what its 32-bit package provides.
		return fmt.Sprintf("dnf install %s brings it", all)
	case zypper:
		return fmt.Sprintf("zypper install %s brings it", all)
	}
	return "install their 32-bit packages"
}

// findMissingSteamclient looks where the game does: in its HOME, which is its own directory.
func (d *Daemon) findMissingSteamclient(e *examination) error {
	layers, err := d.currentGame()
	if err != nil {
		return err
	}
	if _, kind, _ := d.inGame(layers, "srcds_linux"); kind != unix.S_IFREG {
		return nil
	}
	for _, name := range []string{"sdk32", "sdk64"} {
		if file := path.Join(".steam", name, "steamclient.so"); !d.reaches(layers, file) {
			e.add(name, SeverityWarning, "", "the game has no %s, without which servers are seen in the local network only; left4ctl game validate makes it", file)
		}
	}
	return nil
}

func (d *Daemon) findBadSettings(e *examination) error {
	if _, err := d.settings(); err != nil {
		e.add(filepath.Base(d.SettingsPath), SeverityWarning, "", "nothing is installed or built: %v; man left4d.conf tells what may stand there", err)
	}
	return nil
}

// findNoInstaller looks for what the settings name, and for anything at all where there is no game.
func (d *Daemon) findNoInstaller(e *examination) error {
	s, err := d.settings()
	if err != nil {
		return nil // told by itself
	}
	for _, named := range []struct{ name, path string }{{"SteamCMD", s.SteamCMD}, {"DepotDownloader", s.DepotDownloader}} {
		if named.path != "" && firstProgram(named.path, nil) == "" {
			e.add(named.name, SeverityWarning, "", "%s says %s=%s, and there is no such program", d.SettingsPath, named.name, named.path)
		}
	}
	if _, err := d.installer(); err == nil || d.GameRevision() != 0 || len(e.all) > 0 {
		return nil
	}
	mend := "unpack Valve's archive of it in /opt/steamcmd"
	if d.packages() == apt {
		mend = "dpkg --add-architecture i386 && apt update && apt install steamcmd brings it, from non-free"
	}
	e.add("SteamCMD", SeverityNotice, "", "the game is not installed, and there is no SteamCMD to install it with; %s, or import a copy: left4ctl game import", mend)
	return nil
}

func (d *Daemon) findNoOverlay(e *examination) error {
	a, err := e.machine.probe()
	if err != nil || a.Overlay == "" {
		return err
	}
	mend := "servers need a file system such as ext4, XFS or Btrfs there"
	if strings.Contains(a.Overlay, "module overlay") {
		mend = "modprobe overlay loads it"
	}
	e.add(d.Layout.State, SeverityError, "", "no server can start, %s; %s", a.Overlay, mend)
	return nil
}

func (d *Daemon) findTakenPorts(e *examination) error {
	waiting := d.waiting()
	a, err := e.machine.probe()
	if err != nil {
		return err
	}
	for _, in := range waiting {
		for _, taken := range a.Taken {
			if taken.Port == in.Port {
				e.add(in.Name, SeverityWarning, "", "port %d of %s is taken by a program of %s (%s); ss -lnptu 'sport = :%d' tells which, left4ctl configure %s port=0 gives it another",
					in.Port, in.Name, UserName(taken.UID, LoginName(taken.UID)), taken.Protocol, in.Port, in.Name)
				break
			}
		}
	}
	return nil
}

// portArguments give a server one more port, which it does not share.
var portArguments = []string{"+clientport", "+tv_port"}

func (d *Daemon) findSharedPorts(e *examination) error {
	users := map[uint16][]string{} // how each comes to it, by port
	asked := map[uint16]bool{}     // by an argument: game ports alone are never the same
	for _, in := range d.Instances() {
		users[in.Port] = append(users[in.Port], in.Name)
		last := map[string]uint16{} // Source takes the last word
		arguments := d.spec(in.Instance).arguments
		for i, argument := range arguments {
			if argument = strings.ToLower(argument); slices.Contains(portArguments, argument) && i+1 < len(arguments) {
				port, _ := strconv.ParseUint(arguments[i+1], 10, 16)
				last[argument] = uint16(port)
			}
		}
		for _, argument := range portArguments {
			if port := last[argument]; port != 0 {
				users[port] = append(users[port], in.Name+" ("+argument+")")
				asked[port] = true
			}
		}
	}
	for _, port := range sortedKeys(asked) {
		if all := users[port]; len(all) > 1 {
			e.add(fmt.Sprint(port), SeverityWarning, "", "port %d is wanted by %s, and only one can have it; left4ctl configure gives the others other arguments",
				port, strings.Join(all, ", "))
		}
	}
	return nil
}

func (d *Daemon) findWrongSlices(e *examination) error {
	h, err := e.machine.host()
	if err != nil {
		return err
	}
	weights := map[string]units.Slice{}
	for _, s := range h.Slices {
		switch weights[s.Name] = s; s.LoadState {
		case "loaded":
		case "masked":
			e.add(s.Name, SeverityError, "", "%s is masked, so nothing in it can start; systemctl unmask %s", s.Name, s.Name)
		default:
			e.add(s.Name, SeverityError, "", "systemd cannot load %s (%s), so nothing in it can start; %s brings its file back", s.Name, s.LoadState, d.Reinstall())
		}
	}
	game, build := weights[units.GameSlice], weights[units.BuildSlice]
	if game.LoadState != "loaded" || build.LoadState != "loaded" {
		return nil
	}
	for _, w := range []struct {
		what        string
		game, build uint64
	}{{"CPUWeight", game.CPU, build.CPU}, {"IOWeight", game.IO, build.IO}} {
		if w.game <= w.build {
			e.add(w.what, SeverityWarning, "", "%s of servers is %d and that of builds %d, so a build slows servers down; systemctl revert %s %s",
				w.what, w.game, w.build, game.Name, build.Name)
		}
	}
	return nil
}

// controllers are those that limits and weights need.
var controllers = []string{"cpu", "io", "memory", "pids"}

func (d *Daemon) findMissingControllers(e *examination) error {
	h, err := e.machine.host()
	if err != nil {
		return err
	}
	severity, mend := SeverityWarning, "systemd.unified_cgroup_hierarchy=1 on the kernel's command line brings them"
	text, err := os.ReadFile(d.system("/sys/fs/cgroup/cgroup.controllers"))
	switch {
	case err == nil:
		mend = "the kernel was built or started without them, see cgroup_disable= on its command line"
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if h.Container {
		severity, mend = SeverityNotice, "the host of this container has to delegate them"
	}
	have := strings.Fields(string(text))
	missing := slices.DeleteFunc(slices.Clone(controllers), func(name string) bool { return slices.Contains(have, name) })
	if len(missing) > 0 {
		e.add("", severity, "", "limits and weights are set but not kept: control groups have no controller %s; %s", strings.Join(missing, ", "), mend)
	}
	return nil
}

// rule is the shipped one. Where it stands is left4's package's to say; an administrator's own stand elsewhere.
const rule = "/usr/share/polkit-1/rules.d/60-me.left4.rules"

func (d *Daemon) findMissingRule(e *examination) error {
	_, err := os.Stat(d.system(rule))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	e.add(path.Base(rule), SeverityWarning, "", "%s is missing, so left4-operators and owners are asked for a password like everybody else; %s brings it back", rule, d.Reinstall())
	return nil
}

// oldestSystemd is the first version that has all directives which the units have.
const oldestSystemd = 252

func (d *Daemon) findOldSystemd(e *examination) error {
	h, err := e.machine.host()
	if err != nil {
		return err
	}
	number := h.Version[:len(h.Version)-len(strings.TrimLeft(h.Version, "0123456789"))]
	if n, err := strconv.Atoi(number); err == nil && n < oldestSystemd {
		e.add("", SeverityError, "", "systemd is at version %s and does not know all that keeps servers apart; %d is the oldest that does", h.Version, oldestSystemd)
	}
	return nil
}

// findOtherVersions also finds the time between the two halves of an upgrade, which is short.
func (d *Daemon) findOtherVersions(e *examination) error {
	if exe, err := os.Readlink(d.system("/proc/self/exe")); err == nil && strings.HasSuffix(exe, " (deleted)") {
		e.add("left4d", SeverityWarning, "", "the left4d that runs, %s, is not the one on disk any more; systemctl restart left4d stops no server", d.Version)
		return nil
	}
	a, err := e.machine.probe()
	if err != nil {
		return err
	}
	for _, program := range []struct{ name, version string }{{"left4-overlay", a.Version}, {"left4-worker", a.Worker}} {
		if program.version != d.Version {
			e.add(program.name, SeverityWarning, "", "%s is at version %s and left4d at %s; %s makes them one", program.name, program.version, d.Version, d.Reinstall())
		}
	}
	return nil
}

// findScriptNetwork tells what scripts could reach, where there are any.
func (d *Daemon) findScriptNetwork(e *examination) error {
	if !slices.ContainsFunc(d.Overlays(), func(o Overlay) bool { return o.Type == ScriptType }) {
		return nil
	}
	if s, err := d.settings(); err != nil || s.AllowPrivateNetworks {
		return nil // told by itself, or wanted
	}
	a, err := e.machine.probe()
	if err != nil {
		return err
	}
	if a.Firewall != "" {
		e.add("private", SeverityWarning, "", "scripts are not built: this machine does not keep them from private networks (%s)", a.Firewall)
		return nil
	}
	h, err := e.machine.host()
	if err == nil && !h.BPF {
		e.add("own", SeverityNotice, "", "systemd %s is built without BPF_FRAMEWORK, so a script reaches what listens on this machine's public addresses, as the internet does", h.Version)
	}
	return err
}
