package ring

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// Anybody may send signals that look like those of systemd, left4d or the bus. They end no job and nobody's waiting.
func TestForgedSignals(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "mallory")
		p.bringScript("forge.py")
		for _, name := range []string{"late", "deaf", "other"} {
			p.ctl("create", name)
		}
		p.WriteFile(t, "/etc/systemd/system/"+unit("late")+".d/override.conf", "[Service]\nType=notify\n", 0o644)
		p.WriteFile(t, "/etc/systemd/system/"+unit("deaf")+".d/override.conf", "[Service]\nTimeoutStopSec=5min\n", 0o644)
		p.ctl("start", "deaf")
		p.ready(27016)
		p.rcon("deaf", 27016, "standin ignore-sigint")

		left4d := strconv.Itoa(p.MainPID(t, "left4d.service"))
		begin := func(verb, name, state string) (client *Process, pid string, job dbus.ObjectPath) {
			t.Helper()
			client = p.Start(t, "left4ctl", verb, name)
			p.wait(name, "State", state)
			job = dbus.ObjectPath("/me/left4/job/" + strings.Fields(p.Run(t, "sh", "-c", "left4ctl job list --no-legend | grep -w "+name+" | tail -n 1"))[0])
			return client, p.Run(t, "pgrep", "-x", "-f", "left4ctl "+verb+" "+name), job
		}
		// One that tells all that happens is on the bus when it tells the first of it.
		monitor := p.Start(t, "left4ctl", "monitor")
		p.Eventually(t, "the monitor sees the other", func() bool {
			p.ctl("configure", "other", "label="+p.Run(t, "date", "+%N"))
			monitor.mu.Lock()
			defer monitor.mu.Unlock()
			return monitor.output != ""
		})
		starting, pid1, start := begin("start", "late", "starting")
		stopping, pid2, stop := begin("stop", "deaf", "stopping")
		pid3 := p.Run(t, "pgrep", "-x", "-f", "left4ctl monitor")
		// What is forged does arrive: who asks for signals without naming their sender is fooled.
		fooled := p.jobsEnd()
		mallory := func(name string, job dbus.ObjectPath) {
			t.Helper()
			id := p.Run(t, "sh", "-c", `systemctl list-jobs --no-legend "$1" | awk '{ print $1 }'`, "sh", unit(name))
			t.Log(p.RunAs(t, "mallory", "forge.py", unit(name), "/org/freedesktop/systemd1/job/"+id, string(job), name, left4d, pid1, pid2, pid3))
			fooled.Wait(t, "a forged signal", func(s *dbus.Signal) bool { return s.Name == managerI+".JobRemoved" && s.Body[1] == job })
		}
		mallory("late", start)
		mallory("deaf", stop)
		// True signals come behind the forged ones, to all who wait.
		p.ctl("start", "other")
		p.ctl("stop", "other")

		for _, c := range []struct {
			name, state string
			job         dbus.ObjectPath
			client      *Process
		}{{"late", "starting", start, starting}, {"deaf", "stopping", stop, stopping}} {
			if got := p.job(c.job, "State"); got != "running" {
				t.Errorf("%s: the job is %s: %s", c.name, got, p.job(c.job, "Cause"))
			}
			if got := p.get(c.name, "State"); got != c.state || strings.Contains(p.get(c.name, "Cause"), "forged") {
				t.Errorf("%s is %s: %s", c.name, got, p.get(c.name, "Cause"))
			}
			select {
			case <-c.client.done:
				out, code := c.client.Wait(t)
				t.Errorf("%s: the client's waiting is over: %d, %s", c.name, code, out)
			default:
			}
		}
		if got := strconv.Itoa(p.MainPID(t, "left4d.service")); got != left4d {
			t.Errorf("left4d was restarted: %s, %s", left4d, got)
		}

		// The true ones end both.
		p.Run(t, "kill", "-KILL", strconv.Itoa(p.pid("deaf")))
		p.ctl("stop", "late")
		told := monitor.Expect(t, "(start late): canceled")
		for _, forged := range []string{"forged", "(start late): done", "(stop deaf): failed", "late: starting → running"} {
			if strings.Contains(told, forged) {
				t.Errorf("the monitor tells %q:\n%s", forged, told)
			}
		}
		for _, c := range []struct {
			client *Process
			code   int
			says   string
		}{{stopping, 0, "deaf: stopped"}, {starting, 1, fmt.Sprintf("canceled by stop (job %d)", 3+max(number(start), number(stop)))}} {
			if out, code := c.client.Wait(t); code != c.code || !strings.Contains(out, c.says) || strings.Contains(out, "forged") {
				t.Errorf("it ended with %d: %s, want %q", code, out, c.says)
			}
		}
	})
}

// number is the id of a job's object.
func number(job dbus.ObjectPath) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(string(job), "/me/left4/job/"))
	return n
}
