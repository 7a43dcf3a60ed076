// bench measures left4 beside systemd and the tools of the machine, in a machine that is made for it and thrown away after
// it. It runs as root, by `make bench`, which makes a table of the rows that it adds to the file in LEFT4_REPORT.
//
//	bench [-suite SUITE] [-short | -options JSON] [-svg DIR]
//
// With -options it measures as much as that says, see package measured. With -svg it draws how what it measures grows with the number of servers into files bench-*.svg there.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"left4.me/left4/test/bench/measured"
	"left4.me/left4/test/report"
	"left4.me/left4/test/ring"
)

func main() {
	suite := flag.String("suite", "trixie", "the Debian to measure in")
	short := flag.Bool("short", false, "only see whether all can be measured")
	other := flag.String("options", "", "how much is measured, as JSON")
	svg := flag.String("svg", "", "a directory to draw into")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: only root can boot a machine: sudo make bench")
		os.Exit(1)
	}
	p := &program{}
	p.run(func() {
		options := measured.Full
		if *short {
			options = measured.Short
		}
		if *other != "" {
			options = measured.Options{}
			if err := json.Unmarshal([]byte(*other), &options); err != nil {
				p.Fatalf("-options: %v", err)
			}
		}
		result := measure(p, *suite, options)
		if *svg != "" {
			if err := draw(*svg, result.Curves); err != nil {
				p.Fatalf("%v", err)
			}
		}
	})
	if p.failed {
		os.Exit(1)
	}
}

// measure boots a machine, measures in it and adds the rows to the report.
func measure(t ring.TB, suite string, o measured.Options) (result measured.Result) {
	m := ring.Boot(t, suite)
	m.BringGame(t, "/srv/l4d2")
	m.Run(t, "left4ctl", "game", "import", "/srv/l4d2")
	m.CopyIn(t, ring.Build(t, "left4.me/left4/test/bench/inside"), "/usr/local/bin/left4-bench")
	wanted, err := json.Marshal(o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	cmd := m.Command(context.Background(), "left4-bench", string(wanted))
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	if _, isProgram := t.(*program); isProgram {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Run(); err != nil {
		t.Fatalf("cannot measure: %v\n%s", err, progress.Bytes())
	}
	if err := json.Unmarshal(out.Bytes(), &result); err != nil {
		t.Fatalf("cannot read what was measured: %v\n%s", err, out.Bytes())
	}
	for _, row := range result.Rows {
		report.Add(t, row)
	}
	return result
}

// program is what ring asks of a test.
type program struct {
	failed   bool
	cleanups []func()
}

type stop struct{}

func (p *program) Helper()                         {}
func (p *program) Failed() bool                    { return p.failed }
func (p *program) Cleanup(f func())                { p.cleanups = append(p.cleanups, f) }
func (p *program) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (p *program) Fatalf(format string, args ...any) {
	p.failed = true
	p.Logf("bench: "+format, args...)
	panic(stop{})
}

func (p *program) run(do func()) {
	defer func() {
		r := recover()
		for _, f := range p.cleanups {
			defer f() // the last one first
		}
		if r != nil && r != (stop{}) {
			panic(r)
		}
	}()
	do()
}
