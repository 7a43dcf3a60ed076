package client_test

import (
	"archive/tar"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"left4.me/left4/client"
)

// read returns the entries of a source, and how many bytes it had.
func read(t *testing.T, name string) (entries []string, s *client.Source, size uint64) {
	t.Helper()
	s, err := client.OpenSource(name)
	if err != nil {
		t.Fatal(err)
	}
	defer s.File.Close()
	counted := &counting{r: s.File}
	in := tar.NewReader(counted)
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		text := h.Linkname + string(data)
		if len(text) > 20 {
			text = fmt.Sprint(len(text), " bytes")
		}
		entries = append(entries, strings.TrimSpace(fmt.Sprintf("%c %o %s %s", h.Typeflag, h.Mode, h.Name, text)))
		if h.Uname != "" || h.Gname != "" || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s carries its owner", h.Name)
		}
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		t.Fatal(err)
	}
	return entries, s, counted.n
}

type counting struct {
	r io.Reader
	n uint64
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += uint64(n)
	return n, err
}

func write(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryIsPackedInOrderWithItsLinks(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("long-", 40) // more than a plain tar header holds
	write(t, dir+"/srcds_run", "#!/bin/sh", 0o755)
	write(t, dir+"/left4dead2/cfg/server.cfg", "hostname x", 0o644)
	write(t, dir+"/left4dead2/b", strings.Repeat("x", 70000), 0o600)
	write(t, dir+"/left4dead2/a, b: ü", "", 0o644)
	write(t, dir+"/left4dead2/bytes\xff\xfe", "not UTF-8", 0o644)
	write(t, dir+"/"+long+"/"+long, "deep", 0o644)
	if err := os.Symlink("../srcds_run", dir+"/left4dead2/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/shadow", dir+"/out"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(dir+"/left4dead2/cfg", 0o2770); err != nil {
		t.Fatal(err)
	}
	entries, s, size := read(t, dir)
	expect(t, strings.Join(entries, "\n"), strings.Join([]string{
		"5 755 left4dead2/",
		"0 644 left4dead2/a, b: ü",
		"0 600 left4dead2/b 70000 bytes",
		"0 644 left4dead2/bytes\xff\xfe not UTF-8",
		"5 770 left4dead2/cfg/",
		"0 644 left4dead2/cfg/server.cfg hostname x",
		"2 777 left4dead2/link ../srcds_run",
		"5 755 " + long + "/",
		"0 644 " + long + "/" + long + " deep",
		"2 777 out /etc/shadow",
		"0 755 srcds_run #!/bin/sh",
	}, "\n"))
	expect(t, size, s.Size)
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	again, _, _ := read(t, dir)
	if !slices.Equal(entries, again) {
		t.Error("the second stream differs")
	}
}

func TestSpecialFilesAreRefusedByName(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(dir+"/sub", 0o755)
	for name, make := range map[string]func(path string) error{
		"a pipe": func(path string) error { return unix.Mkfifo(path, 0o644) },
		"a socket": func(path string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
			if err == nil {
				l.SetUnlinkOnClose(false)
				l.Close()
			}
			return err
		},
		"a device": func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))) },
	} {
		path := dir + "/sub/x"
		if err := make(path); err != nil {
			t.Logf("cannot try %s: %v", name, err)
			continue
		}
		_, err := client.OpenSource(dir)
		if err == nil || err.Error() != "cannot pack sub/x: it is "+name {
			t.Errorf("%s: %v", name, err)
		}
		os.Remove(path)
	}
	if err := unix.Mkfifo(dir+"/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := client.OpenSource(dir + "/fifo"); err == nil || err.Error() != "it is neither a directory nor a file" {
		t.Errorf("a pipe in place of the directory: %v", err)
	}
	if _, err := client.OpenSource(dir + "/none"); err == nil || err.Error() != "no such file or directory" {
		t.Errorf("nothing: %v", err)
	}
}

// left4 sees from the missing end that the stream is not whole, and the caller why.
func TestFileThatShrinksMeanwhileIsToldAndEndsTheStream(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a", strings.Repeat("x", 1<<20), 0o644) // more than a pipe and the buffers hold
	write(t, dir+"/b", "b", 0o644)
	s, err := client.OpenSource(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.File.Close()
	first := make([]byte, 512)
	if _, err := io.ReadFull(s.File, first); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(dir+"/a", 0); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(s.File)
	if err != nil {
		t.Fatal(err)
	}
	if uint64(len(first)+len(rest)) >= s.Size {
		t.Error("the stream is whole")
	}
	if err := s.Wait(); err == nil || err.Error() != "cannot pack a: it became shorter while it was read" {
		t.Errorf("Wait: %v", err)
	}
}

func TestPackingEndsWhenNobodyReads(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a", strings.Repeat("x", 1<<20), 0o644)
	s, err := client.OpenSource(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.File.Close()
	if err := s.Wait(); err != nil {
		t.Errorf("Wait: %v", err)
	}
}

func TestFileIsPassedAsItIs(t *testing.T) {
	name := t.TempDir() + "/game.tar.zst"
	write(t, name, "whatever", 0o644)
	s, err := client.OpenSource(name)
	if err != nil {
		t.Fatal(err)
	}
	defer s.File.Close()
	data, err := io.ReadAll(s.File)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, string(data), "whatever")
	expect(t, s.Size, 8)
	expect(t, s.Name, "game.tar.zst")
	expect(t, s.Wait(), nil)

	// What it is called does not keep anything from being imported.
	for _, name := range []string{"caf\xe9.tar", "new\nline.zip"} {
		name = t.TempDir() + "/" + name
		write(t, name, "whatever", 0o644)
		s, err := client.OpenSource(name)
		if err != nil {
			t.Fatal(err)
		}
		s.File.Close()
		expect(t, s.Name, "")
	}
}
