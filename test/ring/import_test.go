package ring

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/standin/gametree"
)

func TestAHostileArchiveIsRefusedByName(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		for name, c := range map[string]struct{ script, want string }{
			"cut off":    {`tar -C /root/game -c . | head -c 100000 >x.tar`, "cut off"},
			"no tar":     {`head -c 100000 /dev/urandom >x.tar`, "tar"},
			"empty":      {`: >x.tar`, "empty"},
			"no game":    {`mkdir d; touch d/f; tar -C d -cf x.tar f`, "srcds_run"},
			"device":     {`mkdir d; mknod d/dev c 1 3; tar -C d -cf x.tar dev`, `dev`},
			"fifo":       {`mkdir d; mkfifo d/pipe; tar -C d -cf x.tar pipe`, `pipe`},
			"setuid":     {`mkdir d; touch d/su; chmod 4755 d/su; tar -C d -cf x.tar su`, `su`},
			"absolute":   {`touch /root/abs; tar -Pcf x.tar /root/abs`, `/root/abs`},
			"dots":       {`mkdir -p d/e; touch f; tar -C d/e -Pcf x.tar ../../f`, `../../f`},
			"link out":   {`mkdir d; ln -s ../../etc d/out; tar -C d -cf x.tar out`, `out`},
			"link abs":   {`mkdir d; ln -s /etc d/abs; tar -C d -cf x.tar abs`, `abs`},
			"link chain": {`mkdir -p d/a/b; cp /root/game/srcds_run d/; ln -s ../.. d/a/b/up; ln -s b/up/.. d/a/chain; tar -C d -cf x.tar .`, `chain`},
		} {
			p.Run(t, "sh", "-ec", "rm -rf /root/w; mkdir /root/w; cd /root/w; "+c.script)
			r := p.Try("left4ctl", "game", "import", "/root/w/x.tar")
			if r.Code != 1 || !strings.Contains(r.Err, c.want) {
				t.Errorf("%s: %+v", name, r)
			}
		}
		if got := p.Run(t, "ls", "-A", "/var/lib/left4/game"); got != "1" {
			t.Errorf("game/ holds %q", got)
		}
		if got := p.Run(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "left4-build-*"); got != "" {
			t.Errorf("units are left: %s", got)
		}
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
	})
}

func TestASecondGameIsUsedFromTheNextStart(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
		pid := p.pid("a")
		p.Run(t, "sh", "-ec", `cp -a /root/game /root/game2; echo two >/root/game2/left4dead2/second.txt; tar -C /root/game2 -cf - . | gzip >/root/game2.tar.gz; tar -C /root/game2 -cf - . | zstd -q >/root/game2.tar.zst`)
		p.ctl("game", "import", "/root/game2.tar.gz")
		if p.pid("a") != pid || p.get("a", "PendingRestart") != "true" || p.exists("/var/lib/left4/runtime/a/merged/left4dead2/second.txt") {
			t.Errorf("pid %d → %d, pending %s", pid, p.pid("a"), p.get("a", "PendingRestart"))
		}
		p.ctl("restart", "a")
		p.ready(27015)
		if !p.exists("/var/lib/left4/runtime/a/merged/left4dead2/second.txt") || p.get("a", "PendingRestart") != "false" {
			t.Errorf("the second game is not used; pending %s", p.get("a", "PendingRestart"))
		}
		p.ctl("game", "import", "/root/game2.tar.zst")
	})
}

func TestAnImportOutlivesLeft4d(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		game := t.TempDir()
		if err := gametree.Write(game, programs.standin); err != nil {
			t.Fatal(err)
		}
		archive, err := exec.Command("tar", "-C", game, "-c", ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		// The test holds the pipe open, so the import is under way for as long as it likes.
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		ended := p.Signals(t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("JobRemoved"))
		call := p.Bus(t).Object(service, "/me/left4").Call(managerI+".ImportGame", 0, dbus.UnixFD(r.Fd()), map[string]dbus.Variant{})
		r.Close()
		var job dbus.ObjectPath
		if err := call.Store(&job); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(archive[:len(archive)/2]); err != nil {
			t.Fatal(err)
		}
		p.Run(t, "systemctl", "kill", "--signal=KILL", "left4d.service")
		p.ctl("list") // activates it again, if systemd has not restarted it yet
		p.waitJob(job, "running")
		if _, err := w.Write(archive[len(archive)/2:]); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if s := ended.Wait(t, "the import's end", jobEnded("import-game")); s.Body[4] != "done" {
			t.Errorf("it ended as %v: %s", s.Body[4], p.ctl("job", "list"))
		}
		if got := p.Run(t, "ls", "-A", "/var/lib/left4/game"); got != "1\n2" {
			t.Errorf("game/ holds %q", got)
		}
		p.ctl("create", "a")
		p.ctl("start", "a")
		p.ready(27015)
	})
}
