// Left4-chaos asks left4d for random verbs over the system bus and prints a line of JSON for each; see package chaos.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/chaos"
)

func main() {
	var o chaos.Options
	flag.Uint64Var(&o.Seed, "seed", 1, "of the random choices")
	flag.IntVar(&o.Caller, "caller", 0, "the number of this caller")
	flag.IntVar(&o.Calls, "calls", 100, "how many to make")
	flag.IntVar(&o.Open, "open", 6, "own jobs to have unfinished at most")
	flag.Parse()
	o.Names = flag.Args()
	if len(o.Names) == 0 {
		fmt.Fprintln(os.Stderr, "left4-chaos: name the instances")
		os.Exit(2)
	}
	if err := run(o); err != nil {
		fmt.Fprintf(os.Stderr, "left4-chaos: caller %d: %v\n", o.Caller, err)
		os.Exit(1)
	}
}

func run(o chaos.Options) error {
	// No signal may be lost, however long a call takes.
	conn, err := dbus.ConnectSystemBus(dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return err
	}
	defer conn.Close()
	return chaos.Run(context.Background(), conn, o, os.Stdout)
}
