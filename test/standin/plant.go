package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// planter makes one kind of hostile things that a server can leave in its own tree, for whoever writes to that tree or
// removes it afterwards.
type planter struct {
	kind  string
	named bool // only when it is named: it would hide what others do
	plant func(p *planting)
}

// planters work in this order: those that spoil the game's own files come last.
var planters = []planter{
	{"links", false, plantLinks},
	{"modes", false, plantModes},
	{"special", false, plantSpecial},
	{"hardlinks", false, plantHardLinks},
	{"deep", false, plantDeep},
	{"names", false, plantNames},
	{"xattrs", false, plantXattrs},
	{"server-cfg-link", true, plantServerConfigLink},
	{"server-cfg-fifo", true, plantServerConfigFIFO},
	{"server-cfg-directory", true, plantServerConfigDirectory},
	{"cfg-file", true, plantConfigFile},
	{"cfg-link", false, plantConfigLink},
	{"game-link", true, plantGameLink},
}

// plantDirectory lies in the game's directory.
const plantDirectory = "standin-plant"

// planting is one run of planters; what fails is told, and the rest goes on.
type planting struct {
	game, dir string
	failed    []error
}

func (p *planting) try(err error) {
	if err != nil {
		p.failed = append(p.failed, err)
	}
}

func (p *planting) file(name, text string, mode os.FileMode) {
	path := filepath.Join(p.dir, name)
	p.try(os.WriteFile(path, []byte(text), 0o644))
	p.try(os.Chmod(path, mode))
}

func (s *server) plant(kinds []string) error {
	for _, kind := range kinds {
		if !slices.ContainsFunc(planters, func(p planter) bool { return p.kind == kind }) {
			return fmt.Errorf("nothing is called %s", kind)
		}
	}
	dir := filepath.Join(s.game, plantDirectory)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, planter := range planters {
		if len(kinds) == 0 && planter.named || len(kinds) > 0 && !slices.Contains(kinds, planter.kind) {
			continue
		}
		p := &planting{game: s.game, dir: dir}
		planter.plant(p)
		for _, err := range p.failed {
			s.printf("standin: plant %s: %v", planter.kind, err)
		}
		s.printf("standin: planted %s", planter.kind)
	}
	return nil
}

// plantLinks: out of the tree, to itself, to nothing, in the place of a directory that the server writes to.
func plantLinks(p *planting) {
	for name, target := range map[string]string{
		"etc":     "/etc",
		"root":    "/",
		"passwd":  "/etc/passwd",
		"up":      "../../../../../../../../../..",
		"loop":    "loop",
		"nothing": "/nonexistent/file",
		"proc":    "/proc/self/root",
		"long":    strings.Repeat("x/", 2000),
	} {
		p.try(os.Symlink(target, filepath.Join(p.dir, name)))
	}
	p.try(os.RemoveAll(filepath.Join(p.game, "logs")))
	p.try(os.Symlink("/var", filepath.Join(p.game, "logs")))
}

// plantModes: what its owner cannot read, enter or empty, and what runs with its owner's rights.
func plantModes(p *planting) {
	for name, mode := range map[string]os.FileMode{"none": 0, "readonly": 0o555, "nolist": 0o333} {
		p.try(os.Mkdir(filepath.Join(p.dir, name), 0o755))
		p.file(name+"/file", "locked in\n", 0)
		p.try(os.Mkdir(filepath.Join(p.dir, name, "directory"), 0))
		p.try(os.Chmod(filepath.Join(p.dir, name), mode))
	}
	p.file("setuid", "#!/bin/sh\n", 0o755|os.ModeSetuid|os.ModeSetgid)
	p.file("writable", "", 0o777)
}

// plantSpecial: opening them waits for somebody.
func plantSpecial(p *planting) {
	p.try(unix.Mkfifo(filepath.Join(p.dir, "fifo"), 0o666))
	p.try(unix.Mkfifo(filepath.Join(p.dir, "server.cfg"), 0o666))
	if dir, err := os.Open(p.dir); err != nil {
		p.try(err)
	} else {
		// A socket's path has at most 107 bytes.
		socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/socket", dir.Fd())})
		p.try(err)
		if err == nil {
			socket.SetUnlinkOnClose(false)
			socket.Close()
		}
		dir.Close()
	}
	// Only root can, and nobody who runs a server is root.
	p.try(unix.Mknod(filepath.Join(p.dir, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
}

// plantHardLinks: second names of the game's files, and of files that are not the server's.
func plantHardLinks(p *planting) {
	p.file("first", "two names\n", 0o644)
	p.try(os.Link(filepath.Join(p.dir, "first"), filepath.Join(p.dir, "second")))
	p.try(os.Link(filepath.Join(p.game, "gameinfo.txt"), filepath.Join(p.dir, "gameinfo.txt")))
	p.try(os.Link("/etc/passwd", filepath.Join(p.dir, "passwd-link")))
}

// plantDeep: paths longer than a system call takes.
func plantDeep(p *planting) {
	name := strings.Repeat("deep", 32)
	dir, err := unix.Open(p.dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	p.try(err)
	for range 100 {
		if err != nil {
			return
		}
		p.try(unix.Mkdirat(dir, name, 0o755))
		var next int
		next, err = unix.Openat(dir, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(dir)
		dir = next
	}
	if err != nil {
		p.try(err)
		return
	}
	p.try(unix.Symlinkat("/etc", dir, "bottom"))
	unix.Close(dir)
}

// plantNames: every byte that a name can have, and names that mean something to somebody.
func plantNames(p *planting) {
	var all []byte
	for c := 1; c < 256; c++ {
		if c != '/' {
			all = append(all, byte(c))
		}
	}
	for _, name := range []string{
		"new\nline", "new\nline\nStatus=done", "\x1b[2J\x1b[31mred", "tab\ttab", "-rf", "--", "*", "$(reboot)", "`reboot`", "a b", " ",
		"\\", "\"", "'", "\xff\xfe", "\u202etxt.exe", ".wh.server.cfg", ".wh..wh..opq", "...", ",", ":", "%n", "CON", strings.Repeat("n", 251),
		string(all[:127]), string(all[127:]),
	} {
		p.file("name"+name, name, 0o644)
		if len(name) < 200 {
			p.try(os.Mkdir(filepath.Join(p.dir, "dir"+name), 0o755))
		}
	}
	p.file("-rf", "", 0o644)
	p.file("\n", "", 0o644)
}

// plantXattrs: marks of overlayfs that an unprivileged process can set.
func plantXattrs(p *planting) {
	path := filepath.Join(p.dir, "marked")
	p.try(os.Mkdir(path, 0o755))
	for _, name := range []string{"user.overlay.opaque", "user.overlay.redirect", "user.overlay.whiteout"} {
		p.try(unix.Setxattr(path, name, []byte("y"), 0))
	}
}

// replace puts something in the place of a file or directory of the game.
func (p *planting) replace(name string, with func(path string) error) {
	path := filepath.Join(p.game, name)
	p.try(os.RemoveAll(path))
	p.try(with(path))
}

func linkTo(target string) func(string) error {
	return func(path string) error { return os.Symlink(target, path) }
}

func plantServerConfigLink(p *planting) { p.replace("cfg/server.cfg", linkTo("/etc/passwd")) }

func plantServerConfigFIFO(p *planting) {
	p.replace("cfg/server.cfg", func(path string) error { return unix.Mkfifo(path, 0o666) })
}

func plantServerConfigDirectory(p *planting) {
	p.replace("cfg/server.cfg", func(path string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o755) })
}

func plantConfigLink(p *planting) { p.replace("cfg", linkTo("/etc")) }

func plantConfigFile(p *planting) {
	p.replace("cfg", func(path string) error { return os.WriteFile(path, []byte("no directory\n"), 0o644) })
}

// plantGameLink replaces the whole game directory; nothing else can be planted after it.
func plantGameLink(p *planting) { p.replace(".", linkTo("/etc")) }
