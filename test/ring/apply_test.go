package ring

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// hostFile has three overlays, two blueprints and 20 instances, five of them on ports of their own.
func hostFile() string {
	var b strings.Builder
	b.WriteString(`overlays:
  sourcemod: {keep: 2, from: ./sourcemod}
  maps: {from: maps.tar.gz}
  admin: {}
blueprints:
  versus:
    overlays: [{path: sourcemod, alias: "*"}, maps]
    arguments: [+sv_consistency, 1]
    config:
      - sv_cheats 0
  coop:
    overlays: [maps]
    limits: {MemoryMax: 3G, TasksMax: 300}
instances:
`)
	for i := 1; i <= 20; i++ {
		blueprint := []string{"coop", "versus"}[i%2]
		fmt.Fprintf(&b, "  i%02d: {blueprint: %s, label: Server %d}\n", i, blueprint, i)
		if i%4 == 0 {
			fmt.Fprintf(&b, "  # the next one has a port of its own\n")
		}
	}
	text := b.String()
	for i, port := range map[int]int{3: 27015, 7: 27040, 11: 27016, 15: 28000, 19: 27017} {
		text = strings.Replace(text, fmt.Sprintf("label: Server %d}", i), fmt.Sprintf("label: Server %d, port: %d}", i, port), 1)
	}
	return text
}

// changedObjects are the instances, blueprints and overlays whose properties change while do runs.
func (p play) changedObjects(do func()) []string {
	p.t.Helper()
	changes := p.Signals(p.t, dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"),
		dbus.WithMatchPathNamespace("/me/left4"))
	do()
	// All that came before this change of another one's has come when it comes.
	p.ctl("rename", "last", fmt.Sprintf("since %s", p.get("last", "Label")))
	var seen []string
	changes.Wait(p.t, "the change of last", func(s *dbus.Signal) bool {
		name, left4 := strings.CutPrefix(string(s.Path), "/me/left4/")
		if name == "instance/last" {
			return true
		}
		if left4 && !strings.HasPrefix(name, "job/") && !slices.Contains(seen, name) {
			seen = append(seen, name)
		}
		return false
	})
	slices.Sort(seen)
	return seen
}

func TestAHostMatchesItsFile(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		apply := func(text string, flags ...string) Result {
			t.Helper()
			p.WriteFile(t, "/root/host/host.yaml", text, 0o644)
			return p.Try(append([]string{"left4ctl", "apply", "--file=/root/host/host.yaml"}, flags...)...)
		}
		nothing := func(what string, r Result) {
			t.Helper()
			if r.Code != 0 || r.Out != "" || !strings.Contains(r.Err, "nothing to change\n") {
				t.Errorf("%s: %+v", what, r)
			}
		}
		p.WriteFile(t, "/root/host/sourcemod/left4dead2/cfg/server.cfg", "sv_tags sm", 0o644)
		p.Run(t, "sh", "-ec", "mkdir -p m/left4dead2/maps; echo x >m/left4dead2/maps/x.bsp; tar -czf /root/host/maps.tar.gz -C m .")
		if got := p.ctl("export"); got != "overlays: {}\nblueprints: {}\ninstances: {}" {
			t.Errorf("an empty host is exported as\n%s", got)
		}

		// What is wrong anywhere in the file changes nothing.
		file := hostFile()
		for wrong, want := range map[string]string{
			strings.Replace(file, "i20: {blueprint: coop", "i20: {blueprint: cop", 1): "instances.i20.blueprint: there is no blueprint cop",
			strings.Replace(file, "port: 28000", "port: 27015", 1):                    "instances.i15.port: 27015 is that of instance i03 too",
			strings.Replace(file, "maps.tar.gz", "mops.tar.gz", 1):                    "overlays.maps.from: /root/host/mops.tar.gz: no such file",
			file + "  i01: {}\n": "instances.i01: is given twice",
			file + "  -x: {}\n":  "the name",
		} {
			if r := apply(wrong); r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, want) || !strings.Contains(r.Err, "cannot apply: /root/host/host.yaml:") {
				t.Errorf("%s: %+v", want, r)
			}
		}
		// An overlay whose files cannot be had is not left behind.
		p.WriteFile(t, "/root/host/bad.tar", "this is no archive", 0o644)
		if r := apply("overlays:\n  bad: {from: bad.tar}\n"); r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, "cannot import overlay bad: ") {
			t.Errorf("an archive that is none: %+v", r)
		}
		if got := p.ctl("export"); got != "overlays: {}\nblueprints: {}\ninstances: {}" {
			t.Errorf("after files that are wrong there is\n%s", got)
		}

		// On an empty host.
		r := apply(file)
		lines := strings.Split(strings.TrimSpace(r.Out), "\n")
		if r.Code != 0 || len(lines) != 25 || !slices.Equal(lines[:5], []string{
			"create overlay sourcemod: from ./sourcemod", "create overlay maps: from maps.tar.gz", "create overlay admin",
			"create blueprint versus", "create blueprint coop",
		}) {
			t.Errorf("%d lines: %+v", len(lines), r)
		}
		if got := p.ctl("overlay", "get", "sourcemod", "left4dead2/cfg/server.cfg"); got != "sv_tags sm" {
			t.Errorf("sourcemod's server.cfg is %q", got)
		}
		if got := p.get("i11", "Port"); got != "27016" {
			t.Errorf("i11 has port %s", got)
		}
		nothing("again", apply(file))
		p.Run(t, "rm", "-r", "/root/host/sourcemod")
		nothing("without what overlays were filled from", apply(file))

		// Export is a fixed point, and holds no password.
		p.ctl("start", "i01", "i02", "i20")
		for _, name := range []string{"i01", "i02", "i20"} {
			p.wait(name, "State", "running")
		}
		p.ctl("configure", "i04", "label= yes: # \u202eü\"'\\ ", "hostname=~", "config=", "config=sv_x \"a: b\" // #1", "config=- x", "config=007", "limits=", "CPUQuota=12.5%", "AllowedCPUs=0")
		exported := p.ctl("export")
		if secret := p.ctl("secret", "i01"); secret == "" || strings.Contains(exported, secret) {
			t.Errorf("the password %q is exported:\n%s", secret, exported)
		}
		piped := p.Try("sh", "-c", "left4ctl export | left4ctl apply --prune -f -")
		nothing("export | apply", piped)
		if again := p.ctl("export"); again != exported {
			t.Errorf("before\n%s\nafter\n%s", exported, again)
		}
		nothing("the file of i04 back", p.Try("sh", "-c", "left4ctl export i04 i05 | left4ctl apply -f -"))

		// One line changed: nothing else changes, and no other object says that it did.
		p.ctl("create", "last")
		file = p.ctl("export") + "\n"
		var told Result
		changed := p.changedObjects(func() {
			told = apply(strings.Replace(file, "label: Server 5", "label: Five", 1))
		})
		if told.Code != 0 || told.Out != "update instance i05: label\n" || !slices.Equal(changed, []string{"instance/i05"}) {
			t.Errorf("a label: %+v, %v", told, changed)
		}
		file = strings.Replace(p.ctl("export")+"\n", "sv_cheats 0", "sv_cheats 1", 1)
		if r := apply(file, "--dry-run"); r.Code != 0 || r.Out != "would update blueprint versus: config\n" {
			t.Errorf("dry run: %+v", r)
		}
		if got := p.get("i01", "PendingRestart"); got != "false" {
			t.Errorf("after a dry run PendingRestart is %s", got)
		}
		pid := p.pid("i01")
		changed = p.changedObjects(func() { told = apply(file) })
		if told.Code != 0 || told.Out != "update blueprint versus: config\n" || !strings.Contains(told.Err, "changed since they were started: i01\n") ||
			!strings.Contains(told.Err, "left4ctl restart i01\n") {
			t.Errorf("a line of a blueprint: %+v", told)
		}
		if !slices.Equal(changed, []string{"instance/i01"}) {
			t.Errorf("a line of a blueprint changes %v", changed)
		}
		if p.pid("i01") != pid {
			t.Error("i01 was restarted")
		}

		// Two ports change places, and a third one takes that of an instance that goes, which runs.
		port := func(name string) string { return p.get(name, "Port") }
		one, two, gone := port("i01"), port("i02"), port("i20")
		less, _, _ := strings.Cut(file, "  i13:\n")
		less = strings.NewReplacer("port: "+one+"\n", "port: "+two+"\n", "port: "+two+"\n", "port: "+one+"\n", "port: "+port("i03")+"\n", "port: "+gone+"\n").Replace(less)
		less = strings.Replace(less, "  admin: {}\n", "", 1)
		if r := apply(less); r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, gone+" is that of instance i20, which the file does not have") {
			t.Errorf("without --prune: %+v", r)
		}
		would := apply(less, "--prune", "--dry-run")
		r = apply(less, "--prune")
		if r.Code != 0 || strings.ReplaceAll("\n"+would.Out, "\nwould ", "\n") != "\n"+r.Out || !strings.HasSuffix(r.Out, "delete overlay admin\n") {
			t.Errorf("%+v\n%+v", would, r)
		}
		if port("i01") != two || port("i02") != one || port("i03") != gone {
			t.Errorf("ports are %s, %s and %s; they were %s, %s, and %s of i20", port("i01"), port("i02"), port("i03"), one, two, gone)
		}
		if got := strings.Count(p.ctl("--no-legend", "list")+"\n", "\n"); got != 12 {
			t.Errorf("%d instances are left", got)
		}
		if got := p.traces("i20"); got != "" {
			t.Errorf("of i20 is left: %s", got)
		}
		if p.pid("i01") != pid {
			t.Error("i01 was restarted")
		}
		nothing("in the end", apply(less, "--prune"))

		// Somebody who may not change anything is told what, and changes nothing.
		p.AddUser(t, "alice")
		p.Run(t, "chmod", "-R", "a+rX", "/root")
		before := p.ctl("export")
		if r := p.TryAs("alice", "left4ctl", "apply", "--no-ask-password", "--prune", "-f", "/root/host/host.yaml"); r.Code != 1 || r.Out != "" {
			t.Errorf("alice: %+v", r)
		}
		if p.ctl("export") != before {
			t.Error("alice has changed something")
		}

		p.ctl("clone", "i04", "copy", "--label", "A copy")
		want := strings.NewReplacer("  i04:", "  copy:", "port: "+port("i04"), "port: "+port("copy")).Replace(p.ctl("export", "i04"))
		label := `label: "` + strings.SplitN(strings.SplitN(want, `label: "`, 2)[1], "\n", 2)[0]
		if got := p.ctl("export", "copy"); got != strings.Replace(want, label, "label: A copy", 1) {
			t.Errorf("the copy is\n%s\nnot\n%s", got, want)
		}
	})
}
