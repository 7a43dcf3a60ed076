package ring

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/steam"
)

// example is a command of the manual page me.left4(5), as a reader copies it.
type example struct {
	about   string // the member, as its heading tells it; empty for the first ones
	fails   string // the error that it shows
	newer   bool   // busctl knows it from systemd 257 on
	command string
}

var (
	heading = regexp.MustCompile(`^# (\w+)(?: \((\w+): .*\))?$`)
	tools   = regexp.MustCompile(`(busctl|gdbus) (call|get-property|introspect|tree|monitor)\b`)
)

// manualExamples reads them from the installed page.
func (p play) manualExamples() []example {
	p.t.Helper()
	page := p.Run(p.t, "zcat", "/usr/share/man/man5/me.left4.5.gz")
	_, page, found := strings.Cut(page, "\n.Sh EXAMPLES\n")
	page, _, ended := strings.Cut(page, "\n.Sh ")
	if !found || !ended {
		p.t.Fatalf("the page has no examples")
	}
	// What roff makes of the escapes that the page uses.
	shown := strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\(ha`, "^", `\(ti`, "~", `\(ga`, "`", `\&`, "", `\e`, `\`)
	var all []example
	for _, block := range strings.Split(page, "\n.Bd -literal\n")[1:] {
		block, _, _ := strings.Cut(block, "\n.Ed")
		next := example{}
		for rest := shown.Replace(block) + "\n"; rest != ""; {
			line, after, _ := strings.Cut(rest, "\n")
			rest = after
			if m := heading.FindStringSubmatch(line); m != nil {
				next = example{about: m[1], fails: m[2]}
				continue
			}
			if strings.HasPrefix(line, "# busctl") {
				next.newer = true
				continue
			}
			for strings.HasSuffix(line, `\`) {
				more, after, _ := strings.Cut(rest, "\n")
				line, rest = line+"\n"+more, after
			}
			if strings.HasSuffix(line, "<<'EOF'") {
				text, after, _ := strings.Cut(rest, "\nEOF\n")
				line, rest = line+"\n"+text+"\nEOF", after
			}
			if line != "" {
				next.command = line
				all = append(all, next)
				next.newer = false
			}
		}
	}
	return all
}

// What the examples are about is made as far as one needs it, one upon the other.
const (
	nothing = iota
	anOverlay
	aBlueprint
	anInstance
)

// needs are the methods that must not find all of it.
var needs = map[string]int{
	"Manager.CreateOverlay": nothing, "Manager.DeleteOverlay": anOverlay, "Overlay.Delete": anOverlay,
	"Manager.CreateBlueprint": anOverlay, "Manager.DeleteBlueprint": aBlueprint, "Blueprint.Delete": aBlueprint,
	"Manager.CreateInstance": aBlueprint,
}

// make makes what an example is about, from the beginning.
func (p play) make(level int) {
	p.t.Helper()
	p.ctl("delete", "versus-1")
	p.ctl("blueprint", "delete", "versus")
	p.ctl("overlay", "delete", "sourcemod", "tweaks", "maps")
	for at, commands := range [][][]string{
		anOverlay: {
			{"overlay", "create", "sourcemod"}, {"overlay", "import", "sourcemod", "/root/examples/sourcemod.tar"},
			{"overlay", "create", "tweaks", "--script", "/root/examples/tweaks.sh"}, {"overlay", "create", "maps", "items=1001"},
		},
		aBlueprint: {{"blueprint", "create", "versus", "--overlay", "sourcemod:*"}},
		anInstance: {{"create", "versus-1", "--blueprint", "versus", "--port", "27020"}},
	} {
		for _, command := range commands {
			if at <= level {
				p.ctl(command...)
			}
		}
	}
}

// spoils are the methods after which there is something else than before, or nothing.
var spoils = regexp.MustCompile(`^(Create|Delete|Import|Update)`)

func TestEveryExampleOfTheManual(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.Run(t, "sh", "-ec", `mkdir -p /root/examples/sm/left4dead2/cfg; cd /root/examples
			echo 'date >built' >tweaks.sh; echo sv_cheats 0 >sm/left4dead2/cfg/server.cfg; tar -C sm -cf sourcemod.tar .; tar -C /root/game -cf game.tar .`)
		p.bringFile(addon(map[string]string{"missions/deadline.txt": "x"}), "/root/examples/deadline.vpk")
		p.BringSteam(t, "/root/game").Set(t, func(w *steam.World) { w.Game.Build = "1" })
		version, err := strconv.Atoi(regexp.MustCompile(`\d+`).FindString(p.Run(t, "systemctl", "--version")))
		if err != nil {
			t.Fatal(err)
		}
		ended := p.Signals(t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("JobRemoved"))
		examples := p.manualExamples()
		// The game is imported last: its first revision, which an example goes back to, does not stay for long then.
		slices.SortStableFunc(examples, func(a, b example) int {
			rank := map[bool]int{true: 1}
			return rank[a.about == "ImportGame"] - rank[b.about == "ImportGame"]
		})
		counts := map[string]int{}
		fresh := -1 // the level that is there as it was made
		for _, e := range examples {
			kind := tools.FindStringSubmatch(e.command)
			python := strings.HasPrefix(e.command, "python3 ")
			if kind == nil && !python {
				t.Errorf("this is no example: %s", e.command)
				continue
			}
			level := anInstance
			for about, needed := range needs {
				if iface, method, _ := strings.Cut(about, "."); method == e.about && strings.Contains(e.command, "me.left4."+iface) {
					level = needed
				}
			}
			if fresh != level {
				p.make(level)
				fresh = level
			}
			if python || kind[2] == "monitor" || spoils.MatchString(e.about) {
				fresh = -1
			}
			switch {
			case kind != nil && kind[2] == "monitor":
				p.watch(t, e)
			case e.about == "CancelJob" || e.about == "Cancel":
				p.cancel(t, e, ended)
			default:
				p.example(t, e, ended, version)
			}
			name := "python3"
			if kind != nil {
				name = kind[1] + " " + kind[2]
			}
			counts[name]++
		}
		t.Logf("%d examples: %v", len(examples), counts)
		for what, least := range map[string]int{
			"busctl call": 50, "gdbus call": 100, "busctl get-property": 50, "busctl monitor": 6, "gdbus monitor": 6,
			"busctl introspect": 3, "gdbus introspect": 2, "busctl tree": 1, "python3": 1,
		} {
			if counts[what] < least {
				t.Errorf("there are %d examples of %s, and should be %d", counts[what], what, least)
			}
		}
	})
}

// inExamples runs a command line where its files are.
func (p play) inExamples(command string) Result {
	p.t.Helper()
	return p.Try("sh", "-c", "cd /root/examples\n"+command)
}

var (
	jobPath = regexp.MustCompile(`/me/left4/job/(\d+)`)
	jobArg  = regexp.MustCompile(`\b12\b`)
)

// example runs one that ends, and waits for its job.
func (p play) example(t *testing.T, e example, ended *Signals, systemd int) {
	t.Helper()
	last := jobPath.FindStringSubmatch(p.manager("ListJobs", "a{sv}", "1", "limit", "u", "1"))[1]
	r := p.inExamples(jobArg.ReplaceAllString(e.command, last))
	switch {
	case e.newer && systemd < 257:
		if r.Code == 0 || !strings.Contains(r.Err, "not supported") {
			t.Errorf("systemd %d takes descriptors: %+v", systemd, r)
		}
		return
	case e.fails != "":
		if r.Code == 0 || strings.HasPrefix(e.command, "gdbus") && !strings.Contains(r.Err, ".Error."+e.fails+":") {
			t.Errorf("%s\ndoes not end in %s: %+v", e.command, e.fails, r)
		}
		return
	case r.Code != 0:
		t.Errorf("%s\n%+v", e.command, r)
		return
	case strings.HasPrefix(e.about, "Get") || strings.HasPrefix(e.about, "List") || !strings.Contains(e.command, " call "):
		return
	}
	job := jobPath.FindStringSubmatch(r.Out)
	if job == nil {
		return
	}
	s := ended.Wait(t, "end of job "+job[1]+" of "+e.command, func(s *dbus.Signal) bool {
		return s.Name == managerI+".JobRemoved" && s.Body[1] == dbus.ObjectPath(job[0])
	})
	want := "done"
	if e.about == "RepairProblems" {
		want = "skipped" // there are none
	}
	if s.Body[4] != want {
		t.Errorf("%s\nended %v", e.command, s.Body)
	}
}

// cancel runs one that cancels a job, with a job that would not end by itself.
func (p play) cancel(t *testing.T, e example, ended *Signals) {
	t.Helper()
	p.Run(t, "sh", "-ec", "rm -f /root/examples/endless; mkfifo /root/examples/endless")
	out := p.Run(t, "sh", "-c", `gdbus call -y -d me.left4 -o /me/left4 -m me.left4.Manager.ImportOverlay sourcemod 'handle 0' '{}' <>/root/examples/endless`)
	job := jobPath.FindStringSubmatch(out)
	if r := p.inExamples(jobArg.ReplaceAllString(e.command, job[1])); r.Code != 0 {
		t.Errorf("%s\n%+v", e.command, r)
		return
	}
	s := ended.Wait(t, "end of job "+job[1], func(s *dbus.Signal) bool {
		return s.Name == managerI+".JobRemoved" && s.Body[1] == dbus.ObjectPath(job[0])
	})
	if s.Body[4] != "canceled" {
		t.Errorf("%s\nended %v", e.command, s.Body)
	}
}

// watch runs one that goes on until somebody ends it, and lets happen what it shows.
func (p play) watch(t *testing.T, e example) {
	t.Helper()
	watcher := p.Start(t, "sh", "-c", "exec 2>&1; "+e.command)
	if strings.HasPrefix(e.command, "busctl") {
		watcher.Expect(t, "Monitoring bus message stream")
	} else {
		watcher.Expect(t, "The name me.left4 is owned by")
	}
	p.ctl("start", "versus-1")
	p.ctl("delete", "versus-1")
	if strings.HasPrefix(e.command, "busctl") {
		watcher.Expect(t, "Member="+e.about)
	} else {
		watcher.Expect(t, "."+e.about+" (")
	}
}

// element cuts an interface out of XML.
func element(text, name string) string {
	_, text, found := strings.Cut(text, `<interface name="`+name+`">`)
	text, _, ended := strings.Cut(text, "</interface>")
	if !found || !ended {
		return ""
	}
	return text
}

func TestTheInstalledInterfacesAreThoseOfTheBus(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("overlay", "create", "sourcemod")
		p.ctl("blueprint", "create", "versus")
		p.ctl("create", "versus-1")
		want := map[string]string{
			"me.left4.Manager":   "/me/left4",
			"me.left4.Instance":  "/me/left4/instance/versus_2d1",
			"me.left4.Blueprint": "/me/left4/blueprint/versus",
			"me.left4.Overlay":   "/me/left4/overlay/sourcemod",
			"me.left4.Job":       "/me/left4/job/1",
		}
		installed := strings.Fields(p.Run(t, "sh", "-c", "echo /usr/share/dbus-1/interfaces/me.left4.*"))
		if len(installed) != len(want) {
			t.Errorf("installed are %v", installed)
		}
		for name, object := range want {
			file := "/usr/share/dbus-1/interfaces/" + name + ".xml"
			text := element(p.ReadFile(t, file), name)
			if !strings.Contains(text, "<!--") {
				t.Errorf("%s does not describe %s", file, name)
			}
			for _, command := range [][]string{
				{"busctl", "introspect", "--xml-interface", service, object},
				{"gdbus", "introspect", "-y", "-x", "-d", service, "-o", object},
			} {
				if shown := p.Run(t, command...); element(shown, name) != text {
					t.Errorf("%v shows something else than %s has:\n%s", command, file, shown)
				}
			}
		}
	})
}
