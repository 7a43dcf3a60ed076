// Srcds_linux of the stand-in: it behaves towards systemd, the file system, the network and RCON as a Left 4 Dead 2
// dedicated server does, and misbehaves on command. README.md lists what it knows. It has no game in it.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"left4.me/left4/test/standin/gametree"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout))
}

// run is the whole life of a server; it returns the exit status.
func run(args []string, stdin io.Reader, stdout io.Writer) int {
	opt := parseOptions(args)
	if opt.writeTree != "" {
		return writeTree(opt.writeTree)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)

	s := newServer(opt, stdout)
	s.out.printf("srcds stand-in, pid %d, game %s in %s", os.Getpid(), opt.game, s.root)
	if err := s.checkHost(); err != nil {
		s.out.printf("%v", err)
		return 1
	}
	if opt.pidfile != "" {
		if err := os.WriteFile(opt.pidfile, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644); err != nil {
			s.out.printf("%v", err)
		}
	}

	s.lock()
	later := s.startFaults(os.Getenv("LEFT4_STANDIN"))
	delay := s.startDelay
	s.unlock()
	if delay > 0 {
		s.out.printf("standin: no ports for %v", delay)
	}
	wait := time.NewTimer(delay)
	for started := false; ; {
		select {
		case <-wait.C:
			// From here the server is busy and answers nobody until its configuration is read.
			s.lock()
			if err := s.listen(); err != nil {
				s.out.printf("%v", err)
				return 1
			}
			started = true
			go s.play(later)
			go s.readConsole(stdin)
		case sig := <-signals:
			if sig == syscall.SIGINT && s.ignoreInterrupt.Load() {
				s.out.printf("standin: SIGINT ignored")
				continue
			}
			if !started {
				return 0
			}
			// A server that hangs comes to its signals only when it stops hanging.
			go func() {
				s.lock()
				defer s.unlock()
				s.quit(sig.String())
			}()
		case status := <-s.ended:
			return status
		}
	}
}

// readConsole runs what is typed at the server's own console.
func (s *server) readConsole(stdin io.Reader) {
	lines := bufio.NewScanner(stdin)
	for lines.Scan() {
		s.lock()
		s.execute(lines.Text())
		s.unlock()
	}
}

func writeTree(dir string) int {
	program, err := os.Executable()
	if err == nil {
		err = gametree.Write(dir, program)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, strings.TrimSpace(err.Error()))
		return 1
	}
	return 0
}
