package ring

import (
	"encoding/json"
	"strings"
	"testing"

	"left4.me/left4/dbus/names"
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

		// What one may is told before, and told truly.
		all := p.permissions("root", "")
		if len(all) < 20 {
			t.Errorf("there are the actions %v", all)
		}
		p.RunAs(t, "olga", "left4ctl", "create", "olgas")
		for _, c := range []struct {
			user, instance, most string
			but                  map[string]string
		}{
			{"root", "", "yes", nil},
			{"root", "a", "yes", nil},
			{"bob", "", "auth", nil},
			{"bob", "a", "auth", map[string]string{"me.left4.instance.restart": "yes"}},
			{"bob", "b", "auth", nil},
			{"olga", "", "yes", map[string]string{"me.left4.instance.delete": "auth", "me.left4.blueprint.delete": "auth", "me.left4.overlay.delete": "auth",
				"me.left4.overlay.script": "auth", "me.left4.repair": "auth", "me.left4.administer": "auth"}},
			{"olga", "olgas", "yes", map[string]string{"me.left4.blueprint.delete": "auth", "me.left4.overlay.delete": "auth",
				"me.left4.overlay.script": "auth", "me.left4.repair": "auth", "me.left4.administer": "auth"}},
		} {
			got := p.permissions(c.user, c.instance)
			if len(got) != len(all) {
				t.Errorf("%s is told of the actions %v", c.user, got)
			}
			for action, answer := range got {
				want := c.most
				if but, ok := c.but[action]; ok {
					want = but
				}
				if answer != want {
					t.Errorf("%s, instance %q: %s is %s, want %s", c.user, c.instance, action, answer, want)
				}
			}
		}
		for name, want := range map[string]string{"none": "there is no instance none", "../a": "is not allowed"} {
			if r := call("bob", "GetPermissions", "s", name); r.Code == 0 || !strings.Contains(r.Err, want) {
				t.Errorf("GetPermissions of %s: %+v", name, r)
			}
		}

		p.Run(t, "systemctl", "mask", "--runtime", "--now", "polkit.service")
		for action, answer := range p.permissions("olga", "a") {
			if answer != "no" {
				t.Errorf("without polkit %s is %s", action, answer)
			}
		}
		if r := p.TryAs("olga", "left4ctl", "--no-ask-password", "stop", "a"); r.Code != 1 {
			t.Errorf("without polkit an operator may stop: %+v", r)
		}
		if p.get("a", "State") != "running" {
			t.Error("a does not run")
		}
		p.ctl("stop", "a")
	})
}

// permissions is what a user is told that they may do.
func (p play) permissions(user, instance string) map[string]string {
	p.t.Helper()
	var answer struct{ Data []map[string]string }
	out := p.RunAs(p.t, user, "busctl", "--json=short", "call", service, "/me/left4", managerI, "GetPermissions", "s", instance)
	if err := json.Unmarshal([]byte(out), &answer); err != nil || len(answer.Data) != 1 {
		p.t.Fatalf("GetPermissions: %v\n%s", err, out)
	}
	return answer.Data[0]
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

// Somebody who floods left4d is in nobody's way, and does not drown the journal.
func TestAFloodRefusesNobodyElse(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "mallory")
		p.AddUser(t, "olga", "left4-operators")
		p.bringScript("flood.py")
		p.bringScript("calls.py")
		for _, name := range []string{"a", "b", "c"} {
			p.ctl("create", name)
		}
		p.ctl("start", "a")
		p.ready(27015)
		pid := p.MainPID(t, "left4d.service")
		usual := p.manyCalls(20)
		flood := p.Start(t, asUser("mallory", []string{"flood.py", "a"})...)
		flood.Expect(t, "flooding")
		t.Logf("before the flood:\n%sin it:\n%s", usual, p.manyCalls(5))
		p.RunAs(t, "olga", "left4ctl", "restart", "a")
		p.Run(t, "pkill", "-KILL", "-u", "mallory", "-f", "flood.py")
		flood.Wait(t)
		if got := p.MainPID(t, "left4d.service"); got != pid {
			t.Errorf("left4d was restarted: %d, %d", pid, got)
		}
		told := p.entries(names.MessageCall, "LEFT4_CALLER=mallory")
		if len(told) == 0 || len(told) > 3*60 {
			t.Errorf("%d entries in the journal are about it", len(told))
		}
		for _, call := range told {
			if call["RESULT"] == "allowed" {
				t.Errorf("mallory was allowed: %v", call)
			}
		}
		if p.get("a", "State") != "running" {
			t.Errorf("a is %s: %s", p.get("a", "State"), p.get("a", "Cause"))
		}
	})
}
