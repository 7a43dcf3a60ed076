package ring

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/klauspost/compress/zstd"

	"left4.me/left4/test/report"
)

// racing changes a directory for as long as it lives: links and files take the places of directories and of each other.
const racing = `
import ctypes, os
os.chdir("/root")
exchange = ctypes.CDLL(None, use_errno=True).renameat2
while True:
    for inside, outside in ((b"dir", b"link"), (b"file", b"secret"), (b"other", b"fifo"), (b"deep/dir", b"root"), (b"dir/own", b"secret")):
        for _ in range(2):
            exchange(-100, b"race/" + inside, -100, b"away/" + outside, 2)
        sum(range(2000))
`

// zeros is a tar archive, compressed, of files full of zeros: many times larger than it is.
func zeros(t *testing.T, size int64, files int) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	chunk := make([]byte, 1<<20)
	for n := range files {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("zeros-%d", n), Mode: 0o644, Size: size}); err != nil {
			t.Fatal(err)
		}
		for left := size; left > 0; left -= int64(len(chunk)) {
			if _, err := w.Write(chunk[:min(left, int64(len(chunk)))]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What is given to left4 to keep is taken within bounds or refused by name; nothing else changes, and nothing of it stays.
func TestAbuseFiles(t *testing.T) {
	tries, depth, run := 10, 1500, Once
	if full() {
		tries, depth, run = 100, 10000, Each
	}
	run(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.install()
		p.layer("sm", map[string]string{"left4dead2/kept.txt": "kept", "left4dead2/maps/a.bsp": "a"})
		p.ctl("create", "b", "--overlay=sm")
		p.ctl("start", "b")
		p.ready(27015)
		p.WriteFile(t, "/root/secret", "very secret", 0o600)
		state := []string{"/var/lib/left4/overlays", "/var/lib/left4/game", "/var/lib/left4/instances", "/var/lib/left4/runtime/b/upper", "/etc/passwd", "/etc/shadow", "/root/secret", "/usr/libexec/left4"}
		before, pid, left4d := p.traceOf(state...), p.pid("b"), p.MainPID(t, "left4d.service")
		cases, wrongs := 0, 0
		wrong := func(format string, args ...any) {
			t.Helper()
			wrongs++
			t.Errorf(format, args...)
		}
		// Of what was refused nothing is left, neither files nor units.
		clean := func(after string) {
			t.Helper()
			cases++
			if now := p.traceOf(state...); now != before {
				wrong("%s leaves or changes\n%s", after, differences(before, now))
				before = now
			}
			if left := p.Run(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "left4-build-*", "left4-clone*"); left != "" {
				wrong("%s leaves units:\n%s", after, left)
			}
			if p.pid("b") != pid || p.MainPID(t, "left4d.service") != left4d {
				wrong("%s: another process", after)
			}
		}
		refused := func(what string, want string, args ...string) {
			t.Helper()
			r := p.Try(append([]string{"left4ctl"}, args...)...)
			if r.Code != 1 || !strings.Contains(r.Err, want) || strings.Contains(r.Err, "nternal") || len(r.Err) > 2000 || unsafe(r.Out+r.Err) {
				wrong("%s: %d %.3000q, want %q", what, r.Code, r.Out+r.Err, want)
			}
			clean(what)
		}

		// Directories.
		for what, c := range map[string]struct{ script, want string }{
			"a pipe": {`mkfifo 'd/pi
pe'`, `pi\npe: it is a pipe`},
			"a socket":                 {`python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("d/socket")'`, "socket: it is a socket"},
			"a device":                 {`mknod d/null c 1 3`, "null: it is a device"},
			"setuid":                   {`touch d/su; chmod 4755 d/su`, "a setuid file is not allowed"},
			"a sparse terabyte":        {`truncate -s 1T d/sparse`, `"sparse": it has more than 68719476736 bytes`},
			"a link out":               {`ln -s /etc d/etc`, "a link to an absolute name"},
			"a link out by its bytes":  {`ln -s "$(printf '../\033[2J')" d/out`, "a link out of the archive"},
			"a circle":                 {`ln -s b d/a; ln -s a d/b`, "to itself, is not allowed"},
			"more levels than a path":  {`python3 -c 'import os, sys; os.chdir("d"); [(os.mkdir("d"), os.chdir("d")) for _ in range(int(sys.argv[1]))]' ` + strconv.Itoa(max(depth, 2500)), "d/d/d"},
			"a file that nobody reads": {`ln -s /nonexistent d/dead`, "a link to an absolute name"},
		} {
			p.Run(t, "sh", "-ec", "rm -rf /root/w; mkdir -p /root/w/d/left4dead2; cd /root/w; cp /root/game/srcds_run d/; "+c.script)
			refused("a directory with "+what, c.want, "overlay", "import", "sm", "/root/w/d")
			refused("a game with "+what, c.want, "game", "import", "/root/w/d")
			refused("a directory to merge with "+what, c.want, "overlay", "import", "sm", "/root/w/d", "--merge")
		}

		// Archives: of a terabyte in 1 KiB; of more than the disk has, which is holes; and what their entries are called.
		brought := func(content []byte) string {
			t.Helper()
			name := filepath.Join(t.TempDir(), "x.tar")
			if err := os.WriteFile(name, content, 0o644); err != nil {
				t.Fatal(err)
			}
			p.CopyIn(t, name, "/root/x.tar")
			return "/root/x.tar"
		}
		for what, c := range map[string]struct{ script, want string }{
			"a sparse terabyte, GNU": {`truncate -s 1T d/s; tar -C d -cSf x.tar --format=gnu s`, `"s": it has more than 68719476736 bytes`},
			"a sparse terabyte, PAX": {`truncate -s 1T d/s; tar -C d -cSf x.tar --format=posix s`, `"s": it has more than 68719476736 bytes`},
			"many sparse files":      {`for n in 1 2 3 4 5; do truncate -s 63G d/$n; done; truncate -s 100 d/0; tar -C d -cSf x.tar 5 0`, ""},
			"hard links to a link":   {`ln -s x d/l; ln d/l d/m; tar -C d -cf x.tar l m`, `"m": a link to "l", which is a link, is not allowed`},
			"odd names":              {`mkfifo "d/$(printf '\033]52;c;aGk=\a\233\377')"; tar -C d -cf x.tar .`, `\x1b]52;c;aGk=\a\x9b\xff`},
		} {
			if c.want == "" && !full() {
				continue
			}
			p.Run(t, "sh", "-ec", "rm -rf /root/w; mkdir -p /root/w/d; cd /root/w; "+c.script)
			if c.want != "" {
				refused("an archive with "+what, c.want, "overlay", "import", "sm", "/root/w/x.tar")
				continue
			}
			p.ctl("overlay", "create", "holes")
			p.ctl("overlay", "import", "holes", "/root/w/x.tar")
			if used := p.Run(t, "du", "-s", "--block-size=1M", p.overlayDir("holes")); !strings.HasPrefix(used, "1\t") {
				wrong("%s take %s", what, used)
			}
			p.ctl("overlay", "delete", "holes")
			clean("an archive with " + what)
		}
		// It is taken; what it is full of takes no room.
		p.ctl("overlay", "create", "zeros")
		bomb := brought(zeros(t, 1<<29, 1))
		p.ctl("overlay", "import", "zeros", bomb)
		if used := p.Run(t, "du", "-s", "--block-size=1M", p.overlayDir("zeros")); !strings.HasPrefix(used, "1\t") {
			wrong("half a GiB of zeros takes %s", used)
		}
		p.ctl("overlay", "delete", "zeros")
		clean("half a GiB of zeros")

		// Streams that never end, or say nothing more.
		ends := p.jobsEnd()
		for what, begin := range map[string]func(w *os.File){
			"a stream that says nothing": func(*os.File) {},
			"a stream that stops": func(w *os.File) {
				w.Write(archive(map[string]string{"a": "1", "b": strings.Repeat("2", 10000)})[:3000])
			},
			"a stream without end": func(w *os.File) {
				w.Write(bytes.Repeat(archive(map[string]string{"a": strings.Repeat("2", 10000)})[:512+10240], 1000))
			},
			"a file without end":          func(w *os.File) { w.Write(append(endless(t), make([]byte, 8<<20)...)) },
			"an archive and no end of it": func(w *os.File) { w.Write(append(archive(map[string]string{"a": "1"}), make([]byte, 8<<20)...)) },
		} {
			im := p.importOverlay("sm", nil)
			begun := make(chan struct{})
			go func() {
				defer close(begun)
				begin(im.stream)
			}()
			<-begun
			p.waitStatus(im.job, "unpacking")
			unitName := strings.Fields(p.Run(t, "systemctl", "list-units", "--plain", "--no-legend", "left4-build-*"))[0]
			if kib := p.peak(unitName); kib > 64<<10 {
				wrong("%s: the worker has taken %d KiB", what, kib)
			}
			id := filepath.Base(string(im.job))
			p.ctl("job", "cancel", id)
			if got := ends.ended(t, im.job); got != "canceled" {
				wrong("%s is %s: %s", what, got, p.job(im.job, "Cause"))
			}
			im.stream.Close()
			clean(what)
		}
		late := p.importOverlay("sm", map[string]dbus.Variant{"timeout": dbus.MakeVariant(uint64(500_000))})
		if got := ends.ended(t, late.job); got != "timeout" {
			wrong("a stream past its deadline is %s: %s", got, p.job(late.job, "Cause"))
		}
		late.stream.Close()
		clean("a stream past its deadline")

		// Whoever can write to a directory that root imports must not have root's files imported.
		p.Run(t, "sh", "-ec", `cd /root; mkdir -p race/dir race/deep/dir away; echo own | tee race/dir/own race/file race/other race/deep/own
			ln -s /root away/link; ln -s / away/root; ln -s /root/secret away/secret; mkfifo away/fifo`)
		p.ctl("overlay", "create", "raced", "--keep=1")
		racer := p.Start(t, "python3", "-c", racing)
		taken := 0
		for range tries {
			r := p.Try("left4ctl", "overlay", "import", "raced", "/root/race")
			if r.Code == 0 {
				taken++
			} else if r.Code != 1 || strings.Contains(r.Err, "nternal") {
				wrong("a directory that changes meanwhile: %+v", r)
			}
			if found := p.Try("grep", "-rl", "very secret", p.overlayDir("raced")); found.Out != "" {
				wrong("what a link led to was imported: %s", found.Out)
			}
		}
		if taken == 0 || taken == tries {
			t.Logf("of %d races %d were taken: one side always won", tries, taken)
		}
		racer.Kill()
		p.ctl("overlay", "delete", "raced")
		clean("a directory that changes meanwhile")

		// What an editor leaves, and what is put.
		for what, c := range map[string]struct{ script, want string }{
			"a link":       {`rm "$1"; ln -s /root/secret "$1"`, "cannot edit left4dead2/kept.txt: "},
			"a pipe":       {`rm "$1"; mkfifo "$1"`, "cannot edit left4dead2/kept.txt: the editor left no file"},
			"a directory":  {`rm "$1"; mkdir "$1"`, "cannot edit left4dead2/kept.txt: the editor left no file"},
			"nothing":      {`rm "$1"`, "cannot edit left4dead2/kept.txt: "},
			"a socket":     {`rm "$1"; python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$1"`, "cannot edit left4dead2/kept.txt: "},
			"its own link": {`rm "$1"; ln -s "$1" "$1"`, "cannot edit left4dead2/kept.txt: "},
		} {
			p.WriteFile(t, "/root/editor", "#!/bin/sh -e\n"+c.script+"\n", 0o755)
			r := p.Try("env", "EDITOR=/root/editor", "left4ctl", "overlay", "edit", "sm", "left4dead2/kept.txt")
			if r.Code != 1 || !strings.Contains(r.Err, c.want) {
				wrong("an editor that leaves %s: %+v", what, r)
			}
			clean("an editor that leaves " + what)
		}
		p.Run(t, "truncate", "--size=1T", "/root/sparse")
		refused("a put of a terabyte", "it has more than 68719476736 bytes", "overlay", "put", "sm", "x", "/root/sparse")
		refused("a put of a directory", "it is a directory", "overlay", "put", "sm", "x", "/root")

		// What is inside a revision is reached by its own names only.
		p.ctl("overlay", "create", "links")
		p.Run(t, "sh", "-ec", `rm -rf /root/w; mkdir -p /root/w/left4dead2/dir; cd /root/w/left4dead2; echo x >dir/f; ln -s dir l; ln -s dir/f m; ln -s ../left4dead2/dir/../dir n; left4ctl overlay import links /root/w`)
		for _, path := range []string{"left4dead2/l", "left4dead2/m", "left4dead2/l/f", "left4dead2/n/f"} {
			if r := p.Try("left4ctl", "overlay", "get", "links", path); r.Code != 1 || r.Out != "" {
				wrong("get through a link: %s: %+v", path, r)
			}
		}
		for _, args := range [][]string{
			{"overlay", "put", "links", "left4dead2/l/new", "/etc/hostname"}, {"overlay", "rm", "links", "left4dead2/l/f"}, {"overlay", "mkdir", "links", "left4dead2/n/x"},
			{"overlay", "get", "links", "left4dead2/dir/../../../../etc/passwd"}, {"overlay", "ls", "links", "left4dead2/l"},
		} {
			if r := p.Try(append([]string{"left4ctl"}, args...)...); r.Code == 0 {
				wrong("%v: %+v", args, r)
			}
		}
		p.ctl("overlay", "delete", "links")
		clean("links in a revision")

		var jobs []struct{ State string }
		if err := json.Unmarshal([]byte(p.ctl("job", "list", "--json")), &jobs); err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			if j.State == "running" || j.State == "queued" {
				wrong("a job is %s", j.State)
			}
		}
		peak := p.peak("left4d.service")
		if peak > 64<<10 {
			wrong("left4d has taken %d KiB", peak)
		}
		p.ready(27015)
		for _, v := range violations(t, m, map[string]int{"b": pid}) {
			wrong("in the end %s", v)
		}
		report.Add(t, report.Row{
			Table: "abuse", Suite: m.Suite, Name: "hostile trees, archives and streams to import",
			Figures: []report.Figure{
				report.Count("cases", cases), report.Count("violations", wrongs), report.Count("races", tries), report.Count("of them taken", taken),
				report.Measure("peak of left4d", float64(peak)/1024, "MiB"),
			},
			Goal: "0 violations, left4d below 64 MiB", Met: wrongs == 0,
		})
	})
}

// endless is the beginning of an archive with a file of 60 GiB.
func endless(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "endless", Mode: 0o644, Size: 60 << 30, Format: tar.FormatGNU}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
