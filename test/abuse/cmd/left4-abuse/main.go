// Left4-abuse attacks left4d over the system bus, as package abuse tells, or times what others' calls take meanwhile. An
// attack prints a line when it is under way, goes on until it is through or a line is typed, and prints what came of it as JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"left4.me/left4/test/abuse"
)

func main() {
	o := abuse.Options{Socket: abuse.Socket, Ready: func() { fmt.Println("attacking") }}
	flag.StringVar(&o.Socket, "bus", o.Socket, "its `socket`")
	flag.StringVar(&o.Instance, "instance", "", "one that runs")
	flag.StringVar(&o.Overlay, "overlay", "", "one that there is")
	flag.StringVar(&o.File, "file", "", "of the overlay")
	flag.IntVar(&o.Connections, "connections", 1, "how many at once")
	flag.IntVar(&o.Count, "count", 0, "of calls; 0 = until a line is typed")
	flag.DurationVar(&o.Most, "most", 20*time.Second, "that timing takes")
	flag.Uint64Var(&o.Seed, "seed", 1, "of what is drawn by chance")
	flag.BoolVar(&o.Operator, "operator", false, "ask for nothing that an operator could do to others' things")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: left4-abuse [options] ATTACK|latency")
		os.Exit(2)
	}
	if err := run(o, flag.Arg(0)); err != nil {
		fmt.Fprintf(os.Stderr, "left4-abuse: %v\n", err)
		os.Exit(1)
	}
}

func run(o abuse.Options, what string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var out any
	var err error
	if what == "latency" {
		out, err = abuse.Latency(ctx, o)
	} else {
		go func() {
			bufio.NewReader(os.Stdin).ReadString('\n')
			cancel()
		}()
		out, err = abuse.Run(ctx, what, o)
	}
	if encoded := json.NewEncoder(os.Stdout).Encode(out); err == nil {
		err = encoded
	}
	return err
}
