// Package report keeps what tests measure and count, and makes tables of it.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// A Figure is one number of a row.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"` // "" = a count
}

// Count is a Figure without a unit.
func Count(name string, n int) Figure { return Figure{Name: name, Value: float64(n)} }

// Measure is a Figure with a unit.
func Measure(name string, value float64, unit string) Figure {
	return Figure{Name: name, Value: value, Unit: unit}
}

// Duration is a Figure in milliseconds.
func Duration(name string, d time.Duration) Figure {
	return Measure(name, float64(d)/float64(time.Millisecond), "ms")
}

// String is the figure as a person reads it: three digits that mean something, counts whole.
func (f Figure) String() string {
	value := strconv.FormatFloat(f.Value, 'f', 0, 64)
	if f.Value != float64(int64(f.Value)) {
		switch {
		case f.Value < 10:
			value = strconv.FormatFloat(f.Value, 'f', 2, 64)
		case f.Value < 100:
			value = strconv.FormatFloat(f.Value, 'f', 1, 64)
		}
	}
	return strings.TrimSpace(f.Name + " " + value + " " + f.Unit)
}

// A Row is what was done, what came of it, and what should have.
type Row struct {
	Table   string   `json:"table"`           // fault, abuse, builders, bench
	Suite   string   `json:"suite,omitempty"` // of the machine, "" = it makes no difference
	Name    string   `json:"name"`
	Figures []Figure `json:"figures"`
	Goal    string   `json:"goal,omitempty"`
	Met     bool     `json:"met"`
	Note    string   `json:"note,omitempty"`
}

func (r Row) cells() []string {
	figures := make([]string, len(r.Figures))
	for n, f := range r.Figures {
		figures[n] = f.String()
	}
	met := "yes"
	if !r.Met {
		met = "NO"
	}
	if r.Goal == "" {
		met = ""
	}
	return []string{r.Name, r.Suite, strings.Join(figures, ", "), r.Goal, met, r.Note}
}

// TB is what Add asks of a test.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Add logs a row and appends it to the file that LEFT4_REPORT names, if it names one. Tests in several processes may
// add to one file.
func Add(t TB, r Row) {
	t.Helper()
	t.Logf("\n| %s", strings.TrimRight(strings.Join(r.cells(), " | "), " |"))
	name := os.Getenv("LEFT4_REPORT")
	if name == "" {
		return
	}
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatalf("cannot add to the report: %v", err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatalf("cannot add to the report: %v", err)
	}
	defer f.Close()
	// One write, so that lines of several processes do not mix.
	if _, err := f.Write(append(line, '\n')); err != nil {
		t.Fatalf("cannot add to the report: %v", err)
	}
}

// A Report is a table with where and when it was made.
type Report struct {
	Made   time.Time `json:"made"`
	Kernel string    `json:"kernel"`
	CPUs   int       `json:"cpus"`
	Rows   []Row     `json:"rows"`
}

// Read reads the rows that Add has written, in the order of their first appearance by name.
func Read(r io.Reader) (Report, error) {
	report := Report{Made: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Rows: []Row{}}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		// Two numbers tell what it can do; the rest is its builder's.
		numbers := strings.SplitN(unix.ByteSliceToString(name.Release[:]), ".", 3)
		report.Kernel = strings.Join(numbers[:min(2, len(numbers))], ".")
	}
	for in := json.NewDecoder(r); ; {
		var row Row
		err := in.Decode(&row)
		if err == io.EOF {
			return report, nil
		}
		if err != nil {
			return report, fmt.Errorf("cannot read the report: %w", err)
		}
		report.Rows = append(report.Rows, row)
	}
}

// Missed counts the rows whose goal was not met.
func (r Report) Missed() int {
	n := 0
	for _, row := range r.Rows {
		if row.Goal != "" && !row.Met {
			n++
		}
	}
	return n
}

// WriteText writes the table for a terminal.
func (r Report) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "WHAT\tDEBIAN\tFIGURES\tGOAL\tMET\tNOTE")
	for _, row := range r.Rows {
		fmt.Fprintln(tw, strings.TrimRight(strings.Join(row.cells(), "\t"), "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d rows, %d goals missed; Linux %s, %d processors, %s\n",
		len(r.Rows), r.Missed(), r.Kernel, r.CPUs, r.Made.Format(time.RFC3339))
	return err
}

// WriteMarkdown writes the table for a document.
func (r Report) WriteMarkdown(w io.Writer) error {
	if _, err := fmt.Fprint(w, "| what | Debian | figures | goal | met | note |\n|---|---|---|---|---|---|\n"); err != nil {
		return err
	}
	for _, row := range r.Rows {
		cells := row.cells()
		for n := range cells {
			cells[n] = strings.ReplaceAll(cells[n], "|", `\|`)
		}
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%d rows, %d goals missed; Linux %s, %d processors, %s.\n",
		len(r.Rows), r.Missed(), r.Kernel, r.CPUs, r.Made.Format(time.DateOnly))
	return err
}
