package main

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"left4.me/left4/test/bench/measured"
)

// Everything that make bench tells can still be measured. How long it takes in the middle of other tests says nothing.
func TestAllIsMeasured(t *testing.T) {
	suites := strings.Split(os.Getenv("LEFT4_RING"), ",")
	suite := suites[len(suites)-1]
	if suite == "" {
		t.Skip("boots a machine, which LEFT4_RING allows: run sudo make test")
	}
	// The rows go to nobody's table: they are not what make bench would find.
	t.Setenv("LEFT4_REPORT", "")
	result := measure(t, suite, measured.Short)
	rows := map[string]bool{}
	for _, r := range result.Rows {
		n, _, _ := strings.Cut(r.Name, " ")
		rows[n] = true
		for _, f := range r.Figures {
			if f.Name == "" || f.Value < 0 && f.Unit != "%" {
				t.Errorf("%s: %+v", r.Name, f)
			}
		}
	}
	for _, n := range strings.Fields("1 2 3 4 5 6 7 8 9 10 11 12 13") {
		if !rows[n] {
			t.Errorf("there is no row %s", n)
		}
	}
	dir := t.TempDir()
	if err := draw(dir, result.Curves); err != nil {
		t.Fatal(err)
	}
	for _, p := range plots {
		f, err := os.Open(filepath.Join(dir, "bench-"+p.plot+".svg"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		points := 0
		for d := xml.NewDecoder(f); ; {
			token, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", p.plot, err)
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
				points++
			}
		}
		if points < len(measured.Short.Loaded) {
			t.Errorf("%s has %d points", p.plot, points)
		}
	}
}
