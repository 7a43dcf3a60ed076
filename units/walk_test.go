package units

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFirstNames(t *testing.T) {
	all := []string{"c", "a", "e", "b", "b", "d", "f", "a", "f"}
	for _, c := range []struct {
		f     firstNames
		names string
		rest  bool
	}{
		{firstNames{max: 1}, "a", true},
		{firstNames{max: 2}, "a b", true},
		{firstNames{max: 2, after: "a"}, "b c", true},
		{firstNames{max: 2, after: "bb"}, "c d", true},
		{firstNames{max: 2, after: "d"}, "e f", false},
		{firstNames{max: 2, after: "f"}, "", false},
		{firstNames{max: 6}, "a b c d e f", false},
		{firstNames{max: 100}, "a b c d e f", false},
		{firstNames{max: 3, twice: true}, "a a", true}, // the second b would be missing
		{firstNames{max: 4, twice: true}, "a a b b", true},
		{firstNames{max: 4, twice: true, after: "b"}, "c d e", true},
		{firstNames{max: 4, twice: true, after: "e"}, "f f", false},
	} {
		for range 2 {
			f := c.f
			for _, name := range all {
				f.add(name)
			}
			var s step
			f.next(&s)
			if got := strings.Join(s.names, " "); got != c.names || s.rest != c.rest {
				t.Errorf("max %d after %q: %s, more %v; want %s, %v", f.max, f.after, got, s.rest, c.names, c.rest)
			}
			slices.Reverse(all)
		}
	}
}

// meddler counts a tree, and does something to it at its deepest.
type meddler struct {
	counter
	depth  int
	meddle func()
}

func (m *meddler) list(s *step) error {
	if len(m.d.steps) == m.depth {
		m.meddle()
	}
	return m.counter.list(s)
}

func TestWalkComesBack(t *testing.T) {
	const depth = 2000
	down := func(n int) string { return strings.TrimSuffix(strings.Repeat("d/", n), "/") }
	for what, c := range map[string]struct {
		meddle func(t *testing.T, root int)
		files  int
		err    error
	}{
		"nothing": {func(*testing.T, int) {}, depth, nil},
		// What the walk is in goes on to be walked, wherever it is.
		"a directory moved": {func(t *testing.T, root int) {
			must(t, unix.Renameat(root, down(300), root, "moved"))
		}, depth, nil},
		"two moved": {func(t *testing.T, root int) {
			must(t, unix.Renameat(root, down(300), root, "moved"))
			must(t, unix.Renameat(root, down(200), root, "moved too"))
		}, 0, errChanged},
		"another in its place": {func(t *testing.T, root int) {
			must(t, unix.Renameat(root, down(300), root, "moved"))
			must(t, unix.Renameat(root, down(200), root, "moved too"))
			fd, err := MkdirAllBeneath(root, down(299), 0o755, -1, -1)
			must(t, err)
			unix.Close(fd)
		}, 0, errChanged},
		"a link in its place": {func(t *testing.T, root int) {
			must(t, unix.Renameat(root, down(300), root, "moved"))
			must(t, unix.Renameat(root, down(200), root, "moved too"))
			must(t, unix.Symlinkat("/proc/self/cwd", root, down(200)))
		}, 0, errChanged},
		"a file in its place": {func(t *testing.T, root int) {
			must(t, unix.Renameat(root, down(300), root, "moved"))
			must(t, unix.Renameat(root, down(200), root, "moved too"))
			must(t, unix.Mkfifoat(root, down(200), 0o644))
		}, 0, errChanged},
	} {
		t.Run(what, func(t *testing.T) {
			dir := shmDir(t)
			makeDeep(t, dir, depth)
			root := openTestDir(t, dir)
			before := openDescriptors(t)
			m := meddler{counter: counter{ctx: t.Context()}, depth: depth, meddle: func() { c.meddle(t, root) }}
			var err error
			m.d, err = descend(root)
			must(t, err)
			err = m.d.walk(t.Context(), &m)
			if !errors.Is(err, c.err) || c.err == nil && m.files != uint64(c.files) {
				t.Errorf("%d files, %v; want %d, %v", m.files, err, c.files, c.err)
			}
			m.d.close()
			if after := openDescriptors(t); after != before || m.d.open != 0 {
				t.Errorf("%d descriptors, before %d, counted %d", after, before, m.d.open)
			}
		})
	}
}

// A tree that ends earlier than another one is found again by its names, for what is within it leads back only in the other.
func TestWalkComesBackToMoreTrees(t *testing.T) {
	dir := shmDir(t)
	const depth, short = 1000, 400
	var layers []int
	for i, depth := range []int{depth, short, depth} {
		path := fmt.Sprintf("%s/%d", dir, i)
		makeDeep(t, path, depth)
		layers = append(layers, openTestDir(t, path))
	}
	before := openDescriptors(t)
	all, more, err := ConflictsIn(t.Context(), layers, depth)
	if len(all) != depth || more || err != nil {
		t.Fatalf("%d conflicts, more %v, %v", len(all), more, err)
	}
	for i, c := range all {
		// The innermost comes first: "d" is before "file".
		level := depth - i
		want := []int{0, 1, 2}
		if level > short {
			want = []int{0, 2}
		}
		if c.Path != strings.Repeat("d/", level)+"file" || !slices.Equal(c.Layers, want) {
			t.Fatalf("at level %d: %q of %v", level, c.Path, c.Layers)
		}
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

func TestWalkRefusesEndlessDepth(t *testing.T) {
	dir := shmDir(t)
	makeDeep(t, dir, walkDepth)
	before := openDescriptors(t)
	_, _, err := CountTree(t.Context(), openTestDir(t, dir))
	if err == nil || !strings.Contains(err.Error(), "/d\": too many directories within each other") {
		t.Errorf("got %v", err)
	}
	if after := openDescriptors(t); after != before+1 {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	if err != nil && len(err.Error()) > 1000 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}

// A directory with more directories than are held is read again, and what else is in it is visited once.
func TestManyDirectories(t *testing.T) {
	dir := shmDir(t)
	mkdir(t, dir+"/from/sub")
	mkdir(t, dir+"/to")
	sub := openTestDir(t, dir+"/from/sub")
	const dirs = walkNames + 1000
	for i := range dirs {
		must(t, unix.Mkdirat(sub, fmt.Sprintf("%06d", i*7919%dirs), 0o755))
	}
	putFile(t, dir+"/from/sub/file", "x")
	for i := range 10 {
		putFile(t, fmt.Sprintf("%s/from/sub/%06d/file", dir, i*1700), "x")
	}
	from, to := openTestDir(t, dir+"/from"), openTestDir(t, dir+"/to")
	if files, _, err := LinkTree(t.Context(), from, to, []string{"sub/001700"}, nil); files != 10 || err != nil {
		t.Errorf("LinkTree: %d files, %v", files, err)
	}
	if files, _, err := CountTree(t.Context(), to); files != 10 || err != nil {
		t.Errorf("CountTree: %d files, %v", files, err)
	}
	if n := len(strings.Fields(listDir(t, dir+"/to/sub"))); n != dirs {
		t.Errorf("%d names", n)
	}
	must(t, MergeTree(t.Context(), to, from))
	if got := listDir(t, dir+"/to"); got != "" {
		t.Errorf("left: %s", got)
	}
}
