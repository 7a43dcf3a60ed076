package ring

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/report"
)

// However the machine goes down: what was wanted is back, nothing else is, and all is told as it is.
func TestFaultReboot(t *testing.T) {
	eachFault(t, func(t *testing.T, p play) {
		wanted, idle, cuts := 12, 3, 1
		if full() {
			wanted, idle, cuts = fifty, 10, 5
		}
		var names, others []string
		for n := range wanted {
			names = append(names, fmt.Sprintf("w%d", n))
		}
		for n := range idle {
			others = append(others, fmt.Sprintf("i%d", n))
		}
		for _, name := range append(names, others...) {
			p.ctl("create", name)
		}
		none := map[string]dbus.Variant{}
		p.forAll(append(names, others...), "StartInstance", "start", none)
		p.forAll(others, "StopInstance", "stop", none)
		for _, c := range []struct {
			name string
			boot func(TB)
		}{{"reboot", p.Reboot}, {"power cut", p.PowerCut}} {
			began := time.Now()
			c.boot(t)
			up := time.Since(began)
			wrongs := violations(t, p.Machine, nil)
			for n := range names {
				p.ready(27015 + n)
			}
			for n, state := range map[string]string{"w*": "running  running", "i*": "stopped  stopped"} {
				if list := p.ctl("list", "--no-legend", n); strings.Count(list, state) != strings.Count(list+"\n", "\n") {
					wrongs = append(wrongs, fmt.Sprintf("not all are %s:\n%s", state, list))
				}
			}
			if n := len(p.mounts()); n != wanted {
				wrongs = append(wrongs, fmt.Sprintf("%d mounts", n))
			}
			for _, wrong := range wrongs {
				t.Errorf("%s: %s: %s", p.Suite, c.name, wrong)
			}
			report.Add(t, report.Row{Table: "fault", Suite: p.Suite, Name: fmt.Sprintf("%s with %d wanted, %d not", c.name, wanted, idle),
				Figures: []report.Figure{report.Count("running", wanted), report.Measure("down and up again", up.Seconds(), "s"), report.Count("violations", len(wrongs))},
				Goal:    "0 violations", Met: len(wrongs) == 0})
		}

		// In the middle of many jobs: each is done after the boot, as if nothing had been.
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		t.Logf("%s: seed %d", p.Suite, seed)
		crew := names[:min(20, len(names))]
		verbs := []string{"StopInstance", "RestartInstance", "KillInstance", "ResetInstance", "DeleteInstance"}
		jobs, undone, wrongs := 0, 0, 0
		for round := range cuts {
			what := fmt.Sprintf("power cut %d in the middle of %d jobs", round, len(crew))
			asked := map[string]string{} // by instance
			accepted := map[dbus.ObjectPath]string{}
			manager := p.Bus(t).Object(service, "/me/left4")
			for n, name := range crew {
				method := verbs[(n+round)%len(verbs)]
				if p.get(name, "DesiredState") == "stopped" {
					method = "StartInstance"
				}
				var job dbus.ObjectPath
				if err := manager.Call(managerI+"."+method, 0, name, none).Store(&job); err != nil {
					t.Fatalf("%s: %s %s: %v", p.Suite, method, name, err)
				}
				asked[name], accepted[job] = method, method+" "+name
			}
			moment := time.NewTimer(time.Duration(random.Float64() * float64(500*time.Millisecond)))
			<-moment.C
			p.PowerCut(t)
			for _, v := range violations(t, p.Machine, nil) {
				wrongs++
				t.Errorf("%s: %s: %s", p.Suite, what, v)
			}
			for job, about := range accepted {
				jobs++
				// One that had ended before the cut has no object any more, but is in the history.
				if got := p.Run(t, "left4ctl", "job", "show", strings.TrimPrefix(string(job), "/me/left4/job/")); !strings.Contains(got, "done") {
					undone++
					t.Errorf("%s: %s: %s:\n%s", p.Suite, what, about, got)
				}
			}
			for name, method := range asked {
				want := map[string]string{"StartInstance": "running", "RestartInstance": "running", "DeleteInstance": ""}
				state, ok := want[method]
				if !ok {
					state = "stopped"
				}
				got := ""
				if r := p.Try("busctl", "get-property", service, "/me/left4/instance/"+name, "me.left4.Instance", "State"); r.Code == 0 {
					got = value(r.Out)
				}
				if got != state {
					wrongs++
					t.Errorf("%s: %s: after %s %s is %q", p.Suite, what, method, name, got)
				}
				if state == "" {
					p.ctl("create", name)
				}
			}
		}
		report.Add(t, report.Row{Table: "fault", Suite: p.Suite, Name: fmt.Sprintf("power cut in the middle of %d jobs", len(crew)),
			Figures: []report.Figure{report.Count("cuts", cuts), report.Count("jobs", jobs), report.Count("not done", undone), report.Count("violations", wrongs)},
			Goal:    "all jobs done, 0 violations", Met: undone+wrongs == 0})
	})
}
