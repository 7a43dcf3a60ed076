package units

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// shape describes a tree without what a copy of it need not have: inodes and times of directories.
func shape(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		line := fmt.Sprintf("%q %o %d:%d", path[len(dir)+1:], st.Mode, st.Uid, st.Gid)
		switch {
		case e.Type().IsRegular():
			line += fmt.Sprintf(" %q %d", getFile(t, path), st.Mtim.Nano())
		case e.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			must(t, err)
			line += fmt.Sprintf(" -> %q", target)
		}
		lines = append(lines, line)
		return nil
	}))
	return strings.Join(lines, "\n")
}

func TestLinkTree(t *testing.T) {
	dir := t.TempDir()
	from, to := dir+"/from", dir+"/to"
	putFile(t, from+"/top", "12345")
	putFile(t, from+"/a/b/file", "123")
	putFile(t, from+"/a/b/\xff\n\\", "")
	putFile(t, from+"/gone/x/y", "x")
	putFile(t, from+"/part/kept", "x")
	putFile(t, from+"/part/gone", "x")
	putFile(t, from+"/part/sub/gone", "x")
	must(t, os.Symlink("../../etc/nowhere", from+"/a/link"))
	must(t, os.Symlink("a", from+"/dirlink"))
	must(t, os.Symlink("a", from+"/gonelink"))
	mkdir(t, from+"/empty")
	must(t, os.Chmod(from+"/empty", 0o1711))
	must(t, os.Chmod(from+"/a/b", 0o750))
	if os.Getuid() == 0 {
		must(t, os.Chmod(from+"/a/b", 0))
		must(t, os.Chmod(from+"/empty", 0))
		must(t, os.Lchown(from+"/a/link", server, server))
		must(t, os.Chown(from+"/a", server, server))
	}
	mkdir(t, to)
	before := openDescriptors(t)
	skip := []string{"gone", "gone/x", "part/gone", "part/sub", "part/sub/gone", "gonelink"}
	files, bytes, err := LinkTree(t.Context(), openTestDir(t, from), openTestDir(t, to), skip, nil)
	if files != 6 || bytes != 9 || err != nil {
		t.Errorf("%d files, %d bytes, %v", files, bytes, err)
	}
	if after := openDescriptors(t); after != before+2 {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	var one, two unix.Stat_t
	must(t, unix.Stat(from+"/a/b/file", &one))
	must(t, unix.Stat(to+"/a/b/file", &two))
	if one.Ino != two.Ino {
		t.Error("a file was copied")
	}
	for _, path := range skip {
		if path != "gone/x" && path != "part/sub/gone" {
			must(t, os.RemoveAll(from+"/"+path))
		}
	}
	if got, want := shape(t, to), shape(t, from); got != want {
		t.Errorf("made\n%s\nof\n%s", got, want)
	}
	if files, bytes, err := CountTree(t.Context(), openTestDir(t, to)); files != 6 || bytes != 9 || err != nil {
		t.Errorf("CountTree: %d files, %d bytes, %v", files, bytes, err)
	}
}

func TestLinkTreeRefuses(t *testing.T) {
	dir := t.TempDir()
	from := openTestDir(t, dir)
	putFile(t, dir+"/a/b\n", "x")
	must(t, os.Symlink("a", dir+"/link"))
	for skip, want := range map[string]string{
		"a/\xff":     `"a/\xff": no such file or directory`,
		"nothing":    `"nothing": no such file or directory`,
		"nothing/at": `"nothing/at": no such file or directory`,
		"link/b\n":   `"link/b\x0a": too many levels of symbolic links`,
		"a/b\n/c":    `"a/b\x0a/c": not a directory`,
		"":           `"" cannot be left out`,
		"a/":         `"a/" cannot be left out`,
		"../a":       `"../a" cannot be left out`,
		"/a":         `"/a" cannot be left out`,
	} {
		to := t.TempDir()
		_, _, err := LinkTree(t.Context(), from, openTestDir(t, to), []string{"a", skip}, nil)
		if err == nil || err.Error() != want {
			t.Errorf("without %q: %v", skip, err)
		}
		if got := listDir(t, to); got != "" {
			t.Errorf("without %q: made %s", skip, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := LinkTree(ctx, from, openTestDir(t, t.TempDir()), nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	must(t, unix.Mkfifo(dir+"/a/fifo\x1b", 0o644))
	_, _, err := LinkTree(t.Context(), from, openTestDir(t, t.TempDir()), nil, nil)
	if want := `"a/fifo\x1b": neither a file nor a directory nor a link`; err == nil || err.Error() != want {
		t.Errorf("a FIFO: %v", err)
	}
	to := t.TempDir()
	putFile(t, to+"/link", "x")
	if _, _, err := LinkTree(t.Context(), from, openTestDir(t, to), []string{"a/fifo\x1b"}, nil); !errors.Is(err, unix.EEXIST) {
		t.Errorf("something is there: %v", err)
	}
}

// Where the file system refuses links there are copies, with owner, mode and time.
func TestLinkTreeCopies(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	from, to := diskDir(t), t.TempDir()
	must(t, unix.Mount("none", to, "tmpfs", 0, ""))
	defer unix.Unmount(to, unix.MNT_DETACH)
	putFile(t, from+"/sub/file", strings.Repeat("0123456789abcdef", 100_000))
	putFile(t, from+"/sub/empty", "")
	must(t, os.Chown(from+"/sub/file", server, server))
	must(t, os.Chmod(from+"/sub/file", 0o640))
	must(t, unix.UtimesNano(from+"/sub/file", []unix.Timespec{{Sec: 1}, {Sec: 1234567890, Nsec: 123456789}}))
	files, bytes, err := LinkTree(t.Context(), openTestDir(t, from), openTestDir(t, to), nil, nil)
	if files != 2 || bytes != 1_600_000 || err != nil {
		t.Errorf("%d files, %d bytes, %v", files, bytes, err)
	}
	if shape(t, to) != shape(t, from) {
		t.Error("the copy differs")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	st, err := statAt(openTestDir(t, from+"/sub"), "file")
	must(t, err)
	if err := copyFile(ctx, openTestDir(t, from+"/sub"), openTestDir(t, to), "file", st); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if got := listDir(t, to); got != "sub" {
		t.Errorf("left: %s", got)
	}
}

func TestCopyBytes(t *testing.T) {
	dir := t.TempDir()
	text := strings.Repeat("x", 300<<10) + "end"
	putFile(t, dir+"/in", text)
	in, err := os.Open(dir + "/in")
	must(t, err)
	defer in.Close()
	// copy_file_range refuses files that are open for appending, so all is read and written.
	out, err := os.OpenFile(dir+"/out", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	defer out.Close()
	must(t, copyBytes(t.Context(), int(in.Fd()), int(out.Fd()), int64(len(text))))
	if getFile(t, dir+"/out") != text {
		t.Error("the copy differs")
	}
	if err := copyBytes(t.Context(), int(in.Fd()), int(out.Fd()), 1); !errors.Is(err, errChanged) {
		t.Errorf("a file that became shorter: %v", err)
	}
}

func TestMergeTree(t *testing.T) {
	dir := t.TempDir()
	old, delta, into := dir+"/old", dir+"/delta", dir+"/into"
	for _, name := range []string{"kept", "a/kept", "a/file", "a/link", "a/b/deep"} {
		putFile(t, old+"/"+name, "old "+name)
	}
	mkdir(t, into)
	_, _, err := LinkTree(t.Context(), openTestDir(t, old), openTestDir(t, into), nil, nil)
	must(t, err)
	must(t, os.Chmod(into+"/a/b", 0o700))
	before := shape(t, old)

	putFile(t, delta+"/new/sub/file", "new")
	putFile(t, delta+"/a/file", "new")
	must(t, os.Symlink("file", delta+"/a/link"))
	putFile(t, delta+"/a/b/deep", "new")
	putFile(t, delta+"/a/b/new", "new")
	must(t, os.Link(old+"/a/kept", delta+"/a/kept"))
	mkdir(t, delta+"/a/b/c")
	must(t, MergeTree(t.Context(), openTestDir(t, delta), openTestDir(t, into)))

	for name, want := range map[string]string{
		"kept": "old kept", "a/kept": "old a/kept", "a/file": "new", "a/link": "new", "a/b/deep": "new", "a/b/new": "new", "new/sub/file": "new",
	} {
		if got := getFile(t, into+"/"+name); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	if got := listDir(t, into+"/a/b"); got != "c deep new" {
		t.Errorf("a/b holds %s", got)
	}
	if info, err := os.Stat(into + "/a/b"); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("a/b is %v, %v", info.Mode(), err)
	}
	if got := listDir(t, delta); got != "" {
		t.Errorf("left: %s", got)
	}
	if after := shape(t, old); after != before {
		t.Errorf("the older tree was\n%s\nis\n%s", before, after)
	}
}

func TestMergeTreeRefuses(t *testing.T) {
	for want, plant := range map[string]func(delta, into string){
		`"a/x": a file cannot take the place of a directory`: func(delta, into string) {
			putFile(t, delta+"/a/x", "x")
			mkdir(t, into+"/a/x")
		},
		`"a/l": a file cannot take the place of a directory`: func(delta, into string) {
			mkdir(t, delta+"/a")
			must(t, os.Symlink("x", delta+"/a/l"))
			mkdir(t, into+"/a/l")
		},
		`"a\x0a": a directory cannot take the place of a file`: func(delta, into string) {
			mkdir(t, delta+"/a\n")
			must(t, os.Symlink("/", into+"/a\n"))
		},
		`"a/fifo": neither a file nor a directory nor a link`: func(delta, into string) {
			mkdir(t, delta+"/a")
			mkdir(t, into+"/a")
			must(t, unix.Mkfifo(delta+"/a/fifo", 0o644))
		},
	} {
		delta, into := t.TempDir(), t.TempDir()
		plant(delta, into)
		if err := MergeTree(t.Context(), openTestDir(t, delta), openTestDir(t, into)); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// shmDir is a directory where many files are made quickly.
func shmDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "left4-test-")
	must(t, err)
	t.Cleanup(func() {
		fd, err := openAbs("/dev/shm")
		must(t, err)
		defer unix.Close(fd)
		must(t, RemoveTree(fd, filepath.Base(dir))) // os.RemoveAll opens a directory per level
	})
	return dir
}

// makeWide makes a directory with many names of 100 bytes, each tenth a directory.
func makeWide(t *testing.T, path string, names int) {
	t.Helper()
	mkdir(t, path)
	fd := openTestDir(t, path)
	for i := range names {
		name := fmt.Sprintf("%0100d", i)
		if i%10 == 0 {
			must(t, unix.Mkdirat(fd, name, 0o755))
		} else {
			must(t, unix.Mknodat(fd, name, unix.S_IFREG|0o644, 0))
		}
	}
}

// grown measures what the heap holds more than at first, at the most.
func grown() (look func(), most func() uint64) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	first, peak := heap(), uint64(0)
	return func() { peak = max(peak, heap()) }, func() uint64 { return peak - min(peak, first) }
}

// What a walk holds must not grow with the tree: neither descriptors, nor memory with the number of names.
func TestTreesWithoutBounds(t *testing.T) {
	const depth, wide = 10_000, 200_000
	dir := shmDir(t)
	makeDeep(t, dir+"/from/deep", depth)
	makeWide(t, dir+"/from/wide", wide)
	mkdir(t, dir+"/to")
	mkdir(t, dir+"/again")
	from, to, again := openTestDir(t, dir+"/from"), openTestDir(t, dir+"/to"), openTestDir(t, dir+"/again")

	descriptors := 0
	look, most := grown()
	files, _, err := LinkTree(t.Context(), from, to, nil, func(files, _ uint64) {
		descriptors = max(descriptors, openDescriptors(t))
		if files%(16*noteFiles) == 0 {
			look()
		}
	})
	if files != depth+wide*9/10 || err != nil {
		t.Fatalf("%d files, %v", files, err)
	}
	if descriptors < 100 || descriptors > walkOpen+100 {
		t.Errorf("%d descriptors were open", descriptors)
	}
	// 20 000 names of 100 bytes in one piece of memory each are 2.5 MB; all names would be 25 MB.
	if grew := most(); grew < 1<<20 || grew > 12<<20 {
		t.Errorf("took %d bytes", grew)
	}

	_, _, err = LinkTree(t.Context(), from, again, nil, nil)
	must(t, err)
	must(t, MergeTree(t.Context(), to, again))
	if got := listDir(t, dir+"/to"); got != "" {
		t.Errorf("left: %s", got)
	}
	if files, _, err := CountTree(t.Context(), again); files != depth+wide*9/10 || err != nil {
		t.Errorf("CountTree: %d files, %v", files, err)
	}
}

func TestLinkFile(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/from", 0o755), os.Mkdir(dir+"/to", 0o755), os.WriteFile(dir+"/from/a", []byte("text"), 0o644),
		os.Symlink("a", dir+"/from/link"), os.WriteFile(dir+"/to/taken", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	from, err1 := unix.Open(dir+"/from", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	to, err2 := unix.Open(dir+"/to", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(from)
	defer unix.Close(to)
	if err := LinkFile(t.Context(), from, "a", to, "b"); err != nil {
		t.Fatal(err)
	}
	one, err1 := os.Stat(dir + "/from/a")
	two, err2 := os.Stat(dir + "/to/b")
	if err1 != nil || err2 != nil || !os.SameFile(one, two) {
		t.Error(err1, err2)
	}
	for _, c := range []struct {
		name, as string
		want     error
	}{{"a", "taken", unix.EEXIST}, {"none", "c", unix.ENOENT}, {"link", "c", nil}, {"../from/a", "c", unix.EINVAL}, {"a", "../c", unix.EINVAL}} {
		if err := LinkFile(t.Context(), from, c.name, to, c.as); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s as %s: %v", c.name, c.as, err)
		}
	}
}
