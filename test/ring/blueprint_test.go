package ring

import (
	"fmt"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestABlueprintIsFollowed(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.layer("maps", map[string]string{"left4dead2/maps/extra.bsp": "extra"})
		p.ctl("blueprint", "create", "versus", "--config-line=sv_tags one", "--arg=+map", "--arg=c1m1_hotel")
		for i, name := range []string{"a", "b"} {
			p.ctl("create", name, "--blueprint=versus")
			p.ctl("start", name)
			p.ready(27015 + i)
		}
		tags := func(name string, port int, want string) {
			t.Helper()
			if got := p.rcon(name, port, "sv_tags").Out; !strings.Contains(got, `"`+want+`"`) {
				t.Errorf("sv_tags of %s: %s", name, got)
			}
		}
		tags("a", 27015, "one")
		a, b := p.pid("a"), p.pid("b")

		changes := []string{"blueprint", "configure", "versus", "--config-line=sv_tags two", "--overlay=maps", "MemoryMax=1G"}
		preview, config, limit := p.ctl("preview", "a"), p.ctl("blueprint", "show", "versus"), p.Property(t, unit("a"), "MemoryMax")
		told := p.Try(append(append([]string{"left4ctl"}, changes...), "--dry-run")...)
		dry := told.Out + told.Err
		for _, line := range []string{"config:\n- sv_tags one\n+ sv_tags two", "overlays:\n+ maps", "MemoryMax: - → 1G", "versus: would ask for a restart: a, b"} {
			if !strings.Contains(dry, line) {
				t.Errorf("--dry-run does not say %q:\n%s", line, dry)
			}
		}
		if p.ctl("preview", "a") != preview || p.ctl("blueprint", "show", "versus") != config || p.Property(t, unit("a"), "MemoryMax") != limit || p.get("a", "PendingRestart") != "false" {
			t.Error("--dry-run has changed something")
		}

		p.ctl(changes...)
		for _, name := range []string{"a", "b"} {
			if got := p.get(name, "PendingRestart"); got != "true" {
				t.Errorf("PendingRestart of %s is %s", name, got)
			}
		}
		if p.pid("a") != a || p.pid("b") != b {
			t.Error("a server was restarted")
		}
		tags("a", 27015, "one")
		p.ctl("restart", "a")
		p.ready(27015)
		tags("a", 27015, "two")
		tags("b", 27016, "one")
		if p.reads("a", "maps/extra.bsp") != "extra" || p.reads("b", "maps/extra.bsp") != "" {
			t.Error("the overlay of the blueprint is with the wrong server")
		}
		if got := p.get("a", "PendingRestart") + p.get("b", "PendingRestart"); got != "falsetrue" {
			t.Errorf("PendingRestart of a and b is %s", got)
		}

		p.refused(t, []string{"blueprint", "delete", "versus"}, "instances a, b follow it")
		p.refused(t, []string{"overlay", "delete", "maps"}, "blueprint versus")
		p.ctl("blueprint", "create", "coop", "--config-line=sv_tags coop")
		p.ctl("configure", "b", "--blueprint=coop")
		p.refused(t, []string{"blueprint", "delete", "versus"}, "instance a follows it")
		p.ctl("restart", "b")
		p.ready(27016)
		tags("b", 27016, "coop")
		p.ctl("configure", "a", "--blueprint=")
		p.ctl("blueprint", "delete", "versus")
		// What a runs with stays until its next start.
		p.refused(t, []string{"overlay", "delete", "maps"}, "instance a still runs with it")
		p.ctl("restart", "a")
		p.ready(27015)
		tags("a", 27015, "")
		p.ctl("overlay", "delete", "maps")
		if got := p.list("/var/lib/left4/overlays"); len(got) != 0 {
			t.Errorf("overlays/ holds %q", got)
		}
	})
}

// The kernel stacks 500 lower layers, and one of them is the game.
func TestABlueprintOfManyLayers(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		const most = 499
		type layer struct{ Name, Alias string }
		var layers []layer
		bus := p.Bus(t).Object(service, "/me/left4")
		none := map[string]dbus.Variant{}
		var script strings.Builder
		for i := range most + 2 {
			name := fmt.Sprintf("l%d", i)
			layers = append(layers, layer{name, ""})
			if call := bus.Call(managerI+".CreateOverlay", 0, name, "files", none, none); call.Err != nil {
				t.Fatal(call.Err)
			}
			// By hand, since so many imports take long: nothing has it mounted yet.
			fmt.Fprintf(&script, "mkdir %d/1/left4dead2; echo %s >%d/1/left4dead2/n%d.txt; echo %s >%d/1/left4dead2/all.txt\n", i+1, name, i+1, i, name, i+1)
		}
		p.RunInput(t, strings.NewReader("cd /var/lib/left4/overlays\n"+script.String()), "sh", "-e")
		for _, n := range []int{most + 2, most + 1} {
			call := bus.Call(managerI+".CreateBlueprint", 0, "many", map[string]dbus.Variant{"overlays": dbus.MakeVariant(layers[:n])}, none)
			if err, ok := call.Err.(dbus.Error); !ok || err.Name != "me.left4.Error.InvalidArgument" || !strings.Contains(err.Error(), fmt.Sprintf("there are %d overlays, at most 499", n)) {
				t.Errorf("a blueprint with %d layers: %v", n, call.Err)
			}
		}
		if call := bus.Call(managerI+".CreateBlueprint", 0, "many", map[string]dbus.Variant{"overlays": dbus.MakeVariant(layers[:most])}, none); call.Err != nil {
			t.Fatal(call.Err)
		}
		// Nor together with its blueprint.
		p.refused(t, []string{"create", "b", "--blueprint=many", "--overlay=l499"}, "at most 499")
		p.ctl("create", "a", "--blueprint=many")
		p.ctl("start", "a")
		p.ready(27015)
		seen := p.Run(t, "sh", "-c", "cd /var/lib/left4/runtime/a/merged/left4dead2; ls n*.txt | wc -l; cat all.txt n498.txt")
		if seen != "499\nl0\nl498" {
			t.Errorf("seen are %q", seen)
		}
		if plan := p.Run(t, "/usr/libexec/left4/left4-overlay", "plan", "a"); !strings.Contains(plan, "overlays/499/1") || !strings.Contains(plan, "game/1") {
			t.Errorf("plan:\n%s", plan)
		}
		if got := answer[[]conflict](p, "conflicts", "many"); len(got) != 1 || len(got[0].Overlays) != most || got[0].Overlays[0] != "l0" {
			t.Errorf("conflicts: %v", got)
		}
		p.ctl("stop", "a")
		if len(p.mounts()) != 0 {
			t.Errorf("%q", p.mounts())
		}
	})
}
