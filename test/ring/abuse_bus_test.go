package ring

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
	"left4.me/left4/test/abuse"
	"left4.me/left4/test/report"
)

// most is what left4d may have in memory, whatever anybody does to it.
const most = 64 << 20

// siege is a machine with what a normal host has, and one user on it who means harm.
type siege struct {
	play
	began  time.Time
	pid    string // of left4d
	bus    string // of dbus-daemon
	calls  int    // to time of each kind, before an attack and in it
	probes []string
}

// besiege makes the host: twenty instances of which three run, an overlay, an operator, and a stranger.
func besiege(t *testing.T, m *Machine) *siege {
	s := &siege{play: play{m, t}, began: time.Now(), calls: 40, probes: []string{"probe-root", "probe-olga"}}
	if full() {
		s.calls = 300
	}
	s.install()
	s.AddUser(t, "mallory")
	s.AddUser(t, "olga", "left4-operators")
	s.CopyIn(t, Build(t, "left4.me/left4/test/abuse/cmd/left4-abuse"), "/usr/local/bin/left4-abuse")
	s.layer("maps", map[string]string{"left4dead2/maps/extra.bsp": strings.Repeat("bsp", 1000)})
	s.ctl("blueprint", "create", "versus", "--overlay=maps")
	for n := range 17 {
		s.ctl("create", fmt.Sprintf("s%d", n), "--blueprint=versus", "--config-line=sv_cheats 0")
	}
	for _, name := range s.probes {
		s.ctl("create", name)
	}
	// What operators may do anything to.
	s.ctl("create", "scratch")
	s.ctl("overlay", "create", "scratch")
	s.ctl("blueprint", "create", "scratch")
	for n := range 3 {
		s.ctl("start", fmt.Sprintf("s%d", n))
		s.ready(27015 + n)
	}
	s.pid = strconv.Itoa(s.MainPID(t, "left4d.service"))
	s.bus = strconv.Itoa(s.MainPID(t, "dbus.service"))
	return s
}

// ran is how long a process has had a processor.
func (s *siege) ran(pid string) time.Duration {
	s.t.Helper()
	_, rest, _ := strings.Cut(s.ReadFile(s.t, "/proc/"+pid+"/stat"), ") ")
	var ticks time.Duration
	for _, field := range strings.Fields(rest)[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			s.t.Fatalf("/proc/%s/stat is %s", pid, rest)
		}
		ticks += time.Duration(n)
	}
	return ticks * time.Second / 100
}

// standing is all that an attack must leave as it was.
type standing struct {
	objects map[string]string
	units   string
	lastJob int
	fds     int
	threads int
}

func (s *siege) standing() (now standing) {
	s.t.Helper()
	conn := s.Bus(s.t)
	defer conn.Close()
	root := conn.Object(names.Service, names.Root)
	var managed map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	if err := root.Call(names.ObjectManager+".GetManagedObjects", 0).Store(&managed); err != nil {
		s.t.Fatalf("cannot read what there is: %v", err)
	}
	now.objects = map[string]string{}
	for path, interfaces := range managed {
		if strings.Contains(string(path), "/scratch") || strings.Contains(string(path), "/job/") {
			continue
		}
		for iface, properties := range interfaces {
			for key, value := range properties {
				if key != "Label" || !strings.Contains(string(path), "/probe") {
					now.objects[string(path)+" "+iface+"."+key] = value.String()
				}
			}
		}
	}
	var manager map[string]dbus.Variant
	if err := root.Call(names.Properties+".GetAll", 0, names.Manager).Store(&manager); err != nil {
		s.t.Fatalf("cannot read what there is: %v", err)
	}
	for key, value := range manager {
		now.objects["Manager."+key] = value.String()
	}
	now.units = s.Run(s.t, "sh", "-c", `cd /etc/systemd/system; find . -path '*left4-*' -not -name '*scratch*' -not -path '*scratch*' -printf '%p %l\n' | sort; find . -path '*left4-*' -type f -not -path '*scratch*' | sort | xargs -r sha256sum`)
	var jobs []struct {
		ID                         uint32
		Kind, Target, State, Cause string
		Object                     dbus.ObjectPath
	}
	if err := root.Call(names.Manager+".ListJobs", 0, map[string]dbus.Variant{"limit": dbus.MakeVariant(uint32(1))}).Store(&jobs); err != nil {
		s.t.Fatalf("cannot list jobs: %v", err)
	}
	if len(jobs) > 0 {
		now.lastJob = int(jobs[0].ID)
	}
	now.fds, now.threads = s.fds(), s.status("Threads")
	return now
}

func (s *siege) fds() int { return len(s.list("/proc/" + s.pid + "/fd")) }

// status is a number of left4d's /proc/PID/status.
func (s *siege) status(key string) int {
	s.t.Helper()
	for line := range strings.Lines(s.ReadFile(s.t, "/proc/"+s.pid+"/status")) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				s.t.Fatalf("%s of left4d is %q", key, value)
			}
			return n
		}
	}
	s.t.Fatalf("left4d has no %s", key)
	return 0
}

// latency has root and an operator call left4d side by side and returns how long each kind of call took.
func (s *siege) latency() map[string]abuse.Took {
	s.t.Helper()
	all := map[string]abuse.Took{}
	users := []string{"root", "olga"}
	var running []*Process
	for n, user := range users {
		argv := []string{"left4-abuse", "-instance=" + s.probes[n], "-count=" + strconv.Itoa(s.calls), "latency"}
		running = append(running, s.Start(s.t, asUser(user, argv)...))
	}
	for n, user := range users {
		out, code := running[n].Wait(s.t)
		var took []abuse.Took
		if err := json.Unmarshal([]byte(out), &took); err != nil || code != 0 {
			s.t.Fatalf("the calls of %s: %d, %v\n%s", user, code, err, out)
		}
		for _, kind := range took {
			all[user+" "+kind.Kind] = kind
		}
	}
	return all
}

// slower is by how much the kinds of calls that are wanted took longer than usual: the worst median and the worst p99.
func slower(usual, meanwhile map[string]abuse.Took, wanted func(kind string) bool) (median, p99 float64, worst string) {
	for kind, before := range usual {
		if !wanted(kind) {
			continue
		}
		during := meanwhile[kind]
		if ratio := float64(during.Median) / float64(before.Median); ratio > median {
			median = ratio
		}
		if ratio := float64(during.P99) / float64(before.P99); ratio > p99 {
			p99 = ratio
			worst = fmt.Sprintf("%s, p99 %s → %s, median %s → %s", kind, round(before.P99), round(during.P99), round(before.Median), round(during.Median))
		}
	}
	return median, p99, worst
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// assault is one row of the table.
type assault struct {
	name        string
	attack      string
	user        string
	connections int
	short, full int           // calls; -1 = it is left out
	lasts       time.Duration // until it is ended, in the full form
	begins      bool          // jobs, of what is scratch
	session     bool          // needs one of logind's
}

var assaults = []assault{
	{name: "50 000 calls without reply, one connection", attack: "flood", user: "mallory", connections: 1, short: 5000, full: 50_000},
	{name: "50 000 calls without reply, 20 connections", attack: "flood", user: "mallory", connections: 20, short: -1, full: 50_000},
	{name: "calls without reply for 20 s, 4 connections", attack: "flood", user: "mallory", connections: 4, short: -1, full: 0, lasts: 20 * time.Second},
	{name: "5 000 questions that nobody answers", attack: "prompts", user: "mallory", connections: 50, short: 1000, full: 5000, session: true},
	{name: "GetPermissions, 4 connections", attack: "permissions", user: "mallory", connections: 4, short: -1, full: 0, lasts: 10 * time.Second},
	{name: "introspection and GetManagedObjects, 8 connections", attack: "storm", user: "mallory", connections: 8, short: 1500, full: 0, lasts: 10 * time.Second},
	{name: "GetManagedObjects, 100 connections", attack: "storm", user: "mallory", connections: 100, short: -1, full: 0, lasts: 10 * time.Second},
	{name: "answers that are never read", attack: "deaf", user: "mallory", connections: 4, short: 3000, full: 40_000, lasts: 5 * time.Second},
	{name: "descriptors that are never taken", attack: "deaf-files", user: "olga", connections: 20, short: 200, full: 2000},
	{name: "forged signals and answers", attack: "forge", user: "mallory", connections: 2, short: 1500, full: 50_000},
	{name: "messages of 60 kB to 32 MB, 4 connections", attack: "large", user: "mallory", connections: 4, short: 10, full: 100},
	{name: "the same from an operator", attack: "large", user: "olga", connections: 4, short: -1, full: 50},
	{name: "every method, every type, by a stranger", attack: "fuzz", user: "mallory", connections: 1, short: 1500, full: 0},
	{name: "every method, every type, by an operator", attack: "fuzz", user: "olga", connections: 1, short: 1500, full: 0, begins: true},
	{name: "descriptors of the wrong kind, by a stranger", attack: "descriptors", user: "mallory", connections: 1, short: -1, full: 300},
	{name: "descriptors of the wrong kind, by an operator", attack: "descriptors", user: "olga", connections: 1, short: 60, full: 300, begins: true},
	{name: "10 000 match rules", attack: "rules", user: "mallory", connections: 30, short: -1, full: 10_000},
	{name: "256 connections that call at once", attack: "crowd", user: "mallory", connections: 300, short: -1, full: 20_000},
	{name: "callers that vanish", attack: "vanish", user: "mallory", connections: 1, short: 100, full: 2000},
	{name: "imports whose senders vanish", attack: "vanish", user: "olga", connections: 1, short: -1, full: 200, begins: true},
}

// Whatever a local user sends, left4d stays up, small and of use to others, and changes nothing. The whole of it:
//
//	sudo make abuse
func TestAbuseBus(t *testing.T) {
	Once(t, func(t *testing.T, m *Machine) {
		s := besiege(t, m)
		only := os.Getenv("LEFT4_ABUSE") // parts of rows' names, with commas between
		for _, a := range assaults {
			if a.short < 0 && !full() || only != "" && !slices.ContainsFunc(strings.Split(only, ","), func(part string) bool { return strings.Contains(a.name, part) }) {
				continue
			}
			s.row(t, a)
		}
	})
}

func (s *siege) row(t *testing.T, a assault) {
	t.Helper()
	before, usual := s.standing(), s.latency()
	s.Run(t, "sh", "-c", "echo 5 >/proc/"+s.pid+"/clear_refs") // VmHWM begins again

	count := a.short
	if full() {
		count = a.full
	}
	argv := []string{
		"left4-abuse", "-instance=s0", "-overlay=maps", "-file=left4dead2/maps/extra.bsp",
		fmt.Sprintf("-connections=%d", a.connections), fmt.Sprintf("-count=%d", count), fmt.Sprintf("-operator=%t", a.user == "olga"), a.attack,
	}
	var attacking *Process
	if a.session {
		attacking = s.session(a.user, argv...)
	} else {
		attacking = s.Start(t, asUser(a.user, argv)...)
	}
	attacking.Expect(t, "attacking\n"[:9])
	began, busy, busBusy := time.Now(), s.ran(s.pid), s.ran(s.bus)
	meanwhile := s.latency()
	took := time.Since(began)
	busy, busBusy = s.ran(s.pid)-busy, s.ran(s.bus)-busBusy
	if wait := a.lasts - time.Since(began); full() && wait > 0 {
		select {
		case <-attacking.done:
		case <-time.After(wait):
		}
	}
	select {
	case <-attacking.done:
	default:
		if !abuse.Once[a.attack] {
			attacking.Type(t, "\n")
		}
	}
	out, code := attacking.Wait(t)
	peak := s.status("VmHWM") * 1024
	var tally abuse.Tally
	_, text, _ := strings.Cut(out, "{")
	if err := json.Unmarshal([]byte("{"+strings.TrimSpace(text)), &tally); err != nil || code != 0 {
		t.Errorf("%s: it ended with %d, %v:\n%s", a.name, code, err, out)
	}
	for _, fault := range tally.Faults {
		t.Errorf("%s: %s", a.name, fault)
	}

	// What must be.
	if got := strconv.Itoa(s.MainPID(t, "left4d.service")); got != s.pid {
		t.Fatalf("%s: left4d was restarted: %s, %s", a.name, s.pid, got)
	}
	if peak > most {
		t.Errorf("%s: left4d had %d MB in memory", a.name, peak>>20)
	}
	s.calmDown()
	after := s.standing()
	for key, value := range before.objects {
		if now, ok := after.objects[key]; !ok || now != value {
			t.Errorf("%s: %s was %s and is %s", a.name, key, value, now)
		}
	}
	if len(after.objects) != len(before.objects) {
		t.Errorf("%s: %d properties have become %d", a.name, len(before.objects), len(after.objects))
	}
	if after.units != before.units {
		t.Errorf("%s: units were\n%s\nand are\n%s", a.name, before.units, after.units)
	}
	if after.lastJob != before.lastJob && !a.begins {
		t.Errorf("%s: jobs were begun: the last was %d and is %d", a.name, before.lastJob, after.lastJob)
	}
	s.Eventually(t, "left4d has no more descriptors than before", func() bool { return s.fds() <= before.fds })
	if after.threads > before.threads+8 {
		t.Errorf("%s: %d threads have become %d", a.name, before.threads, after.threads)
	}
	told := len(s.entries(names.MessageCall, "LEFT4_CALLER="+a.user, "LEFT4_RESULT=refused")) + len(s.entries(names.MessageCall, "LEFT4_CALLER="+a.user, "LEFT4_RESULT=failed"))
	if limit := 60 * (2 + int(time.Since(s.began)/time.Minute)); told > limit {
		t.Errorf("%s: %d entries in the journal, more than %d", a.name, told, limit)
	}

	others := func(kind string) bool { return !strings.HasSuffix(kind, abuse.Floor) }
	median, p99, worst := slower(usual, meanwhile, others)
	floor, floor99, _ := slower(usual, meanwhile, func(kind string) bool { return !others(kind) })
	answers := []string{}
	for name, n := range tally.Answers {
		answers = append(answers, fmt.Sprintf("%d %s", n, strings.TrimPrefix(name, "org.freedesktop.DBus.Error.")))
	}
	slices.Sort(answers)
	t.Logf("%s: %d sent, answers %v, %d connections lost, %d refused, %d begun", a.name, tally.Sent, answers, tally.Lost, tally.Refused, tally.Jobs)
	report.Add(t, report.Row{
		Table: "abuse", Suite: s.Suite, Name: "bus: " + a.name,
		Figures: []report.Figure{
			report.Count("calls", tally.Sent), report.Measure("memory", float64(peak)/(1<<20), "MB"),
			report.Measure("others' median", median, "×"), report.Measure("others' p99", p99, "×"),
			report.Measure("the bus's own median", floor, "×"), report.Measure("the bus's own p99", floor99, "×"),
			report.Measure("left4d busy", 100*busy.Seconds()/took.Seconds(), "%"), report.Measure("dbus-daemon busy", 100*busBusy.Seconds()/took.Seconds(), "%"),
		},
		Goal: "up, < 64 MB, nothing changed, others < 2×", Met: !t.Failed() && median < 2 && p99 < 2, Note: worst,
	})
}

// calmDown waits until no job is unfinished.
func (s *siege) calmDown() {
	s.t.Helper()
	ends := s.jobsEnd()
	defer ends.Close()
	for {
		open := s.Run(s.t, "sh", "-c", `left4ctl job list --json | grep -c -e '"queued"' -e '"running"' || :`)
		if open == "0" {
			return
		}
		ends.Wait(s.t, "the end of all jobs", func(*dbus.Signal) bool { return true })
	}
}
