package units

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// needTrusted skips where layers with whiteouts and opaque directories cannot be made, nor read.
func needTrusted(t *testing.T) {
	t.Helper()
	if err := trusted(); err != nil {
		t.Skip(err)
	}
}

// makeLayer makes a layer of lines like "a/b file text", "a dir", "a opaque", "a link target", "a whiteout", "a empty" (a whiteout of the
// newer kind), "a marked" (the directory of such), "a fifo".
func makeLayer(t *testing.T, dir string, lines ...string) int {
	t.Helper()
	mkdir(t, dir)
	for _, line := range lines {
		name, what, _ := strings.Cut(line, " ")
		what, text, _ := strings.Cut(what, " ")
		name = dir + "/" + name
		mkdir(t, path.Dir(name))
		switch what {
		case "file":
			putFile(t, name, text)
		case "link":
			must(t, os.Symlink(text, name))
		case "whiteout":
			must(t, unix.Mknod(name, unix.S_IFCHR, 0))
		case "empty":
			putFile(t, name, "")
			must(t, unix.Setxattr(name, whiteoutAttr, nil, 0))
		case "fifo":
			must(t, unix.Mkfifo(name, 0o644))
		default:
			mkdir(t, name)
			if value := map[string]string{"opaque": "y", "marked": "x", "odd": "yy", "dir": ""}[what]; value != "" {
				must(t, unix.Setxattr(name, opaqueAttr, []byte(value), 0))
			}
		}
	}
	return openTestDir(t, dir)
}

func TestFindInLayers(t *testing.T) {
	needTrusted(t)
	for what, c := range map[string]struct {
		path   string
		layers [][]string // of each layer
		want   string
	}{
		"one file":                         {"a/f", [][]string{{"a/f file"}}, "0 file"},
		"nowhere":                          {"a/f", [][]string{{"a/g file"}, {"f file"}}, ""},
		"the top":                          {"", [][]string{{}, {". opaque"}, {}}, "0 directory, 1 directory, 2 directory"},
		"a file over a file":               {"f", [][]string{{"f file"}, {}, {"f file"}}, "0 file, 2 hidden file"},
		"directories merge":                {"a", [][]string{{"a dir"}, {"a dir"}}, "0 directory, 1 directory"},
		"a file over a directory":          {"a", [][]string{{"a file"}, {"a dir"}}, "0 file, 1 hidden directory"},
		"a directory over a file":          {"a", [][]string{{"a dir"}, {"a file"}, {"a dir"}}, "0 directory, 1 hidden file, 2 hidden directory"},
		"a link over a directory":          {"a/f", [][]string{{"a link b", "b/f file"}, {"a/f file"}}, "1 hidden file"},
		"a link at the end":                {"a", [][]string{{"a link b"}, {"a file"}}, "0 link, 1 hidden file"},
		"a FIFO":                           {"a", [][]string{{"a fifo"}, {"a file"}}, "0 other, 1 hidden file"},
		"a whiteout":                       {"f", [][]string{{"f whiteout"}, {"f file"}}, "0 whiteout, 1 hidden file"},
		"a whiteout above a whiteout":      {"f", [][]string{{"f whiteout"}, {"f whiteout"}, {"f file"}}, "0 whiteout, 1 hidden whiteout, 2 hidden file"},
		"a file over a whiteout":           {"f", [][]string{{"f file"}, {"f whiteout"}, {"f file"}}, "0 file, 1 hidden whiteout, 2 hidden file"},
		"a whiteout between directories":   {"a", [][]string{{"a dir"}, {"a whiteout"}, {"a dir"}}, "0 directory, 1 whiteout, 2 hidden directory"},
		"a whiteout of the parent":         {"a/f", [][]string{{"a whiteout"}, {"a/f file"}}, "1 hidden file"},
		"a file for the parent":            {"a/f", [][]string{{"a file"}, {"a/f file"}}, "1 hidden file"},
		"a file for the parent, too low":   {"a/f", [][]string{{"a dir"}, {"a file"}, {"a/f file"}}, "2 hidden file"},
		"an opaque parent":                 {"a/b/f", [][]string{{"a opaque"}, {"a/b/f file"}}, "1 hidden file"},
		"an opaque parent's own":           {"a/b/f", [][]string{{"a opaque", "a/b/f file"}, {"a/b/f file"}}, "0 file, 1 hidden file"},
		"an opaque parent, below":          {"a/f", [][]string{{"a/f whiteout"}, {"a opaque", "a/f file"}, {"a/f file"}}, "0 whiteout, 1 hidden file, 2 hidden file"},
		"an opaque directory":              {"a", [][]string{{"a dir"}, {"a opaque"}, {"a dir"}}, "0 directory, 1 opaque, 2 hidden directory"},
		"another value is not opaque":      {"a", [][]string{{"a odd"}, {"a dir"}}, "0 directory, 1 directory"},
		"a newer whiteout":                 {"a/f", [][]string{{"a marked", "a/f empty"}, {"a/f file"}}, "0 whiteout, 1 hidden file"},
		"a newer whiteout, not marked":     {"a/f", [][]string{{"a/f empty"}, {"a/f file"}}, "0 file, 1 hidden file"},
		"an empty file in a marked one":    {"a/f", [][]string{{"a marked", "a/f file"}, {"a/f file"}}, "0 file, 1 hidden file"},
		"a newer whiteout at a marked top": {"f", [][]string{{". marked", "f empty"}, {"f file"}}, "0 whiteout, 1 hidden file"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			var layers []int
			for i, lines := range c.layers {
				layers = append(layers, makeLayer(t, fmt.Sprintf("%s/%d", dir, i), lines...))
			}
			before := openDescriptors(t)
			found, err := FindInLayers(layers, c.path)
			must(t, err)
			if got := foundText(found); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if after := openDescriptors(t); after != before {
				t.Errorf("%d descriptors, before %d", after, before)
			}
		})
	}
}

func foundText(found []Found) string {
	var all []string
	for _, f := range found {
		hidden := ""
		if f.Hidden {
			hidden = "hidden "
		}
		all = append(all, fmt.Sprintf("%d %s%s", f.Layer, hidden, f.Kind))
	}
	return strings.Join(all, ", ")
}

// To a process without the right the kernel says that nothing is opaque. That is no answer.
func TestUntrusted(t *testing.T) {
	const key = "LEFT4_TEST_UNTRUSTED"
	if os.Getenv(key) == "" {
		if os.Getuid() != 0 {
			t.Skip("only root can be another")
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestUntrusted$", "-test.v")
		cmd.Env = append(os.Environ(), key+"=1")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: server, Gid: server}}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestUntrusted") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir := openTestDir(t, t.TempDir())
	if found, err := FindInLayers([]int{dir}, "a"); !errors.Is(err, ErrUntrusted) {
		t.Errorf("found %v, %v", found, err)
	}
	if all, _, err := ChangesIn(t.Context(), dir, nil, 10); !errors.Is(err, ErrUntrusted) {
		t.Errorf("changes %v, %v", all, err)
	}
	// These do not depend on it.
	if _, _, err := ConflictsIn(t.Context(), []int{dir, dir}, 10); err != nil {
		t.Error(err)
	}
	if _, _, err := ListDir(dir, "", 10); err != nil {
		t.Error(err)
	}
}

func changesText(all []Change) string {
	var lines []string
	for _, c := range all {
		lines = append(lines, fmt.Sprintf("%s %s %d", c.Path, c.Change, c.Size))
	}
	return strings.Join(lines, "\n")
}

func TestChangesIn(t *testing.T) {
	needTrusted(t)
	big := strings.Repeat("x", sameMax+1)
	dir := t.TempDir()
	lowers := []int{
		makeLayer(t, dir+"/1", "a/changed file 1", "a/same file 1", "dir/x file", "gone1 file", "hidden whiteout", "a/link link 1", "a/otherlink link 1",
			"a/typed link 1", "wasdir/x file", "wasfile file", "remade/x file", "merged/only1 file", "shut dir"),
		makeLayer(t, dir+"/2", "a/changed file 2", "a/same file 2", "hidden file 2", "gone2/x/y file", "big file "+big, "merged/only2 file", "remade/y file"),
	}
	upper := makeLayer(t, dir+"/0", "a/changed file one", "a/same file 1", "a/link link 1", "a/otherlink link 2", "a/typed file 1",
		"new/sub/file file 12345", "new/sub/gone whiteout", "gone1 whiteout", "gone2 whiteout", "nothing whiteout", "hidden file 2",
		"wasdir file 1", "wasfile dir", "wasfile/in file 1", "remade opaque", "remade/x file", "big file "+big, "merged/only2 whiteout", "dir dir",
		"merged/fifo fifo", "shut/x file", "odd\n\\/\xff file 1")
	must(t, os.Chmod(dir+"/0/shut", 0))
	before := openDescriptors(t)
	all, more, err := ChangesIn(t.Context(), upper, lowers, 100)
	want := strings.Join([]string{
		"a/changed changed 3",
		"a/otherlink changed 0",
		"a/typed replaced 1",
		"big changed 1048577",
		"gone1 removed 0",
		"gone2 removed 0",
		"hidden added 1", // what the layers hide themselves is not there
		"merged/fifo added 0",
		"merged/only2 removed 0",
		"new added 0",
		"new/sub added 0",
		"new/sub/file added 5",
		`odd\x0a\\ added 0`,
		`odd\x0a\\/\xff added 1`,
		"remade replaced 0",
		"remade/x added 0",
		"shut/x added 0",
		"wasdir replaced 1",
		"wasfile replaced 0",
		"wasfile/in added 1",
	}, "\n")
	if got := changesText(all); got != want || more || err != nil {
		t.Errorf("more %v, %v:\n%s\nwant\n%s", more, err, got, want)
	}
	for n := range len(all) + 1 {
		some, more, err := ChangesIn(t.Context(), upper, lowers, n)
		if !slices.Equal(some, all[:n]) || more != (n < len(all)) || err != nil {
			t.Errorf("at most %d: more %v, %v:\n%s", n, more, err, changesText(some))
		}
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := ChangesIn(ctx, upper, lowers, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A server may make trees and directories as large as its quota allows.
func TestChangesWithoutBounds(t *testing.T) {
	needTrusted(t)
	dir := shmDir(t)
	makeDeep(t, dir+"/0/deep", 10_000)
	mkdir(t, dir+"/0/wide")
	wide := openTestDir(t, dir+"/0/wide")
	const names = 200_000
	for i := range names {
		must(t, unix.Mknodat(wide, fmt.Sprintf("%06d", i*7919%names), unix.S_IFREG|0o644, 0))
	}
	mkdir(t, dir+"/1/wide")
	upper, lower := openTestDir(t, dir+"/0"), openTestDir(t, dir+"/1")

	look, most := grown()
	deep, more, err := ChangesIn(t.Context(), openTestDir(t, dir+"/0/deep"), []int{lower}, 1e6)
	look()
	// All directories "d/d/…/d" come first, down to the longest path that a caller could give back.
	size := 0
	for _, c := range deep {
		if size += len(c.Path); len(c.Path) > maxPath {
			t.Fatalf("a path of %d bytes", len(c.Path))
		}
	}
	if !more || err != nil || len(deep) <= maxPath/2 || size > textMax {
		t.Errorf("%d changes of %d bytes, more %v, %v", len(deep), size, more, err)
	}
	deep = nil
	few, more, err := ChangesIn(t.Context(), openTestDir(t, dir+"/0/wide"), []int{lower}, 3)
	if got := changesText(few); got != "000000 added 0\n000001 added 0\n000002 added 0" || !more || err != nil {
		t.Errorf("more %v, %v:\n%s", more, err, got)
	}
	look()
	if grew := most(); grew > 16<<20 {
		t.Errorf("took %d bytes", grew)
	}

	must(t, unix.Renameat(upper, "deep", lower, "deep"))
	all, more, err := ChangesIn(t.Context(), upper, []int{lower}, names)
	if len(all) != names || more || err != nil {
		t.Fatalf("%d changes, more %v, %v", len(all), more, err)
	}
	for i, c := range all {
		if want := fmt.Sprintf("wide/%06d", i); c.Path != want || c.Change != "added" {
			t.Fatalf("%s %s, want %s", c.Path, c.Change, want)
		}
	}
}

func TestConflictsIn(t *testing.T) {
	dir := t.TempDir()
	var layers []int
	for i, lines := range [][]string{
		{"both file", "a/b/deep file", "a/only0 file", "mixed/x file", "kind/a file", "kind/d link x", "dirs dir", "three file", "z\n\xff file"},
		{"a/b/deep link x", "a/only1 file", "mixed file", "kind/a file", "kind/e fifo", "dirs/x file", "three file", "linked link a"},
		{"both file", "mixed/x file", "kind/d file", "kind/e fifo", "dirs/x dir", "three file", "linked/b/deep file", "z\n\xff link x"},
	} {
		layers = append(layers, makeLayer(t, fmt.Sprintf("%s/%d", dir, i), lines...))
	}
	before := openDescriptors(t)
	all, more, err := ConflictsIn(t.Context(), layers, 100)
	want := strings.Join([]string{
		"a/b/deep [0 1]",
		"both [0 2]",
		"dirs/x [1 2]",
		"kind/a [0 1]",
		"kind/d [0 2]",
		"kind/e [1 2]",
		"linked [1 2]",
		"mixed [0 1 2]",
		"mixed/x [0 2]",
		"three [0 1 2]",
		`z\x0a\xff [0 2]`,
	}, "\n")
	text := func(all []Conflict) string {
		var lines []string
		for _, c := range all {
			lines = append(lines, fmt.Sprintf("%s %v", c.Path, c.Layers))
		}
		return strings.Join(lines, "\n")
	}
	if got := text(all); got != want || more || err != nil {
		t.Errorf("more %v, %v:\n%s\nwant\n%s", more, err, got, want)
	}
	for n := range len(all) + 1 {
		some, more, err := ConflictsIn(t.Context(), layers, n)
		if text(some) != text(all[:n]) || more != (n < len(all)) || err != nil {
			t.Errorf("at most %d: more %v, %v:\n%s", n, more, err, text(some))
		}
	}
	for n := range 2 {
		if all, more, err := ConflictsIn(t.Context(), layers[:n], 100); len(all) != 0 || more || err != nil {
			t.Errorf("of %d layers: %v, more %v, %v", n, all, more, err)
		}
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := ConflictsIn(ctx, layers, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// More names than are held at once, and more layers than an instance can have.
func TestConflictsWithoutBounds(t *testing.T) {
	dir := shmDir(t)
	const names = 60_000
	layers := make([]int, 3)
	for i := range layers {
		mkdir(t, fmt.Sprintf("%s/%d/sub", dir, i))
		layers[i] = openTestDir(t, fmt.Sprintf("%s/%d", dir, i))
		for k := range names {
			// Every tenth name is in two layers, every thirtieth in all.
			if k%10 == 0 && k/10%3 != i || k%30 == 0 || k%3 == i && k%10 != 0 {
				must(t, unix.Mknodat(layers[i], fmt.Sprintf("sub/%06d", k*7919%names), unix.S_IFREG|0o644, 0))
			}
		}
	}
	all, more, err := ConflictsIn(t.Context(), layers, names)
	if len(all) != names/10 || more || err != nil {
		t.Fatalf("%d conflicts, more %v, %v", len(all), more, err)
	}
	sorted := slices.IsSortedFunc(all, func(a, b Conflict) int { return strings.Compare(a.Path, b.Path) })
	three := 0
	for _, c := range all {
		if len(c.Layers) == 3 {
			three++
		}
	}
	if !sorted || three != names/30 {
		t.Errorf("sorted %v, %d of all layers", sorted, three)
	}

	many := make([]int, maxLayers)
	for i := range many {
		path := fmt.Sprintf("%s/many/%d", dir, i)
		putFile(t, path+"/a/b/c/file", "x")
		many[i] = openTestDir(t, path)
	}
	before := openDescriptors(t)
	all, more, err = ConflictsIn(t.Context(), many, 10)
	if len(all) != 1 || all[0].Path != "a/b/c/file" || len(all[0].Layers) != maxLayers || more || err != nil {
		t.Errorf("%d conflicts, more %v, %v", len(all), more, err)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

func TestListDir(t *testing.T) {
	dir := t.TempDir()
	putFile(t, dir+"/a/b\n", "12345")
	mkdir(t, dir+"/a/\xff")
	must(t, os.Symlink("/", dir+"/a/link"))
	must(t, os.Symlink("a", dir+"/link"))
	must(t, unix.Mkfifo(dir+"/a/fifo", 0o644))
	times := []unix.Timespec{{Sec: 1}, {Sec: 1234567890, Nsec: 123456789}}
	for _, name := range []string{"b\n", "\xff", "link", "fifo"} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/a/"+name, times, unix.AT_SYMLINK_NOFOLLOW))
	}
	root := openTestDir(t, dir)
	want := []Entry{
		{`b\x0a`, "file", 5, 1234567890123456},
		{"fifo", "other", 0, 1234567890123456},
		{"link", "link", 0, 1234567890123456},
		{`\xff`, "directory", 0, 1234567890123456},
	}
	for n := 1; n < 6; n++ {
		all, more, err := ListDir(root, "a", n)
		if !slices.Equal(all, want[:min(n, 4)]) || more != (n < 4) || err != nil {
			t.Errorf("at most %d: %+v, more %v, %v", n, all, more, err)
		}
	}
	top, more, err := ListDir(root, "", 10)
	if len(top) != 2 || top[0].Name != "a" || top[1].Name != "link" || more || err != nil {
		t.Errorf("the top: %+v, more %v, %v", top, more, err)
	}
	for path, want := range map[string]error{
		"none":     fs.ErrNotExist,
		"a/none/x": fs.ErrNotExist,
		"a/b\n":    unix.ENOTDIR,
		"a/b\n/x":  unix.ENOTDIR,
		"a/fifo":   unix.ENOTDIR,
		"link":     unix.ELOOP,
		"link/b":   unix.ELOOP,
		"a/link":   unix.ELOOP,
		"..":       unix.EXDEV,
		"/":        unix.EXDEV,
	} {
		all, _, err := ListDir(root, path, 10)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), `"`+FileText(path)+`"`) {
			t.Errorf("%q: %v, %v; want %v", path, all, err, want)
		}
	}
	if _, _, err := ListDir(root, "a", 0); err == nil {
		t.Error("nothing was to be listed")
	}
}

// A directory of many names is not held in memory.
func TestListDirBounded(t *testing.T) {
	dir := shmDir(t)
	makeWide(t, dir+"/wide", 200_000)
	root := openTestDir(t, dir)
	look, most := grown()
	all, more, err := ListDir(root, "wide", 3)
	look()
	if len(all) != 3 || all[2].Name != fmt.Sprintf("%0100d", 2) || !more || err != nil {
		t.Errorf("%+v, more %v, %v", all, more, err)
	}
	if grew := most(); grew > 2<<20 {
		t.Errorf("took %d bytes", grew)
	}
}

// What is told of layers is what the kernel makes of them.
func TestLayersAsTheKernelSeesThem(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	needTrusted(t)
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 4))
			dir := diskDir(t)
			t.Cleanup(func() { unmountBelow(t, dir) })
			o := newOverlay(t, dir, r)
			o.checkFound(t)
			o.checkMergedDirectories(t)
			for range 3 {
				for range 8 {
					o.meddle(t, r)
				}
				o.checkChanges(t)
			}
		})
	}
}

// One layer of many is what the kernel makes of them, and shares their files.
func TestSquashAsTheKernelSeesIt(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	needTrusted(t)
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dir := diskDir(t)
			t.Cleanup(func() { unmountBelow(t, dir) })
			o := newOverlay(t, dir, rand.New(rand.NewPCG(seed, 5)))
			for _, layer := range o.dirs {
				for _, name := range o.paths { // none may be there, and then it is refused
					if kind, _ := seen(t, layer+"/"+name); kind == kindOther {
						must(t, os.Remove(layer+"/"+name))
					}
				}
			}
			mkdir(t, dir+"/whole")
			must(t, squashLayers(t.Context(), o.layers, openTestDir(t, dir+"/whole"), nil))
			for _, name := range o.paths {
				kind, text := seen(t, o.merged+"/"+name)
				got, gotText := seen(t, dir+"/whole/"+name)
				if kind == kindOther {
					kind, text = got, gotText // the kernel remembers a FIFO that was removed below it
				}
				if kind != got || text != gotText {
					t.Errorf("%s: %s %q, but overlayfs has %q %q", name, got, gotText, kind, text)
				}
				for i := range o.layers {
					mark := fmt.Sprintf("%s/m%d", name, i)
					kind, _ := seen(t, o.merged+"/"+mark)
					if got, _ := seen(t, dir+"/whole/"+mark); got != kind {
						t.Errorf("%s: %q, but overlayfs has %q", mark, got, kind)
					}
				}
				var st unix.Stat_t
				if got == kindFile && (unix.Lstat(dir+"/whole/"+name, &st) != nil || st.Nlink < 2) {
					t.Errorf("%s was copied", name)
				}
			}
		})
	}
}

// oracle is an overlay that the kernel has mounted, and one of its lower layers only.
type oracle struct {
	dirs          []string // upper first
	layers        []int
	merged, lower string
	paths         []string
}

func newOverlay(t *testing.T, dir string, r *rand.Rand) *oracle {
	t.Helper()
	o := &oracle{merged: dir + "/merged", lower: dir + "/lower"}
	names := []string{"a", "b", "c"}
	o.paths = names
	for from := 0; len(o.paths) < 3+9+27; from++ {
		for _, name := range names {
			o.paths = append(slices.Clip(o.paths), o.paths[from]+"/"+name)
		}
	}
	const n = 4
	for i := range n {
		layer := fmt.Sprintf("%s/%d", dir, i)
		mkdir(t, layer)
		o.dirs = append(o.dirs, layer)
		for _, name := range o.paths {
			parent, err := os.Lstat(path.Dir(layer + "/" + name))
			if err != nil || !parent.IsDir() || r.IntN(3) == 0 {
				continue
			}
			full := layer + "/" + name
			switch k := r.IntN(20); {
			case k < 9:
				must(t, os.Mkdir(full, 0o755))
				// A whole row of these tells whether this very directory takes part in what is seen.
				putFile(t, fmt.Sprintf("%s/m%d", full, i), "")
				switch {
				case r.IntN(4) == 0:
					must(t, unix.Setxattr(full, opaqueAttr, []byte("y"), 0))
				case r.IntN(4) == 0 && i > 0 && i < n-1:
					// overlayfs looks for none in upper and in the lowest layer.
					must(t, unix.Setxattr(full, opaqueAttr, []byte("x"), 0))
				}
			case k < 13:
				putFile(t, full, fmt.Sprint(i))
			case k < 15:
				must(t, os.Symlink(fmt.Sprint(i), full))
			case k < 18:
				must(t, unix.Mknod(full, unix.S_IFCHR, 0))
			case k < 19:
				mark := make([]byte, 1)
				if _, err := unix.Getxattr(path.Dir(full), opaqueAttr, mark); err == nil && mark[0] == 'x' {
					putFile(t, full, "")
					must(t, unix.Setxattr(full, whiteoutAttr, nil, 0))
				}
			default:
				must(t, unix.Mkfifo(full, 0o644))
			}
		}
		o.layers = append(o.layers, openTestDir(t, layer))
	}
	mkdir(t, dir+"/work")
	mkdir(t, o.merged)
	mkdir(t, o.lower)
	options := "lowerdir=" + strings.Join(o.dirs[1:], ":")
	must(t, unix.Mount("none", o.lower, "overlay", unix.MS_RDONLY, options))
	options += ",upperdir=" + o.dirs[0] + ",workdir=" + dir + "/work"
	for _, option := range mountOptions {
		options += "," + option.key + "=" + option.value
	}
	must(t, unix.Mount("none", o.merged, "overlay", 0, options))
	return o
}

// seen is what there is at a path: a kind, and what is in it. "" is nothing.
func seen(t *testing.T, name string) (kind, text string) {
	t.Helper()
	var st unix.Stat_t
	err := unix.Lstat(name, &st)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return "", ""
	}
	must(t, err)
	switch kind = kindOf(st); kind {
	case kindFile:
		text = getFile(t, name)
	case kindLink:
		text, err = os.Readlink(name)
		must(t, err)
	}
	return kind, text
}

func (o *oracle) checkFound(t *testing.T) {
	t.Helper()
	for _, name := range o.paths {
		found, err := FindInLayers(o.layers, name)
		must(t, err)
		first, layer := "", -1
		for _, f := range found {
			if !f.Hidden && f.Kind != kindWhiteout {
				first, layer = f.Kind, f.Layer
				break
			}
		}
		if first == kindOpaque {
			first = kindDirectory
		}
		kind, text := seen(t, o.merged+"/"+name)
		if kind != first || text != "" && text != fmt.Sprint(layer) {
			t.Errorf("%s: found %s, but there is %q %q", name, foundText(found), kind, text)
		}
	}
}

func (o *oracle) checkMergedDirectories(t *testing.T) {
	t.Helper()
	for _, name := range o.paths {
		found, err := FindInLayers(o.layers, name)
		must(t, err)
		for _, f := range found {
			if f.Kind != kindDirectory && f.Kind != kindOpaque {
				continue
			}
			kind, _ := seen(t, fmt.Sprintf("%s/%s/m%d", o.merged, name, f.Layer))
			if f.Hidden != (kind == "") {
				t.Errorf("%s: found %s, but of layer %d there is %q", name, foundText(found), f.Layer, kind)
			}
		}
	}
}

// meddle does what a server may do. Not all of it succeeds.
func (o *oracle) meddle(t *testing.T, r *rand.Rand) {
	name := o.merged + "/" + o.paths[r.IntN(len(o.paths))]
	other := o.merged + "/" + o.paths[r.IntN(len(o.paths))]
	if kind, _ := seen(t, path.Dir(name)); kind != kindDirectory {
		return // package os would wait for somebody to read from a FIFO
	}
	switch r.IntN(9) {
	case 0:
		_ = os.Remove(name)
	case 1:
		_ = os.RemoveAll(name)
	case 2:
		_ = os.Mkdir(name, 0o755)
	case 3:
		_ = os.RemoveAll(name)
		_ = os.Mkdir(name, 0o755)
	case 4:
		// Without waiting for somebody to read from a FIFO.
		if f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, 0o644); err == nil {
			_, _ = f.WriteString(fmt.Sprint(r.IntN(4)))
			_ = f.Close()
		}
	case 5:
		_ = os.Rename(name, other)
	case 6:
		_ = os.Chmod(name, 0o700)
	case 7:
		_ = os.Symlink(fmt.Sprint(r.IntN(4)), name)
	case 8:
		_ = os.RemoveAll(name)
		_ = os.WriteFile(name, []byte("written"), 0o600)
	}
}

func (o *oracle) checkChanges(t *testing.T) {
	t.Helper()
	var want []string
	var compare func(dir string, all bool)
	compare = func(dir string, all bool) {
		names := make(map[string]bool)
		for _, view := range []string{o.merged, o.lower} {
			if kind, _ := seen(t, path.Join(view, dir)); kind == kindDirectory {
				for _, name := range strings.Fields(listDir(t, path.Join(view, dir))) {
					names[name] = true
				}
			}
		}
		sorted := make([]string, 0, len(names))
		for name := range names {
			sorted = append(sorted, name)
		}
		slices.Sort(sorted)
		for _, name := range sorted {
			name = path.Join(dir, name)
			was, before := seen(t, o.lower+"/"+name)
			is, now := seen(t, o.merged+"/"+name)
			if all {
				was = ""
			}
			_, err := os.Lstat(o.dirs[0] + "/" + name)
			touched := err == nil
			mark := make([]byte, 1)
			_, err = unix.Getxattr(o.dirs[0]+"/"+name, opaqueAttr, mark)
			change, size := "", 0
			if is == kindFile {
				size = len(now)
			}
			remade := touched && err == nil && mark[0] == 'y'
			switch {
			case is == "" && was == "":
			case is == "":
				change = "removed"
			case was == "":
				change = "added"
			case was != is || is == kindDirectory && remade:
				change = "replaced"
			case is == kindDirectory:
			case touched && (was == kindOther || before != now):
				change = "changed"
			}
			if change != "" {
				want = append(want, fmt.Sprintf("%s %s %d", name, change, size))
			}
			if is == kindDirectory {
				compare(name, change != "")
			}
		}
	}
	compare("", false)
	all, more, err := ChangesIn(t.Context(), o.layers[0], o.layers[1:], 10_000)
	if got := changesText(all); got != strings.Join(want, "\n") || more || err != nil {
		t.Errorf("more %v, %v:\n%s\nwant\n%s", more, err, got, strings.Join(want, "\n"))
	}
	o.checkFoundKinds(t)
}

// checkFoundKinds is checkFound for what a server has changed, whose texts tell no layer.
func (o *oracle) checkFoundKinds(t *testing.T) {
	t.Helper()
	for _, name := range o.paths {
		found, err := FindInLayers(o.layers, name)
		must(t, err)
		first := ""
		for _, f := range found {
			if !f.Hidden && f.Kind != kindWhiteout {
				if first = f.Kind; first == kindOpaque {
					first = kindDirectory
				}
				break
			}
		}
		if kind, _ := seen(t, o.merged+"/"+name); kind != first {
			t.Errorf("%s: found %s, but there is %q", name, foundText(found), kind)
		}
	}
}
