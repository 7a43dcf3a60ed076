package ring

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// mission is a mission file as campaigns have it.
func mission(title string, maps ...string) string {
	var b strings.Builder
	b.WriteString("\"mission\"\r\n{\r\n\t\"Name\" \"internal\"\r\n\t\"DisplayTitle\" \"" + title + "\"\r\n\t\"modes\"\r\n\t{\r\n\t\t\"coop\"\r\n\t\t{\r\n")
	for n, name := range maps {
		b.WriteString("\t\t\t\"" + string(rune('1'+n)) + "\" { \"Map\" \"" + name + "\" }\r\n")
	}
	b.WriteString("\t\t}\r\n\t}\r\n}\r\n")
	return b.String()
}

// Which maps there are is read out of what others packed, by a worker that can do no more than that.
func TestMaps(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		vpk := addon(map[string]string{"missions/dl.txt": mission("Dead Line", "dl_1", "dl_2"), "maps/dl_1.bsp": "x", "maps/dl_2.bsp": "x", "maps/dl_extra.bsp": "x"})
		p.bringFile(vpk, "/root/deadline.vpk")
		p.ctl("overlay", "create", "deadline")
		p.ctl("overlay", "import", "deadline", "/root/deadline.vpk")
		p.layer("own", map[string]string{"left4dead2/missions/own.txt": mission("Own", "own_1"), "left4dead2/maps/own_1.bsp": "x", "left4dead2/addons/broken.vpk": "no package"})
		p.ctl("create", "a", "--overlay=own", "--overlay=deadline")

		type row struct{ Map, Campaign, Layer, File string }
		maps := func(args ...string) (all []row) { return answer[[]row](p, append([]string{"maps"}, args...)...) }
		want := []row{
			{"dl_1", "Dead Line", "deadline", "left4dead2/addons/deadline.vpk"}, {"dl_2", "Dead Line", "deadline", "left4dead2/addons/deadline.vpk"},
			{"own_1", "Own", "own", "left4dead2/missions/own.txt"}, {"dl_extra", "", "deadline", "left4dead2/addons/deadline.vpk"},
		}
		ofOverlays := func(r row) bool { return r.Layer == "game" } // the stand-in may bring maps, too
		if got := slices.DeleteFunc(maps("a"), ofOverlays); !slices.Equal(got, want) {
			t.Errorf("the instance has %v", got)
		}
		if got := maps("own"); !slices.Equal(got, want[2:3]) {
			t.Errorf("the overlay has %v", got)
		}
		if r := p.Try("left4ctl", "maps", "a"); r.Code != 0 || !strings.Contains(r.Err, "a: cannot read left4dead2/addons/broken.vpk of own: it is no VPK file") {
			t.Errorf("%+v", r)
		}
		// What runs is looked at, not what the next start would mount.
		p.ctl("start", "a")
		p.ready(27015)
		p.ctl("configure", "a", "overlays=own")
		if got := slices.DeleteFunc(maps("a"), ofOverlays); !slices.Equal(got, want) {
			t.Errorf("while it runs it has %v", got)
		}
		p.ctl("restart", "a")
		p.ready(27015)
		if got := slices.DeleteFunc(maps("a"), ofOverlays); !slices.Equal(got, want[2:3]) {
			t.Errorf("after its restart it has %v", got)
		}

		// A map that nobody brings is warned of.
		if r := p.Try("left4ctl", "configure", "a", "arguments=+map", "arguments=dl_1"); r.Code != 0 || !strings.Contains(r.Err, "a: no layer brings a map dl_1") {
			t.Errorf("%+v", r)
		}
		if r := p.Try("left4ctl", "configure", "a", "arguments=+map", "arguments=own_1"); r.Code != 0 || strings.Contains(r.Err, "no layer brings") {
			t.Errorf("%+v", r)
		}
		if got := p.ctl("__complete", "--", "configure", "a", "arguments=+map", "arguments=own"); !strings.Contains(got, "arguments=own_1\tOwn") {
			t.Errorf("completed %q", got)
		}
		// Others may not look, and are not told of what is missing.
		p.AddUser(t, "mallory")
		if r := p.TryAs("mallory", "left4ctl", "maps", "a"); r.Code != 1 || !strings.Contains(r.Err, "hint: run it with sudo") {
			t.Errorf("%+v", r)
		}

		// A package that says that it is enormous, and a mission of millions of keys.
		p.ctl("overlay", "create", "hostile")
		hostile := map[string]string{
			"left4dead2/addons/tree.vpk":     "\x34\x12\xaa\x55\x01\x00\x00\x00\xff\xff\xff\xff" + strings.Repeat("x", 1000),
			"left4dead2/missions/deep.txt":   strings.Repeat("a{", 500_000),
			"left4dead2/missions/screen.txt": mission("\x1b]52;c;aGk=\a", "x\x1b[2J", "fine"),
		}
		p.RunInput(t, bytes.NewReader(archive(hostile)), "sh", "-ec", `cat >/root/hostile.tar; left4ctl overlay import hostile /root/hostile.tar`)
		r := p.Try("left4ctl", "maps", "hostile")
		if r.Code != 0 || !strings.Contains(r.Out, "fine") || unsafe(r.Out+r.Err) || !strings.Contains(r.Err, "tree.vpk of hostile: the directory of the VPK file has more than 64 MiB") || !strings.Contains(r.Err, "blocks lie in more than 64 others") {
			t.Errorf("%+v", r)
		}
		// Missions that say as much as they can, asked for by all who may at a time: left4d stays small.
		hostile = map[string]string{}
		var long strings.Builder
		long.WriteString("mission { modes {")
		for n := range 20 {
			fmt.Fprintf(&long, "%d%s { 1 { Map %[2]s } 2 { Map second } }", n, strings.Repeat("<", 198))
		}
		long.WriteString("}}")
		for n := range 2000 {
			hostile[fmt.Sprintf("left4dead2/missions/%d.txt", n)] = long.String()
		}
		p.layer("long", hostile)
		p.forgetPeak("left4d.service")
		if r := p.Try("sh", "-c", `for n in 1 2 3 4; do left4ctl maps long --json >/dev/null 2>"/root/maps-$n" & pids="$pids $!"; done; for pid in $pids; do wait $pid || echo failed; done; cat /root/maps-*`); strings.Contains(r.Out, "failed") || !strings.Contains(r.Out, "there are more than are shown") {
			t.Errorf("%+v", r)
		}
		if peak := p.peak("left4d.service"); peak >= 64<<10 {
			t.Errorf("left4d had %d KiB", peak)
		}
		// They end a moment after they have answered.
		p.Eventually(t, "no unit of theirs is left", func() bool {
			return p.Run(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "left4-consult-*") == ""
		})
	})
}

// What reads packages can neither see nor do more than that.
func TestTheReaderOfMapsIsConfined(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.layer("own", map[string]string{"left4dead2/maps/own_1.bsp": "x"})
		p.layer("other", map[string]string{"left4dead2/maps/other_1.bsp": "x"})
		// The worker tells instead of working what it finds: a program of the same name in its place.
		p.WriteFile(t, "/usr/libexec/left4/left4-worker", `#!/bin/sh
exec 3>&1 >&2 # left4d reads until it is closed
id -un
ls /var/lib/left4 /var/lib/left4/overlays
cat /var/lib/left4/left4.db && echo read the database
touch /var/lib/left4/overlays/*/*/x /tmp/x /var/tmp/x && echo wrote
grep CapEff /proc/self/status
ls /sys/class/net
kill -0 1 && echo may send signals
`, 0o755)
		if r := p.Try("left4ctl", "maps", "own"); r.Code != 1 || !strings.Contains(r.Err, "left4-worker gave no answer; journalctl -t left4-worker may tell why") {
			t.Errorf("%+v", r)
		}
		said := p.journal(t, "SYSLOG_IDENTIFIER=left4-worker")
		for _, want := range []string{"left4", "CapEff:\t0000000000000000", "lo"} {
			if !strings.Contains(said, want) {
				t.Errorf("no %q in\n%s", want, said)
			}
		}
		for _, bad := range []string{"read the database", "wrote", "may send signals", "left4.db\n", "eth0"} {
			if strings.Contains(said, bad) {
				t.Errorf("%q in\n%s", bad, said)
			}
		}
	})
}
