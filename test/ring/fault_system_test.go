package ring

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/report"
)

// An upset is something that somebody does by hand to what an instance consists of.
type upset struct {
	group, name string
	running     bool   // when it is done
	do          string // shell, with what upsetScript sets
	// verb is what left4 is asked for then, "" = to start it, or to restart it where it runs.
	verb string
	// refused is how that fails, as long as mend was not done; "" = it succeeds.
	refused string
	mend    string
	ends    bool // what is done ends the server
}

// upsetScript names what is upset: of the instance n, its directories, drop-in directory, units and link.
const upsetScript = `
n=$1 r=/var/lib/left4/runtime/$1 i=/var/lib/left4/instances/$1 u=left4-server@$1.service o=left4-overlay@$1.service
e=/etc/systemd/system lib=/usr/lib/systemd/system
d=$e/$u.d l=$e/multi-user.target.wants/$u
reload() { systemctl daemon-reload; }
`

// upsets are those that end well, or are told, and leave nothing behind in the end.
var upsets = []upset{
	{group: "links", name: "made by hand", do: `mkdir -p ${l%/*}; ln -s $lib/left4-server@.service $l`, verb: "stop"},
	{group: "links", name: "made by hand, relative", do: `ln -s ../../../../usr/lib/systemd/system/left4-server@.service $l`, verb: "stop"},
	{group: "links", name: "removed", running: true, do: `rm $l`},
	{group: "links", name: "removed, then stop", running: true, do: `rm $l`, verb: "stop"},
	{group: "links", name: "points to nothing", running: true, do: `ln -sfn /nowhere $l`},
	{group: "links", name: "points to /dev/null", running: true, do: `ln -sfn /dev/null $l`},
	{group: "links", name: "points to /dev/null, then stop", running: true, do: `ln -sfn /dev/null $l`, verb: "stop"},
	{group: "links", name: "points to another unit", do: `ln -s $lib/left4-overlay@.service $l`},
	{group: "links", name: "is a file", do: `touch $l`},
	{group: "links", name: "is a directory", do: `mkdir $l`, refused: `cannot enable N: .*is a directory`, mend: `rmdir $l`},
	{group: "links", name: "is a directory with a file, then delete", do: `mkdir $l; touch $l/x`, verb: "delete", mend: `rm -r $l`},

	{group: "drop-ins", name: "removed", running: true, do: `rm -r $d; reload`},
	{group: "drop-ins", name: "emptied", running: true, do: `: >$d/10-left4.conf; reload`},
	{group: "drop-ins", name: "nonsense", do: `mkdir -p $d; head -c 4096 /dev/urandom >$d/10-left4.conf; reload`},
	{group: "drop-ins", name: "another command, and no reload", running: true, do: `sed -i 's/^ExecStart=.*//' $d/10-left4.conf`},
	{group: "drop-ins", name: "is a directory", running: true, do: `rm $d/10-left4.conf; mkdir $d/10-left4.conf; reload`, refused: `10-left4\.conf.*is a directory`, mend: `rmdir $d/10-left4.conf`},
	{group: "drop-ins", name: "is a link to a file of root's", running: true, do: `echo precious >/root/precious; ln -sfn /root/precious $d/10-left4.conf; reload`},
	{group: "drop-ins", name: "its directory is a link", do: `rm -rf $d; ln -s /root/elsewhere.d $d; reload`, refused: `left4-server@N\.service\.d.*(symbolic link|not a directory)`, mend: `rm $d; reload`},
	{group: "drop-ins", name: "its directory is a file", do: `rm -rf $d; touch $d; reload`, refused: `left4-server@N\.service\.d.*not a directory`, mend: `rm $d; reload`},
	{group: "drop-ins", name: "systemctl edit: ExecStart= emptied", do: `mkdir -p $d; printf '[Service]\nExecStart=\n' >$d/override.conf; reload`,
		refused: `N`, mend: `rm $d/override.conf; reload`},
	{group: "drop-ins", name: "systemctl edit: ExecStart= emptied while it runs", running: true, do: `printf '[Service]\nExecStart=\n' >$d/override.conf; reload`,
		refused: `N`, mend: `rm $d/override.conf; reload`},
	{group: "drop-ins", name: "systemctl edit: nonsense", do: `mkdir -p $d; printf 'what\n[Servise\nType=\377maybe\n[Service]\nType=maybe\nRestart=often\n' >$d/override.conf; reload`, mend: `rm $d/override.conf; reload`},
	{group: "drop-ins", name: "systemctl edit: Type=maybe while it runs", running: true, do: `printf '[Service]\nType=maybe\n' >$d/override.conf; reload`, mend: `rm $d/override.conf; reload`},

	{group: "units", name: "masked", do: `systemctl mask $u`, refused: `the unit is masked`, mend: `systemctl unmask $u`},
	{group: "units", name: "masked for now", do: `systemctl mask --runtime $u`, refused: `the unit is masked`, mend: `systemctl unmask --runtime $u`},
	{group: "units", name: "files masked", do: `systemctl mask $o`, refused: `left4-overlay@N\.service, which it needs, is masked`, mend: `systemctl unmask $o`},
	{group: "units", name: "files masked while it runs", running: true, do: `systemctl mask $o`, refused: `left4-overlay@N\.service, which it needs, is masked`, mend: `systemctl unmask $o`},
	{group: "units", name: "slice masked", do: `systemctl mask --runtime left4-game.slice`, refused: `left4-game\.slice, which it needs, is masked`, mend: `systemctl unmask --runtime left4-game.slice`},
	{group: "units", name: "replaced by an empty file", do: `: >$e/$u; reload`, refused: `the unit is masked`, mend: `rm $e/$u; reload`},
	{group: "units", name: "replaced by another program's", do: `printf '[Service]\nExecStart=/bin/sleep infinity\n' >$e/$u; reload`, mend: `rm $e/$u; reload`},
	{group: "units", name: "replaced while it runs", running: true, do: `printf '[Service]\nExecStart=/bin/sleep infinity\n' >$e/$u; reload`, mend: `rm $e/$u; reload`},

	{group: "files", name: "upper removed", running: true, do: `rm -r $r/upper`},
	{group: "files", name: "work removed", running: true, do: `rm -r $r/work`},
	{group: "files", name: "work and upper removed, then stop", running: true, do: `rm -r $r/work $r/upper`, verb: "stop"},
	{group: "files", name: "all in merged removed", running: true, do: `rm -rf $r/merged/*`, verb: "reset"},
	{group: "files", name: "rendered removed", running: true, do: `rm -r $i`},
	{group: "files", name: "plan emptied, then stop", running: true, do: `: >$i/plan.json`, verb: "stop"},
	{group: "files", name: "plan replaced by nonsense", running: true, do: `head -c 4096 /dev/urandom >$i/plan.json`},
	{group: "files", name: "plan is a directory", running: true, do: `rm $i/plan.json; mkdir $i/plan.json`},
	{group: "files", name: "staged files removed", running: true, do: `rm -r $i/cfg $r/upper/left4dead2/cfg`},
	{group: "files", name: "what is mounted forgotten", running: true, do: `rm /run/left4/mounted/$n`},
	{group: "files", name: "runtime directory removed as far as can be", running: true, do: `rm -r --one-file-system $r || :`},
	{group: "files", name: "runtime directory removed as far as can be, then delete", running: true, do: `rm -r --one-file-system $r || :`, verb: "delete"},
	{group: "files", name: "upper removed, stopped", do: `mkdir -p $r; rm -rf $r/upper`},
	{group: "files", name: "upper is a file", do: `mkdir -p $r; rm -rf $r/upper; touch $r/upper`, refused: `upper`, mend: `rm $r/upper`},
	{group: "files", name: "upper is a link", do: `mkdir -p $r; rm -rf $r/upper; ln -s /root/target $r/upper`, refused: `upper`, mend: `rm $r/upper`},
	{group: "files", name: "work is a file", do: `mkdir -p $r; rm -rf $r/work; touch $r/work`, refused: `work`, mend: `rm $r/work`},
	{group: "files", name: "merged is a link", do: `mkdir -p $r; rm -rf $r/merged; ln -s /root/target $r/merged`, refused: `merged`, mend: `rm $r/merged`},
	{group: "files", name: "merged is full of files", do: `mkdir -p $r/merged/left4dead2; touch $r/merged/srcds_run`},
	{group: "files", name: "runtime directory is a link", do: `rm -rf $r; ln -s /root/target $r`, refused: `"N": a link is in the way`, mend: `rm $r`},
	{group: "files", name: "upper is root's, for nobody", do: `mkdir -p $r/upper; chown root: $r/upper; chmod 0 $r/upper`},
	{group: "files", name: "rendered is a file", do: `rm -rf $i; touch $i`},
	{group: "files", name: "rendered is a link", do: `rm -rf $i; ln -s /root/target $i`},

	{group: "mounts", name: "unmounted, then delete", running: true, do: `umount $r/merged`, verb: "delete"},
	{group: "mounts", name: "unmounted lazily, then reset", running: true, do: `umount -l $r/merged`, verb: "reset"},
	{group: "mounts", name: "unmounted lazily, then kill", running: true, do: `umount -l $r/merged`, verb: "kill"},
	{group: "mounts", name: "unmounted, and its unit stopped", running: true, do: `umount $r/merged; systemctl stop $o`, ends: true, verb: "start"},
	{group: "mounts", name: "read-only", running: true, do: `mount -o remount,bind,ro $r/merged`},
	{group: "mounts", name: "something mounted over it", running: true, do: `mount -t tmpfs other $r/merged`, verb: "stop", refused: `other`, mend: `umount $r/merged`},
	{group: "mounts", name: "something mounted over it, then delete", running: true, do: `mount -t tmpfs other $r/merged`, verb: "delete", refused: `other|mount`, mend: `umount $r/merged`},
	{group: "mounts", name: "the overlay mounted by hand", do: `left4ctl initialize $n; /usr/libexec/left4/left4-overlay mount $n`},
	{group: "mounts", name: "the overlay mounted by hand, then stop", do: `left4ctl initialize $n; /usr/libexec/left4/left4-overlay mount $n`, verb: "stop"},
	{group: "mounts", name: "a mount in upper, then delete", running: true, do: `mkdir $r/upper/m; mount -t tmpfs other $r/upper/m`, verb: "delete", refused: `mount`, mend: `umount $r/upper/m`},
	{group: "mounts", name: "its unit stopped", running: true, do: `systemctl stop $o`, ends: true, verb: "start"},
	{group: "mounts", name: "the mount's own unit stopped", running: true, do: `systemctl stop "$(systemd-escape --path --suffix=mount $r/merged)"`, ends: true, verb: "restart"},
}

// What people do by hand to links, units, files and mounts is overcome or told, reaches nobody else, and leaves nothing.
func TestFaultSystemByHand(t *testing.T) {
	eachFault(t, func(t *testing.T, p play) {
		p.ctl("create", "steady")
		p.ctl("start", "steady")
		p.ready(27015)
		p.WriteFile(t, "/root/precious", "precious\n", 0o600)
		p.Run(t, "mkdir", "/root/target", "/root/elsewhere.d")
		untouched := map[string]int{"steady": p.pid("steady")}
		left4d := p.MainPID(t, "left4d.service")
		type count struct{ upsets, overcome, told, violations int }
		counts, groups := map[string]*count{}, []string{}
		of := func(group string) *count {
			if counts[group] == nil {
				counts[group], groups = &count{}, append(groups, group)
			}
			return counts[group]
		}
		for n, u := range upsets {
			if !full() && n%7 != 0 {
				continue
			}
			c := of(u.group)
			name := fmt.Sprintf("%s%d", strings.TrimSuffix(u.group, "s"), n)
			c.upsets++
			c.violations += p.upset(t, u, name, untouched)
			if u.refused == "" {
				c.overcome++
			} else {
				c.told++
			}
		}
		c := of("units")
		for _, gone := range []struct{ template, refused string }{
			{"left4-server@.service", `left4-server@N\.service: there is no such unit`},
			{"left4-overlay@.service", `left4-overlay@N\.service, which it needs, is not there`},
		} {
			c.upsets++
			c.told++
			c.violations += p.withoutTemplate(t, gone.template, gone.refused, untouched)
			untouched["steady"] = p.pid("steady")
		}
		if got := p.ReadFile(t, "/root/precious"); got != "precious\n" {
			t.Errorf("%s: what a link led to is now %q", p.Suite, got)
		}
		for _, dir := range []string{"/root/target", "/root/elsewhere.d"} {
			if got := p.list(dir); len(got) != 0 {
				t.Errorf("%s: what a link led to has now %q", p.Suite, got)
			}
		}
		if got := p.MainPID(t, "left4d.service"); got != left4d {
			t.Errorf("%s: left4d was restarted: %d, %d", p.Suite, left4d, got)
		}
		for _, group := range groups {
			c := counts[group]
			report.Add(t, report.Row{Table: "fault", Suite: p.Suite, Name: group + " changed by hand",
				Figures: []report.Figure{report.Count("changes", c.upsets), report.Count("overcome", c.overcome), report.Count("refused by name", c.told), report.Count("violations", c.violations)},
				Goal:    "0 violations", Met: c.violations == 0})
		}
	})
}

// upset does one to a new instance, and sees it to its end. It returns how much was wrong.
func (p play) upset(t *testing.T, u upset, name string, untouched map[string]int) (wrongs int) {
	t.Helper()
	what := u.group + ": " + u.name
	wrong := func(format string, args ...any) {
		t.Helper()
		wrongs++
		t.Errorf("%s: %s: %s", p.Suite, what, fmt.Sprintf(format, args...))
	}
	script := func(text string) {
		t.Helper()
		if r := p.Try("sh", "-ec", upsetScript+text, "sh", name); r.Code != 0 {
			t.Fatalf("%s: %s: %s: %+v", p.Suite, what, text, r)
		}
	}
	p.ctl("create", name)
	verb := "start"
	pid := 0
	if u.running {
		p.ctl("start", name)
		pid = p.pid(name)
		verb = "restart"
	}
	if u.verb != "" {
		verb = u.verb
	}
	script(u.do)
	if now := p.MainPID(t, unit(name)); u.running && !u.ends && now != pid {
		wrong("it was process %d, and is %d", pid, now)
	}
	r := p.Try("left4ctl", verb, name)
	switch {
	case u.refused == "" && r.Code != 0:
		wrong("%s fails: %s", verb, r.Err)
	case u.refused != "" && (r.Code != 1 || !regexp.MustCompile(strings.ReplaceAll(u.refused, "N", name)).MatchString(r.Err)):
		wrong("%s should fail with %q: %d, %s", verb, u.refused, r.Code, r.Err)
	}
	if u.mend != "" {
		script(u.mend)
	}
	if u.refused != "" {
		if r := p.Try("left4ctl", verb, name); r.Code != 0 {
			wrong("%s fails when it is mended: %s", verb, r.Err)
		}
	}
	if verb == "delete" {
		p.Try("left4ctl", "create", name)
	}
	for _, verb := range []string{"restart", "stop"} {
		for _, v := range violations(t, p.Machine, untouched) {
			wrong("before %s: %s", verb, v)
		}
		if r := p.Try("left4ctl", verb, name); r.Code != 0 {
			wrong("%s fails in the end: %s", verb, r.Err)
		}
	}
	if r := p.Try("left4ctl", "delete", name); r.Code != 0 {
		wrong("delete fails in the end: %s", r.Err)
	}
	for _, v := range violations(t, p.Machine, untouched) {
		wrong("in the end: %s", v)
	}
	if left := p.traces(name); left != "" {
		wrong("it left:\n%s", left)
	}
	return wrongs
}

// withoutTemplate takes a template away, as of a package that is half removed: who plays plays on, nobody can start, and when
// it is back all can.
func (p play) withoutTemplate(t *testing.T, template, refused string, untouched map[string]int) (wrongs int) {
	t.Helper()
	p.ctl("create", "bare")
	p.Run(t, "sh", "-ec", `mv "/usr/lib/systemd/system/$1" /root; systemctl daemon-reload`, "sh", template)
	if r := p.Try("left4ctl", "start", "bare"); r.Code != 1 || !regexp.MustCompile(strings.ReplaceAll(refused, "N", "bare")).MatchString(r.Err) {
		wrongs++
		t.Errorf("%s: without %s, start should fail with %q: %+v", p.Suite, template, refused, r)
	}
	if got := p.pid("steady"); got != untouched["steady"] {
		wrongs++
		t.Errorf("%s: without %s, the server is another process: %d, %d", p.Suite, template, untouched["steady"], got)
	}
	p.Run(t, "sh", "-ec", `mv "/root/$1" /usr/lib/systemd/system; systemctl daemon-reload`, "sh", template)
	// Who lost their dependencies has them again from the next start on.
	p.ctl("restart", "steady")
	p.ctl("start", "bare")
	for _, v := range violations(t, p.Machine, nil) {
		wrongs++
		t.Errorf("%s: with %s back: %s", p.Suite, template, v)
	}
	p.ctl("delete", "bare")
	return wrongs
}

// What befalls the bus, systemd and left4d while jobs are at work ends none of them, and no server.
func TestFaultSystemAtWork(t *testing.T) {
	eachFault(t, func(t *testing.T, p play) {
		p.ctl("create", "steady")
		p.ctl("start", "steady")
		p.ready(27015)
		untouched := map[string]int{"steady": p.pid("steady")}
		since := p.since(untouched["steady"])
		const crew = 8
		var names []string
		for n := range crew {
			names = append(names, fmt.Sprintf("w%d", n))
		}
		rounds := 1
		if full() {
			rounds = 2
		}
		again := func(script string, times int) func() {
			return func() {
				p.Run(t, "sh", "-ec", fmt.Sprintf("for n in $(seq %d); do %s; done", times, script))
			}
		}
		for _, f := range []struct {
			name    string
			do      func()
			restart bool // left4d is another one after it
			short   bool // in the short form too
		}{
			{"dbus-daemon killed", func() {
				// Until it is gone it may take another connection, which goes with it. PID 1 starts it five times in ten seconds.
				p.Run(t, "sh", "-ec", "systemctl reset-failed dbus.service; pid=$(systemctl show --value -p MainPID dbus); kill -KILL $pid; tail --pid=$pid -f /dev/null")
			}, true, true},
			{"dbus-daemon stopped for a second", func() {
				p.Run(t, "sh", "-ec", "pid=$(systemctl show --value -p MainPID dbus); kill -STOP $pid; sleep 1; kill -CONT $pid")
			}, false, false},
			{"left4d stopped for a second", again("systemctl kill --signal=STOP left4d; sleep 1; systemctl kill --signal=CONT left4d", 1), false, false},
			{"left4d killed", again("systemctl kill --signal=KILL left4d", 1), true, false},
			{"10 × daemon-reload", again("systemctl daemon-reload", 10), false, false},
			{"2 × daemon-reexec", again("systemctl daemon-reexec", 2), false, true},
			{"left4d restarted", again("systemctl restart left4d", 1), true, false},
			{"left4d told to end by SIGTERM", again("systemctl kill --signal=TERM left4d", 1), true, false},
		} {
			if !f.short && !full() {
				continue
			}
			jobs, unfinished, wrongs := 0, 0, 0
			for round := range rounds {
				for _, name := range names {
					p.ctl("create", name)
				}
				for step, verbs := range [][]string{
					{"StartInstance"},
					{"RestartInstance", "StopInstance"},
					{"StartInstance", "InitializeInstance", "KillInstance", "ResetInstance"},
					{"DeleteInstance"},
				} {
					before := p.MainPID(t, "left4d.service")
					manager := p.Bus(t).Object(service, "/me/left4")
					accepted := map[dbus.ObjectPath]string{}
					for n, name := range names {
						method := verbs[n%len(verbs)]
						args := []any{name, map[string]dbus.Variant{}}
						if method == "InitializeInstance" {
							args = append(args, map[string]dbus.Variant{})
						}
						var job dbus.ObjectPath
						if err := manager.Call(managerI+"."+method, 0, args...).Store(&job); err != nil {
							t.Fatalf("%s: %s: %s %s: %v", p.Suite, f.name, method, name, err)
						}
						accepted[job] = method + " " + name
					}
					began := time.Now()
					f.do()
					for _, v := range violations(t, p.Machine, untouched) {
						wrongs++
						t.Errorf("%s: %s: round %d, step %d: %s", p.Suite, f.name, round, step, v)
					}
					t.Logf("%s: %s: step %d is over after %s", p.Suite, f.name, step, time.Since(began).Round(time.Millisecond))
					for job, what := range accepted {
						jobs++
						if got := p.job(job, "State"); got != "done" {
							unfinished++
							t.Errorf("%s: %s: %s is %s: %s", p.Suite, f.name, what, got, p.job(job, "Cause"))
						}
					}
					if after := p.MainPID(t, "left4d.service"); (after != before) != f.restart {
						t.Errorf("%s: %s: left4d was process %d and is %d", p.Suite, f.name, before, after)
					}
				}
			}
			if p.since(untouched["steady"]) != since {
				t.Fatalf("%s: %s: the steady server is another process", p.Suite, f.name)
			}
			if left := p.mounts(); len(left) != 1 {
				t.Errorf("%s: %s: mounted are %q", p.Suite, f.name, left)
			}
			report.Add(t, report.Row{Table: "fault", Suite: p.Suite, Name: f.name + " while jobs are at work",
				Figures: []report.Figure{report.Count("jobs", jobs), report.Count("not done", unfinished), report.Count("violations", wrongs)},
				Goal:    "all jobs done, 0 violations", Met: wrongs+unfinished == 0})
		}
	})
}
