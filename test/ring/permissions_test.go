package ring

import (
	"strings"
	"testing"
)

func TestWhoMay(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "bob")
		p.AddUser(t, "olga", "left4-operators")
		p.ctl("create", "a")
		p.ctl("create", "b")
		call := func(user, method, signature string, args ...string) Result {
			return p.TryAs(user, append([]string{"busctl", "call", service, "/me/left4", managerI, method, signature}, args...)...)
		}
		for _, read := range [][]string{{"ListInstances", "a{sv}", "0"}, {"GetInstance", "s", "a"}, {"ListJobs", "a{sv}", "0"}} {
			if r := call("bob", read[0], read[1], read[2:]...); r.Code != 0 {
				t.Errorf("%s: %+v", read[0], r)
			}
		}
		for _, change := range [][]string{
			{"CreateInstance", "sa{sv}a{sv}", "c", "0", "0"},
			{"InitializeInstance", "sa{sv}a{sv}", "a", "0", "0"},
			{"StartInstance", "sa{sv}", "a", "0"}, {"StopInstance", "sa{sv}", "a", "0"}, {"RestartInstance", "sa{sv}", "a", "0"},
			{"KillInstance", "sa{sv}", "a", "0"}, {"ResetInstance", "sa{sv}", "a", "0"}, {"DeleteInstance", "sa{sv}", "a", "0"},
			{"ConfigureInstance", "sa{sv}a{sv}", "a", "0", "0"}, {"CancelJob", "ua{sv}", "1", "0"},
		} {
			r := call("bob", change[0], change[1], change[2:]...)
			if r.Code == 0 || !strings.Contains(r.Err, "not allowed") && !strings.Contains(r.Err, "authentication") {
				t.Errorf("bob may %s: %+v", change[0], r)
			}
		}
		if r := p.TryAs("bob", "left4ctl", "--no-ask-password", "game", "import", "/etc/polkit-1"); r.Code != 1 {
			t.Errorf("bob may import: %+v", r)
		}
		if r := p.TryAs("bob", "busctl", "call", service, "/me/left4/instance/a", "me.left4.Instance", "GetConfig"); r.Code == 0 {
			t.Errorf("bob may read the config: %+v", r)
		}
		if got := p.get("a", "State"); got != "stopped" {
			t.Errorf("a is %s", got)
		}

		// An operator may, but not delete.
		p.RunAs(t, "olga", "left4ctl", "start", "a")
		if r := call("olga", "DeleteInstance", "sa{sv}", "a", "0"); r.Code == 0 {
			t.Error("an operator may delete")
		}
		// An owner may all with what is his.
		p.RunAs(t, "olga", "left4ctl", "create", "olgas")
		p.RunAs(t, "olga", "left4ctl", "delete", "olgas")

		p.WriteFile(t, "/etc/polkit-1/rules.d/10-bob.rules", `polkit.addRule(function(action, subject) {
			if (action.id == "me.left4.instance.restart" && action.lookup("instance") == "a" && action.lookup("verb") == "restart" && subject.user == "bob")
				return polkit.Result.YES;
		});`, 0o644)
		p.Eventually(t, "the rule lets bob restart a", func() bool { return p.TryAs("bob", "left4ctl", "--no-ask-password", "restart", "a").Code == 0 })
		for _, not := range [][]string{{"restart", "b"}, {"stop", "a"}, {"delete", "a"}} {
			if r := p.TryAs("bob", append([]string{"left4ctl", "--no-ask-password"}, not...)...); r.Code != 1 || !strings.Contains(r.Err, "hint:") {
				t.Errorf("bob may %v: %+v", not, r)
			}
		}

		p.Run(t, "systemctl", "mask", "--runtime", "--now", "polkit.service")
		if r := p.TryAs("olga", "left4ctl", "--no-ask-password", "stop", "a"); r.Code != 1 {
			t.Errorf("without polkit an operator may stop: %+v", r)
		}
		if p.get("a", "State") != "running" {
			t.Error("a does not run")
		}
		p.ctl("stop", "a")
	})
}

func TestAnOwnerIsKnownByName(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "eve")
		p.WriteFile(t, "/etc/polkit-1/rules.d/10-eve.rules", `polkit.addRule(function(action, subject) {
			if (action.id == "me.left4.instance.create" && subject.user == "eve")
				return polkit.Result.YES;
		});`, 0o644)
		p.Eventually(t, "the rule lets eve create", func() bool { return p.TryAs("eve", "left4ctl", "--no-ask-password", "create", "eves").Code == 0 })
		p.ctl("create", "roots")
		p.RunAs(t, "eve", "left4ctl", "--no-ask-password", "start", "eves")
		p.RunAs(t, "eve", "left4ctl", "--no-ask-password", "delete", "eves")
		if r := p.TryAs("eve", "left4ctl", "--no-ask-password", "start", "roots"); r.Code != 1 {
			t.Errorf("eve may start what is root's: %+v", r)
		}
	})
}

// answer waits for pkttyagent's question and answers it.
func (p play) answer(asking *Process, password string) (question string) {
	p.t.Helper()
	question = asking.Expect(p.t, "Password: ")
	// What is typed between the question and the end of the echo is thrown away.
	p.Eventually(p.t, "the terminal shows no password", func() bool {
		return p.Try("sh", "-ec", `stty -F "/dev/$(ps -C pkttyagent -o tty=)" -a | grep -qw -e -echo`).Code == 0
	})
	asking.Type(p.t, password+"\n")
	return question
}

func TestAPasswordIsAsked(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "bob")
		p.ctl("create", "a")
		p.RunInput(t, strings.NewReader("root:open sesame\n"), "chpasswd")
		// A session of logind's, as ssh makes one: without it polkit does not use an agent that left4ctl, as systemctl
		// does, offers as a fallback only.
		login := func() *Process {
			return p.Start(t, "systemd-run", "--quiet", "--wait", "--collect", "--pty", "--uid=bob", "--property=PAMName=login", "left4ctl", "start", "a")
		}
		wrong := login()
		p.answer(wrong, "guess")
		if out, code := wrong.Wait(t); code != 1 || p.get("a", "State") != "stopped" {
			t.Errorf("a wrong password: %d, %s", code, out)
		}
		right := login()
		if said := p.answer(right, "open sesame"); !strings.Contains(said, "start") {
			t.Errorf("the question does not say what for: %s", said)
		}
		if out, code := right.Wait(t); code != 0 {
			t.Errorf("the right password: %d, %s", code, out)
		}
		p.ready(27015)
	})
}
