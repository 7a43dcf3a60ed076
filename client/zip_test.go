package client_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"left4.me/left4/client"
)

// member is an entry of a zip file that a test writes.
type member struct {
	name    string
	mode    uint32 // of Unix; 0 is an entry made by DOS
	content string
	change  func(*zip.FileHeader)
}

func zipped(t *testing.T, members ...member) string {
	t.Helper()
	name := t.TempDir() + "/x.zip"
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := zip.NewWriter(f)
	for _, m := range members {
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
	return name
}

func TestZipIsSentAsATarStream(t *testing.T) {
	long := strings.Repeat("x", 70000)
	name := zipped(t,
		member{name: "addons/", mode: 0o40755},
		member{name: "addons/sm.vdf", mode: 0o100644, content: "vdf"},
		member{name: "./run.sh", mode: 0o100755, content: "#!/bin/sh"},
		member{name: "link", mode: 0o120777, content: "run.sh"},
		member{name: `maps\c1 ü.bsp`, content: long},
		member{name: "perms only", mode: 0o600, content: ""},
		member{name: "stored", mode: 0o100644, content: "as it is", change: func(h *zip.FileHeader) { h.Method = zip.Store }},
		member{name: "./", mode: 0o40755},
	)
	entries, s, size := read(t, name)
	expect(t, strings.Join(entries, "\n"), strings.Join([]string{
		"5 755 addons/",
		"0 644 addons/sm.vdf vdf",
		"0 755 run.sh #!/bin/sh",
		"2 777 link run.sh",
		"0 644 maps/c1 ü.bsp 70000 bytes",
		"0 600 perms only",
		"0 644 stored as it is",
	}, "\n"))
	expect(t, size, s.Size)
	expect(t, s.Live(), true)
	expect(t, s.Wait(), nil)
	empty, _, size := read(t, zipped(t))
	expect(t, len(empty), 0)
	expect(t, size, 1024)
}

func TestZipThatCannotBeBelievedIsRefused(t *testing.T) {
	twice := []member{{name: "a", content: "1"}, {name: "./a", content: "2"}}
	for _, tt := range []struct {
		what    string
		members []member
		want    string
	}{
		{"up", []member{{name: "a/../../x"}}, `cannot take a/../../x: its name holds ".."`},
		{"up with backslashes", []member{{name: `..\x`}}, `cannot take ..\\x: its name holds ".."`},
		{"root", []member{{name: "/etc/x"}}, "cannot take /etc/x: its name begins at the root"},
		{"drive", []member{{name: `C:\x`}}, `cannot take C:\\x: its name begins with a drive`},
		{"empty part", []member{{name: "a//b"}}, "cannot take a//b: its name has an empty part"},
		{"no name", []member{{name: "."}}, "cannot take .: it has no name"},
		{"NUL", []member{{name: "a\x00b"}}, `cannot take a\x00b: its name holds a NUL byte`},
		{"bytes", []member{{name: "caf\x82"}}, `cannot take caf\x82: its name is not UTF-8: pack it with a program that writes UTF-8`},
		{"twice", twice, "cannot take ./a: it is there twice"},
		{"below a file", []member{{name: "a"}, {name: "a/b"}}, "cannot take a/b: a is no directory"},
		{"above a file", []member{{name: "a/b/c"}, {name: "a"}}, "cannot take a: it is there twice"},
		{"below a link", []member{{name: "a", mode: 0o120777, content: "/etc"}, {name: "a/passwd"}}, "cannot take a/passwd: a is no directory"},
		{"device", []member{{name: "null", mode: 0o20666}}, "cannot take null: it is a device"},
		{"pipe", []member{{name: "p", mode: 0o10666}}, "cannot take p: it is a pipe"},
		{"socket", []member{{name: "s", mode: 0o140666}}, "cannot take s: it is a socket"},
		{"long link", []member{{name: "l", mode: 0o120777, content: strings.Repeat("x", 5000)}}, "cannot take l: it is a link that leads nowhere"},
		{"empty link", []member{{name: "l", mode: 0o120777}}, "cannot take l: it is a link that leads nowhere"},
		{"long name", []member{{name: strings.Repeat("x", 200) + "/../y"}}, "cannot take " + strings.Repeat("x", 80) + `…: its name holds ".."`},
	} {
		t.Run(tt.what, func(t *testing.T) {
			if _, err := client.OpenSource(zipped(t, tt.members...)); fmt.Sprint(err) != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// edited is a zip file of one stored entry, after its bytes were changed.
func edited(t *testing.T, content string, change func([]byte) []byte) string {
	t.Helper()
	name := zipped(t, member{name: "victim", mode: 0o100644, content: content, change: func(h *zip.FileHeader) { h.Method = zip.Store }})
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestZipThatLiesIsRefused(t *testing.T) {
	central := func(b []byte) []byte { return b[bytes.Index(b, []byte("PK\x01\x02")):] }
	for _, tt := range []struct {
		what   string
		change func(b []byte) []byte
		want   string
	}{
		{"encrypted", func(b []byte) []byte { central(b)[8] |= 1; return b }, "cannot take victim: it is encrypted"},
		{"method", func(b []byte) []byte { central(b)[10] = 14; return b },
			"cannot take victim: it is compressed by method 14, which is not supported: pack it with the usual one"},
		{"longer than stored", func(b []byte) []byte { central(b)[24] = 99; return b }, "cannot take victim: it is not as long as it says"},
		{"longer than the file", func(b []byte) []byte { c := central(b); c[21], c[25] = 99, 99; return b }, "it is a broken zip file: its entries overlap"},
		{"cut", func(b []byte) []byte { return b[:len(b)-30] }, "it is a broken zip file: zip: not a valid zip file"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			if _, err := client.OpenSource(edited(t, "content", tt.change)); fmt.Sprint(err) != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	// What only shows while it is read ends the stream before its end.
	s, err := client.OpenSource(edited(t, "content", func(b []byte) []byte {
		b[bytes.Index(b, []byte("content"))] = 'C'
		return b
	}))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := io.ReadAll(s.File)
	s.File.Close()
	if err != nil {
		t.Fatal(err)
	}
	if uint64(len(stream)) >= s.Size {
		t.Error("the stream is whole")
	}
	if err := s.Wait(); err == nil || err.Error() != "cannot read victim: zip: checksum error" {
		t.Errorf("Wait: %v", err)
	}
}

// Overlapping entries make a bomb of any size out of a small file.
func TestZipBombOfOverlappingEntriesIsRefused(t *testing.T) {
	name := zipped(t, member{name: "aa", content: strings.Repeat("\x00", 1<<20)})
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("PK\x01\x02"))
	end := bytes.Index(b, []byte("PK\x05\x06"))
	record := b[at:end]
	bomb := bytes.Clone(b[:at])
	for i := range 200 {
		one := bytes.Clone(record)
		copy(one[46:], fmt.Sprintf("%c%c", 'a'+i/20, 'a'+i%20))
		bomb = append(bomb, one...)
	}
	tail := bytes.Clone(b[end:])
	size := len(bomb) - at
	tail[8], tail[10] = 200, 200
	tail[12], tail[13] = byte(size), byte(size>>8)
	if err := os.WriteFile(name, append(bomb, tail...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := client.OpenSource(name); err == nil || err.Error() != "it is a broken zip file: its entries overlap" {
		t.Errorf("%v", err)
	}
}

func TestEntriesArePacked(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	s, err := client.PackEntries(client.SourceEntry{Name: "a", Mode: 0o700}, client.SourceEntry{Name: "a/\xff", Mode: 0o640, Content: f})
	if err != nil {
		t.Fatal(err)
	}
	defer s.File.Close()
	in := tar.NewReader(s.File)
	for _, want := range []string{"5 700 a/ ", "0 640 a/\xff hello"} {
		h, err := in.Next()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		expect(t, err, nil)
		expect(t, fmt.Sprintf("%c %o %s %s", h.Typeflag, h.Mode, h.Name, data), want)
	}
	expect(t, s.Wait(), nil)
	if _, err := f.Stat(); err == nil {
		t.Error("the content is still open")
	}
	none, err := client.PackEntries()
	if err != nil {
		t.Fatal(err)
	}
	defer none.File.Close()
	stream, err := io.ReadAll(none.File)
	expect(t, err, nil)
	expect(t, string(stream), strings.Repeat("\x00", 1024))
}

func FuzzZip(f *testing.F) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, content := range map[string]string{"a/": "", "a/b": "bb", "c": "ccc"} {
		out, err := w.Create(name)
		if err != nil {
			f.Fatal(err)
		}
		io.WriteString(out, content)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, file []byte) {
		name := t.TempDir() + "/x.zip"
		if err := os.WriteFile(name, append([]byte("PK\x03\x04"), file[min(4, len(file)):]...), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := client.OpenSource(name)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		in := tar.NewReader(io.LimitReader(s.File, 1<<20))
		for {
			h, err := in.Next()
			if err != nil {
				break
			}
			clean := strings.TrimSuffix(h.Name, "/")
			if seen[clean] || clean == "" || strings.HasPrefix(clean, "/") || strings.Contains("/"+clean+"/", "/../") {
				t.Errorf("an entry is called %q", h.Name)
			}
			seen[clean] = true
		}
		s.File.Close()
		s.Wait()
	})
}
