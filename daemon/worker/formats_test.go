package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// read is an archive that testdata/make.sh has made.
func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What people pack with their own programs is unpacked as they packed it, whatever it is called.
func TestFormats(t *testing.T) {
	want := "l link -> maps/a.txt\nd755 maps/\nf644 maps/a.txt text\n\nd755 maps/empty/\nf644 none \nf755 run.sh #!/bin/sh\n\nf644 ü.cfg ü\n"
	var program []byte
	for _, name := range []string{
		"tree.tar.bz2", "two.tar.bz2", "tree.tar.xz", "blocks.tar.xz", "two.tar.xz", "tree.zip", "zip64.zip",
		"tree.7z", "lzma.7z", "bzip2.7z", "deflate.7z", "copy.7z", "x86.7z", "delta.7z",
	} {
		t.Run(name, func(t *testing.T) {
			data := read(t, name)
			var told int
			im := &importer{size: int64(len(data)), note: func(string) { told++ }}
			in, err := unpack(t, im, bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(in + "/prog.so")
			if err != nil {
				t.Fatal(err)
			}
			if program == nil {
				program = got
			}
			if !bytes.Equal(got, program) || len(got) != 3000 {
				t.Errorf("prog.so has %d bytes, others than in the first archive", len(got))
			}
			info, err := os.Stat(in + "/run.sh")
			if err != nil || !info.ModTime().Equal(made) {
				t.Errorf("run.sh is of %v, %v", info.ModTime(), err)
			}
			if err := os.Remove(in + "/prog.so"); err != nil {
				t.Fatal(err)
			}
			if got := tree(t, in, all); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			if im.files != 6 || told == 0 {
				t.Errorf("%d files, told %d times", im.files, told)
			}
		})
	}
}

func TestWhatIsNoArchiveToImport(t *testing.T) {
	volume := read(t, "volume.7z.001")
	for what, c := range map[string]struct {
		data []byte
		want string
	}{
		"encrypted.zip":     {read(t, "encrypted.zip"), `it is encrypted: unpack it with its password and import what comes out`},
		"encrypted.7z":      {read(t, "encrypted.7z"), "the archive is encrypted: unpack it with its password and import what comes out"},
		"secret.7z":         {read(t, "secret.7z"), "the archive is encrypted: unpack it with its password and import what comes out"},
		"volume.7z.001":     {volume, "the archive is cut off, or the first of several volumes: join those first"},
		"ppmd.7z":           {read(t, "ppmd.7z"), "the archive cannot be read: it is packed by PPMd, which is not supported"},
		"bcj2.7z":           {read(t, "bcj2.7z"), "the archive cannot be read: it is packed by a filter of several streams, as BCJ2 (7-Zip leaves it out with -mf=off), which is not supported"},
		"filter.tar.xz":     {read(t, "filter.tar.xz"), "the stream is compressed by xz with a filter besides LZMA2, which is not supported: compress it again without"},
		"a zip of volumes":  {[]byte("PK\x07\x08PK\x03\x04" + strings.Repeat("x", 100)), "the zip file is one of several volumes: join them first (zip -s 0)"},
		"a rar":             {[]byte("Rar!\x1a\x07\x01\x00" + strings.Repeat("x", 100)), "a file of type RAR cannot be imported: unpack it, or pack its files as tar, zip or 7z"},
		"half a zip":        {read(t, "tree.zip")[:500], "the zip file is damaged, cut off or one of several volumes: zip: not a valid zip file"},
		"half a 7z":         {read(t, "tree.7z")[:500], "the archive is cut off, or the first of several volumes: join those first"},
		"half an xz":        {read(t, "tree.tar.xz")[:500], "the stream is cut off after 0 files"},
		"an xz without end": {read(t, "tree.tar.xz")[:2040], "the stream is cut off after 6 files"},
		"half a bzip2":      {read(t, "tree.tar.bz2")[:500], "the stream is cut off after 0 files"},
		"7z's header alone": {volume[:32], "the archive is cut off, or the first of several volumes: join those first"},
		"an empty zip":      {zipped(t), "the archive is empty"},
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := unpack(t, &importer{}, bytes.NewReader(c.data)); err == nil || !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// One bit of a file that is damaged on its way is noticed: all but tar have checksums.
func TestDamageIsNoticed(t *testing.T) {
	for _, name := range []string{"tree.tar.bz2", "tree.tar.xz", "blocks.tar.xz", "tree.zip", "tree.7z", "lzma.7z", "copy.7z"} {
		data := read(t, name)
		for at := 20; at < len(data)-40; at += 41 {
			changed := bytes.Clone(data)
			changed[at] ^= 0x10
			in, err := unpack(t, &importer{}, bytes.NewReader(changed))
			if err == nil && !strings.Contains(tree(t, in, all), "f644 maps/a.txt text\n") {
				t.Errorf("%s: a bit in byte %d changed what is unpacked", name, at)
			}
		}
	}
}

// A pipe cannot be read at its end, where such files say what is in them.
func TestOnlyStreamsComeThroughAPipe(t *testing.T) {
	for name, want := range map[string]string{
		"tree.zip": "a zip file cannot be read from a pipe: give the file itself, or a tar archive", "tree.7z": "a 7z file cannot be read from a pipe: give the file itself, or a tar archive",
		"tree.tar.xz": "",
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := w.Write(read(t, name)); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if _, err := unpack(t, &importer{}, r); fmt.Sprint(err) != want && (want != "" || err != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A file is read from where it stands, as a pipe is.
	name := t.TempDir() + "/x"
	if err := os.WriteFile(name, append([]byte("before"), read(t, "tree.zip")...), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(6, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if in, err := unpack(t, &importer{}, f); err != nil || !strings.Contains(tree(t, in, all), "maps/a.txt text") {
		t.Errorf("%v", err)
	}
}

// zipFile is an entry of a zip file that a test writes.
type zipFile struct {
	name    string
	mode    uint32 // of Unix; 0 is an entry made by DOS
	content string
	change  func(*zip.FileHeader)
}

func zipped(t testing.TB, files ...zipFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range files {
		h := &zip.FileHeader{Name: m.name, Method: zip.Deflate, Modified: time.Unix(1700000000, 0)}
		if m.mode != 0 {
			h.CreatorVersion, h.ExternalAttrs = 3<<8, m.mode<<16
		}
		if m.change != nil {
			m.change(h)
		}
		out, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(out, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func stored(h *zip.FileHeader) { h.Method = zip.Store }

func TestZipOfWindows(t *testing.T) {
	in, err := unpack(t, &importer{}, bytes.NewReader(zipped(t,
		zipFile{name: `addons\`}, zipFile{name: `addons\sm.vdf`, content: "vdf"}, zipFile{name: `maps\c1 ü.bsp`, content: "bsp"},
		zipFile{name: "./x.sh", mode: 0o100755, content: "#!"}, zipFile{name: `unix\x`, mode: 0o600}, zipFile{name: "./", mode: 0o40755},
		zipFile{name: "link", mode: 0o120777, content: "maps/c1 ü.bsp"}, zipFile{name: "stored", content: "as it is", change: stored},
	)))
	if err != nil {
		t.Fatal(err)
	}
	want := "d755 addons/\nf644 addons/sm.vdf vdf\nl link -> maps/c1 ü.bsp\nd755 maps/\nf644 maps/c1 ü.bsp bsp\nf644 stored as it is\nf644 unix\\x \nf755 x.sh #!\n"
	if got := tree(t, in, all); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestZipIsRefused(t *testing.T) {
	for what, c := range map[string]struct {
		files []zipFile
		want  string
	}{
		"up":               {[]zipFile{{name: "a/../../x"}}, `"a/../../x": ".." in a name is not allowed`},
		"up, backslashes":  {[]zipFile{{name: `..\x`}}, `"../x": ".." in a name is not allowed`},
		"root":             {[]zipFile{{name: "/etc/x"}}, `"/etc/x": an absolute name is not allowed`},
		"root, backslash":  {[]zipFile{{name: `\etc\x`}}, `"/etc/x": an absolute name is not allowed`},
		"drive":            {[]zipFile{{name: `C:\x`}}, `"C:\\x": its name begins with a drive`},
		"drive, slash":     {[]zipFile{{name: "c:/x"}}, `"c:/x": its name begins with a drive`},
		"no name":          {[]zipFile{{name: "."}}, `".": the top of the archive must be a directory`},
		"NUL":              {[]zipFile{{name: "a\x00b"}}, `"a\x00b": a NUL in a name is not allowed`},
		"bytes":            {[]zipFile{{name: "caf\x82"}}, `"caf\x82": its name is not UTF-8: pack it with a program that writes UTF-8`},
		"twice":            {[]zipFile{{name: "a", content: "1"}, {name: "./a", content: "2"}}, `"./a": it is there twice`},
		"below a file":     {[]zipFile{{name: "a"}, {name: "a/b"}}, `"a/b": its path goes through a file`},
		"above a file":     {[]zipFile{{name: "a/b/c"}, {name: "a"}}, `"a": the archive has it as a directory before`},
		"below a link":     {[]zipFile{{name: "a", mode: 0o120777, content: "b"}, {name: "a/passwd"}}, `"a/passwd": its path goes through a link`},
		"a link out":       {[]zipFile{{name: "a", mode: 0o120777, content: "../outside"}}, `"a": a link out of the archive, to "../outside", is not allowed`},
		"an absolute link": {[]zipFile{{name: "a", mode: 0o120777, content: "/etc"}}, `"a": a link to an absolute name, "/etc", is not allowed`},
		"a link by links":  {[]zipFile{{name: "a/up", mode: 0o120777, content: ".."}, {name: "a/l", mode: 0o120777, content: "up/../outside"}}, `"a/l": a link out of the archive is not allowed`},
		"a long link":      {[]zipFile{{name: "l", mode: 0o120777, content: strings.Repeat("x", 5000)}}, `"l": a link without a proper target is not allowed`},
		"an empty link":    {[]zipFile{{name: "l", mode: 0o120777}}, `"l": a link without a proper target is not allowed`},
		"a device":         {[]zipFile{{name: "null", mode: 0o20666}}, `"null": a device is not allowed`},
		"a pipe":           {[]zipFile{{name: "p", mode: 0o10666}}, `"p": a FIFO is not allowed`},
		"a socket":         {[]zipFile{{name: "s", mode: 0o140666}}, `"s": it is neither a file, a directory nor a link`},
		"setuid":           {[]zipFile{{name: "su", mode: 0o104755}}, `"su": a setuid file is not allowed`},
		"an odd method":    {[]zipFile{{name: "m", change: func(h *zip.FileHeader) { h.Method = zip.Store }}}, ""},
	} {
		_, err := unpack(t, &importer{}, bytes.NewReader(zipped(t, c.files...)))
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%s: got  %v\nwant %s", what, err, c.want)
		}
	}
}

func TestZipThatLiesIsRefused(t *testing.T) {
	central := func(b []byte) []byte { return b[bytes.Index(b, []byte("PK\x01\x02")):] }
	for what, c := range map[string]struct {
		change func(b []byte) []byte
		want   string
	}{
		"encrypted":            {func(b []byte) []byte { central(b)[8] |= 1; return b }, `"victim": it is encrypted: unpack it with its password and import what comes out`},
		"method":               {func(b []byte) []byte { central(b)[10] = 14; return b }, `"victim": it is compressed by method 14, which is not supported: pack it by the usual one`},
		"longer than stored":   {func(b []byte) []byte { central(b)[24] = 99; return b }, `the archive is damaged: "victim": it is not as long as it says`},
		"longer than the file": {func(b []byte) []byte { c := central(b); c[21], c[25] = 99, 99; return b }, "the zip file is damaged: its entries overlap"},
		"another content":      {func(b []byte) []byte { b[bytes.Index(b, []byte("content"))] = 'C'; return b }, `the archive is damaged: "victim": zip: checksum error`},
	} {
		data := c.change(zipped(t, zipFile{name: "victim", mode: 0o100644, content: "content", change: stored}))
		if _, err := unpack(t, &importer{}, bytes.NewReader(data)); err == nil || err.Error() != c.want {
			t.Errorf("%s: got  %v\nwant %s", what, err, c.want)
		}
	}
	// What it says of an entry's length is not believed: what comes out counts.
	longer := zipped(t, zipFile{name: "victim", content: strings.Repeat("x", 1000)})
	binary.LittleEndian.PutUint32(central(longer)[24:], 10)
	if _, err := unpack(t, &importer{}, bytes.NewReader(longer)); err == nil || !strings.HasPrefix(err.Error(), `the archive is damaged: "victim": `) {
		t.Errorf("an entry that is longer than it says: %v", err)
	}
}

// Entries that share their bytes make a bomb of any size out of a small file.
func TestZipBombOfOverlappingEntries(t *testing.T) {
	b := zipped(t, zipFile{name: "aa", content: strings.Repeat("\x00", 1<<20)})
	at := bytes.Index(b, []byte("PK\x01\x02"))
	end := bytes.Index(b, []byte("PK\x05\x06"))
	bomb := bytes.Clone(b[:at])
	for i := range 200 {
		one := bytes.Clone(b[at:end])
		copy(one[46:], fmt.Sprintf("%c%c", 'a'+i/20, 'a'+i%20))
		bomb = append(bomb, one...)
	}
	tail := bytes.Clone(b[end:])
	tail[8], tail[10] = 200, 200
	binary.LittleEndian.PutUint32(tail[12:], uint32(len(bomb)-at))
	if _, err := unpack(t, &importer{}, bytes.NewReader(append(bomb, tail...))); err == nil || err.Error() != "the zip file is damaged: its entries overlap" {
		t.Error(err)
	}
}

// However it is packed, what becomes far larger than it was is a bomb, from some size on; and only then.
func TestBombs(t *testing.T) {
	zeros := strings.Repeat("\x00", 4<<20)
	for name, data := range map[string][]byte{
		"zip":  zipped(t, zipFile{name: "a", content: zeros}, zipFile{name: "b", content: zeros}, zipFile{name: "c", content: zeros}),
		"gzip": gzipped(t, archive(t, file("a", zeros), file("b", zeros))), "zstd": zstandard(t, archive(t, file("a", zeros), file("b", zeros))),
		"7z": read(t, "bomb.7z"), "xz": read(t, "bomb.tar.xz"), "bzip2": read(t, "bomb.tar.bz2"),
	} {
		if _, err := unpack(t, &importer{bomb: 7 << 20}, bytes.NewReader(data)); err != errBomb {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := unpack(t, &importer{bomb: 20 << 20}, bytes.NewReader(data)); err != nil {
			t.Errorf("%s, not so large: %v", name, err)
		}
	}
	// What does not shrink so much may be large.
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(i*i>>7 + i>>3)
	}
	packed := gzipped(t, archive(t, file("a", string(noise)), file("b", string(noise))))
	if _, err := unpack(t, &importer{bomb: 1 << 20}, bytes.NewReader(packed)); err != nil {
		t.Errorf("%d bytes of %d: %v", 2*len(noise), len(packed), err)
	}
}

func TestManyEntries(t *testing.T) {
	var headers []tar.Header
	var files []zipFile
	for i := range 12 {
		headers = append(headers, file(fmt.Sprint(i), ""))
		files = append(files, zipFile{name: fmt.Sprint(i)})
	}
	for name, data := range map[string][]byte{"tar": archive(t, headers...), "zip": zipped(t, files...), "7z": read(t, "twelve.7z")} {
		if _, err := unpack(t, &importer{most: 11}, bytes.NewReader(data)); err == nil || err.Error() != "the archive holds more than 11 entries" {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := unpack(t, &importer{most: 12}, bytes.NewReader(data)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The list of a zip file is bounded as it is read, whatever its end says of it.
	large := append(zipped(t, files...)[:0:0], make([]byte, maxZipDirectory+1<<20)...)
	one := make([]byte, 46+60000)
	copy(one, "PK\x01\x02")
	binary.LittleEndian.PutUint16(one[28:], 60000)
	for at := 0; at+len(one) < len(large)-22; at += len(one) {
		copy(large[at:], one)
	}
	copy(large, "PK\x03\x04")
	end := large[len(large)-22:]
	copy(end, "PK\x05\x06")
	binary.LittleEndian.PutUint16(end[8:], 1700)
	binary.LittleEndian.PutUint16(end[10:], 1700)
	start := len(one) // the first one lost its mark to the file's
	binary.LittleEndian.PutUint32(end[12:], uint32(len(large)-22-start))
	binary.LittleEndian.PutUint32(end[16:], uint32(start))
	if _, err := unpack(t, &importer{}, bytes.NewReader(large)); err == nil || err.Error() != "the archive holds more than 500000 entries" {
		t.Errorf("a long list: %v", err)
	}
}

// xz takes as much memory as a file asks for, so not any.
func TestXZDictionaryIsBounded(t *testing.T) {
	data := read(t, "tree.tar.xz")
	header := data[12 : 12+(int(data[12])+1)*4]
	at := bytes.Index(header, []byte{0x21, 1})
	for size, want := range map[byte]error{40: errDictionary, 39: errDictionary, 35: errDictionary, 34: nil} {
		changed := bytes.Clone(data)
		h := changed[12 : 12+len(header)]
		h[at+2] = size
		binary.LittleEndian.PutUint32(h[len(h)-4:], crc32.ChecksumIEEE(h[:len(h)-4]))
		if _, err := unpack(t, &importer{}, bytes.NewReader(changed)); err != want {
			t.Errorf("a dictionary of size %d: %v", size, err)
		}
	}
}

// vpkFile is a VPK file of version 1 with one file in it.
func vpkFile(content string) []byte {
	tree := []byte("txt\x00missions\x00a\x00")
	tree = binary.LittleEndian.AppendUint32(tree, crc32.ChecksumIEEE([]byte(content)))
	tree = append(tree, 0, 0, 0xff, 0x7f, 0, 0, 0, 0)
	tree = binary.LittleEndian.AppendUint32(tree, uint32(len(content)))
	tree = append(tree, 0xff, 0xff, 0, 0, 0)
	head := binary.LittleEndian.AppendUint32([]byte{0x34, 0x12, 0xaa, 0x55, 1, 0, 0, 0}, uint32(len(tree)))
	return append(append(head, tree...), content...)
}

func TestAddons(t *testing.T) {
	addon := string(vpkFile("hello"))
	dir := "d755 left4dead2/\nd755 left4dead2/addons/\n"
	site := []zipFile{{name: "map.vpk", content: addon}, {name: "ReadMe.TXT", content: "r"}, {name: "map.jpg", content: "j"}}
	for what, c := range map[string]struct {
		im   importer
		data []byte
		want string
	}{
		"a file":              {importer{called: "c8 map.vpk"}, []byte(addon), dir + "f644 left4dead2/addons/c8 map.vpk " + addon + "\n"},
		"a file of Windows":   {importer{called: "MAP.VPK"}, []byte(addon), dir + "f644 left4dead2/addons/MAP.vpk " + addon + "\n"},
		"another name":        {importer{called: "map.bin"}, []byte(addon), dir + "f644 left4dead2/addons/map.bin.vpk " + addon + "\n"},
		"no name":             {importer{}, []byte(addon), dir + "f644 left4dead2/addons/addon.vpk " + addon + "\n"},
		"a file into":         {importer{called: "map.vpk", into: true}, []byte(addon), "f644 map.vpk " + addon + "\n"},
		"of a map site":       {importer{}, zipped(t, site...), dir + "f644 left4dead2/addons/ReadMe.TXT r\nf644 left4dead2/addons/map.jpg j\nf644 left4dead2/addons/map.vpk " + addon + "\n"},
		"to be merged":        {importer{part: true}, zipped(t, site[0]), dir + "f644 left4dead2/addons/map.vpk " + addon + "\n"},
		"of a map site, into": {importer{into: true}, zipped(t, site[0]), "f644 map.vpk " + addon + "\n"},
		"with another file":   {importer{}, zipped(t, site[0], zipFile{name: "x.cfg"}), "f644 map.vpk " + addon + "\nf644 x.cfg \n"},
		"with a directory":    {importer{}, zipped(t, site[0], zipFile{name: "cfg/"}), "d755 cfg/\nf644 map.vpk " + addon + "\n"},
		"with a link":         {importer{}, zipped(t, site[0], zipFile{name: "l.vpk", mode: 0o120777, content: "map.vpk"}), "l l.vpk -> map.vpk\nf644 map.vpk " + addon + "\n"},
		"texts alone":         {importer{}, zipped(t, site[1]), "f644 ReadMe.TXT r\n"},
		"a tar is meant so":   {importer{}, archive(t, file("map.vpk", addon)), "f644 map.vpk " + addon + "\n"},
	} {
		t.Run(what, func(t *testing.T) {
			in, err := unpack(t, &c.im, bytes.NewReader(c.data))
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(t, in, all); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
	part := bytes.Replace([]byte(addon), []byte{0xff, 0x7f, 0, 0, 0, 0}, []byte{3, 0, 0, 0, 0, 0}, 1)
	for what, c := range map[string]struct {
		im   importer
		data []byte
		want string
	}{
		"as a game":    {importer{game: true}, []byte(addon), "the archive holds no srcds_run at its top"},
		"cut off":      {importer{}, []byte(addon[:len(addon)-1]), "the VPK file cannot be used: the VPK file is cut off"},
		"cut off more": {importer{}, []byte(addon[:20]), "the VPK file cannot be used: the VPK file is cut off"},
		"in parts":     {importer{}, part, `the VPK file cannot be used: it is the directory of a VPK of several files: "missions/a.txt" is in number 3`},
		"another name": {importer{called: "../x"}, []byte(addon), `"left4dead2/addons/../x.vpk": ".." in a name is not allowed`},
	} {
		if _, err := unpack(t, &c.im, bytes.NewReader(c.data)); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Few entries can make many directories.
func TestManyDirectories(t *testing.T) {
	deep := strings.Repeat("d/", 100)
	var headers []tar.Header
	for i := range 10 {
		headers = append(headers, file(fmt.Sprintf("%d/%sf", i, deep), ""), file(fmt.Sprintf("%d/%sg", i, deep), ""))
	}
	data := archive(t, headers...)
	if _, err := unpack(t, &importer{mostDirs: 1009}, bytes.NewReader(data)); err == nil || err.Error() != fmt.Sprintf("%q: the archive makes more than 1009 directories", headers[18].Name) {
		t.Error(err)
	}
	if _, err := unpack(t, &importer{mostDirs: 1010}, bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
}

func FuzzArchives(f *testing.F) {
	for _, name := range []string{"tree.tar.bz2", "tree.tar.xz", "blocks.tar.xz", "tree.zip", "zip64.zip", "tree.7z", "lzma.7z", "copy.7z", "x86.7z", "encrypted.7z"} {
		f.Add(read(f, name))
	}
	f.Add(vpkFile("hello"))
	f.Add(zipped(f, zipFile{name: "map.vpk", content: string(vpkFile("x"))}, zipFile{name: "l", mode: 0o120777, content: "map.vpk"}))
	f.Fuzz(importsSafely)
}
