package ring

import (
	"strings"
	"testing"
)

// evilSteamCMD runs the stand-in's, and then what a test has written to /opt/steamcmd/deed, in the game.
const evilSteamCMD = `#!/bin/sh
"${0%/*}/steamcmd.sh" "$@"; status=$?
dir= before= here=${0%/*}
for word; do [ "$before" = +force_install_dir ] && dir=$word; before=$word; done
case "$*" in *+app_update*) [ -n "$dir" ] && cd "$dir" && . "$here/deed";; esac
exit "$status"
`

// Whatever SteamCMD leaves in the game: it is refused, or harmless, and the servers that run do not notice.
func TestAbuseInstall(t *testing.T) {
	eachSteam(t, "Tries=1\n", func(t *testing.T, p play, s *Steam) {
		p.WriteFile(t, "/opt/steamcmd/evil.sh", evilSteamCMD, 0o755)
		settings := p.Run(t, "cat", "/etc/left4/left4d.conf")
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		a := p.live("a")
		for n, c := range []struct {
			name, deed string
			refused    string // "" = it is installed
		}{
			{"a FIFO", `mkfifo left4dead2/fifo`, "neither a file nor"},
			{"a link to /etc", `ln -s /etc left4dead2/etc`, "a link to an absolute name"},
			{"a link out", `ln -s ../../../../etc left4dead2/etc`, "out of the game"},
			{"setuid", `cp /bin/true left4dead2/x; chmod 4755 left4dead2/x; [ ! -u left4dead2/x ]`, ""},
			{"names that are no text", `touch "left4dead2/a
b" "left4dead2/$(printf '\377\033[31m')"`, ""},
			{"many files", `mkdir left4dead2/many; (cd left4dead2/many; seq 1 20000 | xargs touch)`, ""},
			{"one that writes on", `setsid sh -c 'trap "" TERM HUP INT; while :; do date +%N >>left4dead2/written; done' >/dev/null 2>&1 &`, ""},
			{"another directory", `mv left4dead2 x || cp -a left4dead2 x; rm -rf left4dead2; cp -a x left4dead2; rm -rf x`, ""},
			{"a closed directory", `mkdir left4dead2/closed; touch left4dead2/closed/x; chmod 0 left4dead2/closed`, "permission denied"},
			{"a closed game", `chmod 0 .`, "permission denied"},
			{"a flood", `yes flood | head -c 20000000; head -c 20000000 /dev/zero | tr '\0' x`, ""},
			{"a deep tree", `(i=0; while [ $i -lt 400 ]; do mkdir dddddddddd; cd dddddddddd; i=$((i+1)); done)`, ""},
			{"a home that leads out", `rm -rf "$HOME"/*; ln -s /etc "$HOME/linux32"`, ""},
			{"no game", `rm -rf left4dead2 srcds_run`, "there is no"},
		} {
			p.WriteFile(t, "/opt/steamcmd/deed", c.deed+"\n", 0o644)
			p.WriteFile(t, "/etc/left4/left4d.conf", strings.Replace(settings, steamCMD, "/opt/steamcmd/evil.sh", 1), 0o644)
			s.release(t, n+2)
			got := p.Try("left4ctl", "game", "update")
			if done := got.Code == 0; done != (c.refused == "") || !strings.Contains(got.Err, c.refused) {
				t.Errorf("%s: %s", c.name, got.Err)
			}
			a.untouched(t, c.name, "a")
			p.noWorker(t, c.name)
			now := p.ofManager("GameRevision")
			before := p.revisionPrint(now)
			p.ctl("create", "b")
			p.ctl("start", "b")
			p.ready(27016)
			p.ctl("delete", "b")
			if p.revisionPrint(now) != before {
				t.Errorf("%s: revision %s changes", c.name, now)
			}
			// There is a way on from there.
			p.WriteFile(t, "/etc/left4/left4d.conf", settings, 0o644)
			p.ctl("game", "validate")
		}
	})
}
