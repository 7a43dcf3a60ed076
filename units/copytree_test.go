package units

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func statOf(t *testing.T, path string) (st unix.Stat_t) {
	t.Helper()
	must(t, unix.Lstat(path, &st))
	return st
}

func attributes(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	return strings.ReplaceAll(string(buf[:n]), "\x00", " ")
}

func TestCopyTree(t *testing.T) {
	if err := trusted(); err != nil {
		t.Skip(err)
	}
	dir := diskDir(t)
	from, to := dir+"/from", dir+"/to"
	putFile(t, from+"/top", "12345")
	putFile(t, from+"/a/b/\xff\n\\", "123")
	putFile(t, from+"/cfg/secret", "x")
	putFile(t, from+"/cfg/kept", "x")
	must(t, os.Symlink("../../etc/nowhere", from+"/a/link"))
	must(t, unix.Mknod(from+"/a/whiteout", unix.S_IFCHR, 0))
	must(t, unix.Mknod(from+"/a/open", unix.S_IFCHR|0o644, 0))
	mkdir(t, from+"/opaque/below")
	must(t, unix.Setxattr(from+"/opaque", opaqueAttr, []byte("y"), 0))
	must(t, unix.Setxattr(from+"/opaque", "trusted.overlay.impure", []byte("y"), 0))
	must(t, unix.Setxattr(from+"/opaque/below", opaqueAttr, []byte("n"), 0))
	must(t, unix.Setxattr(from+"/top", "trusted.overlay.origin", []byte("x"), 0))
	putFile(t, from+"/closed/file", "x")
	putFile(t, from+"/setid", "x")
	must(t, os.Chown(from+"/top", server, server))
	must(t, os.Lchown(from+"/a/link", server, server))
	must(t, os.Chown(from+"/opaque", server, server))
	must(t, os.Chown(from+"/closed", server, server))
	must(t, unix.Chmod(from+"/closed", 0))
	must(t, unix.Chmod(from+"/setid", 0o6755))
	must(t, unix.Chmod(from+"/opaque", 0o3711))
	must(t, unix.Mkfifo(from+"/a/fifo", 0o644))
	must(t, unix.Mknod(from+"/a/socket", unix.S_IFSOCK|0o644, 0))
	old := time.Unix(1e9, 12345)
	for _, path := range []string{"/a/b", "/a", "/closed", "/top"} {
		must(t, os.Chtimes(from+path, old, old))
	}
	mkdir(t, to)
	descriptors := openDescriptors(t)
	files, bytes, err := CopyTree(t.Context(), openTestDir(t, from), openTestDir(t, to), []string{"cfg/secret"}, nil)
	if files != 6 || bytes != 11 || err != nil {
		t.Fatalf("%d files, %d bytes, %v", files, bytes, err)
	}
	if after := openDescriptors(t); after != descriptors+2 {
		t.Errorf("%d descriptors, before %d", after, descriptors)
	}
	for _, path := range []string{"/a/b", "/a", "/closed", "/top"} {
		if got := statOf(t, to+path).Mtim; got != unix.NsecToTimespec(old.UnixNano()) {
			t.Errorf("%s was changed at %v", path, got)
		}
	}
	for path, want := range map[string]string{"/opaque": opaqueAttr + " ", "/opaque/below": "", "/top": ""} {
		if got := attributes(t, to+path); got != want {
			t.Errorf("%s has %q, want %q", path, got, want)
		}
	}
	if got, err := opaque(openTestDir(t, to+"/opaque")); got != 'y' || err != nil {
		t.Errorf("opaque is %q, %v", got, err)
	}
	if st := statOf(t, to+"/top"); st.Ino == statOf(t, from+"/top").Ino {
		t.Error("a file was linked")
	}
	must(t, os.Remove(from+"/cfg/secret"))
	must(t, os.Remove(from+"/a/fifo"))
	must(t, os.Remove(from+"/a/socket"))
	must(t, unix.Chmod(from+"/setid", 0o755))
	must(t, unix.Chmod(from+"/opaque", 0o1711))
	if got, want := shape(t, to), shape(t, from); got != want {
		t.Errorf("made\n%s\nof\n%s", got, want)
	}
}

func TestCopyTreeRefuses(t *testing.T) {
	if err := trusted(); err != nil {
		t.Skip(err)
	}
	for want, plant := range map[string]func(dir string) error{
		`"a/null": neither a file nor a directory nor a link`: func(dir string) error { return unix.Mknod(dir+"/a/null", unix.S_IFCHR|0o644, 0x103) },
		`"a/disk": neither a file nor a directory nor a link`: func(dir string) error { return unix.Mknod(dir+"/a/disk", unix.S_IFBLK, 0) },
		// A name costs its server nothing, and the copy a whole file.
		`"a/one": files with more than one name hold more than 1024 MiB`: func(dir string) error {
			putFile(t, dir+"/a/one", "")
			fd, err := unix.Open(dir+"/a/one", unix.O_WRONLY, 0)
			must(t, err)
			defer unix.Close(fd)
			must(t, unix.Fallocate(fd, 0, 0, maxLinked+1))
			mkdir(t, dir+"/b")
			return os.Link(dir+"/a/one", dir+"/b/two")
		},
	} {
		dir := diskDir(t)
		mkdir(t, dir+"/from/a")
		mkdir(t, dir+"/to")
		must(t, plant(dir+"/from"))
		if _, _, err := CopyTree(t.Context(), openTestDir(t, dir+"/from"), openTestDir(t, dir+"/to"), nil, nil); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A server can make a file of any size that takes no room.
func TestCopyKeepsHoles(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const mib = 1 << 20
	for what, dirs := range map[string]func() (from, to string){
		"within a file system": func() (string, string) { dir := diskDir(t); return dir + "/from", dir + "/to" },
		"to another":           func() (string, string) { return diskDir(t), memoryDir(t) + "/to" },
		"from another":         func() (string, string) { return memoryDir(t) + "/from", diskDir(t) },
	} {
		from, to := dirs()
		mkdir(t, from)
		mkdir(t, to)
		sparse := func(name string, size int64, texts map[int64]string) {
			f, err := os.Create(from + "/" + name)
			must(t, err)
			defer f.Close()
			for at, text := range texts {
				_, err := f.WriteAt([]byte(text), at)
				must(t, err)
			}
			must(t, f.Truncate(size))
		}
		const large = 1 << 40
		sparse("hole", large, nil)
		sparse("one", large, map[int64]string{large / 2: "middle"})
		sparse("ends", 64*mib, map[int64]string{0: "first", 64*mib - 4: "last"})
		sparse("dense", 5, map[int64]string{0: "dense"})
		sparse("empty", 0, nil)
		files, bytes, err := CopyTree(t.Context(), openTestDir(t, from), openTestDir(t, to), nil, nil)
		if files != 5 || bytes != 2*large+64*mib+5 || err != nil {
			t.Errorf("%s: %d files, %d bytes, %v", what, files, bytes, err)
		}
		for name, most := range map[string]int64{"hole": 0, "one": 1, "ends": 2, "dense": 1, "empty": 0} {
			one, two := statOf(t, from+"/"+name), statOf(t, to+"/"+name)
			if two.Size != one.Size || two.Blocks*512 > most*mib {
				t.Errorf("%s: %s has %d bytes in %d blocks, the copy %d in %d", what, name, one.Size, one.Blocks, two.Size, two.Blocks)
			}
		}
		for name, texts := range map[string]map[int64]string{"one": {large/2 - 2: "\x00\x00middle\x00"}, "ends": {0: "first\x00", 64*mib - 5: "\x00last"}, "dense": {0: "dense"}} {
			f, err := os.Open(to + "/" + name)
			must(t, err)
			defer f.Close()
			for at, text := range texts {
				got := make([]byte, len(text))
				if _, err := f.ReadAt(got, at); err != nil || string(got) != text {
					t.Errorf("%s: %s says %q at %d, %v", what, name, got, at, err)
				}
			}
		}
	}
}

// What a file system keeps for root is not for the files of a server.
func TestCopyTreeEndsWithTheRoom(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	from, to := diskDir(t), diskDir(t)
	must(t, unix.Mount("none", to, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { must(t, unix.Unmount(to, 0)) })
	putFile(t, from+"/a", strings.Repeat("x", 3<<20))
	if _, _, err := CopyTree(t.Context(), openTestDir(t, from), openTestDir(t, to), nil, nil); !errors.Is(err, unix.ENOSPC) || !strings.HasPrefix(err.Error(), `"a": `) {
		t.Errorf("a large file: %v", err)
	}
	if got := listDir(t, to); got != "" {
		t.Errorf("a part of a file stays: %s", got)
	}
	putFile(t, to+"/other", strings.Repeat("x", 1<<20))
	must(t, os.Remove(from+"/a"))
	must(t, os.Symlink("nowhere", from+"/link"))
	if _, _, err := CopyTree(t.Context(), openTestDir(t, from), openTestDir(t, to), nil, nil); !errors.Is(err, unix.ENOSPC) || !strings.HasPrefix(err.Error(), `"link": `) {
		t.Errorf("a link: %v", err)
	}
}

func TestCopyTreeEndsWithItsContext(t *testing.T) {
	if err := trusted(); err != nil {
		t.Skip(err)
	}
	from, to := t.TempDir(), t.TempDir()
	makeWide(t, from+"/wide", 2*noteFiles)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var noted uint64
	_, _, err := CopyTree(ctx, openTestDir(t, from), openTestDir(t, to), nil, func(files, _ uint64) { noted = files; cancel() })
	if !errors.Is(err, context.Canceled) || noted != noteFiles {
		t.Errorf("%v after %d files", err, noted)
	}
}
