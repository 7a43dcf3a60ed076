package vpk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"
)

// content is a file that a test packs.
type content struct {
	dir, base, ext string
	preload, data  string
	archive        int
}

// pack makes a VPK file as Valve's tool does; what is in other files than the directory is in beside.
func pack(version uint32, files ...content) (packed []byte, beside map[int][]byte) {
	var tree, inside []byte
	beside = map[int][]byte{}
	for _, f := range files {
		tree = append(tree, f.ext+"\x00"+f.dir+"\x00"+f.base+"\x00"...)
		tree = binary.LittleEndian.AppendUint32(tree, crc32.ChecksumIEEE([]byte(f.preload+f.data)))
		tree = binary.LittleEndian.AppendUint16(tree, uint16(len(f.preload)))
		tree = binary.LittleEndian.AppendUint16(tree, uint16(f.archive))
		at := len(inside)
		if f.archive != Inside {
			at = len(beside[f.archive])
			beside[f.archive] = append(beside[f.archive], f.data...)
		} else {
			inside = append(inside, f.data...)
		}
		tree = binary.LittleEndian.AppendUint32(tree, uint32(at))
		tree = binary.LittleEndian.AppendUint32(tree, uint32(len(f.data)))
		tree = append(tree, "\xff\xff"+f.preload+"\x00\x00"...)
	}
	tree = append(tree, 0)
	packed = binary.LittleEndian.AppendUint32(nil, signature)
	packed = binary.LittleEndian.AppendUint32(packed, version)
	packed = binary.LittleEndian.AppendUint32(packed, uint32(len(tree)))
	if version == 2 {
		packed = binary.LittleEndian.AppendUint32(packed, uint32(len(inside)))
		packed = append(packed, make([]byte, 12)...)
	}
	return append(append(packed, tree...), inside...), beside
}

func open(t testing.TB, data []byte) *Package {
	t.Helper()
	p, err := Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRead(t *testing.T) {
	for version := uint32(1); version <= 2; version++ {
		data, beside := pack(version,
			content{"missions", "c1", "txt", "", "mission one", Inside}, content{"missions", "c2", "txt", "mis", "sion two", Inside},
			content{"maps", "c1m1", "bsp", "all of it", "", Inside}, content{" ", "addoninfo", "txt", "", "info", 2},
			content{"a/b", " ", "cfg", "", "", Inside}, content{"a", "README", " ", "", "x", 2},
		)
		p := open(t, data)
		if p.Version != int(version) {
			t.Errorf("version is %d", p.Version)
		}
		var got []string
		err := p.Each(func(f *File) bool {
			text, err := p.Read(f, 100, func(n int) (io.ReaderAt, error) { return bytes.NewReader(beside[n]), nil })
			got = append(got, fmt.Sprintf("%s %d %s %v", f.Path(), f.Size(), text, err))
			return true
		})
		want := "missions/c1.txt 11 mission one <nil>\nmissions/c2.txt 11 mission two <nil>\nmaps/c1m1.bsp 9 all of it <nil>\n" +
			"addoninfo.txt 4 info <nil>\na/b/.cfg 0  <nil>\na/README 1 x <nil>"
		if err != nil || strings.Join(got, "\n") != want {
			t.Errorf("version %d: %v\ngot\n%s\nwant\n%s", version, err, strings.Join(got, "\n"), want)
		}
		if err := p.Whole(); err == nil || err.Error() != `it is the directory of a VPK of several files: "addoninfo.txt" is in number 2` {
			t.Error(err)
		}
		n := 0
		if err := p.Each(func(*File) bool { n++; return n < 2 }); err != nil || n != 2 {
			t.Errorf("%d files, %v", n, err)
		}
	}
	whole, _ := pack(2, content{"maps", "a", "bsp", "", "bsp", Inside})
	if err := open(t, whole).Whole(); err != nil {
		t.Error(err)
	}
}

func TestReadFails(t *testing.T) {
	read := func(change func([]byte) []byte, most int64, beside func(int) (io.ReaderAt, error), archive int) error {
		data, _ := pack(1, content{"m", "a", "txt", "", "content", archive})
		p := open(t, change(data))
		var result error
		if err := p.Each(func(f *File) bool { _, result = p.Read(f, most, beside); return true }); err != nil {
			return err
		}
		return result
	}
	same := func(b []byte) []byte { return b }
	none := func(int) (io.ReaderAt, error) { return nil, fmt.Errorf("there is none") }
	short := func(int) (io.ReaderAt, error) { return strings.NewReader("cont"), nil }
	for what, c := range map[string]struct {
		err  error
		want string
	}{
		"too long":     {read(same, 6, nil, Inside), "it has more than 6 bytes"},
		"cut off":      {read(func(b []byte) []byte { return b[:len(b)-1] }, 7, nil, Inside), "unexpected EOF"},
		"damaged":      {read(func(b []byte) []byte { b[len(b)-1]++; return b }, 7, nil, Inside), "its checksum is wrong"},
		"elsewhere":    {read(same, 7, nil, 1), "it is in another file than the directory"},
		"no such file": {read(same, 7, none, 1), "there is none"},
		"short file":   {read(same, 7, short, 1), "unexpected EOF"},
	} {
		if c.err == nil || c.err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", what, c.err, c.want)
		}
	}
}

func TestBroken(t *testing.T) {
	good, _ := pack(1, content{"maps", "a", "bsp", "pre", "", Inside})
	change := func(at int, b ...byte) []byte { c := bytes.Clone(good); copy(c[at:], b); return c }
	for what, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":         {nil, "it is no VPK file"},
		"another file":    {[]byte("another file that is long enough"), "it is no VPK file"},
		"version 3":       {change(4, 3), "version 3 of VPK is not known"},
		"head alone":      {good[:12], "the VPK file is cut off"},
		"half a head":     {good[:9], "the VPK file is cut off"},
		"a long tree":     {change(8, 0xff, 0xff, 0xff, 0xff), "the directory of the VPK file has more than 64 MiB"},
		"too long a tree": {change(8, byte(len(good))), "the VPK file is cut off"},
		"too short":       {change(8, byte(len(good)-12-1)), "the directory of the VPK file is damaged"},
		"no tree":         {change(8, 0), "the directory of the VPK file is damaged"},
		"no terminator":   {bytes.Replace(good, []byte("\xff\xffpre"), []byte("\xff\xfepre"), 1), "the directory of the VPK file is damaged"},
		"a long preload":  {bytes.Replace(good, []byte{3, 0, 0xff, 0x7f}, []byte{0xff, 0xff, 0xff, 0x7f}, 1), "the directory of the VPK file is damaged"},
	} {
		p, err := Open(bytes.NewReader(c.data), int64(len(c.data)))
		if err == nil {
			err = p.Each(func(*File) bool { return true })
		}
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", what, err, c.want)
		}
	}
	long, _ := pack(1, content{strings.Repeat("d", 5000), "a", "bsp", "", "", Inside})
	if err := open(t, long).Each(func(*File) bool { return true }); err != errTree {
		t.Errorf("a long name: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	for version := uint32(1); version <= 2; version++ {
		data, _ := pack(version, content{"missions", "c1", "txt", "mis", "sion", Inside}, content{" ", "a", " ", "", "x", 3})
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		_ = p.Whole()
		_ = p.Each(func(f *File) bool {
			text, err := p.Read(f, 1<<16, nil)
			if err == nil && int64(len(text)) != f.Size() {
				t.Fatalf("%d of %d bytes", len(text), f.Size())
			}
			return len(f.Path()) > 0 || f.Base == ""
		})
	})
}
