package ring

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// sees is all that the server of a stopped instance would find, but for what left4 stages and what a copy leaves out.
func (p play) sees(name string) string {
	p.t.Helper()
	const helper = "/usr/libexec/left4/left4-overlay"
	p.Run(p.t, helper, "mount", name)
	defer p.Run(p.t, helper, "umount", name)
	return p.Run(p.t, "sh", "-ec", `cd "/var/lib/left4/runtime/$1/merged"
		set -- . ! -path './left4dead2/cfg/server*.cfg' ! -type p ! -type s
		find "$@" -type d -printf '%y %m %U:%G %p\n' | sort
		find "$@" ! -type d -printf '%y %m %U:%G %s %T@ %p %l\n' | sort
		find "$@" -type f -size -1M -print0 | sort -z | xargs -0 sha256sum`, "sh", name)
}

// upper is what a server has written, and when.
func (p play) upper(name string) string {
	p.t.Helper()
	return p.Run(p.t, "find", "/var/lib/left4/runtime/"+name+"/upper", "-printf", `%i %y %m %U:%G %s %n %T@ %C@ %p %l\n`)
}

// lockRuntime keeps every left4-overlay from an instance until it is undone.
func (p play) lockRuntime(name string) (undo func()) {
	p.t.Helper()
	f, err := os.Open(filepath.Join(p.State(), "runtime", name, "work"))
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	return func() { f.Close() }
}

// waitLocked waits until a left4-overlay works on an instance. Locks tell nobody.
func (p play) waitLocked(name string) {
	p.t.Helper()
	p.Eventually(p.t, name+" is locked", func() bool {
		f, err := os.Open(filepath.Join(p.State(), "runtime", name, "work"))
		if err != nil {
			return false
		}
		defer f.Close()
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == unix.EWOULDBLOCK
	})
}

// copies has left4d copy the files of one instance to another one.
func (p play) copies(from, to string) (job dbus.ObjectPath) {
	p.t.Helper()
	options := map[string]dbus.Variant{"files_from": dbus.MakeVariant(from)}
	call := p.Bus(p.t).Object(service, "/me/left4").Call(managerI+".InitializeInstance", 0, to, map[string]dbus.Variant{}, options)
	if err := call.Store(&job); err != nil {
		p.t.Fatalf("%v", err)
	}
	return job
}

func TestAServerIsClonedWithItsFiles(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.layer("maps", map[string]string{
			"left4dead2/maps/a.bsp": "a", "left4dead2/maps/b.bsp": "b", "left4dead2/logo/l.txt": "l", "left4dead2/sound/s.wav": "s",
			"left4dead2/cfg/server.cfg": "sv_tags maps",
		})
		p.ctl("create", "a", "--overlay=maps:*", "--hostname=A", "--label=The first")
		p.ctl("start", "a")
		p.ready(27015)
		for _, command := range []string{"remove maps/a.bsp", "write maps/b.bsp mine", "remove logo", "write logo mine", "remove sound",
			"plant links modes special hardlinks deep names xattrs"} {
			if r := p.rcon("a", 27015, "standin "+command); r.Code != 0 {
				t.Fatalf("%s: %+v", command, r)
			}
		}
		p.Run(t, "sh", "-ec", `cd /var/lib/left4/runtime/a/merged/left4dead2
			mkdir sound && echo mine >sound/mine.wav && truncate -s 1T demo.dem && chown -R left4:left4 sound demo.dem`)

		p.refused(t, []string{"clone", "a", "b", "--files"}, "cannot initialize b: a runs; stop it first")
		if r := p.Try("left4ctl", "status", "b"); r.Code != 4 {
			t.Errorf("b is there: %+v", r)
		}
		password := p.password("a")
		p.ctl("stop", "a")
		before := p.upper("a")

		r := p.Try("left4ctl", "clone", "a", "b", "--files")
		if r.Code != 0 || !strings.HasPrefix(r.Err, "b: created, port 27016\nb: copying the files of a\n") || !strings.HasSuffix(r.Err, "b: rendering\nb: initialized\n") {
			t.Fatalf("%+v", r)
		}
		if got := p.upper("a"); got != before {
			t.Errorf("a was\n%s\nand is\n%s", before, got)
		}
		if r := p.Try("grep", "-rlF", password, "/var/lib/left4/runtime/b", "/var/lib/left4/instances/b"); r.Code != 1 {
			t.Errorf("b has the password of a: %+v", r)
		}
		for name, path := range map[string]string{"a whiteout": "maps/a.bsp", "an opaque directory": "sound"} {
			found := answer[[]found](p, "which", "b", "left4dead2/"+path)
			if len(found) < 2 || found[0].Layer != "upper" || found[0].Kind != "whiteout" && found[0].Kind != "opaque" {
				t.Errorf("%s was copied as %+v", name, found)
			}
		}
		if got := p.Run(t, "stat", "-c", "%s %b", "/var/lib/left4/runtime/b/upper/left4dead2/demo.dem"); got != "1099511627776 0" {
			t.Errorf("the hole has bytes and blocks %s", got)
		}
		if a, b := p.sees("a"), p.sees("b"); a != b || !strings.Contains(a, "standin-plant") {
			t.Errorf("a sees\n%s\nand b\n%s", a, b)
		}

		p.ctl("start", "b")
		if got := p.ready(27016); !strings.Contains(got, "A") {
			t.Errorf("b answers %s", got)
		}
		if got := p.password("b"); got == password || got == "" {
			t.Errorf("the password of b is %q", got)
		}
		for path, want := range map[string]string{"maps/a.bsp": "", "maps/b.bsp": "mine", "logo": "mine", "sound/mine.wav": "mine", "sound/s.wav": ""} {
			if got := p.reads("b", path); got != want {
				t.Errorf("b reads %q from %s", got, path)
			}
		}
		call := p.Bus(t).Object(service, "/me/left4").Call(managerI+".InitializeInstance", 0, "b", map[string]dbus.Variant{},
			map[string]dbus.Variant{"files_from": dbus.MakeVariant("a")})
		if call.Err == nil || !strings.Contains(call.Err.Error(), "it has files of its own") {
			t.Errorf("copied over the files of b: %v", call.Err)
		}
	})
}

// The copy runs in a mount namespace of its own. It must see what is mounted and unmounted in the machine's meanwhile.
func TestACopySeesTheMountsOfTheMachine(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		for _, name := range []string{"a", "b", "c", "d"} {
			p.ctl("create", name)
		}
		p.ctl("start", "a")
		p.ready(27015)
		p.ctl("stop", "a")
		mount := func() { p.Run(t, "/usr/libexec/left4/left4-overlay", "mount", "a") }
		for _, c := range []struct {
			to             string
			before, within func()
			result         string
		}{
			{"b", mount, func() {}, "failed"},
			{"c", func() {}, func() { p.Run(t, "umount", "/var/lib/left4/runtime/a/merged") }, "done"},
			{"d", func() {}, func() {
				p.Run(t, "sh", "-ec", `cd /var/lib/left4/runtime/a
					mount -t overlay left4-a -o lowerdir=/var/lib/left4/game/1,upperdir="$PWD/upper",workdir="$PWD/work" "$PWD/merged"`)
			}, "failed"},
		} {
			c.before()
			unlock := p.lockRuntime("a")
			ends := p.jobsEnd()
			job := p.copies("a", c.to)
			// By then its sandbox is there, and it waits for the lock.
			p.Eventually(t, c.to+" is begun", func() bool { return p.exists("/var/lib/left4/runtime/" + c.to) })
			c.within()
			unlock()
			result, cause := ends.ended(t, job), p.job(job, "Cause")
			if result != c.result || result == "failed" && !strings.HasSuffix(cause, ": cannot copy the files of a: a is mounted; stop it first") {
				t.Errorf("%s: the job is %s: %s", c.to, result, cause)
			}
			if p.exists("/var/lib/left4/runtime/"+c.to+"/upper") != (c.result == "done") {
				t.Errorf("%s has %v", c.to, p.list("/var/lib/left4/runtime/"+c.to))
			}
		}
		p.Run(t, "umount", "/var/lib/left4/runtime/a/merged")
	})
}

// No start slips through, and a killed left4d takes the copy up again.
func TestAStartWaitsForACopy(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		if r := p.rcon("a", 27015, "standin write mine.txt mine"); r.Code != 0 {
			t.Fatalf("%+v", r)
		}
		p.ctl("stop", "a")
		for _, to := range []string{"b", "c"} {
			p.ctl("create", to)
			p.Run(t, "mkdir", "-p", "-m", "700", "/var/lib/left4/runtime/"+to+"/work")
		}

		// It has a and waits for b.
		unlock := p.lockRuntime("b")
		ends := p.jobsEnd()
		job := p.copies("a", "b")
		p.waitStatus(job, "copying the files of a")
		p.waitLocked("a")
		start := dbus.ObjectPath(p.ctl("start", "--no-wait", "a"))
		p.WaitUnit(t, overlayUnit("a"), "ActiveState", "activating")
		unlock()
		if got := ends.ended(t, job); got != "done" {
			t.Errorf("the copy is %s: %s", got, p.job(job, "Cause"))
		}
		p.waitJob(start, "done")
		var made unix.Stat_t
		if err := unix.Lstat(filepath.Join(p.State(), "runtime/b/upper"), &made); err != nil {
			t.Fatal(err)
		}
		mounted, err := strconv.ParseInt(value(p.Run(t, "busctl", "get-property", "org.freedesktop.systemd1",
			"/org/freedesktop/systemd1/unit/left4_2doverlay_40a_2eservice", "org.freedesktop.systemd1.Unit", "ActiveEnterTimestamp")), 10, 64)
		if copied := made.Ctim.Nano() / 1000; err != nil || mounted <= copied {
			t.Errorf("a was mounted at %d, and the copy whole at %d, %v", mounted, copied, err)
		}
		p.ready(27015)
		p.ctl("stop", "a")

		unlock = p.lockRuntime("c")
		job = p.copies("a", "c")
		p.waitLocked("a")
		p.killLeft4d(func() {})
		unlock()
		ends = p.jobsEnd()
		p.startLeft4d()
		if got := ends.ended(t, job); got != "done" {
			t.Errorf("the copy is %s: %s", got, p.job(job, "Cause"))
		}
		p.ctl("start", "c")
		if got := p.reads("c", "mine.txt"); got != "mine" {
			t.Errorf("c reads %q", got)
		}
		if got := strings.Join(p.list("/var/lib/left4/runtime/c"), " "); got != "merged staged upper work" {
			t.Errorf("c has %s", got)
		}
	})
}

// A copy that meets a full disk leaves nothing.
func TestACloneOnAFullDiskLeavesNothing(t *testing.T) {
	Each(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.bring()
		p.Run(t, "sh", "-ec", `
			systemctl stop left4d.service
			mount -t tmpfs -o mode=0755,size=32M small /var/lib/left4
			systemd-tmpfiles --create
			systemctl start left4d.service`)
		p.ctl("game", "import", "/root/game")
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		p.ctl("stop", "a")
		p.Run(t, "sh", "-ec", `cd /var/lib/left4/runtime/a/upper
			room=$(df --output=avail -k . | tail -n1)
			head -c "$((room * 2 / 3))K" /dev/zero | tr '\0' x >demo.dem`)
		free := func() string { return p.Run(t, "df", "--output=avail", "-m", "/var/lib/left4") }
		before := free()
		p.refused(t, []string{"clone", "a", "b", "--files"},
			`cannot initialize b: cannot copy the files of a: "demo.dem": no space left on device`, "b: deleted again")
		if p.exists("/var/lib/left4/runtime/b") || free() != before {
			t.Errorf("free was %s and is %s", before, free())
		}
		p.ctl("start", "a")
	})
}
