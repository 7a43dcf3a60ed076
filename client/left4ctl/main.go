// Left4ctl controls left4d from the command line. What it does is in package ctl.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"left4.me/left4/client/left4ctl/ctl"
)

// version is set by the linker.
var version = "0"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the program whatever it does.
	context.AfterFunc(ctx, stop)
	os.Exit(ctl.Run(ctx, version, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
