package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"left4.me/left4/daemon/worker/keyvalues"
)

const (
	// maxLine is how much of a line is taken, in bytes. The rest of it is dropped.
	maxLine = 4 << 10
	// maxShown is how much of a program's output goes to the journal, in bytes.
	maxShown = 16 << 20
)

// lines takes the output of a program as it comes and gives it on line by line: printable, without control sequences. Whatever
// the program writes, it keeps one line.
type lines struct {
	each  func(line string)
	heard func() // is called for whatever comes, nil = not needed
	rest  []byte
}

func (l *lines) Write(data []byte) (int, error) {
	if l.heard != nil {
		l.heard()
	}
	for rest := data; len(rest) > 0; {
		// A progress that is drawn over itself ends in a return.
		end := bytes.IndexAny(rest, "\n\r")
		part := rest
		if end >= 0 {
			part = rest[:end]
		}
		l.rest = append(l.rest, part[:min(len(part), maxLine-len(l.rest))]...)
		if rest = rest[len(part):]; end >= 0 {
			rest = rest[1:]
			l.flush()
		}
	}
	return len(data), nil
}

// flush gives on what has no end yet.
func (l *lines) flush() {
	line := printable(l.rest)
	l.rest = l.rest[:0]
	if strings.TrimSpace(line) != "" {
		l.each(line)
	}
}

var control = regexp.MustCompile("\x1b\\[[0-9;?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*\x07?|\x1b.")

func printable(text []byte) string {
	line := strings.ToValidUTF8(string(text), "?")
	if strings.ContainsRune(line, '\x1b') {
		line = control.ReplaceAllString(line, "")
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || unicode.IsPrint(r):
			return r
		case r == 0:
			return -1
		}
		return ' '
	}, line)
}

// shower writes lines to the journal: the same one not twice in a row, none of the hundreds of app_info_print, and not without end.
type shower struct {
	to    io.Writer
	last  string
	shown int
}

func (s *shower) show(line string) {
	if line == s.last || s.shown > maxShown || ofAppInfo.MatchString(line) {
		return
	}
	s.last = line
	if s.shown += len(line) + 1; s.shown > maxShown {
		line = fmt.Sprintf("left4-worker: it has said more than %d MiB; no more of it is shown", maxShown>>20)
	}
	fmt.Fprintln(s.to, line)
}

// ofAppInfo is a line below the first one of what app_info_print prints.
var ofAppInfo = regexp.MustCompile(`^(?:\t|[{}]$)`)

var (
	success = regexp.MustCompile(`^Success! App '` + app + `' (fully installed|already up to date)`)

	updateState = regexp.MustCompile(`^Update state \((0x[0-9a-fA-F]{1,8})\) ([a-z][a-z ]{0,40}), progress: (\d{1,3}[.,]\d{1,2}) \((\d{1,19}) / (\d{1,19})\)`)
	selfUpdate  = regexp.MustCompile(`^\[ *(\d{1,3})%\] Downloading update`)
	depotShare  = regexp.MustCompile(`^(\d{1,3}[.,]\d{1,2})% /`)
	depotFile   = regexp.MustCompile(`^(Pre-allocating|Validating) /`)
)

// stepOf is what a line tells about the progress: how much of the step is done, -1 = not known, and the step; "" = nothing.
func stepOf(line string) (fraction float64, step string) {
	line = strings.TrimSpace(line)
	if m := updateState.FindStringSubmatch(line); m != nil && m[2] != "unknown" {
		done, all := size(m[4]), size(m[5])
		if all <= 0 || done > all {
			return -1, m[2]
		}
		return float64(done) / float64(all), fmt.Sprintf("%s, %s of %s", m[2], inGB(done), inGB(all))
	}
	if m := selfUpdate.FindStringSubmatch(line); m != nil {
		return percent(m[1]), "SteamCMD updates itself"
	}
	if m := depotShare.FindStringSubmatch(line); m != nil {
		return percent(m[1]), "downloading"
	}
	if m := depotFile.FindStringSubmatch(line); m != nil {
		return -1, map[string]string{"Pre-allocating": "preallocating", "Validating": "verifying"}[m[1]]
	}
	return -1, ""
}

func size(digits string) int64 {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func percent(text string) float64 {
	f, err := strconv.ParseFloat(strings.Replace(text, ",", ".", 1), 64)
	if err != nil || f > 100 {
		return -1
	}
	return f / 100
}

func inGB(bytes int64) string { return fmt.Sprintf("%.2f GB", float64(bytes)/1e9) }

// teller tells the progress now and then, and a new step at once.
type teller struct {
	note func(fraction float64, text string)
	what string
	step string // without its figures
	told time.Time
}

func (t *teller) line(line string) {
	fraction, text := stepOf(line)
	if text == "" {
		return
	}
	step, _, _ := strings.Cut(text, ",")
	if step == t.step && time.Since(t.told) < noteEvery {
		return
	}
	t.step, t.told = step, time.Now()
	t.note(fraction, t.what+": "+text)
}

// appInfo collects what app_info_print prints.
type appInfo struct {
	text []byte
}

var appInfoBegins = regexp.MustCompile(`^(?:Steam>)?\s*"` + app + `"\s*$`)

func (a *appInfo) line(line string) {
	switch {
	case appInfoBegins.MatchString(line):
		a.text = []byte(`"` + app + `"`) // the last one counts: the first can be empty
	case a.text == nil || len(a.text)+len(line) >= keyvalues.MaxText:
		return
	default:
		a.text = append(a.text, line...)
	}
	a.text = append(a.text, '\n')
}

// build is the build that everybody gets, "" if it is not told.
func (a *appInfo) build() string {
	info, err := keyvalues.First(a.text, true)
	if err != nil {
		return ""
	}
	if build := info.Text("depots", "branches", "public", "buildid"); isBuild(build) {
		return build
	}
	return ""
}

// depots are what DepotDownloader has got.
type depots struct {
	count, known int   // all, and those whose manifest was there already
	bytes        int64 // downloaded
}

var (
	depotsDone  = regexp.MustCompile(`^Total downloaded: (\d{1,19}) bytes \(\d+ bytes uncompressed\) from (\d{1,6}) depots`)
	depotsKnown = regexp.MustCompile(`^Already have manifest \d+ for depot \d+\.`)
)

func (d *depots) line(line string) {
	if m := depotsDone.FindStringSubmatch(line); m != nil {
		d.bytes, d.count = size(m[1]), int(size(m[2]))
	}
	if depotsKnown.MatchString(line) {
		d.known++
	}
}
