package dbus

import (
	"context"
	"errors"
	"os/user"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
	"left4.me/left4/polkit"
)

// What changes something is told with who wanted it and what became of it; what only reads is not.
func TestWhoDidWhatIsTold(t *testing.T) {
	b := startBus(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	b.log.take()
	for _, c := range []struct {
		method string
		args   []any
		want   []string
	}{
		{"CreateInstance", []any{"a", variants{}, variants{}}, []string{"result=allowed", "instance=a", "action=me.left4.instance.create"}},
		{"StartInstance", []any{"a", variants{}}, []string{"result=allowed", "instance=a", "job=1", "action=me.left4.instance.start"}},
		{"CancelJob", []any{uint32(1), variants{}}, []string{"method=CancelJob", "job=1", "instance=a"}},
		{"StartInstance", []any{"a", variants{"x": dbus.MakeVariant(1)}}, []string{"result=failed", "instance=a", "error=me.left4.Error.InvalidArgument"}},
		{"StartInstance", []any{"A\nresult=allowed", variants{}}, []string{"result=failed", "error=me.left4.Error.InvalidName"}},
		{"CreateOverlay", []any{"o", "files", variants{}, variants{}}, []string{"result=allowed", "overlay=o"}},
		{"CreateBlueprint", []any{"b", variants{}, variants{}}, []string{"result=allowed", "blueprint=b"}},
		{"GetSecret", []any{"a", "rcon_password"}, []string{"result=allowed", "instance=a", "method=GetSecret"}},
	} {
		b.call(names.Root, names.Manager+"."+c.method, c.args...)
		told := b.log.take()
		if n := strings.Count(told, "\n"); n != 1 {
			t.Errorf("%s %v: %d entries:\n%s", c.method, c.args, n, told)
		}
		for _, want := range append(c.want, "event=call", "caller_uid="+me.Uid, "caller="+me.Username) {
			if !strings.Contains(strings.ReplaceAll(told, "\n", " "), " "+want+" ") {
				t.Errorf("%s %v: no %s in\n%s", c.method, c.args, want, told)
			}
		}
	}
	secret := b.must(names.Root, names.Manager+".GetSecret", "a", "rcon_password")[0].(string)
	if strings.Contains(b.log.take(), secret) {
		t.Error("the secret is told")
	}
	b.must("/me/left4/instance/a", names.Instance+".GetConfig")
	b.must(names.Root, names.Manager+".ListInstances", variants{})
	b.call(names.Root, names.Manager+".StartInstance", "a")
	if told := b.log.take(); told != "" {
		t.Errorf("told:\n%s", told)
	}
}

// Somebody who may do nothing must not drown what others did.
func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	start := time.Now()
	told := 0
	for range 1000 {
		if _, ok := r.pass(1, callRefused, start); ok {
			told++
		}
	}
	if told != maxRefusals {
		t.Errorf("%d of 1000 refusals are told", told)
	}
	for uid, result := range map[uint32]string{0: callFailed, 1: callAllowed, 2: callRefused} {
		if _, ok := r.pass(uid, result, start); !ok {
			t.Errorf("%s of user %d is not told", result, uid)
		}
	}
	if untold, ok := r.pass(1, callFailed, start.Add(refusalTime)); !ok || untold != 1000-maxRefusals {
		t.Errorf("later %v, and %d were not told", ok, untold)
	}
	for uid := range uint32(3 * refusalUsers) {
		r.pass(uid+10, callRefused, start.Add(time.Duration(uid)*refusalTime))
	}
	if len(r.users) > refusalUsers {
		t.Errorf("%d users are remembered", len(r.users))
	}
}

func TestPermissions(t *testing.T) {
	b := startBus(t)
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
	all := b.must(names.Root, names.Manager+".GetPermissions", "")[0].(map[string]string)
	for _, m := range methods {
		if m.action != open && all[m.action] != "yes" {
			t.Errorf("root may %s: %q", m.action, all[m.action])
		}
	}
	_, err := b.call(names.Root, names.Manager+".GetPermissions", "x")
	wantError(t, err, names.Error+"NoSuchInstance")
	_, err = b.call(names.Root, names.Manager+".GetPermissions", "X")
	wantError(t, err, names.Error+"InvalidName")

	b.server.auth = answers(func(_ context.Context, r polkit.Request) (polkit.Answer, error) {
		if r.Interactive {
			t.Errorf("somebody would be asked about %s", r.Action)
		}
		switch {
		case r.Action == "me.left4.instance.start" && r.Details["instance"] == "a" && r.Details["owner"] != "":
			return polkit.Yes, nil
		case r.Action == "me.left4.overlay.edit" && (r.Details["instance"] != "" || r.Details["owner"] != ""):
			t.Errorf("asked about %s with %v", r.Action, r.Details)
		case r.Action == "me.left4.instance.stop":
			return polkit.Challenge, nil
		}
		return polkit.No, nil
	})
	ask := func(name string) map[string]string {
		c := &call{header: header{sender: ":1.5", flags: dbus.FlagAllowInteractiveAuthorization}, ctx: context.Background(), uid: 4000, args: []any{name}}
		out, err := b.server.getPermissions(c)
		if err != nil {
			t.Fatal(err)
		}
		return out[0].(map[string]string)
	}
	if got := ask("a"); got["me.left4.instance.start"] != "yes" || got["me.left4.instance.stop"] != "auth" || got["me.left4.instance.kill"] != "no" || len(got) != len(all) {
		t.Errorf("of a: %v", got)
	}
	if got := ask(""); got["me.left4.instance.start"] != "no" {
		t.Errorf("on the whole: %v", got)
	}
	// A polkit that hangs is waited for once.
	asked := 0
	b.server.auth = answers(func(context.Context, polkit.Request) (polkit.Answer, error) {
		asked++
		return polkit.Yes, errors.New("no answer")
	})
	for action, answer := range ask("a") {
		if answer != "no" {
			t.Errorf("%s without polkit: %s", action, answer)
		}
	}
	if asked != 1 {
		t.Errorf("it was asked %d times", asked)
	}
}
