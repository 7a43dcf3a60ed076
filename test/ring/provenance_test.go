package ring

import (
	"reflect"
	"strings"
	"testing"
)

// Three overlays with the same files: whatever left4 says of them is what the server does.
func TestWhatIsToldIsWhatRuns(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		const cfg, addon = "left4dead2/cfg/server.cfg", "left4dead2/addons/shared.vpk"
		own := map[string]string{} // the server.cfg of each, by what it is staged as
		for _, name := range []string{"top", "mid", "low"} {
			text := "// of " + name + "; exec nothing\nsv_tags " + name + "\nz_" + name + " 1\n"
			p.layer(name, map[string]string{cfg: text, addon: name, "left4dead2/addons/" + name + ".vpk": name})
			own["server_overlay_"+p.ofOverlay(name, "Id")] = text
			if name == "low" {
				own["lowest"] = text
			}
		}
		p.ctl("blueprint", "create", "versus", "--overlay=mid:*", "--overlay=low:lowest",
			"--config-line=sv_tags blueprint", "--config-line=z_difficulty Hard // of the blueprint")
		p.ctl("create", "a", "--blueprint=versus", "--overlay=top:*", "--hostname=Top; of // all", "--config-line=sv_tags instance")

		want := strings.Join([]string{
			"exec lowest // from overlay low, revision 2",
			"exec server_overlay_" + p.ofOverlay("mid", "Id") + " // from overlay mid, revision 2",
			"exec server_overlay_" + p.ofOverlay("top", "Id") + " // from overlay top, revision 2",
			"sv_tags blueprint // from blueprint versus",
			"z_difficulty Hard // of the blueprint // from blueprint versus",
			"sv_tags instance // from instance a",
			`hostname "Top; of // all" // from instance a`,
			`rcon_password "********" // from instance a`,
		}, "\n")
		preview := p.ctl("preview", "a")
		if preview != want {
			t.Errorf("before the start the preview is\n%s\nwant\n%s", preview, want)
		}
		winners := []found{{"top", "file", false, true}, {"mid", "file", true, false}, {"low", "file", true, false}}
		if got := answer[[]found](p, "which", "a", addon); !reflect.DeepEqual(got, winners) {
			t.Errorf("before the start %s is found in %v", addon, got)
		}

		p.ctl("start", "a")
		p.ready(27015)
		if got := p.ctl("preview", "a"); got != preview {
			t.Errorf("after the start the preview is\n%s", got)
		}
		_, ran, _ := strings.Cut(p.Journal(t, unit("a")), "Executing dedicated server config file server.cfg\n")
		ran, _, _ = strings.Cut(ran, "L ") // the map begins
		if want := executed(preview, own); ran != want {
			t.Errorf("executed was\n%s\nwant\n%s", ran, want)
		}
		for name, text := range own {
			if name == "server_overlay_"+p.ofOverlay("low", "Id") {
				continue // it has another name
			}
			if got := p.ReadFile(t, "/var/lib/left4/runtime/a/merged/left4dead2/cfg/"+name+".cfg"); got != text {
				t.Errorf("%s.cfg is staged as %q", name, got)
			}
		}
		if got := p.rcon("a", 27015, "path addons/shared.vpk").Out; !strings.Contains(got, "top") {
			t.Errorf("the server reads %s as %q", addon, got)
		}
		for _, name := range []string{"top", "mid", "low", "shared"} {
			if n := strings.Count(p.Journal(t, unit("a")), `Loaded addon "addons/`+name+`.vpk"`); n != 1 {
				t.Errorf("addons/%s.vpk was loaded %d times", name, n)
			}
		}
		if got := answer[[]found](p, "which", "a", addon); !reflect.DeepEqual(got, winners) {
			t.Errorf("%s is found in %v", addon, got)
		}
		if got, want := answer[[]found](p, "which", "a", cfg), []found{
			{"upper", "file", false, true}, {"top", "file", true, false}, {"mid", "file", true, false},
			{"low", "file", true, false}, {"game", "file", true, false},
		}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s is found in %v", cfg, got)
		}
		if got, want := answer[[]conflict](p, "conflicts", "versus"), []conflict{
			{addon, []string{"mid", "low"}}, {cfg, []string{"mid", "low"}},
		}; !reflect.DeepEqual(got, want) {
			t.Errorf("conflicts of the blueprint: %v", got)
		}
		if got, want := answer[[]conflict](p, "conflicts", "--instance=a"), []conflict{
			{addon, []string{"top", "mid", "low"}}, {cfg, []string{"top", "mid", "low"}},
		}; !reflect.DeepEqual(got, want) {
			t.Errorf("conflicts of the instance: %v", got)
		}
	})
}

// executed is what a server prints that executes what a preview shows, with the other files that it names.
func executed(preview string, files map[string]string) string {
	var b strings.Builder
	var run func(text string)
	run = func(text string) {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "//") {
				continue
			}
			// Whose the line is stands behind its last comment sign.
			if i := strings.LastIndex(line, " // from "); i >= 0 {
				line = line[:i]
			}
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch {
			case name == "exec":
				b.WriteString("Executing " + value + ".cfg\n")
				run(files[value])
				continue
			case name == "rcon_password":
				value = "***PROTECTED***"
			case !strings.HasPrefix(value, `"`):
				value, _, _ = strings.Cut(value, " //")
			}
			b.WriteString(`"` + name + `" = "` + strings.Trim(value, `"`) + "\"\n")
		}
	}
	b.WriteString("Executing server.cfg\n")
	run(preview)
	return b.String()
}

func TestWhatAServerChangedIsTold(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.layer("maps", map[string]string{"left4dead2/maps/a.bsp": "a", "left4dead2/maps/b.bsp": "b", "left4dead2/logo/l.txt": "l"})
		p.ctl("create", "a", "--overlay=maps")
		p.ctl("start", "a")
		p.ready(27015)
		if got := answer[[]change](p, "diff", "a"); len(got) != 0 {
			t.Errorf("nothing was changed yet, but %v", got)
		}
		for _, command := range []string{"remove maps/a.bsp", "write maps/b.bsp mine", "write maps/c.bsp mine", "remove logo", "write logo mine"} {
			if r := p.rcon("a", 27015, "standin "+command); r.Code != 0 {
				t.Fatalf("%s: %+v", command, r)
			}
		}
		want := []change{
			{"left4dead2/logo", "replaced", 5}, {"left4dead2/maps/a.bsp", "removed", 0},
			{"left4dead2/maps/b.bsp", "changed", 5}, {"left4dead2/maps/c.bsp", "added", 5},
		}
		if got := answer[[]change](p, "diff", "a"); !reflect.DeepEqual(got, want) {
			t.Errorf("diff: %v\nwant %v", got, want)
		}
		for path, want := range map[string][]found{
			"left4dead2/maps/a.bsp": {{"upper", "whiteout", false, false}, {"maps", "file", true, false}},
			"left4dead2/maps/b.bsp": {{"upper", "file", false, true}, {"maps", "file", true, false}},
			"left4dead2/logo/l.txt": {{"maps", "file", true, false}},
			"left4dead2/maps":       {{"upper", "directory", false, true}, {"maps", "directory", false, false}, {"game", "directory", false, false}},
		} {
			if got := answer[[]found](p, "which", "a", path); !reflect.DeepEqual(got, want) {
				t.Errorf("%s is found in %v, want %v", path, got, want)
			}
		}
		if r := p.Try("left4ctl", "which", "a", "left4dead2/maps/a.bsp"); r.Code != 1 {
			t.Errorf("which of a removed file: %+v", r)
		}
		p.ctl("reset", "a")
		if got := answer[[]change](p, "diff", "a"); len(got) != 0 {
			t.Errorf("after a reset %v", got)
		}
	})
}
