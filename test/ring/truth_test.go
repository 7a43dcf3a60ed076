package ring

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// properties are those of an instance, all of one moment.
func (p play) properties(name string) map[string]string {
	p.t.Helper()
	var all map[string]dbus.Variant
	object := p.Bus(p.t).Object(service, names.InstancePath(name))
	if err := object.Call(names.Properties+".GetAll", 0, names.Instance).Store(&all); err != nil {
		p.t.Fatalf("%s: cannot read the properties of %s: %v", p.Suite, name, err)
	}
	texts := map[string]string{}
	for property, value := range all {
		texts[property] = fmt.Sprint(value.Value())
	}
	return texts
}

// seen waits until the properties of an instance are what is wanted, or begin with it if it is a cause, by its signals.
// It must be seconds: left4d also looks by itself now and then, and that is not what is meant.
func (p play) seen(after, name string, want map[string]string) {
	p.t.Helper()
	changes := p.Signals(p.t, dbus.WithMatchInterface(names.Properties), dbus.WithMatchMember("PropertiesChanged"))
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	for {
		wrong := p.properties(name)
		maps.DeleteFunc(wrong, func(property, value string) bool {
			text, ok := want[property]
			isCause := property == "Cause" || property == "PendingCause"
			return !ok || value == text || isCause && text != "" && strings.HasPrefix(value, text)
		})
		if len(wrong) == 0 {
			return
		}
		select {
		case _, ok := <-changes.ch:
			if ok {
				continue
			}
		case <-timer.C:
		}
		p.t.Fatalf("%s: after %s, %s has %q, want %q", p.Suite, after, name, wrong, want)
	}
}

// What an administrator does to units, files and daemons ends in true states, and players notice only what was meant
// for them.
func TestWhatIsDoneToTheMachineIsSurvived(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		for _, name := range []string{"a", "b"} {
			p.ctl("create", name)
			p.ctl("start", name)
		}
		p.ready(27015)
		p.ready(27016)
		pid, since := map[string]int{}, map[string]string{}
		for _, name := range []string{"a", "b"} {
			pid[name] = p.pid(name)
			since[name] = p.since(pid[name])
		}
		same := func(after string, names ...string) {
			t.Helper()
			for _, name := range names {
				if p.pid(name) != pid[name] || p.since(pid[name]) != since[name] {
					t.Fatalf("%s: %s is another process", after, name)
				}
			}
		}
		renewed := func(name string, port int) {
			t.Helper()
			p.ready(port)
			pid[name] = p.pid(name)
			since[name] = p.since(pid[name])
		}
		running := map[string]string{"State": "running", "DesiredState": "running", "Drifted": "false", "PendingRestart": "false", "Cause": "started by root (job "}

		// Units. The editor writes where systemctl edit says.
		p.WriteFile(t, "/root/editor", "#!/bin/sh\nfor file; do :; done\nsed -i '3i [Service]\\nNice=3' \"$file\"\n", 0o755)
		for _, step := range [][]string{
			{"systemctl", "daemon-reload"},
			{"systemctl", "daemon-reexec"},
			{"systemctl", "set-property", unit("a"), "TasksMax=222"},
			{"env", "SYSTEMD_EDITOR=/root/editor", "systemctl", "edit", unit("a")},
		} {
			if out, code := p.Terminal(t, "root", step...).Wait(t); code != 0 {
				t.Errorf("%v: %d, %s", step, code, out)
			}
			p.seen(strings.Join(step, " "), "a", running)
			same(strings.Join(step, " "), "a", "b")
		}
		if p.Property(t, unit("a"), "TasksMax") != "222" || p.Property(t, unit("a"), "Nice") != "3" || p.get("a", "Limits") != "0" {
			t.Errorf("TasksMax %s, Nice %s; left4's own limits: %s", p.Property(t, unit("a"), "TasksMax"), p.Property(t, unit("a"), "Nice"), p.get("a", "Limits"))
		}
		p.ctl("restart", "a")
		renewed("a", 27015)
		if p.Property(t, unit("a"), "TasksMax") != "222" || p.Run(t, "ps", "-o", "ni=", "-p", strconv.Itoa(pid["a"])) != "  3" {
			t.Errorf("after a restart: TasksMax %s, nice %q", p.Property(t, unit("a"), "TasksMax"), p.Run(t, "ps", "-o", "ni=", "-p", strconv.Itoa(pid["a"])))
		}
		p.Run(t, "systemctl", "disable", "--now", unit("a"))
		p.seen("disable --now", "a", map[string]string{"State": "stopped", "DesiredState": "stopped", "Drifted": "false", "Cause": "stopped and disabled outside left4"})
		p.Run(t, "systemctl", "enable", "--now", unit("a"))
		p.seen("enable --now", "a", map[string]string{"State": "running", "DesiredState": "running", "Drifted": "false", "Cause": "started outside left4"})
		p.ctl("restart", "a")
		renewed("a", 27015)

		// Files. A server has them in a namespace of its own, and plays on over what others unmount or remove.
		for _, umount := range [][]string{{"umount"}, {"umount", "--lazy"}} {
			after := strings.Join(umount, " ")
			files := p.fingerprint("a")
			p.Run(t, append(umount, "/var/lib/left4/runtime/a/merged")...)
			p.seen(after, "a", map[string]string{"State": "running", "Drifted": "false", "PendingRestart": "true", "PendingCause": "its files are not mounted any more"})
			same(after, "a", "b")
			if p.fingerprint("a") != files {
				t.Errorf("%s: the server has other files", after)
			}
			p.ctl("stop", "a")
			p.seen(after+", stop", "a", map[string]string{"State": "stopped", "Cause": "stopped by root (job "})
			if left := p.mounts(); len(left) != 1 {
				t.Errorf("%s, stop: mounted are %q", after, left)
			}
			p.ctl("start", "a")
			renewed("a", 27015)
			p.seen(after+", start", "a", running)
		}
		// One that crashes then does not find its files again: its restarts come to an end, and a start brings them back.
		p.ctl("create", "bare")
		p.WriteFile(t, "/etc/systemd/system/"+unit("bare")+".d/override.conf", "[Service]\nRestartSec=100ms\n", 0o644)
		p.ctl("start", "bare")
		p.ready(27017)
		p.Run(t, "umount", "/var/lib/left4/runtime/bare/merged")
		p.Run(t, "kill", "-KILL", strconv.Itoa(p.pid("bare")))
		p.seen("umount and a crash", "bare", map[string]string{"State": "failed", "DesiredState": "running", "Drifted": "true"})
		if cause := p.get("bare", "Cause"); !strings.Contains(cause, "its files were unmounted outside left4") && !strings.Contains(cause, "start limit hit after 5 starts in 60 s; the last one: it could not be started: ") {
			t.Errorf("the cause is %q", cause)
		}
		p.ctl("start", "bare")
		p.ready(27017)
		p.seen("umount, a crash and a start", "bare", running)
		p.ctl("stop", "bare")

		password := p.password("a")
		p.Run(t, "rm", "-r", "/var/lib/left4/runtime/a/upper")
		p.seen("rm of upper", "a", map[string]string{"State": "running", "Drifted": "false"})
		same("rm of upper", "a", "b")
		p.ctl("restart", "a")
		renewed("a", 27015)
		p.seen("rm of upper, restart", "a", running)
		if p.password("a") != password {
			t.Error("after rm of upper and a restart its server.cfg is another")
		}
		p.ctl("stop", "a")
		p.Run(t, "rm", "-r", "/var/lib/left4/runtime/a", "/var/lib/left4/instances/a")
		p.ctl("start", "a")
		renewed("a", 27015)

		// A job that waits does so beyond a systemd that is replaced.
		ends := p.jobsEnd()
		p.ctl("create", "late")
		p.WriteFile(t, "/etc/systemd/system/"+unit("late")+".d/override.conf", "[Service]\nType=notify\nTimeoutStopSec=1s\n", 0o644)
		job := dbus.ObjectPath(value(p.manager("StartInstance", "sa{sv}", "late", "0")))
		p.wait("late", "State", "starting")
		p.Run(t, "systemctl", "daemon-reexec")
		if got := p.job(job, "State"); got != "running" {
			t.Errorf("after daemon-reexec the start is %s: %s", got, p.job(job, "Cause"))
		}
		p.ctl("stop", "late")
		if got := ends.ended(t, job); got != "canceled" {
			t.Errorf("the start is %s: %s", got, p.job(job, "Cause"))
		}

		// Daemons: what happens while left4d has no bus, or is away, is seen when it is back.
		for what, lose := range map[string]func(){
			"the bus": func() {
				p.Run(t, "systemctl", "kill", "--signal=KILL", "dbus.service")
				// Not over the bus, which comes back when somebody wants it.
				p.Run(t, "systemctl", "stop", unit("b"))
			},
			"left4d": func() {
				p.killLeft4d(func() {})
				p.Run(t, "systemctl", "stop", unit("b"))
				p.startLeft4d()
			},
		} {
			job := dbus.ObjectPath(value(p.manager("StartInstance", "sa{sv}", "late", "0")))
			p.wait("late", "State", "starting")
			lose()
			began := time.Now()
			p.seen(what, "b", map[string]string{"State": "stopped", "DesiredState": "running", "Drifted": "true", "Cause": "stopped outside left4"})
			p.seen(what, "a", running)
			same(what, "a")
			t.Logf("%s was lost: all is true after %s", what, time.Since(began).Round(time.Millisecond))
			p.waitJob(job, "running")
			p.seen(what, "late", map[string]string{"State": "starting", "Cause": "being started by root (job "})
			ends := p.jobsEnd()
			p.ctl("stop", "late")
			if got := ends.ended(t, job); got != "canceled" {
				t.Errorf("%s: the start is %s: %s", what, got, p.job(job, "Cause"))
			}
			p.ctl("start", "b")
			renewed("b", 27016)
		}
		if left := p.mounts(); len(left) != 2 {
			t.Errorf("mounted are %q", left)
		}
	})
}
