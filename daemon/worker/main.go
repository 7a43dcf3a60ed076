// Command left4-worker does the work on files that needs no rights: it runs as the user left4 in a transient unit per job, where only
// its working directory can be written to. What it reads may be hostile.
//
//	left4-worker import
//
// unpacks the tar stream on its standard input (plain, gzip or zstd) into the working directory, which must be empty. With
// LEFT4_KIND=game the result must be a game. LEFT4_SIZE is the stream's length in bytes, for the progress. It tells how far
// it is, and the error or the result, in the form of package status. It exits with 0 when all is on the disk, 1 on failure,
// 2 when used wrongly.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdin, os.Stderr))
}

func run(args []string, getenv func(string) string, stdin io.Reader, stderr io.Writer) int {
	if len(args) != 1 || args[0] != "import" {
		fmt.Fprintln(stderr, "usage: left4-worker import < ARCHIVE.tar")
		return 2
	}
	size := int64(-1)
	if text := getenv("LEFT4_SIZE"); text != "" {
		var err error
		if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 0 {
			fmt.Fprintf(stderr, "left4-worker: LEFT4_SIZE is %q, not a number of bytes\n", text)
			return 2
		}
	}
	// Nobody may listen: by hand there is no service manager.
	note := func(text string) { _, _ = daemon.SdNotify(false, "STATUS="+text) }
	im := importer{game: getenv("LEFT4_KIND") == "game", part: getenv("LEFT4_KIND") == "part", size: size, note: note}
	if err := im.run(getenv("LEFT4_INTO"), stdin); err != nil {
		reason := strings.ReplaceAll(err.Error(), "\n", "; ")
		fmt.Fprintf(stderr, "left4-worker: cannot import: %s\n", reason)
		note(status.Error(reason))
		return 1
	}
	fmt.Fprintf(stderr, "imported %d files, %d bytes\n", im.files, im.bytes)
	note(status.Done(im.files, im.bytes, ""))
	return 0
}

// run imports into the working directory.
// run unpacks into a directory below the current one, which it makes; "" is the current one.
func (im *importer) run(into string, stream io.Reader) error {
	dir, err := unix.Open(".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if into == "" {
		return im.unpack(dir, stream)
	}
	below, err := units.MkdirAllBeneath(dir, into, 0o755, -1, -1)
	if err != nil {
		return err
	}
	defer unix.Close(below)
	return im.unpack(below, stream)
}
