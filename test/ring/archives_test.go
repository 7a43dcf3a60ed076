package ring

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"left4.me/left4/test/report"
)

// packed is an entry of an archive that a test packs, whatever the format.
type packed struct {
	name, content string
	link          bool // to content
}

func tarred(w io.Writer, entries []packed) error {
	t := tar.NewWriter(w)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.content))}
		if e.link {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, e.content, 0
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if !e.link {
			if _, err := io.WriteString(t, e.content); err != nil {
				return err
			}
		}
	}
	return t.Close()
}

func zippedUp(w io.Writer, entries []packed) error {
	z := zip.NewWriter(w)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate, CreatorVersion: 3 << 8, ExternalAttrs: 0o100644 << 16}
		if e.link {
			h.ExternalAttrs = 0o120777 << 16
		}
		if e.content == "" {
			h.Method = zip.Store // a compressor for nothing takes a million times
		}
		out, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(out, e.content); err != nil {
			return err
		}
	}
	return z.Close()
}

// sevenZipped writes a 7z archive (LZMA SDK, DOC/7zFormat.txt) of one folder that is packed by Deflate, with as little in its header as
// there can be.
func sevenZipped(w io.Writer, entries []packed) error {
	var data, names, attributes, empty []byte
	var sizes []int
	number := func(b []byte, n int) []byte { return binary.LittleEndian.AppendUint64(append(b, 0xff), uint64(n)) }
	var deflated bytes.Buffer
	z, err := flate.NewWriter(&deflated, flate.BestSpeed)
	if err != nil {
		return err
	}
	unpacked := 0
	for n, e := range entries {
		for _, u := range utf16.Encode([]rune(e.name + "\x00")) {
			names = binary.LittleEndian.AppendUint16(names, u)
		}
		mode := uint32(0o100644)
		if e.link {
			mode = 0o120777
		}
		attributes = binary.LittleEndian.AppendUint32(attributes, mode<<16|0x8000)
		if n%8 == 0 {
			empty = append(empty, 0)
		}
		if e.content == "" {
			empty[n/8] |= 0x80 >> (n % 8)
			continue
		}
		sizes = append(sizes, len(e.content))
		unpacked += len(e.content)
		if _, err := io.WriteString(z, e.content); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	data = deflated.Bytes()
	header := []byte{1}
	if len(sizes) > 0 {
		header = append(header, 4, 6, 0, 1, 9)
		header = append(number(header, len(data)), 0)
		header = append(header, 7, 0x0b, 1, 0, 1, 3, 4, 1, 8, 0x0c)
		header = append(number(header, unpacked), 0)
		header = number(append(header, 8, 0x0d), len(sizes))
		header = append(header, 9)
		for _, size := range sizes[:len(sizes)-1] {
			header = number(header, size)
		}
		header = append(header, 0, 0)
	}
	header = number(append(header, 5), len(entries))
	header = append(number(append(header, 0x0e), len(empty)), empty...)
	header = append(number(append(header, 0x0f), len(empty)), bytes.Repeat([]byte{0xff}, len(empty))...) // files, not directories
	header = append(append(number(append(header, 0x11), len(names)+1), 0), names...)
	header = append(append(number(append(header, 0x15), len(attributes)+2), 1, 0), attributes...)
	header = append(header, 0, 0)
	next := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	next = binary.LittleEndian.AppendUint64(next, uint64(len(header)))
	next = binary.LittleEndian.AppendUint32(next, crc32.ChecksumIEEE(header))
	begin := binary.LittleEndian.AppendUint32([]byte("7z\xbc\xaf\x27\x1c\x00\x04"), crc32.ChecksumIEEE(next))
	for _, part := range [][]byte{begin, next, data, header} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// packers write an archive; the compressed ones are made of a tar file, by what the machine has.
var packers = map[string]func(io.Writer, []packed) error{"tar": tarred, "zip": zippedUp, "7z": sevenZipped}

var compressors = map[string]string{
	"tar.gz": "gzip -1", "tar.zst": "zstd -q -1",
	"tar.bz2": `python3 -c 'import bz2, shutil, sys; shutil.copyfileobj(sys.stdin.buffer, bz2.open(sys.stdout.buffer, "wb", 1))'`,
	"tar.xz":  `python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(sys.stdin.buffer, lzma.open(sys.stdout.buffer, "wb", preset=0))'`,
}

// bringArchives packs entries in all formats, and returns the files in the machine by their formats.
func (p play) bringArchives(entries ...packed) map[string]string {
	p.t.Helper()
	all := map[string]string{}
	for format, pack := range packers {
		var b bytes.Buffer
		if err := pack(&b, entries); err != nil {
			p.t.Fatalf("%v", err)
		}
		all[format] = "/root/x." + format
		p.bringFile(b.Bytes(), all[format])
	}
	for format, compress := range compressors {
		all[format] = "/root/x." + format
		p.Run(p.t, "sh", "-ec", compress+" </root/x.tar >"+all[format])
	}
	return all
}

func (p play) bringFile(content []byte, name string) {
	p.t.Helper()
	p.RunInput(p.t, bytes.NewReader(content), "sh", "-c", `cat >"$1"`, "sh", name)
}

// addon is a VPK file (Valve Developer Wiki, "VPK File Format") of version 1 with some files in it.
func addon(files map[string]string) []byte {
	var tree, data []byte
	for name, text := range files {
		dir, base := filepath.Split(name)
		ext := filepath.Ext(base)
		tree = append(tree, strings.TrimPrefix(ext, ".")+"\x00"+strings.TrimSuffix(dir, "/")+"\x00"+strings.TrimSuffix(base, ext)+"\x00"...)
		tree = binary.LittleEndian.AppendUint32(tree, crc32.ChecksumIEEE([]byte(text)))
		tree = append(tree, 0, 0, 0xff, 0x7f)
		tree = binary.LittleEndian.AppendUint32(tree, uint32(len(data)))
		tree = binary.LittleEndian.AppendUint32(tree, uint32(len(text)))
		tree = append(tree, 0xff, 0xff, 0, 0)
		data = append(data, text...)
	}
	tree = append(tree, 0)
	head := binary.LittleEndian.AppendUint32([]byte{0x34, 0x12, 0xaa, 0x55, 1, 0, 0, 0}, uint32(len(tree)))
	return append(append(head, tree...), data...)
}

// Whatever people pack their files as, the server that is started has them.
func TestAnArchiveOfEachFormatReachesTheServer(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		var overlays, files []string
		add := func(name, archive, file, text string) {
			t.Helper()
			p.ctl("overlay", "create", name)
			p.ctl("overlay", "import", name, archive)
			if got := p.ctl("overlay", "get", name, file); got != text {
				t.Errorf("%s: %s is %q", archive, file, got)
			}
			overlays, files = append(overlays, "--overlay="+name), append(files, file)
		}
		for format, archive := range p.bringArchives(packed{"left4dead2/shared.txt", "shared", false}) {
			add(strings.ReplaceAll(format, ".", "-"), archive, "left4dead2/shared.txt", "shared")
		}
		vpk := addon(map[string]string{"missions/a.txt": "a"})
		p.bringFile(vpk, "/root/Dead Line.vpk")
		add("vpk", "/root/Dead Line.vpk", "left4dead2/addons/Dead Line.vpk", string(vpk))
		var site bytes.Buffer
		if err := zippedUp(&site, []packed{{"deadline.vpk", string(vpk), false}, {"readme.txt", "read me", false}}); err != nil {
			t.Fatal(err)
		}
		p.bringFile(site.Bytes(), "/root/site.zip")
		add("site", "/root/site.zip", "left4dead2/addons/deadline.vpk", string(vpk))
		// Where it is told to be unpacked into counts more.
		p.ctl("overlay", "create", "into")
		p.ctl("overlay", "import", "into", "/root/site.zip", "--into=left4dead2")
		add("more", "/root/x.7z", "left4dead2/shared.txt", "shared")
		overlays, files = append(overlays, "--overlay=into"), append(files, "left4dead2/deadline.vpk")

		p.ctl(append([]string{"create", "a"}, overlays...)...)
		p.ctl("start", "a")
		p.ready(27015)
		for _, file := range files {
			if !p.exists("/var/lib/left4/runtime/a/merged/" + file) {
				t.Errorf("the server has no %s", file)
			}
		}
		if r := p.rcon("a", 27015, "path shared.txt"); !strings.Contains(r.Out, "shared") {
			t.Errorf("%+v", r)
		}
		// A game may come as any of them, too.
		p.Run(t, "sh", "-ec", `cd /root/game; python3 -c 'import shutil; shutil.make_archive("/root/second", "xztar")'`)
		p.ctl("game", "import", "/root/second.tar.xz")
		p.ctl("restart", "a")
		p.ready(27015)
	})
}

// Hostile archives are refused by name in each format, or bounded, and leave nothing anywhere.
func TestAbuseArchives(t *testing.T) {
	run := Once
	if full() {
		run = Each
	}
	run(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.install()
		p.layer("sm", map[string]string{"left4dead2/kept.txt": "kept"})
		state := []string{"/var/lib/left4/overlays", "/var/lib/left4/game", "/var/lib/left4/instances", "/etc/passwd", "/etc/shadow", "/usr/libexec/left4", "/tmp", "/var/tmp", "/etc/left4-hostile"}
		before, cases, wrongs := p.traceOf(state...), 0, 0
		wrong := func(format string, args ...any) {
			t.Helper()
			wrongs++
			t.Errorf(format, args...)
		}
		refused := func(what, archive, want string) {
			t.Helper()
			cases++
			r := p.Try("left4ctl", "overlay", "import", "sm", archive)
			if r.Code != 1 || !strings.Contains(r.Err, want) || len(r.Err) > 2000 || unsafe(r.Out+r.Err) {
				wrong("%s in %s: %d %.2000q, want %q", what, archive, r.Code, r.Out+r.Err, want)
			}
		}
		clean := func(after string) {
			t.Helper()
			if now := p.traceOf(state...); now != before {
				wrong("%s leaves or changes\n%s", after, differences(before, now))
				before = now
			}
			if left := p.Run(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "left4-build-*"); left != "" {
				wrong("%s leaves units:\n%s", after, left)
			}
		}
		for what, c := range map[string]struct {
			want    string
			entries []packed
		}{
			"a name above":       {`"../../../../../../etc/left4-hostile": ".." in a name is not allowed`, []packed{{"../../../../../../etc/left4-hostile", "x", false}}},
			"an absolute name":   {`"/etc/left4-hostile": an absolute name is not allowed`, []packed{{"/etc/left4-hostile", "x", false}}},
			"an absolute link":   {`"l": a link to an absolute name, "/etc", is not allowed`, []packed{{"l", "/etc", true}, {"l/left4-hostile", "x", false}}},
			"a link above":       {`"a/l": a link out of the archive, to "../../x", is not allowed`, []packed{{"a/l", "../../x", true}}},
			"a link by a link":   {`"a/l": a link out of the archive is not allowed`, []packed{{"a/up", "..", true}, {"a/l", "up/../x", true}}},
			"a way through one":  {`"l/left4-hostile": its path goes through a link`, []packed{{"l", ".", true}, {"l/left4-hostile", "x", false}}},
			"a file as the way":  {`"f/x": its path goes through a file`, []packed{{"f", "x", false}, {"f/x", "x", false}}},
			"a name of a screen": {`\x1b]52;c;aGk=\a`, []packed{{"../\x1b]52;c;aGk=\a\u202e", "x", false}}},
		} {
			for _, archive := range p.bringArchives(c.entries...) {
				refused(what, archive, c.want)
			}
			clean(what)
		}

		// Bombs: of zeros, of which a GiB and a half is some KiB, and of files that are not there.
		p.Run(t, "sh", "-ec", `cd /root; truncate -s 1536M zeros; tar -cf - zeros | tee x.tar >/dev/null; rm zeros`)
		const bomb = "the archive becomes more than 200 times as large as it is"
		for format, compress := range compressors {
			archive := "/root/bomb." + format
			p.Run(t, "sh", "-ec", compress+" </root/x.tar >"+archive)
			refused("a bomb", archive, bomb)
			p.Run(t, "rm", archive)
		}
		p.Run(t, "rm", "/root/x.tar")
		zeros := strings.Repeat("\x00", 64<<20)
		var entries []packed
		for n := range 24 {
			entries = append(entries, packed{fmt.Sprint("zeros", n), zeros, false})
		}
		for _, format := range []string{"zip", "7z"} {
			var b bytes.Buffer
			if err := packers[format](&b, entries); err != nil {
				t.Fatal(err)
			}
			p.bringFile(b.Bytes(), "/root/bomb."+format)
			refused("a bomb", "/root/bomb."+format, bomb)
		}
		clean("a bomb")

		// A million entries, in archives that are small themselves.
		entries = entries[:0]
		for n := range 1_000_000 {
			entries = append(entries, packed{name: fmt.Sprintf("%d/%d", n/1000, n)})
		}
		const many = "the archive holds more than 500000 entries"
		for _, format := range []string{"zip", "7z"} {
			var b bytes.Buffer
			if err := packers[format](&b, entries); err != nil {
				t.Fatal(err)
			}
			p.bringFile(b.Bytes(), "/root/many."+format)
			refused("a million entries", "/root/many."+format, many)
		}
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		if err := tarred(z, entries); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		p.bringFile(b.Bytes(), "/root/many.tar.gz")
		refused("a million entries", "/root/many.tar.gz", many)
		clean("a million entries")

		peak := p.peak("left4d.service")
		if peak > 64<<10 {
			t.Errorf("left4d has taken %d KiB", peak)
		}
		report.Add(t, report.Row{
			Table: "abuse", Suite: m.Suite, Name: "hostile archives of 7 formats: names, links, bombs, a million entries",
			Figures: []report.Figure{report.Count("cases", cases), report.Count("violations", wrongs), report.Measure("peak of left4d", float64(peak)/1024, "MiB")},
			Goal:    "0 violations, left4d below 64 MiB", Met: wrongs == 0 && peak <= 64<<10,
		})
	})
}
