package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/units"
)

// layersOf makes a directory for each layer, with these files.
func layersOf(t *testing.T, layers ...map[string]string) []string {
	t.Helper()
	var dirs []string
	for _, files := range layers {
		dir := t.TempDir()
		for name, text := range files {
			name = filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

func mapsIn(t *testing.T, most int, layers ...string) order.MapsResult {
	t.Helper()
	question, err := json.Marshal(order.Maps{Layers: layers, Most: most})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := listMaps(&worker{stdin: bytes.NewReader(question), stdout: &out}); err != nil {
		t.Fatal(err)
	}
	var r order.MapsResult
	if err := order.Read(&out, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func rows(r order.MapsResult) string {
	var b strings.Builder
	for _, m := range r.Maps {
		fmt.Fprintf(&b, "%s|%s|%s|%d|%s\n", m.Name, m.Campaign, strings.Join(m.Modes, ","), m.Layer, m.File)
	}
	for _, u := range r.Unread {
		fmt.Fprintf(&b, "!%d|%s|%s\n", u.Layer, u.File, u.Reason)
	}
	return b.String()
}

func missionText(title string, modes map[string][]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\"mission\"\r\n{ // made by a test\r\n\t\"Name\" \"internal\"\r\n\t\"DisplayTitle\" \"%s\"\r\n\t\"modes\"\r\n\t{\r\n", title)
	for _, mode := range []string{"coop", "versus", "survival"} {
		if len(modes[mode]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\t\t%q\r\n\t\t{\r\n", mode)
		for n, name := range modes[mode] {
			fmt.Fprintf(&b, "\t\t\t\"%d\" { \"Map\" \"%s\" \"DisplayName\" \"#x\" }\r\n", n+1, name)
		}
		b.WriteString("\t\t}\r\n")
	}
	b.WriteString("\t}\r\n}\r\n")
	return b.String()
}

// packageOf is a VPK file of version 1; what is named NUMBER:PATH is in the file of that number, which beside gives.
func packageOf(files map[string]string) (packed string, beside map[int]string) {
	var tree, data []byte
	beside = map[int]string{}
	names := []string{}
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, given := range names {
		text, name, archive := files[given], given, 0x7fff
		if number, rest, ok := strings.Cut(given, ":"); ok {
			name = rest
			fmt.Sscan(number, &archive)
		}
		dir, base := filepath.Split(name)
		ext := filepath.Ext(base)
		tree = append(tree, ext[1:]+"\x00"+strings.TrimSuffix(dir, "/")+"\x00"+strings.TrimSuffix(base, ext)+"\x00"...)
		tree = binary.LittleEndian.AppendUint32(tree, crc32.ChecksumIEEE([]byte(text)))
		tree = binary.LittleEndian.AppendUint16(append(tree, 0, 0), uint16(archive))
		at := len(data)
		if archive == 0x7fff {
			data = append(data, text...)
		} else {
			at = len(beside[archive])
			beside[archive] += text
		}
		tree = binary.LittleEndian.AppendUint32(tree, uint32(at))
		tree = binary.LittleEndian.AppendUint32(tree, uint32(len(text)))
		tree = append(tree, 0xff, 0xff, 0, 0)
	}
	tree = append(tree, 0)
	head := binary.LittleEndian.AppendUint32([]byte{0x34, 0x12, 0xaa, 0x55, 1, 0, 0, 0}, uint32(len(tree)))
	return string(append(append(head, tree...), data...)), beside
}

func TestMapsOfAllPlaces(t *testing.T) {
	game, beside := packageOf(map[string]string{
		"7:missions/campaign1.txt": missionText("#L4D360UI_CampaignName_C1", map[string][]string{"coop": {"c1m1_hotel", "c1m2_streets"}, "versus": {"c1m1_hotel"}}),
		"scripts/x.txt":            "x",
	})
	addon, _ := packageOf(map[string]string{
		"missions/deadline.txt": missionText("Dead Line", map[string][]string{"coop": {"dl_1", "dl_2"}, "versus": {"dl_1", "dl_2"}, "survival": {"dl_2"}}),
		"maps/dl_1.bsp":         "bsp", "maps/dl_2.bsp": "bsp", "maps/dl_bonus.bsp": "bsp", "materials/maps/x.vmt": "",
	})
	dirs := layersOf(t,
		map[string]string{"left4dead2/addons/Dead Line.VPK": addon, "left4dead2/addons/readme.txt": "x"},
		map[string]string{
			"left4dead2/missions/own.txt": missionText("Own", map[string][]string{"survival": {"Own_1"}}), "left4dead2/maps/own_1.bsp": "bsp", "left4dead2/maps/secret.bsp": "bsp",
			"left4dead2/maps/graphs/x.bsp": "bsp", "cfg/maps/no.bsp": "bsp",
		},
		map[string]string{
			"left4dead2/pak01_dir.vpk": game, "left4dead2/pak01_007.vpk": beside[7], "left4dead2/maps/c1m1_hotel.bsp": "bsp",
			"left4dead2_dlc3/missions/c8.txt": missionText("No Mercy", map[string][]string{"coop": {"c8m1_apartment"}}), "update/maps/c14m1_junkyard.bsp": "bsp",
		})
	want := `dl_1|Dead Line|coop,versus|0|left4dead2/addons/Dead Line.VPK
dl_2|Dead Line|coop,versus,survival|0|left4dead2/addons/Dead Line.VPK
c8m1_apartment|No Mercy|coop|2|left4dead2_dlc3/missions/c8.txt
Own_1|Own|survival|1|left4dead2/missions/own.txt
c1m1_hotel|internal|coop,versus|2|left4dead2/pak01_dir.vpk
c1m2_streets|internal|coop|2|left4dead2/pak01_dir.vpk
c14m1_junkyard|||2|update/maps/c14m1_junkyard.bsp
dl_bonus|||0|left4dead2/addons/Dead Line.VPK
secret|||1|left4dead2/maps/secret.bsp
`
	got := mapsIn(t, 100, dirs...)
	if rows(got) != want || got.More {
		t.Errorf("more %v, got\n%swant\n%s", got.More, rows(got), want)
	}
	if got := mapsIn(t, 2, dirs...); len(got.Maps) != 2 || !got.More {
		t.Errorf("of two there are %d, more %v", len(got.Maps), got.More)
	}
	if got := mapsIn(t, 100); len(got.Maps) != 0 || got.More {
		t.Errorf("in nothing there is %s", rows(got))
	}
}

// A layer has its files instead of those below it, or removes them.
func TestHigherLayersHideMaps(t *testing.T) {
	old, _ := packageOf(map[string]string{"missions/a.txt": missionText("Old", map[string][]string{"coop": {"old"}})})
	new, _ := packageOf(map[string]string{"missions/a.txt": missionText("New", map[string][]string{"coop": {"new"}})})
	dirs := layersOf(t,
		map[string]string{"left4dead2/addons/a.vpk": new, "left4dead2/maps/same.bsp": "", "left4dead2_dlc1/missions": "no directory"},
		map[string]string{"left4dead2/addons/a.vpk": old, "left4dead2/maps/same.bsp": "", "left4dead2/maps/gone.bsp": "", "left4dead2_dlc1/missions/x.txt": missionText("X", map[string][]string{"coop": {"x"}})})
	want := "new|New|coop|0|left4dead2/addons/a.vpk\ngone|||1|left4dead2/maps/gone.bsp\nsame|||0|left4dead2/maps/same.bsp\n"
	if got := rows(mapsIn(t, 100, dirs...)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if err := unix.Mknod(dirs[0]+"/left4dead2/maps/gone.bsp", unix.S_IFCHR, 0); err != nil {
		t.Skipf("a removed file cannot be made: %v", err)
	}
	if got := rows(mapsIn(t, 100, dirs...)); got != strings.Replace(want, "gone|||1|left4dead2/maps/gone.bsp\n", "", 1) {
		t.Errorf("a removed map is there\n%s", got)
	}
}

// What cannot be read is told, and does not keep the rest from being found. Nothing that others wrote steers a terminal.
func TestHostileMaps(t *testing.T) {
	lost, _ := packageOf(map[string]string{"3:missions/a.txt": missionText("Lost", map[string][]string{"coop": {"lost"}}), "maps/there.bsp": ""})
	odd, _ := packageOf(map[string]string{"missions/odd.txt": missionText("T\x1b[2J", map[string][]string{"coop": {"a\nb", "fine", strings.Repeat("x", 300)}})})
	dirs := layersOf(t, map[string]string{
		"left4dead2/addons/broken.vpk": "\x34\x12\xaa\x55\x01\x00\x00\x00\xff\x00\x00\x00", "left4dead2/addons/none.vpk": "text", "left4dead2/addons/lost_dir.vpk": lost,
		"left4dead2/addons/odd\n.vpk": odd, "left4dead2/missions/cut.txt": `"mission" { "DisplayTitle" "Cut" "modes" { "coop" { "1" { "Map" "first" } "2" { "Map"`,
		"left4dead2/missions/none.txt": "nothing of this kind", "left4dead2/missions/long.txt": strings.Repeat(" ", maxMission+1),
	})
	for link, target := range map[string]string{"left4dead2/addons/link.vpk": "/etc/passwd", "left4dead2/maps": "/root", "update": "left4dead2"} {
		if err := os.Symlink(target, dirs[0]+"/"+link); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(dirs[0]+"/left4dead2/addons/pipe.vpk", 0o644); err != nil {
		t.Fatal(err)
	}
	want := `first|Cut|coop|0|left4dead2/missions/cut.txt
fine|internal|coop|0|left4dead2/addons/odd\x0a.vpk
there|||0|left4dead2/addons/lost_dir.vpk
!0|left4dead2/addons/broken.vpk|the VPK file is cut off
!0|left4dead2/addons/link.vpk|"left4dead2/addons/link.vpk": a link is in the way (too many levels of symbolic links)
!0|left4dead2/addons/lost_dir.vpk|"missions/a.txt": lost_003.vpk is missing
!0|left4dead2/addons/none.vpk|it is no VPK file
!0|left4dead2/missions/cut.txt|line 1: "Map" has no value
!0|left4dead2/missions/long.txt|it has more than 1048576 bytes
!0|left4dead2/missions/none.txt|it names no mission
`
	if got := rows(mapsIn(t, 100, dirs...)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	// Many names of many maps take no more than there is room for.
	var b strings.Builder
	b.WriteString("mission { modes {")
	for mode := range 300 {
		fmt.Fprintf(&b, "m%d {", mode)
		for n := range 100 {
			fmt.Fprintf(&b, "%d{Map %d}", n, n)
		}
		b.WriteString("}")
	}
	b.WriteString("}}")
	many := map[string]string{}
	for n := range 10 {
		many[fmt.Sprintf("left4dead2/missions/%d.txt", n)] = b.String()
	}
	got := mapsIn(t, 100_000, layersOf(t, many)...)
	total := 0
	for _, m := range got.Maps {
		total += 1 + len(m.Modes)
	}
	if !got.More || total > maxMapsFound {
		t.Errorf("%d were found, more %v", total, got.More)
	}

	// Nor do long ones: all of the answer is in the memory of left4d.
	mode := strings.Repeat("<", maxMapName) // six bytes each as JSON
	b.Reset()
	b.WriteString("mission { modes {")
	for n := range 20 {
		fmt.Fprintf(&b, "%d%s { 1 { Map first } 2 { Map %s } }", n, mode[:maxMapName-2], mode)
	}
	b.WriteString("}}")
	for n := range 500 {
		many[fmt.Sprintf("left4dead2/missions/%d.txt", n)] = b.String()
	}
	for n := range maxUnread {
		many["left4dead2/addons/"+strings.Repeat("\n", 240)+fmt.Sprintf("%d.vpk", n)] = mode
	}
	question, err := json.Marshal(order.Maps{Layers: layersOf(t, many), Most: 5000})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := listMaps(&worker{stdin: bytes.NewReader(question), stdout: &out}); err != nil {
		t.Fatal(err)
	}
	got = order.MapsResult{}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || out.Len() > units.MaxAnswer || !got.More || len(got.Maps) < 20 || len(got.Unread) != maxUnread {
		t.Errorf("an answer of %d bytes: %d maps, %d unread, more %v, %v", out.Len(), len(got.Maps), len(got.Unread), got.More, err)
	}
}
