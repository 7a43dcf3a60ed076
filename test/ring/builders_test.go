package ring

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"left4.me/left4/test/report"
	"left4.me/left4/test/steam"
)

// From an empty host to a server that people can play on, by left4ctl alone, at a terminal; and what each step costs.
func TestBuilderFromAnEmptyHost(t *testing.T) {
	Each(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.BringGame(t, "/srv/game")
		s := p.BringSteam(t, "/srv/game")
		s.Set(t, func(w *steam.World) {
			w.Game = steam.Game{Build: "14982371", Pace: steam.Duration(3 * time.Millisecond), Sizes: map[string]int64{"left4dead2/pak01_001.vpk": 64 << 20}}
			w.Items, w.Collections = map[string]steam.Item{}, map[string][]steam.Child{}
			for n := range 30 {
				id := strconv.Itoa(1001 + n)
				campaign := fmt.Sprintf("campaign%02d", n)
				w.Items[id] = steam.Item{
					Title: "Campaign " + strconv.Itoa(n), Updated: 1700000000, Size: 2 << 20,
					Campaign: campaign, Maps: []string{campaign + "_m1", campaign + "_m2"},
				}
				w.Collections["2001"] = append(w.Collections["2001"], steam.Child{ID: id})
			}
			w.Items["1011"] = steam.Item{Result: 9}
			w.Items["1021"] = steam.Item{Title: "Only in a depot", Updated: 1, NoURL: true}
			w.Faults = []steam.Fault{{On: "file", Kind: "slow", Bytes: 256 << 10}}
		})
		p.Run(t, "sh", "-ec", `mkdir -p /srv/sm/addons/sourcemod/plugins /srv/sm/addons/metamod; cd /srv/sm
			echo '"Plugin" { }' >addons/metamod.vdf; head -c 32000000 /dev/urandom >addons/sourcemod/plugins/all.smx; tar -czf /srv/sourcemod.tar.gz .
			printf '%s\n' 'mkdir -p left4dead2/cfg' 'echo "sv_tags scripted" >left4dead2/cfg/server.cfg' 'echo made it' >/srv/tweaks.sh`)

		// step runs commands at a terminal, and tells what they cost. What builds must show how far it is.
		step := func(name string, bars bool, commands ...string) (out string) {
			t.Helper()
			s.Requests(t, true)
			used, begun := p.stored(), time.Now()
			for _, command := range commands {
				text, status := p.Start(t, "env", "TERM=xterm", "script", "--quiet", "--flush", "--return", "--command", "left4ctl "+command, "/dev/null").Wait(t)
				if status != 0 {
					t.Fatalf("left4ctl %s: status %d\n%s", command, status, text)
				}
				out += text
			}
			took := time.Since(begun)
			r := s.Requests(t, true)
			report.Add(t, report.Row{Table: "builders", Suite: p.Suite, Name: name, Figures: []report.Figure{
				report.Duration("took", took), report.Count("questions to the Web API", r.Count("collections", "details")),
				report.Count("runs of SteamCMD", r.Count("steamcmd")), report.Count("files fetched", r.Count("file", "depot")),
				report.Measure("fetched", float64(r.Bytes("file")+r.Bytes("depot"))/1e6, "MB"), report.Measure("more on the disk", float64(p.stored()-used)/1e6, "MB"),
			}})
			if seen := shownProgress(out); bars && len(seen) < 2 {
				t.Errorf("%s shows how far it is as %q:\n%s", name, seen, out)
			}
			return out
		}
		step("game install", true, "game install")
		// A machine that has nothing else to do unpacks it in less time than lies between two words about it.
		step("a SourceMod layer", false, "overlay create sourcemod", "overlay import sourcemod /srv/sourcemod.tar.gz --into left4dead2")
		out := step("a collection of 30 maps, 2 of them broken", true,
			"overlay create maps --type workshop --item 'https://steamcommunity.com/sharedfiles/filedetails/?id=2001'", "overlay build maps")
		for _, broken := range []string{"1011", "1021"} {
			if !strings.Contains(out, broken) {
				t.Errorf("nothing is told of item %s:\n%s", broken, out)
			}
		}
		if out := step("a script", false, "overlay create tweaks --type script --script /srv/tweaks.sh", "overlay build --follow tweaks"); !strings.Contains(out, "made it") {
			t.Errorf("the script's output is not shown:\n%s", out)
		}
		step("a blueprint, a server, and its start", false,
			"blueprint create versus --overlay 'tweaks:*' --overlay sourcemod --overlay maps",
			"create versus-1 --blueprint versus --arg +map --arg campaign07_m1", "start versus-1")

		p.ready(27015)
		log := p.untilMap("versus-1", "campaign07_m1")
		for _, want := range []string{"addons/metamod.vdf", "sv_tags"} {
			if !strings.Contains(log, want) {
				t.Errorf("the server does not tell of %s:\n%s", want, log)
			}
		}
		if got := p.Run(t, "sh", "-c", "ls /var/lib/left4/runtime/versus-1/merged/left4dead2/addons/*.vpk | wc -l"); got != "28" {
			t.Errorf("the server has %s maps of the workshop", got)
		}
		if got := p.ctl("maps", "versus-1"); !strings.Contains(got, "campaign29_m2") || strings.Contains(got, "campaign10_m1") {
			t.Errorf("left4ctl maps tells %s", got)
		}
		// Without SteamCMD's own libraries where it looks for them, the server is one for the local network.
		for name, sdk := range map[string]string{"linux32": "sdk32", "linux64": "sdk64"} {
			p.Run(t, "cmp", "/opt/steamcmd/"+name+"/steamclient.so", "/var/lib/left4/runtime/versus-1/merged/.steam/"+sdk+"/steamclient.so")
		}
		if strings.Contains(log, "LAN only") {
			t.Errorf("it is a server for the local network:\n%s", log)
		}
	})
}

// untilMap waits until a server has a map running, and returns what it has told up to there.
func (p play) untilMap(name, level string) string {
	p.t.Helper()
	follow := p.Start(p.t, "journalctl", "--follow", "--lines=all", "--output=cat", "--unit="+unit(name))
	defer follow.Kill()
	return follow.Expect(p.t, `Started map "`+level+`"`)
}

// stored is how many bytes left4 has on the disk; what has several names counts once.
func (p play) stored() int64 {
	p.t.Helper()
	n, err := strconv.ParseInt(strings.Fields(p.Run(p.t, "du", "--summarize", "--block-size=1", "--one-file-system", "/var/lib/left4"))[0], 10, 64)
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	return n
}

var bar = regexp.MustCompile(`\[(#*)(\.*)\] +(\d+)% `)

// shownProgress are the percentages that bars on a terminal have shown, without repetitions; a bar that is not as long as its number
// says is no bar.
func shownProgress(out string) (seen []string) {
	for _, m := range bar.FindAllStringSubmatch(out, -1) {
		size := len(m[1]) + len(m[2])
		if percent, err := strconv.Atoi(m[3]); err != nil || len(m[1]) > (percent+1)*size/100 {
			continue
		}
		if len(seen) == 0 || seen[len(seen)-1] != m[3] {
			seen = append(seen, m[3])
		}
	}
	return seen
}
