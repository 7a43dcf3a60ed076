package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// reads is the content of a file as a server sees it.
func (p play) reads(name, file string) string {
	p.t.Helper()
	return strings.TrimSpace(p.Try("cat", "/proc/"+p.show(unit(name), "MainPID")+"/cwd/left4dead2/"+file).Out)
}

// Debian's own kernels mount what left4 asks for: by the new calls in trixie, by mount(2) in bookworm.
func TestDebiansKernelMountsOverlays(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		t.Logf("%s: kernel %s", p.Suite, p.Run(t, "uname", "-r"))
		for _, name := range []string{"top", "mid", "low"} {
			p.layer(name, map[string]string{"left4dead2/shared.txt": name, "left4dead2/only-" + name + ".txt": name})
		}
		p.ctl("create", "a", "--overlay=top", "--overlay=mid", "--overlay=low")
		for _, round := range []string{"first", "second"} {
			began := time.Now()
			p.ctl("start", "a")
			if answer := p.ready(27015); !strings.Contains(answer, "map=c1m1_hotel") {
				t.Errorf("%s: A2S says %s", p.Suite, answer)
			}
			p.took("the "+round+" start", began)
			for file, want := range map[string]string{"shared.txt": "top", "only-top.txt": "top", "only-low.txt": "low"} {
				p.expect("round "+round+": "+file, p.reads("a", file), want)
			}
			mounts := p.mounts()
			if len(mounts) != 1 || !strings.Contains(mounts[0], " /var/lib/left4/runtime/a/merged rw,nosuid,nodev,relatime ") {
				t.Errorf("%s: mounted: %q", p.Suite, mounts)
			}
			// What it deletes and writes is its own, and stays.
			if round == "first" {
				p.expect("only-mid.txt", p.reads("a", "only-mid.txt"), "mid")
				p.rcon("a", 27015, "standin remove only-mid.txt")
				p.rcon("a", 27015, "standin write only-low.txt written")
				p.expect("what it wrote", p.reads("a", "only-low.txt"), "written")
				p.rcon("a", 27015, "standin write only-low.txt low")
			}
			p.expect("only-mid.txt, deleted", p.reads("a", "only-mid.txt"), "")
			p.ctl("stop", "a")
			if mounts := p.mounts(); len(mounts) != 0 {
				t.Errorf("%s: mounted after a stop: %q", p.Suite, mounts)
			}
		}
		p.expect("the overlay's own file", p.ReadFile(t, p.overlayDir("low")+"/2/left4dead2/only-low.txt"), "low")

		// Many layers: the new calls take each by itself, mount(2) as many as there is room for in a page.
		manager := p.Bus(t).Object(service, "/me/left4")
		nothing := map[string]dbus.Variant{}
		const all, fewer = 300, 150
		var overlays []struct{ Name, Alias string }
		began := time.Now()
		for i := range all {
			name := fmt.Sprintf("layer%d", i)
			if err := manager.Call(managerI+".CreateOverlay", 0, name, "files", nothing, nothing).Err; err != nil {
				t.Fatalf("%s: cannot create overlay %s: %v", p.Suite, name, err)
			}
			overlays = append(overlays, struct{ Name, Alias string }{name, ""})
		}
		p.took(fmt.Sprintf("%d overlays to be created", all), began)
		p.revise("layer0", map[string]string{"left4dead2/ends.txt": "first", "left4dead2/first.txt": "first"})
		p.revise("layer149", map[string]string{"left4dead2/ends.txt": "149", "left4dead2/149.txt": "149"})
		for name, n := range map[string]int{"many": all, "fewer": fewer} {
			config := map[string]dbus.Variant{"overlays": dbus.MakeVariant(overlays[:n])}
			if err := manager.Call(managerI+".CreateInstance", 0, name, config, nothing).Err; err != nil {
				t.Fatalf("%s: cannot create %s: %v", p.Suite, name, err)
			}
		}
		start := func(name string) {
			t.Helper()
			began := time.Now()
			p.ctl("start", name)
			p.took("the start of "+name, began)
			p.expect(name+": ends.txt", p.reads(name, "ends.txt"), "first")
			p.expect(name+": 149.txt", p.reads(name, "149.txt"), "149")
		}
		start("fewer")
		if p.Suite == "bookworm" {
			r := p.Try("left4ctl", "start", "many")
			if r.Code != 1 || !strings.Contains(r.Err, "cannot start many: ") || !strings.Contains(r.Err, "301 layers need ") ||
				!strings.Contains(r.Err, " bytes of options, this kernel takes 4095; use kernel 6.8 or newer, or fewer layers") {
				t.Errorf("%s: left4ctl start many: %+v", p.Suite, r)
			}
			p.expect("the state of many", p.get("many", "State"), "failed")
			if cause := p.get("many", "Cause"); !strings.Contains(cause, "301 layers need ") {
				t.Errorf("%s: the cause is %q", p.Suite, cause)
			}
		} else {
			start("many")
		}
		p.ctl("stop", "many", "fewer")
		if mounts := p.mounts(); len(mounts) != 0 {
			t.Errorf("%s: mounted in the end: %q", p.Suite, mounts)
		}
	})
}
