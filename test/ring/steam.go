package ring

import (
	"encoding/json"
	"runtime"
	"strings"

	"left4.me/left4/test/steam"
)

// Steam is the stand-in of Steam in a machine: its server on the machine's loopback interface, SteamCMD and DepotDownloader.
type Steam struct {
	m     *Machine
	world steam.World
}

// Where the programs of Steam are, as an administrator would have unpacked them.
const (
	steamCMD        = "/opt/steamcmd/steamcmd.sh"
	depotDownloader = "/opt/DepotDownloader"
)

// steamSettings is a left4d.conf for it.
const steamSettings = `[Game]
SteamCMD=` + steamCMD + `
RetrySec=100ms
[Workshop]
API=` + steam.DefaultAddress + `
[Builds]
AllowPrivateNetworks=yes
`

// BringSteam puts the stand-in of Steam into a machine that has the stand-in game (Machine.BringGame) in the directory game, starts it
// with an empty world, and has left4d.conf point to it.
func (m *Machine) BringSteam(t TB, game string) *Steam {
	t.Helper()
	s := m.startSteam(t, game)
	m.Run(t, "left4-steam", "write", "/opt")
	m.WriteFile(t, "/etc/left4/left4d.conf", steamSettings, 0o644)
	return s
}

// startSteam starts the server alone.
func (m *Machine) startSteam(t TB, game string) *Steam {
	t.Helper()
	m.CopyIn(t, buildSteam(t), "/usr/local/bin/left4-steam")
	m.WriteFile(t, "/etc/systemd/system/left4-steam.service", `[Service]
Type=notify
ExecStart=left4-steam serve -tree `+game+`
`, 0o644)
	m.Run(t, "systemctl", "daemon-reload")
	m.Run(t, "systemctl", "start", "left4-steam.service")
	return &Steam{m: m}
}

// buildSteam builds it as SteamCMD is built: for 32 bits.
func buildSteam(t TB) string {
	t.Helper()
	const pkg = "left4.me/left4/test/steam/cmd/left4-steam"
	return buildOnce(t, pkg, func(out string) error {
		arch := runtime.GOARCH
		if arch == "amd64" {
			arch = "386"
		}
		return goCommandFor(arch, "build", "-buildvcs=false", "-o", out, pkg)
	})
}

// Set changes what there is. Faults begin to count anew.
func (s *Steam) Set(t TB, change func(*steam.World)) {
	t.Helper()
	change(&s.world)
	text, err := json.Marshal(s.world)
	if err != nil {
		t.Fatalf("%v", err)
	}
	s.m.RunInput(t, strings.NewReader(string(text)), "left4-steam", "world", "-")
}

// Requests are what was asked for since they were last asked for with forget.
func (s *Steam) Requests(t TB, forget bool) (r steam.Requests) {
	t.Helper()
	argv := []string{"left4-steam", "requests"}
	if forget {
		argv = append(argv, "-forget")
	}
	if err := json.Unmarshal([]byte(s.m.Run(t, argv...)), &r); err != nil {
		t.Fatalf("%v", err)
	}
	return r
}
