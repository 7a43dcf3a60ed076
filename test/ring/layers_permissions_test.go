package ring

import (
	"strings"
	"testing"
)

func TestWhoMayUseOverlaysAndBlueprints(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "bob")
		p.AddUser(t, "olga", "left4-operators")
		p.WriteFile(t, "/root/sm/left4dead2/cfg/sm.cfg", "the text\n", 0o644)
		p.ctl("overlay", "create", "sm")
		p.ctl("overlay", "import", "sm", "/root/sm")
		p.ctl("blueprint", "create", "versus", "--overlay", "sm")
		p.ctl("create", "a", "--blueprint", "versus")
		call := func(user, object, iface, method string, args ...string) Result {
			return p.TryAs(user, append([]string{"busctl", "call", service, object, "me.left4." + iface, method}, args...)...)
		}
		const root, overlay, blueprint, instance = "/me/left4", "/me/left4/overlay/sm", "/me/left4/blueprint/versus", "/me/left4/instance/a"
		type try struct {
			object, iface, method string
			args                  []string
		}
		for _, read := range []try{
			{root, "Manager", "ListOverlays", []string{"a{sv}", "0"}}, {root, "Manager", "GetOverlay", []string{"s", "sm"}},
			{root, "Manager", "ListBlueprints", []string{"a{sv}", "0"}}, {root, "Manager", "GetBlueprint", []string{"s", "versus"}},
		} {
			if r := call("bob", read.object, read.iface, read.method, read.args...); r.Code != 0 {
				t.Errorf("%s: %+v", read.method, r)
			}
		}
		inspect := []try{
			{overlay, "Overlay", "GetConfig", nil}, {overlay, "Overlay", "ListFiles", []string{"sa{sv}", "", "0"}},
			{overlay, "Overlay", "OpenFile", []string{"sa{sv}", "left4dead2/cfg/sm.cfg", "0"}},
			{blueprint, "Blueprint", "GetConfig", nil}, {blueprint, "Blueprint", "ListConflicts", []string{"a{sv}", "0"}},
			{instance, "Instance", "FindFile", []string{"s", "left4dead2/cfg/sm.cfg"}}, {instance, "Instance", "ListChanges", []string{"a{sv}", "0"}},
			{instance, "Instance", "ListConflicts", []string{"a{sv}", "0"}}, {root, "Manager", "GetSecret", []string{"ss", "a", "rcon_password"}},
		}
		change := []try{
			{root, "Manager", "CreateOverlay", []string{"ssa{sv}a{sv}", "new", "files", "0", "0"}},
			{root, "Manager", "UpdateOverlay", []string{"ssa{sv}a{sv}", "sm", "", "1", "keep", "u", "2", "0"}},
			{root, "Manager", "CreateBlueprint", []string{"sa{sv}a{sv}", "new", "0", "0"}},
			{root, "Manager", "UpdateBlueprint", []string{"sa{sv}a{sv}", "versus", "0", "0"}},
			{root, "Manager", "SetGameRevision", []string{"ua{sv}", "1", "0"}},
		}
		remove := []try{
			{root, "Manager", "DeleteBlueprint", []string{"sa{sv}", "new", "0"}}, {root, "Manager", "DeleteOverlay", []string{"sa{sv}", "new", "0"}},
		}
		for _, all := range [][]try{inspect, change, remove} {
			for _, c := range all {
				if r := call("bob", c.object, c.iface, c.method, c.args...); r.Code == 0 || !strings.Contains(r.Err, "authentication") && !strings.Contains(r.Err, "not allowed") {
					t.Errorf("bob may %s: %+v", c.method, r)
				}
			}
		}
		for _, all := range [][]try{inspect, change} {
			for _, c := range all {
				if r := call("olga", c.object, c.iface, c.method, c.args...); r.Code != 0 {
					t.Errorf("an operator may not %s: %+v", c.method, r)
				}
			}
		}
		// What she has made is hers, and she may delete that.
		for _, c := range []try{
			{root, "Manager", "DeleteBlueprint", []string{"sa{sv}", "versus", "0"}}, {root, "Manager", "DeleteOverlay", []string{"sa{sv}", "sm", "0"}},
		} {
			if r := call("olga", c.object, c.iface, c.method, c.args...); r.Code == 0 || strings.Contains(r.Err, "InUse") {
				t.Errorf("an operator may %s: %+v", c.method, r)
			}
		}
		for _, c := range remove {
			if r := call("olga", c.object, c.iface, c.method, c.args...); r.Code != 0 {
				t.Errorf("an owner may not %s: %+v", c.method, r)
			}
		}
	})
}
