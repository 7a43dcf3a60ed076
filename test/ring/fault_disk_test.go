package ring

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/test/report"
)

// A disk is a small file system of its own, on a loop device, that is mounted in a machine.
type disk struct {
	p      play
	at     string // where
	device string // in the machine
	loop   string // what the host calls it: loop0
}

// smallDisk makes one with room for so many bytes and files, and what at has so far in it. It returns nil where the host has
// no loop devices.
func (p play) smallDisk(t *testing.T, at, name, size string, files int) *disk {
	t.Helper()
	image := filepath.Join(p.dir, name+".img")
	host := func(argv ...string) (string, error) {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	for _, argv := range [][]string{
		{"truncate", "--size=" + size, image},
		// What is root's own to the last block, and without a journal, which would let an error have no end but a mount.
		{"mkfs.ext4", "-q", "-m", "0", "-N", strconv.Itoa(files), "-E", "lazy_itable_init=0", image},
	} {
		if out, err := host(argv...); err != nil {
			t.Fatalf("%s: %v: %v: %s", p.Suite, argv, err, out)
		}
	}
	loop, err := host("losetup", "--find", "--show", image)
	if err != nil {
		t.Logf("%s: no loop device: %v: %s", p.Suite, err, loop)
		return nil
	}
	t.Cleanup(func() { host("losetup", "--detach", loop) }) // at once, or when nobody has it mounted any more
	var st unix.Stat_t
	if err := unix.Stat(loop, &st); err != nil {
		t.Fatal(err)
	}
	d := &disk{p: p, at: at, device: "/dev/" + name, loop: filepath.Base(loop)}
	p.Run(t, "sh", "-ec", `
		mknod "$1" b "$2" "$3"
		mount "$1" /mnt
		rmdir /mnt/lost+found
		cp -a "$4/." /mnt
		umount /mnt`, "sh", d.device, strconv.Itoa(int(unix.Major(st.Rdev))), strconv.Itoa(int(unix.Minor(st.Rdev))), at)
	d.mount(t)
	return d
}

func (d *disk) mount(t *testing.T) {
	t.Helper()
	d.p.Run(t, "mount", "-o", "errors=remount-ro", d.device, d.at)
}

// fill leaves no byte, or no file, that could be had.
func (d *disk) fill(t *testing.T, what string) {
	t.Helper()
	script := map[string]string{
		"bytes": `for block in 1M 4k 512; do dd if=/dev/zero bs=$block oflag=append conv=notrunc of="$1/.fill" 2>/dev/null || :; done`,
		"files": `mkdir -p "$1/.fill" && i=$(ls "$1/.fill" | wc -l) && while : >"$1/.fill/$i"; do i=$((i + 1)); done 2>/dev/null`,
	}[what]
	d.p.Run(t, "bash", "-c", script+"; sync -f \"$1\"", "bash", d.at)
}

func (d *disk) free(t *testing.T) {
	t.Helper()
	d.p.Run(t, "rm", "-rf", d.at+"/.fill")
}

// shutdownFS is FS_IOC_SHUTDOWN of linux/fs.h; the flag is FS_SHUTDOWN_FLAGS_NOLOGFLUSH.
const (
	shutdownFS         = 0x8004587d
	shutdownNoLogFlush = 2
)

// shut makes all that is asked of the disk fail with EIO from now on.
func (d *disk) shut(t *testing.T) {
	t.Helper()
	dir, err := os.Open(d.p.hostPath(d.at))
	if err == nil {
		err = unix.IoctlSetPointerInt(int(dir.Fd()), shutdownFS, shutdownNoLogFlush)
		dir.Close()
	}
	if err != nil {
		t.Fatalf("%s: cannot shut down %s: %v", d.p.Suite, d.at, err)
	}
}

// fail has the kernel meet an error, for which it makes the disk read-only.
func (d *disk) fail(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/sys/fs/ext4/"+d.loop+"/trigger_fs_error", []byte("test"), 0); err != nil {
		t.Fatalf("%s: cannot make an error of %s: %v", d.p.Suite, d.at, err)
	}
}

// repair does what an administrator does, or a boot.
func (d *disk) repair(t *testing.T) {
	t.Helper()
	d.p.Run(t, "sh", "-c", `systemctl stop left4d.service 'left4-server@*' 'left4-overlay@*' 2>&1; umount "$1"`, "sh", d.at)
	out, err := exec.Command("e2fsck", "-fy", "/dev/"+d.loop).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1: errors corrected
		t.Fatalf("%s: cannot repair %s: %v\n%s", d.p.Suite, d.at, err, out)
	}
	d.mount(t)
	d.p.Run(t, "rm", "-rf", d.at+"/lost+found")
	d.p.Run(t, "sh", "-ec", "systemctl daemon-reload; systemctl start left4d.service; systemctl start multi-user.target")
}

// A diskVerb is what is asked for while a disk is unwell, of an instance of its own.
type diskVerb struct {
	name    string
	prepare string // shell, while all is well
	do      []string
	// frees tells that it ends a server or removes files: it must go through on a full disk, which is often the work of
	// the server that is to be ended.
	frees bool
}

var diskVerbs = []diskVerb{
	{"create", ``, []string{"create", "vcreate"}, false},
	{"configure", `left4ctl create vconfigure`, []string{"configure", "vconfigure", "label=changed", "config=sv_tags changed"}, false},
	{"initialize", `left4ctl create vinitialize`, []string{"initialize", "vinitialize"}, false},
	{"start", `left4ctl create vstart --overlay=maps`, []string{"start", "vstart"}, false},
	{"restart", `left4ctl create vrestart; left4ctl start vrestart; left4ctl configure vrestart hostname=Changed`, []string{"restart", "vrestart"}, false},
	{"import", ``, []string{"overlay", "import", "maps", "/root/maps"}, false},
	{"rollback", ``, []string{"overlay", "rollback", "maps"}, false},
	{"collect", `left4ctl overlay import maps /root/maps`, []string{"overlay", "configure", "maps", "--keep=0"}, false},
	{"stop", `left4ctl create vstop; left4ctl start vstop`, []string{"stop", "vstop"}, true},
	{"kill", `left4ctl create vkill; left4ctl start vkill`, []string{"kill", "vkill"}, true},
	{"reset", `left4ctl create vreset; left4ctl start vreset`, []string{"reset", "vreset"}, true},
	// It ends the server and removes the files; to forget the definition the database may want more room than that made.
	{"delete", `left4ctl create vdelete; left4ctl start vdelete`, []string{"delete", "vdelete"}, false},
}

// Whatever is wrong with the disks, servers play on, what cannot be done is told and not done half, and when all is well
// again so is left4, without anybody's help.
func TestFaultDisk(t *testing.T) {
	eachFault(t, func(t *testing.T, p play) {
		p.Run(t, "systemctl", "stop", "left4d.service")
		state := p.smallDisk(t, "/var/lib/left4", "state", "96M", 2500)
		if state == nil {
			report.Add(t, report.Row{Table: "fault", Suite: p.Suite, Name: "disks", Note: "not shown: this host has no loop devices"})
			t.Skip("this host has no loop devices")
		}
		units := p.smallDisk(t, "/etc/systemd/system", "units", "4M", 256)
		p.Run(t, "systemctl", "daemon-reload")
		p.Run(t, "systemctl", "start", "left4d.service")
		p.Run(t, "sh", "-ec", `mkdir -p /root/maps/left4dead2/maps
			for n in 1 2 3 4 5 6 7 8 9; do head -c 100k /dev/urandom >/root/maps/left4dead2/maps/$n.bsp; done
			left4ctl overlay create maps
			left4ctl overlay import maps /root/maps
			left4ctl create steady
			left4ctl start steady`)
		p.ready(27015)

		fill := func(d *disk, what string) func() { return func() { d.fill(t, what) } }
		for _, f := range []struct {
			name   string
			begin  func()
			again  func() // before each verb, since the one before may have made room
			end    func()
			full   bool
			stops  bool // servers can be ended
			short  bool
			brings bool // its end brings up the servers anew
		}{
			{"/var/lib/left4 full, bytes", fill(state, "bytes"), fill(state, "bytes"), func() { state.free(t) }, true, true, true, false},
			{"/var/lib/left4 full, files", fill(state, "files"), fill(state, "files"), func() { state.free(t) }, true, true, false, false},
			{"/etc/systemd/system full, bytes", fill(units, "bytes"), fill(units, "bytes"), func() { units.free(t) }, true, true, false, false},
			{"/etc/systemd/system full, files", fill(units, "files"), fill(units, "files"), func() { units.free(t) }, true, true, false, false},
			{"/etc/systemd/system read-only", func() { p.Run(t, "mount", "-o", "remount,ro", units.at) }, nil,
				func() { p.Run(t, "mount", "-o", "remount,rw", units.at) }, false, true, true, false},
			{"/etc/systemd/system: EIO", func() { units.shut(t) }, nil, func() { units.repair(t) }, false, true, false, true},
			{"/var/lib/left4 read-only after an error", func() { state.fail(t) }, nil, func() { state.repair(t) }, false, false, false, true},
			{"/var/lib/left4: EIO", func() { state.shut(t) }, nil, func() { state.repair(t) }, false, false, false, true},
		} {
			if !f.short && !full() {
				continue
			}
			wrongs := 0
			wrong := func(format string, args ...any) {
				t.Helper()
				wrongs++
				t.Errorf("%s: %s: %s", p.Suite, f.name, fmt.Sprintf(format, args...))
			}
			p.Run(t, "left4ctl", "overlay", "configure", "maps", "--keep=2")
			p.Run(t, "left4ctl", "overlay", "import", "maps", "/root/maps")
			for _, v := range diskVerbs {
				p.Run(t, "sh", "-ec", v.prepare)
			}
			untouched := map[string]int{"steady": p.pid("steady")}
			f.begin()
			worked, refused := map[string]bool{}, 0
			for _, v := range diskVerbs {
				if f.again != nil {
					f.again()
				}
				r := p.Try(append([]string{"left4ctl"}, v.do...)...)
				worked[v.name] = r.Code == 0
				t.Logf("%s: %s: %s: %d %s", p.Suite, f.name, v.name, r.Code, strings.ReplaceAll(r.Err, "\n", " | "))
				// Whatever becomes of the rest, who is to be ended is ended; and who is said to be is, for good.
				if ends := v.name == "stop" || v.name == "kill" || v.name == "reset"; ends {
					state, desired := p.get(v.do[1], "State"), p.get(v.do[1], "DesiredState")
					if r.Code == 0 && desired != "stopped" || state != "stopped" && f.stops {
						wrong("after %s it is %s, and wanted %s", v.name, state, desired)
					}
				}
				switch {
				case r.Code == 0:
				case f.full && v.frees:
					wrong("%s does not go through: %s", v.name, r.Err)
				case !diskTold.MatchString(r.Err):
					wrong("%s does not say why: %s", v.name, r.Err)
				default:
					refused++
				}
			}
			if got := p.MainPID(t, unit("steady")); got != untouched["steady"] {
				wrong("the server was process %d and is %d", untouched["steady"], got)
			}
			if got := p.Property(t, "left4d.service", "ActiveState"); got != "active" && got != "activating" {
				wrong("left4d is %s", got)
			}
			f.end()
			if f.brings {
				p.ready(27015)
				untouched["steady"] = p.pid("steady")
			}
			for _, v := range diskVerbs {
				if r := p.Try(append([]string{"left4ctl"}, v.do...)...); r.Code != 0 && !worked[v.name] {
					wrong("%s fails when all is well again: %s", v.name, r.Err)
				}
			}
			for _, v := range violations(t, p.Machine, untouched) {
				wrong("%s", v)
			}
			p.ctl("delete", "v*")
			for _, v := range violations(t, p.Machine, untouched) {
				wrong("in the end: %s", v)
			}
			report.Add(t, report.Row{Table: "fault", Suite: p.Suite, Name: f.name,
				Figures: []report.Figure{report.Count("verbs", len(diskVerbs)), report.Count("went through", len(diskVerbs)-refused), report.Count("refused by name", refused), report.Count("violations", wrongs)},
				Goal:    "0 violations", Met: wrongs == 0})
		}
		p.serverFills(t)
	})
}

// diskTold is how it is told. What SQLite cannot read any more it calls malformed; it is whole when the disk is.
var diskTold = regexp.MustCompile(`(?i)no space left|disk (is )?(nearly )?full|read-?only|input/output error|disk I/O error|disk image is malformed`)

// serverFills lets a server itself write until there is no room: it plays on, and so does who runs beside it.
func (p play) serverFills(t *testing.T) {
	t.Helper()
	wrongs := 0
	wrong := func(format string, args ...any) {
		t.Helper()
		wrongs++
		t.Errorf("%s: a server fills the disk: %s", p.Suite, fmt.Sprintf(format, args...))
	}
	p.Run(t, "sh", "-ec", "left4ctl create greedy; left4ctl start greedy; left4ctl create late")
	greedy, err := strconv.Atoi(p.get("greedy", "Port"))
	if err != nil {
		t.Fatal(err)
	}
	p.ready(greedy)
	untouched := map[string]int{"steady": p.pid("steady"), "greedy": p.pid("greedy")}
	p.rcon("greedy", greedy, "standin fill-disk")
	// Not by --follow: with many machines at once it can miss the last line for good.
	for end := time.Now().Add(eventDeadline); !strings.Contains(p.Journal(t, unit("greedy")), "standin: fill-disk standin.fill: "); {
		if time.Now().After(end) {
			t.Fatalf("%s: the disk is not full after %s", p.Suite, eventDeadline)
		}
	}
	p.ready(greedy)
	p.ready(27015)
	if r := p.Try("left4ctl", "start", "late"); r.Code == 0 || !diskTold.MatchString(r.Err) {
		wrong("a start says %+v", r)
	}
	for name, pid := range untouched {
		if got := p.pid(name); got != pid {
			wrong("%s was process %d and is %d", name, pid, got)
		}
	}
	p.ctl("reset", "greedy")
	delete(untouched, "greedy")
	p.ctl("start", "late", "greedy")
	for _, v := range violations(t, p.Machine, untouched) {
		wrong("%s", v)
	}
	report.Add(t, report.Row{Table: "fault", Suite: p.Suite, Name: "a server fills the disk itself",
		Figures: []report.Figure{report.Count("servers beside it", 1), report.Count("violations", wrongs)}, Goal: "0 violations", Met: wrongs == 0})
}
