package units

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace runs the calling test again, as a process with a mount namespace of its own that ends with it. It returns true there,
// and false in the process that waited for it.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const key = "LEFT4_TEST_NAMESPACE"
	if os.Getenv(key) == t.Name() {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), key+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in a mount namespace: %v\n%s", err, out)
	}
	return false
}

// diskDir is a directory on a real file system, which the upper directory of an overlay needs.
func diskDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "left4-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func openTestDir(t *testing.T, path string) int {
	t.Helper()
	fd, err := openAbs(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) { t.Helper(); must(t, os.MkdirAll(path, 0o755)) }

func putFile(t *testing.T, path, text string) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func getFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

// snapshot describes everything below a directory, times of change included: what nobody touched gives the same snapshot.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%q %o %d:%d %d %v %v", path, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim))
		return nil
	}))
	return strings.Join(lines, "\n")
}

func listDir(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	sort.Strings(all)
	return strings.Join(all, " ")
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestOpenBeneath(t *testing.T) {
	dir := t.TempDir()
	putFile(t, dir+"/in/file", "x")
	putFile(t, dir+"/outside", "x")
	must(t, os.Symlink("file", dir+"/in/link"))
	must(t, os.Symlink("../in", dir+"/in/dirlink"))
	must(t, os.Symlink("/proc/self/fd", dir+"/in/magic"))
	fd := openTestDir(t, dir+"/in")
	for path, want := range map[string]error{
		"file":         nil,
		".":            nil,
		"missing":      unix.ENOENT,
		"link":         unix.ELOOP,
		"dirlink/file": unix.ELOOP,
		"magic/0":      unix.ELOOP,
		"../outside":   unix.EXDEV,
		"/etc/passwd":  unix.EXDEV,
		"file/more":    unix.ENOTDIR,
	} {
		got, err := OpenBeneath(fd, path, unix.O_RDONLY, 0)
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", path, err, want)
		}
		if err == nil {
			unix.Close(got)
		}
	}
}

func TestMkdirAllBeneath(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, dir+"/old")
	must(t, os.Chmod(dir+"/old", 0o711))
	must(t, os.Symlink("old", dir+"/link"))
	fd := openTestDir(t, dir)
	before := openDescriptors(t)
	for range 2 {
		got, err := MkdirAllBeneath(fd, "old/new/deep", 0o750, os.Getuid(), os.Getgid())
		must(t, err)
		unix.Close(got)
	}
	for path, mode := range map[string]fs.FileMode{"old": 0o711, "old/new": 0o750, "old/new/deep": 0o750} {
		info, err := os.Lstat(dir + "/" + path)
		must(t, err)
		if info.Mode().Perm() != mode {
			t.Errorf("%s: mode %o, want %o", path, info.Mode().Perm(), mode)
		}
	}
	for _, path := range []string{"link/x", "link", "../x", "/x", "", "a//b", "a/./b"} {
		if got, err := MkdirAllBeneath(fd, path, 0o755, -1, -1); err == nil {
			t.Errorf("%q was made", path)
			unix.Close(got)
		}
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

func TestReadFileBeneath(t *testing.T) {
	dir := t.TempDir()
	putFile(t, dir+"/file", "12345")
	must(t, unix.Mkfifo(dir+"/fifo", 0o644))
	must(t, os.Symlink("file", dir+"/link"))
	fd := openTestDir(t, dir)
	if data, err := ReadFileBeneath(fd, "file", 5); err != nil || string(data) != "12345" {
		t.Errorf("got %q, %v", data, err)
	}
	if _, err := ReadFileBeneath(fd, "file", 4); err == nil {
		t.Error("a file over the limit was read")
	}
	for _, path := range []string{"fifo", "link", ".", "missing"} {
		if _, err := ReadFileBeneath(fd, path, 5); err == nil {
			t.Errorf("%q was read", path)
		}
	}
}

func TestWriteFileAtomic(t *testing.T) {
	dir := t.TempDir()
	uid, gid := os.Getuid(), os.Getgid()
	putFile(t, dir+"/outside", "secret")
	d := dir + "/d"
	mkdir(t, d)
	fd := openTestDir(t, d)

	step := func(data string, mode uint32, want bool) {
		t.Helper()
		changed, err := WriteFileAtomic(fd, "f", []byte(data), mode, uid, gid)
		must(t, err)
		if changed != want {
			t.Errorf("changed %v, want %v", changed, want)
		}
		if got := getFile(t, d+"/f"); got != data {
			t.Errorf("holds %q, want %q", got, data)
		}
		info, err := os.Lstat(d + "/f")
		must(t, err)
		if !info.Mode().IsRegular() || info.Mode().Perm() != fs.FileMode(mode) {
			t.Errorf("mode %v, want %o", info.Mode(), mode)
		}
	}
	step("one", 0o600, true)
	before := snapshot(t, d)
	step("one", 0o600, false)
	if after := snapshot(t, d); after != before {
		t.Errorf("an unchanged file was touched:\n%s\n%s", before, after)
	}
	step("one more", 0o600, true)
	step("one", 0o600, true)
	step("one", 0o644, true)
	step("", 0o644, true)

	for what, plant := range map[string]func() error{
		"link":      func() error { return os.Symlink("../outside", d+"/f") },
		"hard link": func() error { return os.Link(dir+"/outside", d+"/f") },
		"fifo":      func() error { return unix.Mkfifo(d+"/f", 0o644) },
	} {
		must(t, os.Remove(d+"/f"))
		must(t, plant())
		step("new", 0o644, true)
		if got := getFile(t, dir+"/outside"); got != "secret" {
			t.Errorf("through a %s the outside was written: %q", what, got)
		}
	}

	must(t, os.Remove(d+"/f"))
	mkdir(t, d+"/f/sub")
	if _, err := WriteFileAtomic(fd, "f", []byte("x"), 0o644, uid, gid); !errors.Is(err, unix.EISDIR) {
		t.Errorf("over a directory: %v", err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "a\x00b", strings.Repeat("n", 256)} {
		if _, err := WriteFileAtomic(fd, name, nil, 0o644, uid, gid); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	if got := listDir(t, d); got != "f" {
		t.Errorf("left behind: %s", got)
	}
}

func TestRemoveTree(t *testing.T) {
	oddNames := []string{"a b", "new\nline", "\xff\xfe", "-rf", "*", "\\", "tab\t", ".left4-1", ".left4-2", strings.Repeat("n", 255)}
	for what, make := range map[string]func(t *testing.T, path string){
		"nothing":   func(t *testing.T, path string) {},
		"file":      func(t *testing.T, path string) { putFile(t, path, "x") },
		"empty":     func(t *testing.T, path string) { mkdir(t, path) },
		"fifo":      func(t *testing.T, path string) { must(t, unix.Mkfifo(path, 0)) },
		"link":      func(t *testing.T, path string) { must(t, os.Symlink("../outside", path)) },
		"dead link": func(t *testing.T, path string) { must(t, os.Symlink("nowhere", path)) },
		"links inside": func(t *testing.T, path string) {
			mkdir(t, path+"/sub")
			must(t, os.Symlink("../outside", path+"/link"))
			must(t, os.Symlink("../../outside", path+"/sub/link"))
			must(t, os.Symlink("/", path+"/sub/root"))
			must(t, os.Link(filepath.Dir(path)+"/outside/file", path+"/sub/hard"))
		},
		"odd names": func(t *testing.T, path string) {
			for _, name := range oddNames {
				putFile(t, path+"/"+name+"/"+name, "x")
			}
		},
		"shut directories": func(t *testing.T, path string) {
			putFile(t, path+"/a/b/c/file", "x")
			putFile(t, path+"/ro/file", "x")
			for _, sub := range []string{"/a/b/c", "/a/b", "/a", ""} {
				must(t, os.Chmod(path+sub, 0))
				if sub == "/a" {
					must(t, os.Chmod(path+"/ro", 0o555))
				}
			}
		},
		"wide": func(t *testing.T, path string) {
			for i := range 3000 {
				putFile(t, fmt.Sprintf("%s/%d/file", path, i), "")
			}
		},
		"deep": func(t *testing.T, path string) { makeDeep(t, path, 10_000) },
		"deep and shut": func(t *testing.T, path string) {
			makeDeep(t, path, 100)
			for at, i := path, 0; i < 40; i++ {
				at += "/d"
				defer func() { must(t, os.Chmod(at, 0)) }()
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			putFile(t, dir+"/outside/file", "x")
			make(t, dir+"/tree")
			outside := func() string {
				// A hard link that goes changes the file's time of change, nothing else.
				info, err := os.Stat(dir + "/outside/file")
				must(t, err)
				return listDir(t, dir+"/outside") + info.Mode().String() + getFile(t, dir+"/outside/file")
			}
			before, fds := outside(), openDescriptors(t)
			fd := openTestDir(t, filepath.Dir(dir))
			for range 2 {
				must(t, RemoveTree(fd, filepath.Base(dir)+"/tree"))
			}
			if got := listDir(t, dir); got != "outside" {
				t.Errorf("left: %s", got)
			}
			if after := outside(); after != before {
				t.Errorf("outside changed: %s, was %s", after, before)
			}
			if now := openDescriptors(t); now != fds+1 {
				t.Errorf("%d descriptors are open, before %d", now, fds)
			}
		})
	}

	dir := t.TempDir()
	mkdir(t, dir+"/in")
	putFile(t, dir+"/outside/file", "x")
	must(t, os.Symlink("../outside", dir+"/in/link"))
	fd := openTestDir(t, dir+"/in")
	for _, name := range []string{"", ".", "..", "../outside", "link/file", "/", dir + "/outside"} {
		if err := RemoveTree(fd, name); err == nil {
			t.Errorf("%q was removed", name)
		}
	}
	must(t, RemoveTree(fd, "not/there"))
	getFile(t, dir+"/outside/file")
}

// makeDeep makes a chain of directories that is too long for a path, with a file in each.
func makeDeep(t *testing.T, path string, depth int) {
	t.Helper()
	mkdir(t, path)
	at, err := openAbs(path)
	must(t, err)
	for range depth {
		next, err := mkdirOpen(at, "d", 0o755, -1, -1)
		must(t, err)
		file, err := unix.Openat(next, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		must(t, err)
		unix.Close(file)
		unix.Close(at)
		at = next
	}
	unix.Close(at)
}

func TestRemoveTreeInterrupted(t *testing.T) {
	// What an interrupted removal of a deep tree leaves: directories that were moved to the top.
	dir := t.TempDir()
	makeDeep(t, dir+"/tree", 100)
	makeDeep(t, dir+"/tree/.left4-1", 70)
	mkdir(t, dir+"/tree/.left4-2")
	// A descriptor that only names the directory does, too.
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, RemoveTree(fd, "tree"))
	if got := listDir(t, dir); got != "" {
		t.Errorf("left: %s", got)
	}
}

func TestRemoveTreeMounts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := diskDir(t)
	putFile(t, dir+"/outside/file", "x")
	for what, point := range map[string]string{"at the top": "tree", "inside": "tree/sub/point", "with odd name": "tree/a b\\\n"} {
		for _, kind := range []string{"tmpfs", "bind", "file"} {
			t.Run(kind+" "+what, func(t *testing.T) {
				putFile(t, dir+"/tree/first", "x")
				path := dir + "/" + point
				inside := path + "/file"
				switch kind {
				case "tmpfs":
					mkdir(t, path)
					must(t, unix.Mount("none", path, "tmpfs", 0, ""))
					putFile(t, path+"/file", "x")
				case "bind":
					mkdir(t, path)
					must(t, unix.Mount(dir+"/outside", path, "", unix.MS_BIND, ""))
				case "file":
					if point == "tree" {
						must(t, os.RemoveAll(path))
					}
					putFile(t, path, "")
					must(t, unix.Mount(dir+"/outside/file", path, "", unix.MS_BIND, ""))
					inside = path
				}
				err := RemoveTree(openTestDir(t, dir), "tree")
				if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q is mounted", path)) {
					t.Errorf("got %v", err)
				}
				getFile(t, inside)
				getFile(t, dir+"/outside/file")
				if point != "tree" {
					getFile(t, dir+"/tree/first")
				}

				// The guard that looks at mountinfo is one; the walk has its own, for a mount that appears meanwhile.
				if err := (&remover{}).remove(openTestDir(t, dir), "tree", 0); !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EBUSY) {
					t.Errorf("the walk says %v", err)
				}
				getFile(t, inside)
				getFile(t, dir+"/outside/file")

				must(t, unix.Unmount(path, 0))
				must(t, RemoveTree(openTestDir(t, dir), "tree"))
				if got := listDir(t, dir); got != "outside" {
					t.Errorf("left: %s", got)
				}
			})
		}
	}
}
