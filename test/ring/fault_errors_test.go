package ring

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"left4.me/left4/test/trace"
)

// errorAt is what a call fails with: the disk is full, broken, read-only or the user's share of it used up, there are too
// many files open. Each point gets one, and its neighbours the others.
func errorAt(n int, c trace.Call) unix.Errno {
	errnos := []unix.Errno{unix.ENOSPC, unix.EIO, unix.EROFS}
	switch {
	case strings.HasPrefix(c.Name, "open"):
		errnos = append(errnos, unix.EMFILE)
	case strings.Contains(c.Name, "write"):
		errnos = append(errnos, unix.EDQUOT)
	}
	return errnos[n%len(errnos)]
}

// Whichever of left4's own calls fails: the verb ends well or says what it could not do, nothing is half done or told
// wrongly, and when the disk is well again the verb can be done.
func TestFaultErrors(t *testing.T) {
	inParts(t, deeds, func(t *testing.T, f *faulty, d deed) (all []tally) {
		k := fewPoints
		if full() {
			k = 0
		}
		calls := f.known(d, files)
		y := tally{name: "errors: " + d.name, known: len(calls)}
		for _, n := range spread(len(calls), k) {
			y.one(t, f, d, func(wrong func(string, ...any)) (where string, reached bool) {
				errno := errorAt(n, calls[n-1])
				tr := f.traceLeft4d(trace.Plan{Counts: files, At: n, Errno: errno})
				o := d.do(f)
				return f.survived(o, tr, n, errno, wrong)
			})
		}
		all = append(all, y)
		for _, h := range helpers {
			if h.deed != d.name {
				continue
			}
			calls := f.knownOf(d, h)
			y := tally{name: "errors: " + h.name, known: len(calls)}
			for _, n := range spread(len(calls), k) {
				y.one(t, f, d, func(wrong func(string, ...any)) (where string, reached bool) {
					errno := errorAt(n, calls[n-1])
					come := f.await(h.program, h.arg, trace.Plan{Counts: files, At: n, Errno: errno})
					o := d.do(f)
					tr := come.came()
					if tr == nil {
						return "", false
					}
					return f.survived(o, tr, n, errno, wrong)
				})
			}
			all = append(all, y)
		}
		return all
	})
}

// told is what a caller hears when the limits of a running server are stored and could not be given to it.
var told = regexp.MustCompile(`: left4d tells (MemoryMax|TasksMax) \d+, systemd \d+$`)

// survived looks at what there is after an error, before the verb is done again. What could not be removed, or not be written
// down, may still be there.
func (f *faulty) survived(o outcome, tr *trace.Tracee, n int, errno unix.Errno, wrong func(string, ...any)) (where string, reached bool) {
	f.t.Helper()
	// The cause of a job is read from the left4d that ended it: the database may not have it.
	text := ""
	if !o.well() && !o.gone {
		text = f.cause(o)
	}
	wrongs := f.violations(func(text string) bool {
		return told.MatchString(text) || strings.HasPrefix(text, "left behind") || strings.HasPrefix(text, "the disk has the revisions") ||
			strings.HasPrefix(text, "the database has a job without an end") ||
			strings.HasSuffix(text, `and the unit of its files is "failed"`) // it could not be unmounted
	})
	calls, err := tr.Detach()
	if err != nil {
		f.t.Fatal(err)
	}
	if !tr.Hit() {
		return "", false
	}
	for _, text := range wrongs {
		wrong("%s", text)
	}
	if !o.well() && !o.gone && !strings.HasPrefix(text, "cannot ") {
		wrong("it does not say what could not be done: %v, %q", o, text)
	}
	return fmt.Sprintf("%s at point %d (%s)", unix.ErrnoName(errno), n, calls[n-1]), true
}
