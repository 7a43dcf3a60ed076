package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// clean makes text harmless for a terminal and a table, and keeps it on one line: control and format characters
// (escape sequences, line breaks, tabs, marks that turn the direction of writing) and bytes that are no UTF-8 are
// written as Go would write them.
func clean(s string) string {
	plain := true
	for _, r := range s {
		plain = plain && harmless(r)
	}
	if plain && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case harmless(r):
			b.WriteString(s[:n])
		default:
			quoted := strconv.QuoteToASCII(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[n:]
	}
	return b.String()
}

func harmless(r rune) bool {
	return !unicode.In(r, unicode.C, unicode.Zl, unicode.Zp)
}

// printJSON prints v, indented, on one or more lines. What encoding/json leaves as it is but a terminal would obey is
// escaped too; such characters stand in strings only.
func printJSON(w io.Writer, v any) error {
	return encodeJSON(w, v, "  ")
}

// printJSONLine is printJSON on one line.
func printJSONLine(w io.Writer, v any) error { return encodeJSON(w, v, "") }

func encodeJSON(w io.Writer, v any, indent string) error {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return err
	}
	var safe strings.Builder
	for _, r := range b.String() {
		switch {
		case r == '\n' || harmless(r):
			safe.WriteRune(r)
		case r > 0xffff:
			high, low := surrogates(r)
			fmt.Fprintf(&safe, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&safe, `\u%04x`, r)
		}
	}
	_, err := io.WriteString(w, safe.String())
	return err
}

// surrogates is how JSON writes what does not fit four digits (RFC 8259, section 7).
func surrogates(r rune) (high, low rune) {
	r -= 0x10000
	return 0xd800 + r>>10, 0xdc00 + r&0x3ff
}

// table prints rows below headings, cells cleaned and "-" for empty ones, and how many there are.
func (v *invocation) table(headings []string, rows [][]string, noun string) {
	v.paintedTable(headings, rows, noun, nil)
}

// painter gives a cell its colour, which is "" for none.
type painter func(row, column int) string

func (v *invocation) paintedTable(headings []string, rows [][]string, noun string, paint painter) {
	legend := !v.noLegend && !v.quiet
	if len(rows) == 0 {
		if legend {
			v.say("No %ss.", noun)
		}
		return
	}
	v.grid(headings, rows, paint)
	if legend {
		plural := "s"
		if len(rows) == 1 {
			plural = ""
		}
		fmt.Fprintf(v.stdout, "\n%d %s%s listed.\n", len(rows), noun, plural)
	}
}

// grid prints rows below headings, and returns how wide its columns are.
func (v *invocation) grid(headings []string, rows [][]string, paint painter) []int {
	legend := !v.noLegend && !v.quiet
	widths := make([]int, len(headings))
	widen := func(row []string) {
		for i, cell := range row {
			widths[i] = max(widths[i], columns(cell))
		}
	}
	if legend {
		widen(headings)
	}
	for _, row := range rows {
		for i := range row {
			row[i] = orDash(clean(row[i]))
		}
		widen(row)
	}
	if legend {
		v.gridRow(widths, headings, nil)
	}
	for n, row := range rows {
		v.gridRow(widths, row, func(column int) string {
			if paint == nil {
				return ""
			}
			return paint(n, column)
		})
	}
	return widths
}

// gridRow prints one row of a grid; a cell that is too wide makes its row longer.
func (v *invocation) gridRow(widths []int, row []string, paint func(column int) string) {
	var line strings.Builder
	for i, cell := range row {
		cell = orDash(clean(cell))
		gap := ""
		if i < len(row)-1 {
			gap = strings.Repeat(" ", max(0, widths[i]-columns(cell))+2)
		}
		if paint != nil && v.colors {
			cell = painted(paint(i), cell)
		}
		line.WriteString(cell + gap)
	}
	fmt.Fprintln(v.stdout, line.String())
}

// Colours, as systemd's tools use them (ECMA-48, SGR).
const (
	red    = "0;1;31"
	green  = "0;1;32"
	yellow = "0;1;33"
)

func painted(color, text string) string {
	if color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// wantsColors tells whether output may be coloured: on a terminal that can, where nobody said no (no-color.org).
func wantsColors(terminal bool, getenv func(string) string) bool {
	return terminal && getenv("NO_COLOR") == "" && !dumb(getenv("TERM"))
}

// wide are the characters that take two columns of a terminal.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1}, {0x2e80, 0xa4cf, 1}, {0xac00, 0xd7a3, 1}, {0xf900, 0xfaff, 1}, {0xfe30, 0xfe6f, 1},
		{0xff00, 0xff60, 1}, {0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{{0x1f000, 0x1faff, 1}, {0x20000, 0x3fffd, 1}},
}

func columnsOf(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// columns is how many columns of a terminal cleaned text takes.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += columnsOf(r)
	}
	return n
}

// cut shortens cleaned text to a number of columns.
func cut(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	n := 0
	for i, r := range s {
		if n += columnsOf(r); n > width-1 {
			return s[:i] + strings.Repeat("…", min(1, width))
		}
	}
	return s
}

// sheet prints names and values, one each line; a row without a name goes on with the one above.
func (v *invocation) sheet(rows [][2]string) {
	width := 0
	for _, r := range rows {
		width = max(width, len(r[0]))
	}
	for _, r := range rows {
		sign := ":"
		if r[0] == "" {
			sign = " "
		}
		fmt.Fprintf(v.stdout, "%*s%s %s\n", width, r[0], sign, orDash(clean(r[1])))
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// ago tells how long ago a moment was, as systemctl does: the two largest units.
func (v *invocation) ago(t time.Time) string {
	d := v.now().Sub(t)
	switch {
	case t.IsZero():
		return ""
	case d < time.Second:
		return "now"
	}
	return elapsed(d) + " ago"
}

// elapsed prints a span of time in its two largest units.
func elapsed(d time.Duration) string {
	units := []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}}
	for n, u := range units {
		if d < u.size {
			continue
		}
		text := strconv.FormatInt(int64(d/u.size), 10) + u.name
		if n+1 < len(units) {
			text += " " + strconv.FormatInt(int64(d%u.size/units[n+1].size), 10) + units[n+1].name
		}
		return text
	}
	return "0s"
}

// when prints a moment for people; stamp is the same for JSON.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05 MST")
}

func stamp(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := t.UTC().Format("2006-01-02T15:04:05.000000Z")
	return &s
}

// nearest is the candidate that was probably meant: as few changed, missing, added or swapped letters as possible, at
// most one in three.
func nearest(said string, candidates []string) string {
	best, found := (len(said)+2)/3+1, ""
	for _, c := range candidates {
		if d := distance(said, c, best); d < best && c != said {
			best, found = d, c
		}
	}
	return found
}

// distance counts edits and swaps of neighbours, up to limit.
func distance(a, b string, limit int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= limit {
		return limit
	}
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
