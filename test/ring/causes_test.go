package ring

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// ending is a way for a server to end, or not to begin, and what is told of it.
type ending struct {
	name    string
	restart string            // the policy; "" = always
	dropIn  string            // of its unit, by hand
	before  func(name string) // the start
	job     string            // how the start ends; "" = done
	told    string            // what the job says
	then    func(name string) // what happens to it when it runs
	state   string
	drifted bool
	cause   string
}

func TestEveryEndHasItsCause(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "alice", "left4-operators")
		p.layer("sm", map[string]string{"left4dead2/sm.txt": "sm"})
		revisions := p.overlayDir("sm")
		p.WriteFile(t, "/etc/systemd/system/broken.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n", 0o644)
		p.WriteFile(t, "/etc/systemd/system/srv-games.mount", "[Mount]\nWhat=/dev/none\nWhere=/srv/games\nType=ext4\n", 0o644)
		p.WriteFile(t, "/etc/systemd/system/left4-overlay@refused.service.d/test.conf", "[Service]\nCapabilityBoundingSet=~CAP_SYS_ADMIN\n", 0o644)

		faulty := func(fault string) string { return "[Service]\nEnvironment=\"LEFT4_STANDIN=" + fault + "\"\n" }
		run := func(argv ...string) func(string) {
			return func(name string) {
				for i := range argv {
					argv[i] = strings.ReplaceAll(argv[i], "NAME", name)
				}
				p.Run(t, argv...)
			}
		}
		rcon := func(command string) func(string) {
			return func(name string) {
				port, err := strconv.Atoi(p.get(name, "Port"))
				if err != nil {
					t.Fatal(err)
				}
				p.ready(port)
				p.rcon(name, port, command)
			}
		}
		both := func(first, second func(string)) func(string) {
			return func(name string) { first(name); second(name) }
		}
		ignoring := both(rcon("standin ignore-sigint"), run("systemctl", "stop", "left4-server@NAME.service"))
		endings := []ending{
			{name: "segv", restart: "no", dropIn: faulty("crash SEGV after 300ms"), state: "failed", drifted: true, cause: `it crashed with SIGSEGV`},
			{name: "exit-1", restart: "no", dropIn: faulty("crash exit 1 after 300ms"), state: "failed", drifted: true, cause: `it ended by itself with status 1`},
			{name: "killed", restart: "no", then: run("systemctl", "kill", "--signal=KILL", "left4-server@NAME.service"),
				state: "failed", drifted: true, cause: `it was killed by SIGKILL`},
			{name: "quit", restart: "no", then: rcon("quit"),
				state: "stopped", drifted: true, cause: `it ended by itself with status 0, and the restart policy is no`},
			{name: "terminated", dropIn: "[Service]\nRestartSec=50ms\n", then: func(name string) {
				rcon("status")(name) // before it is ready it does not catch the signal
				states := p.Signals(t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("InstanceStateChanged"))
				p.Run(t, "systemctl", "kill", unit(name))
				states.Wait(t, "restarting", changedTo("restarting"))
				states.Wait(t, "running", changedTo("running"))
			},
				state: "running", cause: `restarted by systemd: it ended by itself with status 0`},
			{name: "no-program", restart: "no", then: run("sh", "-ec", "rm /var/lib/left4/runtime/NAME/merged/srcds_run; ! left4ctl restart NAME"),
				state: "failed", drifted: true, cause: `it could not be started: srcds_run is missing or cannot be executed`},
			{name: "no-revision", before: run("sh", "-ec", "left4ctl configure NAME --overlay=sm; mv "+revisions+" "+revisions+".away"),
				job: "failed", told: `cannot start no-revision: overlay sm: revision 2: its directory is missing`, then: run("mv", revisions+".away", revisions),
				state: "stopped", cause: `cannot start no-revision: overlay sm: revision 2: its directory is missing`},
			{name: "refused", job: "failed", told: `cannot start refused: .*: operation not permitted`,
				state: "failed", drifted: true, cause: `.*: operation not permitted`},
			{name: "in-the-way", before: run("sh", "-ec", "mkdir -p /var/lib/left4/runtime/NAME/merged; mount -t tmpfs foreign /var/lib/left4/runtime/NAME/merged"),
				job: "failed", told: `cannot start in-the-way: .*/in-the-way/merged.* is taken: .*foreign.*, a file system of type .*tmpfs.*, is mounted there`,
				then: run("umount", "/var/lib/left4/runtime/NAME/merged"), state: "stopped", cause: `cannot start in-the-way: .* is taken: .*`},
			{name: "needs-unit", dropIn: "[Unit]\nRequires=broken.service\nAfter=broken.service\n",
				job: "failed", told: `cannot start needs-unit: broken\.service, which it needs, failed`,
				state: "stopped", drifted: true, cause: `cannot start needs-unit: broken\.service, which it needs, failed`},
			{name: "needs-mount", dropIn: "[Unit]\nRequiresMountsFor=/srv/games/maps\n",
				job: "failed", told: `cannot start needs-mount: srv-games\.mount, which it needs, failed`,
				state: "stopped", drifted: true, cause: `cannot start needs-mount: srv-games\.mount, which it needs, failed`},
			{name: "late", restart: "no", dropIn: "[Service]\nExecStartPre=/bin/sleep infinity\nTimeoutStartSec=1s\n",
				job: "failed", told: `cannot start late: it did not start in time.*`, state: "failed", drifted: true, cause: `it did not start in time.*`},
			{name: "by-alice", then: func(name string) { p.RunAs(t, "alice", "left4ctl", "stop", name) }, state: "stopped", cause: `stopped by alice \(job \d+\)`},
			{name: "dead-by-alice", then: func(name string) { p.RunAs(t, "alice", "left4ctl", "kill", name) }, state: "stopped", cause: `killed by alice \(job \d+\)`},
			{name: "deaf", dropIn: "[Service]\nTimeoutStopSec=500ms\n", then: ignoring,
				state: "failed", drifted: true, cause: `stopped outside left4; it did not end in time .*and was killed`},
			{name: "deaf-first", dropIn: "[Service]\nTimeoutStopSec=500ms\n", then: both(ignoring, run("left4ctl", "stop", "NAME")),
				state: "stopped", cause: `stopped by root \(job \d+\)(: it did not end in time after SIGINT and was killed)?`},
			{name: "masked", then: run("sh", "-ec", "systemctl mask left4-server@NAME.service; ! left4ctl restart NAME; left4ctl start NAME"),
				state: "running", cause: `started by root \(job \d+\); the unit is masked`},
			{name: "masked-before", before: run("systemctl", "mask", "left4-server@NAME.service"), job: "failed", told: `cannot start masked-before: the unit is masked`,
				state: "stopped", cause: `cannot start masked-before: the unit is masked`},
			{name: "masked-for-now", then: run("systemctl", "mask", "--runtime", "--now", "left4-server@NAME.service"),
				state: "stopped", drifted: true, cause: `the unit is masked; stopped outside left4`},
			{name: "uninitialized", then: run("sh", "-ec", "rm /etc/systemd/system/left4-server@NAME.service.d/10-left4.conf; systemctl daemon-reload; systemctl restart left4-server@NAME.service || :"),
				state: "failed", drifted: true, cause: `it could not be started: it was not initialized by left4d`},
			{name: "restart-refused", then: run("sh", "-ec", "left4ctl configure NAME --overlay=sm; mv "+revisions+" "+revisions+".away; ! left4ctl restart NAME; mv "+revisions+".away "+revisions),
				state: "running", cause: `started by root \(job \d+\)`},
		}
		for _, e := range endings {
			args := []string{"create", e.name}
			if e.restart != "" {
				args = append(args, "--restart="+e.restart)
			}
			p.ctl(args...)
			if e.dropIn != "" {
				p.WriteFile(t, "/etc/systemd/system/"+unit(e.name)+".d/20-test.conf", e.dropIn, 0o644)
			}
		}
		p.Run(t, "systemctl", "daemon-reload")

		matches := func(what, pattern, text string) {
			t.Helper()
			if !regexp.MustCompile("^(?:" + pattern + ")$").MatchString(text) {
				t.Errorf("%s: %q, want %q", what, text, pattern)
			}
		}
		causes := func() map[string]string {
			all := map[string]string{}
			for _, e := range endings {
				all[e.name] = p.properties(e.name)["Cause"]
			}
			return all
		}
		for _, e := range endings {
			if e.before != nil {
				e.before(e.name)
			}
			ends := p.jobsEnd()
			job := dbus.ObjectPath(value(p.manager("StartInstance", "sa{sv}", e.name, "0")))
			want := e.job
			if want == "" {
				want = "done"
			}
			if got := ends.ended(t, job); got != want {
				t.Errorf("%s: the start is %s: %s", e.name, got, p.job(job, "Cause"))
			}
			matches(e.name+": the start says", e.told, p.job(job, "Cause"))
			if e.then != nil {
				e.then(e.name)
			}
			p.seen("its end", e.name, map[string]string{"State": e.state})
			now := p.properties(e.name)
			cause := now["Cause"]
			matches(e.name+": the cause is", e.cause, cause)
			if now["Drifted"] != strconv.FormatBool(e.drifted) {
				t.Errorf("%s: Drifted is %s", e.name, now["Drifted"])
			}
			code := map[bool]int{true: 0, false: 3}[e.state == "running"]
			if r := p.Try("left4ctl", "status", e.name); r.Code != code || !strings.Contains(r.Out, cause) {
				t.Errorf("%s: status: %+v", e.name, r)
			}
		}

		// What was known once is known to the next left4d, but for what only a process that has gone could tell.
		before := causes()
		p.Run(t, "systemctl", "restart", "left4d.service")
		for name, cause := range causes() {
			if cause != before[name] && cause != "restarted by systemd once" {
				t.Errorf("%s: after a restart of left4d the cause is %q, before it %q", name, cause, before[name])
			}
		}
	})
}

// A server that never gets ready keeps neither its stop waiting nor its files mounted.
func TestAStartThatNeverEndsIsStopped(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		const stopDeadline = 5 * time.Second
		for name, dropIn := range map[string]string{
			"silent": "[Service]\nType=notify\n",
			"stuck":  "[Service]\nExecStartPre=/bin/sleep infinity\n",
			"deaf":   "[Service]\nType=notify\nEnvironment=LEFT4_STANDIN=ignore-sigint\n",
		} {
			p.ctl("create", name)
			p.WriteFile(t, "/etc/systemd/system/"+unit(name)+".d/override.conf", dropIn+"TimeoutStopSec="+stopDeadline.String()+"\n", 0o644)
		}
		start := func(name string) dbus.ObjectPath {
			t.Helper()
			job := dbus.ObjectPath(value(p.manager("StartInstance", "sa{sv}", name, "0")))
			p.wait(name, "State", "starting")
			if cause := p.get(name, "Cause"); !strings.HasPrefix(cause, "being started by root (job ") {
				t.Errorf("%s: the cause is %q", name, cause)
			}
			return job
		}
		stopped := func(name, verb string, job dbus.ObjectPath, ends *Signals, took time.Duration) {
			t.Helper()
			if got := ends.ended(t, job); got != "canceled" || !strings.HasPrefix(p.job(job, "Cause"), "canceled by "+verb+" (job ") {
				t.Errorf("%s: the start is %s: %s", name, got, p.job(job, "Cause"))
			}
			if left := p.mounts(); len(left) != 0 || p.Property(t, unit(name), "ActiveState") != "inactive" || p.Property(t, overlayUnit(name), "ActiveState") != "inactive" {
				t.Errorf("%s: after %s it is %s, mounted: %q", name, verb, p.Property(t, unit(name), "ActiveState"), left)
			}
			if p.get(name, "State") != "stopped" || p.get(name, "Drifted") != "false" {
				t.Errorf("%s: after %s:\n%s", name, verb, p.Try("left4ctl", "status", name).Out)
			}
			t.Logf("%s: %s took %s", name, verb, took.Round(time.Millisecond))
		}
		for _, name := range []string{"silent", "stuck"} {
			for _, verb := range []string{"stop", "kill"} {
				ends := p.jobsEnd()
				job := start(name)
				began := time.Now()
				p.ctl(verb, name)
				took := time.Since(began)
				stopped(name, verb, job, ends, took)
				if took > stopDeadline {
					t.Errorf("%s: %s took %s", name, verb, took)
				}
			}
		}
		// One that is deaf too is killed at its deadline, and that is said.
		ends := p.jobsEnd()
		job := start("deaf")
		port, err := strconv.Atoi(p.get("deaf", "Port"))
		if err != nil {
			t.Fatal(err)
		}
		p.ready(port) // it plays, but does not say so to systemd
		began := time.Now()
		p.ctl("stop", "deaf")
		took := time.Since(began)
		stopped("deaf", "stop", job, ends, took)
		if took < stopDeadline-time.Second {
			t.Errorf("it was killed after %s, before its deadline", took)
		}
		if cause := p.get("deaf", "Cause"); !strings.HasSuffix(cause, ": it did not end in time after SIGINT and was killed") {
			t.Errorf("the cause is %q", cause)
		}
	})
}
