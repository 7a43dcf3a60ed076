// Command left4-steam plays Steam: it serves a steam.World, and is SteamCMD or DepotDownloader where it is called so.
//
//	left4-steam serve [-listen ADDRESS] [-tree DIR]   serve over HTTP; DIR has the game's files
//	left4-steam world [-]                              print the world, or set it from standard input
//	left4-steam requests [-forget]                     print what was asked for, as JSON
//	left4-steam write DIR                              DIR/steamcmd/, as in Valve's archive, and DIR/DepotDownloader
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"

	"left4.me/left4/test/steam"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "steamcmd", "DepotDownloader":
		os.Exit(steam.Program(name, os.Args[1:]))
	}
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "left4-steam:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: left4-steam serve [-listen ADDRESS] [-tree DIR] | world [-] | requests [-forget] | write DIR")

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	client := steam.Client{Address: steam.DefaultAddress}
	if address := os.Getenv("LEFT4_STEAM"); address != "" {
		client.Address = address
	}
	switch rest := args[1:]; {
	case args[0] == "serve":
		return serve(rest)
	case args[0] == "world" && len(rest) == 1 && rest[0] == "-":
		var world steam.World
		if err := json.NewDecoder(in).Decode(&world); err != nil {
			return err
		}
		return client.Set(world)
	case args[0] == "world" && len(rest) == 0:
		world, err := client.World()
		if err != nil {
			return err
		}
		return print(out, world)
	case args[0] == "requests" && len(rest) <= 1:
		requests, err := client.Requests(len(rest) == 1 && rest[0] == "-forget")
		if err != nil {
			return err
		}
		return print(out, requests)
	case args[0] == "write" && len(rest) == 1:
		self, err := os.Executable()
		if err != nil {
			return err
		}
		return errors.Join(steam.WriteSteamCMD(filepath.Join(rest[0], "steamcmd"), self), steam.WriteDepotDownloader(rest[0], self))
	}
	return errUsage
}

func print(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "\t")
	return e.Encode(v)
}

func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen := flags.String("listen", strings.TrimPrefix(steam.DefaultAddress, "http://"), "address")
	tree := flags.String("tree", "", "directory with the game")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	return http.Serve(l, &steam.Server{Tree: *tree})
}
