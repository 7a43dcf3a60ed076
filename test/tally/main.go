// tally reads what `go test -json` prints, shows what a person wants of it, and ends with the line
// "N passed, N failed". It exits 1 when anything failed.
//
// Shown are the output of what failed, each package, each test that took long, why a test was skipped, and the lines of
// tables that a test logs: those that begin with "| ".
// A test with subtests is counted as its subtests.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// An event is one line of `go test -json`, see `go doc test2json` and `go help buildjson`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build event
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// Tests that take longer are named, so that a long run shows where it is.
const long = 0.5 // seconds

// A node is a package, or a test or subtest in it.
type node struct {
	output   strings.Builder
	children bool
	failed   bool // something below it
}

type tally struct {
	out            io.Writer
	nodes          map[string]*node
	passed, failed int
}

func main() {
	t := &tally{out: os.Stdout, nodes: map[string]*node{}}
	err := t.read(os.Stdin)
	if err != nil {
		fmt.Fprintf(os.Stderr, "tally: cannot read the results: %v\n", err)
	}
	fmt.Printf("%d passed, %d failed\n", t.passed, t.failed)
	if err != nil || t.failed > 0 || t.passed == 0 {
		os.Exit(1)
	}
}

func (t *tally) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				t.event(e)
			} else {
				t.out.Write(line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tally) event(e event) {
	if e.Package == "" {
		if e.Action == "build-output" {
			fmt.Fprint(t.out, e.Output)
		}
		return
	}
	name := e.Package
	if e.Test != "" {
		name += "/" + e.Test
	}
	n := t.node(name, e.Package)
	switch e.Action {
	case "output":
		// Of the framing that -json makes verbose, what is left is said below.
		if !strings.HasPrefix(e.Output, "=== ") {
			n.output.WriteString(e.Output)
		}
	case "pass":
		switch {
		case e.Test == "":
			fmt.Fprintf(t.out, "ok    %6.1fs %s\n", e.Elapsed, e.Package)
		case !n.children:
			t.passed++
			if e.Elapsed >= long {
				fmt.Fprintf(t.out, "      %6.1fs %s\n", e.Elapsed, e.Test)
			}
			for line := range strings.Lines(n.output.String()) {
				if line = strings.TrimLeft(line, " "); strings.HasPrefix(line, "| ") {
					fmt.Fprintf(t.out, "              %s", line)
				}
			}
		}
		delete(t.nodes, name)
	case "skip":
		if e.Test != "" {
			reason, _, _ := strings.Cut(n.output.String(), "--- SKIP")
			fmt.Fprintf(t.out, "skip          %s: %s\n", e.Test, strings.TrimSpace(reason))
		}
		delete(t.nodes, name)
	case "fail":
		// What holds a failed test fails too, but that is one failure, already counted and shown.
		if !n.failed {
			t.failed++
		}
		if !n.failed || e.Test == "" {
			fmt.Fprintf(t.out, "FAIL  %6.1fs %s\n%s", e.Elapsed, name, n.output.String())
		}
		for above := name; above != e.Package; {
			above = above[:strings.LastIndex(above, "/")]
			t.node(above, e.Package).failed = true
		}
		delete(t.nodes, name)
	}
}

// node returns the node of a name; a new one is known to those above it, up to its package.
func (t *tally) node(name, pkg string) *node {
	n := t.nodes[name]
	if n == nil {
		n = &node{}
		t.nodes[name] = n
		if name != pkg {
			t.node(name[:strings.LastIndex(name, "/")], pkg).children = true
		}
	}
	return n
}
