package ring

import (
	"strings"
	"testing"

	"left4.me/left4/test/steam"
)

// The stand-in of Steam works in a machine without left4 as its tests say it works on the host.
func TestSteamInAMachine(t *testing.T) {
	EachBare(t, func(t *testing.T, m *Machine) {
		m.BringGame(t, "/srv/game")
		s := m.BringSteam(t, "/srv/game")
		s.Set(t, func(w *steam.World) { w.Game.Build = "1000" })
		install := func(platform string) Result {
			return m.Try(steamCMD, "+@sSteamCmdForcePlatformType", platform, "+force_install_dir", "/srv/installed",
				"+login", "anonymous", "+app_update", "222860", "validate", "+quit")
		}
		if r := install("linux"); r.Code != 8 || !strings.Contains(r.Out, "ERROR! Failed to install app '222860' (Invalid platform)") {
			t.Errorf("at first: %+v", r)
		}
		for _, platform := range []string{"windows", "linux"} {
			if r := install(platform); r.Code != 0 || !strings.Contains(r.Out, "Success! App '222860' fully installed.") {
				t.Errorf("%s: %+v", platform, r)
			}
		}
		m.Run(t, "diff", "-r", "--exclude=steamapps", "--exclude=.steam", "--exclude=addons", "/srv/game", "/srv/installed")
		m.Run(t, depotDownloader, "-app", "222860", "-os", "linux", "-dir", "/srv/fetched")
		m.Run(t, "diff", "-r", "--exclude=steamapps", "--exclude=.DepotDownloader", "/srv/installed", "/srv/fetched")
		if r := s.Requests(t, true); r.Count("steamcmd") != 3 || r.Count("depotdownloader") != 1 || r.Count("depot") == 0 {
			t.Errorf("%s", r)
		}
	})
}
