// Package status is what a worker tells about its work, in the STATUS= text of sd_notify: how the worker writes it and left4d reads it.
//
//	progress 0.4213 1200 files, 734003200 bytes
//	done 5310 8123456789
//	done 5310 8123456789 build 14982371
//	error "a/b": a setuid file is not allowed
package status

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// maxText is how much of a text is taken, in bytes. systemd takes more, but a person reads one line.
const maxText = 1000

// Report is what one text says.
type Report struct {
	Progress float64 // 0 to 1; -1: not known
	Done     bool    // all is done, nothing follows
	Files    int64   // how many there are when all is done
	Bytes    int64
	Failed   string // why the work was given up; "": it was not
	Detail   string // how much was done, or what it is at; "": not told
	Note     string // what came of it besides, when all is done
}

// Progress is the text while the work goes on. A fraction outside of 0 to 1 means that it is not known.
func Progress(fraction float64, files, bytes int64) string {
	return fmt.Sprintf("progress %s %s", formatFraction(fraction), detail(files, bytes))
}

// Step is the text while the work goes on, where a count of files says less than words.
func Step(fraction float64, text string) string {
	return fmt.Sprintf("progress %s %s", formatFraction(fraction), escape.Replace(clean(text)))
}

// Done is the text when all was done. A note is for whoever knows what the worker does.
func Done(files, bytes int64, note string) string {
	return strings.TrimSpace(fmt.Sprintf("done %d %d %s", files, bytes, escape.Replace(clean(note))))
}

// Error is the text when the work was given up. Its reason becomes one line.
func Error(reason string) string { return "error " + escape.Replace(clean(reason)) }

// systemd takes backslashes out of STATUS=, and a quoted name then has another one.
var (
	escape   = strings.NewReplacer("%", "%25", `\`, "%5c")
	unescape = strings.NewReplacer("%25", "%", "%5c", `\`)
)

func detail(files, bytes int64) string { return fmt.Sprintf("%d files, %d bytes", files, bytes) }

func formatFraction(f float64) string {
	if f = known(f); f < 0 {
		return "-1"
	}
	return strconv.FormatFloat(f, 'f', 4, 64)
}

func known(f float64) float64 {
	if math.IsNaN(f) || f < 0 || f > 1 {
		return -1
	}
	return f
}

// ParseStatus reads a text. A worker may have been taken over by what it unpacks, so nothing in it is believed: what cannot
// be understood says nothing, and no control character comes out.
func ParseStatus(text string) Report {
	r := Report{Progress: -1}
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "progress":
		fraction, rest, _ := strings.Cut(rest, " ")
		f, err := strconv.ParseFloat(fraction, 64)
		if err != nil {
			return r
		}
		r.Progress = known(f)
		r.Detail = clean(unescape.Replace(rest))
	case "done":
		var files, bytes int64
		n, _ := fmt.Sscanf(rest, "%d %d", &files, &bytes)
		note, told := strings.CutPrefix(rest, fmt.Sprintf("%d %d", files, bytes))
		if n != 2 || !told || note != "" && note[0] != ' ' || files < 0 || bytes < 0 {
			return r
		}
		return Report{Progress: 1, Done: true, Files: files, Bytes: bytes, Detail: detail(files, bytes), Note: clean(unescape.Replace(note))}
	case "error":
		if r.Failed = clean(unescape.Replace(rest)); r.Failed == "" {
			r.Failed = "no reason given"
		}
	}
	return r
}

// Line makes one readable line, of at most limit bytes, of what others wrote.
func Line(text string, limit int) string {
	text = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))), " ")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit-len("…")], "") + "…"
	}
	return text
}

func clean(text string) string { return Line(text, maxText) }
