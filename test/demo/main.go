// demo shows left4 at work on a machine that is made for it and thrown away after it: two game servers on the stand-in
// game, which costs no download. It runs as root, by `make demo`.
//
// On a terminal the machine stays until Enter (or ^C), to be played with; otherwise it goes when all is shown.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"

	"left4.me/left4/test/ring"
)

const spec = `# What "left4ctl initialize NAME -f FILE" reads.
hostname: Two friends and two bots
arguments: [+map, c2m1_highway, coop]
config:
  - sv_cheats 0
`

func main() {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: only root can boot a machine: sudo make demo")
		os.Exit(1)
	}
	d := &demo{}
	d.run()
	if d.failed {
		os.Exit(1)
	}
}

// demo is what ring asks of a test.
type demo struct {
	failed   bool
	cleanups []func()
}

type stop struct{}

func (d *demo) Helper()                         {}
func (d *demo) Failed() bool                    { return d.failed }
func (d *demo) Cleanup(f func())                { d.cleanups = append(d.cleanups, f) }
func (d *demo) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (d *demo) Fatalf(format string, args ...any) {
	d.failed = true
	d.Logf("demo: "+format, args...)
	panic(stop{})
}

func (d *demo) run() {
	defer func() {
		r := recover()
		for _, f := range d.cleanups {
			defer f() // the last one first
		}
		if r != nil && r != (stop{}) {
			panic(r)
		}
	}()
	suite := hostSuite()
	say("Booting a throw-away Debian (%s) with left4 installed. The first time it is downloaded, which takes a minute.", suite)
	m := ring.Boot(d, suite)
	m.BringGame(d, "/srv/l4d2")
	m.WriteFile(d, "/root/coop.yaml", spec, 0o644)

	say("The game is imported once, for all servers. (It is a stand-in that talks like the real one.)")
	d.show(m, "left4ctl", "game", "import", "/srv/l4d2")
	say("One server from the command line, one from a file.")
	d.show(m, "left4ctl", "create", "versus", "--hostname", "Versus, every evening", "--arg", "+map", "--arg", "c5m1_waterfront")
	d.show(m, "cat", "/root/coop.yaml")
	d.show(m, "left4ctl", "initialize", "coop", "-f", "/root/coop.yaml")
	say("Start both.")
	d.show(m, "left4ctl", "start", "versus")
	d.show(m, "left4ctl", "start", "coop")
	d.show(m, "left4ctl", "list")
	say("They are plain units of systemd, and answer as a player's server browser asks.")
	d.show(m, "systemctl", "--no-pager", "--plain", "--no-legend", "list-units", "left4-server@*")
	for _, port := range []string{"27015", "27016"} {
		d.show(m, "left4-query", "-wait", "-timeout", "30s", "127.0.0.1:"+port)
	}

	fmt.Printf(`
Two servers are running. To go on inside the machine, in another terminal:

    sudo %s

    left4ctl status versus          what runs, since when, and why
    left4ctl logs versus -f         the game's console
    left4ctl restart coop
    systemctl stop left4-server@coop; left4ctl list      left4 sees what you do by hand
    busctl introspect me.left4 /me/left4                 everything left4ctl can do, for your own programs
    left4ctl help

`, m.EnterCommand())
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return
	}
	fmt.Println("Press Enter to throw the machine away.")
	waitForPerson()
}

// hostSuite is the Debian release of this machine, or the newest that the tests know.
func hostSuite() string {
	release, _ := os.ReadFile("/etc/os-release")
	if strings.Contains(string(release), "VERSION_CODENAME=bookworm\n") {
		return "bookworm"
	}
	return "trixie"
}

func say(format string, args ...any) { fmt.Printf("\n# "+format+"\n", args...) }

// show runs a command in the machine and prints both, as a terminal would.
func (d *demo) show(m *ring.Machine, argv ...string) {
	words := make([]string, len(argv))
	for i, word := range argv {
		words[i] = word
		if strings.ContainsAny(word, " *") {
			words[i] = "'" + word + "'"
		}
	}
	fmt.Println("$ " + strings.Join(words, " "))
	r := m.Try(argv...)
	fmt.Print(r.Out, r.Err)
	if r.Code != 0 {
		d.Fatalf("%s ended with status %d", argv[0], r.Code)
	}
}

func waitForPerson() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	enter := make(chan struct{})
	go func() {
		bufio.NewReader(os.Stdin).ReadString('\n')
		close(enter)
	}()
	select {
	case <-signals:
	case <-enter:
	}
}
