package ring

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
	"left4.me/left4/test/report"
	"left4.me/left4/test/trace"
)

// fewPoints is how many points of a verb a short run takes, and manyPoints how many kinds of left4d's death in a recovery a full one.
const (
	fewPoints  = 1
	manyPoints = 12
)

// spread takes k of the numbers from 1 to n, evenly; all where k is 0.
func spread(n, k int) (all []int) {
	if k == 0 || k > n {
		k = n
	}
	for i := range k {
		all = append(all, 1+(2*i+1)*n/(2*k))
	}
	return all
}

// tally counts what a row of the table says.
type tally struct {
	name                      string
	known, reached, violation int
	took                      time.Duration
}

func (y *tally) add(t *testing.T, m *Machine) {
	t.Helper()
	each := time.Duration(0)
	if y.reached > 0 {
		each = y.took / time.Duration(y.reached)
	}
	report.Add(t, report.Row{
		Table: "fault", Suite: m.Suite, Name: y.name,
		Figures: []report.Figure{report.Count("points", y.known), report.Count("reached", y.reached), report.Count("violations", y.violation), report.Duration("each", each)},
		Goal:    "0 violations", Met: y.violation == 0,
	})
}

// Wherever left4d, or one of its helpers, is killed in any verb: what is there afterwards is whole, the verb can be done again, and
// nobody else notices. A point is a system call that changes a file, a mount or what others have been told; full runs take each
// of them, short ones one of each verb.
func TestFaultCrashPoints(t *testing.T) {
	inParts(t, deeds, func(t *testing.T, f *faulty, d deed) (all []tally) {
		k := fewPoints
		if full() {
			k = 0
		}
		calls := f.known(d, f.points)
		y := tally{name: "crash points: " + d.name, known: len(calls)}
		for _, n := range spread(len(calls), k) {
			y.one(t, f, d, func(wrong func(string, ...any)) (where string, reached bool) {
				tr := f.traceLeft4d(trace.Plan{Counts: f.points, At: n})
				d.do(f)
				return f.after(tr, n, wrong)
			})
		}
		all = append(all, y)
		if d.recovers {
			all = append(all, f.crashTwice(t, d, len(calls)))
		}
		for _, h := range helpers {
			if h.deed == d.name {
				all = append(all, f.crashHelper(t, d, h, k))
			}
		}
		return all
	})
}

// inParts does the deeds, in machines of their own, so that those of a full run are at work at the same time.
func inParts(t *testing.T, deeds []deed, do func(*testing.T, *faulty, deed) []tally) {
	parts := 1
	if full() {
		parts = 2
	}
	Once(t, func(t *testing.T, m *Machine) {
		var reached atomic.Int64
		t.Run("part", func(t *testing.T) {
			for part := range parts {
				t.Run(fmt.Sprint(part), func(t *testing.T) {
					t.Parallel()
					m := m
					if part > 0 {
						m = Boot(t, m.Suite)
					}
					f := newFaulty(t, m)
					for n, d := range deeds {
						if n%parts != part {
							continue
						}
						t.Run(d.name, func(t *testing.T) {
							for _, y := range do(t, f.in(t), d) {
								y.add(t, m)
								reached.Add(int64(y.reached))
							}
						})
					}
					f.noPanic()
				})
			}
		})
		name, _, _ := strings.Cut(t.Name(), "/")
		report.Add(t, report.Row{Table: "fault", Suite: m.Suite, Name: name, Figures: []report.Figure{report.Count("reached", int(reached.Load()))}})
	})
}

// noPanic looks whether left4d has met what cannot be.
func (f *faulty) noPanic() {
	f.t.Helper()
	for line := range strings.Lines(f.Journal(f.t, "left4d.service")) {
		if strings.Contains(line, "internal error") || strings.Contains(line, "panic") || strings.Contains(line, "goroutine ") {
			f.t.Errorf("left4d says: %s", strings.TrimSpace(line))
		}
	}
}

// known does a verb undisturbed, and returns the points that left4d passes.
func (f *faulty) known(d deed, points func(trace.Call) bool) []trace.Call {
	f.t.Helper()
	d.ready(f)
	tr := f.traceLeft4d(trace.Plan{Counts: points})
	o := d.do(f)
	f.sound(d.name)
	calls, err := tr.Detach()
	if err != nil || !o.well() {
		f.t.Fatalf("%s: %v %v: %s", d.name, err, o, f.cause(o))
	}
	return calls
}

// one is one point: from the state that the verb begins in, through the fault and the verb's repetition.
func (y *tally) one(t *testing.T, f *faulty, d deed, fault func(wrong func(string, ...any)) (where string, reached bool)) {
	t.Helper()
	began := time.Now()
	d.ready(f)
	before := f.objects()
	var wrongs []string
	wrong := func(format string, args ...any) { wrongs = append(wrongs, fmt.Sprintf(format, args...)) }
	where, reached := fault(wrong)
	if !reached {
		return
	}
	removes := strings.HasPrefix(d.name, "delete")
	for _, object := range f.objects() {
		before = slices.DeleteFunc(before, func(o string) bool { return o == object })
	}
	if len(before) > 0 && !removes {
		wrong("lost: %v", before)
	}
	if text := f.again(d); text != "" {
		wrong("%s", text)
	}
	for _, text := range f.violations(nil) {
		wrong("after it is done again: %s", text)
	}
	y.reached++
	y.took += time.Since(began)
	y.violation += len(wrongs)
	for _, text := range wrongs {
		t.Errorf("%s, at %s: %s", y.name, where, text)
	}
}

// violations are those that were not there before this point: each is told once.
func (f *faulty) violations(expected func(string) bool) []string {
	f.t.Helper()
	wrongs := violationsBut(f.t, f.Machine, f.calm, toldWithin, func(text string) bool {
		return f.told[text] || expected != nil && expected(text)
	})
	for _, text := range wrongs {
		f.told[text] = true
	}
	return wrongs
}

// objects are the definitions that left4d tells.
func (f *faulty) objects() (all []string) {
	f.t.Helper()
	rows, err := f.instances()
	if err != nil {
		f.t.Fatalf("cannot list the instances: %v", err)
	}
	for _, row := range rows {
		all = append(all, "instance "+row.Name)
	}
	for _, kind := range []string{"Overlay", "Blueprint"} {
		var list []struct {
			Name   string
			Object dbus.ObjectPath
		}
		if err := f.left4d.Call(names.Manager+".List"+kind+"s", 0, config{}.variants()).Store(&list); err != nil {
			f.t.Fatalf("cannot list: %v", err)
		}
		for _, row := range list {
			all = append(all, kind+" "+row.Name)
		}
	}
	return all
}

// after waits until a left4d that may have been killed is back and done, and looks at what there is.
func (f *faulty) after(tr *trace.Tracee, n int, wrong func(string, ...any)) (where string, reached bool) {
	f.t.Helper()
	early := tr.Hit()
	wrongs := f.violations(nil)
	calls, err := tr.Detach()
	if err != nil {
		f.t.Fatal(err)
	}
	if !tr.Hit() {
		return "", false
	}
	if !early {
		wrongs = f.violations(nil)
	}
	for _, text := range wrongs {
		wrong("%s", text)
	}
	return fmt.Sprintf("point %d (%s)", n, calls[n-1]), true
}

// crashTwice kills left4d in a verb, and the next one while it takes up what the first one has left.
func (f *faulty) crashTwice(t *testing.T, d deed, points int) tally {
	t.Helper()
	y := tally{name: "crash points: recovery of " + d.name}
	first := spread(points, 1)[0]
	d.ready(f)
	come := f.await("left4d", "", trace.Plan{Counts: f.points})
	tr := f.traceLeft4d(trace.Plan{Counts: f.points, At: first})
	d.do(f)
	mustBeSound(t, f.Machine, y.name, f.calm)
	tr.Detach()
	next := come.came()
	if next == nil {
		return y // it was not killed
	}
	calls, err := next.Detach()
	if err != nil {
		t.Fatal(err)
	}
	y.known = len(calls)
	k := fewPoints
	if full() {
		k = manyPoints
	}
	for _, n := range spread(len(calls), k) {
		y.one(t, f, d, func(wrong func(string, ...any)) (where string, reached bool) {
			come := f.await("left4d", "", trace.Plan{Counts: f.points, At: n})
			tr := f.traceLeft4d(trace.Plan{Counts: f.points, At: first})
			d.do(f)
			f.after(tr, first, func(string, ...any) {})
			next := come.came()
			if next == nil {
				return "", false
			}
			return f.after(next, n, wrong)
		})
	}
	return y
}

// A helper is a program of left4 that is there for one deed.
type helper struct{ name, program, arg, deed string }

var helpers = []helper{
	{"left4-overlay mount", "overlay", "mount", "start"},
	{"left4-overlay umount", "overlay", "umount", "stop"},
	{"left4-overlay clone", "overlay", "clone", "clone"},
	{"start of left4d", "left4d", "", "restart of left4d"},
	{"left4-worker", "worker", "import", "import"},
	{"left4-worker of a part", "worker", "import", "import, merged"},
}

// knownOf is known for a helper.
func (f *faulty) knownOf(d deed, h helper) []trace.Call {
	f.t.Helper()
	d.ready(f)
	come := f.await(h.program, h.arg, trace.Plan{Counts: files})
	o := d.do(f)
	f.sound(d.name)
	tr := come.came()
	if tr == nil || !o.well() {
		f.t.Fatalf("%s: came: %v, %v: %s", h.name, tr != nil, o, f.cause(o))
	}
	calls, err := tr.Detach()
	if err != nil {
		f.t.Fatal(err)
	}
	return calls
}

func (f *faulty) crashHelper(t *testing.T, d deed, h helper, k int) tally {
	t.Helper()
	calls := f.knownOf(d, h)
	y := tally{name: "crash points: " + h.name, known: len(calls)}
	for _, n := range spread(len(calls), k) {
		y.one(t, f, d, func(wrong func(string, ...any)) (where string, reached bool) {
			come := f.await(h.program, h.arg, trace.Plan{Counts: files, At: n})
			o := d.do(f)
			tr := come.came()
			if tr == nil {
				return "", false
			}
			calls, err := tr.Detach()
			if err != nil {
				t.Fatal(err)
			}
			if !tr.Hit() {
				return "", false
			}
			if !o.well() && !o.gone && f.cause(o) == "" {
				wrong("%v, and nobody says why", o)
			}
			return fmt.Sprintf("point %d (%s)", n, calls[n-1]), true
		})
	}
	return y
}
