package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
	"left4.me/left4/test/report"
	"left4.me/left4/units"
)

const (
	state     = "/var/lib/left4"
	unitDir   = "/etc/systemd/system"
	gameTree  = "/srv/l4d2" // that was imported
	wantsDir  = unitDir + "/multi-user.target.wants"
	packaged  = "/usr/lib/systemd/system"
	firstPort = 20000
)

var layout = units.Layout{State: state, Run: "/run/left4"}

// Servers that take the place of the stand-in where many run, for it takes some 10 MB each.
var programs = map[string]string{
	"light": "#!/bin/sh\nexec sleep infinity\n",
	"flap":  "#!/bin/sh\nexec sleep 2.$(($$ % 900 + 100))\n", // it ends after 2 to 3 s, and systemd restarts it
}

// prepare makes what the instances need, and the units that are started by hand: copies of left4's own, with the same mount
// helper, that left4d knows nothing of.
func (b *bench) prepare() {
	for name, text := range programs {
		dir := "/srv/" + name
		check(os.MkdirAll(dir, 0o755))
		check(os.WriteFile(dir+"/srcds_run", []byte(text), 0o755))
		command("left4ctl", "overlay", "create", name)
		command("left4ctl", "overlay", "import", name, dir)
		command("left4ctl", "blueprint", "create", name, "--overlay="+name)
	}
	for _, kind := range []string{"server", "overlay"} {
		text, err := os.ReadFile(packaged + "/left4-" + kind + "@.service")
		check(err)
		copied := strings.ReplaceAll(string(text), "left4-overlay@", "hand-overlay@")
		check(os.WriteFile(unitDir+"/hand-"+kind+"@.service", []byte(copied), 0o644))
	}
	check(os.MkdirAll(wantsDir, 0o755))
}

// config is a definition.
func config(blueprint string, port int) map[string]dbus.Variant {
	c := map[string]dbus.Variant{"port": dbus.MakeVariant(uint16(port))}
	if blueprint != "" {
		c["blueprint"] = dbus.MakeVariant(blueprint)
	}
	return c
}

// define creates an instance, and returns how long that took.
func (b *bench) define(name, blueprint string, port int) time.Duration {
	began := time.Now()
	err := b.conn.Object(names.Service, names.Root).Call(names.Manager+".CreateInstance", 0, name, config(blueprint, port), none).Err
	took := time.Since(began)
	if err != nil {
		fatalf("cannot create %s: %v", name, err)
	}
	return took
}

func lightName(i int) string { return fmt.Sprintf("light%d", i) }

// lightNames are those from first on, up to but without last.
func lightNames(first, last int) (all []string) {
	for i := first; i < last; i++ {
		all = append(all, lightName(i))
	}
	return all
}

// room is what left4's files take on the disk, in bytes, without what is mounted, with everything that is written down
// for an instance elsewhere.
func room() int {
	out := command("du", "--summarize", "--total", "--one-file-system", "--block-size=1", state, unitDir)
	var n int
	_, err := fmt.Sscan(out[strings.LastIndexByte(out, '\n')+1:], &n)
	check(err)
	return n
}

// create makes the instances that are to run later: row 11.
func (b *bench) create() {
	total := max(b.Loaded[len(b.Loaded)-1], b.Rest, b.Many)
	var took, copied samples
	before := room()
	b.quiet()
	first := min(total, b.Rounds*5)
	for i := range first {
		took = append(took, b.define(lightName(i), "light", firstPort+i))
	}
	b.all("InitializeInstance", lightNames(0, first), none)
	each := (room() - before) / first
	for range b.Again {
		b.quiet()
		copied = append(copied, timed("cp", "-a", "--reflink=never", gameTree, "/var/lib/copy"))
		check(os.RemoveAll("/var/lib/copy"))
	}
	tree := command("du", "--summarize", "--block-size=1", gameTree)
	var size int
	_, err := fmt.Sscan(tree, &size)
	check(err)
	b.row("11 create an instance", append(append(took.figures("create"), copied.figures("cp -a")...),
		report.Measure("disk per instance", float64(each)/1000, "kB"), report.Measure("of the copy", float64(size)/1000, "kB")),
		"create p50 ≤ 20 ms, ≤ 1 MB each", took.p50() <= 20*time.Millisecond && each <= 1<<20,
		"the stand-in game is small; the real one has some 9 GB to copy")
	for i := first; i < total; i++ {
		b.define(lightName(i), "light", firstPort+i)
	}
}

// load brings the number of light instances that run to n.
func (b *bench) load(n int) {
	before := b.reloadsSoFar()
	for b.light < n {
		next := min(n, b.light+25)
		b.all("StartInstance", lightNames(b.light, next))
		b.light = next
	}
	b.firstStarts += b.reloadsSoFar() - before
	b.quiet()
	b.told("%d instances run", n)
}

// byHand writes for units that are started by hand what left4d has written for an instance like them.
func byHand(name, like string, port int) {
	plan, cfg, err := layout.ReadInstance(like)
	check(err)
	_, err = layout.WriteInstance(name, plan, cfg)
	check(err)
	text, err := os.ReadFile(filepath.Join(unitDir, units.ServerUnit(like)+".d/10-left4.conf"))
	check(err)
	// The same command line, but for name and port.
	like, likePort := "/"+like+"/", commandPort(string(text))
	copied := strings.ReplaceAll(strings.ReplaceAll(string(text), like, "/"+name+"/"), " "+likePort, fmt.Sprintf(" %d", port))
	dir := filepath.Join(unitDir, handUnit(name)+".d")
	check(os.MkdirAll(dir, 0o755))
	check(os.WriteFile(dir+"/10-left4.conf", []byte(copied), 0o644))
}

func commandPort(dropIn string) string {
	_, rest, ok := strings.Cut(dropIn, "-port ")
	if !ok {
		fatalf("no port in %q", dropIn)
	}
	return strings.Fields(rest)[0]
}

func handUnit(name string) string { return "hand-server@" + name + ".service" }

func link(name string) string { return wantsDir + "/" + handUnit(name) }

// startByHand makes the link and asks PID 1: those are the two steps of an enable --now.
func (b *bench) startByHand(name string) time.Duration {
	began := time.Now()
	check(os.Symlink(unitDir+"/hand-server@.service", link(name)))
	return b.pid1("StartUnit", handUnit(name)).Sub(began)
}

func (b *bench) stopByHand(name string) {
	check(os.Remove(link(name)))
	b.pid1("StopUnit", handUnit(name))
	b.quiet() // the mount goes behind it
}

func (b *bench) start(name string) time.Duration {
	before := b.reloadsSoFar()
	began := time.Now()
	took := b.left4("StartInstance", name).Sub(began)
	b.firstStarts += b.reloadsSoFar() - before
	return took
}

func (b *bench) stop(name string) {
	before := b.reloadsSoFar()
	b.left4("StopInstance", name)
	b.stops += b.reloadsSoFar() - before
	b.quiet()
}

// starts are rows 1 and 2: one more server with n that run, the stand-in of the game in each case.
func (b *bench) starts(n int) {
	var first, firstHand, again, hand, systemctl samples
	var theirs []string
	rounds := b.Rounds
	if n >= 400 {
		rounds /= 2 // each takes longer
	}
	for i := range rounds {
		// As first starts: nothing is rendered yet, no directory is there. By hand all is written beforehand.
		name, other := fmt.Sprintf("ours-%d-%d", n, i), fmt.Sprintf("hand-%d-%d", n, i)
		b.define(name, "", firstPort+5000)
		b.left4("InitializeInstance", name, none)
		byHand(other, name, firstPort+5001)
		b.left4("ResetInstance", name)
		b.quiet()
		first = append(first, b.start(name))
		b.quiet()
		b.stop(name)
		firstHand = append(firstHand, b.startByHand(other))
		b.quiet()
		b.stopByHand(other)
		// Once more: nothing has changed since.
		again = append(again, b.start(name))
		b.quiet()
		b.stop(name)
		hand = append(hand, b.startByHand(other))
		b.quiet()
		b.stopByHand(other)
		b.left4("DeleteInstance", name)
		b.quiet()
		if i < b.Again {
			theirs = append(theirs, other)
		}
	}
	for _, name := range theirs {
		systemctl = append(systemctl, timed("systemctl", "enable", "--now", handUnit(name)))
		b.quiet() // left4d has looked at all after the reload
		b.stopByHand(name)
	}
	b.row(fmt.Sprintf("1 start + enable of one, %d loaded", n), slices.Concat(again.figures("left4"), hand.figures("by hand"), []report.Figure{times(ratio(again, hand))}),
		"≤ 1.15 ×", ratio(again, hand) <= 1.15, "a link and StartUnit by hand, on copies of the same units")
	b.row(fmt.Sprintf("1 the same, its first start, %d loaded", n), slices.Concat(first.figures("left4"), firstHand.figures("by hand"), []report.Figure{times(ratio(first, firstHand))}),
		"≤ 1.15 ×", ratio(first, firstHand) <= 1.15, "left4 renders, writes and syncs; by hand all is written before")
	goal, met := "", true
	switch limit := map[int]float64{1: 0.35, 400: 0.06}[n]; {
	case limit != 0:
		goal, met = fmt.Sprintf("≤ %g ×", limit), ratio(again, systemctl) <= limit
	}
	b.row(fmt.Sprintf("2 the same beside systemctl enable --now, %d loaded", n), slices.Concat(again.figures("left4"), systemctl.figures("systemctl"), []report.Figure{times(ratio(again, systemctl))}),
		goal, met, "")
	ms := func(s samples) float64 { return float64(s.p50()) / float64(time.Millisecond) }
	b.plot("start", "left4", n, ms(again))
	b.plot("start", "by hand", n, ms(hand))
	b.plot("start", "systemctl enable --now", n, ms(systemctl))
}

// many is row 3: all at once, with nothing else that runs.
func (b *bench) many() {
	var ours, theirs samples
	all := lightNames(0, b.Many)
	b.all("InitializeInstance", all, none)
	var hand []string
	for i, name := range all {
		other := fmt.Sprintf("many%d", i)
		byHand(other, name, firstPort+6000+i)
		hand = append(hand, handUnit(other))
	}
	b.quiet()
	for range min(b.Again, 3) {
		began, before := time.Now(), b.reloadsSoFar()
		b.all("StartInstance", all)
		ours = append(ours, time.Since(began))
		b.firstStarts += b.reloadsSoFar() - before
		b.quiet()
		before = b.reloadsSoFar()
		b.all("StopInstance", all)
		b.stops += b.reloadsSoFar() - before
		b.quiet()
		theirs = append(theirs, timed(append([]string{"systemctl", "start"}, hand...)...))
		b.quiet()
		timed(append([]string{"systemctl", "stop"}, hand...)...)
		b.quiet()
	}
	b.row(fmt.Sprintf("3 %d starts at once", b.Many), slices.Concat(ours.figures("left4"), theirs.figures("systemctl start"), []report.Figure{times(ratio(ours, theirs))}),
		"≤ 1.05 ×", ratio(ours, theirs) <= 1.05, "left4 also enables; a placeholder for the server, in both")
}

// countReloads is row 4.
func (b *bench) countReloads() {
	before := b.reloadsSoFar()
	for i := range min(b.Changed, 10) {
		b.left4("RestartInstance", lightName(i))
	}
	plain := b.reloadsSoFar() - before
	changed := lightNames(0, b.Changed)
	for _, name := range changed {
		c := map[string]dbus.Variant{"arguments": dbus.MakeVariant([]string{"+map", "c2m1_highway"})}
		check(b.conn.Object(names.Service, names.Root).Call(names.Manager+".ConfigureInstance", 0, name, c, none).Err)
	}
	b.quiet()
	before = b.reloadsSoFar()
	b.all("RestartInstance", changed)
	b.quiet()
	all := b.reloadsSoFar() - before
	b.row("4 daemon-reloads", []report.Figure{
		report.Count("of starts", b.firstStarts), report.Count("of stops", b.stops), report.Count("of plain restarts", plain),
		report.Count(fmt.Sprintf("of %d restarts with other arguments", b.Changed), all),
	}, "0, 0, 0, ≤ 3", b.firstStarts == 0 && b.stops == 0 && plain == 0 && all <= 3, "counted by PID 1's signal")
}
