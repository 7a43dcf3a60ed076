package ring

import (
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"left4.me/left4/test/steam"
)

// What the page's commands find in a machine that reaches nothing but itself. Whatever else a command wants of the internet fails.

// notRun are the commands that are not typed, and why.
var notRun = map[string]string{
	"apt-get update": "asks Debian's mirrors",
	"apt-get install libc6:i386 lib32gcc-s1 lib32stdc++6 libsdl2-2.0-0:i386 zlib1g:i386 ca-certificates wget": "Debian's mirrors have them; the stand-ins need no libraries, and wget is one too",
}

// watched are the commands that go on until somebody ends them, and what they must show.
var watched = map[string]string{"left4ctl logs --follow versus-1": "Started map"}

// statuses are those of commands that tell something by them.
var statuses = map[string]int{}

// downloads are what the stand-in of wget has: by URL, a shell command that prints it, run where the stand-ins are.
var downloads = map[string]string{
	"https://steamcdn-a.akamaihd.net/client/installer/steamcmd_linux.tar.gz":                "left4-steam write . && tar -C steamcmd -cz .",
	"https://mms.alliedmods.net/mmsdrop/1.12/mmsource-latest-linux":                         "echo mmsource-1.12.0-git1219-linux.tar.gz",
	"https://mms.alliedmods.net/mmsdrop/1.12/mmsource-1.12.0-git1219-linux.tar.gz":          "mkdir -p mm/addons/metamod/bin; echo '\"Plugin\" { }' >mm/addons/metamod.vdf; echo mm >mm/addons/metamod/bin/server.so; tar -C mm -cz addons",
	"https://sm.alliedmods.net/smdrop/1.12/sourcemod-latest-linux":                          "echo sourcemod-1.12.0-git7221-linux.tar.gz",
	"https://sm.alliedmods.net/smdrop/1.12/sourcemod-1.12.0-git7221-linux.tar.gz":           "mkdir -p sm/addons/sourcemod/plugins sm/addons/sourcemod/configs sm/cfg/sourcemod; echo smx >sm/addons/sourcemod/plugins/basechat.smx; echo '// nobody' >sm/addons/sourcemod/configs/admins_simple.ini; echo '// nothing' >sm/cfg/sourcemod/sourcemod.cfg; tar -C sm -cz addons cfg",
	"https://github.com/SirPlease/L4D2-Competitive-Rework/archive/refs/heads/master.tar.gz": "d=L4D2-Competitive-Rework-master; mkdir -p $d/addons/sourcemod/plugins $d/cfg; echo smx >$d/addons/sourcemod/plugins/confogl.smx; echo 'sv_tags zonemod' >$d/cfg/server.cfg; tar -cz $d",
}

// The stand-in of wget. It lies with what it has where also a script's sandbox sees it.
const fakeWget = `#!/bin/sh
# wget -nv URL, wget -qO- URL
case $1 in
-nv) to=$(basename "$2") ;;
-qO-) to=/dev/stdout ;;
*) echo "wget: $1?" >&2; exit 2 ;;
esac
file=/usr/local/share/wget/$(echo "$2" | tr / _)
[ -f "$file" ] || { echo "wget: cannot resolve the host of $2" >&2; exit 4; }
cat "$file" >"$to"
`

// blocks are the commands of a page, as a reader types them: those of its sh blocks.
func pageCommands(t *testing.T, name string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(string(text), "\n```sh\n")[1:] {
		block, _, closed := strings.Cut(block, "\n```\n")
		if !closed {
			t.Fatalf("a block does not end: %s", block)
		}
		for rest := block + "\n"; rest != ""; {
			var command string
			command, rest, _ = strings.Cut(rest, "\n")
			for strings.HasSuffix(command, `\`) {
				more, after, _ := strings.Cut(rest, "\n")
				command, rest = command+"\n"+more, after
			}
			if strings.HasSuffix(command, "<<'EOF'") {
				here, after, found := strings.Cut(rest, "\nEOF\n")
				if !found {
					t.Fatalf("no end of what %s reads", command)
				}
				command, rest = command+"\n"+here+"\nEOF", after
			}
			if strings.TrimSpace(command) != "" {
				all = append(all, command)
			}
		}
	}
	return all
}

func TestTheHowTo(t *testing.T) {
	commands := pageCommands(t, "../../docs/HOWTO.md")
	for address := range downloads {
		if !strings.Contains(strings.Join(commands, "\n"), path.Dir(address[len("https:"):])+"/") {
			t.Errorf("the page no longer downloads %s", address)
		}
	}
	for name, list := range map[string][]string{
		"not run": slices.Collect(maps.Keys(notRun)), "watched": slices.Collect(maps.Keys(watched)), "of a status": slices.Collect(maps.Keys(statuses)),
	} {
		for _, command := range list {
			if !slices.Contains(commands, command) {
				t.Errorf("the page no longer has what is %s: %s", name, command)
			}
		}
	}
	EachBare(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		s := p.prepareHowTo()
		for _, command := range commands {
			want := watched[command]
			switch {
			case notRun[command] != "":
				t.Logf("not run, %s: %s", notRun[command], command)
				continue
			case want != "":
				watcher := p.Start(t, "sh", "-c", "cd /root; exec "+command)
				watcher.Expect(t, want)
				watcher.Kill()
				continue
			}
			r := p.Try("sh", "-c", "cd /root\n"+command)
			t.Logf("%s\n%s%s", command, r.Out, r.Err)
			if r.Code != statuses[command] {
				t.Fatalf("status %d, not %d: %s", r.Code, statuses[command], command)
			}
			p.afterHowTo(s, command)
		}
		for name, level := range map[string]string{"versus-1": "c2m1_highway", "versus-2": "deadair01"} {
			log := p.untilMap(name, level)
			for _, want := range []string{"addons/metamod.vdf", "addons/dead_air.vpk", `"sv_tags" = "zonemod"`} {
				if !strings.Contains(log, want) {
					t.Errorf("%s does not tell of %s:\n%s", name, want, log)
				}
			}
		}
	})
}

// prepareHowTo puts in place what the internet would have, in a bare Debian.
func (p play) prepareHowTo() *Steam {
	p.t.Helper()
	p.BringGame(p.t, "/srv/game")
	s := p.startSteam(p.t, "/srv/game")
	s.Set(p.t, func(w *steam.World) {
		w.Game.Build = "1001"
		w.Items = map[string]steam.Item{
			"1001": {Title: "Dead Air", Updated: 1, Campaign: "deadair", Maps: []string{"deadair01", "deadair02"}},
			"1002": {Title: "Blood Woods", Updated: 1, Campaign: "bloodwoods", Maps: []string{"bw01"}},
			"1003": {Title: "Gone", Result: 9},
		}
		w.Collections = map[string][]steam.Child{"2001": {{ID: "1002"}, {ID: "1003"}}}
	})
	deb := Package(p.t)
	p.CopyIn(p.t, deb, path.Join("/root", path.Base(deb)))
	p.WriteFile(p.t, "/usr/local/bin/wget", fakeWget, 0o755)
	for address, command := range downloads {
		file := "/usr/local/share/wget/" + strings.ReplaceAll(address, "/", "_")
		p.Run(p.t, "sh", "-ec", "mkdir -p /usr/local/share/wget /srv/stand-ins; cd /srv/stand-ins; { "+command+"; } >\"$1\"", "sh", file)
	}
	return s
}

var isInstall = regexp.MustCompile(`^apt-get install \./left4_`)

// afterHowTo is what happens in the world after a command.
func (p play) afterHowTo(s *Steam, command string) {
	p.t.Helper()
	switch {
	case isInstall.MatchString(command):
		// Steam is on loopback; SteamCMD is to be found by itself.
		p.WriteFile(p.t, "/etc/left4/left4d.conf", strings.Replace(steamSettings, "SteamCMD=", "#", 1), 0o644)
	case command == "left4ctl maps versus-1":
		s.Set(p.t, func(w *steam.World) { // for the next section
			w.Game.Build = "1002"
			w.Game.Files = map[string]string{"left4dead2/scripts/vscripts/dir.nut": "// another one\n"}
		})
	}
}
