package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/status"
)

// made is when all test entries were made.
var made = time.Date(2012, 3, 4, 5, 6, 7, 0, time.UTC)

func file(name, text string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text)), PAXRecords: map[string]string{"TEST.text": text}}
}

func entry(kind byte, name, target string) tar.Header {
	return tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o644}
}

func mode(h tar.Header, m int64) tar.Header { h.Mode = m; return h }

// archive makes a tar stream of entries; the text of a file comes with it as a record.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := h.PAXRecords["TEST.text"]
		h.PAXRecords = nil
		if h.ModTime.IsZero() {
			h.ModTime = made
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rawEntry is an entry that no proper writer makes.
func rawEntry(name string, kind byte, target string, size int64, data string) []byte {
	block := make([]byte, 512)
	copy(block, name)
	copy(block[100:], "0000644\x00")
	copy(block[108:], "0000000\x000000000\x00")
	copy(block[124:], fmt.Sprintf("%011o\x00", size))
	copy(block[136:], "00000000000\x00        ")
	block[156] = kind
	copy(block[157:], target)
	copy(block[257:], "ustar\x0000")
	sum := 0
	for _, c := range block {
		sum += int(c)
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(block, pad(data)...)
}

func pad(data string) []byte { return append([]byte(data), make([]byte, -len(data)&511)...) }

var trailer = make([]byte, 1024)

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstandard(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// unpack imports stream into a directory in, with a file outside beside it, and checks that nothing outside was touched.
func unpack(t testing.TB, im *importer, stream io.Reader) (in string, err error) {
	t.Helper()
	top := t.TempDir()
	in = top + "/in"
	if err := errors.Join(os.Mkdir(in, 0o755), os.Mkdir(top+"/outside", 0o755), os.WriteFile(top+"/outside/file", []byte("outside"), 0o644)); err != nil {
		t.Fatal(err)
	}
	dir, err := unix.Open(in, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	if im.note == nil {
		im.note = func(string) {}
	}
	err = im.unpack(dir, stream)
	if got := tree(t, top, func(path string) bool { return path == "in" }); got != "d755 in/\nd755 outside/\nf644 outside/file outside\n" {
		t.Errorf("outside:\n%s", got)
	}
	return in, err
}

// tree describes what a directory holds, a line for each.
func tree(t testing.TB, dir string, leaveOut func(path string) bool) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		switch d.Type() {
		case fs.ModeDir:
			fmt.Fprintf(&b, "d%o %s/\n", info.Mode().Perm(), name)
			if leaveOut(name) {
				return fs.SkipDir
			}
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			fmt.Fprintf(&b, "l %s -> %s\n", name, target)
			return err
		case 0:
			data, err := os.ReadFile(path)
			fmt.Fprintf(&b, "f%o %s %s\n", info.Mode()&^fs.ModeDir, name, data)
			return err
		default:
			fmt.Fprintf(&b, "%v %s\n", info.Mode(), name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func all(string) bool { return false }

func TestImport(t *testing.T) {
	long := strings.Repeat("long/", 300) + "name"
	for what, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"a game": {archive(t,
			entry(tar.TypeDir, "./", ""),
			mode(file("./srcds_run", "#!"), 0o755),
			entry(tar.TypeDir, "left4dead2/", ""),
			file("left4dead2/gameinfo.txt", "g"),
			entry(tar.TypeSymlink, "bin/link.so", "../left4dead2/gameinfo.txt"),
			entry(tar.TypeLink, "hard", "./left4dead2/gameinfo.txt"),
		), "d755 bin/\nl bin/link.so -> ../left4dead2/gameinfo.txt\nf644 hard g\nd755 left4dead2/\nf644 left4dead2/gameinfo.txt g\nf755 srcds_run #!\n"},
		"modes": {archive(t,
			mode(file("a", ""), 0), mode(file("b", ""), 0o777), mode(file("c", ""), 0o100), mode(file("d", ""), 0o666),
			mode(entry(tar.TypeDir, "e", ""), 0o7000), mode(entry(tar.TypeDir, "f", ""), 0o1777),
		), "f644 a \nf755 b \nf744 c \nf644 d \nd755 e/\nd755 f/\n"},
		"directories are made and may come late": {archive(t,
			file("a/b/c", "1"), entry(tar.TypeDir, "a/b", ""), entry(tar.TypeDir, "a/b", ""), file("a/b/d", "2"), file("e", "3"),
		), "d755 a/\nd755 a/b/\nf644 a/b/c 1\nf644 a/b/d 2\nf644 e 3\n"},
		"the last one of a name stays": {archive(t,
			file("a", "first and longer"), entry(tar.TypeLink, "b", "a"), file("a", "last"),
			entry(tar.TypeSymlink, "l", "a"), entry(tar.TypeSymlink, "l", "b"), entry(tar.TypeLink, "b", "b"), entry(tar.TypeLink, "c", "b"), entry(tar.TypeLink, "c", "a"),
		), "f644 a last\nf644 b first and longer\nf644 c last\nl l -> b\n"},
		"names": {archive(t,
			file("new\nline", "1"), file("a//b/./c", "2"), file("-rf *", "3"), file(strings.Repeat("n", 255), "4"), file("\xff", "5"), file("...", "6"), file("a..b", "7"),
		), "f644 -rf * 3\nf644 ... 6\nd755 a/\nd755 a/b/\nf644 a/b/c 2\nf644 a..b 7\nf644 new\nline 1\nf644 " + strings.Repeat("n", 255) + " 4\nf644 \xff 5\n"},
		"links that stay inside": {archive(t,
			entry(tar.TypeSymlink, "up", "."), entry(tar.TypeSymlink, "a/b/l", "../../x"), entry(tar.TypeSymlink, "dead", "no/where"), file("x", "x"),
			entry(tar.TypeSymlink, "dir", "a/b"), entry(tar.TypeSymlink, "via", "dir/../b/l"),
		), "d755 a/\nd755 a/b/\nl a/b/l -> ../../x\nl dead -> no/where\nl dir -> a/b\nl up -> .\nl via -> dir/../b/l\nf644 x x\n"},
		"git's attributes":    {join(rawEntry("pax_global_header", 'g', "", 22, "22 comment=0123456789\n"), archive(t, file("a", "1"))), "f644 a 1\n"},
		"more behind its end": {join(archive(t, file("a", "1")), []byte("garbage"), bytes.Repeat([]byte{7}, 5000)), "f644 a 1\n"},
	} {
		for how, data := range map[string][]byte{
			"plain": c.archive, "gzip": gzipped(t, c.archive), "zstd": zstandard(t, c.archive),
			"two gzips":            join(gzipped(t, c.archive[:700]), gzipped(t, c.archive[700:])),
			"gzip and garbage":     append(gzipped(t, c.archive), 0, 0, 0),
			"gzip and more of it":  join(gzipped(t, c.archive), bytes.Repeat([]byte("garbage"), 100)),
			"two zstds":            join(zstandard(t, c.archive[:700]), zstandard(t, c.archive[700:])),
			"skippable and a zstd": join([]byte{0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9}, zstandard(t, c.archive)),
		} {
			t.Run(what+", "+how, func(t *testing.T) {
				im := &importer{size: int64(len(data))}
				in, err := unpack(t, im, bytes.NewReader(data))
				if err != nil {
					t.Fatal(err)
				}
				if got := tree(t, in, all); got != c.want {
					t.Errorf("got\n%swant\n%s", got, c.want)
				}
				if im.in.read != int64(len(data)) && how != "gzip and more of it" {
					t.Errorf("%d of %d bytes were read", im.in.read, len(data))
				}
			})
		}
	}

	in, err := unpack(t, &importer{}, bytes.NewReader(archive(t, file(long, "x"))))
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(in + "/" + long); string(data) != "x" {
		t.Errorf("a long name holds %q, %v", data, err)
	}
}

func TestTimes(t *testing.T) {
	before := time.Now().Add(-time.Second)
	future, old := file("future", ""), file("old", "")
	future.ModTime, old.ModTime = time.Now().AddDate(30, 0, 0), time.Unix(-1000, 0)
	future.Format, old.Format = tar.FormatPAX, tar.FormatPAX
	in, err := unpack(t, &importer{}, bytes.NewReader(archive(t, file("kept", "x"), future, old)))
	if err != nil {
		t.Fatal(err)
	}
	for name, right := range map[string]func(time.Time) bool{
		"kept":   made.Equal,
		"future": func(m time.Time) bool { return m.After(before) && m.Before(time.Now().Add(time.Second)) },
		"old":    before.Before,
	} {
		if info, err := os.Stat(in + "/" + name); err != nil || !right(info.ModTime()) {
			t.Errorf("%s has time %v, %v", name, info.ModTime(), err)
		}
	}
}

func TestRefused(t *testing.T) {
	name256, path := strings.Repeat("n", 256), strings.Repeat("p/", 2050)+"p"
	var circle []tar.Header
	for i := range 45 {
		circle = append(circle, entry(tar.TypeSymlink, fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i+1)))
	}
	for what, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"character device": {archive(t, entry(tar.TypeChar, "dev/null", "")), `"dev/null": a device is not allowed`},
		"whiteout":         {archive(t, file("a", "1"), entry(tar.TypeChar, "b\n", "")), `"b\n": a device is not allowed`},
		"block device":     {archive(t, entry(tar.TypeBlock, "sda", "")), `"sda": a device is not allowed`},
		"fifo":             {archive(t, entry(tar.TypeFifo, "x\x1b[2J", "")), `"x\x1b[2J": a FIFO is not allowed`},
		"unknown type":     {join(rawEntry("vol", 'V', "", 0, ""), trailer), `"vol": an entry of type 'V' is not known`},
		"contiguous":       {join(rawEntry("cont", '7', "", 0, ""), trailer), `"cont": an entry of type '7' is not known`},
		"setuid":           {archive(t, mode(file("su", ""), 0o4755)), `"su": a setuid file is not allowed`},
		"setgid":           {archive(t, mode(file("sg", ""), 0o2755)), `"sg": a setgid file is not allowed`},
		"sticky":           {archive(t, mode(file("st", ""), 0o1755)), `"st": a sticky file is not allowed`},
		"setuid hard link": {archive(t, file("a", ""), mode(entry(tar.TypeLink, "su", "a"), 0o4755)), `"su": a setuid file is not allowed`},

		"up":             {archive(t, file("../outside/file", "x")), `"../outside/file": ".." in a name is not allowed`},
		"up in between":  {archive(t, file("a/../../outside/file", "x")), `"a/../../outside/file": ".." in a name is not allowed`},
		"up and down":    {archive(t, file("a/../b", "x")), `"a/../b": ".." in a name is not allowed`},
		"absolute":       {archive(t, file("/etc/passwd", "x")), `"/etc/passwd": an absolute name is not allowed`},
		"absolute dir":   {archive(t, entry(tar.TypeDir, "/", "")), `"/": an absolute name is not allowed`},
		"no name":        {join(rawEntry("", '0', "", 0, ""), trailer), `"": an empty name is not allowed`},
		"long part":      {archive(t, file(name256, "x")), `"` + name256 + `": a part of the name has more than 255 bytes`},
		"long path":      {archive(t, file(path, "x")), `"` + path[:300] + `…": the name has more than 4095 bytes`},
		"top is a file":  {archive(t, file(".", "x")), `".": the top of the archive must be a directory`},
		"top is a link":  {archive(t, entry(tar.TypeSymlink, ".", "x")), `".": the top of the archive must be a directory`},
		"large":          {join(rawEntry("big", '0', "", 1<<32, ""), trailer), `"big": it has more than 1048576 bytes`},
		"link to itself": {archive(t, entry(tar.TypeSymlink, "l", "l")), `"l": a link that leads through more than 40 others, or to itself, is not allowed`},
		"many links":     {archive(t, circle...), `"l0": a link that leads through more than 40 others, or to itself, is not allowed`},

		"absolute link":           {archive(t, entry(tar.TypeSymlink, "l", "/etc/passwd")), `"l": a link to an absolute name, "/etc/passwd", is not allowed`},
		"link out":                {archive(t, entry(tar.TypeSymlink, "l", "../outside")), `"l": a link out of the archive, to "../outside", is not allowed`},
		"link out from below":     {archive(t, entry(tar.TypeSymlink, "a/b/l", "../../../outside")), `"a/b/l": a link out of the archive, to "../../../outside", is not allowed`},
		"link out by its letters": {archive(t, entry(tar.TypeSymlink, "d", "a/b"), entry(tar.TypeSymlink, "l", "d/../../x")), `"l": a link out of the archive, to "d/../../x", is not allowed`},
		"link out and back":       {archive(t, entry(tar.TypeSymlink, "l", "../in/x")), `"l": a link out of the archive, to "../in/x", is not allowed`},
		"link to the parent":      {archive(t, entry(tar.TypeSymlink, "l", "a/../..")), `"l": a link out of the archive, to "a/../..", is not allowed`},
		"link with no target":     {join(rawEntry("l", '2', "", 0, ""), trailer), `"l": a link without a proper target is not allowed`},
		"link out through link":   {archive(t, entry(tar.TypeSymlink, "a/b/up", "../.."), entry(tar.TypeSymlink, "a/b/l", "up/../outside/file")), `"a/b/l": a link out of the archive is not allowed`},
		"link out through a later link": {archive(t, entry(tar.TypeSymlink, "a/b/l", "up/../outside/file"), entry(tar.TypeSymlink, "a/b/up", "../..")),
			`"a/b/l": a link out of the archive is not allowed`},
		"dead link out through link": {archive(t, entry(tar.TypeSymlink, "a/b/up", "../.."), entry(tar.TypeSymlink, "a/b/l", "up/no/../../where")), `"a/b/l": a link out of the archive is not allowed`},

		"file through a link":      {archive(t, entry(tar.TypeSymlink, "d", "."), file("d/f", "x")), `"d/f": its path goes through a link`},
		"file through a dead link": {archive(t, entry(tar.TypeSymlink, "d", "e"), file("d/f", "x")), `"d/f": its path goes through a link`},
		"directory through a link": {archive(t, entry(tar.TypeSymlink, "d", "."), entry(tar.TypeDir, "d/e", "")), `"d/e": its path goes through a link`},
		"link through a link":      {archive(t, entry(tar.TypeSymlink, "d", "."), entry(tar.TypeSymlink, "d/e", "x")), `"d/e": its path goes through a link`},
		"file through a file":      {archive(t, file("d", ""), file("d/f", "x")), `"d/f": its path goes through a file`},

		"directory becomes a file": {archive(t, entry(tar.TypeDir, "d", ""), file("d", "x")), `"d": the archive has it as a directory before`},
		"directory becomes a link": {archive(t, file("d/f", ""), entry(tar.TypeSymlink, "d", "e")), `"d": the archive has it as a directory before`},
		"file becomes a directory": {archive(t, file("d", "x"), entry(tar.TypeDir, "d", "")), `"d": the archive has it as a file before`},
		"file becomes a link":      {archive(t, file("d", "x"), entry(tar.TypeSymlink, "d", "e")), `"d": the archive has it as a file before`},
		"link becomes a file":      {archive(t, entry(tar.TypeSymlink, "d", "e"), file("d", "x")), `"d": the archive has it as a link before`},
		"link becomes a directory": {archive(t, entry(tar.TypeSymlink, "d", "e"), entry(tar.TypeDir, "d", "")), `"d": the archive has it as a link before`},
		"link becomes hard":        {archive(t, file("a", ""), entry(tar.TypeSymlink, "d", "e"), entry(tar.TypeLink, "d", "a")), `"d": the archive has it as a link before`},

		"hard link out":            {archive(t, entry(tar.TypeLink, "h", "../outside/file")), `"h": a link to "../outside/file": ".." in a name is not allowed`},
		"absolute hard link":       {archive(t, entry(tar.TypeLink, "h", "/etc/passwd")), `"h": a link to "/etc/passwd": an absolute name is not allowed`},
		"hard link to what comes":  {archive(t, entry(tar.TypeLink, "h", "a"), file("a", "")), `"h": a link to "a", which is not in the archive before it, is not allowed`},
		"hard link below nothing":  {archive(t, entry(tar.TypeLink, "h", "no/a")), `"h": a link to "no/a", which is not in the archive before it, is not allowed`},
		"hard link below a file":   {archive(t, file("a", ""), entry(tar.TypeLink, "h", "a/b")), `"h": a link to "a/b", which is not in the archive before it, is not allowed`},
		"hard link to itself":      {archive(t, entry(tar.TypeLink, "h", "h")), `"h": a link to "h", which is not in the archive before it, is not allowed`},
		"hard link to a link":      {archive(t, entry(tar.TypeSymlink, "l", "x"), entry(tar.TypeLink, "h", "l")), `"h": a link to "l", which is a link, is not allowed`},
		"hard link to a directory": {archive(t, entry(tar.TypeDir, "d", ""), entry(tar.TypeLink, "h", "d")), `"h": a link to "d", which is a directory, is not allowed`},
		"hard link through a link": {archive(t, file("d/f", ""), entry(tar.TypeSymlink, "l", "d"), entry(tar.TypeLink, "h", "l/f")), `"h": a link to "l/f", whose path goes through a link, is not allowed`},
		"hard link to the top":     {archive(t, entry(tar.TypeLink, "h", ".")), `"h": a link to ".", which is not in the archive before it, is not allowed`},
		"hard link as the top":     {archive(t, file("a", ""), entry(tar.TypeLink, "./", "a")), `"./": the top of the archive must be a directory`},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := unpack(t, &importer{max: 1 << 20}, bytes.NewReader(c.archive))
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestBrokenStreams(t *testing.T) {
	twelve := make([]tar.Header, 13)
	for i := range twelve {
		twelve[i] = file(fmt.Sprintf("f%02d", i), strings.Repeat("text", 300))
	}
	data := archive(t, twelve...)
	end := len(data) - 1024 // where the trailer begins
	entryLen := end / 13
	damaged := bytes.Clone(data)
	damaged[12*entryLen+150]++ // a checksum
	gz, zs := gzipped(t, data), zstandard(t, data)
	flipped := func(b []byte, at int) []byte { b = bytes.Clone(b); b[at] ^= 0x55; return b }
	const cut, empty = "the stream is cut off after 12 files", "the archive is empty"
	const noTar = "the stream is no archive that left4 can read: neither tar, plain or compressed by gzip, zstd, xz or bzip2, nor zip, 7z or VPK"
	for what, c := range map[string]struct {
		stream []byte
		want   string // a prefix, if it ends in "…"
	}{
		"nothing":                {nil, "the stream is empty"},
		"one byte":               {[]byte("x"), noTar},
		"text":                   {[]byte(strings.Repeat("no tar at all\n", 1000)), noTar},
		"an ELF":                 {[]byte("\x7fELF" + strings.Repeat("x", 2000)), noTar},
		"compressed text":        {gzipped(t, []byte("no tar")), noTar},
		"more compressed text":   {zstandard(t, []byte(strings.Repeat("no tar at all\n", 1000))), noTar},
		"compressed nothing":     {gzipped(t, nil), empty},
		"only zeros":             {make([]byte, 10240), empty},
		"in a header":            {data[:12*entryLen+100], cut},
		"after a header":         {data[:12*entryLen+512], cut},
		"in a file":              {data[:12*entryLen+800], cut},
		"in a file's padding":    {data[:13*entryLen-1], "the stream is cut off after 13 files"},
		"between two entries":    {data[:12*entryLen], cut},
		"before the end":         {data[:end], "the stream is cut off after 13 files"},
		"in the end":             {data[:end+512], "the stream is cut off after 13 files"},
		"in the end's 2nd block": {data[:end+1000], "the stream is cut off after 13 files"},
		"damaged":                {damaged, "the stream is damaged after 12 files: …"},
		"gzip's head only":       {gz[:5], "the stream is cut off after 0 files"},
		"gzip cut":               {gz[:len(gz)-20], "the stream is cut off after …"},
		"gzip without checksum":  {gz[:len(gz)-3], "the stream is cut off after 13 files"},
		"gzip's checksum wrong":  {flipped(gz, len(gz)-6), "the stream is damaged after 13 files: …"},
		"gzip damaged":           {flipped(gz, len(gz)/2), "the stream is …"},
		"zstd's head only":       {zs[:5], "the stream is cut off after 0 files"},
		"zstd cut":               {zs[:len(zs)-20], "the stream is cut off after …"},
		"zstd without checksum":  {zs[:len(zs)-3], "the stream is cut off after …"},
		"zstd's checksum wrong":  {flipped(zs, len(zs)-2), "the stream is damaged after …"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := unpack(t, &importer{}, bytes.NewReader(c.stream))
			want, open := strings.CutSuffix(c.want, "…")
			if err == nil || !(err.Error() == want || open && strings.HasPrefix(err.Error(), want)) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}

	_, err := unpack(t, &importer{}, io.MultiReader(bytes.NewReader(data[:5000]), broken{}))
	if err == nil || err.Error() != "cannot read the stream: input/output error" {
		t.Errorf("a read error: %v", err)
	}
	var far bytes.Buffer
	w, err := zstd.NewWriter(&far, zstd.WithWindowSize(256<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Flush(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(t, &importer{}, &far); err == nil || !strings.Contains(err.Error(), "compress it again without zstd's --long") {
		t.Errorf("a large window: %v", err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, unix.EIO }

// A cut at any byte of an archive is an error, and one that says so.
func TestCutAnywhere(t *testing.T) {
	data := archive(t, file("a", "1"), entry(tar.TypeDir, "d", ""), entry(tar.TypeSymlink, "d/l", "../a"), file("d/"+strings.Repeat("n", 150), "2"))
	for _, n := range []int{1, 100, 511} {
		for at := n; at < len(data); at += 512 {
			_, err := unpack(t, &importer{}, bytes.NewReader(data[:at]))
			if err == nil || !strings.HasPrefix(err.Error(), "the stream is ") {
				t.Errorf("cut at %d: %v", at, err)
			}
		}
	}
	if _, err := unpack(t, &importer{}, bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
}

func TestGame(t *testing.T) {
	for what, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"is one":           {archive(t, mode(file("srcds_run", "#!"), 0o755)), ""},
		"is none":          {archive(t, file("x", "")), "the archive holds no srcds_run at its top"},
		"is one level up":  {archive(t, mode(file("game/srcds_run", "#!"), 0o755)), "the archive holds no srcds_run at its top"},
		"is a link":        {archive(t, mode(file("x", "#!"), 0o755), entry(tar.TypeSymlink, "srcds_run", "x")), "the archive holds no srcds_run at its top"},
		"is a directory":   {archive(t, entry(tar.TypeDir, "srcds_run", "")), "the archive holds no srcds_run at its top"},
		"is no executable": {archive(t, file("srcds_run", "#!")), "srcds_run at the top of the archive is not executable"},
	} {
		_, err := unpack(t, &importer{game: true}, bytes.NewReader(c.archive))
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%s: got %v, want %s", what, err, c.want)
		}
	}
}

// A file with holes takes the room of what it holds, in an archive that knows of holes and in one that does not.
func TestHoles(t *testing.T) {
	const size = 512 << 20
	data := strings.Repeat("data", 1024)
	sparseMap := fmt.Sprintf("2\n%d\n%d\n%d\n0\n", 100<<20, len(data), size)
	records := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=sparse", fmt.Sprintf("GNU.sparse.realsize=%d", size)} {
		n := len(r) + 4
		records += fmt.Sprintf("%d %s\n", n, r)
	}
	stored := string(pad(sparseMap)) + data
	sparse := join(rawEntry("x", 'x', "", int64(len(records)), records), rawEntry("GNUSparseFile.0/sparse", '0', "", int64(len(stored)), stored), trailer)
	zeros := io.MultiReader(
		bytes.NewReader(rawEntry("sparse", '0', "", size, "")),
		io.LimitReader(zeroReader{}, 100<<20), strings.NewReader(data), io.LimitReader(zeroReader{}, size-100<<20-int64(len(data))),
		bytes.NewReader(trailer))
	for what, stream := range map[string]io.Reader{"sparse": bytes.NewReader(sparse), "full of zeros": zeros} {
		im := &importer{}
		in, err := unpack(t, im, stream)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		f, err := os.Open(in + "/sparse")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(data))
		if _, err := f.ReadAt(got, 100<<20); err != nil {
			t.Fatal(err)
		}
		if room := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != size || im.bytes != size || room > 1<<20 || string(got) != data {
			t.Errorf("%s: %d bytes in %d, right: %v", what, info.Size(), room, string(got) == data)
		}
	}
}

// pax is an entry with these records before it, as they stand in the stream: "name=value".
func pax(e []byte, records ...string) []byte {
	text := ""
	for _, r := range records {
		// The length counts its own digits.
		n := len(r) + 3
		for len(strconv.Itoa(n))+len(r)+2 != n {
			n++
		}
		text += fmt.Sprintf("%d %s\n", n, r)
	}
	return append(rawEntry("PaxHeaders/x", 'x', "", int64(len(text)), text), e...)
}

// What is said of an entry beside it cannot make it larger, older, mightier or another's than what it could be by itself.
func TestHostileRecords(t *testing.T) {
	const tera = "1099511627776"
	stored := string(pad("1\n0\n1\n")) + "x"
	many := string(pad("1000000000\n" + strings.Repeat("0\n1\n", 1000)))
	sparse := []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=s"}
	whole := func(parts ...[]byte) []byte { return join(append(parts, trailer)...) }
	// The old sparse format (GNU tar, "struct oldgnu_header"): one piece, and the length of all.
	gnu := rawEntry("s", 'S', "", 1, "x")
	copy(gnu[257:], "ustar  \x00")
	copy(gnu[386:], "00000000000\x0000000000001\x00")
	copy(gnu[483:], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00") // 1 TiB in base 256
	copy(gnu[148:], "        ")
	sum := 0
	for _, c := range gnu[:512] {
		sum += int(c)
	}
	copy(gnu[148:], fmt.Sprintf("%06o\x00 ", sum))
	for what, c := range map[string]struct {
		archive []byte
		want    string // of the error; "" = it is imported
	}{
		"sparse of 1 TiB, format 1.0": {whole(pax(rawEntry("s", '0', "", int64(len(stored)), stored), append(sparse, "GNU.sparse.realsize="+tera)...)), `"s": it has more than`},
		"sparse of 1 TiB, format 0.1": {whole(pax(rawEntry("s", '0', "", 1, "x"), "GNU.sparse.size="+tera, "GNU.sparse.numblocks=1", "GNU.sparse.map=0,1")), `"s": it has more than`},
		"sparse of 1 TiB, old format": {whole(gnu), `"s": it has more than`},
		"sparse of many pieces":       {whole(pax(rawEntry("s", '0', "", int64(len(many)), many), append(sparse, "GNU.sparse.realsize=1000")...)), "the stream is "},
		"sparse of a negative length": {whole(pax(rawEntry("s", '0', "", int64(len(stored)), stored), append(sparse, "GNU.sparse.realsize=-1")...)), "the stream is "},
		"negative size":               {whole(pax(rawEntry("f", '0', "", 0, ""), "size=-1")), "the stream is "},
		"largest size":                {whole(pax(rawEntry("f", '0', "", 0, ""), "size=9223372036854775807")), `"f": it has more than`},
		"size of 1 TiB":               {whole(pax(rawEntry("f", '0', "", 0, ""), "size="+tera)), `"f": it has more than`},
		"name out":                    {whole(pax(rawEntry("f", '0', "", 0, ""), "path=../../etc/x")), `"../../etc/x": ".." in a name is not allowed`},
		"absolute name":               {whole(pax(rawEntry("f", '0', "", 0, ""), "path=/etc/x")), `"/etc/x": an absolute name is not allowed`},
		"NUL in a name":               {whole(pax(rawEntry("f", '0', "", 0, ""), "path=a\x00b")), "the stream is "},
		"link out":                    {whole(pax(rawEntry("l", '2', "x", 0, ""), "linkpath=/etc/shadow")), `"l": a link to an absolute name, "/etc/shadow", is not allowed`},
		"endless name":                {whole(rawEntry("x", 'L', "", 1<<30, "")), "the stream is "},
		"endless records":             {whole(rawEntry("x", 'x', "", 1<<30, "")), "the stream is "},
		"records without an entry":    {whole(pax(nil, "path=x")), "the archive is empty"},
		"for all that follow":         {whole(rawEntry("g", 'g', "", 13, "13 path=/etc\n"), rawEntry("f", '0', "", 0, "")), ""},
		"attributes of overlayfs":     {whole(pax(rawEntry("d/", '5', "", 0, ""), "SCHILY.xattr.trusted.overlay.opaque=y", "SCHILY.xattr.user.overlay.opaque=y", "LIBARCHIVE.xattr.user.overlay.whiteout=eQ==")), ""},
		"capabilities":                {whole(pax(rawEntry("f", '0', "", 0, ""), "SCHILY.xattr.security.capability=\x01\x00\x00\x02\xff\xff\xff\xff")), ""},
		"owner, and access lists":     {whole(pax(rawEntry("f", '0', "", 0, ""), "uid=0", "gid=0", "uname=root", "SCHILY.acl.access=user::rwx,other::rwx", "RHT.security.selinux=x")), ""},
		"times":                       {whole(pax(rawEntry("f", '0', "", 0, ""), "mtime=99999999999999999999.9", "atime=-1e9")), "the stream is "},
		"negative time":               {whole(pax(rawEntry("f", '0', "", 0, ""), "mtime=-62135596800.5")), ""},
		"far time":                    {whole(pax(rawEntry("f", '0', "", 0, ""), "mtime=9223372036854775807")), ""},
	} {
		t.Run(what, func(t *testing.T) {
			in, err := unpack(t, &importer{max: 1 << 20}, bytes.NewReader(c.archive))
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
				t.Fatalf("got  %v\nwant %s", err, c.want)
			case c.want != "":
				return
			}
			names, err := filepath.Glob(in + "/*")
			if err != nil || len(names) != 1 {
				t.Fatalf("there is %q, %v", names, err)
			}
			if n, err := unix.Listxattr(names[0], nil); n != 0 || err != nil {
				t.Errorf("%d bytes of attributes, %v", n, err)
			}
			info, err := os.Stat(names[0])
			if err != nil || info.Mode()&^fs.ModeDir&0o7777 != 0o755 && info.Mode() != 0o644 || info.ModTime().After(time.Now().Add(time.Second)) {
				t.Errorf("%v of %v, %v", info.Mode(), info.ModTime(), err)
			}
		})
	}
}

// However small a stream is, what it makes is bounded, and so is what follows its end.
func TestBounds(t *testing.T) {
	two := archive(t, file("a", "12345"), file("b", "678901"))
	if _, err := unpack(t, &importer{all: 10}, bytes.NewReader(two)); err == nil || err.Error() != `"b": with it the archive holds more than 10 bytes` {
		t.Error(err)
	}
	if _, err := unpack(t, &importer{all: 11}, bytes.NewReader(two)); err != nil {
		t.Error(err)
	}
	if _, err := unpack(t, &importer{}, io.MultiReader(bytes.NewReader(two), io.LimitReader(zeroReader{}, maxTail-1024))); err != nil {
		t.Error(err)
	}
	if _, err := unpack(t, &importer{}, io.MultiReader(bytes.NewReader(two), zeroReader{})); err == nil || err.Error() != "the stream goes on for more than 64 MiB behind the end of the archive" {
		t.Error(err)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestDirectoryMustBeEmpty(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/mine", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := (&importer{}).unpack(fd, bytes.NewReader(archive(t, file("a", "")))); err == nil || tree(t, dir, all) != "f644 mine \n" {
		t.Errorf("got %v, and %s", err, tree(t, dir, all))
	}
}

func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	const key = "LEFT4_TEST_NAMESPACE"
	if os.Getenv(key) == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestDiskFull$")
		cmd.Env = append(os.Environ(), key+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	for what, c := range map[string]struct {
		options string
		archive []byte
		want    string
	}{
		"no room":      {"size=1m", archive(t, file("a", "1"), file("b", strings.Repeat("x", 2<<20))), "disk full after 1 files, "},
		"the reserve":  {"size=64m", archive(t, file("a", strings.Repeat("x", 70<<20))), "disk full after 0 files, "},
		"no inodes":    {"nr_inodes=5", archive(t, file("a", ""), file("b", ""), file("c", ""), file("d", "")), "disk full after 3 files, 0 bytes"},
		"no directory": {"nr_inodes=4", archive(t, file("a/b/c/d", "")), "disk full after 0 files, 0 bytes"},
	} {
		dir := t.TempDir()
		if err := unix.Mount("none", dir, "tmpfs", 0, c.options); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = (&importer{note: func(string) {}}).unpack(fd, bytes.NewReader(c.archive))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", what, err, c.want)
		}
		// Others write there, too.
		var fs unix.Statfs_t
		if err := unix.Fstatfs(fd, &fs); err != nil || what == "the reserve" && fs.Bavail < fs.Blocks/(2*reservePart) {
			t.Errorf("%s: %d of %d blocks are left, %v", what, fs.Bavail, fs.Blocks, err)
		}
		if err := errors.Join(unix.Close(fd), unix.Unmount(dir, 0)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProgress(t *testing.T) {
	var told []status.Report
	data := archive(t, file("a", "1234"), file("b", "5"))
	im := &importer{size: int64(len(data)), note: func(text string) { told = append(told, status.ParseStatus(text)) }}
	if _, err := unpack(t, im, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if len(told) == 0 || told[0].Progress <= 0 || told[0].Progress > 1 || !strings.HasSuffix(told[0].Detail, " bytes") {
		t.Errorf("told %+v", told)
	}
	told = nil
	im = &importer{size: -1, note: im.note}
	if _, err := unpack(t, im, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if len(told) == 0 || told[0].Progress != -1 {
		t.Errorf("without a size told %+v", told)
	}
}

// The whole program: arguments, environment, directory, words to the service manager, exit status.
func TestRun(t *testing.T) {
	const usage = "usage: left4-worker import < ARCHIVE\n       left4-worker install < ORDER.json\n       left4-worker maps < ORDER.json\n       left4-worker script < ORDER.json\n       left4-worker workshop < ORDER.json\n"
	game := archive(t, mode(file("srcds_run", "#!"), 0o755))
	for what, c := range map[string]struct {
		args   []string
		env    map[string]string
		stdin  []byte
		code   int
		stderr string
		told   string // the last that was told
	}{
		"a game":        {[]string{"import"}, map[string]string{"LEFT4_KIND": "game", "LEFT4_SIZE": "2560"}, game, 0, "imported 1 files, 2 bytes\n", "done 1 2"},
		"no game":       {[]string{"import"}, map[string]string{"LEFT4_KIND": "game"}, archive(t, file("a", "x")), 1, "left4-worker: cannot import: the archive holds no srcds_run at its top\n", "error the archive holds no srcds_run at its top"},
		"not a game":    {[]string{"import"}, nil, archive(t, file("a", "x")), 0, "imported 1 files, 1 bytes\n", "done 1 1"},
		"into":          {[]string{"import"}, map[string]string{"LEFT4_INTO": "a/b"}, archive(t, file("c", "x")), 0, "imported 1 files, 1 bytes\n", "done 1 1"},
		"into another":  {[]string{"import"}, map[string]string{"LEFT4_INTO": "../a"}, archive(t, file("c", "x")), 1, "left4-worker: cannot import: \"..\": not a file name (invalid argument)\n", "error \"..\": not a file name (invalid argument)"},
		"refused":       {[]string{"import"}, nil, archive(t, file("../a\n", "x")), 1, `left4-worker: cannot import: "../a\n": ".." in a name is not allowed` + "\n", `error "../a%5cn": ".." in a name is not allowed`},
		"no verb":       {nil, nil, nil, 2, usage, ""},
		"another verb":  {[]string{"make"}, nil, nil, 2, usage, ""},
		"too many":      {[]string{"import", "x"}, nil, nil, 2, usage, ""},
		"a wrong size":  {[]string{"import"}, map[string]string{"LEFT4_SIZE": "1k"}, game, 2, `left4-worker: LEFT4_SIZE is "1k", not a number of bytes` + "\n", ""},
		"negative size": {[]string{"import"}, map[string]string{"LEFT4_SIZE": "-1"}, game, 2, `left4-worker: LEFT4_SIZE is "-1", not a number of bytes` + "\n", ""},
	} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "notify")
			l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			t.Setenv("NOTIFY_SOCKET", path)
			t.Chdir(t.TempDir())
			var stderr bytes.Buffer
			code := run(c.args, func(key string) string { return c.env[key] }, bytes.NewReader(c.stdin), &stderr)
			if code != c.code || stderr.String() != c.stderr {
				t.Errorf("exit %d, %q", code, stderr.String())
			}
			if _, err := daemon.SdNotify(false, "end"); err != nil {
				t.Fatal(err)
			}
			told := ""
			for buf := make([]byte, 4096); ; {
				n, err := l.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				if string(buf[:n]) == "end" {
					break
				}
				told = strings.TrimPrefix(string(buf[:n]), "STATUS=")
			}
			if told != c.told {
				t.Errorf("told %q, want %q", told, c.told)
			}
		})
	}
}

func FuzzImport(f *testing.F) {
	seed := archive(f, mode(file("srcds_run", "#!"), 0o755), entry(tar.TypeDir, "d", ""), entry(tar.TypeSymlink, "d/l", "../srcds_run"),
		entry(tar.TypeLink, "h", "srcds_run"), file("d/"+strings.Repeat("n", 150), "2"))
	f.Add(seed)
	f.Add(gzipped(f, seed))
	f.Add(zstandard(f, seed))
	f.Add(archive(f, entry(tar.TypeSymlink, "a/up", ".."), entry(tar.TypeSymlink, "a/l", "up/../outside"), file("a/l/x", "x")))
	f.Add(archive(f, entry(tar.TypeSymlink, "d", "../outside"), file("d/file", "x")))
	f.Add(archive(f, entry(tar.TypeLink, "h", "../outside/file"), file("h", "x")))
	f.Fuzz(importsSafely)
}

// importsSafely imports what may be anything: nothing comes of it that does not belong into a tree of files.
func importsSafely(t *testing.T, data []byte) {
	in, err := unpack(t, &importer{max: 1 << 20}, bytes.NewReader(data))
	_ = filepath.WalkDir(in, func(path string, d fs.DirEntry, walk error) error {
		if walk != nil {
			t.Fatal(walk)
		}
		info, infoErr := d.Info()
		if infoErr != nil {
			t.Fatal(infoErr)
		}
		switch d.Type() {
		case 0:
			// When it failed, the last file may be half made.
			if m := info.Mode(); err == nil && (m&^0o755 != 0 || m&0o644 != 0o644) {
				t.Fatalf("%q has mode %v", path, m)
			}
		case fs.ModeDir:
		case fs.ModeSymlink:
			// A failed import is thrown away; in a good one every link stays inside.
			if real, evalErr := filepath.EvalSymlinks(path); err == nil && evalErr == nil && real != in && !strings.HasPrefix(real, in+"/") {
				t.Fatalf("%q leads to %q", path, real)
			}
		default:
			t.Fatalf("%q is %v", path, d.Type())
		}
		return nil
	})
}
