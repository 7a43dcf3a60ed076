// Left4-hostile takes the place of a game's srcds_run and does what it is told over its port, with the rights of a server and in its
// sandbox. Whoever reaches the port may command it: it is for machines that are thrown away.
//
//	srcds_run … -port PORT …                  serves until SIGINT or SIGTERM
//	left4-hostile ask PORT COMMAND [ARG]…     has the server run a command; the standard input is the command's
//	left4-hostile try [NAME [ARG]…]           does one thing that a sandbox should refuse, see tries; alone it names them all
//
// Ask and try print what came of it, and exit with the command's status, or 1 for what was refused.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	switch args := os.Args[1:]; {
	case len(args) > 2 && args[0] == "ask":
		os.Exit(ask(args[1], args[2:]))
	case len(args) > 1 && args[0] == "try":
		os.Exit(try(args[1], args[2:]))
	case len(args) == 1 && args[0] == "try":
		for _, name := range slices.Sorted(maps.Keys(tries)) {
			fmt.Println(name)
		}
	default:
		port := slices.Index(args, "-port") + 1
		if port == 0 || port == len(args) {
			fmt.Fprintln(os.Stderr, "usage: left4-hostile -port PORT | ask PORT COMMAND [ARG]… | try [NAME [ARG]…]")
			os.Exit(2)
		}
		os.Exit(serve(args[port]))
	}
}

// order is what ask wants, and result what came of it.
type (
	order struct {
		Argv  []string
		Input []byte
	}
	result struct {
		Output []byte
		Code   int
	}
)

func serve(port string) int {
	l, err := net.Listen("tcp4", "127.0.0.1:"+port)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Not left to the default: the first process of a namespace does not die of that.
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	fmt.Printf("hostile: port %s, pid %d\n", port, os.Getpid())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c, end)
		}
	}()
	<-end
	fmt.Println("hostile: ends")
	return 0
}

func answer(c net.Conn, end chan os.Signal) {
	defer c.Close()
	var o order
	if err := json.NewDecoder(c).Decode(&o); err != nil || len(o.Argv) == 0 {
		return
	}
	var r result
	switch o.Argv[0] {
	case "ignore-signals":
		signal.Stop(end)
		signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	default:
		cmd := exec.Command(o.Argv[0], o.Argv[1:]...)
		cmd.Stdin = bytes.NewReader(o.Input)
		out, err := cmd.CombinedOutput()
		r = result{out, cmd.ProcessState.ExitCode()}
		if cmd.ProcessState == nil {
			r = result{[]byte(err.Error()), 127}
		}
	}
	json.NewEncoder(c).Encode(r)
}

func ask(port string, argv []string) int {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	// It may have been started a moment ago. Nothing tells others when it listens.
	const patience = 2 * time.Minute
	again, end := time.NewTicker(20*time.Millisecond), time.Now().Add(patience)
	defer again.Stop()
	c, err := net.Dial("tcp4", "127.0.0.1:"+port)
	for errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(end) {
		<-again.C
		c, err = net.Dial("tcp4", "127.0.0.1:"+port)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	defer c.Close()
	var r result
	err = json.NewEncoder(c).Encode(order{argv, input})
	if err == nil {
		err = json.NewDecoder(c).Decode(&r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	os.Stdout.Write(r.Output)
	return r.Code
}

// try does one thing and tells what the kernel said.
func try(name string, args []string) int {
	f, ok := tries[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "nothing is called %s\n", name)
		return 2
	}
	for len(args) < 3 {
		args = append(args, "")
	}
	if err := f(args); err != nil {
		fmt.Printf("refused: %v\n", err)
		return 1
	}
	fmt.Println("done")
	return 0
}
