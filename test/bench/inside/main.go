// inside measures left4 in a machine that is made for it. It is the half of bench that runs in there, as root: it makes
// instances and units of its own, and takes what it measures itself, on one connection to the bus, so that nothing but the
// thing itself is in a figure. It prints a measured.Result.
//
// What is compared is measured in turns (A B A B …), so that both have the same machine.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/test/bench/measured"
	"left4.me/left4/test/report"
)

func main() {
	var o measured.Options
	check(json.Unmarshal([]byte(os.Args[1]), &o))
	b := &bench{Options: o, ear: listen(), raw: dialRaw(), suite: codename()}
	b.run()
	check(json.NewEncoder(os.Stdout).Encode(b.result))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func fatalf(format string, args ...any) { panic(fmt.Errorf(format, args...)) }

// bench is one run.
type bench struct {
	measured.Options
	*ear
	raw    *raw
	suite  string
	result measured.Result
	light  int // instances that run

	firstStarts, stops int // reloads that PID 1 made of them
}

func (b *bench) run() {
	b.prepare()
	b.create()
	b.many()
	b.layers()
	for _, n := range b.steps() {
		b.load(n)
		if slices.Contains(b.Loaded, n) {
			b.starts(n)
			b.reads(n)
			b.grow(n)
		}
		if n == b.Listed {
			b.list(n)
		}
		if n == b.Rest {
			b.rest(n)
		}
	}
	b.flapping()
	b.countReloads()
	b.told("done")
	slices.SortStableFunc(b.result.Rows, func(x, y report.Row) int { return number(x) - number(y) })
}

// steps are all numbers of running instances that something is measured at.
func (b *bench) steps() []int {
	all := append(slices.Clone(b.Loaded), b.Listed, b.Rest)
	slices.Sort(all)
	return slices.Compact(all)
}

// number is that of a row, with which its name begins.
func number(r report.Row) int {
	n, _, _ := strings.Cut(r.Name, " ")
	i, err := strconv.Atoi(n)
	check(err)
	return i
}

// row adds a row whose goal is met, or not, or which has none.
func (b *bench) row(name string, figures []report.Figure, goal string, met bool, note string) {
	r := report.Row{Table: "bench", Suite: b.suite, Name: name, Figures: figures, Goal: goal, Met: met, Note: note}
	b.result.Rows = append(b.result.Rows, r)
	b.told("%s: %v", name, figures)
}

// told tells who waits how far it is.
func (b *bench) told(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// plot adds a point to a curve.
func (b *bench) plot(plot, name string, x int, y float64) {
	i := slices.IndexFunc(b.result.Curves, func(c measured.Curve) bool { return c.Plot == plot && c.Name == name })
	if i < 0 {
		i = len(b.result.Curves)
		b.result.Curves = append(b.result.Curves, measured.Curve{Plot: plot, Name: name})
	}
	c := &b.result.Curves[i]
	c.X, c.Y = append(c.X, x), append(c.Y, y)
}

// samples are how long something took, each time.
type samples []time.Duration

func (s samples) quantile(percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

func (s samples) p50() time.Duration { return s.quantile(50) }
func (s samples) p99() time.Duration { return s.quantile(99) }

// figures are the median and the 99th percentile of something.
func (s samples) figures(name string) []report.Figure {
	return []report.Figure{report.Duration(name+" p50", s.p50()), report.Duration("p99", s.p99())}
}

// ratio is that of two medians.
func ratio(a, b samples) float64 { return float64(a.p50()) / float64(b.p50()) }

func times(r float64) report.Figure { return report.Measure("ratio", r, "×") }

// timed is how long a program takes as a whole.
func timed(argv ...string) time.Duration {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, out.String(), errs.String())
	}
	return took
}

func command(argv ...string) string {
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func codename() string {
	text, err := os.ReadFile("/etc/os-release")
	check(err)
	_, rest, _ := strings.Cut(string(text), "VERSION_CODENAME=")
	name, _, _ := strings.Cut(rest, "\n")
	return name
}

// quiet waits until nothing is left of what was asked for last: PID 1, the bus and left4d have not run for a moment. What
// one of two that are compared leaves to be done must not be counted against the other.
func (b *bench) quiet() {
	still, before := 0, ""
	deadline := time.Now().Add(patience)
	for still < 3 {
		if time.Now().After(deadline) {
			fatalf("the machine does not come to rest")
		}
		time.Sleep(10 * time.Millisecond)
		now := ""
		for _, pid := range []int{1, b.pidOf("dbus.service"), b.pidOf("left4d.service"), b.pidOf("systemd-journald.service")} {
			now += fmt.Sprint(switchesOf(pid), " ")
		}
		if now == before {
			still++
		} else {
			still = 0
		}
		before = now
	}
}

// pidOf is the main process of a unit; its answer is not asked of PID 1, for that would be work.
func (b *bench) pidOf(unit string) int {
	text, err := os.ReadFile("/sys/fs/cgroup" + cgroupOf(unit) + "/cgroup.procs")
	check(err)
	pid, err := strconv.Atoi(strings.Fields(string(text))[0])
	check(err)
	return pid
}

var cgroups = map[string]string{}

func cgroupOf(unit string) string {
	if cgroups[unit] == "" {
		cgroups[unit] = command("systemctl", "show", "--value", "--property=ControlGroup", unit)
	}
	return cgroups[unit]
}

// switchesOf is how often the threads of a process went to sleep.
func switchesOf(pid int) (sum int) {
	eachThread(pid, func(dir string) { sum += statusOf(dir+"/status", "voluntary_ctxt_switches") })
	return sum
}

func eachThread(pid int, do func(dir string)) {
	dir := fmt.Sprintf("/proc/%d/task/", pid)
	entries, err := os.ReadDir(dir)
	check(err)
	for _, e := range entries {
		do(dir + e.Name())
	}
}

// statusOf is a number in /proc/PID/status.
func statusOf(file, key string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut(string(text), "\n"+key+":")
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	check(err)
	return n
}

func monotonic() time.Duration {
	var t unix.Timespec
	check(unix.ClockGettime(unix.CLOCK_MONOTONIC, &t))
	return time.Duration(t.Nano())
}
