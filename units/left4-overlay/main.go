// Command left4-overlay mounts and unmounts the overlays that game servers run from. The units left4-overlay@.service and
// left4-server@.service run it; it takes nothing but an instance's name and reads all else from what left4d rendered. left4d itself has it
// inspect layers, in a unit that may only read, and copy what one server wrote to another instance.
//
// What it did goes to stderr, errors also to the service manager as the unit's status. It exits with 0 when done (also when there
// was nothing to do), 1 on failure, 2 when used wrongly, and check-port with 98 when the port is taken.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"left4.me/left4/units"
)

const usage = `usage: left4-overlay mount NAME
       left4-overlay umount NAME
       left4-overlay plan NAME
       left4-overlay inspect < QUESTION
       left4-overlay squash < QUESTION
       left4-overlay clone FROM TO
       left4-overlay check-port PORT [ADDRESS]
       left4-overlay probe < QUESTION
       left4-overlay --version

mount       stage the rendered files of instance NAME and mount its layers
umount      unmount them, after the server's end if that is near; an error while a process uses them
plan        print what mount would do, and do nothing
inspect     answer a question of left4d about the layers of an instance, as JSON
squash      make one layer of those that left4d names, as JSON; tells how far it is, as JSON
clone       copy all that the server of FROM wrote to TO, which has nothing yet; tells left4d how far it is, as JSON
check-port  exit with 98 if a program has PORT by UDP or TCP on ADDRESS (all of IPv4)
probe       answer a question of left4d about the machine, as JSON; tries whether an overlay can be mounted
`

// version is set by the linker.
var version = "0"

// serverEnd bounds how long umount waits for a server. systemd has a server's files unmounted after its end, but for one whose unit was
// masked while it ran: with its unit file it loses what orders it before its files, and its TimeoutStopSec= too. PID 1 kills it after
// the default of 90 s, if it is told to stop at all.
const serverEnd = 100 * time.Second

func main() {
	layout := units.Layout{State: "/var/lib/left4", Run: "/run/left4"}
	// A server's unit runs it as root and in no sandbox.
	if len(os.Args) > 1 && os.Args[1] == "check-port" && os.Geteuid() == 0 {
		if err := layout.Become(); err != nil {
			fmt.Fprintf(os.Stderr, "left4-overlay: %v\n", err)
			os.Exit(1)
		}
	}
	os.Exit(run(os.Args[1:], layout, os.Stdout, os.Stderr))
}

// usageError says what is wrong with the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

func run(args []string, layout units.Layout, stdout, stderr io.Writer) int {
	if len(args) == 1 && (args[0] == "-h" || args[0] == "--help") {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if len(args) == 1 && args[0] == "--version" {
		fmt.Fprintln(stdout, "left4-overlay", version)
		return 0
	}
	err := command(args, layout, stdout, stderr)
	if err == nil {
		return 0
	}
	if wrong := usageError(""); errors.As(err, &wrong) {
		fmt.Fprintf(stderr, "left4-overlay: %s\nleft4-overlay: hint: left4-overlay --help\n", wrong)
		return 2
	}
	line := strings.ReplaceAll(err.Error(), "\n", "; ")
	fmt.Fprintf(stderr, "left4-overlay: %s\n", line)
	// Nobody may listen: by hand there is no service manager.
	_, _ = daemon.SdNotify(false, "STATUS="+line)
	if taken := (*units.PortTakenError)(nil); errors.As(err, &taken) {
		return 98
	}
	return 1
}

func command(args []string, layout units.Layout, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usageError("no command given")
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "check-port":
		return checkPort(args)
	case "inspect":
		if len(args) != 0 {
			return usageError("inspect takes no arguments")
		}
		if err := layout.AnswerInspection(context.Background(), os.Stdin, stdout); err != nil {
			return fmt.Errorf("cannot inspect: %w", err)
		}
		return nil
	case "squash":
		if len(args) != 0 {
			return usageError("squash takes no arguments")
		}
		signal.Ignore(syscall.SIGPIPE) // a left4d that was killed reads no more
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		if err := layout.AnswerSquashing(ctx, os.Stdin, stdout); err != nil {
			return fmt.Errorf("cannot squash: %w", err)
		}
		return nil
	case "clone":
		return clone(args, layout, stdout)
	case "probe":
		if len(args) != 0 {
			return usageError("probe takes no arguments")
		}
		if err := (units.Mounter{Layout: layout}).AnswerProbe(context.Background(), version, os.Stdin, stdout); err != nil {
			return fmt.Errorf("cannot look at the machine: %w", err)
		}
		return nil
	case "mount", "umount", "plan":
	default:
		return usageError(fmt.Sprintf("unknown command %q", verb))
	}
	if len(args) != 1 {
		return usageError(fmt.Sprintf("%s takes the name of one instance", verb))
	}
	name := args[0]
	if !units.ValidName(name) && name != units.GameMount {
		return usageError(fmt.Sprintf("%q is no name of an instance", name))
	}
	m := units.Mounter{Layout: layout}
	switch verb {
	case "plan":
		return m.Print(stdout, name)
	case "umount":
		err := m.Unmount(name)
		if busy := (*units.InUseError)(nil); errors.As(err, &busy) {
			fmt.Fprintf(stderr, "left4-overlay: process %d of %s runs, waiting for its end\n", busy.PID, busy.Unit)
			// At the deadline Unmount says it once more.
			_ = m.AwaitEnd(name, time.Now().Add(serverEnd))
			err = m.Unmount(name)
		}
		if err == nil {
			fmt.Fprintf(stderr, "%s is not mounted\n", name)
		}
		return err
	}
	var err error
	if m.UID, m.GID, err = layout.Owner(); err != nil {
		return fmt.Errorf("cannot mount %s: %w", name, err)
	}
	if err := m.Mount(name); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%s is mounted\n", name)
	return nil
}

func clone(args []string, layout units.Layout, stdout io.Writer) error {
	if len(args) != 2 {
		return usageError("clone takes the names of two instances")
	}
	for _, name := range args {
		if !units.ValidName(name) {
			return usageError(fmt.Sprintf("%q is no name of an instance", name))
		}
	}
	// A left4d that was killed reads no more. The next one looks what became of the copy.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return units.Mounter{Layout: layout}.Clone(ctx, args[0], args[1], stdout)
}

func checkPort(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return usageError("check-port takes a port and at most one address")
	}
	port, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil || port == 0 {
		return usageError(fmt.Sprintf("%q is no port from 1 to 65535", args[0]))
	}
	var addr netip.Addr
	if len(args) == 2 {
		if addr, err = netip.ParseAddr(args[1]); err != nil {
			return usageError(fmt.Sprintf("%q is no address", args[1]))
		}
	}
	return units.CheckPort(context.Background(), uint16(port), addr)
}
