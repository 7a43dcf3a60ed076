package ring

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// What left4ctl shows of the journal is what is true in it: who did what, what servers wrote without what would steer a
// terminal, and nothing that somebody else put there.
func TestLogsAndAuditFromTheJournal(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "alice")
		p.AddUser(t, "olga", "left4-operators")
		p.AddUser(t, "jim", "systemd-journal")
		p.ctl("create", "a", "--port", "27015")
		p.ctl("create", "b", "--port", "27016")
		p.ctl("start", "a")
		p.ready(27015)

		// Everybody may write to the journal, and call it left4d's.
		forged := "MESSAGE_ID=f3a87de9a96b4a0f8d5e5d2f7c0b6e11\nSYSLOG_IDENTIFIER=left4d\nLEFT4_METHOD=DeleteInstance\nLEFT4_RESULT=allowed\n" +
			"LEFT4_CALLER_UID=0\nLEFT4_CALLER=root\nLEFT4_INSTANCE=a\nMESSAGE=forged\n"
		p.WriteFile(t, "/tmp/forged", forged, 0o644)
		p.RunAs(t, "alice", "sh", "-c", "logger --journald=/tmp/forged")

		// What changes something is written down with who wanted it, whatever became of it; sync is journald's own.
		p.RunAs(t, "olga", "left4ctl", "restart", "a")
		p.ready(27015)
		if r := p.TryAs("alice", "left4ctl", "stop", "a"); r.Code != 1 || !strings.Contains(r.Err, "left4ctl: hint: ") {
			t.Errorf("alice stops a: %+v", r)
		}
		p.RunAs(t, "olga", "left4ctl", "list")
		if r := p.Try("left4ctl", "start", "nobody"); r.Code != 1 {
			t.Errorf("%+v", r)
		}
		p.Run(t, "journalctl", "--sync")
		type call struct {
			Time, User, Method, Action, Result, Error, Instance, Cursor string
			UID, Job                                                    *uint32
		}
		read := func(r Result) (calls []call) {
			t.Helper()
			for _, line := range strings.Split(strings.TrimSpace(r.Out), "\n") {
				var c call
				if err := json.Unmarshal([]byte(line), &c); err != nil {
					t.Fatalf("%v: %+v", err, r)
				}
				calls = append(calls, c)
			}
			return calls
		}
		var lines []string
		for _, c := range read(p.Try("left4ctl", "audit", "a", "--json")) {
			lines = append(lines, fmt.Sprintf("%s %s %s %v", c.User, c.Method, c.Result, c.Job != nil))
			if c.Time == "" || c.Cursor == "" || c.UID == nil || c.Instance != "a" || (c.Result == "allowed") != (c.Error == "") {
				t.Errorf("%+v", c)
			}
		}
		want := "root CreateInstance allowed false\nroot StartInstance allowed true\nolga RestartInstance allowed true\nalice StopInstance refused false"
		if got := strings.Join(lines, "\n"); got != want {
			t.Errorf("the calls about a are\n%s\nwant\n%s", got, want)
		}
		for _, tt := range []struct {
			args []string
			want string // the methods
		}{
			{[]string{"--user", "olga"}, "RestartInstance"},
			{[]string{"--refused"}, "StopInstance"},
			{[]string{"nobody"}, "StartInstance"},
			{[]string{"b"}, "CreateInstance"},
			{[]string{"?", "-n", "1"}, "StopInstance"},
			{[]string{"--since", "-1h", "a", "-n", "2"}, "RestartInstance StopInstance"},
			{[]string{"-n", "3"}, "RestartInstance StopInstance StartInstance"},
		} {
			var methods []string
			for _, c := range read(p.Try(append([]string{"left4ctl", "audit", "--json"}, tt.args...)...)) {
				methods = append(methods, c.Method)
			}
			if got := strings.Join(methods, " "); got != tt.want {
				t.Errorf("audit %v: %s", tt.args, got)
			}
		}
		if r := p.TryAs("alice", "left4ctl", "audit"); r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, "hint: run it with sudo, or ask to be in group systemd-journal") {
			t.Errorf("alice reads the audit trail: %+v", r)
		}
		if r := p.TryAs("jim", "left4ctl", "audit", "a", "--no-legend"); r.Code != 0 || strings.Count(r.Out, "\n") != 4 || strings.Contains(r.Out, "DeleteInstance") {
			t.Errorf("jim reads the audit trail: %+v", r)
		}

		// What a server writes cannot steer a terminal, however it is shown.
		p.rcon("a", 27015, "echo \"\x1b[2J\x1b]0 owned\x07\"")
		p.rcon("a", 27015, "echo this is plain")
		p.Run(t, "journalctl", "--sync")
		raw := p.Run(t, "journalctl", "-a", "-o", "cat", "-u", unit("a"))
		if !strings.Contains(raw, "\x1b[2J") {
			t.Errorf("the stand-in has not written it:\n%q", raw)
		}
		for _, args := range [][]string{
			{"logs", "a"}, {"logs", "a", "-o", "json"}, {"logs", "a", "-o", "short-full"}, {"logs", "--all", "a"}, {"status", "a", "-n", "all"},
		} {
			r := p.Try(append([]string{"left4ctl"}, args...)...)
			if r.Code != 0 || strings.ContainsAny(r.Out, "\x1b\x07") || !strings.Contains(r.Out, "this is plain") {
				t.Errorf("%v: %d, %q", args, r.Code, r.Out)
			}
		}

		// With --all there is what left4d says of it, and nothing that only calls itself left4d.
		all := p.ctl("logs", "a", "--all")
		for _, want := range []string{"RestartInstance a by olga", "StopInstance a by alice", "this is plain"} {
			if !strings.Contains(all, want) {
				t.Errorf("logs --all has no %q:\n%s", want, all)
			}
		}
		if strings.Contains(all, "forged") || strings.Contains(p.ctl("logs", "a"), "by olga") {
			t.Error("logs shows what others wrote")
		}

		// The next one begins where the last ended.
		first := p.ctl("logs", "a", "--cursor-file", "/root/cursor")
		p.rcon("a", 27015, "echo later on")
		p.Run(t, "journalctl", "--sync")
		second := p.ctl("logs", "a", "--cursor-file", "/root/cursor")
		if !strings.Contains(first, "this is plain") || !strings.Contains(second, "later on") || strings.Contains(second, "this is plain") {
			t.Errorf("first\n%s\nthen\n%s", first, second)
		}
		if got := p.ctl("logs", "a", "--grep", "this is pl", "-n", "1", "-q"); strings.Count(got, "\n") != 0 || !strings.Contains(got, "this is plain") {
			t.Errorf("logs --grep: %s", got)
		}

		// Everybody may see the status, the log below it who may see logs.
		status := p.TryAs("alice", "left4ctl", "status", "a")
		if status.Code != 0 || !strings.Contains(status.Out, "Owner: root") || strings.Contains(status.Out, "this is plain") || !strings.Contains(status.Err, "hint: run it with sudo") {
			t.Errorf("alice asks for the status: %+v", status)
		}
		p.ctl("configure", "a", "hostname=new")
		p.Run(t, "systemctl", "kill", "--signal=SIGKILL", unit("a"))
		p.ready(27015)
		for _, want := range []string{"● left4d ", "Since: 20", " ago", "Game: revision 1", "Instances: 2 (1 running, 1 stopped)", "restart pending: another server.cfg"} {
			if got := p.ctl("status"); !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		if r := p.Try("left4ctl", "status", "a", "b"); r.Code != 3 || !strings.Contains(r.Out, "Pending: another server.cfg") || !strings.Contains(r.Out, "○ b\n") {
			t.Errorf("%+v", r)
		}
	})
}

// Many at once: one list, calls side by side, and as quick as left4d.
func TestPatternsOverManyInstances(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.blueprintOfFifty()
		p.createFifty()
		took := func(args ...string) Result {
			t.Helper()
			before := time.Now()
			r := p.Try(append([]string{"left4ctl"}, args...)...)
			t.Logf("left4ctl %s: %v", strings.Join(args, " "), time.Since(before).Round(time.Millisecond))
			if r.Code != 0 {
				t.Fatalf("%v: %+v", args, r)
			}
			return r
		}
		if r := took("start", "*"); strings.Count(r.Err, ": started\n") != fifty {
			t.Errorf("%s", r.Err)
		}
		if r := took("list", "--state", "running", "--columns", "name", "-q"); strings.Count(r.Out, "\n") != fifty {
			t.Errorf("%s", r.Out)
		}
		took("status")
		took("configure", "s1?", "--limit", "MemoryMax=1G")
		if r := took("list", "s1?", "--columns", "limits", "-q"); strings.Count(r.Out, "MemoryMax=1G") != 10 {
			t.Errorf("%s", r.Out)
		}
		r := took("restart", "s[0-9]", "--no-wait")
		took(append([]string{"job", "wait", "-q"}, strings.Fields(r.Out)...)...)
		// One that fails holds up nobody.
		all := p.Try("left4ctl", "stop", "s4*", "nobody", "S", "s5")
		if all.Code != 1 || strings.Count(all.Err, ": stopped\n") != 12 || strings.Count(all.Err, "left4ctl: cannot stop ") != 2 {
			t.Errorf("%+v", all)
		}
		if r := took("delete", "*"); strings.Count(r.Err, ": deleted\n") != fifty {
			t.Errorf("%s", r.Err)
		}
		took("list")
	})
}
