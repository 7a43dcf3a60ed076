package vm

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/report"
)

// clock is what the machine takes for the time, in seconds since the epoch.
func (p play) clock() int64 {
	p.t.Helper()
	n, err := strconv.ParseInt(p.Run(p.t, "date", "+%s"), 10, 64)
	if err != nil {
		p.t.Fatalf("%s: %v", p.Suite, err)
	}
	return n
}

// A clock that jumps ends nothing early, and lets nothing hang: jobs and their deadlines, restarts, the history.
func TestAClockThatJumps(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		for _, name := range []string{"steady", "crashes", "slow", "stuck"} {
			p.ctl("create", name)
		}
		p.ctl("start", "steady", "crashes")
		p.ready(27015)
		p.ready(27016)
		// Both begin when they are told to; nobody tells the second.
		p.WriteFile(t, "/run/systemd/system/left4-server@slow.service.d/slow.conf", "[Service]\nExecStartPre=+sh -c 'read line </run/slow'\nTimeoutStartSec=infinity\n", 0o644)
		p.WriteFile(t, "/run/systemd/system/left4-server@stuck.service.d/slow.conf", "[Service]\nExecStartPre=+sleep infinity\nTimeoutStartSec=infinity\n", 0o644)
		p.Run(t, "sh", "-ec", "mkfifo /run/slow; systemctl daemon-reload")
		steady, left4d := p.process(unit("steady")), p.process("left4d.service")
		manager := p.Bus(t).Object(service, "/me/left4")
		wrongs := 0
		expect := func(what, got, want string) {
			t.Helper()
			if got != want {
				wrongs++
			}
			p.expect(what, got, want)
		}
		jumps := []int64{1, -1, 86400, -86400, -2 * 86400, 3 * 86400}
		for n, seconds := range jumps {
			when := fmt.Sprintf("%+d s: ", seconds)
			start := func(name string, options map[string]dbus.Variant) (job dbus.ObjectPath) {
				t.Helper()
				if err := manager.Call(managerI+".StartInstance", 0, name, options).Store(&job); err != nil {
					t.Fatalf("%s: start %s: %v", p.Suite, name, err)
				}
				return job
			}
			states := p.states()
			ends := p.Signals(t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("JobRemoved"))
			slow := start("slow", map[string]dbus.Variant{})
			stuck := start("stuck", map[string]dbus.Variant{"timeout": dbus.MakeVariant(uint64(20_000_000))})
			p.becomes(states, "slow", "starting")

			p.Run(t, "date", "--set=@"+strconv.FormatInt(p.clock()+seconds, 10))
			crashed := p.states()
			p.Run(t, "systemctl", "kill", "--signal=KILL", unit("crashes"))
			p.becomes(crashed, "crashes", "restarting")
			expect(when+"the slow start", p.property(string(slow), "me.left4.Job", "State"), "running")
			// Its time is over, no sooner and no later than without the jump: the other start, which has none, is still at it.
			end := ends.Wait(t, "the end of the stuck start", func(s *dbus.Signal) bool { return s.Name == managerI+".JobRemoved" && s.Body[1] == stuck })
			expect(when+"the stuck start", end.Body[4].(string), "timeout")
			expect(when+"the slow start, later", p.property(string(slow), "me.left4.Job", "State"), "running")
			p.becomes(crashed, "crashes", "running")
			p.ready(27016)
			// One that is killed takes up what it finds, whatever the clock says.
			if n%2 == 1 {
				p.Run(t, "systemctl", "kill", "--signal=KILL", "left4d.service")
			}
			before := p.clock()
			p.Run(t, "sh", "-c", "echo go >/run/slow")
			jobs := p.settled()
			expect(when+"the slow start, in the end", jobs["start slow"].State, "done")
			p.ready(27017)
			since, err := strconv.ParseInt(p.get("slow", "StateSince"), 10, 64)
			if err != nil || since < (before-1)*1e6 || since > (p.clock()+1)*1e6 {
				wrongs++
				t.Errorf("%s: %sit runs since %d, and was let go at %d, %v", p.Suite, when, since, before, err)
			}
			for name, state := range map[string]string{"steady": "running", "crashes": "running", "slow": "running", "stuck": "stopped"} {
				expect(when+name, p.get(name, "State")+", "+p.get(name, "DesiredState")+", drifted "+p.get(name, "Drifted"), state+", "+state+", drifted false")
			}
			expect(when+"the steady server", p.process(unit("steady")), steady)
			if n%2 == 0 {
				expect(when+"left4d", p.process("left4d.service"), left4d)
			}
			left4d = p.process("left4d.service")
			p.ctl("stop", "slow")
			if history := p.ctl("job", "list"); !strings.Contains(history, "timeout") || jobs["start steady"].State != "done" {
				wrongs++
				t.Errorf("%s: %sthe history is\n%s", p.Suite, when, history)
			}
		}
		report.Add(t, report.Row{Table: "fault", Suite: p.Suite, Name: "clock jumps, up to 3 days both ways",
			Figures: []report.Figure{report.Count("jumps", len(jumps)), report.Count("violations", wrongs)}, Goal: "0 violations", Met: wrongs == 0})
	})
}
