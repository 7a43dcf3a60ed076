package ring

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"left4.me/left4/test/report"
)

// A polkitFault is a way for polkit to be unwell.
type polkitFault struct {
	name  string
	begin func()
	// while the questions are open, beyond the calls of root.
	open func()
	end  func()

	hangs bool   // callers wait for it as long as left4d does
	says  string // what those hear whom a polkit that is well would let through
	// truth: polkit is well again before left4d gives up, and its word counts.
	truth bool
}

// Whatever is wrong with polkit, those who need it are told no, in time, and nothing changes; root does not notice; and
// when polkit is back, so are its answers.
func TestFaultPolkit(t *testing.T) {
	eachFault(t, func(t *testing.T, p play) {
		p.AddUser(t, "bob")
		p.AddUser(t, "olga", "left4-operators")
		p.AddUser(t, "mallory")
		for _, script := range []string{"calls.py", "polkit.py", "answer.py"} {
			p.bringScript(script)
		}
		for _, name := range []string{"a", "b"} {
			p.ctl("create", name)
		}
		p.ctl("start", "a")
		p.ready(27015)
		// What the test itself wears out by being asked is not what is meant.
		p.WriteFile(t, "/etc/systemd/system/polkit.service.d/test.conf", "[Unit]\nStartLimitIntervalSec=0\n", 0o644)
		p.Run(t, "systemctl", "daemon-reload")

		standIn := func(mode string) func() {
			return func() {
				p.WriteFile(t, "/run/systemd/system/polkit.service.d/stand-in.conf",
					"[Service]\nType=dbus\nUser=polkitd\nExecStart=\nExecStart=/usr/local/bin/polkit.py "+mode+"\n", 0o644)
				p.Run(t, "systemctl", "daemon-reload")
				p.Run(t, "systemctl", "restart", "polkit.service")
			}
		}
		restore := func() {
			p.Run(t, "rm", "/run/systemd/system/polkit.service.d/stand-in.conf")
			p.Run(t, "systemctl", "daemon-reload")
		}
		real := func() {
			restore()
			p.Run(t, "systemctl", "restart", "polkit.service")
		}
		const activated = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service"
		polkitd := func() string { return strconv.Itoa(p.MainPID(t, "polkit.service")) }
		left4d := p.MainPID(t, "left4d.service")
		forged := 0

		faults := []polkitFault{
			{name: "masked and stopped", says: "polkit does not answer",
				begin: func() { p.Run(t, "systemctl", "mask", "--runtime", "--now", "polkit.service") },
				end:   func() { p.Run(t, "systemctl", "unmask", "--runtime", "polkit.service") }},
			{name: "not installed", says: "polkit does not answer",
				begin: func() {
					p.Run(t, "systemctl", "mask", "--runtime", "--now", "polkit.service")
					p.Run(t, "mv", activated, "/root/activated")
					p.Run(t, "busctl", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig")
				},
				end: func() {
					p.Run(t, "mv", "/root/activated", activated)
					p.Run(t, "busctl", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig")
					p.Run(t, "systemctl", "unmask", "--runtime", "polkit.service")
				}},
			{name: "denies", says: "is not allowed", begin: standIn("denies"), end: real},
			{name: "answers what is no answer, in 15 ways", says: "polkit does not answer|is not allowed|needs authentication",
				begin: standIn("malformed"), end: real},
			{name: "dies of each question", says: "polkit does not answer", begin: standIn("dies"), end: real},
			{name: "dies in mid-question, yes forged meanwhile", truth: true, says: "needs authentication",
				begin: standIn("hangs"),
				open: func() {
					// All that left4d has sent so far, and more.
					out := p.RunAs(t, "mallory", "answer.py", strconv.Itoa(left4d), "5000")
					if !strings.HasSuffix(out, " 2 connections") && !strings.HasSuffix(out, " 1 connections") {
						t.Errorf("%s: forged: %s", p.Suite, out)
					}
					forged++
					restore()
					p.Run(t, "kill", "-KILL", polkitd())
				},
				end: func() {}},
		}
		if full() {
			faults = append(faults,
				polkitFault{name: "hangs", hangs: true, says: "polkit does not answer", begin: standIn("hangs"), end: real},
				polkitFault{name: "is stopped (SIGSTOP)", hangs: true, says: "polkit does not answer",
					begin: func() {
						p.Run(t, "systemctl", "start", "polkit.service")
						p.Run(t, "kill", "-STOP", polkitd())
					},
					end: func() { p.Run(t, "kill", "-CONT", polkitd()) }},
				polkitFault{name: "takes 30 s to say yes", hangs: true, says: "polkit does not answer", begin: standIn("slow"), end: real})
		}
		rounds := 15
		if full() {
			rounds = 60
		}
		usual := p.rootCalls(t, rounds).wait(t)
		held := p.descriptors("left4d.service")
		for _, f := range faults {
			f.begin()
			before := p.questions()
			untouched := map[string]int{"a": p.pid("a")}
			asking := map[string]*Process{}
			// More of each than left4d asks at once. An operator may configure, and nobody but the owner may delete.
			for user, calls := range map[string]string{
				"olga": `ConfigureInstance b "{'label': <'changed'>}" {}; StopInstance a {}; RestartInstance b {}`,
				"bob":  `StartInstance b {}; DeleteInstance a {}; CreateInstance bobs {} {}`,
			} {
				if f.truth && user == "olga" {
					calls = `ConfigureInstance b "{'label': <'changed'>}" {}; ConfigureInstance b "{'label': <'changed'>}" {}; ConfigureInstance b "{'label': <'changed'>}" {}`
				}
				var script strings.Builder
				for range 3 {
					for call := range strings.SplitSeq(calls, "; ") {
						// busctl does not tell what a refusal says.
						fmt.Fprintf(&script, "gdbus call --system --timeout=300 --dest=me.left4 --object-path=/me/left4 --method=me.left4.Manager.%s 2>&1 &\n", call)
					}
				}
				script.WriteString("wait\n")
				asking[user] = p.Start(t, asUser(user, []string{"sh", "-c", script.String()})...)
			}
			if f.hangs {
				// Who would wait for a person's answer has no such limit, and leaves when they want.
				p.TryAs("bob", "timeout", "2", "busctl", "--timeout=300", "call", service, "/me/left4", managerI, "StopInstance", "sa{sv}", "a", "0")
			}
			meanwhile := p.rootCalls(t, rounds).wait(t)
			open := true
			for user, calls := range asking {
				select {
				case <-calls.done:
					open = false
					if f.truth || f.hangs {
						out, _ := calls.Wait(t)
						t.Errorf("%s: polkit %s: the questions about %s are over before root was served:\n%s", p.Suite, f.name, user, out)
					}
				default:
				}
			}
			if f.open != nil {
				f.open()
			}
			refused, done := 0, 0
			for user, calls := range asking {
				out, _ := calls.Wait(t)
				says := regexp.MustCompile(`^Error: GDBus\.Error:org\.freedesktop\.DBus\.Error\.(AccessDenied|InteractiveAuthorizationRequired): .*(` + f.says + `)`)
				for line := range strings.Lines(out) {
					switch {
					case f.truth && user == "olga" && line == "()\n":
						done++
					case says.MatchString(line):
						refused++
					default:
						t.Errorf("%s: polkit %s: %s is told %q, want %q", p.Suite, f.name, user, line, f.says)
					}
				}
			}
			if want := 18; refused+done != want || f.truth != (done > 0) {
				t.Errorf("%s: polkit %s: %d are refused and %d done of %d", p.Suite, f.name, refused, done, want)
			}
			// Once, and once more where polkit has gone meanwhile.
			asked := p.questions() - before
			if asked > 36 {
				t.Errorf("%s: polkit %s: it was asked %d times about 18 calls", p.Suite, f.name, asked)
			}
			if list := p.ctl("list", "--no-legend"); strings.Count(list, "\n") != 1 || p.get("b", "State") != "stopped" || p.get("a", "State") != "running" {
				t.Errorf("%s: polkit %s: there is now\n%s", p.Suite, f.name, list)
			}
			if got := p.get("b", "Label") == "changed"; got != f.truth {
				t.Errorf("%s: polkit %s: the label is %q", p.Suite, f.name, p.get("b", "Label"))
			}
			wrongs := violations(t, p.Machine, untouched)
			f.end()
			// Each place that a question takes is free again, or these would wait for ever.
			for range 2 {
				p.RunAs(t, "olga", "sh", "-ec", `for n in 1 2 3 4 5 6; do left4ctl --no-ask-password configure b label=again & done; wait`)
			}
			if got := p.get("b", "Label"); got != "again" {
				t.Errorf("%s: polkit %s: when it is back, the label is %q", p.Suite, f.name, got)
			}
			p.Eventually(t, "left4d holds no more descriptors than before", func() bool { return p.descriptors("left4d.service") <= held })
			if got := p.MainPID(t, "left4d.service"); got != left4d {
				t.Fatalf("%s: polkit %s: left4d was restarted: %d, %d", p.Suite, f.name, left4d, got)
			}
			for _, wrong := range wrongs {
				t.Errorf("%s: polkit %s: %s", p.Suite, f.name, wrong)
			}
			note := ""
			if open && (f.truth || f.hangs) {
				note = "root was served while all questions were open"
			}
			report.Add(t, report.Row{Table: "fault", Suite: p.Suite, Name: "polkit " + f.name,
				Figures: []report.Figure{
					report.Count("asked", asked), report.Count("refused", refused), report.Count("answered truly", done),
					report.Measure("root's calls, p50", meanwhile.median, "ms"), report.Measure("before", usual.median, "ms"),
					report.Count("violations", len(wrongs)),
				},
				Goal: "0 violations", Met: len(wrongs) == 0, Note: note})
		}
		if forged == 0 {
			t.Errorf("%s: nobody forged an answer", p.Suite)
		}
	})
}

// eachFault is eachPlay in the full form, and in one Debian otherwise.
func eachFault(t *testing.T, test func(t *testing.T, p play)) {
	if full() {
		eachPlay(t, test)
		return
	}
	Once(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.install()
		test(t, p)
	})
}

// rootCalls are those of calls.py for the instance b, as root.
type rootCalls struct {
	*Process
	median float64 // of a Get, in milliseconds
}

func (p play) rootCalls(t *testing.T, rounds int) *rootCalls {
	t.Helper()
	return &rootCalls{Process: p.Start(t, "calls.py", strconv.Itoa(rounds), "b")}
}

func (c *rootCalls) wait(t *testing.T) *rootCalls {
	t.Helper()
	out, code := c.Wait(t)
	if code != 0 {
		t.Fatalf("the calls of root: %d\n%s", code, out)
	}
	_, after, _ := strings.Cut(out, "Get ")
	c.median, _ = strconv.ParseFloat(strings.Fields(after)[0], 64)
	return c
}

// questions is how many polkit.py was asked.
func (p play) questions() int {
	p.t.Helper()
	return strings.Count(p.Journal(p.t, "polkit.service"), "asked me.left4.")
}

// descriptors is how many a service holds.
func (p play) descriptors(service string) int {
	p.t.Helper()
	return len(p.list("/proc/" + strconv.Itoa(p.MainPID(p.t, service)) + "/fd"))
}
