// Command left4-worker does the work on files that needs no rights: it runs as the user left4 in a transient unit per job, where only
// its working directory can be written to. What it reads may be hostile.
//
//	left4-worker import
//
// unpacks what its standard input is into the working directory, which must be empty: a tar stream (plain, gzip, zstd, xz or
// bzip2), or a zip, 7z or VPK file, which must not be a pipe. With LEFT4_KIND=game the result must be a game. LEFT4_INTO is
// the directory below to unpack into, LEFT4_FILE what a VPK file is called, LEFT4_SIZE the length in bytes, for the progress.
//
//	left4-worker maps
//
// reads an order.Maps, and answers on its standard output with an order.MapsResult as JSON.
//
//	left4-worker script
//
// runs the bash script of the order (order.Script) on its standard input. The working directory, which must be empty, is the script's, too,
// and what it leaves there is looked at as what an import unpacks. LEFT4_JOB, LEFT4_OVERLAY and LEFT4_OVERLAY_ID are the script's to read.
//
//	left4-worker workshop
//
// fetches items of the Steam Workshop into the working directory, as the order.Workshop on its standard input says, and
// leaves an order.WorkshopResult there.
//
//	left4-worker install
//
// installs, updates or checks the game in the working directory by SteamCMD or DepotDownloader, as the order.Install on its
// standard input says.
//
// It tells how far it is, and the error or the result, in the form of package status. It exits with 0 when all is on the
// disk, 1 on failure, 2 when used wrongly, and order.Spoiled when it failed for what lies in the working directory.
package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// version is set by the linker.
var version = "0"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("left4-worker", version)
		return
	}
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdin, os.Stderr))
}

// softMemory is what the collector keeps an import within, in bytes.
const softMemory = 1 << 30

// worker is what a command works with, besides the current directory.
type worker struct {
	getenv func(string) string
	stdin  io.Reader
	stdout io.Writer // of those that answer
	stderr io.Writer
	note   func(text string) // tells left4d
}

// outcome is what has been made.
type outcome struct {
	files, bytes int64
	note         string // for status.Done
}

// command does one kind of work. A usageError is one of whoever calls it.
type command struct {
	stdin string // what it reads, for people
	what  string // it does, as one says it
	run   func(*worker) (outcome, error)
}

type usageError struct{ error }

// spoiledError is one that comes back as long as the working directory holds what it does.
type spoiledError struct{ error }

var commands = map[string]command{
	"import":   {"ARCHIVE", "import", importArchive},
	"install":  {"ORDER.json", "install the game", installGame},
	"maps":     {"ORDER.json", "list maps", listMaps},
	"script":   {"ORDER.json", "run the script", runScript},
	"workshop": {"ORDER.json", "fetch items of the workshop", buildWorkshop},
}

func run(args []string, getenv func(string) string, stdin io.Reader, stderr io.Writer) int {
	if len(args) != 1 || commands[args[0]].run == nil {
		for i, name := range slices.Sorted(maps.Keys(commands)) {
			fmt.Fprintf(stderr, "%s left4-worker %s < %s\n", []string{"usage:", "      "}[min(i, 1)], name, commands[name].stdin)
		}
		return 2
	}
	w := &worker{getenv: getenv, stdin: stdin, stdout: os.Stdout, stderr: stderr}
	// Nobody may listen: by hand there is no service manager.
	w.note = func(text string) { _, _ = daemon.SdNotify(false, "STATUS="+text) }
	made, err := commands[args[0]].run(w)
	var wrong usageError
	switch {
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "left4-worker: %v\n", err)
		return 2
	case err != nil:
		reason := strings.ReplaceAll(err.Error(), "\n", "; ")
		fmt.Fprintf(stderr, "left4-worker: cannot %s: %s\n", commands[args[0]].what, reason)
		w.note(status.Error(reason))
		var spoiled spoiledError
		if errors.As(err, &spoiled) {
			return order.Spoiled
		}
		return 1
	}
	w.note(status.Done(made.files, made.bytes, made.note))
	return 0
}

func importArchive(w *worker) (outcome, error) {
	size := int64(-1)
	if text := w.getenv("LEFT4_SIZE"); text != "" {
		var err error
		if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 0 {
			return outcome{}, usageError{fmt.Errorf("LEFT4_SIZE is %q, not a number of bytes", text)}
		}
	}
	kind := w.getenv("LEFT4_KIND")
	into := w.getenv("LEFT4_INTO")
	im := importer{game: kind == "game", part: kind == "part", into: into != "", called: w.getenv("LEFT4_FILE"), size: size, note: w.note}
	// What hostile archives ask for is bounded elsewhere; this has what is no longer used given back before the unit's limit.
	debug.SetMemoryLimit(softMemory)
	if err := im.run(into, w.stdin); err != nil {
		return outcome{}, err
	}
	fmt.Fprintf(w.stderr, "imported %d files, %d bytes\n", im.files, im.bytes)
	return outcome{files: im.files, bytes: im.bytes}, nil
}

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
