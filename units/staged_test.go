package units

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// The list of what was staged says what to remove from a directory that a server writes to: nothing else can be in it than names in there.
func FuzzStaged(f *testing.F) {
	f.Add([]byte("server.cfg\nserver_overlay_1.cfg\n"))
	f.Add([]byte("../x\n"))
	f.Add([]byte("a"))
	f.Add([]byte("\n\xff\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(dir+"/"+stagedName, text, 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		names, err := readStaged(fd)
		if err != nil {
			return
		}
		for _, name := range names {
			if err := oneName(name); err != nil {
				t.Fatal(err)
			}
		}
		if err := writeStaged(fd, names); err != nil {
			t.Fatal(err)
		}
		if again, err := readStaged(fd); err != nil || !slices.Equal(again, names) {
			t.Fatalf("%q, then %q, %v", names, again, err)
		}
	})
}
