package ring

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// entries are those of left4d in the journal with this MESSAGE_ID and these fields, with the LEFT4_ fields of each.
func (p play) entries(message string, fields ...string) (all []map[string]string) {
	p.t.Helper()
	p.Run(p.t, "journalctl", "--sync")
	out := p.Run(p.t, append([]string{"journalctl", "--output=json", "_SYSTEMD_UNIT=left4d.service", "MESSAGE_ID=" + message}, fields...)...)
	for line := range strings.Lines(out) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			p.t.Fatalf("journalctl: %v\n%s", err, line)
		}
		ours := map[string]string{}
		for key, value := range entry {
			if name, ok := strings.CutPrefix(key, "LEFT4_"); ok && name != "SENDER" {
				ours[name], _ = value.(string)
			}
		}
		all = append(all, ours)
	}
	return all
}

// Whoever wants to change something stands in the journal with it, and nobody else can put them there.
func TestEveryChangeStandsInTheJournal(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "bob")
		p.AddUser(t, "olga", "left4-operators")
		uid := map[string]string{"root": "0"}
		for _, user := range []string{"bob", "olga"} {
			uid[user] = p.Run(t, "id", "-u", user)
		}
		call := func(user, object, iface, method string, args ...string) string {
			return value(p.TryAs(user, append([]string{"busctl", "call", service, object, iface, method}, args...)...).Out)
		}
		p.RunAs(t, "olga", "left4ctl", "create", "a")
		p.RunAs(t, "olga", "left4ctl", "overlay", "create", "sm")
		seen := len(p.entries(names.MessageCall))

		start := call("olga", "/me/left4", managerI, "StartInstance", "sa{sv}", "a", "0")
		p.waitJob(dbus.ObjectPath(start), "done")
		call("bob", "/me/left4/instance/a", "me.left4.Instance", "Stop", "a{sv}", "0")
		call("olga", "/me/left4", managerI, "CreateInstance", "sa{sv}a{sv}", "a", "0", "0")
		call("root", "/me/left4", managerI, "UpdateOverlay", "ssa{sv}a{sv}", "sm", "", "1", "keep", "u", "2", "0")
		call("olga", "/me/left4", managerI, "CreateBlueprint", "sa{sv}a{sv}", "versus", "0", "0")
		secret := call("root", "/me/left4", managerI, "GetSecret", "ss", "a", "rcon_password")
		call("bob", "/me/left4", managerI, "StartInstance", "sa{sv}", "none", "0")
		call("root", "/me/left4", managerI, "CancelJob", "ua{sv}", strconv.Itoa(number(dbus.ObjectPath(start))), "0")
		// Looks, and what is no call of ours, are none.
		call("bob", "/me/left4", managerI, "ListInstances", "a{sv}", "0")
		call("olga", "/me/left4/instance/a", "me.left4.Instance", "GetConfig")
		call("bob", "/me/left4", managerI, "StartInstance", "s", "a")

		const instance = "me.left4.instance."
		id := strconv.Itoa(number(dbus.ObjectPath(start)))
		got := p.entries(names.MessageCall)[seen:]
		want := []map[string]string{
			{"METHOD": "StartInstance", "ACTION": instance + "start", "RESULT": "allowed", "CALLER": "olga", "CALLER_UID": uid["olga"], "INSTANCE": "a", "JOB": id},
			{"METHOD": "Stop", "ACTION": instance + "stop", "RESULT": "refused", "CALLER": "bob", "CALLER_UID": uid["bob"], "INSTANCE": "a", "ERROR": names.ErrInteractive},
			{"METHOD": "CreateInstance", "ACTION": instance + "create", "RESULT": "failed", "CALLER": "olga", "CALLER_UID": uid["olga"], "INSTANCE": "a", "ERROR": "me.left4.Error.InstanceExists"},
			{"METHOD": "UpdateOverlay", "ACTION": "me.left4.overlay.edit", "RESULT": "allowed", "CALLER": "root", "CALLER_UID": "0", "OVERLAY": "sm"},
			{"METHOD": "CreateBlueprint", "ACTION": "me.left4.blueprint.edit", "RESULT": "allowed", "CALLER": "olga", "CALLER_UID": uid["olga"], "BLUEPRINT": "versus"},
			{"METHOD": "GetSecret", "ACTION": instance + "secret", "RESULT": "allowed", "CALLER": "root", "CALLER_UID": "0", "INSTANCE": "a"},
			{"METHOD": "StartInstance", "ACTION": instance + "start", "RESULT": "failed", "CALLER": "bob", "CALLER_UID": uid["bob"], "INSTANCE": "none", "ERROR": "me.left4.Error.NoSuchInstance"},
			{"METHOD": "CancelJob", "ACTION": "me.left4.job.cancel", "RESULT": "failed", "CALLER": "root", "CALLER_UID": "0", "INSTANCE": "a", "JOB": id, "ERROR": "me.left4.Error.Busy"},
		}
		if !slices.EqualFunc(got, want, maps.Equal) {
			t.Errorf("the calls in the journal are\n%v\nwant\n%v", got, want)
		}
		// The end of the job and the states that it led to, and the game's own lines, by the same field.
		if got := p.entries(names.MessageJob, "LEFT4_INSTANCE=a"); len(got) != 1 || !maps.Equal(got[0], map[string]string{
			"JOB": id, "KIND": "start", "RESULT": "done", "CALLER": "olga", "CALLER_UID": uid["olga"], "INSTANCE": "a",
		}) {
			t.Errorf("the jobs in the journal are\n%v", got)
		}
		if got := p.entries(names.MessageState, "LEFT4_INSTANCE=a"); len(got) == 0 || got[len(got)-1]["STATE"] != "running" || got[len(got)-1]["CAUSE"] != "started by olga (job "+id+")" {
			t.Errorf("the states in the journal are\n%v", got)
		}
		p.ready(27015)
		if got := p.journal(t, "LEFT4_INSTANCE=a", "_SYSTEMD_UNIT="+unit("a")); !strings.Contains(got, "standin: ready") {
			t.Errorf("the lines of the server by LEFT4_INSTANCE= are\n%s", got)
		}
		if len(secret) < 20 || strings.Contains(p.journal(t), secret) {
			t.Error("the journal shows a secret, or there is none")
		}

		// What others write in the name of left4d is not taken for it.
		before := p.entries(names.MessageCall)
		p.RunInput(t, strings.NewReader(strings.Join([]string{
			"MESSAGE=StopInstance a by root: allowed", "MESSAGE_ID=" + names.MessageCall, "SYSLOG_IDENTIFIER=left4d", "UNIT=left4d.service", "OBJECT_SYSTEMD_UNIT=left4d.service",
			"_SYSTEMD_UNIT=left4d.service", "_UID=0", "LEFT4_METHOD=StopInstance", "LEFT4_RESULT=allowed", "LEFT4_CALLER=root", "LEFT4_CALLER_UID=0", "LEFT4_INSTANCE=a",
		}, "\n")+"\n"), asUser("bob", []string{"logger", "--journald"})...)
		if after := p.entries(names.MessageCall); !slices.EqualFunc(after, before, maps.Equal) {
			t.Errorf("the forged entry is taken for one of left4d:\n%v", after)
		}
		if r := p.Try("left4ctl", "audit", "a", "--json"); r.Code != 0 || !strings.Contains(r.Out, `"StartInstance"`) || strings.Contains(r.Out, `"StopInstance"`) {
			t.Errorf("left4ctl audit: %+v", r)
		}
		if p.Run(t, "journalctl", "--output=json", "MESSAGE_ID="+names.MessageCall, "_UID="+uid["bob"]) == "" {
			t.Error("the journal did not take what was forged")
		}
	})
}
