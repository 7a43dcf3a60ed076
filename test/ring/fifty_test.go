package ring

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

const fifty = 50

// room is what left4's own files take on the disk, in bytes, without what is mounted.
func (p play) room() int {
	p.t.Helper()
	out := p.Run(p.t, "du", "--summarize", "--total", "--one-file-system", "--block-size=1", "/var/lib/left4", "/etc/systemd")
	lines := strings.Split(out, "\n")
	n, err := strconv.Atoi(strings.Fields(lines[len(lines)-1])[0])
	if err != nil {
		p.t.Fatalf("du: %v\n%s", err, out)
	}
	return n
}

// createFifty creates as many instances of one blueprint.
func (p play) createFifty() (names []string) {
	p.t.Helper()
	manager := p.Bus(p.t).Object(service, "/me/left4")
	config := map[string]dbus.Variant{"blueprint": dbus.MakeVariant("versus")}
	for i := range fifty {
		name := fmt.Sprintf("s%d", i)
		names = append(names, name)
		if call := manager.Call(managerI+".CreateInstance", 0, name, config, map[string]dbus.Variant{}); call.Err != nil {
			p.t.Fatalf("cannot create %s: %v", name, call.Err)
		}
	}
	return names
}

// forAll has one job for each instance, all at once, and waits for their ends.
func (p play) forAll(names []string, method, kind string, args ...any) {
	p.t.Helper()
	ends, manager := p.jobsEnd(), p.Bus(p.t).Object(service, "/me/left4")
	for _, name := range names {
		manager.Go(managerI+"."+method, 0, nil, append([]any{name}, args...)...)
	}
	for range names {
		if s := ends.Wait(p.t, kind, jobEnded(kind)); s.Body[4] != "done" {
			p.t.Fatalf("%s %s: %s", kind, s.Body[3], s.Body[4])
		}
	}
}

func (p play) blueprintOfFifty() {
	p.t.Helper()
	p.layer("maps", map[string]string{"left4dead2/cfg/server.cfg": "sv_tags maps\n", "left4dead2/maps/extra.bsp": strings.Repeat("bsp", 1000)})
	p.ctl("blueprint", "create", "versus", "--overlay=maps:*", "--config-line=sv_cheats 0", "--arg=+map", "--arg=c1m1_hotel")
}

func TestFiftyAtOnce(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.blueprintOfFifty()
		none := map[string]dbus.Variant{}
		room, reloads := p.room(), p.reloads()
		small := func(when string) {
			t.Helper()
			n := (p.room() - room) / fifty
			t.Logf("%s: %d bytes for each instance", when, n)
			if n >= 1<<20 {
				t.Errorf("%s each instance takes %d bytes", when, n)
			}
		}
		names := p.createFifty()
		small("created")
		p.forAll(names, "InitializeInstance", "initialize", none, none)
		small("initialized")
		p.forAll(names, "StartInstance", "start", none)
		if n := p.reloads() - reloads; n != 0 {
			t.Errorf("the first starts cost %d reloads", n)
		}
		for i := range names {
			p.ready(27015 + i)
		}
		if list := p.ctl("list", "--no-legend"); strings.Count(list, "running  running") != fifty {
			t.Errorf("not all are running:\n%s", list)
		}
		if n := len(p.mounts()); n != fifty {
			t.Errorf("%d mounts", n)
		}
		small("running")
		p.forAll(names, "StopInstance", "stop", none)
		if got := p.mounts(); len(got) != 0 {
			t.Errorf("still mounted: %q", got)
		}
		small("stopped")
		if journal := p.journal(t); strings.Contains(journal, "EBUSY") || strings.Contains(journal, "busy") {
			t.Error("something was busy at the unmount")
		}
	})
}
