package ring

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"left4.me/left4/test/report"
)

// fill is what a server can do to its own tree: python, with the number of files and the depth as arguments.
const fill = `
import os, socket, sys
files, depth = int(sys.argv[1]), int(sys.argv[2])
failed = []
def do(f, *args):
    try:
        f(*args)
    except OSError as e:
        failed.append(f"{f.__name__} {args!r:.60}: {e.strerror}")
def write(name, text="x"):
    with open(name, "w") as f:
        f.write(text)
os.umask(0)
game = os.getcwd()
os.mkdir("abuse")
os.chdir("abuse")
up = "../" * 30
for n, to in enumerate(("/etc/shadow", "/var/lib/left4/left4.db", "/var/lib/left4/runtime/b/upper", "/", "/etc", "/root", up + "etc/shadow", up + "var/lib/left4/runtime/b",
        "loop-a", "../abuse", ".", "/proc/self/root", "/dev/zero", "x/" * 2000)):
    do(os.symlink, to, f"link-{n}")
do(os.symlink, "loop-b", "loop-a")
do(os.symlink, "loop-a", "loop-b")
# Who walks the tree by names goes out by these.
for name in (".left4-staged", ".import-1", ".gone-1", ".clone", "cloned", "plan.json", "staged", "left4.db", "upper", "work", "merged", "#1", "index", "10-left4.conf", ".10-left4.conf.new"):
    do(os.symlink, "/etc", name)
    do(os.symlink, "/etc/shadow", os.path.join(game, name))
# Who goes where left4 stages.
for name in ("server.cfg.new", ".server.cfg.new", ".left4.tmp", "server_overlay_1.cfg"):
    do(os.mkfifo, os.path.join(game, "left4dead2/cfg", name))
# Nobody may enter, list or empty these.
for n, mode in enumerate((0, 0o111, 0o333, 0o444, 0o555, 0o1777)):
    do(os.makedirs, f"mode-{n}/in/er")
    do(write, f"mode-{n}/file")
    do(write, f"mode-{n}/in/file")
    do(os.chmod, f"mode-{n}/file", 0)
    do(os.chmod, f"mode-{n}/in", mode)
    do(os.chmod, f"mode-{n}", mode)
for kind, mode in (("char", 0o020666), ("block", 0o060666)):
    do(os.mknod, kind, mode, os.makedev(1, 8))
do(os.mknod, "whiteout", 0o020000, 0)
write("program")
do(os.chmod, "program", 0o6755)
do(os.chown, "program", 0, 0)
os.mkdir("marked")
for name in ("user.overlay.opaque", "user.overlay.whiteout", "user.overlay.redirect", "trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.metacopy", "security.capability"):
    do(os.setxattr, "marked", name, b"/etc")
for name in (".wh.program", ".wh..wh..opq"):
    write(name)
do(os.mkfifo, "fifo")
s = socket.socket(socket.AF_UNIX)
do(s.bind, "socket")
do(os.link, "program", "again")
do(os.link, "/etc/passwd", "passwd")
do(os.link, os.path.join(game, "srcds_linux"), "below")
for name in (b"new\nline", b"\x1b[2Jred", b"\xff\xfe", b"\xc2\x9b31m", b"\xe2\x80\xaetxt.exe", b"-rf", b"n" * 255, b"%s%n", b"a\tb", b"\x07"):
    do(write, name)
# Of lower layers: removed, replaced by another kind, made opaque.
os.chdir(game)
do(os.unlink, "left4dead2/gameinfo.txt")
do(os.mkdir, "left4dead2/gameinfo.txt")
do(os.rename, "left4dead2/missions", "left4dead2/moved")
do(os.unlink, "steam_appid.txt")
os.unlink("left4dead2/steam.inf")
do(os.symlink, "/etc/shadow", "left4dead2/steam.inf")
for name in os.listdir("left4dead2/maps"):
    os.unlink(os.path.join("left4dead2/maps", name))
do(os.rmdir, "left4dead2/maps")
do(os.mkdir, "left4dead2/maps")
with open("left4dead2/big", "wb") as f:
    do(os.ftruncate, f.fileno(), 1 << 40)
os.makedirs("abuse/many")
os.chdir("abuse/many")
for n in range(files):
    os.close(os.open(f"{n}", os.O_CREAT | os.O_WRONLY))
os.chdir("..")
os.mkdir("deep")
os.chdir("deep")
for n in range(depth):
    os.mkdir("d")
    os.chdir("d")
do(os.symlink, "/etc", "bottom")
write("file")
print("\n".join(failed))
`

// swap has a directory and a link change places for ever, and files grow, come and go, until it is killed. It is deaf to what ends
// others, and no child of the server.
const swap = `
import ctypes, os, signal, sys
if os.fork():
    sys.exit(0)
os.setsid()
if os.fork():
    os._exit(0)
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
    signal.signal(s, signal.SIG_IGN)
null = os.open("/dev/null", os.O_RDWR)
for fd in range(3):
    os.dup2(null, fd)
os.makedirs("abuse/race/there")
with open("abuse/race/there/inside", "w") as f:
    f.write("x")
os.symlink("/etc", "abuse/race/away")
held = [open(f"abuse/held-{n}", "w") for n in range(50)]
os.chdir("abuse/race")
exchange = ctypes.CDLL(None, use_errno=True).renameat2
n = 0
while True:
    exchange(-100, b"there", -100, b"away", 2)
    n += 1
    if n % 100 == 0:
        held[0].write("grows" * 1000)
        held[0].flush()
        with open("coming", "w") as f:
            f.write("x")
        os.rename("coming", "going")
        os.unlink("going")
`

func TestAbuseServer(t *testing.T) {
	files, depth, looks, run := 3000, 1500, 2, Once
	if full() {
		files, depth, looks, run = 100000, 10000, 5, Each
	}
	run(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.install()
		p.bringHostile()
		p.ctl("create", "a", "--overlay=hostile")
		p.ctl("create", "b")
		// It will not go by itself.
		impatient := func() {
			p.WriteFile(t, "/etc/systemd/system/"+unit("a")+".d/override.conf", "[Service]\nTimeoutStopSec=1s\n", 0o644)
		}
		impatient()
		p.ctl("start", "a", "b")
		p.ready(27016)
		p.rcon("b", 27016, "standin write mine.txt hello")
		p.WriteFile(t, "/root/outside", "kept", 0o600)
		outside := []string{
			"/root/outside", "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/systemd/system.conf", "/etc/polkit-1", "/etc/dbus-1", "/etc/ssh", "/etc/pam.d", "/usr/libexec/left4",
			"/var/lib/left4/game", "/var/lib/left4/overlays", "/var/lib/left4/instances/b", "/var/lib/left4/runtime/b/upper",
		}
		before, pid := p.traceOf(outside...), p.pid("b")
		left4d := p.MainPID(t, "left4d.service")
		wrongs, deeds := 0, 0
		wrong := func(format string, args ...any) {
			t.Helper()
			wrongs++
			t.Errorf(format, args...)
		}
		safe := func(after string) {
			t.Helper()
			deeds++
			if now := p.traceOf(outside...); now != before {
				wrong("after %s something outside is another:\n%s", after, differences(before, now))
				before = now
			}
			if p.pid("b") != pid {
				wrong("after %s b is another process", after)
			}
			if p.MainPID(t, "left4d.service") != left4d {
				wrong("after %s left4d is another process", after)
			}
		}
		// In the end every verb does what it says, and nothing that a terminal would obey comes out.
		verb := func(args ...string) string {
			t.Helper()
			r := p.Try(append([]string{"left4ctl"}, args...)...)
			if r.Code != 0 {
				wrong("left4ctl %s: exit status %d\n%.2000s", strings.Join(args, " "), r.Code, r.Err)
			}
			if unsafe(r.Out + r.Err) {
				wrong("left4ctl %s prints %.2000q", strings.Join(args, " "), r.Out+r.Err)
			}
			safe(strings.Join(args, " "))
			return r.Out
		}
		occupy := func() {
			t.Helper()
			if r := p.insideInput(hostilePort, fill, "python3", "-", strconv.Itoa(files), strconv.Itoa(depth)); r.Code != 0 {
				t.Fatalf("the tree was not filled: %+v", r)
			} else {
				t.Logf("refused to the server:\n%s", r.Out)
			}
			if r := p.insideInput(hostilePort, swap, "python3", "-"); r.Code != 0 {
				t.Fatalf("nobody swaps: %+v", r)
			}
			p.inside(hostilePort, "ignore-signals")
			p.Eventually(t, "directory and link change places", func() bool { return p.exists("/var/lib/left4/runtime/a/upper/abuse/race/away") })
		}

		occupy()
		safe("filling")
		// Looks at what changes at that moment. What lies in /etc is never seen through a link.
		for range looks {
			var changes []change
			if err := json.Unmarshal([]byte(verb("diff", "a", "--json")), &changes); err != nil {
				t.Fatal(err)
			}
			kinds := map[string]int{}
			for _, c := range changes {
				kinds[c.Change]++
				if strings.Contains(c.Path, "/there/") && !strings.HasSuffix(c.Path, "/inside") || strings.Contains(c.Path, "/away/") && !strings.HasSuffix(c.Path, "/inside") {
					wrong("diff looks through a link: %+v", c)
				}
			}
			// Of the long form it tells the beginning, and that there is more.
			if kinds["added"] == 0 || !full() && (kinds["removed"] == 0 || kinds["replaced"] == 0) {
				wrong("diff tells of %v", kinds)
			}
			for _, path := range []string{"abuse/race/there/passwd", "abuse/race/away/shadow", "abuse/link-4/passwd", "abuse/mode-0/file", "abuse/loop-a/x", strings.Repeat("abuse/deep/", 300)} {
				r := p.Try("left4ctl", "which", "a", path, "--json")
				var at []found
				if err := json.Unmarshal([]byte(r.Out), &at); r.Code == 0 && (err != nil || len(at) == 0) || strings.Contains(path, "passwd") && r.Code == 0 {
					wrong("which %.50s: %+v", path, r)
				}
			}
		}
		verb("diff", "a")
		verb("status", "a")
		verb("preview", "a")
		verb("list")

		verb("restart", "a")
		if r := p.inside(hostilePort, "true"); r.Code != 0 {
			t.Fatalf("the hostile server is not back: %+v", r)
		}
		if left := p.Run(t, "sh", "-c", "ps -C python3 -o pid= || true"); left != "" {
			wrong("after a restart there are processes of before: %s", left)
		}
		verb("stop", "a")
		// Its files are copied as they are; nobody reads what the links lead to.
		verb("clone", "a", "d", "--files")
		verb("diff", "d", "--json")
		if found := p.Try("sh", "-c", `grep -rlsF root: /var/lib/left4/runtime/d/upper --include='link-*' --include=steam.inf`); found.Out != "" {
			wrong("the copy holds files from outside: %s", found.Out)
		}
		verb("start", "d")
		verb("kill", "d")
		verb("delete", "d")
		verb("start", "a")
		p.inside(hostilePort, "ignore-signals")
		p.inside(hostilePort, "rm", "-rf", "abuse/race")
		p.insideInput(hostilePort, swap, "python3", "-")
		verb("reset", "a")
		if left := p.traces("a"); strings.Contains(left, "runtime/a") || strings.Contains(left, "instances/a") {
			wrong("reset left:\n%s", left)
		}
		verb("start", "a")
		occupy()
		verb("delete", "a")
		if left := p.Run(t, "sh", "-c", `find /var/lib/left4/instances /var/lib/left4/runtime /run/left4 /etc/systemd/system ! -name b ! -path '*/b/*' \( -name a -o -name '.*' -o -name 'left4-*@a.*' -o -name 'left4-*@d.*' \); grep -F /runtime/a/ /proc/1/mountinfo || true`); left != "" {
			wrong("delete left:\n%s", left)
		}
		if jobs := verb("job", "list", "--no-legend"); regexp.MustCompile(`(?m) (running|queued) `).MatchString(jobs) {
			wrong("jobs without an end:\n%s", jobs)
		}
		p.ready(27016)
		for _, v := range violations(t, m, map[string]int{"b": pid}) {
			wrong("in the end %s", v)
		}
		peak := p.peak("left4d.service")
		if peak > 64<<10 {
			wrong("left4d has taken %d KiB", peak)
		}
		report.Add(t, report.Row{
			Table: "abuse", Suite: m.Suite, Name: "a server that fills its tree with traps and is deaf",
			Figures: []report.Figure{
				report.Count("files", files), report.Count("levels", depth), report.Count("verbs", deeds), report.Count("violations", wrongs),
				report.Measure("peak of left4d", float64(peak)/1024, "MiB"),
			},
			Goal: "0 violations, left4d below 64 MiB", Met: wrongs == 0,
		})
	})
}
