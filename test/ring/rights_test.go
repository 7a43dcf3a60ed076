package ring

import (
	"strings"
	"testing"
)

// What somebody imports is what they can read themselves, into what they may change.
func TestWhoMayImport(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "bob")
		p.AddUser(t, "eve")
		p.AddUser(t, "olga", "left4-operators")
		p.layer("roots", map[string]string{"left4dead2/old.txt": "of root"})
		p.Run(t, "sh", "-ec", `mkdir -p /home/files/left4dead2; echo new >/home/files/left4dead2/new.txt
			cp /root/layer.tar /home/layer.tar; chmod 0644 /home/layer.tar
			mkdir /home/closed; echo secret >/home/closed/file; chmod 0600 /home/closed/file`)
		ctl := func(user string, args ...string) Result {
			return p.TryAs(user, append([]string{"left4ctl", "--no-ask-password"}, args...)...)
		}
		may := func(user string, all ...[]string) {
			t.Helper()
			for _, args := range all {
				if r := ctl(user, args...); r.Code != 0 {
					t.Errorf("%s may not %v: %+v", user, args, r)
				}
			}
		}
		mayNot := func(user string, all ...[]string) {
			t.Helper()
			for _, args := range all {
				if r := ctl(user, args...); r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, "hint: run it with sudo") {
					t.Errorf("%s may %v: %+v", user, args, r)
				}
			}
		}
		mayNot("bob", []string{"overlay", "import", "roots", "/home/files"}, []string{"overlay", "import", "roots", "/home/layer.tar", "--merge"}, []string{"game", "import", "/home/files"})
		for _, call := range [][]string{
			{"Update", "a{sv}a{sv}", "0", "0"}, {"Build", "a{sv}", "0"}, {"Delete", "a{sv}", "0"}, {"Import", "ha{sv}", "0", "0"},
		} {
			if r := p.TryAs("bob", append([]string{"busctl", "call", service, "/me/left4/overlay/roots", "me.left4.Overlay"}, call...)...); r.Code == 0 {
				t.Errorf("bob may %v: %+v", call, r)
			}
		}
		if got := p.ofOverlay("roots", "Revision"); got != "2" {
			t.Errorf("the revision is %s", got)
		}
		may("olga", []string{"overlay", "import", "roots", "/home/files"}, []string{"overlay", "import", "roots", "/home/layer.tar", "--merge"})
		if got := p.ctl("overlay", "ls", "roots", "left4dead2", "--no-legend"); !strings.Contains(got, "new.txt") || !strings.Contains(got, "old.txt") {
			t.Errorf("after both imports there are\n%s", got)
		}
		if r := ctl("olga", "overlay", "import", "roots", "/home/closed"); r.Code != 1 || !strings.Contains(r.Err, "permission denied") {
			t.Errorf("olga imports what she cannot read: %+v", r)
		}

		// An owner who is no operator may all with what is hers, and nothing with what is not.
		p.WriteFile(t, "/etc/polkit-1/rules.d/10-eve.rules", `polkit.addRule(function(action, subject) {
			if (action.id == "me.left4.overlay.edit" && action.lookup("overlay") == "eves" && !action.lookup("owner") && subject.user == "eve")
				return polkit.Result.YES;
		});`, 0o644)
		p.Eventually(t, "the rule lets eve create", func() bool { return ctl("eve", "overlay", "create", "eves").Code == 0 })
		may("eve", []string{"overlay", "import", "eves", "/home/files"}, []string{"overlay", "put", "eves", "x", "/home/layer.tar"}, []string{"overlay", "ls", "eves"},
			[]string{"overlay", "rollback", "eves"}, []string{"overlay", "configure", "eves", "--keep=3"})
		mayNot("eve", []string{"overlay", "import", "roots", "/home/files"}, []string{"overlay", "ls", "roots"}, []string{"overlay", "create", "more"}, []string{"overlay", "delete", "roots"})
		may("eve", []string{"overlay", "delete", "eves"})
	})
}

func TestASecretHasItsOwnAction(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "eve")
		p.AddUser(t, "ines")
		p.ctl("create", "a", "--config-line=sv_password hidden")
		p.ctl("create", "b")
		p.ctl("start", "a")
		p.ready(27015)
		p.WriteFile(t, "/etc/polkit-1/rules.d/10-look.rules", `polkit.addRule(function(action, subject) {
			if (action.id == "me.left4.instance.secret" && action.lookup("instance") == "a" && subject.user == "eve")
				return polkit.Result.YES;
			if (action.id == "me.left4.instance.inspect" && subject.user == "ines")
				return polkit.Result.YES;
		});`, 0o644)
		ctl := func(user string, args ...string) Result {
			return p.TryAs(user, append([]string{"left4ctl", "--no-ask-password"}, args...)...)
		}
		p.Eventually(t, "the rule lets eve read", func() bool { return ctl("eve", "secret", "a").Code == 0 })
		old := strings.TrimSpace(ctl("eve", "secret", "a").Out)
		if old != p.password("a") || len(old) < 20 {
			t.Errorf("the secret is %q, the server has %q", old, p.password("a"))
		}
		for _, not := range [][]string{{"secret", "b"}, {"preview", "a"}} {
			if r := ctl("eve", not...); r.Code != 1 {
				t.Errorf("eve may %v: %+v", not, r)
			}
		}
		if r := ctl("eve", "secret", "a", "sv_password"); r.Code != 1 || strings.Contains(r.Out, "hidden") || !strings.Contains(r.Err, "rcon_password") {
			t.Errorf("another key: %+v", r)
		}
		// Who may see the definition sees no secret in it.
		preview := ctl("ines", "preview", "a")
		if preview.Code != 0 || strings.Contains(preview.Out, old) || strings.Contains(preview.Out, "hidden") {
			t.Errorf("the preview is %+v", preview)
		}
		if r := ctl("ines", "secret", "a"); r.Code != 1 {
			t.Errorf("ines may read the secret: %+v", r)
		}

		// A new one is the server's from its next start.
		p.ctl("configure", "a", "--new-rcon-password")
		if p.ctl("secret", "a") == old || p.password("a") != old || p.get("a", "PendingRestart") != "true" {
			t.Error("the new password is not pending")
		}
		p.ctl("restart", "a")
		p.ready(27015)
		if p.password("a") == old || p.password("a") != p.ctl("secret", "a") {
			t.Error("the server does not have the new password")
		}
		if r := p.rcon("a", 27015, "status"); r.Code != 0 {
			t.Errorf("%+v", r)
		}
		journal := p.journal(t)
		for _, secret := range []string{old, p.password("a")} {
			if strings.Contains(journal, secret) {
				t.Error("the journal shows a password")
			}
		}
	})
}
