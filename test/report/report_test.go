package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	for _, test := range []struct {
		figure Figure
		want   string
	}{
		{Count("points", 0), "points 0"},
		{Count("calls", 1_000_000), "calls 1000000"},
		{Measure("ratio", 1.049, "×"), "ratio 1.05 ×"},
		{Measure("RSS", 27.44, "MB"), "RSS 27.4 MB"},
		{Measure("RSS", 130.4, "MB"), "RSS 130 MB"},
		{Duration("p50", 1500*time.Microsecond), "p50 1.50 ms"},
		{Measure("", 12, "kB"), "12 kB"},
	} {
		if got := test.figure.String(); got != test.want {
			t.Errorf("%#v: %q, not %q", test.figure, got, test.want)
		}
	}
}

func TestRowsAreKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rows")
	t.Setenv("LEFT4_REPORT", file)
	rows := []Row{
		{Table: "fault", Suite: "trixie", Name: "a | b", Figures: []Figure{Count("points", 7)}, Goal: "0 violations", Met: true},
		{Table: "fault", Name: "c", Goal: "none", Note: "missed"},
		{Table: "fault", Name: "no goal"},
	}
	for _, r := range rows {
		Add(t, r)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != len(rows) || r.Rows[0].Name != "a | b" || r.Rows[0].Figures[0] != Count("points", 7) || r.Missed() != 1 {
		t.Errorf("read %+v, %d missed", r, r.Missed())
	}
	var text, markdown strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteMarkdown(&markdown); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "3 rows, 1 goals missed") || !strings.Contains(markdown.String(), `| a \| b | trixie | points 7 | 0 violations | yes |`) {
		t.Errorf("%s\n%s", text.String(), markdown.String())
	}
	if _, err := Read(strings.NewReader(`{"table":`)); err == nil {
		t.Error("half a row was read")
	}
}
