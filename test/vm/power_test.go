package vm

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/report"
)

// importing has left4d import what never ends, and returns the job when that is at work.
func (p play) importing(overlay string) (job dbus.ObjectPath) {
	p.t.Helper()
	changes := p.Signals(p.t, dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"))
	var out output
	told := out.grows()
	stream, err := p.boot.start(&out, &out, agent, "import", overlay)
	if err != nil {
		p.t.Fatalf("%s: cannot import: %v", p.Suite, err)
	}
	half := archive(map[string]string{"left4dead2/maps/extra.bsp": "bad", "left4dead2/maps/new.bsp": strings.Repeat("new", 1000)})
	stream.Write(half[:len(half)-2048])
	for !strings.HasSuffix(out.String(), "\n") {
		select {
		case <-told:
		case <-stream.done:
			p.t.Fatalf("%s: cannot import: %s", p.Suite, out.String())
		}
	}
	job = dbus.ObjectPath(strings.TrimSpace(out.String()))
	for !strings.HasPrefix(p.property(string(job), "me.left4.Job", "Status"), "unpacking: ") {
		changes.Wait(p.t, "an import at work", func(s *dbus.Signal) bool { return s.Path == job })
	}
	return job
}

// whole looks for what must not be after a power cut: half-made files, states that nobody asked for.
func (p play) whole(running map[string]int, stopped ...string) {
	p.t.Helper()
	for name, port := range running {
		p.ready(port)
		p.expect(name, p.get(name, "State")+", "+p.get(name, "DesiredState")+", drifted "+p.get(name, "Drifted"), "running, running, drifted false")
	}
	for _, name := range stopped {
		p.expect(name, p.get(name, "State")+", "+p.get(name, "DesiredState")+", drifted "+p.get(name, "Drifted"), "stopped, stopped, drifted false")
	}
	if mounts := p.mounts(); len(mounts) != len(running) {
		p.t.Errorf("%s: %d servers run, mounted: %q", p.Suite, len(running), mounts)
	}
	// Names of what is on its way begin with a dot, or end with a suffix of their own.
	half := p.Run(p.t, "sh", "-c", `cd /var/lib/left4
		find . game -maxdepth 1 -name '.?*'
		find overlays instances runtime /etc/systemd/system -maxdepth 2 \( -name '.?*' -o -name '*.new' -o -name '*.old' \)`)
	p.expect("what is left half made", half, "")
	p.expect("the empty files", p.Run(p.t, "find", "/etc/systemd/system", "/var/lib/left4/instances", "-type", "f", "-size", "0"), "")
	p.expect("the failed units", p.Run(p.t, "systemctl", "--failed", "--no-legend", "--plain"), "")
}

func TestAPowerCutInTheMiddle(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.layer("maps", map[string]string{"left4dead2/maps/extra.bsp": "good"})
		for _, name := range []string{"steady", "idle", "begun", "ending", "again", "gone"} {
			p.ctl("create", name, "--overlay=maps")
		}
		// What holds the jobs up goes with the power.
		p.WriteFile(t, "/run/systemd/system/left4-overlay@begun.service.d/slow.conf",
			"[Service]\nExecStartPre=sh -c 'echo mounting >/run/begun; sleep infinity'\nTimeoutStartSec=infinity\n", 0o644)
		p.Run(t, "mkfifo", "/run/begun")
		p.WriteFile(t, "/run/systemd/system/left4-server@.service.d/slow.conf", "[Service]\nTimeoutStopSec=infinity\n", 0o644)
		p.Run(t, "systemctl", "daemon-reload")
		p.ctl("start", "steady", "idle", "ending", "again", "gone")
		p.ctl("stop", "idle")
		for name, port := range map[string]int{"ending": 27018, "again": 27019, "gone": 27020} {
			p.ready(port)
			p.rcon(name, port, "standin ignore-sigint")
		}
		p.ready(27015)

		states := p.states()
		manager, nothing := p.Bus(t).Object(service, "/me/left4"), map[string]dbus.Variant{}
		for _, c := range []struct{ method, name, state string }{
			{"StartInstance", "begun", ""},
			{"StopInstance", "ending", "stopping"},
			{"RestartInstance", "again", "restarting"},
			{"DeleteInstance", "gone", "stopping"},
		} {
			if c.name == "again" {
				p.ctl("configure", "again", "hostname=Another")
			}
			if err := manager.Call(managerI+"."+c.method, 0, c.name, nothing).Err; err != nil {
				t.Fatalf("%s: %s %s: %v", p.Suite, c.method, c.name, err)
			}
			if c.state != "" {
				p.becomes(states, c.name, c.state)
			}
		}
		p.expect("what begun does", p.Run(t, "cat", "/run/begun"), "mounting")
		p.importing("maps")

		t.Logf("%s: up %s after the cut", p.Suite, p.PowerCut(t).Round(time.Second))
		jobs := p.settled()
		for what, want := range map[string]string{
			"start begun": "done", "stop ending": "done", "restart again": "done", "delete gone": "done", "import-overlay maps": "failed",
		} {
			p.expect("the job "+what, jobs[what].State, want)
		}
		p.whole(map[string]int{"steady": 27015, "begun": 27017, "again": 27019}, "idle", "ending")
		p.expect("the name of again", strings.Fields(p.ready(27019))[1], `"Another"`)
		p.expect("why steady runs", p.get("steady", "Cause"), "started at boot")
		for _, path := range []string{"/var/lib/left4/runtime/gone", "/var/lib/left4/instances/gone", "/etc/systemd/system/left4-server@gone.service.d"} {
			if p.Try("test", "-e", path).Code == 0 {
				t.Errorf("%s: %s is left of a deleted instance", p.Suite, path)
			}
		}
		if r := p.Try("left4ctl", "status", "gone"); r.Code != 4 {
			t.Errorf("%s: a deleted instance is there: %+v", p.Suite, r)
		}
		p.expect("the revisions", p.list(p.overlayDir("maps")), "1 2")
		p.expect("the map", p.reads("steady", "maps/extra.bsp")+p.reads("steady", "maps/new.bsp"), "good")
		if cause := p.property("/me/left4/overlay/maps", "me.left4.Overlay", "Cause"); !strings.HasPrefix(cause, "cannot import overlay maps: ") {
			t.Errorf("%s: the cause is %q", p.Suite, cause)
		}
	})
}

// What left4ctl has reported as done is on the disk, whatever the kernel still had in memory.
func TestAPowerCutTakesNothingBack(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		const checksums = `cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum`
		files := map[string]string{}
		for i := range 300 {
			files[fmt.Sprintf("left4dead2/maps/m%d.bsp", i)] = strings.Repeat(fmt.Sprintf("map %d ", i), 1+i*i/20)
		}
		p.RunInput(t, strings.NewReader(string(archive(files))), "sh", "-ec", "mkdir /root/maps; tar -xC /root/maps")
		p.ctl("overlay", "create", "maps")
		p.ctl("create", "a", "--overlay=maps", "--hostname=One")
		p.ctl("create", "b")
		p.ctl("start", "b")
		p.ready(27016)
		cut := func(after string) {
			t.Helper()
			t.Logf("%s: up %s after a cut after %s", p.Suite, p.PowerCut(t).Round(time.Second), after)
			p.settled()
		}

		p.ctl("start", "a")
		cut("a start")
		p.whole(map[string]int{"a": 27015, "b": 27016})

		p.ctl("overlay", "import", "maps", "/root/maps")
		cut("an import")
		p.whole(map[string]int{"a": 27015, "b": 27016})
		p.expect("the revisions", p.list(p.overlayDir("maps")), "1 2")
		p.expect("PendingRestart", p.get("a", "PendingRestart"), "true") // a boot mounts what the last start did
		p.expect("the files", p.Run(t, "sh", "-ec", checksums, "sh", p.overlayDir("maps")+"/2"), p.Run(t, "sh", "-ec", checksums, "sh", "/root/maps"))

		p.ctl("configure", "a", "hostname=Two", "MemoryMax=1G")
		p.ctl("create", "c")
		p.ctl("stop", "b")
		cut("a stop")
		p.whole(map[string]int{"a": 27015}, "b", "c")
		p.expect("the limit", p.cgroup("a", "memory.max"), "1073741824")
		p.ctl("restart", "a")
		p.expect("the name", strings.Fields(p.ready(27015))[1], `"Two"`)
	})
}

// Whenever the power fails while people do all that can be done, what is there after the boot is whole, what was wanted
// runs, and all can be done again.
func TestPowerCutsAtAnyTime(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		t.Logf("%s: seed %d", p.Suite, seed)
		names := map[string]int{"a": 27015, "b": 27016, "c": 27017, "d": 27018, "e": 27019, "f": 27020}
		p.layer("maps", map[string]string{"left4dead2/maps/x.bsp": "0", "left4dead2/maps/y.bsp": "0"})
		for _, name := range slices.Sorted(maps.Keys(names)) {
			p.ctl("create", name, "--overlay=maps")
		}
		p.Run(t, "sh", "-ec", `for i in 1 2 3 4 5; do
			mkdir -p "/root/maps$i/left4dead2/maps"
			for f in x y; do echo "$i" >"/root/maps$i/left4dead2/maps/$f.bsp"; done
		done`)
		// Each in a loop of its own, so that a cut meets every verb somewhere.
		verbs := []string{
			`left4ctl start a; left4ctl stop a`,
			`left4ctl restart b`,
			`left4ctl configure c hostname=$(date +%N); left4ctl restart c`,
			`left4ctl delete d; left4ctl create d --overlay=maps --port=27018; left4ctl initialize d`,
			`left4ctl start e; left4ctl kill e`,
			`left4ctl start f; left4ctl reset f`,
			`for i in 1 2 3 4 5; do left4ctl overlay import maps /root/maps$i; done`,
			`left4ctl overlay rollback maps; left4ctl overlay configure maps --keep=0; left4ctl overlay configure maps --keep=3`,
		}
		const cuts = 3
		wrongs := 0
		for range cuts {
			for _, verb := range verbs {
				if _, err := p.boot.start(nil, nil, "sh", "-c", "while :; do "+verb+"; done"); err != nil {
					t.Fatal(err)
				}
			}
			moment := time.NewTimer(time.Duration((5 + 25*random.Float64()) * float64(time.Second)))
			<-moment.C
			t.Logf("%s: up %s after the cut", p.Suite, p.PowerCut(t).Round(time.Second))
			p.settled()
			running, stopped := map[string]int{}, []string{}
			for name, port := range names {
				switch r := p.Try("left4ctl", "status", name); {
				case r.Code == 4 && name == "d": // there is no such instance at the moment
				case p.get(name, "DesiredState") == "running":
					running[name] = port
				default:
					stopped = append(stopped, name)
				}
			}
			t.Logf("%s: wanted are %v", p.Suite, running)
			p.whole(running, stopped...)
			// A revision is one import, whole.
			for revision := range strings.FieldsSeq(p.list(p.overlayDir("maps"))) {
				if revision == "1" {
					continue // the empty one that an overlay begins with
				}
				dir := p.overlayDir("maps") + "/" + revision + "/left4dead2/maps/"
				if x, y := p.ReadFile(t, dir+"x.bsp"), p.ReadFile(t, dir+"y.bsp"); x == "" || x != y {
					t.Errorf("%s: revision %s holds %q and %q", p.Suite, revision, x, y)
				}
			}
			if t.Failed() {
				wrongs++
			}
			p.ctl("delete", "d")
			p.ctl("create", "d", "--overlay=maps", "--port=27018")
			p.ctl("overlay", "configure", "maps", "--keep=3")
			p.ctl("overlay", "import", "maps", "/root/maps1")
			p.ctl("overlay", "rollback", "maps")
			for name, port := range names {
				p.ctl("start", name)
				p.ready(port)
			}
		}
		report.Add(t, report.Row{Table: "fault", Suite: p.Suite, Name: "power cut of a virtual machine in the middle of every verb",
			Figures: []report.Figure{report.Count("cuts", cuts), report.Count("verbs at work at each", 14), report.Count("cuts with violations", wrongs)},
			Goal:    "0 violations", Met: wrongs == 0, Note: "what was not synced is lost"})
	})
}
