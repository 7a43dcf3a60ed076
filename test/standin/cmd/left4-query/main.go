// Left4-query asks a game server by A2S or RCON and prints the answer.
//
//	left4-query [-timeout DURATION] [-wait] [-players | -rules | -rcon COMMAND] HOST:PORT
//
// A2S_INFO is printed as one line. With -wait it asks until there is an answer or the time is over. RCON reads the
// password as the first line of the standard input. The exit status is 0, 1 for a failure, 2 for wrong usage.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"left4.me/left4/test/standin/query"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("left4-query", flag.ContinueOnError)
	flags.SetOutput(stderr)
	timeout := flags.Duration("timeout", query.DefaultTimeout, "give up after this time")
	wait := flags.Bool("wait", false, "ask again while there is no answer")
	players := flags.Bool("players", false, "print the players, one per line")
	rules := flags.Bool("rules", false, "print the public cvars, one per line")
	rcon := flags.String("rcon", "", "run this console `command`; the password is read from the standard input")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: left4-query [options] HOST:PORT")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return 2
	}
	addr := flags.Arg(0)
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()

	var err error
	switch {
	case *rcon != "":
		err = printRcon(ctx, stdout, stdin, addr, *rcon)
	case *players:
		err = printPlayers(ctx, stdout, addr)
	case *rules:
		err = printRules(ctx, stdout, addr)
	default:
		err = printInfo(ctx, stdout, addr, *wait)
	}
	if err != nil {
		fmt.Fprintf(stderr, "left4-query: %v\n", err)
		return 1
	}
	return 0
}

func printInfo(ctx context.Context, w io.Writer, addr string, wait bool) error {
	ask := query.Info
	if wait {
		ask = query.WaitInfo
	}
	info, err := ask(ctx, addr)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s %q map=%s players=%d/%d bots=%d password=%t game=%s version=%s\n",
		addr, info.Name, word(info.Map), info.Players, info.MaxPlayers, info.Bots, info.Password, word(info.Folder), word(info.Version))
	return err
}

// word quotes what would not be one word of the line.
func word(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func printPlayers(ctx context.Context, w io.Writer, addr string) error {
	players, err := query.Players(ctx, addr)
	if err != nil {
		return err
	}
	for _, p := range players {
		fmt.Fprintf(w, "%q score=%d time=%v\n", p.Name, p.Score, p.Duration.Truncate(time.Second))
	}
	return nil
}

func printRules(ctx context.Context, w io.Writer, addr string) error {
	rules, err := query.Rules(ctx, addr)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		fmt.Fprintf(w, "%s = %q\n", name, rules[name])
	}
	return nil
}

func printRcon(ctx context.Context, w io.Writer, stdin io.Reader, addr, command string) error {
	password, err := bufio.NewReader(stdin).ReadString('\n')
	if err != nil && err != io.EOF {
		return fmt.Errorf("cannot read the password: %w", err)
	}
	text, err := query.Rcon(ctx, addr, strings.TrimRight(password, "\r\n"), command)
	fmt.Fprint(w, text)
	return err
}
